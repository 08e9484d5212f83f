"""Prediction of anyone's scans: every way of storing a scan gives the same labels; what a batch writes, skips and refuses."""

import csv
import os
import resource
import shutil

import nibabel as nib
import numpy as np
import pytest
from variants import (
    NEARLY,
    PATIENT,
    PLAIN,
    SPACING,
    VARIANTS,
    chest,
    dice,
    predict_variant,
    seeing_weights,
    tilted,
    turned,
    write_dicom,
    write_nifti,
)

from covidlib.__main__ import main
from covidlib.errors import DataError
from covidlib.files import checksum, read_json, write_json
from covidlib.predict import SHIPPED, Predictor, _unlike_a_chest, predict_scans
from covidlib.profile import Inference, Preprocessing
from covidlib.quantification import quantify
from covidlib.runs import ROOT
from covidlib.scan import read_scan
from covidlib.viewer import view

SEEING = {"network.filters": [6, 8], "preprocessing.z_score": "fixed", "inference.mode": "volume"}


@pytest.fixture(scope="session")
def weights(tmp_path_factory, tiny_profile):
    """A run's folder whose network labels by intensity, one voxel further in x and two in y."""
    return seeing_weights(tmp_path_factory.mktemp("weights"), tiny_profile(SEEING))


@pytest.fixture(scope="session")
def predictor(weights):
    return Predictor(weights)


