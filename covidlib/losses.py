"""Loss and metrics of training, in keras.ops: any Keras backend. Paper section 3.5, equations 1 to 3."""

from typing import Any

import keras
from keras import ops

from covidlib.dataset import CLASSES
from covidlib.profile import Loss


class TverskyCrossEntropy(keras.losses.Loss):
    """Tversky loss plus categorical cross-entropy.

    Tversky: N - sum over the N classes of TP / (TP + alpha FN + beta FP), with soft counts over the voxels of a sample, or of
    the whole batch (`counts`). A class absent from the counted voxels costs about 1 as soon as any probability falls on it, which
    is why counts over the batch train better on small patches. Cross-entropy: mean over voxels.
    """

    def __init__(self, settings: Loss, name: str = "tversky_cross_entropy"):
        """Weights and scope from the profile's `loss` section."""
        super().__init__(name=name)
        self.settings = settings

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss from labels (B, X, Y, Z) and probabilities (B, X, Y, Z, 4): one number."""
        truth, probabilities = one_hot(y_true), ops.cast(y_pred, "float32")
        tversky = ops.mean(tversky_loss(truth, probabilities, self.settings))
        entropy = -ops.mean(ops.sum(truth * ops.log(ops.clip(probabilities, 1e-7, 1.0)), axis=-1))
        return self.settings.tversky_weight * tversky + self.settings.cross_entropy_weight * entropy


SMOOTH = 1e-6


def one_hot(labels: Any) -> Any:
    """Labels (...) to float32 (..., 4)."""
    return ops.one_hot(ops.cast(labels, "int32"), len(CLASSES), dtype="float32")


def tversky_loss(truth: Any, probabilities: Any, settings: Loss) -> Any:
    """N minus the summed Tversky indices: one value per sample (B,), or (1,) when counts run over the batch. Equation 2."""
    axes = (1, 2, 3) if settings.counts == "sample" else (0, 1, 2, 3)
    hit = ops.sum(truth * probabilities, axis=axes)
    missed = ops.sum(truth, axis=axes) - hit
    wrong = ops.sum(probabilities, axis=axes) - hit
    index = (hit + SMOOTH) / (hit + settings.alpha * missed + settings.beta * wrong + SMOOTH)
    return len(CLASSES) - ops.reshape(ops.sum(index, axis=-1), (-1,))


class SoftDice(keras.metrics.Metric):
    """Soft Dice 2 TP / (2 TP + FN + FP) of some classes together, with counts summed over all patches of an epoch."""

    def __init__(self, classes: tuple[int, ...], name: str):
        """`classes`: label numbers, e.g. (1, 2) for both lungs."""
        super().__init__(name=name, dtype="float32")
        self.classes = classes
        self.hit = self.add_weight(shape=(), initializer="zeros", name="hit")
        self.size = self.add_weight(shape=(), initializer="zeros", name="size")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add one batch: labels (B, X, Y, Z) and probabilities (B, X, Y, Z, 4)."""
        truth, probabilities = one_hot(y_true), ops.cast(y_pred, "float32")
        for label in self.classes:
            self.hit.assign_add(ops.sum(truth[..., label] * probabilities[..., label]))
            self.size.assign_add(ops.sum(truth[..., label]) + ops.sum(probabilities[..., label]))

    def result(self) -> Any:
        """0 to 1; 0 before any batch."""
        return 2 * self.hit / ops.maximum(self.size, SMOOTH)
