"""A crop in, its random variation out: the eight transforms of paper section 3.3.

The original augments the whole volume and crops afterwards. Here the spatial transforms are one interpolation that reads just the
block it needs, and the others see the patch alone: the same distribution for a fraction of the work. Colors are changed by
batchgenerators; deformation, rotation and scaling are drawn as its SpatialTransform draws them.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from covidlib.dataset import INFECTION, LUNGS
from covidlib.patches import crop
from covidlib.preprocessing import Prepared, resample
from covidlib.profile import Augmentation

SPATIAL = ("elastic", "rotation", "scaling")
COLOUR = ("contrast", "brightness", "gamma", "noise")


def augmented_crop(
    volume: Prepared,
    corner: Sequence[int],
    shape: Sequence[int],
    settings: Augmentation,
    rng: np.random.Generator,
    giver: tuple[Prepared, Sequence[int]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a patch and vary it.

    Args:
        volume: image and labels (x, y, z).
        corner, shape: of the patch, voxels.
        settings: probabilities and ranges.
        rng: decides everything; batchgenerators draws from the global generators of Python and NumPy, which are seeded from it.
        giver: another volume and a corner in it; its patch, bent in its own way, lends its infection (`with_infection_of`).

    Returns:
        image float32 and labels uint8, both of `shape`; beyond the volume: air and background.
    """
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))
    image, labels = spatial_crop(volume, corner, shape, settings, which_fire(settings, rng), rng)
    if giver:
        lent = spatial_crop(*giver, shape, settings, which_fire(settings, rng), rng)
        if settings.copied_mirrored:
            lent = mirror(*lent, which_flip(settings, rng), settings.swap_lungs)
        strength = 1 if settings.copied_strength == (1, 1) else rng.uniform(*settings.copied_strength)
        image, labels = with_infection_of(*lent, image, labels, strength)
    for name in COLOUR:
        if rng.random() < settings.probability:
            image = colour_transform(name, settings)(data=image[None, None])["data"][0, 0]
    return mirror(image, labels, which_flip(settings, rng), settings.swap_lungs)


def which_fire(settings: Augmentation, rng: np.random.Generator) -> dict[str, bool]:
    """Whether each of SPATIAL is to change this patch."""
    return {name: rng.random() < settings.probability for name in SPATIAL}


def which_flip(settings: Augmentation, rng: np.random.Generator) -> list[bool]:
    """Whether to mirror along x, y, z."""
    return [(rng.random() < settings.mirror_probability) and axis in settings.mirror_axes for axis in "xyz"]


