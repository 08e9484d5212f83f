"""Phantoms: layout, sides, ranges, orientations, the case without infection; at a small scale."""

import json

import nibabel as nib
import numpy as np
import pytest

from covidlib.dataset import CASES, IMAGES, MASKS, check_folder, load_case
from covidlib.errors import DataError
from covidlib.phantom import make_phantom, make_phantoms

NEARLY_CLEAR = "radiopaedia_29_86490_1"
FEW = ("coronacases_001", "coronacases_004", "radiopaedia_7_85703_0", "radiopaedia_4_85506_1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("data") / "phantoms", cases=FEW, scale=0.25)


def test_layout_and_names_are_the_releases(folder):
    for sub in (IMAGES, MASKS):
        assert sorted(path.name for path in (folder / sub).iterdir()) == sorted(f"{case}.nii.gz" for case in FEW)
    assert json.loads((folder / "phantom.json").read_text())["cases"] == list(FEW)
    assert not list(folder.parent.glob(".part-*"))


def test_the_dataset_module_finds_nothing_to_complain_about(folder):
    assert check_folder(folder) == (sorted(FEW), [], [])


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_its_classes_on_the_right_side(case):
    image, labels, spacing_mm, intensity = make_phantom(case, scale=0.25)
    assert image.shape == labels.shape and labels.dtype == np.uint8 and len(spacing_mm) == 3
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    left, right = np.argwhere(labels == 1), np.argwhere(labels == 2)
    assert left[:, 0].max() <= right[:, 0].min() + 4  # x grows to the patient's right; a turned patient overlaps a little
    assert left[:, 0].mean() + 8 < right[:, 0].mean()
    lungs, infection = (labels > 0).sum(), (labels == 3).sum()
    if case == NEARLY_CLEAR:
        assert infection <= 2 and len(left) < len(right)  # the heart takes its room from the left lung
    else:
        assert 0.01 < infection / lungs < 0.16
    assert intensity == ("hu" if case.startswith("coronacases") else "grey")


def test_hu_are_those_of_tissue():
    image, labels, _, _ = make_phantom("coronacases_002", scale=0.5)
    assert image.dtype == np.int16 and image.min() >= -1024 and 300 < image.max() < 1500
    assert np.median(image[:, -2:]) == pytest.approx(-1000, abs=10)  # air in front of the chest
    healthy = np.median(image[(labels == 1) | (labels == 2)])
    assert -900 < healthy < -780
    assert healthy + 150 < np.median(image[labels == 3]) < 60
    assert ((image > -20) & (image < 120)).mean() > 0.15  # soft tissue


def test_lungs_are_denser_at_the_back():
    image, labels, _, _ = make_phantom("coronacases_003", scale=0.5)
    lungs = np.where((labels == 1) | (labels == 2), image.astype(float), np.nan)
    rows = np.flatnonzero(np.isfinite(lungs).sum((0, 2)) > 300)
    by_row = np.nanmedian(lungs[:, rows], axis=(0, 2))
    third = len(rows) // 3
    assert by_row[:third].mean() > by_row[-third:].mean() + 20


def test_grey_is_the_window_scaled_to_a_byte():
    image, labels, _, _ = make_phantom("radiopaedia_4_85506_1", scale=0.4)
    assert image.dtype == np.uint8 and image.max() == 255
    assert np.median(image[:, -2:]) == pytest.approx((1250 - 1000) / 1500 * 255, abs=2)
    assert (1250 - 900) / 1500 * 255 < np.median(image[(labels == 1) | (labels == 2)]) < (1250 - 760) / 1500 * 255


@pytest.mark.parametrize(("case", "codes"), list(zip(FEW, ("LAS", "LAS", "LPI", "LPS"), strict=True)))
def test_orientation_on_disk_and_back(folder, case, codes):
    stored, mask = (nib.load(folder / sub / f"{case}.nii.gz") for sub in (IMAGES, MASKS))
    assert "".join(nib.aff2axcodes(stored.affine)) == codes
    np.testing.assert_allclose(nib.affines.voxel_sizes(stored.affine), stored.header.get_zooms(), rtol=1e-5)
    np.testing.assert_array_equal(stored.affine, mask.affine)
    assert stored.get_data_dtype() == (np.int16 if case.startswith("corona") else np.uint8)
    assert mask.get_data_dtype() == np.uint8
    loaded, (image, labels, spacing_mm, intensity) = load_case(folder, case), make_phantom(case, scale=0.25)
    np.testing.assert_array_equal(loaded.image, image)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert loaded.spacing_mm == pytest.approx(spacing_mm, rel=1e-5) and loaded.intensity == intensity


def test_one_affine_is_oblique(folder):
    tilted = nib.load(folder / IMAGES / "coronacases_004.nii.gz").affine
    straight = nib.load(folder / IMAGES / "coronacases_001.nii.gz").affine
    assert nib.affines.obliquity(tilted).max() == pytest.approx(np.deg2rad(4), abs=1e-4)
    assert nib.affines.obliquity(straight).max() == pytest.approx(0, abs=1e-4)


def test_a_seed_repeats_and_another_differs():
    one, same, other = (make_phantom("coronacases_001", seed, 0.25) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    assert one[0].shape != other[0].shape or (one[1] != other[1]).any()


def test_cases_differ_and_the_scale_keeps_the_chest():
    _, labels, spacing_mm, _ = make_phantom("coronacases_001", scale=0.25)
    _, large, fine_mm, _ = make_phantom("coronacases_001", scale=0.5)
    _, neighbor, _, _ = make_phantom("coronacases_002", scale=0.25)
    volume, again = ((a > 0).sum() * np.prod(mm) for a, mm in ((labels, spacing_mm), (large, fine_mm)))
    assert volume == pytest.approx(again, rel=0.1)
    assert labels.shape != neighbor.shape or (labels != neighbor).any()


def test_nearly_clear_case_has_thirty_voxels_at_full_size():
    assert (make_phantom(NEARLY_CLEAR)[1] == 3).sum() == pytest.approx(30, abs=3)


def test_a_finished_set_is_left_alone_and_another_seed_replaces_it(tmp_path):
    case = FEW[:1]
    path = make_phantoms(tmp_path / "set", cases=case, scale=0.2) / IMAGES / f"{case[0]}.nii.gz"
    path.write_bytes(b"touched")
    make_phantoms(tmp_path / "set", cases=case, scale=0.2)
    assert path.read_bytes() == b"touched"
    make_phantoms(tmp_path / "set", seed=1, cases=case, scale=0.2)
    assert nib.load(path).ndim == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize("finished", [False, True])
def test_files_of_others_are_refused_and_kept(tmp_path, finished):
    if finished:
        make_phantoms(tmp_path, cases=FEW[:1], scale=0.2)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="thesis.txt"):
        make_phantoms(tmp_path, seed=1, cases=FEW[:1], scale=0.2)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DataError, match="taken"):
        make_phantoms(tmp_path / "taken", cases=FEW[:1], scale=0.2)
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    assert (make_phantoms(tmp_path, cases=FEW[:1], scale=0.2) / "phantom.json").is_file()


@pytest.mark.parametrize(("case", "scale"), [("nobody_001", 0.25), ("coronacases_001", 0.0), ("coronacases_001", 9.0)])
def test_unknown_case_or_scale(case, scale):
    with pytest.raises(DataError, match=case):
        make_phantom(case, scale=scale)
