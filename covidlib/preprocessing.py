"""A case in, its prepared volume on the working grid out (cached); and probabilities back to the original grid.

Paper section 3.2: clip, scale to grey, resample to a common spacing, z-score.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidlib.dataset import IMAGES, MASKS, Case, _path, load_case
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, whole_file
from covidlib.profile import Preprocessing

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Prepared:
    """A volume on the working grid: image float32 and labels uint8 or None, both (x, y, z); spacing_mm as it really is there."""

    id: str
    image: np.ndarray
    labels: np.ndarray | None
    spacing_mm: tuple[float, float, float]

    @property
    def air(self) -> float:
        """The image's lowest value: what a crop beyond the volume is filled with."""
        return float(self.image.min())


def prepare(case: Case, settings: Preprocessing) -> Prepared:
    """All steps of section 3.2, in order. A case without labels gives labels None."""
    grey = to_grey(case.image, case.intensity, settings)
    shape = working_shape(grey.shape, case.spacing_mm, settings.spacing_mm)
    image = resample(grey, shape, "cubic", settings.low_pass)
    image = z_score(image, settings)
    labels = None if case.labels is None else resample_labels(case.labels, shape)
    spacing = tuple(s * n / m for s, n, m in zip(case.spacing_mm, grey.shape, shape, strict=True))
    return Prepared(case.id, image, labels, spacing)


def prepare_cached(data: Path, case: str, settings: Preprocessing, intensity: str | None, cache: Path) -> Prepared:
    """`prepare` for a case of folder `data`, kept in `cache`/<case>.npz.

    The file carries the fingerprint of what made it (settings, code, checksums of image and mask); another one is made anew.
    """
    sources = [checksum(_path(Path(data) / sub, case)) for sub in (IMAGES, MASKS)]
    key = fingerprint([dataclasses.asdict(settings), intensity, sources], "dataset", "preprocessing")
    path = Path(cache) / f"{case}.npz"
    if path.is_file() and kept_text(path, "key") == key:
        return read_prepared(path)
    made = prepare(load_case(data, case, intensity), settings)
    content = hashlib.sha256(made.image.tobytes() + made.labels.tobytes()).hexdigest()
    with whole_file(path) as temporary:
        np.savez(temporary, image=made.image, labels=made.labels, spacing_mm=made.spacing_mm, key=key, content=content)
    return made


def read_prepared(path: Path) -> Prepared:
    """A prepared volume from the file that `prepare_cached` or `pack_prepared` wrote.

    Raises:
        DataError: no such file, or not one of these.
    """
    try:
        with np.load(path) as kept:
            image = kept["image"]
            if image.dtype == np.uint8:
                image = image.astype(np.float32) * kept["step"] + kept["lowest"]
            return Prepared(path.stem, image, kept["labels"], tuple(kept["spacing_mm"].tolist()))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path.stem}: {path}: no prepared volume ({error}); prepare it where the scans are") from error


def pack_prepared(source: Path, target: Path) -> None:
    """A prepared volume in 8-bit steps and compressed, about a tenth of the size: for training where the scans cannot go.

    What it is (`key`, `content`) stays written in it, though its values are off by up to half a step, 1/510 of their range.
    """
    volume = read_prepared(source)
    lowest, step = volume.air, float(np.ptp(volume.image)) / 255 or 1.0
    image = np.rint((volume.image - lowest) / step).astype(np.uint8)
    with whole_file(target) as temporary:
        np.savez_compressed(
            temporary, image=image, lowest=np.float32(lowest), step=np.float32(step), labels=volume.labels,
            spacing_mm=volume.spacing_mm, key=kept_text(source, "key"), content=kept_text(source, "content"),
        )  # fmt: skip


def kept_text(path: Path, name: str) -> str:
    """`key` (what made it) or `content` (checksum of its voxels) of a prepared volume's file."""
    with np.load(path) as kept:
        return str(kept[name])


def to_grey(image: np.ndarray, intensity: str, settings: Preprocessing) -> np.ndarray:
    """HU or grey (x, y, z) to float32 grey 0-255.

    fixed: the window's ends become 0 and 255, grey images stay (the data set's authors made them with that window).
    volume: everything is clipped to the window, then each volume's own minimum and maximum become 0 and 255 (original code).
    """
    low, high = settings.window_hu
    if settings.grey == "volume":
        image = np.clip(image, low, high)
        low, high = float(image.min()), float(image.max())
    elif intensity == "grey":
        return image.astype(np.float32)
    return (np.clip(image, low, high).astype(np.float32) - low) * (255 / max(high - low, 1e-6))


