"""Our work for bench/speed.py: `python bench/work.py PIECE SIZE OUT`, a fresh process each; the result in its last line."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SPACING_MM, WORKING_MM = (0.8, 0.8, 1.5), (1.58, 1.58, 2.70)
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312}  # bfloat16 on the tensor cores, dense, from the data sheets
Size = Mapping[str, Any]


def inputs(size: Size, out: Path) -> dict[str, Any]:
    """Write the scans, the same for both sides, and our weights: those of the paper's network, random, from a fixed seed."""
    folder = Path(size["folder"])
    if (folder / "size.json").is_file() and json.loads((folder / "size.json").read_text()) == size:
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    x, y, z = size["scan"]
    scans = {"scan": (size["scan"], SPACING_MM)}
    scans |= {f"scan_{share:g}": ((x, y, round(z * share)), SPACING_MM) for share in size["growth"]}
    for name, (shape, spacing) in scans.items():
        _write_scan(folder / name / "case_0", shape, spacing, 0)
    for number in range(4):
        _write_scan(folder / "working" / f"case_{number}", size["working"], WORKING_MM, number)
    _write_scan(folder / "small", size["small"], WORKING_MM, 0)
    for count in size["scans"]:
        (folder / f"small_{count}").mkdir()
        for number in range(count):
            shutil.copy(folder / "small" / "imaging.nii.gz", folder / f"small_{count}" / f"scan_{number:03}.nii.gz")
    _write_weights(size, folder / "weights")
    (folder / "size.json").write_text(json.dumps(size))
    return {}


def prepare(size: Size, out: Path) -> dict[str, Any]:
    """The paper's preprocessing of one scan with its mask. Notes: distance to plain cubic resampling in grey, and the classes."""
    from covidlib.preprocessing import prepare

    case, profile = _case(Path(size["folder"]) / "scan" / "case_0"), _profile(size)
    with _measured() as took:
        prepared = prepare(case, profile.preprocessing)
    gained = sorted(set(np.unique(prepared.labels)) - set(np.unique(case.labels)))
    return {**took, "notes": {"classes_gained": [int(label) for label in gained]}}


def cubic(size: Size, out: Path) -> dict[str, Any]:
    """Mean absolute difference in grey between our resampling and a plain cubic spline, with and without our low-pass."""
    from scipy.ndimage import zoom

    from covidlib.preprocessing import resample, to_grey, working_shape

    case, settings = _case(Path(size["folder"]) / "scan" / "case_0"), _profile(size).preprocessing
    grey = to_grey(case.image, case.intensity, settings)
    shape = working_shape(grey.shape, case.spacing_mm, settings.spacing_mm)
    spline = zoom(grey, np.divide(shape, grey.shape), order=3, mode="nearest", grid_mode=True)
    ours, plain = (float(np.abs(resample(grey, shape, low_pass=on) - spline).mean()) for on in (settings.low_pass, False))
    return {"value": ours, "notes": {"without_low_pass": plain}}


def batch(size: Size, out: Path) -> dict[str, Any]:
    """Batches of the paper's size with its augmentation; the mean of many, for most patches get few transforms."""
    made = _batches(size)
    made[0]
    with _measured() as took:
        for index in range(1, size["batches"] + 1):
            made[index]
    return {name: value / size["batches"] for name, value in took.items()} | {"notes": {"batches": size["batches"]}}


def step(size: Size, out: Path) -> dict[str, Any]:
    """Training steps on one batch of noise; the first, which also compiles, is not counted."""
    from covidlib.training import compiled_network

    model, (images, labels) = compiled_network(_profile(size)), _noise(size)
    model.train_on_batch(images, labels)
    with _measured() as took:
        for _ in range(size["steps"]):
            model.train_on_batch(images, labels)
    return {name: value / size["steps"] for name, value in took.items()} | {"notes": {"parameters": model.count_params()}}


def book(size: Size, out: Path) -> dict[str, Any]:
    """The demo run with its book, in a folder of its own: percent of its wall time in which no cell of any notebook ran.

    What `prepare` takes (drawing phantoms, resampling) counts as overhead too: the share is an upper bound.
    """
    command = [sys.executable, "-m", "covidlib", "run", "--profile", "demo", "--out", str(out), "--book"]
    with _measured() as took:
        subprocess.run(command, check=True)
    computing = busy_s([span for file in (out / "notebooks").glob("*.ipynb") for span in cell_spans(file)])
    return {"value": 100 * (1 - computing / took["wall_s"]), "notes": {"computing_s": computing, "whole_s": took["wall_s"]}}


def cell_spans(notebook: Path) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of every cell that papermill ran in an executed notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    times = [cell["metadata"].get("papermill", {}) for cell in cells]
    spans = [(known["start_time"], known["end_time"]) for known in times if known.get("start_time") and known.get("end_time")]
    return [tuple(datetime.fromisoformat(moment).timestamp() for moment in span) for span in spans]


