"""Pieces too small to be what they are called, in rows one can count."""

import numpy as np
import pytest

from covidlib.postprocessing import decide, doubt, drop_specks, lung_sides
from covidlib.profile import Inference

CUBE_CM = (10, 10, 10)  # a voxel is a milliliter


def row(text):
    """Digits to labels (n, 1, 1); a dot is background."""
    return np.array([0 if word == "." else int(word) for word in text.split()], np.uint8)[:, None, None]


@pytest.mark.parametrize(
    ("given", "lung_ml", "infection_ml", "left"),
    [
        ("1 1 1 . 2 2 2 2", 0, 0, "1 1 1 . 2 2 2 2"),
        ("1 1 1 . 2 2 2 2", 4, 0, ". . . . 2 2 2 2"),  # 3 mL are fewer than 4
        ("1 1 1 . 2 2 2 2", 3, 0, "1 1 1 . 2 2 2 2"),  # 3 mL are not fewer than 3
        ("1 3 3 1 . 2 2 2", 4, 0, "1 3 3 1 . . . ."),  # lung and infection count together
        ("1 3 1 1 2 3 3 2", 0, 2, "1 1 1 1 2 3 3 2"),  # a speck of 1 mL becomes the lung around it
        ("1 1 . 3 . 2 2 2", 2, 2, "1 1 . . . 2 2 2"),  # one outside of any lung is gone before
        (". 3 3 . . . . .", 0, 3, ". . . . . . . ."),  # without any lung there is nothing else it could be
    ],
)
def test_specks(given, lung_ml, infection_ml, left):
    settings = Inference(smallest_lung_ml=lung_ml, smallest_infection_ml=infection_ml)
    np.testing.assert_array_equal(drop_specks(row(given), CUBE_CM, settings), row(left))


def test_voxels_that_touch_at_a_corner_are_one_piece():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 3
    assert (drop_specks(labels, CUBE_CM, Inference(smallest_infection_ml=2)) == labels).all()
    labels[1, 1, 1] = 0
    assert not drop_specks(labels, CUBE_CM, Inference(smallest_infection_ml=2)).any()


def test_only_the_pieces_with_most_of_each_lung_stay():
    """Left lung 3 voxels with infection at its end; 2 voxels of left lung elsewhere; right lung 1 voxel; infection alone."""
    given, left = "1 1 1 3 . 1 1 . 2 . 3", "1 1 1 3 . . . . 2 . ."
    np.testing.assert_array_equal(drop_specks(row(given), CUBE_CM, Inference(two_lungs=True)), row(left))
    one = "1 1 2 2 . 2"  # both lungs in one piece
    np.testing.assert_array_equal(drop_specks(row(one), CUBE_CM, Inference(two_lungs=True)), row("1 1 2 2 . ."))
    assert not drop_specks(row("3 3 . 3"), CUBE_CM, Inference(two_lungs=True)).any()


def test_infection_is_taken_from_a_lower_probability_when_it_weighs_more():
    """Infection with 0.3, 0.4 and 0.6: more than half of the rest from a weight of 2 on."""
    share = np.array([0.3, 0.4, 0.6], np.float32).reshape(3, 1, 1)
    probabilities = np.stack([0 * share, 1 - share, 0 * share, share], 3)
    found = {w: decide(probabilities, (3, 1, 1), CUBE_CM, Inference(infection_weight=w)).ravel().tolist() for w in (1, 2, 3)}
    assert found == {1: [1, 1, 3], 2: [1, 3, 3], 3: [3, 3, 3]}


def infected(*shares):
    """Probabilities of voxels in a row: infection's as given, the rest left lung."""
    share = np.array(shares, np.float32).reshape(-1, 1, 1)
    return np.stack([0 * share, 1 - share, 0 * share, share], 3)


def test_doubt_is_what_is_unsure_of_the_infection():
    assert doubt(infected(1, 1, 0)) == 0
    assert doubt(infected(0.5, 0.5, 0)) == 0.5
    assert doubt(infected(1, 0.5, 0.5)) == pytest.approx((0 + 0.25 + 0.25) / 2)
    assert doubt(infected(0, 0)) == 0


def test_infection_weighs_nothing_extra_in_a_scan_that_is_doubted_far_more_than_is_typical():
    """Of 0.8, 0.8, 0.4 the doubt is 0.28. Where that is more than 2.5 times the typical doubt, 0.4 loses against 0.6."""
    probabilities = infected(0.8, 0.8, 0.4)
    assert doubt(probabilities) == pytest.approx((0.16 + 0.16 + 0.24) / 2)
    for typical, last in ((0.0, 3), (0.12, 3), (0.11, 1)):
        settings = Inference(infection_weight=2, typical_doubt=typical)
        assert decide(probabilities, (3, 1, 1), CUBE_CM, settings).ravel().tolist() == [3, 3, last]
    assert decide(probabilities, (3, 1, 1), CUBE_CM, settings, 0.2).ravel().tolist() == [3, 3, 3]  # another doubt was given


def test_an_infected_voxel_belongs_to_the_lung_that_is_nearest_in_mm():
    """Two voxels from the left lung along x, one from the right lung along y."""
    labels = np.zeros((4, 3, 1), np.uint8)
    labels[3, 0], labels[1, 0], labels[1, 1] = 1, 3, 2
    assert lung_sides(labels, (1, 1, 1))[1, 0, 0] == 2
    assert lung_sides(labels, (1, 5, 1))[1, 0, 0] == 1  # now 2 mm against 5 mm
    np.testing.assert_array_equal(lung_sides(labels, (1, 1, 1))[labels != 3], labels[labels != 3])


def test_in_a_large_box_the_nearest_lung_is_found_to_within_5_mm(monkeypatch):
    """Along x: 5 mm of left lung, 11 of infection, 5 of right lung; the middle of the infection is voxel 10."""
    labels = row("1 " * 5 + "3 " * 11 + "2 " * 5).repeat(4, 1).repeat(5, 2)
    monkeypatch.setattr("covidlib.postprocessing.EXACT", 0)
    sides = lung_sides(labels, (1, 1, 1))
    assert (sides[:8] == 1).all() and (sides[13:] == 2).all() and set(np.unique(sides[8:13])) <= {1, 2}
    lonely = row(". . 3 3 1 3 3 .")
    np.testing.assert_array_equal(lung_sides(lonely, (1, 1, 1)), row(". . 1 1 1 1 1 ."))
    thin = row("3 1 " + "3 " * 6 + ". " * 12 + "2 " * 9).repeat(4, 1).repeat(5, 2)  # one plane is left of the left lung
    assert (lung_sides(thin, (1, 1, 1))[:8] == 1).all()
