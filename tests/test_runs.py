"""Opening a run: what it finds, what it writes, what it refuses; what every number is called by."""

import json

import pytest
import yaml

from covidlib import runs
from covidlib.errors import DataError
from covidlib.files import checksum, read_json, write_json
from covidlib.runs import commit, data_name, machine, open_run, versions, write_manifest


def test_a_run_knows_its_cases_folds_and_folders(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path / "run")
    assert run.cases == ("tiny_0", "tiny_1", "tiny_2", "tiny_3") and len(run.folds) == 2
    assert run.fold_folder(1) == tmp_path / "run" / "fold_1"
    assert run.prediction(1, "tiny_0") == tmp_path / "run" / "fold_1" / "predictions" / "tiny_0.nii.gz"
    assert run.case("tiny_2").id == "tiny_2" and run.case("tiny_2").orientation == "LPS"
    for number in (-1, 2):
        with pytest.raises(DataError, match=f"fold {number}: no such fold; allowed: 0 to 1"):
            run.fold_folder(number)


def test_the_folds_and_the_profile_are_written_down(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path, {"seed": 5})
    written = read_json(tmp_path / "run.json")
    assert written["profile"] == json.loads(json.dumps(run.profile.as_dict())) and written["profile"]["seed"] == 5
    assert [tuple(fold["test"]) for fold in written["folds"]] == [fold.test for fold in run.folds]


def test_opening_again_leaves_the_file_alone_and_another_profile_writes_it_anew(tiny_yaml, tiny_folder, tmp_path):
    open_run(tiny_yaml, tiny_folder, tmp_path)
    before = (tmp_path / "run.json").stat().st_ino
    open_run(tiny_yaml, tiny_folder, tmp_path)
    assert (tmp_path / "run.json").stat().st_ino == before
    open_run(tiny_yaml, tiny_folder, tmp_path, {"seed": 1})
    assert read_json(tmp_path / "run.json")["profile"]["seed"] == 1


def test_cases_are_prepared_once_into_the_run(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path)
    volumes = run.prepared(["tiny_1", "tiny_0"])
    assert [volume.id for volume in volumes] == ["tiny_1", "tiny_0"] and volumes[0].image.shape == (24, 24, 12)
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == ["tiny_0.npz", "tiny_1.npz"]


def test_the_intensity_of_a_case_can_be_set_in_the_profile(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path, {"data.intensity": {"tiny_0": "grey"}})
    assert (run.case("tiny_0").intensity, run.case("tiny_1").intensity) == ("grey", "hu")
    assert run.prepared(["tiny_0"])[0].image.shape == (24, 24, 12)


def test_an_intensity_for_a_case_that_is_not_there_is_an_error(tiny_yaml, tiny_folder, tmp_path):
    """Otherwise a mistyped case name would quietly do nothing."""
    with pytest.raises(DataError, match="tiny_9"):
        open_run(tiny_yaml, tiny_folder, tmp_path, {"data.intensity": {"tiny_9": "grey"}})


def test_without_data_the_message_says_how_to_come_by_some(tiny_yaml, tmp_path):
    with pytest.raises(DataError, match="profile tiny: no data folder given; .*--data DIR.* 'python -m covidlib fetch --to DIR'"):
        open_run(tiny_yaml, "", tmp_path)


def test_a_profile_of_phantoms_makes_them_on_first_use(tiny_yaml, tmp_path, monkeypatch):
    asked = []

    def make_phantoms(folder, seed, scale):
        asked.append((folder, seed, scale))
        raise DataError("made up to here")

    monkeypatch.setattr("covidlib.phantom.make_phantoms", make_phantoms)
    with pytest.raises(DataError, match="made up to here"):
        open_run(tiny_yaml, "", tmp_path, {"data.source": "phantom", "data.phantom_seed": 7, "data.phantom_scale": 0.25})
    assert asked == [(runs.ROOT / "data" / "phantom-seed7-scale0.25", 7, 0.25)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"folds.scheme": "ma"}, "tiny_0, tiny_1, tiny_2, tiny_3 not among the 20 published cases"),
        ({"folds.count": 5}, "folds.count is 5, but there are 4 patients"),
        ({"folds.number": 5}, "folds.number is not a setting"),
    ],
)
def test_folds_that_cannot_be_made_stop_before_anything_is_written(tiny_yaml, tiny_folder, tmp_path, overrides, words):
    with pytest.raises(DataError) as caught:
        open_run(tiny_yaml, tiny_folder, tmp_path / "run", overrides)
    assert words in str(caught.value) and not (tmp_path / "run").exists()


