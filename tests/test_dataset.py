"""Orientation, spacing and intensity of a read case; every bad input named with case and file; folds."""

import gzip
import logging
import os
import random
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidlib.dataset import (
    CASES,
    IMAGES,
    MA_GROUPS,
    MASKS,
    check_folder,
    check_volume,
    detect_intensity,
    list_cases,
    load_case,
    make_folds,
    save_labels,
    to_stored_order,
)
from covidlib.errors import DataError
from covidlib.profile import Folds

CASE = "coronacases_001"
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "covid19-ct-seg-256"


def turned(affine, degrees):
    """The affine with its grid turned about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine


# ---------------------------------------------------------------------------------------------------- orientation and spacing

LPS = np.diag([-0.7, -0.7, 3.0, 1.0])
GRIDS = {  # name: affine; stored shape and marked voxel; shape and marked voxel in RAS+; spacing along RAS+ axes
    "RAS": (np.diag([0.7, 0.7, 3.0, 1.0]), (4, 3, 2), (0, 0, 0), (4, 3, 2), (0, 0, 0), (0.7, 0.7, 3)),
    "LAS": (np.diag([-0.7, 0.7, 3.0, 1.0]), (4, 3, 2), (0, 0, 0), (4, 3, 2), (3, 0, 0), (0.7, 0.7, 3)),
    "LPS": (LPS, (4, 3, 2), (0, 0, 0), (4, 3, 2), (3, 2, 0), (0.7, 0.7, 3)),
    "LPI": (np.diag([-0.7, -0.7, -3.0, 1.0]), (4, 3, 2), (0, 0, 0), (4, 3, 2), (3, 2, 1), (0.7, 0.7, 3)),
    # first stored axis runs up (S), the second to the back (P), the third to the right (R), each with a spacing of its own
    "SPR": (
        np.array([[0, 0, 0.9, 0], [0, -0.7, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]),
        (2, 3, 4), (1, 0, 3), (4, 3, 2), (3, 2, 1), (0.9, 0.7, 3),
    ),
    "LPS, turned by 20 degrees": (turned(LPS, 20), (4, 3, 2), (0, 0, 0), (4, 3, 2), (3, 2, 0), (0.7, 0.7, 3)),
}  # fmt: skip


def marked(shape, voxel):
    image, labels = np.full(shape, -1000, np.int16), np.zeros(shape, np.uint8)
    image[voxel], labels[voxel] = 77, 3
    return image, labels


@pytest.mark.parametrize("name", GRIDS)
def test_a_marked_voxel_lands_where_it_should(tmp_path, write_case, name):
    affine, stored_shape, stored_voxel, shape, voxel, spacing_mm = GRIDS[name]
    image, labels = marked(stored_shape, stored_voxel)
    case = load_case(write_case(tmp_path, CASE, image, labels, affine), CASE)
    assert case.image.shape == case.labels.shape == shape
    assert np.argwhere(case.image == 77).tolist() == np.argwhere(case.labels == 3).tolist() == [list(voxel)]
    assert case.orientation == name[:3]
    np.testing.assert_allclose(case.spacing_mm, spacing_mm, rtol=1e-6)
    assert (case.image.dtype, case.labels.dtype, case.intensity) == (np.float32, np.uint8, "hu")


@pytest.mark.parametrize("name", GRIDS)
def test_saved_labels_return_to_the_stored_grid_affine_and_header(tmp_path, write_case, name):
    affine, stored_shape, *_ = GRIDS[name]
    drawn = np.random.default_rng(0).integers(0, 4, stored_shape).astype(np.uint8)
    case = load_case(write_case(tmp_path, CASE, labels=drawn, image=marked(stored_shape, (0, 0, 0))[0], affine=affine), CASE)
    save_labels(case.labels, case, tmp_path / "out" / "labels.nii.gz")
    original, saved = nib.load(tmp_path / IMAGES / f"{CASE}.nii.gz"), nib.load(tmp_path / "out" / "labels.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), drawn)
    np.testing.assert_array_equal(saved.affine, original.affine)
    assert saved.get_data_dtype() == np.uint8
    for key in ("pixdim", "qform_code", "sform_code", "descrip", "xyzt_units", "dim"):
        np.testing.assert_array_equal(saved.header[key], original.header[key], key)


def test_the_rescale_slope_counts_for_the_image_and_not_for_saved_labels(tmp_path, write_case):
    """Stored 0, 1, 2 ... with slope 10 and intercept -1000 is -1000, -990, -980 ... HU."""
    stored = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    path = write_case(tmp_path, CASE, stored, affine=np.eye(4)) / IMAGES / f"{CASE}.nii.gz"
    path.write_bytes(patched(path.read_bytes(), 112, np.array([10, -1000], np.float32)))  # scl_slope, scl_inter
    case = load_case(tmp_path, CASE)
    assert case.intensity == "hu" and case.image[0, 0, :3].tolist() == [-1000, -990, -980]
    save_labels(case.labels, case, tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "labels.nii.gz").dataobj), case.labels)


def test_a_case_whose_spacing_and_affine_differ_is_warned_of(tmp_path, write_case, caplog):
    """Millimeters of every score and volume hang on it."""
    write_case(tmp_path, CASE, affine=np.diag([0.7, 0.7, 5, 1]), pixdim={2: 2.0})
    assert load_case(tmp_path, CASE).spacing_mm == pytest.approx((0.7, 0.7, 2))
    (said,) = caplog.messages
    assert CASE in said and "the header's spacing and its affine differ; the spacing was taken" in said


@given(st.lists(st.floats(-180, 180), min_size=3, max_size=3), st.integers(0, 10**6))
def test_any_turned_grid_there_and_back(angles, seed):
    """Whatever the affine: a permutation and flips, nothing lost, and the same way back."""
    from covidlib.dataset import Case, make_case

    affine = np.eye(4)
    for axis, angle in enumerate(angles):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        one, other = [a for a in range(3) if a != axis]
        turn = np.eye(4)
        turn[[one, one, other, other], [one, other, one, other]] = c, -s, s, c
        affine = turn @ affine
    affine = affine @ np.diag([0.7, 0.9, 3.0, 1.0])
    image = np.random.default_rng(seed).integers(-1000, 400, (3, 4, 5)).astype(np.float32)
    header = nib.Nifti1Image(image, affine).header
    case = make_case(CASE, image, affine, header, "hu")
    assert isinstance(case, Case) and sorted(np.round(case.spacing_mm, 4)) == [0.7, 0.9, 3.0]
    np.testing.assert_array_equal(to_stored_order(case.image, case), image)


# ------------------------------------------------------------------------------------------------------------------- intensity


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (-1024, 3071, "hu"), (-3024, 2000, "hu"), (-1000, 40, "hu"), (-500, 100, "hu"),
        (0, 255, "grey"), (0, 200, "grey"), (-0.4, 255.4, "grey"), (0, 32, "grey"),
        (0, 4095, None), (0, 1, None), (-1, 1, None), (-400, 300, None), (0, 300, None), (-9000, 300, None), (-1000, 65535, None),
    ],
)  # fmt: skip
def test_intensity_is_told_from_the_values(low, high, kind):
    assert detect_intensity(np.array([low, (low + high) / 2, high])) == kind


def test_intensity_can_be_overruled_per_case(tmp_path, write_case):
    stored = np.linspace(0, 4095, 120).reshape(6, 5, 4).astype(np.int16)
    write_case(tmp_path, CASE, stored)
    assert load_case(tmp_path, CASE, "grey").intensity == "grey"
    with pytest.raises(DataError, match="intensity 'HU'; allowed: hu, grey"):
        load_case(tmp_path, CASE, "HU")


# ------------------------------------------------------------------------------------------------------------------- bad input

IMAGE = np.linspace(-1000, 400, 120).reshape(6, 5, 4)
LABELS = np.zeros((6, 5, 4), np.uint8)


def with_value(array, value):
    array = array.astype(np.float32)
    array[2, 3, 1] = value
    return array


RGB = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
SHIFTED = np.diag([-1.0, -1.0, 2.0, 1.0])
SHIFTED[0, 3] = 5.0

BAD = {  # name: arguments of write_case; folder of the file to blame; words of the message
    "missing mask": ({"labels": None}, IMAGES, "no mask"),
    "extra mask": ({"image": None, "labels": LABELS}, MASKS, "mask without image"),
    "mask of another shape": ({"labels": np.zeros((6, 5, 3), np.uint8)}, MASKS, "(6, 5, 3), image shape (6, 5, 4)"),
    "mask of another affine": ({"mask_affine": SHIFTED}, MASKS, "5.0 mm off the image"),
    "mask mirrored": ({"mask_affine": np.diag([1.0, -1.0, 2.0, 1.0])}, MASKS, "mm off the image"),
    "label 4": ({"labels": with_value(LABELS, 4)}, MASKS, "labels [4.0] found; allowed: "),
    "label -1": ({"labels": with_value(LABELS, -1)}, MASKS, "labels [-1.0] found"),
    "label 1.6": ({"labels": with_value(LABELS, 1.6)}, MASKS, "labels [1.6"),
    "label 255": ({"labels": LABELS + np.uint8(255)}, MASKS, "labels [255] found"),
    "label NaN": ({"labels": with_value(LABELS, np.nan)}, MASKS, "labels [nan] found"),
    "image NaN": ({"image": with_value(IMAGE, np.nan)}, IMAGES, "1 voxels are NaN or infinite"),
    "image infinite": ({"image": with_value(IMAGE, -np.inf)}, IMAGES, "1 voxels are NaN or infinite"),
    "image 4-D": ({"image": np.stack([IMAGE] * 2, 3).astype(np.int16), "labels": LABELS}, IMAGES, "(6, 5, 4, 2)"),
    "mask 4-D": ({"labels": np.zeros((6, 5, 4, 2), np.uint8)}, MASKS, "(6, 5, 4, 2)"),
    "image 2-D": ({"image": IMAGE[0].astype(np.int16), "labels": LABELS}, IMAGES, "allowed: one 3-D volume"),
    "image RGB": ({"image": RGB, "labels": LABELS}, IMAGES, "allowed: one 3-D volume of numbers"),
    "mask RGB": ({"labels": RGB}, MASKS, "allowed: one 3-D volume of numbers"),
    "image complex": ({"image": IMAGE.astype(np.complex64), "labels": LABELS}, IMAGES, "complex64"),
    "zero spacing": ({"pixdim": {2: 0.0}}, IMAGES, "spacing [1.0, 1.0, 0.0] mm; allowed: positive"),
    "negative spacing": ({"pixdim": {0: -0.5}}, IMAGES, "spacing [-0.5, 1.0, 2.0] mm; allowed: positive"),
    "spacing NaN": ({"pixdim": {0: np.nan}}, IMAGES, "spacing [nan"),
    "spacing of a kilometre": ({"pixdim": {0: 1e6}}, IMAGES, "spacing [1000000.0"),
    "spacing of an atom": ({"pixdim": {0: 1e-7}}, IMAGES, "spacing ["),
    "constant": ({"image": np.full((6, 5, 4), -1000, np.int16)}, IMAGES, "constant, every voxel is -1000"),
    "0 to 4095": ({"image": np.linspace(0, 4095, 120).reshape(6, 5, 4).astype(np.int16)}, IMAGES, "values 0 to 4095 are neither"),
    "0 to 1": ({"image": np.linspace(0, 1, 120).reshape(6, 5, 4)}, IMAGES, "values 0 to 1 are neither"),
    "soft tissue only": ({"image": np.linspace(-100, 80, 120).reshape(6, 5, 4)}, IMAGES, "data.intensity"),
}


def check_blame(problems, case, sub, words):
    """Exactly one problem, which names case, file and what is wrong."""
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"{case}: ") and f"{Path(sub) / case}.nii" in problems[0] and words in problems[0], problems


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_with_case_and_file_and_its_neighbor_stays_sound(tmp_path, write_case, name):
    arguments, sub, words = BAD[name]
    write_case(tmp_path, "coronacases_002")
    sound, problems, notes = check_folder(write_case(tmp_path, CASE, **arguments))
    check_blame(problems, CASE, sub, words)
    assert (sound, notes) == (["coronacases_002"], [])
    with pytest.raises(DataError, match=re.escape(problems[0])):
        load_case(tmp_path, list_cases(tmp_path)[0])


def test_a_series_of_one_volume_is_a_volume(tmp_path, write_case):
    stored = IMAGE.astype(np.int16)
    whole, single = (write_case(tmp_path / str(one.ndim), CASE, one, LABELS) for one in (stored, stored[..., None]))
    np.testing.assert_array_equal(load_case(single, CASE).image, load_case(whole, CASE).image)


def test_a_scan_longer_than_any_patient_is_refused():
    """300 slices whose thickness was written in hundredths: on the working grid it would exceed all memory."""
    volume = np.broadcast_to(np.int16(0), (512, 512, 300))
    check_volume(volume, np.array([0.7, 0.7, 1.0]), np.eye(4), "a")
    with pytest.raises(DataError, match=r"a: 358 x 358 x 30000 mm; allowed: up to 2500 mm a side; correct the spacing"):
        check_volume(volume, np.array([0.7, 0.7, 100.0]), np.eye(4), "a")


BROKEN = {  # name: what becomes of the bytes of a good .nii.gz
    "truncated in the middle": lambda data: data[: len(data) // 2],
    "truncated by a byte": lambda data: data[:-1],
    "without its checksum": lambda data: data[:-8],
    "a wrong checksum": lambda data: data[:-8] + bytes(255 - byte for byte in data[-8:-4]) + data[-4:],
    "cut after the gzip header": lambda data: data[:10],
    "empty": lambda data: b"",
    "not gzip but named .nii.gz": lambda data: gzip.decompress(data),
    "an error page": lambda data: b"<html><title>404 Not Found</title></html>" * 20,
    "gzip of something else": lambda data: gzip.compress(b"hello" * 100),
    "gzip of nothing": lambda data: gzip.compress(b""),
    "voxels missing": lambda data: gzip.compress(gzip.decompress(data)[:-7]),
    "only a header": lambda data: gzip.compress(gzip.decompress(data)[:352]),
    "flipped bits": lambda data: data[:60] + bytes(255 - byte for byte in data[60:90]) + data[90:],
    "garbage behind": lambda data: data + b"garbage",
    "offset infinite": lambda data: patched(data, 108, np.float32(np.inf)),
    "more voxels than any memory": lambda data: patched(data, 42, np.array([32767, 32767, 32767], "<i2")),
    "negative shape": lambda data: patched(data, 42, np.array([-6, -5, 4], "<i2")),
    "no voxels": lambda data: patched(data, 42, np.array([0, 5, 4], "<i2")),
    "unknown data type": lambda data: patched(data, 70, np.array([77], "<i2")),
    "affine flat": lambda data: patched(data, 280, np.zeros(12, "<f4")),
    "affine NaN": lambda data: patched(data, 280, np.full(12, np.nan, "<f4")),
}


def patched(data, offset, value):
    content = bytearray(gzip.decompress(data))
    content[offset : offset + value.nbytes] = value.tobytes()
    return gzip.compress(bytes(content))


@pytest.mark.parametrize("sub", [IMAGES, MASKS])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_case_and_file(tmp_path, write_case, name, sub):
    path = write_case(tmp_path) / sub / f"{CASE}.nii.gz"
    path.write_bytes(BROKEN[name](path.read_bytes()))
    sound, problems, _ = check_folder(tmp_path)
    assert sound == []
    check_blame(problems, CASE, sub, "")


def test_a_folder_named_like_a_scan_and_a_dead_link(tmp_path, write_case):
    (write_case(tmp_path, "case_a") / MASKS / "case_a.nii.gz").unlink()
    (tmp_path / MASKS / "case_a.nii.gz").mkdir()
    (write_case(tmp_path, "case_b") / IMAGES / "case_b.nii.gz").unlink()
    (tmp_path / IMAGES / "case_b.nii.gz").symlink_to("nowhere")
    sound, problems, _ = check_folder(tmp_path)
    assert sound == [] and [problem[:7] for problem in problems] == ["case_a:", "case_b:"]


def test_a_cifti_file_is_refused(tmp_path, write_case):
    """A .nii may hold surface data (CIFTI-2), which nibabel reads as another kind of image."""
    write_case(tmp_path, CASE, ending=".nii")
    axes = nib.cifti2.ScalarAxis(["a", "b"]), nib.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3)), affine=np.eye(4))
    nib.save(nib.Cifti2Image(np.ones((2, 27), np.float32), axes), tmp_path / "a.dscalar.nii")
    os.replace(tmp_path / "a.dscalar.nii", tmp_path / IMAGES / f"{CASE}.nii")
    check_blame(check_folder(tmp_path)[1], CASE, IMAGES, "")


def test_problems_of_image_and_mask_are_told_together(tmp_path, write_case):
    write_case(tmp_path, "nan_and_4", with_value(IMAGE, np.nan), with_value(LABELS, 4))
    write_case(tmp_path, "nan_and_rgb", with_value(IMAGE, np.nan), RGB)
    write_case(tmp_path, "rgb_and_4", RGB, with_value(LABELS, 4))
    problems = check_folder(tmp_path)[1]
    for case in ("nan_and_4", "nan_and_rgb", "rgb_and_4"):
        blamed = [Path(problem.split(": ")[1]).parent.name for problem in problems if problem.startswith(f"{case}: ")]
        assert blamed == [IMAGES, MASKS], case


def test_each_problem_is_one_line(tmp_path, write_case):
    for number, name in enumerate(BROKEN):
        path = write_case(tmp_path, f"case_{number:02}") / IMAGES / f"case_{number:02}.nii.gz"
        path.write_bytes(BROKEN[name](path.read_bytes()))
    problems = check_folder(tmp_path)[1]
    assert [problem[:9] for problem in problems] == [f"case_{number:02}: "[:9] for number in range(len(BROKEN))]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: (folder / IMAGES).mkdir(parents=True)])
def test_an_empty_or_missing_folder_says_what_is_expected(tmp_path, make):
    make(tmp_path / "scans")
    with pytest.raises(DataError) as caught:
        list_cases(tmp_path / "scans")
    message = str(caught.value)
    assert str(tmp_path / "scans") in message and f"{IMAGES}/<case>.nii.gz" in message and "covidlib fetch" in message


def test_stray_files_are_ignored_with_a_note(tmp_path, write_case, caplog):
    write_case(tmp_path)
    for name in (".DS_Store", f"._{CASE}.nii.gz", "readme.txt", f"{CASE}.nii.gz.part"):
        (tmp_path / IMAGES / name).write_text("stray")
    (tmp_path / MASKS / "old").mkdir()
    sound, problems, notes = check_folder(tmp_path)
    assert (sound, problems) == ([CASE], [])
    assert len(notes) == 5 and all("ignored" in note for note in notes)
    with caplog.at_level(logging.INFO, "covidlib"):
        assert list_cases(tmp_path) == [CASE]
    assert "readme.txt: ignored" in caplog.text


def test_one_case_in_two_files_is_a_problem(tmp_path, write_case):
    """Which of them is meant cannot be known."""
    write_case(tmp_path, CASE)
    write_case(tmp_path, CASE, ending=".nii")
    sound, problems, _ = check_folder(tmp_path)
    assert sound == [] and all(CASE in problem for problem in problems)


def test_names_of_the_mirrors_are_understood(tmp_path, write_case):
    """Some mirrors name the image coronacases_org_001.nii and the mask coronacases_001.nii."""
    write_case(tmp_path, "coronacases_org_001", labels=None, ending=".nii")
    write_case(tmp_path, "coronacases_001", image=None, labels=LABELS, ending=".nii")
    assert check_folder(tmp_path) == (["coronacases_001"], [], [])


def test_a_missing_case_is_named(tmp_path, write_case):
    with pytest.raises(DataError, match="coronacases_002: no coronacases_002.nii.gz"):
        load_case(write_case(tmp_path), "coronacases_002")


def good_header():
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(IMAGE.shape)
    header.set_sform(np.diag([-1.0, -1.0, 2.0, 1.0]), 1)
    header.set_zooms((1, 1, 2))
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


HEADER, VOXELS = good_header(), IMAGE.astype("<i2").tobytes()


@pytest.fixture(scope="module")
def read_or_refuse(tmp_path_factory, write_case):
    """A function: these bytes as an image give a sound case, or an error of ours that names case and file."""
    folder = write_case(tmp_path_factory.mktemp("fuzzed"))

    def read(content):
        (folder / IMAGES / f"{CASE}.nii.gz").write_bytes(gzip.compress(content, 1))
        try:
            case = load_case(folder, CASE)
        except DataError as error:
            assert str(error).startswith(f"{CASE}: ") and f"{CASE}.nii.gz" in str(error)
        else:
            assert case.image.shape == case.labels.shape and np.isfinite(case.image).all()
            assert all(0 < spacing < 1000 for spacing in case.spacing_mm) and case.intensity in ("hu", "grey")

    return read


@pytest.fixture(scope="module", autouse=True)
def quiet_nibabel():
    """It reports what it mends in a header."""
    logger = logging.getLogger("nibabel")
    before, logger.level = logger.level, logging.CRITICAL + 1
    yield
    logger.level = before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_header_with_any_bytes_gives_a_case_or_an_error_of_ours(read_or_refuse, changes):
    """Up to four bytes of the 352 of the header are anything."""
    content = bytearray(HEADER)
    for offset, value in changes:
        content[offset] = value
    read_or_refuse(bytes(content) + VOXELS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [0.0, -1.0, 1e30, 1e-30, np.nan, np.inf, -np.inf])
def test_a_header_with_any_number_gives_a_case_or_an_error_of_ours(read_or_refuse, value):
    """pixdim, vox_offset, slope and intercept, quaternion, offsets, sform: one of them anything."""
    for offset in (*range(76, 120, 4), *range(256, 328, 4)):
        content = bytearray(HEADER)
        content[offset : offset + 4] = np.float32(value).tobytes()
        read_or_refuse(bytes(content) + VOXELS)


# ----------------------------------------------------------------------------------------------------------------------- folds


def test_the_default_folds_are_the_published_groups():
    folds = make_folds(CASES, Folds())
    assert [fold.test for fold in folds] == list(MA_GROUPS) and [fold.number for fold in folds] == [0, 1, 2, 3, 4]
    assert folds[0].test == ("coronacases_007", "coronacases_008", "radiopaedia_36_86526_0", "radiopaedia_4_85506_1")
    assert folds[4].test == ("coronacases_002", "coronacases_006", "radiopaedia_10_85902_3", "radiopaedia_29_86490_1")
    assert all(sorted(fold.train + fold.test) == list(CASES) and len(fold.train) == 16 for fold in folds)


def test_the_inverted_protocol_trains_on_the_group_and_tests_on_the_rest():
    folds = make_folds(CASES, Folds("inverted"))
    assert [fold.train for fold in folds] == list(MA_GROUPS)
    assert all(sorted(fold.train + fold.test) == list(CASES) and len(fold.test) == 16 for fold in folds)


@pytest.mark.parametrize("scheme", ["random", "grouped"])
def test_dealt_folds_test_each_case_once_and_depend_on_the_seed_only(scheme):
    shuffled = random.Random(0).sample(CASES, len(CASES))
    folds = make_folds(CASES, Folds(scheme, 5, seed=3))
    assert sorted(case for fold in folds for case in fold.test) == list(CASES)
    assert [len(fold.test) for fold in folds] == [4, 4, 4, 4, 4]
    assert all(sorted(fold.train + fold.test) == list(CASES) for fold in folds)
    assert folds == make_folds(shuffled, Folds(scheme, 5, seed=3)) != make_folds(CASES, Folds(scheme, 5, seed=4))


def together(folds):
    first, third = (next(f.number for f in folds if case in f.test) for case in CASES if "10_85902" in case)
    return first == third


def test_grouped_folds_keep_the_two_scans_of_one_patient_together_and_random_ones_need_not():
    assert all(together(make_folds(CASES, Folds("grouped", 5, seed))) for seed in range(20))
    assert not all(together(make_folds(CASES, Folds("random", 5, seed))) for seed in range(20))


def test_a_case_to_train_on_is_read_as_a_scan_to_predict_is(tmp_path):
    """Tilted by 60 degrees, slices whose corners are 10 mm apart lie at 5 mm; and what is below air is air."""
    from covidlib.scan import read_scan

    image = np.full((4, 4, 3), -800, np.int16)
    image[0, 0, 0] = -2000
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 2] = (0, 10 * np.sin(np.radians(60)), 5)
    for sub, array in ((IMAGES, image), (MASKS, np.zeros_like(image, np.uint8))):
        (tmp_path / sub).mkdir()
        nib.save(nib.Nifti1Image(array, affine), tmp_path / sub / "tilted.nii.gz")
    case, scan = load_case(tmp_path, "tilted"), read_scan(tmp_path / IMAGES / "tilted.nii.gz").case
    assert case.image.min() == -1024 and case.spacing_mm == scan.spacing_mm
    np.testing.assert_allclose(case.spacing_mm, (1, 1, 5), rtol=1e-5)
    np.testing.assert_array_equal(case.image, scan.image)


def test_padding_far_below_air_is_air_in_training_too_and_is_said(tmp_path, write_case, caplog):
    image = np.zeros((4, 5, 6), np.int16)
    image[0, 0], image[1] = -8192, -1000
    write_case(tmp_path, "coronacases_001", image)
    case = load_case(tmp_path, "coronacases_001")
    assert case.intensity == "hu" and case.image.min() == -1024 and (case.image == -1024).sum() == image.shape[2]
    assert "coronacases_001" in caplog.text and "padding of -8192 taken as air" in caplog.text


def test_grouped_folds_are_refused_for_scans_whose_patients_nobody_named():
    with pytest.raises(DataError, match="grouped: knows of radiopaedia_10_85902_1 and radiopaedia_10_85902_3 only; use random"):
        make_folds(["c", "a", "b"], Folds("grouped", 3))


def test_any_cases_and_any_count_can_be_dealt():
    folds = make_folds(["c", "a", "b"], Folds("random", 3))
    assert sorted(fold.test for fold in folds) == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("scheme", ["ma", "inverted"])
def test_ma_s_groups_need_ma_s_cases(scheme):
    with pytest.raises(DataError, match="mine not among the 20 published cases; use scheme random"):
        make_folds([*CASES, "mine"], Folds(scheme))
    with pytest.raises(DataError, match="a published group has no case"):
        make_folds(CASES[:3], Folds(scheme))
    assert make_folds([case for case in CASES if case != "coronacases_007"], Folds(scheme))


@pytest.mark.parametrize(("scheme", "cases", "patients"), [("random", CASES[:4], 4), ("grouped", CASES[8:13], 4)])
def test_more_folds_than_patients_is_an_error(scheme, cases, patients):
    with pytest.raises(DataError, match=f"folds.count is 5, but there are {patients} patients; allowed: 2 to {patients}"):
        make_folds(cases, Folds(scheme, 5))


# ------------------------------------------------------------------------------------------------------------------- real data


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no real CT at ../shared/data/covid19-ct-seg-256")
def test_all_twenty_real_cases():
    assert list_cases(REAL) == list(CASES)
    for name in CASES:
        case = load_case(REAL, name)
        left, right = (np.argwhere(case.labels == label)[:, 0].mean() for label in (1, 2))
        assert left < right, name  # x grows to the patient's right
        assert case.intensity == ("hu" if name.startswith("coronacases") else "grey"), name
        expected = {"radiopaedia_7_85703_0": "LPI"}.get(name, "LAS" if name.startswith("coronacases") else "LPS")
        assert case.orientation == expected, name
        assert case.image.shape[:2] == (256, 256) and min(case.spacing_mm) > 0.5, name
