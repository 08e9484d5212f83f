"""A model and a volume in; probabilities on the working grid, and labels on the scan's own grid out. Paper section 3.4."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from covidlib.dataset import CLASSES, save_labels
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, read_json, write_json
from covidlib.network import build_network
from covidlib.patches import Corner, crop, merge, windows
from covidlib.postprocessing import drop_specks
from covidlib.preprocessing import Prepared, labels_on_grid
from covidlib.profile import Inference
from covidlib.runs import Run

CODE = ("inference", "patches", "preprocessing", "postprocessing", "dataset")
EXCHANGED = [0, 2, 1, 3]  # left and right lung of CLASSES


def predict_volume(model: keras.Model, volume: Prepared, settings: Inference, step: tuple[int, int, int]) -> np.ndarray:
    """Class probabilities of a prepared volume.

    Args:
        model: from `build_network`.
        volume: its image (x, y, z) is padded with air where it is smaller than a window or not a multiple of `step`.
        settings: "windows" (half overlapping, plain mean; the paper) or "volume" (all at once; same network, 5 times less work);
            with `mirror_axes` the mean over mirror images, each mirrored back: a left lung seen in a mirror is a right one.
        step: `Network.smallest_step`.

    Returns:
        float32 (x, y, z, 4), summing to 1 over the classes.
    """
    views = list(_mirrored_axes(settings.mirror_axes))
    total = np.zeros((*volume.image.shape, len(CLASSES)), np.float32)
    for axes in views:
        seen = dataclasses.replace(volume, image=np.flip(volume.image, axes))
        found = np.flip(_predict_once(model, seen, settings, step), axes)
        total += found[..., EXCHANGED] if 0 in axes else found
    return total / len(views)


def predict_fold(run: Run, number: int) -> dict[str, Path]:
    """Predict a trained fold's test cases: labels as NIfTI on each case's original grid, affine and header.

    Files that these weights and settings have already made stay. Returns case id -> file.
    """
    from tqdm import tqdm

    folder, fold = run.fold_folder(number), run.folds[number]
    weights = folder / "model.weights.h5"
    if not weights.is_file():
        raise DataError(f"fold {number}: not trained; run notebook 04_training with fold = {number}")
    settings = run.profile.as_dict()["inference"]
    key = fingerprint([checksum(weights), settings, fold.test], *CODE)
    made = {case: run.prediction(number, case) for case in fold.test}
    if read_json(folder / "predictions.json") == key and all(path.is_file() for path in made.values()):
        return made
    model = load_model(run, number)
    for case in tqdm(fold.test, f"predicting fold {number}", disable=None, leave=False):
        original = run.case(case)
        probabilities = predict_volume(model, run.prepared([case])[0], run.profile.inference, run.profile.network.smallest_step)
        labels = labels_on_grid(probabilities, original.image.shape)
        save_labels(drop_specks(labels, original.spacing_mm, run.profile.inference), original, made[case])
    write_json(folder / "predictions.json", key)
    return made


def load_model(run: Run, number: int) -> keras.Model:
    """A trained fold's network with its weights."""
    model = build_network(run.profile.network)
    model.load_weights(run.fold_folder(number) / "model.weights.h5")
    return model


def _predict_once(model: keras.Model, volume: Prepared, settings: Inference, step: tuple[int, int, int]) -> np.ndarray:
    shape = volume.image.shape
    if settings.mode == "windows":
        return merge(_predicted_windows(model, volume, settings), shape)
    padded = [-(-n // m) * m for n, m in zip(shape, step, strict=True)]
    whole = _probabilities(model, crop(volume.image, (0, 0, 0), padded, volume.air))
    return whole[: shape[0], : shape[1], : shape[2]]


def _mirrored_axes(names: str) -> Iterator[tuple[int, ...]]:
    """Every combination of the axes in `names`, e.g. "xz": (), (0,), (2,), (0, 2)."""
    axes = ["xyz".index(name) for name in names if name in "xyz"]
    return (chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size))


def _predicted_windows(model: keras.Model, volume: Prepared, settings: Inference) -> Iterator[tuple[Corner, np.ndarray]]:
    for corner, window in windows(volume.image, settings.window_shape_vox, settings.overlap, volume.air):
        yield corner, _probabilities(model, window)


def _probabilities(model: keras.Model, image: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(image[None, ..., None], training=False))[0]