def z_score(image: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Grey (x, y, z) minus a mean, by a deviation, float32: those of the whole volume (paper) or of the profile."""
    if settings.z_score == "fixed":
        return ((image - settings.fixed_mean_grey) / settings.fixed_deviation_grey).astype(np.float32)
    return ((image - image.mean(dtype=np.float64)) / max(image.std(dtype=np.float64), 1e-6)).astype(np.float32)


def working_shape(shape: tuple[int, ...], spacing_mm: tuple[float, ...], wanted_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """Voxels of the working grid: the same extent in mm at about `wanted_mm`, at least one voxel."""
    return tuple(max(1, round(n * s / w)) for n, s, w in zip(shape, spacing_mm, wanted_mm, strict=True))


def resample(volume: np.ndarray, shape: tuple[int, ...], kernel: str = "cubic", low_pass: bool = True) -> np.ndarray:
    """Resample (x, y, z, ...) to `shape` along its first three axes, float32; both grids cover the same extent.

    kernel "cubic" (Keys, a = -0.5) or "linear"; beyond the border the outermost voxel counts on. low_pass widens the kernel on
    axes that get coarser.
    """
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    for axis in sorted(range(3), key=lambda a: shape[a] / volume.shape[a]):  # shrink first: less to do
        if shape[axis] != volume.shape[axis]:
            weights = resampling_weights(volume.shape[axis], shape[axis], kernel, low_pass)
            volume = _along(weights, volume, axis)
    return volume


def resample_labels(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample integer labels: each new voxel takes the class that covers most of it, so no class is invented. uint8."""
    best, winner = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for label in np.unique(labels):
        share = resample(labels == label, shape, "linear")
        winner[share > best] = label
        np.maximum(best, share, out=best)
    return winner


def labels_on_grid(probabilities: np.ndarray, shape: tuple[int, int, int], slab: int = 16) -> np.ndarray:
    """Probabilities (x, y, z, classes) on the working grid to uint8 labels (x, y, z) on a grid of `shape` over the same extent.

    Linear interpolation, then the likeliest class; `slab` slices at a time, so that memory stays small.
    """
    labels = np.empty(shape, np.uint8)
    weights = resampling_weights(probabilities.shape[2], shape[2], "linear")
    for start in range(0, shape[2], slab):
        rows = weights[start : start + slab]
        part = _along(rows, np.ascontiguousarray(probabilities, np.float32), 2)
        labels[:, :, start : start + slab] = resample(part, (*shape[:2], rows.shape[0]), "linear").argmax(-1)
    return labels


def resampling_weights(n_in: int, n_out: int, kernel: str = "cubic", low_pass: bool = True) -> "csr_array":
    """Sparse (n_out, n_in) matrix that resamples one axis; each row sums to 1."""
    from scipy.sparse import csr_array

    ratio = n_in / n_out
    stretch = max(ratio, 1.0) if low_pass else 1.0
    centre = (np.arange(n_out) + 0.5) * ratio - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    taps = np.floor(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)
    values = _kernel(np.abs(taps - centre[:, None]) / stretch, kernel)
    values /= values.sum(1, keepdims=True)
    rows = np.repeat(np.arange(n_out), taps.shape[1])
    weights = csr_array((values.ravel().astype(np.float32), (rows, taps.clip(0, n_in - 1).ravel())), (n_out, n_in))
    weights.sum_duplicates()
    weights.eliminate_zeros()
    return weights


def _kernel(distance: np.ndarray, kernel: str) -> np.ndarray:
    if kernel == "linear":
        return np.maximum(1 - distance, 0)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _along(weights: "csr_array", volume: np.ndarray, axis: int) -> np.ndarray:
    shape = volume.shape
    before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    blocks = volume.reshape(before, shape[axis], after)
    if after == 1:  # the last axis: one product for many rows
        out = (weights @ blocks[:, :, 0].T).T
    else:
        out = np.stack([weights @ block for block in blocks])
    return np.ascontiguousarray(out).reshape(*shape[:axis], weights.shape[0], *shape[axis + 1 :])
