"""Grey window, z-score, working grid, resampling and the way back: numbers one can follow by hand, and what must hold for any."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covidlib import preprocessing
from covidlib.dataset import IMAGES, MASKS, load_case, make_case
from covidlib.errors import DataError
from covidlib.preprocessing import (
    Prepared,
    box_of,
    labels_on_grid,
    pack_prepared,
    prepare,
    prepare_cached,
    read_prepared,
    resample,
    resample_labels,
    tissue_levels,
    to_grey,
    working_shape,
    z_score,
)
from covidlib.profile import Preprocessing

FIXED, VOLUME = Preprocessing(), Preprocessing(grey="volume")


def row(*values):
    """Values along x, one voxel in y and z."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


# ----------------------------------------------------------------------------------------------------------- grey and z-score


def test_the_window_in_hu_becomes_0_to_255():
    grey = to_grey(row(-3024, -1250, -500, 250, 3000), "hu", FIXED)
    assert grey.ravel().tolist() == [0, 0, 127.5, 255, 255] and grey.dtype == np.float32


def test_another_window():
    assert to_grey(row(-200, 0, 150), "hu", Preprocessing(window_hu=(-100, 100))).ravel().tolist() == [0, 127.5, 255]


def test_another_window_is_the_same_in_an_image_that_came_in_grey():
    """-1000, -300 and 400 HU; grey stands for -1250 to 250 HU, so that 400 HU are its end and more."""
    settings = Preprocessing(window_hu=(-1000, 400))
    hu, grey = row(-1000, -700, -300, 250), (row(-1000, -700, -300, 250) + 1250) * 255 / 1500
    np.testing.assert_allclose(to_grey(grey, "grey", settings), to_grey(hu, "hu", settings), atol=1e-3)


def test_grey_stays_as_it_is():
    assert to_grey(row(0, 3, 128, 255), "grey", FIXED).ravel().tolist() == [0, 3, 128, 255]


def test_volume_clips_then_spreads_each_volume_s_own_range():
    """-3000, -1000, -500, 0 is clipped to -1250, -1000, -500, 0: in 1250ths 0, 250, 750, 1250."""
    np.testing.assert_allclose(to_grey(row(-3000, -1000, -500, 0), "hu", VOLUME).ravel(), [0, 51, 153, 255], rtol=1e-6)


def test_volume_clips_grey_too_as_the_original_does():
    np.testing.assert_allclose(to_grey(row(10, 130, 250, 255), "grey", VOLUME).ravel(), [0, 127.5, 255, 255], rtol=1e-6)


def test_z_score_of_the_volume():
    """Mean 2, deviation 1."""
    assert z_score(row(1, 1, 3, 3), FIXED).ravel().tolist() == [-1, -1, 1, 1]
    assert z_score(row(7, 7, 7), FIXED).ravel().tolist() == [0, 0, 0]


def test_z_score_by_fixed_numbers():
    settings = Preprocessing(z_score="fixed", fixed_mean_grey=100, fixed_deviation_grey=80)
    scored = z_score(row(20, 100, 180, 255), settings)
    assert scored.ravel().tolist() == [-1, 0, 1, 1.9375] and scored.dtype == np.float32


def chest(lung=60, tissue=200, disease=100):
    """Air of 20 around a square body, in it a square lung, a fifth of it diseased; two slices."""
    image = np.full((14, 14, 2), 20.0)
    image[1:13, 1:13], image[3:11, 3:11], image[3:11, 3:5] = tissue, lung, disease
    return image


def test_z_score_by_levels_puts_lung_and_soft_tissue_at_fixed_places():
    """A disease of 100 lies 40 of the 140 from lung to tissue up: -0.5 + 2 * 40 / 140."""
    image, settings = chest(), Preprocessing(z_score="levels")
    assert tissue_levels(image) == (60, 200)
    scored = z_score(image, settings)
    np.testing.assert_allclose(scored[[5, 1, 3], [7, 1, 3], 0], [-0.5, 1.5, -0.5 + 80 / 140], rtol=1e-6)
    np.testing.assert_allclose(z_score(chest(45, 185, 85), settings)[1:13, 1:13], scored[1:13, 1:13], rtol=1e-6)  # another window


def test_where_no_lung_is_found_the_fixed_numbers_count():
    assert tissue_levels(np.full((4, 4, 2), 180.0)) is None and tissue_levels(np.full((4, 4, 2), 20.0)) is None
    assert z_score(np.full((4, 4, 2), 180.0), Preprocessing(z_score="levels"))[0, 0, 0] == 1