def test_images_and_masks_that_do_not_pair_are_all_named(tiny_yaml, write_case, tmp_path):
    write_case(tmp_path / "data", "case_a", labels=None)
    write_case(tmp_path / "data", "case_b", image=None)
    with pytest.raises(DataError) as caught:
        open_run(tiny_yaml, tmp_path / "data", tmp_path / "run")
    assert [line[:7] for line in str(caught.value).splitlines()] == ["case_a:", "case_b:"]


def test_an_untrained_fold_has_no_prediction_and_says_what_to_do(tiny_yaml, tiny_folder, tmp_path):
    with pytest.raises(DataError, match="tiny_0: no tiny_0.nii.gz of fold 1; run .* fold = 1"):
        open_run(tiny_yaml, tiny_folder, tmp_path).predicted_labels(1, "tiny_0")


def test_the_manifest_says_what_made_the_numbers(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path)
    write_json(run.fold_folder(1) / "fold.json", {"minutes": 2.5})
    manifest = write_manifest(run, [1])
    assert manifest == read_json(tmp_path / "manifest.json")
    assert manifest["folds"] == {"1": {"minutes": 2.5}} and manifest["seed"] == 0
    assert set(manifest["checksums"]) == {f"tiny_{n}.nii.gz" for n in range(4)}
    path = tiny_folder / runs.IMAGES / "tiny_0.nii.gz"
    assert manifest["checksums"]["tiny_0.nii.gz"] == checksum(path)
    assert manifest["machine"] == machine() and manifest["versions"] == versions()
    assert {"python", "keras", "numpy"} <= set(manifest["versions"])


@pytest.mark.parametrize(
    ("file", "name"),
    [("phantom.json", "phantoms (synthetic chests)"), ("manifest.csv", "8-bit surrogate of COVID-19-CT-Seg"), (None, "my_scans")],
)
def test_what_the_numbers_are_called(tiny_yaml, write_case, tmp_path, file, name):
    for number in range(2):
        write_case(tmp_path / "my_scans", f"case_{number}")
    if file:
        (tmp_path / "my_scans" / file).write_text("{}")
    assert data_name(open_run(tiny_yaml, tmp_path / "my_scans", tmp_path / "run")) == name


def test_no_absolute_path_of_this_machine_is_written(tiny_yaml, tiny_folder, tmp_path):
    """A run's folder can be handed to others."""
    write_manifest(open_run(tiny_yaml, tiny_folder, tmp_path), [])
    for name in ("run.json", "manifest.json"):
        assert str(tiny_folder) not in (tmp_path / name).read_text() and str(tmp_path) not in (tmp_path / name).read_text()


def test_the_commit_is_that_of_the_checkout_and_nothing_outside_of_one(tmp_path, monkeypatch):
    assert commit() is None or len(commit().rstrip("+")) == 40
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None


def test_memory_is_that_of_the_container_where_it_may_use_less(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CONTAINER", tmp_path / "memory.max")
    whole = runs.memory()
    for said, expected in (("1000000\n", 1e6), ("max\n", whole), (f"{10**18}\n", whole)):
        (tmp_path / "memory.max").write_text(said)
        assert runs.memory() == expected


def test_machine_and_versions_are_plain_words():
    assert " cores, " in machine() and "GiB" in machine() and "\n" not in machine()
    assert yaml.safe_load(yaml.safe_dump(versions())) == versions()
