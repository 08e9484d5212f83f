"""Labels as the network gave them in; labels without specks out, each infected voxel given to a lung where one is asked for."""

from collections.abc import Sequence

import numpy as np

from covidlib.profile import Inference

INFECTION = 3


def drop_specks(labels: np.ndarray, spacing_mm: Sequence[float], settings: Inference) -> np.ndarray:
    """Take pieces away that are too small to be what they are called. Voxels that touch at a corner are one piece.

    Args:
        labels: (x, y, z) uint8 0-3.
        spacing_mm: size of a voxel along x, y, z.
        settings: a piece of lung and infection together below `smallest_lung_ml` becomes background; then a piece of infection
            below `smallest_infection_ml` becomes the nearest lung. 0: none does.

    Returns:
        labels of the same shape; the same array where nothing is to be taken away.
    """
    ml = float(np.prod(spacing_mm)) / 1000
    if settings.smallest_lung_ml:
        labels = np.where(_small(labels > 0, settings.smallest_lung_ml / ml), np.uint8(0), labels)
    if settings.smallest_infection_ml:
        specks = _small(labels == INFECTION, settings.smallest_infection_ml / ml)
        labels = np.where(specks, lung_sides(labels, spacing_mm), labels) if specks.any() else labels
    return labels


def lung_sides(labels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Labels with each infected voxel given to the lung (1 left, 2 right) that is nearest in mm; 0 where there is no lung."""
    from scipy.ndimage import distance_transform_edt, find_objects

    sides = np.where(labels == INFECTION, 0, labels).astype(np.uint8)
    if not (sides.any() and (labels == INFECTION).any()):
        return sides
    box = find_objects((labels > 0).astype(np.uint8))[0]  # nothing outside of it matters
    nearest = distance_transform_edt(sides[box] == 0, spacing_mm, return_distances=False, return_indices=True)
    sides[box] = np.where(labels[box] == INFECTION, sides[box][tuple(nearest)], sides[box])
    return sides


def pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected pieces of a mask (x, y, z), voxels that touch at a corner being connected.

    Returns:
        the number of each voxel's piece, from 1, 0 outside of the mask; and the voxels of each number, 0 first.
    """
    from scipy.ndimage import label

    numbered, count = label(mask, np.ones((3, 3, 3)))
    return numbered, np.bincount(numbered.ravel(), minlength=count + 1)


def _small(mask: np.ndarray, voxels: float) -> np.ndarray:
    """The pieces of a mask that have fewer than so many voxels."""
    numbered, sizes = pieces(mask)
    small = sizes < voxels
    small[0] = False
    return small[numbered]
