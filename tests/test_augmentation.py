"""Each transform alone: how often it fires, in what range, with a fixed seed; labels go where the image goes."""

import dataclasses
import random
from math import degrees

import numpy as np
import pytest

from covidlib.augmentation import SPATIAL, augmented_crop, mirror, sampling_places, spatial_crop, with_infection_of
from covidlib.preprocessing import Prepared
from covidlib.profile import Augmentation

NONE = Augmentation(
    probability=1.0,
    mirror_probability=0.0,
    contrast=(1, 1),
    brightness=(1, 1),
    gamma=(1, 1),
    noise_deviation=(0, 0),
    elastic_alpha_vox=(0, 0),
    rotation_degrees=(0, 0, 0),
    scaling=(1, 1),
    image_order=1,
)  # every transform fires and does nothing


def only(**settings):
    return dataclasses.replace(NONE, **settings)


def volume_of(image, labels=None):
    labels = np.zeros(image.shape, np.uint8) if labels is None else labels
    return Prepared("drawn", image.astype(np.float32), labels, (1.0, 1.0, 1.0))


def centered(volume, shape):
    return [(n - s) // 2 for n, s in zip(volume.image.shape, shape, strict=True)]


def draw(volume, shape, settings, count):
    """`count` variations (image, labels) of the block of `shape` in the middle, from the seeds 0, 1, 2 ..."""
    corner = centered(volume, shape)
    return [augmented_crop(volume, corner, shape, settings, np.random.default_rng(seed)) for seed in range(count)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --------------------------------------------------------------------------------------------------------------------- mirror


def test_mirroring_left_and_right_swaps_the_lungs():
    image = np.array([1.0, 2, 3, 4]).reshape(4, 1, 1)
    labels = np.array([0, 1, 2, 3], np.uint8).reshape(4, 1, 1)
    mirrored, swapped = mirror(image, labels, (True, False, False), swap_lungs=True)
    assert mirrored.ravel().tolist() == [4, 3, 2, 1] and swapped.ravel().tolist() == [3, 1, 2, 0]
    assert mirror(image, labels, (True, False, False), swap_lungs=False)[1].ravel().tolist() == [3, 2, 1, 0]
    assert (mirrored.dtype, swapped.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("axes", [(False, False, False), (False, True, False), (False, False, True), (False, True, True)])
def test_no_other_mirroring_swaps_them(axes):
    labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 4
    expected = np.flip(labels, [axis for axis in range(3) if axes[axis]])
    image, out = mirror(labels.astype(float), labels, axes, swap_lungs=True)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(image, expected)


def test_each_axis_is_mirrored_half_the_time_and_by_itself():
    volume = volume_of(np.arange(8).reshape(2, 2, 2))
    drawn = draw(volume, (2, 2, 2), only(mirror_probability=0.5), 400)
    first = [int(image[0, 0, 0]) for image, _ in drawn]  # 4 if x is mirrored, + 2 if y, + 1 if z
    assert set(first) == set(range(8))
    assert np.bincount(first).min() > 30 and np.bincount(first).max() < 75  # 50 of each expected


def test_never_and_always():
    volume = volume_of(np.arange(8).reshape(2, 2, 2))
    assert {int(image[0, 0, 0]) for image, _ in draw(volume, (2, 2, 2), only(mirror_probability=0), 20)} == {0}
    assert {int(image[0, 0, 0]) for image, _ in draw(volume, (2, 2, 2), only(mirror_probability=1), 20)} == {7}


# ----------------------------------------------------------------------------------------------------------------------- rates

ALONE = {
    "contrast": {"contrast": (0.3, 3.0)},
    "brightness": {"brightness": (0.5, 2.0)},
    "gamma": {"gamma": (0.7, 1.5)},
    "noise": {"noise_deviation": (0.0, 0.05)},
    "elastic": {"elastic_alpha_vox": (0.0, 900.0)},
    "rotation": {"rotation_degrees": (15.0, 15.0, 15.0)},
    "scaling": {"scaling": (0.85, 1.25)},
}


@pytest.mark.parametrize("name", ALONE)
def test_each_transform_fires_for_its_share_of_samples(name):
    """200 samples at 0.3: 60 expected, deviation 6.5; bounds are three of them away."""
    volume = volume_of(noise((8, 8, 8)))
    settings = dataclasses.replace(only(**ALONE[name]), probability=0.3)
    same = volume.image[2:6, 2:6, 2:6]
    fired = sum(not np.allclose(image, same, atol=1e-5) for image, _ in draw(volume, (4, 4, 4), settings, 200))
    assert 40 <= fired <= 80


def test_the_paper_s_rate_of_at_least_one_spatial_transform():
    """1 - 0.85 ** 3 = 0.386: of 300 samples 116, deviation 8.4."""
    volume = volume_of(noise((8, 8, 8)))
    settings = dataclasses.replace(
        only(**ALONE["elastic"], **ALONE["rotation"], **ALONE["scaling"]), probability=Augmentation().probability
    )
    same = volume.image[2:6, 2:6, 2:6]
    fired = sum(not np.allclose(image, same, atol=1e-5) for image, _ in draw(volume, (4, 4, 4), settings, 300))
    assert 91 <= fired <= 141


def test_nothing_fires_at_probability_0():
    volume = volume_of(noise((8, 8, 8)), np.ones((8, 8, 8), np.uint8))
    for image, labels in draw(volume, (4, 4, 4), Augmentation(probability=0, mirror_probability=0), 20):
        np.testing.assert_array_equal(image, volume.image[2:6, 2:6, 2:6])
        assert (labels == 1).all()


def test_transforms_with_empty_ranges_do_nothing():
    """So that the tests here see one transform at a time."""
    volume = volume_of(noise((8, 8, 8)))
    for image, _ in draw(volume, (4, 4, 4), NONE, 5):
        np.testing.assert_allclose(image, volume.image[2:6, 2:6, 2:6], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------- ranges


def check_range(drawn, low, high, below_1=0.5):
    """All within the range, both ends come near, and the expected share lies below 1."""
    drawn = np.array(drawn)
    assert low - 1e-3 <= drawn.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < drawn.max() <= high + 1e-3
    assert abs((drawn < 1).mean() - below_1) < 0.12


def test_brightness_multiplies_by_one_half_to_two():
    images = [image for image, _ in draw(volume_of(noise((4, 4, 4))), (4, 4, 4), only(brightness=(0.5, 2.0)), 200)]
    factors = [image / volume_of(noise((4, 4, 4))).image for image in images]
    assert max(np.ptp(factor) for factor in factors) < 1e-4
    check_range([factor.mean() for factor in factors], 0.5, 2.0, below_1=1 / 3)


def test_contrast_stretches_about_the_mean_within_the_range_there_was():
    """Mean 0, so the factor is what 1 becomes; -100 and 100 are the range, and stay when stretched."""
    image = np.zeros((4, 4, 4))
    image[0, 0, :4] = -100, 100, -1, 1
    images = [image for image, _ in draw(volume_of(image), (4, 4, 4), only(contrast=(0.3, 3.0)), 200)]
    check_range([image[0, 0, 3] for image in images], 0.3, 3.0)
    assert all(np.abs(image).max() <= 100.01 for image in images)
    assert all(abs(image[0, 0, 1] - min(100, 100 * image[0, 0, 3])) < 0.02 for image in images)


def test_gamma_bends_the_scale_and_keeps_mean_and_deviation():
    """The middle of the scale becomes (1/2) ** gamma of it, so gamma can be read from it."""
    image = noise((4, 4, 4)).clip(-1, 1)
    image[0, 0, :3] = -1, 0, 1
    images = [image for image, _ in draw(volume_of(image), (4, 4, 4), only(gamma=(0.7, 1.5)), 200)]
    for bent in images:
        assert abs(bent.mean() - image.mean()) < 1e-4 and abs(bent.std() - image.std()) < 1e-4
        assert (np.diff(bent.ravel()[np.argsort(image, None)]) > -1e-5).all()  # the order of the values stays
    middle = [(bent[0, 0, 1] - bent[0, 0, 0]) / (bent[0, 0, 2] - bent[0, 0, 0]) for bent in images]
    check_range(-np.log2(middle), 0.7, 1.5)


def test_noise_has_a_deviation_of_up_to_5_hundredths():
    images = [image for image, _ in draw(volume_of(np.zeros((8, 8, 8))), (8, 8, 8), only(noise_deviation=(0.0, 0.05)), 200)]
    deviations = np.array([image.std() for image in images])
    assert deviations.min() < 0.005 and 0.045 < deviations.max() < 0.055 and abs(deviations.mean() - 0.025) < 0.004
    assert abs(np.mean(images)) < 0.001


def ramps(size):
    """Three volumes whose values are x, y and z, in voxels from their middle."""
    middle = (size - 1) / 2
    return [volume_of(axis - middle) for axis in np.meshgrid(*[np.arange(size)] * 3, indexing="ij")]


def linear_maps(settings, count, size=24, patch=6):
    """The 3 x 3 matrix by which each draw maps patch coordinates to volume coordinates, read from three ramps."""
    each = [draw(ramp, (patch,) * 3, settings, count) for ramp in ramps(size)]
    middle = slice(patch // 2 - 1, patch // 2 + 1)
    maps = []
    for number in range(count):
        images = [images[number][0][middle, middle, middle] for images in each]
        maps.append([[np.diff(image, axis=axis).mean() for axis in range(3)] for image in images])
    return np.array(maps)


def test_scaling_has_one_factor_for_all_axes():
    maps = linear_maps(only(scaling=(0.85, 1.25)), 150)
    factors = maps[:, 0, 0]
    np.testing.assert_allclose(maps, factors[:, None, None] * np.eye(3), atol=1e-4)
    check_range(factors, 0.85, 1.25)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotation_about_each_axis_by_up_to_its_angle(axis):
    angles = [0.0, 0.0, 0.0]
    angles[axis] = 15.0
    maps = linear_maps(only(rotation_degrees=tuple(angles)), 100)
    np.testing.assert_allclose(maps[:, axis], np.broadcast_to(np.eye(3)[axis], (100, 3)), atol=1e-4)
    np.testing.assert_allclose(maps @ maps.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (100, 3, 3)), atol=1e-4)
    one, other = [a for a in range(3) if a != axis]
    turned = np.array([degrees(angle) for angle in np.arctan2(maps[:, one, other], maps[:, one, one])])
    assert -15.01 < turned.min() < -13 and 13 < turned.max() < 15.01 and abs(turned.mean()) < 2.7


def test_a_turn_about_all_axes_is_a_rotation():
    maps = linear_maps(only(rotation_degrees=(15.0, 15.0, 15.0)), 20)
    np.testing.assert_allclose(maps @ maps.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(maps), 1, atol=1e-4)
    assert all(np.abs(maps[:, one, other]).max() > 0.1 for one, other in ((0, 1), (0, 2), (1, 2)))


def test_elastic_deformation_bends_smoothly_by_a_few_voxels():
    """Displacements at alpha 900, sigma 9: deviation 900 x 0.577 / (4 pi 81) ** 0.75 = 2.9 voxels away from the border."""
    settings = only(elastic_alpha_vox=(900.0, 900.0), elastic_sigma_vox=(9.0, 9.0))
    ramp, patch = ramps(64)[0], 32
    straight = ramp.image[16:48, 16:48, 16:48]
    moved = np.stack([image - straight for image, _ in draw(ramp, (patch,) * 3, settings, 12)])
    assert 1 < moved[:, 12:20, 12:20, 12:20].std() < 5 and np.abs(moved).max() < 12
    assert max(np.abs(np.diff(moved, axis=axis)).max() for axis in (1, 2, 3)) < 1.2


def test_elastic_strength_is_drawn_from_its_range():
    weak, strong = (
        np.std([image for image, _ in draw(ramps(40)[0], (16,) * 3, only(elastic_alpha_vox=(alpha, alpha)), 8)], axis=0).mean()
        for alpha in (100.0, 400.0)
    )
    assert strong == pytest.approx(4 * weak, rel=0.01)


# ----------------------------------------------------------------------------------------------------- image and labels together


def test_labels_go_where_the_image_goes_and_no_class_is_invented():
    """The image is the labels, both read from the nearest voxel: whatever is done to both, they stay equal."""
    labels = np.random.default_rng(0).integers(0, 4, (6, 6, 6)).repeat(6, 0).repeat(6, 1).repeat(6, 2).astype(np.uint8)
    spatial = {**ALONE["rotation"], **ALONE["scaling"], "elastic_alpha_vox": (0.0, 200.0)}
    settings = only(**spatial, mirror_probability=0.5, swap_lungs=False, image_order=0)
    for image, turned in draw(volume_of(labels, labels), (16, 16, 12), settings, 8):
        assert image.shape == turned.shape == (16, 16, 12) and set(np.unique(turned)) <= {0, 1, 2, 3}
        np.testing.assert_allclose(image, turned, atol=1e-5)
        assert (image.dtype, turned.dtype) == (np.float32, np.uint8)


def test_colors_leave_the_labels_alone():
    labels = np.random.default_rng(0).integers(0, 4, (6, 6, 6)).astype(np.uint8)
    settings = only(contrast=(0.3, 3), brightness=(0.5, 2), gamma=(0.7, 1.5), noise_deviation=(0.0, 0.05))
    for _, out in draw(volume_of(noise((6, 6, 6)), labels), (6, 6, 6), settings, 5):
        np.testing.assert_array_equal(out, labels)


def test_cubic_interpolation_keeps_labels_whole():
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, 8:16, 8:16] = 3
    settings = only(rotation_degrees=(15, 15, 15), image_order=3)
    for _, out in draw(volume_of(noise((24, 24, 24)), labels), (12, 12, 12), settings, 5):
        assert set(np.unique(out)) == {0, 3}


TURNED = {"rotation_degrees": (15.0, 15.0, 15.0), "scaling": (0.85, 1.25)}


@pytest.mark.parametrize("shape", [(32, 32, 32), (32, 32, 16), (32, 32, 8), (40, 32, 4)])
def test_inside_a_large_volume_no_background_comes_into_the_patch(shape):
    """All is left lung, 50 voxels and more on each side of the patch: so is every voxel of the patch, however turned."""
    volume = volume_of(np.ones((140, 140, 140)), np.ones((140, 140, 140), np.uint8))
    outside = [int((labels == 0).sum()) for _, labels in draw(volume, shape, only(**TURNED), 12)]
    assert sum(outside) == 0, f"background in {np.count_nonzero(outside)} of 12 patches, up to {max(outside)} voxels"


def reference_places(shape, settings, count):
    """The same from batchgenerators' SpatialTransform: what it reads from three ramps, in voxels from the patch's middle."""
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    size = [3 * n for n in shape]
    ramp = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))[None]
    x, y, z = ((-angle, angle) for angle in np.radians(settings.rotation_degrees))
    transform = SpatialTransform(
        tuple(shape), random_crop=False, alpha=settings.elastic_alpha_vox, sigma=settings.elastic_sigma_vox,
        angle_x=x, angle_y=y, angle_z=z, scale=settings.scaling, order_data=1, border_mode_data="nearest",
    )  # fmt: skip
    np.random.seed(0)
    return np.stack([transform(data=ramp)["data"][0] for _ in range(count)])


FIXED = {"elastic_alpha_vox": (900.0, 900.0), "elastic_sigma_vox": (9.0, 9.0)}  # so that 200 draws tell the deviation


@pytest.mark.parametrize(
    "chosen", [FIXED, ALONE["rotation"], ALONE["scaling"], {**FIXED, **ALONE["rotation"], **ALONE["scaling"]}]
)
def test_voxels_move_as_far_as_by_batchgenerators(chosen):
    """Where each voxel is read: mean over 200 draws within 1.5 voxels, deviation (averaged over the patch) within 15 %."""
    shape, settings, rng = (32, 24, 20), only(**chosen), np.random.default_rng(0)
    ours = np.stack([sampling_places(shape, settings, dict.fromkeys(SPATIAL, True), rng) for _ in range(200)])
    theirs = reference_places(shape, settings, 200)
    np.testing.assert_allclose(ours.std(0).mean((1, 2, 3)), theirs.std(0).mean((1, 2, 3)), rtol=0.15)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=1.5)


