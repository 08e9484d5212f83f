"""Twenty synthetic chest CTs, called phantoms: the embedded data set, laid out and named like the release."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from covidlib.dataset import CASES, IMAGES, MASKS, ONE_PATIENT
from covidlib.errors import DataError
from covidlib.files import read_json, write_json

_NEARLY_CLEAR, _UPSIDE_DOWN, _OBLIQUE = "radiopaedia_29_86490_1", "radiopaedia_7_85703_0", "coronacases_004"
# A standard chest in mm: x right, y front, z up, origin at the carina. Outlines are half width, half depth, middle by level.
_LEVELS = (-150, -100, -40, 0, 40, 75, 95, 112, 132)
_BODY = ((146, 150, 155, 160, 166, 170, 168, 155, 128), (104, 106, 108, 106, 101, 94, 87, 80, 72), (-8,) * 9)
_CAGE = ((130, 132, 130, 124, 108, 84, 62, 38, 22), (86, 88, 87, 84, 74, 59, 45, 30, 18), (0, 0, 0, -2, -8, -16, -22, -26, -28))
# Tubes are two ends and a radius: heart, aorta, vena cava, pulmonary arteries, neck, belly.
_BLOOD = ((-18, 8, -34, -40, 28, -62, 36), (-52, 30, -68, -70, 36, -78, 27), (8, 24, -34, 4, 28, -70, 32),
          (0, -4, -40, -26, -6, -44, 24), (8, 20, -30, 12, 20, 22, 16), (12, 18, 26, -17, -28, 27, 13),
          (-21, -38, 25, -14, -36, -160, 12), (30, 10, 62, 28, 14, -25, 9), (-14, 32, -30, -20, 14, 0, 14),
          (-18, 6, -4, 46, -6, -14, 10), (-18, 8, 2, -48, -16, -4, 11), (11, 10, 34, 26, 2, 125, 7),
          (-14, -8, 34, -26, -8, 125, 6), (-6, -27, 130, -6, -29, -150, 8), (24, 10, -40, 26, -4, -160, 12))
_AIRWAYS = ((0, -8, 140, 2, -14, 0, 9), (2, -14, 0, 44, -22, -26, 7), (2, -14, 0, -48, -24, -32, 6))
_CLAVICLES = ((18, 46, 74, 150, -16, 108, 7), (-18, 46, 74, -150, -16, 108, 7))
_HILA = ((44, -8, -14), (40, -4, -38), (-46, -16, -4), (-42, -10, -38))


def make_phantoms(folder: str | Path, seed: int = 0, cases: Sequence[str] = CASES, scale: float = 1.0) -> Path:
    """Write phantoms as a data set in the release's layout, unless it is there; an older set of phantoms is replaced.

    Raises:
        DataError: unknown case, scale out of range, or a folder with files that phantoms did not put there.
    """
    folder, made = Path(folder).resolve(), {"version": 1, "seed": seed, "scale": scale, "cases": list(cases)}
    found = read_json(folder / "phantom.json") or {"cases": []}
    if found == made:
        return folder
    ours = {folder / sub / f"{case}.nii.gz" for sub in (IMAGES, MASKS) for case in found["cases"]} | {folder / "phantom.json"}
    present = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if strangers := sorted(set(present) - ours):
        raise DataError(f"phantoms: {strangers[0]} was not written by phantoms; name an empty or a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as work:
        for case in cases:
            _write(Path(work, "new"), case, *make_phantom(case, seed, scale))
        write_json(Path(work, "new", "phantom.json"), made)
        if folder.exists():
            folder.rename(Path(work, "old"))
        Path(work, "new").rename(folder)
    return folder


def make_phantom(case: str, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], str]:
    """Draw one synthetic chest CT: image, labels, spacing_mm, intensity; `scale` (0.2 to 1.5) is voxels per axis.

    The image (x, y, z) is RAS+, int16 HU for coronacases_*, uint8 grey of the window [-1250, 250] HU for radiopaedia_*. Labels
    are uint8; lungs hold their vessels, not the main bronchi; infection is 2-14 % of them (_29_86490_1: 30 voxels at scale 1).

    Raises:
        DataError: unknown case or scale out of range.
    """
    if case not in CASES or not 0.2 <= scale <= 1.5:
        raise DataError(f"{case}: phantom at scale {scale}; allowed: names in covidlib.dataset.CASES, scale 0.2 to 1.5")
    chest = _pose(case, seed, scale)
    hu, lungs = _trunk(chest)
    _fill_lungs(chest, hu, lungs)
    share = 30 * scale**3 if case == _NEARLY_CLEAR else np.exp(chest.rng.uniform(*np.log([0.02, 0.14]))) * lungs.sum()
    infected = _infect(chest, hu, lungs, max(1, round(share)))
    labels = np.where(infected, 3, lungs * np.where(chest.xyz[0] < 0, 1, 2)).astype(np.uint8)
    hu = _scan(chest, hu)
    if case.startswith("coronacases"):
        return np.clip(np.rint(hu), -1024, 3071).astype(np.int16), labels, chest.spacing_mm, "hu"
    return np.rint(np.clip((hu + 1250) * (255 / 1500), 0, 255)).astype(np.uint8), labels, chest.spacing_mm, "grey"


@dataclass
class _Chest:
    """Where each voxel lies in the standard chest (float32, mm)."""

    xyz: np.ndarray
    spacing_mm: tuple[float, ...]
    rng: np.random.Generator
    layers: Sequence[np.ndarray] = ()  # depth below skin, below fat, below pleura; height above the diaphragm

    def noise(self, length_mm: float) -> np.ndarray:
        """Smooth noise of unit deviation; its nodes lie on a grid in mm, so every scale sees the same field."""
        nodes = np.arange(-1, 420 / length_mm + 2) * length_mm
        result = self.rng.standard_normal([len(nodes)] * 3, dtype=np.float32)
        for size, step in zip(self.xyz.shape[1:], self.spacing_mm, strict=True):
            weights = np.exp(-(((np.arange(size)[:, None] * step - nodes) / (0.8 * length_mm)) ** 2)).astype(np.float32)
            result = np.tensordot(result, weights / np.linalg.norm(weights, axis=1, keepdims=True), axes=(0, 1))
        return result

    def tubes(self, rows: Sequence[Sequence[float]]) -> np.ndarray:
        """Depth inside the union of round tubes."""
        depth = np.full(self.xyz.shape[1:], -99, np.float32)
        for row in np.array(rows, np.float32)[..., None, None, None]:
            offset, run = self.xyz - row[:3], row[3:6] - row[:3]
            along = np.clip((offset * run).sum(0) / (run**2).sum(), 0, 1)
            depth = np.maximum(depth, row[6] - np.sqrt(((offset - along * run) ** 2).sum(0)))
        return depth


def _pose(case: str, seed: int, scale: float) -> _Chest:
    """A patient, a little turned and crooked on the table; two scans of one patient share the body."""
    from scipy.spatial.transform import Rotation

    patient = next((min(scans) for scans in ONE_PATIENT if case in scans), case)
    body, rng = np.random.default_rng([seed, CASES.index(patient)]), np.random.default_rng([seed, CASES.index(case), 1])
    size = body.uniform((0.9, 0.9, 0.87), (1.06, 1.05, 1.07))
    extent = rng.uniform(338, 378) * np.array([1, rng.choice([1, 1, 0.88]), 0]) + (0, 0, 275 * size[2])
    shape = np.clip(extent / rng.uniform((2.1, 2.1, 4.1), (2.55, 2.1, 5.6))[[0, 0, 2]], (130, 125, 40), (180, 180, 70))
    shape = np.rint(shape * scale).astype(int)
    spacing = (extent / shape)[[0, 0, 2]]
    turned = Rotation.from_euler("zy", rng.uniform((-5, -2.5), (5, 2.5)), degrees=True).as_matrix()
    points = (np.indices(shape).T - (shape - 1) / 2) * spacing @ turned - (0, 12, 11)
    chest = _Chest(np.array((points / size).T, np.float32, order="C"), tuple(spacing.tolist()), body)
    chest.xyz += 2.5 * np.stack([chest.noise(55) for _ in range(3)])
    layers = _layers(*chest.xyz, body.uniform(5, 20), max(0, body.uniform(-14, 26)), rng.uniform(-14, 10))
    return replace(chest, rng=rng, layers=layers)


def _layers(x: np.ndarray, y: np.ndarray, z: np.ndarray, fat: float, breast: float, breath: float) -> Sequence[np.ndarray]:
    """See _Chest.layers; a furrow along the back, breasts in front, the spine bulging into the cage."""
    back, front, side = np.clip(-y / 40, 0, 1), np.clip(y / 40, 0, 1), np.abs(x)
    breasts = breast * front * np.exp(-(((side - 76) / 46) ** 2) - ((z + 35) / 52) ** 2)
    depths = []
    cage = (_CAGE, side - 0.05 * np.minimum(x, 0), y - 15 * np.exp(-((x / 36) ** 2)) * back)
    for outline, across, along in (_BODY, side, y + 7 * np.exp(-((x / 22) ** 2)) * (back - front) - breasts), cage:
        half_x, half_y, middle = (np.interp(z, _LEVELS, row).astype(np.float32) for row in outline)
        ratio = ((across / half_x) ** 2.4 + (np.abs(along - middle) / half_y) ** 2.4) ** (1 / 2.4) + 1e-3
        depths.append(np.hypot(across, along - middle) * (1 / ratio - 1))
    dome = np.where(x > 0, -66, -70) + breath - 40 * ((side - 67) / 60) ** 2 - 50 * ((y - 8) / 76) ** 2
    return depths[0], depths[0] - fat - breasts, depths[1], z - dome


def _trunk(chest: _Chest) -> tuple[np.ndarray, np.ndarray]:
    """HU of everything around the lungs, and where the lungs are."""
    (x, y, z), (skin, muscle, cage, above), rough = chest.xyz, chest.layers, chest.noise(14)
    blood, airway = chest.tubes(_BLOOD) + rough, chest.tubes(_AIRWAYS)
    stomach, below = chest.tubes([(-50, 30, -118, -70, 36, -114, 32)]) + 3 * rough, (cage > 0) & (above < 0)
    meat = (muscle > 0) & ((rough + chest.noise(30) < 0.8) | (cage > -14))
    hu = np.select([skin < 0, skin < 2.5, cage > 0, (cage > -10) | meat], [-1000, 20, -95, 50], -100).astype(np.float32)
    organs = [above > -4, stomach > np.where(y > 46, 0, 99), stomach > 0, (x < -55) & (y < -18), (x > 0.4 * y - 42) & (y > -70)]
    hu[below] = np.select(organs, [45, -960, 15, 50, 58], -95)[below]
    hu[(blood > 0) & (cage > 0)] = 42
    spine = _bones(chest, hu)
    hu[airway > -2] = np.where(airway > 0, -985, 35)[airway > -2]
    width = 6 + 14 * np.clip((30 - y) / 40, 0, 1) * np.clip((z + 120) / 60, 0.4, 1) - np.clip((z - 70) / 8, 0, 6) + 2 * rough
    return hu, (cage > 3) & (above > 2) & (np.maximum.reduce([blood, spine, airway + 1, width - np.abs(x + 2)]) < -3)


def _bones(chest: _Chest, hu: np.ndarray) -> np.ndarray:
    """Paint ribs, sternum, shoulder girdle and spine; returns the depth inside the vertebral bodies."""
    (x, y, z), (skin, _, cage, _), side = chest.xyz, chest.layers, np.abs(chest.xyz[0])
    angle = np.arctan2(side, -y)
    slope = z + 42 * (1 - np.cos(1.25 * angle))
    rib = 5 * (1 - np.hypot((slope - 25 * np.rint(slope / 25)) / 6, (cage + 5.5) / 4.5))
    sternum = [15 + 9 * (z > 42) - side, 6 - np.abs(cage + 6), y, z + 80, 72 - z]
    blade = [2.6 - np.abs(cage + 22 + 0.12 * np.clip(z, 0, 80)), 40 * angle - 22, 58 - 40 * angle, z + 5, 108 - z, skin - 12]
    disc, y = z - 25 * np.rint(z / 25), y + 52 - 0.0009 * (z + 20) ** 2
    body, canal = 15 * (1 - np.hypot(x / 19, y / 15)), 9 * (1 - np.hypot(x / 11, (y + 24) / 9))
    across = [5 - np.abs(y + 25 + 0.18 * side), 36 - side, 6 - np.abs(disc)]
    spike = [3.5 - side, -30 - y, y + 52, 8 - np.abs(disc + 4)]
    parts = [sternum, blade, across, spike, [canal + 5, 9 - np.abs(disc)], [chest.tubes(_CLAVICLES), skin - 4]]
    bone = np.maximum.reduce([np.where(angle < 2.4, rib, -9), body, *(np.minimum.reduce(part) for part in parts)])
    kinds = [canal > 4, canal > 0, (body > 0) & (np.abs(disc) > 10), bone > 2.5, bone > 0, (rib > 0) & (z > -95) & (z < 75)]
    hu[:] = np.select(kinds, [38, 15, 85, 220, 560, 110], hu)
    return body


def _fill_lungs(chest: _Chest, hu: np.ndarray, lungs: np.ndarray) -> None:
    """Paint tissue that is denser at the back (gravity), a fissure, vessels."""
    (x, y, z), bend = chest.xyz, chest.noise(45)
    tissue = -838 - 0.55 * y + 10 * chest.noise(20) + 110 * np.exp(-((0.5 * z + 11 + 0.52 * y + 2 * bend) ** 2))
    vessel = sum(_tree(chest, hilum, lungs & ((x > 0) == (hilum[0] > 0))) for hilum in _HILA)
    hu[lungs] = (tissue + np.clip(vessel, 0, 1) * (40 - tissue))[lungs]


def _tree(chest: _Chest, hilum: Sequence[float], lung: np.ndarray) -> np.ndarray:
    """Share of each voxel that is vessel: a random tree from the hilum that halves a cloud of leaves at each fork."""
    rng, spacing, voxels, share = chest.rng, np.array(chest.spacing_mm), np.argwhere(lung), np.zeros(lung.shape, np.float32)
    root = np.argmin(((chest.xyz - np.array(hilum, np.float32)[:, None, None, None]) ** 2).sum(0))
    start = np.array([np.unravel_index(root, lung.shape)]) * spacing
    leaves = voxels[rng.integers(len(voxels), size=(1, 512))] * spacing
    for level in range(9):
        middle, radius = leaves.mean(1), 6.2 * 0.79**level
        run = (middle - start) * rng.uniform(0.4, 0.65, (len(start), 1))
        steps, jitter = rng.random((len(start), 9000 >> level, 1)), rng.normal(0, radius / 2, (len(start), 9000 >> level, 3))
        points = start[:, None] + run[:, None] * steps + jitter
        weights = np.pi * radius**2 * np.linalg.norm(run, axis=1, keepdims=True) / spacing.prod() / points.shape[1]
        np.add.at(share, tuple(np.rint(points / spacing).astype(int).clip(0, np.array(lung.shape) - 1).T), 1.3 * weights.T)
        longest = np.linalg.svd(leaves - middle[:, None], full_matrices=False)[2][:, 0] + 0.4 * rng.standard_normal(run.shape)
        order = np.argsort(np.einsum("bij,bj->bi", leaves, longest), axis=1)
        leaves = np.take_along_axis(leaves, order[..., None], 1).reshape(2 * len(start), -1, 3)
        start = np.repeat(start + run, 2, axis=0)
    return share


def _infect(chest: _Chest, hu: np.ndarray, lungs: np.ndarray, wanted: int) -> np.ndarray:
    """Paint ground glass and consolidation, mostly at the back and under the pleura; True in `wanted` voxels of the lungs."""
    rng, cage, places = chest.rng, chest.layers[2], chest.xyz[:, lungs].T
    wish = np.exp(-cage[lungs] / 18.0 - places[:, 1] / 45.0)
    count = 1 + round(wanted * np.prod(chest.spacing_mm) / 7e4)
    seats = places[rng.choice(len(places), count, p=wish / wish.sum())]
    spread = chest.tubes([(*seat, *(seat + rng.normal(0, 9, 3)), rng.uniform(8, 20)) for seat in seats]) / 22
    spread += 0.28 * chest.noise(26) + 0.14 * chest.noise(11) + 0.25 * np.exp(-cage / 9)
    spread -= np.partition(spread[lungs], -wanted)[-wanted]
    glass = np.clip(spread / 0.3 + 0.45, 0, 1) * lungs
    hu += glass * np.maximum(rng.uniform(-560, -420) + 60 * chest.noise(9) - hu, 0)
    solid = np.clip((spread - rng.uniform(0.15, 0.8)) / 0.25 + 0.5 * chest.noise(16), 0, 1) * (glass == 1)
    hu += solid * np.maximum(rng.uniform(-60, 30) - hu, 0)
    return lungs & (spread >= 0)


def _scan(chest: _Chest, hu: np.ndarray) -> np.ndarray:
    """Put the table below, blur, and add noise that is correlated as in a reconstruction."""
    from scipy import ndimage

    (nx, ny, _), (dx, dy, _), body = hu.shape, chest.spacing_mm, chest.layers[0] > 0
    across = (np.arange(nx)[:, None] - (nx - 1) / 2) * dx
    drop = (np.argmax(body.any((0, 2))) - np.arange(ny)) * dy - 6 + 0.0012 * across**2
    table = np.select([(np.abs(across) > 150) | (drop < 0) | (drop > 18), drop < 14], [-1000, -930], -250)
    hu = ndimage.gaussian_filter(np.where(body, hu, table[..., None]).astype(np.float32), (0.55, 0.55, 0.35))
    grain = ndimage.gaussian_filter(chest.rng.standard_normal(hu.shape, dtype=np.float32), (0.75, 0.75, 0.3))
    return hu + grain * (chest.rng.uniform(15, 28) / grain.std())


def _write(folder: Path, case: str, image: np.ndarray, labels: np.ndarray, spacing_mm: Sequence[float], intensity: str) -> None:
    """Store one case in the orientation that its namesake in the release has."""
    import nibabel as nib
    from scipy.spatial.transform import Rotation

    flips = (-1, 1, 1) if intensity == "hu" else (-1, -1, -1) if case == _UPSIDE_DOWN else (-1, -1, 1)
    turned = Rotation.from_euler("x", 4 if case == _OBLIQUE else 0, degrees=True).as_matrix() * np.multiply(spacing_mm, flips)
    affine = nib.affines.from_matvec(turned, -turned @ (np.array(image.shape) - 1) / 2)
    for sub, array in (IMAGES, image), (MASKS, labels):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        stored = nib.Nifti1Image(array[tuple(slice(None, None, flip) for flip in flips)], affine)
        stored.header.set_xyzt_units("mm")
        nib.save(stored, folder / sub / f"{case}.nii.gz")
