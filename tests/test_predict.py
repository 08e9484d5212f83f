"""Prediction of anyone's scans: every way of storing a scan gives the same labels; what a batch writes, skips and refuses."""


import numpy as np
import pytest
from variants import NEARLY, PLAIN, SPACING, VARIANTS, chest, dice, predict_variant, seeing_weights

from covidlib.predict import Predictor

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