def test_quadratic_interpolation_looks_like_cubic():
    """On noise blurred by a voxel: values differ by 2 hundredths of the deviation, and the deviation by 1 hundredth."""
    from scipy.ndimage import gaussian_filter

    image = gaussian_filter(noise((48, 48, 48)), 1)
    volume, fires = volume_of(image / image.std()), dict.fromkeys(SPATIAL, True)
    quadratic, cubic = (
        spatial_crop(volume, (12,) * 3, (24,) * 3, Augmentation(image_order=order), fires, np.random.default_rng(3))[0]
        for order in (2, 3)
    )
    assert np.abs(quadratic - cubic).mean() < 0.02 and abs(quadratic.std() / cubic.std() - 1) < 0.01


def test_beyond_the_volume_stand_air_and_background():
    volume = Prepared("drawn", np.linspace(-2, 3, 64, dtype=np.float32).reshape(4, 4, 4), np.ones((4, 4, 4), np.uint8), (1, 1, 1))
    for seed in range(4):
        image, labels = augmented_crop(volume, (-6, -6, -6), (16, 16, 16), only(**TURNED), np.random.default_rng(seed))
        assert image[0, 0, 0] == -2 and labels[0, 0, 0] == 0 and (labels == 1).any()


# -------------------------------------------------------------------------------------------------------------- repeatability


