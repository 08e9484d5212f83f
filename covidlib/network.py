"""A profile in, the 3D U-Net out. Paper section 3.5 and figure 3 (after Çiçek et al. 2016)."""

from typing import Any

import keras
import numpy as np
from keras import layers

from covidlib.dataset import CLASSES
from covidlib.engine import computed_in
from covidlib.profile import Network


def build_network(settings: Network, seed: int = 0) -> keras.Model:
    """Standard 3D U-Net for volumes of any size that `settings.smallest_step` divides.

    Two (3 x 3 x 3 convolution, ReLU, batch normalization) per level, max pooling down, transposed convolution up, concatenated
    skips, 1 x 1 x 1 convolution and softmax. With the paper's five levels of 32 to 512 filters: 22,587,204 parameters.

    Args:
        settings: filters per level, precision; `flat_levels` finest levels are pooled (and, with `flat_kernels`, convolved) in
            plane only, for slices thicker than pixels. With a `stride` the first convolution, its kernel as many times as large,
            takes blocks of voxels in as one, and a transposed convolution gives each voxel of a block its own probabilities: a
            finer grid for nearly the work of the coarse one.
        seed: of the random weights (Glorot uniform).

    Returns:
        model: (B, X, Y, Z, 1) float32 -> (B, X, Y, Z, 4) float32 probabilities.
    """
    keras.utils.set_random_seed(seed)
    depth = len(settings.filters) - 1
    options: dict[str, Any] = {"dtype": computed_in(settings)}
    inputs = x = keras.Input((None, None, None, 1), name="image")
    skips = []
    for level in range(depth):
        x = _two_convolutions(x, level, settings, f"down{level}", options, (1, 1, 1) if level else settings.stride)
        skips.append(x)
        x = layers.MaxPooling3D(settings.pool(level), name=f"pool{level}", **options)(x)
    x = _two_convolutions(x, depth, settings, "bottom", options)
    for level in reversed(range(depth)):
        pool = settings.pool(level)
        x = layers.Conv3DTranspose(settings.filters[level], pool, pool, padding="same", name=f"up{level}", **options)(x)
        x = layers.Concatenate(name=f"skip{level}", **options)([x, skips[level]])
        x = _two_convolutions(x, level, settings, f"merge{level}", options)
    stride = settings.stride
    last = layers.Conv3D if stride == (1, 1, 1) else layers.Conv3DTranspose
    x = last(len(CLASSES), stride, stride, name="classes", **options)(x)
    outputs = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="unet3d")


def begin_with(model: keras.Model, coarse: keras.Model) -> None:
    """Give a network with a stride the weights of the same network without one, trained on a grid as many times as coarse.

    At first it predicts for every voxel of a block what the other predicts of the mean of each block.

    Raises:
        ValueError: networks that differ in more than the stride.
    """
    for layer, source in zip(model.layers, coarse.layers, strict=True):
        arrays = source.get_weights()
        if layer.name in ("down0a", "classes") and arrays[0].shape != layer.get_weights()[0].shape:
            arrays[0] = arrays[0] / np.prod(layer.strides) if layer.name == "down0a" else arrays[0].swapaxes(3, 4)
            for axis, times in enumerate(layer.strides):
                arrays[0] = arrays[0].repeat(times, axis)
        layer.set_weights(arrays)


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalization by TensorFlow's fused kernel, on a CPU an eighth of the time of Keras' own in 3D; elsewhere Keras' own.

    The kernel takes 4-D input, so two axes are folded; in bfloat16 it reads bfloat16 and counts in float32.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """(B, X, Y, Z, C) to the same, with the batch's mean and variance in training, else the moving ones."""
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training, mask)
        import tensorflow as tf

        learning = bool(training and self.trainable)
        batch, x, y, z, _ = tf.unstack(tf.shape(inputs))
        known = ([], []) if learning else map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
        known_mean, known_variance = known
        out, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, (batch, x * y, z, inputs.shape[-1])),
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=known_mean,
            variance=known_variance,
            epsilon=self.epsilon,
            is_training=learning,
        )
        if learning:
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return tf.reshape(out, tf.shape(inputs))


class FusedInstanceNormalization(layers.GroupNormalization):
    """Every patch and feature map normalized by itself, by the same kernel: as if each patch's maps were maps of their own."""

    def __init__(self, **options: Any):
        """One group per feature map."""
        super().__init__(**{**options, "groups": -1})

    def call(self, inputs: Any) -> Any:
        """(B, X, Y, Z, C) to the same; in training and prediction alike."""
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs)
        import tensorflow as tf

        batch, x, y, z, _ = tf.unstack(tf.shape(inputs))
        maps = inputs.shape[-1]
        aside = tf.transpose(tf.reshape(inputs, (batch, x * y * z, maps)), (1, 0, 2))
        out = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(aside, (1, x * y, z, batch * maps)),
            scale=tf.tile(tf.cast(self.gamma, tf.float32), [batch]),
            offset=tf.tile(tf.cast(self.beta, tf.float32), [batch]),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        ).y
        return tf.reshape(tf.transpose(tf.reshape(out, (x * y * z, batch, maps)), (1, 0, 2)), tf.shape(inputs))


def _norm(settings: Network, **options: Any) -> layers.Layer:
    if settings.norm == "instance":
        return FusedInstanceNormalization(**options)
    return FusedBatchNormalization(momentum=settings.norm_momentum, **options)


def _two_convolutions(
    x: keras.KerasTensor,
    level: int,
    settings: Network,
    name: str,
    options: dict[str, Any],
    stride: tuple[int, int, int] = (1, 1, 1),
) -> keras.KerasTensor:
    options = {"padding": "same", "activation": "relu", **options}
    for part, step in (("a", stride), ("b", (1, 1, 1))):
        kernel = tuple(k * s for k, s in zip(settings.kernel(level), step, strict=True))
        x = layers.Conv3D(settings.filters[level], kernel, step, name=f"{name}{part}", **options)(x)
        x = _norm(settings, name=f"{name}{part}_norm", dtype=options["dtype"])(x)
    return x