@pytest.fixture(scope="session")
def plain(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return predict_variant(predictor, VARIANTS[PLAIN](chest(), SPACING, folder), folder)


def test_the_network_set_by_hand_sees_what_was_drawn(plain):
    expected = np.select([chest() == -850, chest() == -550, chest() == 40], [1, 3, 2], 0)
    np.testing.assert_array_equal(plain[:-1, :-2], expected[1:, 2:])


@pytest.mark.parametrize("name", [*VARIANTS, *NEARLY])
def test_every_way_of_storing_a_scan_gives_the_same_labels(name, predictor, plain, tmp_path):
    found = predict_variant(predictor, {**VARIANTS, **NEARLY}[name](chest(), SPACING, tmp_path / "in"), tmp_path)
    assert dice(found, plain) >= 0.98


@pytest.mark.parametrize("degrees", [5, 30])
def test_milliliters_of_a_tilted_scan_are_those_of_its_voxels(predictor, tmp_path, degrees):
    """The volume of a sheared voxel is the affine's determinant, whatever the lengths of its edges."""
    for source in (
        turned(chest(), SPACING, tmp_path, "LPS", tilted(degrees)),
        write_dicom(chest(), SPACING, tmp_path / "series", tilt=np.tan(np.radians(degrees))),
    ):
        result = predictor(source)
        voxel_ml = abs(np.linalg.det(result.case.affine[:3, :3])) / 1000
        assert voxel_ml == pytest.approx(np.prod(SPACING) / 1000)
        assert result.quantities["lung_ml"] == pytest.approx(np.count_nonzero(result.labels) * voxel_ml)
        assert f"gantry tilt or shear of {degrees} degrees" in result.notes


def test_spacing_and_size_from_one_end_to_the_other(predictor, tmp_path):
    """The same chest at other resolutions: about as much of it marked."""
    body = np.repeat(np.repeat(chest((32, 32, 10)), 2, 0), 2, 1)
    expected = None
    for step, per_slice, millimeters in ((1, 1, 10.0), (2, 1, 10.0), (1, 20, 0.5)):  # 64 x 64 x 10, half, 0.5 mm slices
        hu = np.repeat(body[::step, ::step], per_slice, 2)
        result = predictor(hu, (5.0 * step, 5.0 * step, millimeters))
        found = result.quantities["lung_ml"]
        expected = expected or found
        assert result.labels.shape == hu.shape and abs(found - expected) < 0.1 * expected


@pytest.mark.parametrize("shape", [(64, 64, 1), (5, 4, 3), (1, 1, 2), (1024, 1024, 2)])
def test_thin_small_and_wide_volumes_give_a_result_with_a_warning(predictor, shape):
    hu = np.full(shape, 40, np.int16)
    hu[: -(-shape[0] // 2)] = -1000
    hu[0, 0, 0] = 100
    result = predictor(hu, (0.7, 0.7, 1.0))
    assert result.labels.shape == shape
    assert any("hardly anything as dark as lung" in warning for warning in result.warnings)


def test_a_head_is_predicted_with_warnings(predictor):
    body = np.where(chest() == -1000, -1000, 40).astype(np.int16)
    assert "hardly anything as dark as lung in it (0 mL): a head" in "; ".join(predictor(body, SPACING).warnings)


def test_a_part_of_the_lungs_is_predicted_with_a_warning(predictor):
    """One slice of 6 mm."""
    result = predictor(chest()[..., 12:13], SPACING)
    found = result.quantities["lung_ml"]
    assert 100 < found < 500 and f"lungs of {found:.0f} mL found: no chest, or a small part of one" in result.warnings


def test_lungs_that_reach_an_end_of_the_scan_are_said_to_be_cut_off():
    hu = chest()
    for above, below, ends in ((0, 0, "bottom and the top"), (3, 0, "bottom"), (0, 3, "top"), (3, 3, "")):
        case = read_scan(np.pad(hu, ((0, 0), (0, 0), (below, above)), constant_values=40), SPACING).case
        labels = np.isin(case.image, (-850, -550)).astype(np.uint8) + (np.arange(80) < 40)[:, None, None] * (case.image == -850)
        said = [text for text in _unlike_a_chest(case, labels, quantify(labels, SPACING), Preprocessing()) if "cut off" in text]
        assert said == ([f"lungs cut off at the {ends}: volumes and percents are of what is shown"] if ends else [])


# An ensemble, and weights that are none


def test_several_folds_are_an_ensemble_of_mean_probabilities(weights, tiny_profile, tmp_path):
    one = Predictor(weights)
    shutil.copytree(weights, tmp_path / "both")
    seeing_weights(tmp_path / "other", tiny_profile(SEEING), shift=False)
    shutil.copytree(tmp_path / "other" / "fold_0", tmp_path / "both" / "fold_1")
    each = [Predictor(folder)(chest(), SPACING) for folder in (weights, tmp_path / "other")]
    both = Predictor(tmp_path / "both")(chest(), SPACING)
    assert one.profile == tiny_profile(SEEING) and abs(each[0].probabilities - each[1].probabilities).max() > 0.1
    np.testing.assert_allclose(both.probabilities, (each[0].probabilities + each[1].probabilities) / 2, atol=1e-6)
    assert both.doubt == pytest.approx((each[0].doubt + each[1].doubt) / 2)  # each by itself, not that of their mean


def test_infection_that_the_network_itself_doubts_is_warned_of(weights, predictor, tiny_profile, tmp_path):
    shutil.copytree(weights, tmp_path / "run")
    found = predictor(chest(), SPACING)
    assert found.doubt > 0 and not any("doubt" in text for text in found.warnings)  # without a typical doubt nothing is said
    for typical, doubted in ((found.doubt / 2, False), (found.doubt / 3, True)):
        profile = tiny_profile({**SEEING, "inference.typical_doubt": typical})
        write_json(tmp_path / "run" / "run.json", {"profile": profile.as_dict()})
        warnings = Predictor(tmp_path / "run")(chest(), SPACING).warnings
        assert (f"({found.doubt:.2f}; typical is {typical:.2f}): perhaps there is none" in "; ".join(warnings)) == doubted


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", None, "no weights; expected a run's folder with run.json and fold_<k>/model.weights.h5"),
        ("fold_0/model.weights.h5", None, "no weights; expected"),
        ("fold_0/model.weights.h5", b"no HDF5", "not the weights of the network in run.json"),
        ("run.json", b"{", "holds no profile"),
        ("run.json", b"[]", "holds no profile"),
        ("run.json", b'{"profile": {"sead": 1}}', "run.json: sead is not a setting (did you mean seed?)"),
        ("run.json", b'{"profile": {}}', "not the weights of the network in run.json"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, tmp_path, file, content, words):
    shutil.copytree(weights, tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    if content is not None:
        (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        Predictor(tmp_path / "run")
    assert words in str(caught.value)


# Many scans


@pytest.fixture
def scans(tmp_path):
    """A folder with two sound scans and a broken one, and a DICOM series beside it."""
    turned(chest(), SPACING, tmp_path / "in", "LPS").rename(tmp_path / "in" / "a.nii.gz")
    turned(chest()[:, :, ::-1], SPACING, tmp_path / "in", "RAS").rename(tmp_path / "in" / "c.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes((tmp_path / "in" / "a.nii.gz").read_bytes()[:500])
    write_dicom(chest(), SPACING, tmp_path / "series")
    return [str(tmp_path / "in"), str(tmp_path / "series")]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_*")}


def test_a_batch_from_the_shell(scans, weights, tmp_path, capsys, caplog):
    before = {path: checksum(path) for path in tmp_path.rglob("*") if path.is_file()}
    call = ["predict", *scans, "--out", str(tmp_path / "out"), "--weights", str(weights), "--probabilities"]
    assert main(call) == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 failed, see errors.csv; results: ")
    out = tmp_path / "out"
    kinds = ("labels.nii.gz", "overlay.png", "probabilities.nii.gz")
    made = [f"{name}_{kind}" for name in ("a", "c", "series") for kind in kinds]
    assert sorted(path.name for path in out.iterdir()) == sorted([".lock", "errors.csv", "quantification.csv", *made])
    rows = {row["scan"]: row for row in table(out / "quantification.csv")}
    assert list(rows) == ["a", "c", "series"] and rows["a"]["infection_ml"] == rows["series"]["infection_ml"]
    (error,) = table(out / "errors.csv")
    assert error["scan"] == "b" and "b.nii.gz: not a whole NIfTI file" in error["error"]
    assert {path: checksum(path) for path in before} == before
    everything = said.out + said.err + caplog.text + "".join(path.read_text() for path in out.glob("*.csv"))
    assert PATIENT not in everything and PATIENT.encode() not in nib.load(out / "a_labels.nii.gz").header.binaryblock
    assert PATIENT.encode() not in b"".join(path.read_bytes() for path in out.glob("*.png"))

    first = times(out)
    shutil.copy(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "b.nii.gz")  # mended
    assert main(call) == 0
    assert {name: time for name, time in times(out).items() if not name.startswith("b_")} == first  # the finished stay
    assert not (out / "errors.csv").exists() and [row["scan"] for row in table(out / "quantification.csv")][-1] == "b"


def test_outputs_lie_on_the_grid_of_the_input(scans, weights, tmp_path):
    predict_scans(scans[:1], tmp_path / "out", weights, probabilities=True)
    stored, labels, shares = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("in/a", "out/a_labels", "out/a_probabilities"))
    for image in (labels, shares):
        np.testing.assert_array_equal(image.affine, stored.affine)
        assert image.shape[:3] == stored.shape and image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(shares.get_fdata().sum(3), 1, atol=0.02)
    assert (shares.get_fdata().argmax(3) == np.asanyarray(labels.dataobj)).mean() > 0.99


def test_on_slices_thicker_than_the_working_grid_probabilities_still_say_what_the_labels_say(weights, tmp_path):
    """A tiny grid of 10 x 10 x 12 mm, slices of 48: each is the mean of what lies within it, in both files."""
    hu = chest((24, 20, 24))[..., ::4]
    path = write_nifti(tmp_path / "thick.nii.gz", hu, np.diag([10.0, 10.0, 48.0, 1.0]))
    predict_scans([path], tmp_path / "out", weights, probabilities=True)
    labels, shares = (nib.load(tmp_path / f"out/thick_{name}.nii.gz") for name in ("labels", "probabilities"))
    assert (shares.get_fdata().argmax(3) == np.asanyarray(labels.dataobj)).mean() > 0.99


def test_other_weights_settings_or_file_make_a_scan_anew(scans, weights, tiny_profile, tmp_path):
    path, out = tmp_path / "in" / "a.nii.gz", tmp_path / "out"
    seen = []
    for given in (weights, seeing_weights(tmp_path / "other", tiny_profile(SEEING), shift=False), tmp_path / "other"):
        assert predict_scans([path], out, given) == []
        seen.append((out / "a_labels.nii.gz").stat().st_mtime_ns)
    assert seen[0] != seen[1] == seen[2]
    shutil.copy(tmp_path / "in" / "c.nii.gz", path)
    predict_scans([path], out, tmp_path / "other")
    assert (out / "a_labels.nii.gz").stat().st_mtime_ns != seen[2] and len(table(out / "quantification.csv")) == 1
    assert table(out / "quantification.csv")[0]["intensity"] == "hu"


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_another_file_of_a_name_that_is_there_replaces_nothing(scans, weights, tmp_path):
    predict_scans([tmp_path / "in" / "a.nii.gz"], tmp_path / "out", weights)
    before = (tmp_path / "out" / "quantification.csv").read_text()
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "in" / "a.nii.gz", tmp_path / "other")
    with pytest.raises(DataError, match="a: .*out has the result of another file of that name; give all files in one call"):
        predict_scans([tmp_path / "other" / "a.nii.gz"], tmp_path / "out", weights)
    assert (tmp_path / "out" / "quantification.csv").read_text() == before and str(tmp_path) not in before


def test_a_fold_moved_aside_has_no_say_and_settings_are_those_of_the_training(weights, tmp_path):
    run = shutil.copytree(weights, tmp_path / "run")
    (fold,) = run.glob("fold_*")
    shutil.copytree(fold, run / "fold_0.previous-0123abcd")
    assert len(Predictor(run).models) == 1
    described = read_json(run / "run.json")["profile"]
    write_json(run / "manifest.json", {"profile": described})
    assert Predictor(run).models
    shutil.copytree(fold, run / "fold_3")  # of settings that nobody knows: the last evaluation did not look at it
    write_json(run / "manifest.json", {"profile": described, "folds": {fold.name.removeprefix("fold_"): {}}})
    assert len(Predictor(run).models) == 1
    write_json(run / "run.json", {"profile": {**described, "preprocessing": {**described["preprocessing"], "z_score": "volume"}}})
    with pytest.raises(DataError, match=r"run\.json has other settings than its networks were trained with; run the"):
        Predictor(run)


def test_a_scan_that_fails_half_way_leaves_nothing(scans, weights, tmp_path, monkeypatch):
    path, out = tmp_path / "in" / "a.nii.gz", tmp_path / "out"
    predict_scans([path], out, weights, probabilities=True)
    path.touch()  # as if changed: what there is would be of another scan
    monkeypatch.setattr("covidlib.predict._save_overlay", lambda *_: (_ for _ in ()).throw(OSError(PATIENT)))
    assert predict_scans([path], out, weights) == ["a"]
    assert listed(out) == [".lock", "errors.csv"]
    (error,) = table(out / "errors.csv")
    assert error["error"] == "a: OSError; an error of the program, or of the machine (disk, memory)"
    monkeypatch.undo()
    assert predict_scans([path], out, weights) == []  # not taken for finished
    assert listed(out) == [".lock", "a_labels.nii.gz", "a_overlay.png", "quantification.csv"]


def test_a_scan_that_goes_by_another_name_now_counts_once(scans, weights, tmp_path):
    """With a second scan of its name, the folder above is part of both names."""
    out, scan, twin = tmp_path / "out", tmp_path / "in" / "a.nii.gz", tmp_path / "twin" / "a.nii.gz"
    predict_scans([scan], out, weights)
    twin.parent.mkdir()
    shutil.copy(scan, twin)
    assert predict_scans([scan, twin], out, weights) == []
    assert [row["scan"] for row in table(out / "quantification.csv")] == ["in_a", "twin_a"]
    assert not list(out.glob("a_*"))


def test_a_path_through_other_folders_is_the_same_file(scans, weights, tmp_path, monkeypatch):
    predict_scans([tmp_path / "in" / "a.nii.gz"], tmp_path / "out", weights)
    before = (tmp_path / "out" / "quantification.csv").read_bytes()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    assert predict_scans(["../in/a.nii.gz"], "../out", weights) == []
    assert (tmp_path / "out" / "quantification.csv").read_bytes() == before


def test_a_result_outlives_a_scan_that_is_out_of_reach(scans, weights, tmp_path):
    path, out = tmp_path / "in" / "a.nii.gz", tmp_path / "out"
    assert predict_scans(str(path), out, weights) == []  # one path need not be in a list
    before, made = (out / "quantification.csv").read_text(), listed(out)
    path.rename(tmp_path / "elsewhere.nii.gz")
    assert predict_scans([path], out, weights) == ["a"]
    assert (out / "quantification.csv").read_text() == before and listed(out) == sorted([*made, "errors.csv"])
    assert "No such file" in table(out / "errors.csv")[0]["error"]
    (tmp_path / "elsewhere.nii.gz").rename(path)
    assert predict_scans([path], out, weights) == [] and listed(out) == made


@pytest.mark.parametrize(
    ("most_bytes", "words", "left"),
    [
        (20000, "a: OSError, File too large; an error of", [".lock", "errors.csv"]),
        (10, "errors.csv: cannot be written", [".lock"]),
    ],
)
def test_a_full_disk(scans, weights, tmp_path, most_bytes, words, left):
    """Files may grow to so many bytes: labels, but no overlay; then not even errors.csv."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        predict_scans([tmp_path / "in" / "a.nii.gz"], tmp_path / "out", weights)
        said = table(tmp_path / "out" / "errors.csv")[0]["error"]
    except DataError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert words in said and listed(tmp_path / "out") == left


def test_what_a_killed_call_left_is_swept_up(scans, weights, tmp_path):
    out = tmp_path / "out"
    (out / ".part-x").mkdir(parents=True)
    (out / ".part-x" / "a_labels.nii.gz").write_bytes(b"half")
    (out / "a_labels.nii.gz").write_bytes(b"whole, but without its row")
    assert predict_scans([tmp_path / "in" / "a.nii.gz"], out, weights) == []
    assert listed(out) == [".lock", "a_labels.nii.gz", "a_overlay.png", "quantification.csv"]
    assert nib.load(out / "a_labels.nii.gz").shape == chest().shape


@pytest.mark.parametrize("name", ["a$\\frac{b$", "größe \"1\", =2", os.fsdecode(b"a\xff")])
def test_names_of_any_kind(scans, weights, tmp_path, name):
    path = tmp_path / "in" / f"{name}.nii.gz"
    shutil.copy(tmp_path / "in" / "a.nii.gz", path)
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert predict_scans([path], tmp_path / "out", weights) == []
    assert table(tmp_path / "out" / "quantification.csv")[0]["scan"] == shown
    path.write_bytes(b"")
    assert predict_scans([path], tmp_path / "out", weights) == [shown]
    assert "Empty file" in table(tmp_path / "out" / "errors.csv")[0]["error"]


@pytest.mark.parametrize("content", [b"foo,bar\n1,2\n", b"\xff\xfe\0"])
def test_a_table_of_something_else_is_not_touched(scans, weights, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "quantification.csv").write_bytes(content)
    with pytest.raises(DataError, match="quantification.csv: not a table with a column scan"):
        predict_scans(scans, tmp_path / "out", weights)
    assert (tmp_path / "out" / "quantification.csv").read_bytes() == content


def test_results_never_go_where_inputs_are(scans, weights):
    inside = f"{scans[0]}/a.nii.gz"
    for inputs, out in ((scans[:1], scans[0]), ([inside], scans[0]), (scans, scans[1] + "/results")):  # a series: all below
        with pytest.raises(DataError, match="is an input as well, or holds one; give another folder"):
            predict_scans(inputs, out, weights)


def test_labels_that_were_changed_by_hand_stay_beside_new_ones(scans, weights, tmp_path, caplog):
    out, edited = tmp_path / "out", tmp_path / "out" / "a_labels.nii.gz"
    for number in (1, 2):
        predict_scans(scans[:1], out, weights, None if number == 1 else "hu")
        made = edited.read_bytes()
        corrected = np.asarray(nib.load(edited).dataobj).copy()
        corrected[0, 0, 0] = number
        nib.save(nib.Nifti1Image(corrected, nib.load(edited).affine), edited)
        kept = edited.read_bytes()
        predict_scans(scans[:1], out, weights, None if number == 1 else "hu")
        assert edited.read_bytes() == kept  # finished: left as it is
        predict_scans(scans[:1], out, weights, "hu" if number == 1 else None)
        assert edited.read_bytes() == made and (out / f"a_changed{number}.nii.gz").read_bytes() == kept
        assert f"a: its labels were changed by hand; they are kept in a_changed{number}.nii.gz" in caplog.text
        edited.write_bytes(made)


def test_a_name_too_long_for_a_result_stops_no_other_scan(scans, weights, tmp_path):
    long = "x" * 240  # with .nii.gz a name that the disk takes, with _labels.nii.gz none
    shutil.copy(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / f"{long}.nii.gz")
    shutil.copy(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "z.nii.gz")
    (tmp_path / "in" / "b.nii.gz").unlink()
    assert predict_scans(tmp_path / "in", tmp_path / "out", weights) == [long]
    assert [row["scan"] for row in table(tmp_path / "out" / "quantification.csv")] == ["a", "c", "z"]
    assert "File name too long" in table(tmp_path / "out" / "errors.csv")[0]["error"]


def test_a_folder_that_was_out_of_reach_leaves_no_error_behind(scans, weights, tmp_path):
    (tmp_path / "in" / "b.nii.gz").unlink()
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    (tmp_path / "in").mkdir()  # as of a share that is not mounted: it looks like a series without a file
    assert predict_scans(scans[:1], tmp_path / "out", weights) == ["in"]
    (tmp_path / "in").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    assert predict_scans(scans[:1], tmp_path / "out", weights) == []
    assert not (tmp_path / "out" / "errors.csv").exists()


def test_what_a_spreadsheet_puts_before_a_table_and_the_default_memory_make_nothing_anew(scans, weights, tmp_path):
    scan, path = tmp_path / "in" / "a.nii.gz", tmp_path / "out" / "quantification.csv"
    predict_scans([scan], tmp_path / "out", weights)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    before = path.read_bytes()
    assert predict_scans([scan], tmp_path / "out", weights, memory_gb=Inference().memory_gb) == []
    assert path.read_bytes() == before


def test_a_file_is_no_folder_for_results(scans, weights, tmp_path):
    with pytest.raises(DataError, match=r"a.nii.gz: cannot be written to \(File exists\); give another folder"):
        predict_scans(scans[1:], tmp_path / "in" / "a.nii.gz", weights)


def test_how_much_is_to_do_is_said_first_and_the_time_left_while_it_is_done(scans, weights, tmp_path, caplog):
    caplog.set_level("INFO")
    shutil.copy(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "b.nii.gz")
    predict_scans([tmp_path / "in" / "a.nii.gz"], tmp_path / "out", weights)
    caplog.clear()
    predict_scans(scans, tmp_path / "out", weights)
    first, *each = [record.getMessage() for record in caplog.records if record.name == "covidlib"]
    assert first == "4 scans, 1 of them finished before; networks: 1"
    assert [line.split(", ")[0] for line in each] == ["1 of 3", "2 of 3", "3 of 3"]
    assert ["about 0 min left" in line for line in each] == [True, True, False]


def test_no_weights_is_said_before_anything_is_written(scans, tmp_path, capsys):
    assert main(["predict", *scans, "--out", str(tmp_path / "out"), "--weights", str(tmp_path)]) == 1
    assert "no weights; expected" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_three_lines_of_python(scans, weights, tmp_path):
    predictor = Predictor(weights)
    result = predictor(tmp_path / "in" / "a.nii.gz")
    box = view(result.case, result.labels)
    assert list(box.canvas.shape) == list(chest().shape)


LCTSC = ROOT.parent / "shared" / "data" / "lctsc-true-hu"


@pytest.mark.realdata
@pytest.mark.skipif(not LCTSC.is_dir(), reason="no real CT at ../shared/data/lctsc-true-hu")
@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no weights in covidlib/weights")
def test_a_real_scan_of_512_pixels_from_file_to_table(tmp_path):
    assert main(["predict", str(LCTSC / "images" / "lctsc_4.nii.gz"), "--out", str(tmp_path)]) == 0
    stored, labels = nib.load(LCTSC / "images" / "lctsc_4.nii.gz"), nib.load(tmp_path / "lctsc_4_labels.nii.gz")
    truth, found = np.asanyarray(nib.load(LCTSC / "lungs" / "lctsc_4.nii.gz").dataobj) > 0, np.asanyarray(labels.dataobj) > 0
    np.testing.assert_array_equal(labels.affine, stored.affine)
    assert 2 * np.count_nonzero(truth & found) / (np.count_nonzero(truth) + np.count_nonzero(found)) >= 0.93
    (row,) = table(tmp_path / "quantification.csv")
    assert row["intensity"] == "hu" and -800 < float(row["infection_mean_hu"]) < 100
    assert float(row["doubt"]) > 0.29 and "perhaps there is none" in row["warnings"]