# ---------------------------------------------------------------------------------------------------------------- working grid


def test_the_working_grid_covers_the_same_millimeters():
    assert working_shape((10, 10, 6), (1.0, 2.0, 3.0), (2.0, 2.0, 2.0)) == (5, 10, 9)
    assert working_shape((512, 512, 3), (0.01, 0.7, 0.1), (20.0, 0.7, 20.0)) == (1, 512, 1)


def test_spacing_follows_its_axis_through_a_permutation():
    """Stored axes run up, to the back, to the right; 3, 0.7 and 0.9 mm apart. In x, y, z: 4 x 0.9, 3 x 0.7, 2 x 3 mm."""
    import nibabel as nib

    affine = np.array([[0, 0, 0.9, 0], [0, -0.7, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    image = np.linspace(-1000, 200, 24).reshape(2, 3, 4)
    case = make_case("permuted", image, affine, nib.Nifti1Image(image, affine).header, "hu", np.zeros((2, 3, 4), np.uint8))
    volume = prepare(case, Preprocessing(spacing_mm=(0.45, 0.7, 1.5)))
    assert volume.image.shape == volume.labels.shape == (8, 3, 4)
    np.testing.assert_allclose(volume.spacing_mm, (0.45, 0.7, 1.5), rtol=1e-6)


def test_prepare_tells_the_spacing_as_it_really_is(tmp_path, write_case):
    """6 x 5 x 4 voxels of 1 x 1 x 2 mm at about 1.58 x 1.58 x 2.7 mm: 3.8, 3.2, 3.0 voxels, so 4, 3, 3 of 1.5, 1.67, 2.67 mm."""
    volume = prepare(load_case(write_case(tmp_path), "coronacases_001"), Preprocessing())
    assert volume.image.shape == (4, 3, 3)
    np.testing.assert_allclose(volume.spacing_mm, (6 / 4, 5 / 3, 8 / 3))
    assert (volume.image.dtype, volume.labels.dtype) == (np.float32, np.uint8)
    assert abs(volume.image.mean()) < 1e-5 and abs(volume.image.std() - 1) < 1e-5
    assert volume.air == volume.image.min()


def test_a_case_without_labels_can_be_prepared(tmp_path, write_case):
    case = load_case(write_case(tmp_path), "coronacases_001")
    assert prepare(dataclasses.replace(case, labels=None), Preprocessing()).labels is None


# ------------------------------------------------------------------------------------------------------------------ resampling


def test_linear_to_twice_the_voxels():
    """New centers at -1/4, 1/4, 3/4, 5/4 of the old; beyond the border the outermost voxel counts on."""
    assert resample(row(0, 4), (4, 1, 1), "linear").ravel().tolist() == [0, 1, 3, 4]


def test_linear_to_half_the_voxels():
    """New centers at 1/2 and 5/2. Plain: the mean of two. Low pass: a triangle twice as wide, 1/8 3/8 3/8 1/8."""
    assert resample(row(0, 2, 4, 6), (2, 1, 1), "linear", low_pass=False).ravel().tolist() == [1, 5]
    assert resample(row(0, 2, 4, 6), (2, 1, 1), "linear").ravel().tolist() == [1.25, 4.75]


def test_cubic_at_a_midpoint():
    """Keys: -1/16, 9/16, 9/16, -1/16."""
    for position, expected in enumerate([-1, 9, 9, -1]):
        values = [16 * (position == i) for i in range(4)]
        assert resample(row(*values), (1, 1, 1), "cubic", low_pass=False).ravel().tolist() == [expected]


def test_the_low_pass_quiets_what_the_coarse_grid_cannot_show():
    fine = row(*([0, 1] * 32))
    plain, quiet = (resample(fine, (21, 1, 1), "cubic", low_pass)[3:-3] for low_pass in (False, True))
    assert np.ptp(quiet) < 0.15 < 0.8 < np.ptp(plain)


def test_further_axes_are_carried_along():
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    both = resample(volume, (4, 3, 7))
    np.testing.assert_allclose(both, np.stack([resample(volume[..., c], (4, 3, 7)) for c in range(2)], -1), atol=1e-6)


sizes = st.tuples(*[st.integers(1, 9)] * 3)
kernels = st.sampled_from(["linear", "cubic"])
random_volumes = st.builds(lambda shape, seed: np.random.default_rng(seed).integers(0, 4, shape), sizes, st.integers(0, 10**6))


@given(sizes, sizes, kernels, st.booleans(), st.floats(-1000, 1000))
def test_a_constant_stays_constant(old, new, kernel, low_pass, value):
    out = resample(np.full(old, value, np.float32), new, kernel, low_pass)
    assert out.shape == new and out.dtype == np.float32
    np.testing.assert_allclose(out, value, rtol=1e-4, atol=1e-4)


@given(random_volumes, kernels, st.booleans())
def test_the_same_shape_is_left_alone(volume, kernel, low_pass):
    np.testing.assert_array_equal(resample(volume, volume.shape, kernel, low_pass), volume)
    np.testing.assert_array_equal(resample_labels(volume, volume.shape), volume)
    np.testing.assert_array_equal(labels_on_grid(np.eye(4)[volume], volume.shape), volume)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 2), kernels)
def test_a_ramp_is_kept_in_the_interior(n_in, n_out, axis, kernel):
    """Voxel centers lie at (i + 1/2) / n of the extent: so must the values of a ramp, wherever no kernel reaches the border."""
    old, new = [2, 2, 2], [2, 2, 2]
    old[axis], new[axis] = n_in, n_out
    ramp = np.broadcast_to(np.expand_dims((np.arange(n_in) + 0.5) / n_in, [a for a in range(3) if a != axis]), old)
    out = np.moveaxis(resample(ramp, tuple(new), kernel, low_pass=False), axis, 0)[:, 0, 0]
    expected = (np.arange(n_out) + 0.5) / n_out
    inside = (expected * n_in > 2) & (expected * n_in < n_in - 2)
    np.testing.assert_allclose(out[inside], expected[inside], atol=1e-5)


@given(random_volumes, sizes)
def test_labels_never_gain_a_class(labels, new):
    there = resample_labels(labels, new)
    back = labels_on_grid(np.eye(4, dtype=np.float32)[there], labels.shape)
    assert there.shape == new and back.shape == labels.shape and there.dtype == back.dtype == np.uint8
    assert set(np.unique(back)) <= set(np.unique(there)) <= set(np.unique(labels))


@given(st.integers(0, 2), st.integers(1, 7), st.permutations([0, 1, 2, 3]))
def test_a_plane_between_two_classes_survives_the_round_trip(axis, position, classes):
    labels = np.full((8, 8, 8), classes[0], np.uint8)
    np.moveaxis(labels, axis, 0)[position:] = classes[1]
    fine = resample_labels(labels, (16, 16, 16))
    np.testing.assert_array_equal(labels_on_grid(np.eye(4, dtype=np.float32)[fine], labels.shape), labels)


def test_between_1_and_3_lies_no_2():
    assert resample_labels(row(1, 3).astype(np.uint8), (6, 1, 1)).ravel().tolist() == [1, 1, 1, 3, 3, 3]


def test_a_new_voxel_takes_the_class_that_covers_most_of_it():
    assert resample_labels(row(3, 3, 0, 2, 2, 2).astype(np.uint8), (2, 1, 1)).ravel().tolist() == [3, 2]


def test_probabilities_return_by_linear_interpolation_and_the_likeliest_class():
    """Two voxels become four, with 1, 3/4, 1/4 and 0 of the first: class 1 has 0.62, 0.515, 0.305, 0.2, class 3 the rest."""
    probabilities = np.zeros((2, 1, 1, 4), np.float32)
    probabilities[0, 0, 0], probabilities[1, 0, 0] = (0, 0.62, 0, 0.38), (0, 0.2, 0, 0.8)
    assert labels_on_grid(probabilities, (4, 1, 1)).ravel().tolist() == [1, 1, 3, 3]


def test_the_slabs_of_the_way_back_leave_no_seam():
    probabilities = np.random.default_rng(0).random((5, 4, 7, 4)).astype(np.float32)
    whole = labels_on_grid(probabilities, (9, 8, 13), slab=100)
    np.testing.assert_array_equal(labels_on_grid(probabilities, (9, 8, 13), slab=1), whole)
    np.testing.assert_array_equal(labels_on_grid(probabilities, (9, 8, 13), slab=5), whole)


# ----------------------------------------------------------------------------------------------------------------------- cache

CASE = "coronacases_001"


@pytest.fixture
def made(monkeypatch):
    """A list that grows by one whenever a case is prepared rather than read from the cache."""
    count, real = [], preprocessing.prepare
    monkeypatch.setattr(preprocessing, "prepare", lambda case, settings: count.append(case.id) or real(case, settings))
    return count


def test_a_case_is_prepared_once_and_comes_back_the_same(tmp_path, write_case, made):
    write_case(tmp_path)
    first, second = (prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache") for _ in range(2))
    assert made == [CASE] and isinstance(second, Prepared)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.spacing_mm == second.spacing_mm and second.id == CASE
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{CASE}.npz"]


@pytest.mark.parametrize("change", ["settings", "intensity", "image", "mask"])
def test_whatever_made_it_is_in_the_key(tmp_path, write_case, made, change):
    write_case(tmp_path)
    settings, intensity = FIXED, None
    prepare_cached(tmp_path, CASE, settings, intensity, tmp_path / "cache")
    if change == "settings":
        settings = Preprocessing(low_pass=False)
    elif change == "intensity":
        intensity = "grey"
    elif change == "image":
        write_case(tmp_path, image=np.linspace(-900, 100, 120).reshape(6, 5, 4))
    else:
        write_case(tmp_path, labels=np.ones((6, 5, 4), np.uint8))
    kept = prepare_cached(tmp_path, CASE, settings, intensity, tmp_path / "cache")
    assert made == [CASE, CASE]
    np.testing.assert_array_equal(kept.image, prepare(load_case(tmp_path, CASE, intensity), settings).image)


def test_whatever_byte_of_a_packed_volume_is_wrong_it_is_sound_or_refused(tmp_path, write_case):
    """Sound is one that reads the same: the archive has checksums."""
    write_case(tmp_path)
    prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache")
    pack_prepared(tmp_path / "cache" / f"{CASE}.npz", tmp_path / "packed.npz")
    whole, refused, sound = (tmp_path / "packed.npz").read_bytes(), 0, read_prepared(tmp_path / "packed.npz")
    for place in range(len(whole)):
        (tmp_path / "packed.npz").write_bytes(whole[:place] + bytes([255 - whole[place]]) + whole[place + 1 :])
        try:
            read = read_prepared(tmp_path / "packed.npz")
        except DataError:
            refused += 1
            continue
        np.testing.assert_array_equal(read.image, sound.image)
        np.testing.assert_array_equal(read.labels, sound.labels)
        assert read.spacing_mm == sound.spacing_mm
    assert refused > len(whole) / 3


@pytest.mark.parametrize("left", [b"", b"PK", 0.5, 0.99])
def test_a_damaged_file_is_made_anew(tmp_path, write_case, made, left):
    """Of a copy that was interrupted, for instance."""
    write_case(tmp_path)
    first = prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache")
    path = tmp_path / "cache" / f"{CASE}.npz"
    whole = path.read_bytes()
    path.write_bytes(left if isinstance(left, bytes) else whole[: int(left * len(whole))])
    np.testing.assert_array_equal(prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache").image, first.image)
    assert made == [CASE, CASE]


def test_a_file_written_anew_with_the_same_bytes_changes_nothing(tmp_path, write_case, made):
    write_case(tmp_path)
    prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache")
    for sub in (IMAGES, MASKS):
        path = tmp_path / sub / f"{CASE}.nii.gz"
        path.write_bytes(path.read_bytes())
    prepare_cached(tmp_path, CASE, FIXED, None, tmp_path / "cache")
    assert made == [CASE]


# ------------------------------------------------------------------------------------ shortcuts give what the long way would give


@pytest.mark.parametrize("shape", [(23, 31, 9), (7, 11, 5), (12, 16, 8), (24, 8, 8)])
def test_shortcuts_around_the_background_change_nothing(shape):
    """Labels there and back, computed only around what is not background, against every class on the whole grid."""
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 16, 8), np.uint8)
    labels[2:6, 3:9, 1:7], labels[7:11, 3:9, 1:7], labels[8:10, 5:7, 3:5] = 1, 2, 3
    shares = np.stack([resample(labels == label, shape, "linear") for label in range(4)], -1)
    np.testing.assert_array_equal(resample_labels(labels, shape), shares.argmax(-1))
    doubtful = (
        np.eye(4, dtype=np.float32)[labels] + rng.uniform(0, 0.9, (*labels.shape, 4)).astype(np.float32) * (labels > 0)[..., None]
    )
    probabilities = doubtful / doubtful.sum(-1, keepdims=True)
    np.testing.assert_array_equal(labels_on_grid(probabilities, shape), resample(probabilities, shape, "linear").argmax(-1))


def test_the_box_of_a_mask():
    mask = np.zeros((6, 5, 4), bool)
    mask[2, 1, 3] = mask[4, 3, 0] = True
    assert box_of(mask) == (slice(2, 5), slice(1, 4), slice(0, 4))
    assert mask[box_of(mask)].sum() == 2 and mask[box_of(np.zeros_like(mask))].size == 0
