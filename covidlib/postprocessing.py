"""Probabilities in; labels without specks out, each infected voxel given to a lung where one is asked for."""

from collections.abc import Sequence

import numpy as np

from covidlib.dataset import INFECTION, LUNGS
from covidlib.preprocessing import box_of, labels_on_grid
from covidlib.profile import Inference

UNKNOWN = 2.5  # times the typical doubt: more than any infected scan had with the networks that ship
EXACT = 4_000_000  # voxels


def decide(
    probabilities: np.ndarray,
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
    settings: Inference,
    doubted: float | None = None,
) -> np.ndarray:
    """Class probabilities on the working grid to labels on a scan's own grid.

    Args:
        probabilities: float32 (x, y, z, 4).
        shape, spacing_mm: of the scan.
        settings: see `drop_specks`. `infection_weight` moves the limit from which a voxel counts as infected: Dice is highest not
            with 0.5 but with half of the Dice that can be reached (Lipton et al. 2014). It is 1 in a scan that `is_unknown`.
        doubted: the scan's `doubt`; None: that of `probabilities`. Of several networks the mean of each one's, for where they
            disagree their mean doubts more than any of them.

    Returns:
        uint8 (x, y, z) 0-3: the likeliest class of each voxel, without specks.
    """
    weight = settings.infection_weight
    if weight != 1 and is_unknown(doubt(probabilities) if doubted is None else doubted, settings):
        weight = 1.0
    return drop_specks(labels_on_grid(probabilities, shape, (1, 1, 1, weight)), spacing_mm, settings)


def doubt(probabilities: np.ndarray) -> float:
    """How unsure a network is of the infection it sees: the sum of p (1 - p) by the sum of p, p (..., 4) that of infection.

    0: all or nothing in every voxel; 0.5: one half in all of them. 0, too, where there is no infection.
    """
    share = probabilities[..., INFECTION]
    total = float(share.sum(dtype=np.float64))
    return 1 - float(np.square(share).sum(dtype=np.float64)) / total if total else 0.0


def is_unknown(doubted: float, settings: Inference) -> bool:
    """Whether a scan is doubted far more than is typical of infected ones; never so without a `typical_doubt`."""
    return 0 < UNKNOWN * settings.typical_doubt < doubted


def drop_specks(labels: np.ndarray, spacing_mm: Sequence[float], settings: Inference) -> np.ndarray:
    """Take pieces away that are too small to be what they are called. Voxels that touch at a corner are one piece.

    Args:
        labels: (x, y, z) uint8 0-3.
        spacing_mm: size of a voxel along x, y, z.
        settings: pieces of lung and infection together become background below `smallest_lung_ml`, and with `two_lungs` all but
            the one with most of the left and the one with most of the right lung (which may be the same); then pieces of
            infection below `smallest_infection_ml` become the nearest lung.

    Returns:
        new labels of the same shape.
    """
    ml, labels = float(np.prod(spacing_mm)) / 1000, labels.copy()
    inside = labels[box_of(labels > 0)]  # a view
    if settings.smallest_lung_ml or settings.two_lungs:
        numbered, sizes = pieces(inside > 0)
        stays = sizes >= settings.smallest_lung_ml / ml
        if settings.two_lungs:
            stays = _with_most_lung(inside, numbered, stays)
        inside[~stays[numbered]] = 0
    if settings.smallest_infection_ml:
        specks = _small(inside == INFECTION, settings.smallest_infection_ml / ml)
        inside[specks] = lung_sides(inside, spacing_mm)[specks]
    return labels


def lung_sides(labels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Labels with each infected voxel given to the lung (1 left, 2 right) that is nearest in mm; 0 where there is no lung.

    In a box of lungs of more than `EXACT` voxels nearest to within about 5 mm: there cells of up to 3 mm a side are asked, in a
    tenth of the time. Between the lungs, where it matters, is the heart.
    """
    from scipy.ndimage import distance_transform_edt

    sides = np.where(labels == INFECTION, 0, labels).astype(np.uint8)
    if not (sides.any() and (labels == INFECTION).any()):
        return sides
    box = box_of(labels > 0)  # nothing outside of it matters
    inside = sides[box]  # a view
    steps = [max(1, int(3 / mm)) if inside.size > EXACT else 1 for mm in spacing_mm]
    asked = inside
    for axis, step in enumerate(steps):
        asked = np.maximum.reduceat(asked, np.arange(0, inside.shape[axis], step), axis)
    nearest = distance_transform_edt(asked == 0, np.multiply(spacing_mm, steps), return_distances=False, return_indices=True)
    infected = np.nonzero(labels[box] == INFECTION)
    there = tuple(place // step for place, step in zip(infected, steps, strict=True))
    inside[infected] = asked[tuple(axis[there] for axis in nearest)]
    return sides


def pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected pieces of a mask (x, y, z), voxels that touch at a corner being connected.

    Returns:
        the number of each voxel's piece, from 1, 0 outside of the mask; and the voxels of each number, 0 first.
    """
    from scipy.ndimage import label

    numbered, count = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(numbered[mask], minlength=count + 1)
    sizes[0] = mask.size - sizes.sum()
    return numbered, sizes


def _with_most_lung(labels: np.ndarray, numbered: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Of the allowed pieces (a truth value a number) the one with most of the left lung, and the one with most of the right."""
    chosen = np.zeros_like(allowed)
    for side in LUNGS:
        voxels = np.bincount(numbered[labels == side], minlength=len(allowed)) * allowed
        chosen[voxels.argmax()] |= voxels.any()
    return chosen


def _small(mask: np.ndarray, voxels: float) -> np.ndarray:
    """The pieces of a mask that have fewer than so many voxels."""
    numbered, sizes = pieces(mask)
    small = sizes < voxels
    small[0] = False
    return small[numbered]
