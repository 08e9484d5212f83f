"""Volumes in, crops out; a grid of windows over a volume, and their merge. Paper section 3.4."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

Corner = tuple[int, int, int]


def crop(volume: np.ndarray, corner: Sequence[int], shape: Sequence[int], fill: float) -> np.ndarray:
    """The block of `shape` (x, y, z) that starts at `corner`, which may lie outside; beyond the volume stands `fill`."""
    low = [max(0, c) for c in corner]
    high = [min(n, c + s) for c, s, n in zip(corner, shape, volume.shape, strict=True)]
    out = np.full(tuple(shape), fill, volume.dtype)
    if all(a < b for a, b in zip(low, high, strict=True)):
        inside = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
        out[inside] = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return out


def random_corner(volume_shape: Sequence[int], shape: Sequence[int], rng: np.random.Generator) -> Corner:
    """A corner drawn uniformly among the places where the patch fits; centred on axes where the volume is smaller."""
    return tuple(int(rng.integers(0, n - s + 1)) if n >= s else (n - s) // 2 for n, s in zip(volume_shape, shape, strict=True))


def corner_around(voxel: Sequence[int], volume_shape: Sequence[int], shape: Sequence[int], rng: np.random.Generator) -> Corner:
    """A corner so that the patch holds `voxel` at a random place, kept inside the volume where it fits."""
    corner = []
    for v, n, s in zip(voxel, volume_shape, shape, strict=True):
        start = int(v) - int(rng.integers(0, s))
        corner.append(min(max(start, 0), n - s) if n >= s else (n - s) // 2)
    return tuple(corner)


def window_corners(volume_shape: Sequence[int], shape: Sequence[int], overlap: float = 0.5) -> list[Corner]:
    """Corners of windows that cover the volume, neighbours overlapping by at least `overlap` of their length.

    One axis, length 10, window 6, overlap 0.5 (step 3); the last window is moved back to end with the volume:

        0 1 2 3 4 5 6 7 8 9
        a a a a a a
              b b b b b b
                c c c c c c
    """
    axes = []
    for n, s in zip(volume_shape, shape, strict=True):
        step = max(1, int(s * (1 - overlap)))
        axes.append([*range(0, max(n - s, 0), step), max(n - s, 0)])
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def windows(volume: np.ndarray, shape: Sequence[int], overlap: float, fill: float) -> Iterator[tuple[Corner, np.ndarray]]:
    """Corner and content of each window of `window_corners`."""
    for corner in window_corners(volume.shape, shape, overlap):
        yield corner, crop(volume, corner, shape, fill)


def merge(parts: Iterable[tuple[Corner, np.ndarray]], volume_shape: Sequence[int]) -> np.ndarray:
    """Plain mean of overlapping windows.

    Args:
        parts: corner and values (x, y, z, channels) of each window; what lies beyond the volume is left out.
        volume_shape: (x, y, z) of the whole.

    Returns:
        float32 (x, y, z, channels); 0 where no window lay.
    """
    total, count = None, np.zeros((*volume_shape, 1), np.float32)
    for corner, values in parts:
        if total is None:
            total = np.zeros((*volume_shape, values.shape[-1]), np.float32)
        low = [max(0, c) for c in corner]
        high = [min(n, c + s) for c, n, s in zip(corner, volume_shape, values.shape, strict=False)]
        there = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        total[there] += values[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))]
        count[there] += 1
    total /= np.maximum(count, 1)
    return total