def test_the_generator_alone_decides():
    """Whatever was drawn before from the global generators, which batchgenerators uses."""
    volume, all_on = volume_of(noise((24, 24, 24)), np.ones((24, 24, 24), np.uint8)), Augmentation(probability=0.7)
    results = []
    for before in (1, 2):
        random.seed(before)
        np.random.seed(before)
        results.append(draw(volume, (8, 8, 8), all_on, 6))
    for (image, labels), (again, labels_again) in zip(*results, strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(labels, labels_again)
    assert len({image.tobytes() for image, _ in results[0]}) == 6


def test_the_volume_itself_is_never_changed():
    volume = volume_of(noise((8, 8, 8)), np.ones((8, 8, 8), np.uint8))
    before = volume.image.copy()
    draw(volume, (8, 8, 8), Augmentation(probability=1.0), 3)
    np.testing.assert_array_equal(volume.image, before)
    assert (volume.labels == 1).all()


# ----------------------------------------------------------------------------------------------------------- copied infection


def test_infection_is_copied_to_where_there_is_lung_and_two_voxels_of_lung_around_it_in_plane():
    """Seven voxels in a row. The giver, of value 9, is infected at 3 alone; the taker, of value 1, has lung at 2 to 4."""
    row = (7, 1, 1)
    giver = np.array([0, 1, 1, 3, 1, 1, 1], np.uint8).reshape(row)
    labels = np.array([1, 0, 1, 1, 2, 3, 1], np.uint8).reshape(row)
    image, copied = with_infection_of(np.full(row, 9, np.float32), giver, np.ones(row, np.float32), labels)
    assert copied.ravel().tolist() == [1, 0, 1, 3, 2, 3, 1]
    assert image.ravel().tolist() == [1, 1, 9, 9, 9, 1, 1]  # 1 is background and 5 infection already; 0 and 6 are too far
    assert (image.dtype, copied.dtype) == (np.float32, np.uint8)


def test_fainter_infection_keeps_some_of_the_grey_that_was_there():
    giver, labels = np.array([1, 3, 1], np.uint8).reshape(3, 1, 1), np.array([0, 1, 1], np.uint8).reshape(3, 1, 1)
    image, copied = with_infection_of(np.full((3, 1, 1), 9.0), giver, np.ones((3, 1, 1)), labels, strength=0.25)
    assert image.ravel().tolist() == [1, 3, 3] and copied.ravel().tolist() == [0, 3, 1]  # a quarter of the way from 1 to 9


def test_what_is_copied_is_faint_and_mirrored_as_the_profile_says():
    """The giver's infection, of value 9, lies at x = 0 alone; mirrored by itself it goes to x = 7 of a lung of value 1."""
    marked = np.ones((8, 8, 2), np.uint8)
    marked[0] = 3
    taker, giver = (volume_of(np.full(marked.shape, value), labels) for value, labels in ((1.0, marked * 0 + 1), (9.0, marked)))
    both = dataclasses.replace(NONE, copied_mirrored=True, copied_strength=(0.5, 0.75), mirror_probability=1.0, mirror_axes="x")
    rng = np.random.default_rng(0)
    image, labels = augmented_crop(taker, (0, 0, 0), marked.shape, both, rng, (giver, (0, 0, 0)))
    assert (labels[0] == 3).all() and not (labels[1:] == 3).any()  # to 7, and with the whole patch back to 0
    assert 5 <= image[0, 0, 0] <= 7 and np.allclose(image[0], image[0, 0, 0]) and np.allclose(image[3:], 1)
    plain = dataclasses.replace(both, copied_mirrored=False, copied_strength=(1.0, 1.0))
    image, labels = augmented_crop(taker, (0, 0, 0), marked.shape, plain, rng, (giver, (0, 0, 0)))
    assert (labels[7] == 3).all() and np.allclose(image[7], 9)


def test_what_is_no_lung_of_the_giver_is_not_copied_and_neither_are_slices_above_and_below():
    giver = np.zeros((5, 1, 3), np.uint8)
    giver[2, 0, 1], giver[3, 0, 1] = 3, 1
    image, copied = with_infection_of(np.full((5, 1, 3), 9.0), giver, np.zeros((5, 1, 3)), np.ones((5, 1, 3), np.uint8))
    assert image[:, 0].T.tolist() == [[0] * 5, [0, 0, 9, 9, 0], [0] * 5]
    assert np.argwhere(copied == 3).tolist() == [[2, 0, 1]]


def test_a_patch_takes_infection_from_the_giver_at_its_corner():
    taker, giver = (volume_of(np.full((9, 9, 3), value), np.full((9, 9, 3), label)) for value, label in ((1.0, 1), (5.0, 3)))
    alone = augmented_crop(taker, (2, 2, 0), (4, 4, 2), NONE, np.random.default_rng(0))
    both = augmented_crop(taker, (2, 2, 0), (4, 4, 2), NONE, np.random.default_rng(0), (giver, (7, 2, 0)))
    assert (alone[0] == 1).all() and (alone[1] == 1).all()
    assert both[0][:, 0, 0].tolist() == [5, 5, 1, 1] and both[1][:, 0, 0].tolist() == [3, 3, 1, 1]  # beyond it: nothing
