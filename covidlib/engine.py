"""A profile's network and a weight file in; the same network, computed by OpenVINO, out. For prediction on a processor.

OpenVINO is ready in half a second where TensorFlow takes three and more, and needs less memory. `network` says what the network
is; here it is said again in OpenVINO's words, and a test holds the two to the same probabilities.
"""

import contextlib
import math
import os
import platform
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from covidlib.dataset import CLASSES
from covidlib.profile import Network

EPSILON = 1e-3  # Keras' own, in both normalizations
SPATIAL = np.array([2, 3, 4])  # axes of (B, C, X, Y, Z)
CARDS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and any under Windows' WSL


class Engine:
    """A network for volumes of any size that `settings.smallest_step` divides; called as a Keras model is, by one thread or many.

    at_once: calls that are computed at the same time, each on its share of the cores; further ones wait.
    """

    def __init__(self, settings: Network, file: Path, at_once: int = 1):
        """Read the weights that Keras wrote to a file, in single or half precision.

        Raises:
            ValueError, KeyError, OSError: not the weights of this network, all of them.
        """
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": cores(), "NUM_STREAMS": at_once, "ENABLE_CPU_PINNING": False}
        options["INFERENCE_PRECISION_HINT"] = "bf16" if in_half_precision(settings) else "f32"
        self.compiled = _openvino().Core().compile_model(_unet(settings, file), "CPU", options)
        self.at_once, self.idle = at_once, SimpleQueue()
        for _ in range(at_once):
            self.idle.put(self.compiled.create_infer_request())

    def __call__(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        """(1, X, Y, Z, 1) float32 to (1, X, Y, Z, 4) float32 probabilities."""
        request = self.idle.get()
        try:
            return request.infer([images.reshape(1, 1, *images.shape[1:4])])[0]
        finally:
            self.idle.put(request)

    def release(self) -> None:
        """Give back what the last calls computed in; where another thread's call still runs, that one's release will."""
        with contextlib.suppress(RuntimeError):
            self.compiled.release_memory()


def cores() -> int:
    """Those that this process may use; or as many as its share of a run is."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or there)


def computed_in(settings: Network) -> str:
    """The Keras dtype policy: `settings.precision`; but float32 in place of mixed_bfloat16 where that would be emulated.

    A processor without instructions for bfloat16 takes more than twice as long for it as for float32, as measured.
    """
    return settings.precision if has_bfloat16() else "float32"


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Keras has a graphics card, or the processor computes in bfloat16, as Linux's `cpuinfo` says."""
    words = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.is_file() else set()
    return has_gpu() or bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def in_half_precision(settings: Network) -> bool:
    """Whether OpenVINO computes the network in bfloat16, which on a processor it can with x86's instructions only."""
    return computed_in(settings) == "mixed_bfloat16" and platform.machine() in ("x86_64", "AMD64")


def has_gpu() -> bool:
    """Whether Keras' backend computes on a graphics card. TensorFlow is not loaded to be asked where there is no sign of one."""
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras else os.environ.get("KERAS_BACKEND")
    try:
        if backend == "jax":
            import jax

            return jax.default_backend() != "cpu"
        if "tensorflow" not in sys.modules and not any(map(os.path.exists, CARDS)):
            return False
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    except ImportError:
        return False


def _openvino() -> Any:
    """The package, without the one that would tell its makers of each use: nothing leaves this machine."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class _Layers:
    """OpenVINO's layers on (B, C, X, Y, Z), with the arrays of a weight file, which are taken in the network's order."""

    def __init__(self, settings: Network, file: Path):
        import h5py

        _openvino()
        from openvino import opset7

        self.op, self.settings = opset7, settings
        with h5py.File(file) as stored:
            found = {name: layer["vars"] for name, layer in stored["layers"].items()}
            single = {name: [held[key].astype(np.float32)[()] for key in sorted(held)] for name, held in found.items()}
        self.arrays = {name: arrays for name, arrays in single.items() if arrays}
        self.taken: dict[str, int] = {}

    def take(self, kind: str, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        """The arrays of the next layer of a kind, as Keras names them; ValueError unless they have these shapes."""
        number = self.taken[kind] = self.taken.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        if name not in self.arrays:
            raise ValueError(f"no {name} in it")
        arrays = self.arrays.pop(name)
        if [array.shape for array in arrays] != list(shapes):
            raise ValueError(f"{name}: arrays of {[array.shape for array in arrays]}, not {list(shapes)}")
        return arrays

    def convolve(self, x: Any, kernel: tuple[int, ...], filters: int, stride: tuple[int, ...] = (1, 1, 1)) -> Any:
        """Convolution whose result has the size of `x` by the stride, its kernel as many times as large, with its bias."""
        kernel = tuple(k * s for k, s in zip(kernel, stride, strict=True))
        weights, bias = self.take("conv3d", (*kernel, _maps(x), filters), (filters,))
        around = [(k - s) // 2 for k, s in zip(kernel, stride, strict=True)]
        return self.op.add(self.op.convolution(x, _kernel(weights), list(stride), around, around, [1] * 3), _per_map(bias))

    def up(self, x: Any, pool: tuple[int, ...], filters: int) -> Any:
        """Transposed convolution that undoes a pooling, or a stride, with its bias."""
        weights, bias = self.take("conv3d_transpose", (*pool, filters, _maps(x)), (filters,))
        larger = self.op.convolution_backprop_data(
            x, _kernel(weights), list(pool), pads_begin=[0] * 3, pads_end=[0] * 3, dilations=[1] * 3
        )
        return self.op.add(larger, _per_map(bias))

    def to_classes(self, x: Any) -> Any:
        """Probabilities (1, X, Y, Z, classes) by the last convolution.

        Where that one is transposed, each voxel of a block is computed as maps of its own, which are then put in their places: in
        half of the time of OpenVINO's transposed convolution and all that follows it.
        """
        op, stride, classes = self.op, self.settings.stride, len(CLASSES)
        if stride == (1, 1, 1):
            return op.transpose(op.softmax(self.convolve(x, (1, 1, 1), classes), 1), _constant(np.array([0, 2, 3, 4, 1])))
        weights, bias = self.take("conv3d_transpose", (*stride, classes, _maps(x)), (classes,))
        kernel = weights.reshape(1, 1, 1, -1, _maps(x)).swapaxes(3, 4)
        voxels = op.convolution(x, _kernel(kernel), [1] * 3, [0] * 3, [0] * 3, [1] * 3)
        voxels = op.add(voxels, _per_map(np.tile(bias, math.prod(stride))))
        sides = [op.gather(op.shape_of(x), _constant(np.array([axis])), _constant(np.array(0))) for axis in SPATIAL]
        shares = op.softmax(self.reshape(voxels, -1, classes, *sides), 1)
        apart = op.transpose(self.reshape(shares, *stride, classes, *sides), _constant(np.array([4, 0, 5, 1, 6, 2, 3])))
        whole = [op.multiply(side, _constant(np.array([step]))) for side, step in zip(sides, stride, strict=True)]
        return self.reshape(apart, 1, *whole, classes)

    def reshape(self, x: Any, *sides: Any) -> Any:
        """The values of `x` on these sides, numbers or what is known of the input only when it comes."""
        parts = [_constant(np.array([side])) if isinstance(side, int) else side for side in sides]
        return self.op.reshape(x, self.op.concat(parts, 0), False)

    def pool(self, x: Any, pool: tuple[int, ...]) -> Any:
        """The largest of each cell."""
        return self.op.max_pool(x, list(pool), [0] * 3, [0] * 3, list(pool))

    def normalize(self, x: Any) -> Any:
        """By each map's own mean and variance, or by the running ones of the training."""
        maps = (_maps(x),)
        if self.settings.norm == "instance":
            scale, offset = self.take("fused_instance_normalization", maps, maps)
            x = self.op.mvn(x, _constant(SPATIAL), True, EPSILON, "inside_sqrt")
        else:
            scale, offset, mean, variance = self.take("fused_batch_normalization", maps, maps, maps, maps)
            scale = scale / np.sqrt(variance + EPSILON)
            offset = offset - mean * scale
        return self.op.add(self.op.multiply(x, _per_map(scale)), _per_map(offset))

    def two_convolutions(self, x: Any, level: int, stride: tuple[int, ...] = (1, 1, 1)) -> Any:
        """Twice convolution, ReLU and normalization, as each level has them on its way down and up."""
        kernel, filters = self.settings.kernel(level), self.settings.filters[level]
        for step in (stride, (1, 1, 1)):
            x = self.normalize(self.op.relu(self.convolve(x, kernel, filters, step)))
        return x


def _unet(settings: Network, file: Path) -> Any:
    """`network.build_network`, step by step; ValueError if arrays of the file are left."""
    layers, skips, depth = _Layers(settings, file), [], len(settings.filters) - 1
    op = layers.op
    image = x = op.parameter(_openvino().PartialShape([1, 1, -1, -1, -1]), np.float32)
    for level in range(depth):
        x = layers.two_convolutions(x, level, (1, 1, 1) if level else settings.stride)
        skips.append(x)
        x = layers.pool(x, settings.pool(level))
    x = layers.two_convolutions(x, depth)
    for level in reversed(range(depth)):
        x = op.concat([layers.up(x, settings.pool(level), settings.filters[level]), skips[level]], 1)
        x = layers.two_convolutions(x, level)
    x = layers.to_classes(x)
    if layers.arrays:
        raise ValueError(f"arrays of {', '.join(layers.arrays)} besides the network's")
    return _openvino().Model([x], [image])


def _maps(x: Any) -> int:
    return x.get_output_partial_shape(0)[1].get_length()


def _kernel(weights: np.ndarray) -> Any:
    """A kernel from Keras' order (X, Y, Z, ...) to OpenVINO's."""
    return _constant(np.ascontiguousarray(weights.transpose(4, 3, 0, 1, 2)))


def _per_map(values: np.ndarray) -> Any:
    return _constant(values.reshape(1, -1, 1, 1, 1))


def _constant(values: np.ndarray) -> Any:
    """Copied at once; `opset.constant` takes a list of Python's numbers, a second for 22 million."""
    return _openvino().op.Constant(values)
