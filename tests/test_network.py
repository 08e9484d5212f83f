"""Parameter counts of the paper, shapes in and out, flat levels, seeds."""

import dataclasses
import importlib
import os

import keras
import numpy as np
import pytest
from keras import layers, ops

import covidlib
from covidlib.engine import has_bfloat16
from covidlib.network import FusedBatchNormalization, FusedInstanceNormalization, begin_with, build_network
from covidlib.profile import Network, load_profile

TINY = (2, 3, 4)


def forward(model, *shape):
    image = np.random.default_rng(0).normal(size=(1, *shape, 1)).astype(np.float32)
    return ops.convert_to_numpy(model(image, training=False))


def test_the_paper_s_network_has_22_587_204_parameters():
    model = build_network(load_profile("paper").network)
    assert model.count_params() == 22_587_204
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 22_581_316


def test_two_levels_counted_by_hand():
    """Filters 2 and 3; a convolution has 27 x in x out + out, a normalization 4 x out, of which 2 x out are trained."""
    down = (27 * 1 * 2 + 2) + 8 + (27 * 2 * 2 + 2) + 8
    bottom = (27 * 2 * 3 + 3) + 12 + (27 * 3 * 3 + 3) + 12
    up = 8 * 3 * 2 + 2
    merge = (27 * 4 * 2 + 2) + 8 + (27 * 2 * 2 + 2) + 8
    classes = 2 * 4 + 4
    model = build_network(Network(filters=(2, 3)))
    assert model.count_params() == down + bottom + up + merge + classes


def test_the_order_is_convolution_relu_normalization_twice_a_level():
    model = build_network(Network(filters=TINY))
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv3D) and layer.name != "classes"]
    assert len(convolutions) == 2 * 5 and all(layer.kernel_size == (3, 3, 3) for layer in convolutions)
    assert all(layer.activation.__name__ == "relu" for layer in convolutions)
    normalized = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert all(layer.input is convolution.output for layer, convolution in zip(normalized, convolutions, strict=True))
    assert {layer.momentum for layer in normalized} == {0.99}


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 1, 3), (5, 2, 1)])
@pytest.mark.parametrize("flat_levels", [0, 1, 2])
def test_any_size_that_the_smallest_step_divides(factors, flat_levels):
    settings = Network(filters=TINY, flat_levels=flat_levels, flat_kernels=bool(flat_levels))
    shape = [step * factor for step, factor in zip(settings.smallest_step, factors, strict=True)]
    probabilities = forward(build_network(settings), *shape)
    assert probabilities.shape == (1, *shape, 4) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert probabilities.min() >= 0


