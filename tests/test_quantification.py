"""Volumes, percents, sides and lesions of labels small enough to count by hand; agreement of two measurements."""

import numpy as np
import pytest

from covidlib.quantification import agreement, lesion_volumes_ml, quantify, quantify_fold, severity

MM = (10.0, 10.0, 10.0)  # a voxel is 1 mL


@pytest.fixture
def labels():
    """Along x: two of the right lung, an infected one, two of background, an infected one, three of the left lung; 10 slices."""
    return np.tile(np.array([2, 2, 3, 0, 0, 3, 1, 1, 1], np.uint8)[:, None, None], (1, 1, 10))


def test_milliliters_and_percent_counted_by_hand(labels):
    found = quantify(labels, MM)
    assert (found["lung_ml"], found["infection_ml"]) == (70, 20)
    assert (found["right_lung_ml"], found["right_infection_ml"]) == (30, 10)
    assert (found["left_lung_ml"], found["left_infection_ml"]) == (40, 10)
    assert found["infected_percent"] == pytest.approx(100 * 2 / 7)
    assert (found["right_infected_percent"], found["left_infected_percent"]) == (pytest.approx(100 / 3), 25)
    assert (found["lesions"], found["largest_lesion_ml"], found["severity"]) == (2, 10, "CT-2")


def test_volumes_follow_the_spacing(labels):
    assert quantify(labels, (5, 10, 10))["lung_ml"] == 35
    assert quantify(labels, (5, 10, 10))["infected_percent"] == quantify(labels, MM)["infected_percent"]


def test_mean_hu_only_where_there_is_hu_and_infection(labels):
    image = np.where(labels == 3, -600.0, 0.0)
    image[2, 0, 0] = -400
    assert quantify(labels, MM, image, "hu")["infection_mean_hu"] == -590
    for found in (quantify(labels, MM, image, "grey"), quantify(labels, MM), quantify(labels * (labels < 3), MM, image, "hu")):
        assert np.isnan(found["infection_mean_hu"])


def test_lesions_touch_at_corners_and_specks_do_not_count():
    infected = np.zeros((6, 6, 2), bool)
    infected[0, 0, 0] = infected[1, 1, 1] = True  # one piece of two voxels
    infected[4, 4, 0] = True
    assert sorted(lesion_volumes_ml(infected, 1.0)) == [1, 2]
    found = quantify(np.where(infected, 3, 1), (4, 4, 4))  # 0.064 mL a voxel: one lesion of 0.128 mL, and a speck
    assert (found["lesions"], found["largest_lesion_ml"]) == (1, pytest.approx(0.128))


def test_without_lung_there_is_no_percent_but_a_volume():
    found = quantify(np.full((2, 2, 2), 3), MM)
    assert found["infection_ml"] == 8 and found["lung_ml"] == 0 and found["severity"] == ""
    assert all(np.isnan(found[f"{side}infected_percent"]) for side in ("", "left_", "right_"))


def test_nothing_at_all():
    found = quantify(np.zeros((2, 2, 2)), MM)
    assert (found["lung_ml"], found["infection_ml"], found["lesions"], found["largest_lesion_ml"]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("percent", "band"),
    [(0, "CT-0"), (0.01, "CT-1"), (24.9, "CT-1"), (25, "CT-2"), (49.9, "CT-2"), (50, "CT-3"), (75, "CT-3"), (75.1, "CT-4"),
     (100, "CT-4"), (float("nan"), "")],
)  # fmt: skip
def test_bands(percent, band):
    assert severity(percent) == band


def test_agreement_by_hand():
    """Differences 1, 3, 2 of mean 2 and deviation 1."""
    found = agreement([10, 20, 30, np.nan], [11, 23, 32, 5])
    assert (found["n"], found["mean_difference"]) == (3, 2)
    assert (found["low"], found["high"]) == (pytest.approx(0.04), pytest.approx(3.96))
    assert found["correlation"] == pytest.approx(np.corrcoef([10, 20, 30], [11, 23, 32])[0, 1])


def test_agreement_of_too_few_or_equal_values_is_undefined():
    assert np.isnan(list(agreement([], []).values())[1:]).all()
    one = agreement([1], [2])
    assert one["mean_difference"] == 1 and np.isnan(one["low"]) and np.isnan(one["correlation"])
    assert np.isnan(agreement([5, 5], [1, 2])["correlation"])
    assert np.isnan(agreement([0.1] * 10, range(10))["correlation"])  # of which the mean is not quite 0.1


def test_a_fold_gives_two_rows_a_case(trained_run):
    from covidlib.inference import predict_fold

    predict_fold(trained_run, 0)
    table = quantify_fold(trained_run, 0)
    assert list(table["source"]) == ["truth", "prediction"] * 2 and set(table["case"]) == set(trained_run.folds[0].test)
    case = trained_run.case(table["case"][0])
    assert table["infection_ml"][0] == pytest.approx((case.labels == 3).sum() * 4 * 4 * 6 / 1000)
