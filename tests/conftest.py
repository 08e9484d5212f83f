"""Shared by all tests: tiny cases in the release's layout, tiny prepared volumes, a tiny profile; a calm TensorFlow."""

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # read when TensorFlow is first imported, so before any test module is
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest
from hypothesis import settings

from covidlib.dataset import IMAGES, MASKS
from covidlib.preprocessing import Prepared
from covidlib.profile import Profile, load_profile
from covidlib.runs import Run, open_run

settings.register_profile("covidlib", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("covidlib")

SHAPE = (6, 5, 4)
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
PIXDIM = 80  # offset of pixdim[1] in a NIfTI-1 header, float32

TINY_SETTINGS: dict[str, Any] = {
    "folds": {"scheme": "random", "count": 2},
    "preprocessing": {"spacing_mm": [4.0, 4.0, 6.0]},
    "patches": {"shape_vox": [16, 16, 8]},
    "augmentation": {"elastic_alpha_vox": [0, 20], "elastic_sigma_vox": [2, 3]},
    "network": {"filters": [4, 8], "norm_momentum": 0.9},
    "loss": {"counts": "batch"},
    "training": {"epochs": 3, "batches_per_epoch": 3, "validation_batches": 1, "learning_rate": 0.01},
    "inference": {"window_shape_vox": [16, 16, 8]},
}


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, pixdim: Mapping[int, float]) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    header["descrip"] = b"drawn by hand"
    content = bytearray(nib.Nifti1Image(array, affine, header, dtype=array.dtype).to_bytes())
    for axis, value in pixdim.items():  # nibabel would mend a bad spacing on writing: put it in afterwards
        content[PIXDIM + 4 * axis : PIXDIM + 4 * axis + 4] = np.float32(value).tobytes()
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))


def hu_image(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Int16 HU from -1000 up to 190 or so, every voxel another value as far as possible."""
    count = int(np.prod(shape))
    return (np.arange(count) * (1190 / count) - 1000).astype(np.int16).reshape(shape)


def drawn_labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Uint8: voxel (0, 0, 0) left lung, (1, 0, 0) right lung, (2, 0, 0) infection, all else background, in stored order."""
    labels = np.zeros(shape, np.uint8)
    labels[:3, 0, 0] = 1, 2, 3
    return labels


@pytest.fixture(scope="session")
def write_case() -> Callable[..., Path]:
    """write_case(folder, case, ...): image and mask in the release's layout; None leaves one out. Returns the folder."""

    def write(
        folder: Path,
        case: str = "coronacases_001",
        image: np.ndarray | None | str = "hu",
        labels: np.ndarray | None | str = "drawn",
        affine: np.ndarray = LPS,
        mask_affine: np.ndarray | None = None,
        pixdim: Mapping[int, float] | None = None,
        ending: str = ".nii.gz",
    ) -> Path:
        image = hu_image() if isinstance(image, str) else image
        labels = drawn_labels(SHAPE if image is None else image.shape) if isinstance(labels, str) else labels
        if image is not None:
            _write_nifti(folder / IMAGES / f"{case}{ending}", image, affine, pixdim or {})
        if labels is not None:
            _write_nifti(folder / MASKS / f"{case}{ending}", labels, affine if mask_affine is None else mask_affine, {})
        return folder

    return write


def tiny_volume(number: int) -> Prepared:
    """24 x 24 x 12 voxels: a dark box on the left (1), one on the right (2), a bright block in the right one (3), noise."""
    labels = np.zeros((24, 24, 12), np.uint8)
    labels[4:10, 4:20], labels[14:20, 4:20] = 1, 2
    labels[15:18, 6 + number : 12 + number, 3:8] = 3
    value = np.array([0.5, -1.0, -1.0, 1.5], np.float32)[labels]
    noise = np.random.default_rng(number).normal(0, 0.2, labels.shape)
    return Prepared(f"tiny_{number}", (value + noise).astype(np.float32), labels, (4.0, 4.0, 6.0))


@pytest.fixture(scope="session")
def tiny_volumes() -> list[Prepared]:
    """Four prepared volumes that differ in where the infection lies and in their noise."""
    return [tiny_volume(number) for number in range(4)]


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile file with a network of 2 levels and 3 epochs of 3 batches: seconds to train."""
    import yaml

    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_SETTINGS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_profile(tiny_yaml: Path) -> Callable[..., Profile]:
    """tiny_profile({"training.epochs": 5}): the tiny profile with overrides."""
    return lambda overrides=None: load_profile(tiny_yaml, overrides)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, write_case: Callable[..., Path]) -> Path:
    """Four cases of 24 x 24 x 12 voxels of 4 x 4 x 6 mm, stored as LPS: the tiny volumes in HU."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        volume = tiny_volume(number)
        image, labels = (200 * volume.image - 700).astype(np.int16), volume.labels
        affine = np.diag([-4.0, -4.0, 6.0, 1.0])
        write_case(folder, volume.id, image[::-1, ::-1], labels[::-1, ::-1], affine)
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path, tiny_folder: Path) -> Run:
    """A run over the tiny folder whose fold 0 is trained. Copy its folder before changing anything."""
    from covidlib.training import train_fold

    run = open_run(tiny_yaml, tiny_folder, tmp_path_factory.mktemp("run"))
    train_fold(run, 0)
    return run