def with_infection_of(
    giver_image: np.ndarray, giver_labels: np.ndarray, image: np.ndarray, labels: np.ndarray, strength: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Copy another patch's infection, and the lung up to two voxels around it in plane, to where this one shows lung.

    After CarveMix (Zhang et al. 2021): the same infection is learnt in several chests, and a chest with several infections. What
    would fall outside of the lungs or on infection is left out.

    Args:
        giver_image, giver_labels, image, labels: all of one shape (x, y, z).
        strength: 0 to 1, of the copied grey; the rest is the patch's own, as of a fainter infection.

    Returns:
        image float32 and labels uint8, new arrays.
    """
    from scipy.ndimage import binary_dilation

    infected = giver_labels == INFECTION
    around = binary_dilation(infected, np.ones((3, 3, 1)), 2) & (giver_labels > 0)
    takes = np.isin(labels, LUNGS) & around
    grey = np.float32(strength) * giver_image + np.float32(1 - strength) * image
    return np.where(takes, grey, image), np.where(takes & infected, np.uint8(INFECTION), labels)


def mirror(image: np.ndarray, labels: np.ndarray, axes: Sequence[bool], swap_lungs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mirror along each axis that is true. Along x a mirrored left lung is a right lung, so labels 1 and 2 swap."""
    flip = [axis for axis in range(3) if axes[axis]]
    if axes[0] and swap_lungs:
        labels = np.array([0, 2, 1, 3], np.uint8)[labels]
    return np.ascontiguousarray(np.flip(image, flip), np.float32), np.ascontiguousarray(np.flip(labels, flip))


def spatial_crop(
    volume: Prepared,
    corner: Sequence[int],
    shape: Sequence[int],
    settings: Augmentation,
    fires: dict[str, bool],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of `shape`, bent, turned and scaled about the patch's middle as far as `fires` says so."""
    from scipy.ndimage import map_coordinates, spline_filter

    if not any(fires.values()):
        return crop(volume.image, corner, shape, volume.air), crop(volume.labels, corner, shape, 0)
    places = sampling_places(shape, settings, fires, rng)
    middle = np.asarray(corner) + (np.asarray(shape) - 1) / 2
    low = [int(np.floor(p.min() + m)) - 3 for p, m in zip(places, middle, strict=True)]  # 3: reach of the cubic spline
    block = [int(np.ceil(p.max() + m)) + 4 - start for p, m, start in zip(places, middle, low, strict=True)]
    for place, m, start in zip(places, middle, low, strict=True):
        place += np.float32(m - start)
    image = crop(volume.image, low, block, volume.air)
    if settings.image_order > 1:
        image = spline_filter(image, settings.image_order, np.float32)
    labels = crop(volume.labels, low, block, 0)[tuple(np.rint(places).astype(np.intp))]  # the nearest voxel's
    return map_coordinates(image, places, order=settings.image_order, prefilter=False), labels


def sampling_places(shape: Sequence[int], settings: Augmentation, fires: dict[str, bool], rng: np.random.Generator) -> np.ndarray:
    """Where each voxel of the patch is read, in voxels from its middle: float32 (3, x, y, z)."""
    from batchgenerators.augmentations.utils import rotate_coords_3d

    matrix = np.eye(3)
    if fires["rotation"]:
        matrix = rotate_coords_3d(matrix, *(rng.uniform(-angle, angle) for angle in np.radians(settings.rotation_degrees)))
    if fires["scaling"]:  # as often smaller as larger
        low, high = settings.scaling
        matrix = matrix * (rng.uniform(low, min(high, 1)) if rng.random() < 0.5 and low < 1 else rng.uniform(max(low, 1), high))
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij", sparse=True)
    if fires["elastic"]:
        axes = [axis + bend for axis, bend in zip(axes, elastic_field(shape, settings, rng), strict=True)]
    return np.stack([sum(np.float32(w) * a.astype(np.float32) for w, a in zip(row, axes, strict=True)) for row in matrix])


def elastic_field(shape: Sequence[int], settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Smooth random displacements, float32 (3, x, y, z) voxels: uniform noise blurred by sigma, times alpha.

    Made on a grid of every third or fourth voxel and interpolated: what is left after blurring by 9 voxels has no finer detail.
    """
    from scipy.ndimage import gaussian_filter

    alpha, sigma = rng.uniform(*settings.elastic_alpha_vox), rng.uniform(*settings.elastic_sigma_vox)
    coarse = [-(-n // max(1, int(sigma / 3))) for n in shape]
    step = np.divide(shape, coarse)
    strength = alpha / np.sqrt(np.prod(step))  # fewer, larger noise cells would leave more of the noise after blurring
    noise = rng.uniform(-strength, strength, (3, *coarse)).astype(np.float32)
    return np.stack([resample(gaussian_filter(part, sigma / step, mode="constant"), shape) for part in noise])


def colour_transform(name: str, settings: Augmentation) -> Callable:
    """One of COLOUR as a batchgenerators transform that always fires."""
    from batchgenerators.transforms.color_transforms import (
        BrightnessMultiplicativeTransform,
        ContrastAugmentationTransform,
        GammaTransform,
    )
    from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform

    return {
        "contrast": lambda: ContrastAugmentationTransform(settings.contrast, preserve_range=True, per_channel=False),
        "brightness": lambda: BrightnessMultiplicativeTransform(settings.brightness, per_channel=False),
        "gamma": lambda: GammaTransform(settings.gamma, invert_image=False, per_channel=False, retain_stats=True),
        "noise": lambda: GaussianNoiseTransform(settings.noise_deviation),
    }[name]()
