"""A case in, its prepared volume on the working grid out (cached); and probabilities back to the original grid.

Paper section 3.2: clip, scale to grey, resample to a common spacing, z-score.
"""

import contextlib
import dataclasses
import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from covidlib.dataset import IMAGES, MASKS, Case, _path, load_case
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, whole_file
from covidlib.profile import Preprocessing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SLAB = 16  # slices at a time
GREY_HU = (-1250.0, 250.0)  # what grey 0 and 255 are in the grey half of the release
NO_ARCHIVE = (OSError, EOFError, KeyError, ValueError, RuntimeError, BadZipFile, zlib.error)  # of a file that is not whole


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
    shape = working_shape(case.image.shape, case.spacing_mm, settings.spacing_mm)
    span = grey_span(case.image, case.intensity, settings)
    slabs = [  # in plane first and a few slices at a time: the whole scan never exists a second time at full size
        resample(_stretch(part, *span), (*shape[:2], part.shape[2]), "cubic", settings.low_pass)
        for part in np.array_split(case.image, -(-case.image.shape[2] // SLAB), axis=2)
    ]
    image = z_score(resample(np.concatenate(slabs, 2), shape, "cubic", settings.low_pass), settings)
    labels = None if case.labels is None else resample_labels(case.labels, shape)
    spacing = tuple(s * n / m for s, n, m in zip(case.spacing_mm, case.image.shape, shape, strict=True))
    return Prepared(case.id, image, labels, spacing)


def prepare_cached(data: Path, case: str, settings: Preprocessing, intensity: str | None, cache: Path) -> Prepared:
    """`prepare` for a case of folder `data`, kept in `cache`/<case>.npz.

    The file carries the fingerprint of what made it (settings, code, checksums of image and mask); another one is made anew.
    """
    sources = [checksum(_path(Path(data) / sub, case)) for sub in (IMAGES, MASKS)]
    key = fingerprint([dataclasses.asdict(settings), intensity, sources], "dataset", "preprocessing")
    path = Path(cache) / f"{case}.npz"
    with contextlib.suppress(*NO_ARCHIVE):  # it is made anew, as if it were not there
        if kept_text(path, "key") == key:
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
    except NO_ARCHIVE as error:
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
    return _stretch(image, *grey_span(image, intensity, settings))


def grey_span(image: np.ndarray, intensity: str, settings: Preprocessing) -> tuple[float, float]:
    """The intensities that become grey 0 and 255; see `to_grey`. Infinite for an image that stays as it is.

    An image in grey was made with the release's window, `GREY_HU`: another window is found in it in grey values.
    """
    low, high = settings.window_hu
    if settings.grey == "volume":
        return float(np.clip(image.min(), low, high)), float(np.clip(image.max(), low, high))
    if intensity != "grey":
        return low, high
    black, white = ((edge - GREY_HU[0]) * 255 / (GREY_HU[1] - GREY_HU[0]) for edge in (low, high))
    return (-np.inf, np.inf) if (low, high) == GREY_HU else (black, white)


def _stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    grey = image.astype(np.float32)
    if np.isfinite(low):
        np.clip(grey, low, high, out=grey)
        grey -= np.float32(low)
        grey *= np.float32(255 / max(high - low, 1e-6))
    return grey


def z_score(image: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """Grey (x, y, z) minus a mean, by a deviation, float32.

    volume: those of the whole volume (paper). fixed: those of the profile. levels: such that the scan's own aerated lung becomes
    -0.5 and its soft tissue 1.5, where "fixed" has them in a typical scan: for images whose grey window nobody knows.
    """
    mean, deviation = settings.fixed_mean_grey, settings.fixed_deviation_grey
    if settings.z_score == "volume":
        mean, deviation = image.mean(dtype=np.float64), max(image.std(dtype=np.float64), 1e-6)
    elif settings.z_score == "levels" and (levels := tissue_levels(image)):
        deviation = (levels[1] - levels[0]) / 2
        mean = levels[0] + deviation / 2
    return ((image - mean) / deviation).astype(np.float32)


def tissue_levels(image: np.ndarray) -> tuple[float, float] | None:
    """Grey of aerated lung and of soft tissue in a chest (x, y, z), found without labels; None where either is missing.

    Lung: 10th percentile of what is darker than grey 127.5 (-500 HU) inside the body: disease is always brighter, and counts only
    where nine tenths of the lung are ill. Soft tissue: median of what is brighter than 150.
    """
    from scipy.ndimage import binary_fill_holes

    body = image > 127.5
    dark = np.stack([binary_fill_holes(part) & ~part for part in np.moveaxis(body, 2, 0)], 2)
    lung, tissue = image[dark], image[body & (image > 150)]
    return (float(np.percentile(lung, 10)), float(np.median(tissue))) if lung.size and tissue.size else None


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
    from scipy.ndimage import find_objects

    best, winner, background = np.zeros(shape, np.float32), np.zeros(shape, np.uint8), np.ones(shape, np.float32)
    for label, box in enumerate(find_objects(labels.astype(np.uint8)), 1):
        if box is None:
            continue
        share, there = labels[box] == label, []
        for axis in (0, 1, 2):  # only where the class is: a lung fills a tenth of a scan, infection a hundredth
            weights = resampling_weights(labels.shape[axis], shape[axis], "linear")
            there.append(_reached(weights[:, box[axis]]))
            share = _along(weights[there[axis], box[axis]], np.ascontiguousarray(share, np.float32), axis)
        place = tuple(there)
        background[place] -= share
        winner[place][share > best[place]] = label
        np.maximum(best[place], share, out=best[place])
    winner[background >= best] = 0
    return winner


def labels_on_grid(
    probabilities: np.ndarray, shape: tuple[int, int, int], counts: Sequence[float] = (), slab: int = 4
) -> np.ndarray:
    """Probabilities (x, y, z, classes) on the working grid to uint8 labels (x, y, z) on a grid of `shape` over the same extent.

    Linear interpolation, then the likeliest class, each counted as often as `counts` says, else once; `slab` slices at a time and
    core, so few that their memory is used again. Only where a voxel that is not background has a say: between voxels that are all
    background, interpolation finds nothing else.
    """
    labels = np.zeros(shape, np.uint8)
    marked = box_of(_likeliest(np.moveaxis(probabilities, 3, 0), counts) > 0)
    if marked[0].stop == 0:
        return labels
    weights = [resampling_weights(n, m, "linear") for n, m in zip(probabilities.shape, shape, strict=False)]
    there = [_reached(w[:, box]) for w, box in zip(weights, marked, strict=True)]
    asked = [_reached(w[rows].T.tocsr()) for w, rows in zip(weights, there, strict=True)]
    in_plane = [w[rows, columns] for w, rows, columns in zip(weights, there, asked, strict=True)][:2]
    stack = np.ascontiguousarray(np.moveaxis(probabilities[tuple(asked)], (2, 3), (0, 1)), np.float32)  # (z, classes, x, y)

    def fill(start: int) -> None:
        """Label one slab."""
        rows = slice(start, min(start + slab, there[2].stop))
        part = _along(in_plane[0], _along(weights[2][rows, asked[2]], stack, 0), 2)
        part = (in_plane[1] @ part.reshape(-1, part.shape[3]).T).reshape(-1, *part.shape[:3])  # (y, z, classes, x)
        labels[there[0], there[1], rows] = _likeliest(np.moveaxis(part, 2, 0), counts).transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(there[2].start, there[2].stop, slab)))
    return labels


def _likeliest(shares: np.ndarray, counts: Sequence[float]) -> np.ndarray:
    """The class (first axis) of the highest probability times count, the first of equals, uint8. NumPy's argmax takes longer."""
    best, winner = np.full(shares.shape[1:], -1, np.float32), np.zeros(shares.shape[1:], np.uint8)
    for label, share in enumerate(shares):
        counted = share * np.float32(counts[label]) if counts and counts[label] != 1 else share
        np.copyto(winner, label, where=counted > best)
        np.maximum(best, counted, out=best)
    return winner


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds everything true of a mask, as slices; of an empty mask an empty box."""
    ends = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        ends.append(slice(int(there[0]), int(there[-1]) + 1) if there.size else slice(0, 0))
    return tuple(ends)


def _reached(weights: "csr_array") -> slice:
    """From the first to the last row that has a weight."""
    return box_of(np.diff(weights.indptr) > 0)[0]


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