def test_flat_levels_pool_and_convolve_in_plane_only():
    model = build_network(Network(filters=TINY, flat_levels=1, flat_kernels=True))
    assert [model.get_layer(f"pool{level}").pool_size for level in (0, 1)] == [(2, 2, 1), (2, 2, 2)]
    assert [model.get_layer(f"up{level}").strides for level in (0, 1)] == [(2, 2, 1), (2, 2, 2)]
    kernels = {name: model.get_layer(name).kernel_size for name in ("down0a", "merge0b", "down1a", "merge1b", "bottoma")}
    flat, cube = (3, 3, 1), (3, 3, 3)
    assert kernels == {"down0a": flat, "merge0b": flat, "down1a": cube, "merge1b": cube, "bottoma": cube}
    cubic = build_network(Network(filters=TINY, flat_levels=1, flat_kernels=False))
    assert cubic.get_layer("down0a").kernel_size == cube


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (3, 1, 2)])
def test_a_stride_takes_blocks_of_voxels_in_as_one(stride):
    """The input's levels are those of the coarse network: kernels three blocks wide, and only the last layer is as fine again."""
    settings = Network(filters=TINY, flat_levels=1, flat_kernels=True, stride=stride)
    model, step = build_network(settings), (4, 4, 2)
    assert settings.smallest_step == tuple(np.multiply(step, stride))
    assert model.get_layer("down0a").kernel_size == tuple(np.multiply((3, 3, 1), stride))
    assert model.get_layer("down0b").kernel_size == model.get_layer("merge0b").kernel_size == (3, 3, 1)
    shape = np.multiply(settings.smallest_step, 2)
    middle = keras.Model(model.input, model.get_layer("merge0b").output)
    assert forward(middle, *shape).shape[1:4] == tuple(shape // stride) and forward(model, *shape).shape[1:4] == tuple(shape)


def test_a_network_that_begins_with_a_coarse_one_predicts_in_each_block_what_that_one_does():
    coarse, settings = Network(filters=TINY, flat_levels=1, norm="instance"), {"stride": (2, 2, 3)}
    small, large = build_network(coarse, 1), build_network(dataclasses.replace(coarse, **settings), 2)
    image = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
    blocks = image.repeat(2, 0).repeat(2, 1).repeat(3, 2)
    noise = np.random.default_rng(1).normal(size=blocks.shape)
    within = noise.reshape(8, 2, 8, 2, 4, 3) - noise.reshape(8, 2, 8, 2, 4, 3).mean((1, 3, 5), keepdims=True)
    begin_with(large, small)
    expected, found = (ops.convert_to_numpy(net(x[None, ..., None])) for net, x in ((small, image), (large, blocks)))
    np.testing.assert_allclose(found[0], expected[0].repeat(2, 0).repeat(2, 1).repeat(3, 2), atol=1e-4)
    varied = ops.convert_to_numpy(large((blocks + within.reshape(blocks.shape))[None, ..., None].astype(np.float32)))
    np.testing.assert_allclose(varied, found, atol=1e-4)  # of a block only the mean counts


def test_a_network_cannot_begin_with_one_of_other_filters():
    with pytest.raises(ValueError, match="shape"):
        begin_with(build_network(Network(filters=(2, 3), stride=(2, 2, 2))), build_network(Network(filters=(2, 4))))


def test_the_seed_decides_the_weights():
    one, same, other = (build_network(Network(filters=(2, 3)), seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


PRECISIONS = next(field for field in dataclasses.fields(Network) if field.name == "precision").metadata["choices"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_a_profile_may_name_runs_with_weights_and_probabilities_in_float32(precision):
    model = build_network(Network(filters=(2, 3), precision=precision))
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    expected = "bfloat16" if precision == "mixed_bfloat16" and has_bfloat16() else "float32"
    assert model.get_layer("down0a").compute_dtype == expected
    probabilities = forward(model, 4, 4, 2)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("fused", "plain"),
    [(FusedBatchNormalization(), layers.BatchNormalization()), (FusedInstanceNormalization(), layers.GroupNormalization(-1))],
)
def test_fused_normalization_gives_what_keras_gives(fused, plain):
    image = np.random.default_rng(0).normal(2, 3, (2, 8, 6, 4, 5)).astype(np.float32)
    for _ in range(2):
        outputs = [ops.convert_to_numpy(layer(image, training=True)) for layer in (fused, plain)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    for one, other in zip(fused.weights, plain.weights, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-3)


def test_instance_normalization_takes_each_patch_and_map_by_itself():
    """Whatever is added to or multiplied on one map of one patch, it comes out with mean 0 and deviation 1."""
    image = np.random.default_rng(0).normal(size=(2, 8, 6, 4, 3)).astype(np.float32)
    moved = image * np.array([5, 1, 2], np.float32) + np.arange(6, dtype=np.float32).reshape(2, 1, 1, 1, 3)
    one, other = (ops.convert_to_numpy(FusedInstanceNormalization(epsilon=1e-9)(x)) for x in (image, moved))
    np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(other.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(other.std((1, 2, 3)), 1, rtol=1e-4)


@pytest.mark.parametrize(("given", "then"), [(None, "1"), ("0", "0")])
def test_the_quick_kernels_are_on_unless_the_environment_says_otherwise(given, then, monkeypatch):
    if given is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    else:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    importlib.reload(covidlib)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == then
