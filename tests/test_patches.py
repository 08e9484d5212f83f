"""Crops at every border, windows and their merge, drawn as pictures (rows are x, columns y, one slice)."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covidlib.patches import corner_around, crop, merge, random_corner, window_corners, windows


def picture(text):
    """Numbers in rows to an array (x, y, 1); a dot is -1."""
    rows = [[-1 if word == "." else float(word) for word in line.split()] for line in text.strip().splitlines()]
    return np.array(rows)[:, :, None]


VOLUME = picture("""
    1 2 3
    4 5 6
    7 8 9
""")

CROPS = {
    (0, 0): "1 2 3 \n 4 5 6 \n 7 8 9",
    (-1, 0): ". . . \n 1 2 3 \n 4 5 6",
    (1, 0): "4 5 6 \n 7 8 9 \n . . .",
    (0, -1): ". 1 2 \n . 4 5 \n . 7 8",
    (0, 1): "2 3 . \n 5 6 . \n 8 9 .",
    (-2, -2): ". . . \n . . . \n . . 1",
    (-2, 2): ". . . \n . . . \n 3 . .",
    (2, -2): ". . 7 \n . . . \n . . .",
    (2, 2): "9 . . \n . . . \n . . .",
    (3, 0): ". . . \n . . . \n . . .",
    (0, -3): ". . . \n . . . \n . . .",
    (100, 100): ". . . \n . . . \n . . .",
}


@pytest.mark.parametrize("corner", CROPS)
def test_a_crop_at_every_border(corner):
    np.testing.assert_array_equal(crop(VOLUME, (*corner, 0), (3, 3, 1), -1), picture(CROPS[corner]))


@pytest.mark.parametrize(("start", "expected"), [(-1, [-1, 1, 2]), (0, [1, 2, 3]), (2, [3, -1, -1]), (3, [-1, -1, -1])])
def test_a_crop_at_the_lowest_and_the_highest_slice(start, expected):
    column = np.array([1, 2, 3]).reshape(1, 1, 3)
    assert crop(column, (0, 0, start), (1, 1, 3), -1).ravel().tolist() == expected


def test_a_crop_larger_than_the_volume_and_one_inside():
    np.testing.assert_array_equal(crop(VOLUME, (1, 1, 0), (1, 2, 1), -1), picture("5 6"))
    np.testing.assert_array_equal(
        crop(VOLUME, (-1, -1, 0), (5, 5, 1), -1),
        picture(". . . . . \n . 1 2 3 . \n . 4 5 6 . \n . 7 8 9 . \n . . . . ."),
    )


def test_a_crop_keeps_the_type_and_is_no_view():
    volume = np.ones((2, 2, 2), np.uint8)
    part = crop(volume, (0, 0, 0), (2, 2, 2), 0)
    part[:] = 7
    assert part.dtype == np.uint8 and volume.max() == 1


corners = st.tuples(*[st.integers(-6, 6)] * 3)
sizes = st.tuples(*[st.integers(1, 6)] * 3)


def numbered(shape):
    return np.arange(1.0, np.prod(shape) + 1).reshape(shape)


@given(sizes, corners, sizes)
def test_a_crop_is_the_padded_volume_s_block(volume_shape, corner, shape):
    volume = numbered(volume_shape)
    padded = np.pad(volume, 12, constant_values=-1)
    block = tuple(slice(c + 12, c + 12 + s) for c, s in zip(corner, shape, strict=True))
    np.testing.assert_array_equal(crop(volume, corner, shape, -1), padded[block])


# --------------------------------------------------------------------------------------------------------------------- corners


def test_random_corners_reach_every_place_equally_often():
    rng = np.random.default_rng(0)
    drawn = [random_corner((7, 4, 3), (3, 4, 6), rng) for _ in range(1000)]
    places, counts = np.unique([x for x, _, _ in drawn], return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 4] and counts.min() > 150 and counts.max() < 250
    assert {y for _, y, _ in drawn} == {0}  # fits in one place
    assert {z for _, _, z in drawn} == {-2}  # 3 slices in a patch of 6: two before, one behind


def test_a_corner_around_any_voxel_holds_it_and_stays_inside():
    rng = np.random.default_rng(0)
    for voxel in itertools.product(range(7), range(4), range(3)):
        for _ in range(5):
            x, y, z = corner_around(voxel, (7, 4, 3), (3, 4, 6), rng)
            assert 0 <= x <= 4 and x <= voxel[0] < x + 3 and (y, z) == (0, -2)


def test_a_corner_around_a_voxel_leaves_it_anywhere_in_the_patch():
    rng = np.random.default_rng(0)
    assert {10 - corner_around((10, 0, 0), (20, 1, 1), (3, 1, 1), rng)[0] for _ in range(60)} == {0, 1, 2}


def along_x(length, window, overlap=0.5):
    return [x for x, _, _ in window_corners((length, 1, 1), (window, 1, 1), overlap)]


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (10, 6, 0.5, [0, 3, 4]),  # the drawing in the docstring
        (12, 6, 0.5, [0, 3, 6]),
        (6, 6, 0.5, [0]),
        (4, 6, 0.5, [0]),  # smaller than a window
        (7, 6, 0.5, [0, 1]),
        (12, 6, 0.0, [0, 6]),
        (5, 1, 0.9, [0, 1, 2, 3, 4]),
    ],
)
def test_where_windows_begin(length, window, overlap, starts):
    assert along_x(length, window, overlap) == starts


def test_windows_of_the_paper_s_median_volume():
    """267 x 254 x 104 voxels, windows of 160 x 160 x 80."""
    found = window_corners((267, 254, 104), (160, 160, 80))
    assert found == list(itertools.product((0, 80, 107), (0, 80, 94), (0, 24)))


@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([0, 0.25, 0.5, 0.75, 0.9]))
def test_windows_cover_all_and_overlap_enough(length, window, overlap):
    starts = along_x(length, window, overlap)
    assert starts[0] == 0 and (starts[-1] + window == length or length <= window)
    for first, second in itertools.pairwise(starts):
        assert 1 <= second - first <= max(1, window * (1 - overlap) + 1e-9)


# ----------------------------------------------------------------------------------------------------------------------- merge


def constant(value, shape):
    return np.full((*shape, 1), value, np.float32)


def test_a_merge_in_a_row_is_the_plain_mean():
    """
    a a a a a a               a = 1
          b b b b b b         b = 4
            c c c c c c       c = 7
    """
    parts = [((start, 0, 0), constant(value, (6, 1, 1))) for start, value in ((0, 1), (3, 4), (4, 7))]
    merged = merge(parts, (10, 1, 1))
    assert merged[:, 0, 0, 0].tolist() == [1, 1, 1, 2.5, 4, 4, 5.5, 5.5, 5.5, 7]
    assert merged.dtype == np.float32


def test_four_overlapping_windows():
    """3 x 3 windows of 0, 4, 8 and 12 in the corners of 4 x 4; each voxel lies in 1, 2 or 4 of them."""
    starts = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    parts = [(start, constant(4 * number, (3, 3, 1))) for number, start in enumerate(starts)]
    expected = picture("""
        0  2  2  4
        4  6  6  8
        4  6  6  8
        8 10 10 12
    """)
    np.testing.assert_array_equal(merge(parts, (4, 4, 1))[..., 0], expected)


def test_what_lies_beyond_the_volume_is_left_out():
    assert merge([((1, 0, 0), constant(5, (6, 3, 2)))], (3, 1, 1))[:, 0, 0, 0].tolist() == [0, 5, 5]


def test_what_lies_before_the_volume_is_left_out_too():
    values = np.array([9, 5, 6], np.float32).reshape(3, 1, 1, 1)
    assert merge([((-1, 0, 0), values)], (3, 1, 1))[:, 0, 0, 0].tolist() == [5, 6, 0]


def test_channels_stay_apart():
    parts = [((0, 0, 0), np.array([[[[0.25, 0.75]]]], np.float32)), ((0, 0, 0), np.array([[[[0.75, 0.25]]]], np.float32))]
    assert merge(parts, (1, 1, 1)).tolist() == [[[[0.5, 0.5]]]]


@given(sizes, sizes, st.sampled_from([0, 0.3, 0.5, 0.75]))
def test_crops_merged_are_the_volume(volume_shape, window, overlap):
    volume = numbered(volume_shape)
    parts = ((corner, values[..., None]) for corner, values in windows(volume, window, overlap, fill=-1))
    np.testing.assert_array_equal(merge(parts, volume_shape)[..., 0], volume)