def busy_s(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one span: notebooks that run at the same time count once."""
    total, reached = 0.0, -np.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return float(total)


def gpu_step(size: Size, out: Path) -> dict[str, Any]:
    """Milliseconds of a training step, its batch included, with 8 processes that make batches.

    Notes: the step alone on a batch that is there; as a share of the former it is how much of the time the card is busy; and the
    share of the card's peak. A step counts as three forward passes.
    """
    from covidlib.training import compiled_network

    model, (images, labels) = compiled_network(_profile(size)), _noise(size)
    model.train_on_batch(images, labels)
    alone = _seconds(lambda: model.train_on_batch(images, labels), size["steps"])
    made = _batches(size, workers=size.get("workers", 8))
    model.fit(made, epochs=1, verbose=0)
    with _measured() as took:
        model.fit(made, epochs=2, initial_epoch=1, verbose=0)
    fed = took["wall_s"] / len(made)
    flops = 3 * size.get("batch", 2) * forward_flops(model, size["patch"])
    notes = {"step_alone_ms": 1e3 * alone, "busy_percent": 100 * min(1.0, alone / fed), **_of_peak(flops / alone)}
    return {**took, "value": 1e3 * fed, "notes": notes}


def gpu_volume(size: Size, out: Path) -> dict[str, Any]:
    """Seconds for the class probabilities of a prepared volume, after a first call that compiles."""
    from covidlib.inference import predict_volume
    from covidlib.network import build_network

    profile = _profile(size, memory_gb=60.0)
    volume, model = _prepared(size, 1)[0], build_network(profile.network, profile.seed)
    predict_volume(model, volume, profile)
    with _measured() as took:
        predict_volume(model, volume, profile)
    flops = forward_flops(model, volume.image.shape)
    return {**took, "value": took["wall_s"], "notes": _of_peak(flops / took["wall_s"])}


def forward_flops(model: Any, shape: Any) -> float:
    """Floating-point operations of the convolutions for one volume (x, y, z): two a weight and output voxel (or input voxel of a
    transposed convolution)."""
    total, divided = 0.0, 1.0
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "MaxPooling3D":
            divided *= np.prod(layer.pool_size)
        if kind.startswith("Conv3D"):
            total += 2 * np.prod(layer.kernel.shape) * np.prod(shape) / divided
        if kind == "Conv3DTranspose":
            divided /= np.prod(layer.strides)
    return float(total)


def _of_peak(flops_per_s: float) -> dict[str, Any]:
    import jax

    card = jax.devices()[0].device_kind
    peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in card), None)
    share = {"percent_of_peak": 100 * flops_per_s / (peak * 1e12)} if peak else {}
    return {"device": card, "tflops": flops_per_s / 1e12, **share}


def _seconds(call: Any, times: int) -> float:
    with _measured() as took:
        for _ in range(times):
            call()
    return took["wall_s"] / times


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    took: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield took
    took |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def _profile(size: Size, memory_gb: float = 4.0) -> Any:
    from covidlib.profile import load_profile

    changed = {"network.filters": size["filters"], "network.precision": "mixed_bfloat16", "patches.shape_vox": size["patch"]}
    changed |= {"inference.mode": "volume", "inference.window_shape_vox": size["patch"], "inference.memory_gb": memory_gb}
    return load_profile("paper", changed)


def _write_scan(folder: Path, shape: Any, spacing_mm: tuple[float, ...], seed: int) -> None:
    """A phantom stretched to `shape` by its nearest voxels, with noise on every voxel as a scanner gives."""
    import nibabel as nib

    image, labels = _phantom(seed)
    near = np.ix_(*(np.arange(n) * old // n for n, old in zip(shape, image.shape, strict=True)))
    noise = np.random.default_rng(seed).normal(0, 20, shape).astype(np.int16)
    folder.mkdir(parents=True)
    for name, array in (("imaging", np.clip(image[near] + noise, -1024, 3071)), ("segmentation", labels[near])):
        nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1])), folder / f"{name}.nii.gz")


@cache
def _phantom(seed: int) -> tuple[np.ndarray, np.ndarray]:
    from covidlib.phantom import make_phantom

    return make_phantom("coronacases_001", seed, scale=0.6)[:2]


def _write_weights(size: Size, folder: Path) -> None:
    from covidlib.files import write_json
    from covidlib.network import build_network

    profile = _profile(size)
    write_json(folder / "run.json", {"profile": profile.as_dict(), "folds": []})
    (folder / "fold_0").mkdir()
    build_network(profile.network, profile.seed).save_weights(folder / "fold_0" / "model.weights.h5")


def _case(folder: Path) -> Any:
    from covidlib.dataset import make_case, read_volume

    image, header, affine = read_volume(folder / "imaging.nii.gz", folder.name)
    labels = read_volume(folder / "segmentation.nii.gz", folder.name)[0].astype(np.uint8)
    return make_case(folder.name, image, affine, header, "hu", labels)


def _prepared(size: Size, count: int) -> list[Any]:
    from covidlib.preprocessing import prepare

    settings = _profile(size).preprocessing
    return [prepare(_case(Path(size["folder"]) / "working" / f"case_{number}"), settings) for number in range(count)]


def _batches(size: Size, workers: int = 1) -> Any:
    from covidlib.batches import Batches

    return Batches(_prepared(size, 4), _profile(size), size["batches"], workers=workers)


def _noise(size: Size) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (2, *size["patch"])
    return rng.normal(size=(*shape, 1)).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)


PIECES = {piece.__name__: piece for piece in (inputs, prepare, cubic, batch, step, book, gpu_step, gpu_volume)}

if __name__ == "__main__":
    piece, size, out = sys.argv[1:]
    sys.stdout.write("\nRESULT " + json.dumps(PIECES[piece](json.loads(size), Path(out))) + "\n")
