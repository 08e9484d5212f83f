"""A model and a volume in; probabilities on the working grid, and labels on the scan's own grid out. Paper section 3.4."""

import collections
import dataclasses
import functools
import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from covidlib.dataset import CLASSES, save_labels
from covidlib.engine import Engine, cores, has_gpu, in_half_precision
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, read_json, write_json
from covidlib.patches import Corner, crop, merge, windows
from covidlib.postprocessing import decide
from covidlib.preprocessing import Prepared, box_of
from covidlib.profile import Inference, Network, Profile
from covidlib.runs import Run

CODE = ("inference", "engine", "network", "patches", "preprocessing", "postprocessing", "dataset")
log = logging.getLogger("covidlib")
MARGIN = 8  # voxels around the body
Box = tuple[slice, ...]
EXCHANGED = [0, 2, 1, 3]  # left and right lung of CLASSES
Model = Callable[..., Any]  # (1, x, y, z, 1) float32, training=False -> (1, x, y, z, 4): of Keras or an Engine


def predict_volume(model: Model, volume: Prepared, profile: Profile) -> np.ndarray:
    """Class probabilities of a prepared volume.

    Args:
        model: from `load_model`, or Keras' own from `build_network`.
        volume: its image (x, y, z) is padded with air where it is smaller than a window or than what the network can pool.
        profile: its `inference.mode`, in the box around the body: "windows" (half overlapping, plain mean; the paper, but for the
            air around the body) or "volume" (all at once, or in as few tiles as fit `inference.memory_gb`; a fifth of the work);
            with `mirror_axes` the mean over mirror images, each mirrored back: a left lung seen in a mirror is a right one.

    Returns:
        float32 (x, y, z, 4), summing to 1 over the classes; outside of the body's box background.

    Raises:
        DataError: the smallest tiles need more memory than `memory_gb`.
    """
    body = body_box(volume.image, profile)
    return around_body(predict_body(model, volume, profile, body), body, volume.image.shape)


def predict_body(model: Model, volume: Prepared, profile: Profile, body: Box) -> np.ndarray:
    """`predict_volume` inside of the box `body` alone: float32 (x, y, z, 4) of its shape."""
    inside = dataclasses.replace(volume, image=volume.image[body], labels=None)
    try:
        return mean(_predict_seen(model, inside, profile, axes) for axes in _mirrored_axes(profile.inference.mirror_axes))
    finally:
        if isinstance(model, Engine):
            model.release()  # the next network of an ensemble needs the memory


def around_body(found: np.ndarray, body: Box, shape: Sequence[int]) -> np.ndarray:
    """Probabilities of the whole volume, `shape` (x, y, z), from those inside of the body's box: outside is background."""
    whole = np.zeros((*shape, len(CLASSES)), np.float32)
    whole[..., 0] = 1
    whole[body] = found
    return whole


