"""The loss computed by hand on two voxels, and on two samples where the scope of the counts matters; soft Dice."""

from math import log

import numpy as np
import pytest
from keras import ops

from covidlib.losses import SoftDice, TverskyCrossEntropy, tversky_loss
from covidlib.profile import Loss

#                 background, left, right, infection
UNSURE = [0.25, 0.25, 0.25, 0.25]
SURE_OF = np.eye(4).tolist()


def voxels(*rows):
    """Rows along x: labels (1, X, 1, 1) or probabilities (1, X, 1, 1, 4)."""
    rows = np.array(rows)
    return rows.reshape(1, len(rows), 1, 1, *rows.shape[1:])


def loss(labels, probabilities, **settings):
    return float(TverskyCrossEntropy(Loss(**settings))(labels, probabilities.astype(np.float32)))


TWO_LABELS = voxels(0, 3)
TWO_PROBABILITIES = voxels([0.5, 0.5, 0, 0], [0.2, 0, 0, 0.8])


def test_cross_entropy_by_hand():
    """-(ln 0.5 + ln 0.8) / 2 = 0.458."""
    expected = -(log(0.5) + log(0.8)) / 2
    assert loss(TWO_LABELS, TWO_PROBABILITIES, tversky_weight=0.0) == pytest.approx(expected, rel=1e-5)


def test_tversky_by_hand():
    """TP / (TP + FN / 2 + FP / 2), two voxels, truth background and infection:

    background: TP 0.5, FN 0.5, FP 0.2   0.5 / 0.85
    left lung:  TP 0,   FN 0,   FP 0.5   0
    right lung: nothing anywhere         1
    infection:  TP 0.8, FN 0.2, FP 0     0.8 / 0.9
    """
    expected = 4 - (0.5 / 0.85 + 0 + 1 + 0.8 / 0.9)
    assert loss(TWO_LABELS, TWO_PROBABILITIES, cross_entropy_weight=0.0) == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_weighted_sum():
    tversky = loss(TWO_LABELS, TWO_PROBABILITIES, cross_entropy_weight=0.0)
    entropy = loss(TWO_LABELS, TWO_PROBABILITIES, tversky_weight=0.0)
    assert loss(TWO_LABELS, TWO_PROBABILITIES) == pytest.approx(tversky + entropy, rel=1e-5)
    weighted = loss(TWO_LABELS, TWO_PROBABILITIES, tversky_weight=2.0, cross_entropy_weight=3.0)
    assert weighted == pytest.approx(2 * tversky + 3 * entropy, rel=1e-5)


def test_alpha_weighs_what_is_missed_and_beta_what_is_wrong():
    """alpha 1, beta 0: background 0.5 / 1, left 0 / 0 counts as 1, right 1, infection 0.8 / 1."""
    assert loss(TWO_LABELS, TWO_PROBABILITIES, cross_entropy_weight=0.0, alpha=1.0, beta=0.0) == pytest.approx(
        4 - (0.5 + 1 + 1 + 0.8), rel=1e-4
    )
    # alpha 0, beta 1: background 0.5 / 0.7, left 0 / 0.5, right 1, infection 0.8 / 0.8
    assert loss(TWO_LABELS, TWO_PROBABILITIES, cross_entropy_weight=0.0, alpha=0.0, beta=1.0) == pytest.approx(
        4 - (0.5 / 0.7 + 0 + 1 + 1), rel=1e-4
    )


def test_counts_over_the_sample_or_over_the_batch():
    """Two samples of one voxel: background, half seen as infection; infection, seen.

    sample: first: background 0.5 / 0.75, infection 0 / 0.25, lungs 1 and 1; second: all 1.
    batch: background TP 0.5, FN 0.5: 0.5 / 0.75; infection TP 1, FP 0.5: 1 / 1.25; lungs 1 and 1.
    """
    labels = np.concatenate([voxels(0), voxels(3)])
    probabilities = np.concatenate([voxels([0.5, 0, 0, 0.5]), voxels(SURE_OF[3])]).astype(np.float32)
    first, second = 4 - (0.5 / 0.75 + 0 + 1 + 1), 0
    together = 4 - (0.5 / 0.75 + 1 / 1.25 + 1 + 1)
    assert loss(labels, probabilities, counts="sample", cross_entropy_weight=0.0) == pytest.approx((first + second) / 2, rel=1e-4)
    assert loss(labels, probabilities, counts="batch", cross_entropy_weight=0.0) == pytest.approx(together, rel=1e-4)
    truth = ops.one_hot(labels, 4)
    assert ops.convert_to_numpy(tversky_loss(truth, probabilities, Loss())).shape == (2,)
    assert ops.convert_to_numpy(tversky_loss(truth, probabilities, Loss(counts="batch"))).shape == (1,)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much():
    right = voxels(SURE_OF[0], SURE_OF[3])
    assert loss(TWO_LABELS, right) == pytest.approx(0, abs=1e-5)
    wrong = loss(TWO_LABELS, voxels(SURE_OF[3], SURE_OF[0]))
    assert wrong == pytest.approx(2 - log(1e-7), rel=1e-3)  # two classes at 0, and a logarithm cut at 1e-7
    assert loss(TWO_LABELS, voxels(UNSURE, UNSURE)) < wrong


def test_half_precision_probabilities_are_counted_in_single():
    """Sixteen thousand voxels of 0.999 would stick at 2048 if summed in half precision."""
    labels, probabilities = np.zeros((1, 64, 16, 16)), np.zeros((1, 64, 16, 16, 4), np.float16)
    probabilities[..., 0] = 1
    assert float(TverskyCrossEntropy(Loss())(labels, probabilities)) == pytest.approx(0, abs=1e-4)


def test_soft_dice_by_hand_and_summed_over_batches():
    """Infection: 2 x 0.8 / (1 + 0.8); then a second batch with 1 voxel missed: 2 x 0.8 / (2 + 0.8)."""
    dice = SoftDice((3,), "soft_dice_infection")
    assert float(dice.result()) == 0
    dice.update_state(TWO_LABELS, TWO_PROBABILITIES)
    assert float(dice.result()) == pytest.approx(1.6 / 1.8, rel=1e-5)
    dice.update_state(voxels(3), voxels(SURE_OF[0]))
    assert float(dice.result()) == pytest.approx(1.6 / 2.8, rel=1e-5)
    dice.reset_state()
    assert float(dice.result()) == 0


def test_soft_dice_of_both_lungs_counts_each_lung_as_itself():
    """Left found as right is no hit: 2 x (0 + 1) / (1 + 0 + 1 + 2)."""
    dice = SoftDice((1, 2), "soft_dice_lungs")
    dice.update_state(voxels(1, 2), voxels(SURE_OF[2], SURE_OF[2]))
    assert float(dice.result()) == pytest.approx(2 * 1 / (2 + 2), rel=1e-5)
