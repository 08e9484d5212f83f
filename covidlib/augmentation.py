"""A crop in, its random variation out: the eight transforms of paper section 3.3, by batchgenerators.

The original augments the whole volume and crops afterwards. Here a spatial transform samples a block just large enough around
the patch, and the others see the patch alone: the same distribution for a fraction of the work.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from covidlib.patches import crop
from covidlib.preprocessing import Prepared
from covidlib.profile import Augmentation

SPATIAL = ("elastic", "rotation", "scaling")
COLOUR = ("contrast", "brightness", "gamma", "noise")


def augmented_crop(
    volume: Prepared, corner: Sequence[int], shape: Sequence[int], settings: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a patch and vary it.

    Args:
        volume: image and labels (x, y, z).
        corner, shape: of the patch, voxels.
        settings: probabilities and ranges.
        rng: decides everything; batchgenerators draws from the global generators of Python and NumPy, which are seeded from it.

    Returns:
        image float32 and labels uint8, both of `shape`; beyond the volume: air and background.
    """
    random.seed(int(rng.integers(2**32)))
    np.random.seed(int(rng.integers(2**32)))
    fires = {name: rng.random() < settings.probability for name in SPATIAL}
    margin = spatial_margin(shape, settings, fires)
    block = [s + 2 * m for s, m in zip(shape, margin, strict=True)]
    start = [c - m for c, m in zip(corner, margin, strict=True)]
    batch = {
        "data": crop(volume.image, start, block, volume.air)[None, None],
        "seg": crop(volume.labels, start, block, 0)[None, None],
    }
    if any(fires.values()):
        batch = spatial_transform(shape, settings, fires, volume.air)(**batch)
    for name in COLOUR:
        if rng.random() < settings.probability:
            batch = colour_transform(name, settings)(**batch)
    image, labels = batch["data"][0, 0], batch["seg"][0, 0].astype(np.uint8)
    flips = [(rng.random() < settings.mirror_probability) and axis in settings.mirror_axes for axis in "xyz"]
    return mirror(image, labels, flips, settings.swap_lungs)


def mirror(image: np.ndarray, labels: np.ndarray, axes: Sequence[bool], swap_lungs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mirror along each axis that is true. Along x a mirrored left lung is a right lung, so labels 1 and 2 swap."""
    flip = [axis for axis in range(3) if axes[axis]]
    if axes[0] and swap_lungs:
        labels = np.array([0, 2, 1, 3], np.uint8)[labels]
    return np.ascontiguousarray(np.flip(image, flip), np.float32), np.ascontiguousarray(np.flip(labels, flip))


def spatial_margin(shape: Sequence[int], settings: Augmentation, fires: dict[str, bool]) -> tuple[int, int, int]:
    """Voxels to add on each side so that the patch's corners, scaled, rotated, bent as `fires` says, still lie in the block."""
    half = np.asarray(shape) / 2
    a, b, c = np.sin(np.radians(np.minimum(settings.rotation_degrees, 90))) * fires["rotation"]
    turned = half + np.array([[0, c, b], [c, 0, a], [b, a, 0]]) @ half  # |R| half, bounded from above
    bend = 3 * 0.6 * settings.elastic_alpha_vox[1] / (4 * np.pi * settings.elastic_sigma_vox[0] ** 2) ** 0.75
    needed = turned * (max(settings.scaling[1], 1) if fires["scaling"] else 1) - half + bend * fires["elastic"]
    return tuple(int(m) for m in np.ceil(needed))


def spatial_transform(shape: Sequence[int], settings: Augmentation, fires: dict[str, bool], air: float) -> Callable:
    """Elastic deformation, rotation and scaling in one interpolation; `fires` says which of them happen."""
    from batchgenerators.transforms.spatial_transforms import SpatialTransform

    x, y, z = ((-angle, angle) for angle in np.radians(settings.rotation_degrees))
    return SpatialTransform(
        tuple(shape), random_crop=False, alpha=settings.elastic_alpha_vox, sigma=settings.elastic_sigma_vox,
        angle_x=x, angle_y=y, angle_z=z, scale=settings.scaling, do_elastic_deform=fires["elastic"],
        do_rotation=fires["rotation"], do_scale=fires["scaling"], border_mode_data="constant", border_cval_data=air,
        border_mode_seg="constant", border_cval_seg=0, order_data=settings.image_order, order_seg=0,
    )  # fmt: skip


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