def mean(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of arrays of one shape, written over the first of them: at full size every copy counts."""
    parts = iter(parts)
    total, count = next(parts), 1
    for part in parts:
        total += part
        count += 1
    total /= np.float32(count)
    return total


def predict_fold(run: Run, number: int) -> dict[str, Path]:
    """Predict a trained fold's test cases: labels as NIfTI on each case's original grid, affine and header.

    Files that these weights and settings have already made stay. Returns case id -> file.
    """
    from tqdm import tqdm

    folder, fold = run.fold_folder(number), run.fold(number)
    weights = folder / "model.weights.h5"
    if not weights.is_file():
        raise DataError(f"fold {number}: not trained; run notebook 04_training with fold = {number}")
    settings = run.profile.as_dict()["inference"]
    key = fingerprint([checksum(weights), settings, fold.test], *CODE)
    made = {case: run.prediction(number, case) for case in fold.test}
    if read_json(folder / "predictions.json") == key and all(path.is_file() for path in made.values()):
        return made
    (folder / "predictions.json").unlink(missing_ok=True)  # until all are made, the files are of no one setting
    model = load_model(run.profile, weights)
    for case in tqdm(fold.test, f"predicting fold {number}", disable=None, leave=False):
        original = run.case(case)
        probabilities = predict_volume(model, run.prepared([case])[0], run.profile)
        labels = decide(probabilities, original.image.shape, original.spacing_mm, run.profile.inference)
        save_labels(labels, original, made[case])
    write_json(folder / "predictions.json", key)
    return made


def load_model(profile: Profile, file: Path) -> Model:
    """The network with the weights of a file: OpenVINO's on a processor, Keras' on a graphics card.

    DataError unless they are its own, all of them.
    """
    settings, with_card, at_once = profile.network, has_gpu(), _at_once(profile)
    try:
        return _keras_model(settings, file) if with_card else Engine(settings, file, at_once)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file}: not the weights of the network in run.json ({reason}); take a whole run") from error


def _at_once(profile: Profile) -> int:
    """Windows to compute at the same time, as many as cores and memory hold: on a small one, threads wait for each other."""
    settings = profile.inference
    needed_gb = math.prod(settings.window_shape_vox) * bytes_per_voxel(profile.network) / 1e9
    return max(1, min(cores(), int(settings.memory_gb / needed_gb))) if settings.mode == "windows" else 1


def _keras_model(settings: Network, file: Path) -> Model:
    import h5py

    from covidlib.network import build_network

    model, names = build_network(settings), []
    with h5py.File(file) as stored:
        stored["layers"].visit(names.append)
    found = sum("/vars/" in name for name in names)
    if found != len(model.variables):  # Keras would only warn of layers that stay untrained
        raise ValueError(f"{found} arrays, not {len(model.variables)}")
    model.load_weights(file)
    return model


def tiles(shape: Sequence[int], profile: Profile) -> Iterator[tuple[Box, Box]]:
    """The fewest voxels to compute in tiles that fit `inference.memory_gb`: for each the box to read and the part of it to keep.

    Args:
        shape: (x, y, z) of the volume, multiples of the network's smallest step.
        profile: the network decides how far around a tile it has to see, so that the result is that of the whole volume (but for
            instance normalization, whose means are the tile's); boxes are slices of the volume. Where this does not fit, tiles
            see half or a quarter as far, and a warning says so.
    """
    kept, reach = _tile(shape, profile)
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(shape, kept, strict=True))):
        keep = [(c, min(n, c + k)) for c, n, k in zip(corner, shape, kept, strict=True)]
        read = [(max(0, low - r), min(n, high + r)) for (low, high), n, r in zip(keep, shape, reach, strict=True)]
        yield tuple(slice(*ends) for ends in read), tuple(slice(*ends) for ends in keep)


def _tile(shape: Sequence[int], profile: Profile) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sides of what is kept of a tile, and how far around it is read."""
    step, gb_per_voxel, needed = profile.network.smallest_step, bytes_per_voxel(profile.network) / 1e9, math.inf
    for share in (1, 2, 4):
        reach = tuple(r // share // m * m for r, m in zip(profile.network.reach, step, strict=True))
        plans = []
        for counts in itertools.product(range(1, 17), repeat=3):
            kept = tuple(-(-n // (count * m)) * m for n, count, m in zip(shape, counts, step, strict=True))
            read = math.prod(min(n, k + 2 * r) for n, k, r in zip(shape, kept, reach, strict=True))
            plans.append((math.prod(counts) * read, read * gb_per_voxel, kept))
        needed = min(needed, *(gb for _, gb, _ in plans))
        if fitting := [plan for plan in plans if plan[1] <= profile.inference.memory_gb]:
            if share > 1:
                log.warning("little memory: tiles see 1/%d of what the network can see around them; more is exact", share)
            return min(fitting)[2], reach
    given = f"inference.memory_gb is {profile.inference.memory_gb:g}; allowed for this volume: {needed:.2g} or more"
    raise DataError(f"{given}; or set inference.mode to windows")


def bytes_per_voxel(network: Network) -> float:
    """About what a prediction holds at once: some six values per filter of the finest level, as measured; and where a stride
    makes that one coarser than the voxels, three times their probabilities."""
    level = 6 * network.filters[0] * (2 if in_half_precision(network) else 4)
    return level if network.stride == (1, 1, 1) else level / math.prod(network.stride) + 3 * 4 * len(CLASSES)


def body_box(image: np.ndarray, profile: Profile) -> Box:
    """The box around all that is denser than half of the window (x, y, z), and `MARGIN` more; the whole where nothing is.

    Grown, as far as the volume goes, to a window or to what the network can pool: better the scan's own air than added one.
    """
    dense = image > (image.min() + image.max()) / 2
    box = box_of(dense if dense.any() else ~dense)
    least, steps = profile.inference.window_shape_vox, profile.network.smallest_step
    grown = []
    for side, n, window, step in zip(box, image.shape, least, steps, strict=True):
        low, high = max(0, side.start - MARGIN), min(n, side.stop + MARGIN)
        wanted = max(high - low, window) if profile.inference.mode == "windows" else -(-(high - low) // step) * step
        low = max(0, min(low, n - wanted))
        grown.append(slice(low, max(high, min(n, low + wanted))))
    return tuple(grown)


def _predict_seen(model: Model, volume: Prepared, profile: Profile, axes: tuple[int, ...]) -> np.ndarray:
    """The prediction of the mirror image along `axes`, mirrored back."""
    seen = dataclasses.replace(volume, image=np.flip(volume.image, axes))
    found = np.flip(_predict_once(model, seen, profile), axes)
    return found[..., EXCHANGED] if 0 in axes else found


def _predict_once(model: Model, volume: Prepared, profile: Profile) -> np.ndarray:
    shape = volume.image.shape
    if profile.inference.mode == "windows":
        return merge(_predicted_windows(model, volume, profile.inference), shape)
    padded = [-(-n // m) * m for n, m in zip(shape, profile.network.smallest_step, strict=True)]
    image, whole = crop(volume.image, (0, 0, 0), padded, volume.air), np.empty((*padded, len(CLASSES)), np.float32)
    for read, keep in tiles(padded, profile):
        inside = tuple(slice(k.start - r.start, k.stop - r.start) for r, k in zip(read, keep, strict=True))
        whole[keep] = _probabilities(model, image[read])[inside]
    return whole[tuple(map(slice, shape))]


def _mirrored_axes(names: str) -> Iterator[tuple[int, ...]]:
    """Every combination of the axes in `names`, e.g. "xz": (), (0,), (2,), (0, 2)."""
    axes = ["xyz".index(name) for name in names if name in "xyz"]
    return (chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size))


def _predicted_windows(model: Model, volume: Prepared, settings: Inference) -> Iterator[tuple[Corner, np.ndarray]]:
    at_once, coming = getattr(model, "at_once", 1), collections.deque()
    threads = ThreadPoolExecutor(at_once)
    try:
        for corner, window in windows(volume.image, settings.window_shape_vox, settings.overlap, volume.air):
            coming.append((corner, threads.submit(_probabilities, model, window)))
            if len(coming) > at_once + 1:  # no more than that: memory
                first, predicted = coming.popleft()
                yield first, predicted.result()
        for corner, predicted in coming:
            yield corner, predicted.result()
    finally:
        threads.shutdown(cancel_futures=True)  # after an error, or control-C, none of those that wait


def _probabilities(model: Model, image: np.ndarray) -> np.ndarray:
    keras = sys.modules.get("keras")
    from_tensorflow = keras and isinstance(model, keras.Model) and keras.backend.backend() == "tensorflow"
    call = _graph(model) if from_tensorflow else model
    return np.asarray(call(image[None, ..., None], training=False))[0]


@functools.lru_cache(maxsize=8)
def _graph(model: Model) -> Model:
    """A Keras model as a TensorFlow graph: half of the memory, for what no later layer needs is freed."""
    import tensorflow as tf

    return tf.function(model, reduce_retracing=True)
