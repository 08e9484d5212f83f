"""A run: one profile applied to one folder of cases, and where everything of it lies.

runs/<profile>/prepared/<case>.npz
               fold_<k>/{model.weights.h5, history.csv, fold.json, checkpoint.*, tensorboard/, predictions/<case>.nii.gz}
               beginning/ (another run, see `beginning`)
               scores.csv  manifest.json  tables/  figures/  notebooks/ (executed)
"""

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from covidlib.dataset import IMAGES, Case, Fold, _path, list_cases, load_case, make_folds, read_volume, to_canonical
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, read_json, write_json
from covidlib.preprocessing import Prepared, prepare_cached, read_prepared
from covidlib.profile import Profile, lineage, load_profile, profile_from

ROOT = Path(__file__).resolve().parent.parent
VECTORS = {"avx512_bf16": "AVX-512, bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}  # one name stands for many processors
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # Linux tells a container there what it may use
PACKAGES = ("tensorflow", "keras", "jax", "openvino", "numpy", "scipy", "nibabel", "batchgenerators", "covidlib")


@dataclass(frozen=True)
class Run:
    """A profile, the folder its cases are read from, the folder its results go to, the case ids and the folds.

    `data` is None for a run without its scans, from `reopen_run`: it can train, but neither show nor score a case.
    """

    profile: Profile
    data: Path | None
    folder: Path
    cases: tuple[str, ...]
    folds: tuple[Fold, ...]

    def fold(self, number: int) -> Fold:
        """A fold by its number. DataError where there is no such fold."""
        if not 0 <= number < len(self.folds):
            raise DataError(f"fold {number}: no such fold; allowed: 0 to {len(self.folds) - 1}")
        return self.folds[number]

    def fold_folder(self, number: int) -> Path:
        """Where a fold's weights, history and predictions lie. DataError where there is no such fold."""
        return self.folder / f"fold_{self.fold(number).number}"

    def prediction(self, number: int, case: str) -> Path:
        """Predicted labels of a test case of a fold."""
        return self.fold_folder(number) / "predictions" / f"{case}.nii.gz"

    def predicted_labels(self, number: int, case: str) -> np.ndarray:
        """The prediction as uint8 labels (x, y, z) in RAS+. DataError where the fold has not been predicted."""
        path = self.prediction(number, case)
        if not path.is_file():
            raise DataError(f"{case}: no {path.name} of fold {number}; run notebook 04_training with fold = {number}")
        return to_canonical(*read_volume(path, case)[::2]).astype(np.uint8)

    def scans(self, case: str) -> Path:
        """The data folder, to read a case from. DataError in a run without its scans."""
        if self.data is None:
            raise DataError(f"{case}: this run was opened without its scans; open it with its data folder")
        return self.data

    def image_file(self, case: str) -> Path:
        """The file of a case's image. DataError in a run without its scans."""
        return _path(self.scans(case) / IMAGES, case)

    def case(self, case: str) -> Case:
        """A case as stored, in RAS+. DataError in a run without its scans."""
        return load_case(self.scans(case), case, self.profile.data.intensity.get(case))

    def prepared(self, cases: Sequence[str]) -> list[Prepared]:
        """Cases on the working grid, from the cache or made now, with a progress bar in a terminal."""
        if self.data is None:
            return [read_prepared(self.folder / "prepared" / f"{case}.npz") for case in cases]
        from tqdm import tqdm

        intensity = self.profile.data.intensity
        return [
            prepare_cached(self.data, case, self.profile.preprocessing, intensity.get(case), self.folder / "prepared")
            for case in tqdm(cases, "preparing", disable=None, leave=False)
        ]


def open_run(
    profile: str | Path = "demo",
    data: str | Path = "",
    out: str | Path = "",
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Open or begin a run.

    Args:
        profile: name in profiles/, or path of a YAML file.
        data: folder in the release's layout; "" takes the phantoms, made on first use, where the profile asks for them.
        out: folder for the results; "" takes runs/<profile> in the project, with overrides runs/<profile>-<their fingerprint>.
        overrides: dotted settings that replace the profile's, e.g. {"training.epochs": 3}.

    Raises:
        DataError: a bad profile, no data, images and masks that do not pair, folds that cannot be made.
    """
    settings = load_profile(profile, overrides)
    source = Path(data) if data else _default_data(settings)
    cases = tuple(list_cases(source))
    unknown = sorted(set(settings.data.intensity) - set(cases))
    if unknown:
        raise DataError(f"profile {settings.name}: data.intensity names {', '.join(unknown)}; no such case in {source}")
    changed = f"-{fingerprint(dict(overrides))[:6]}" if overrides else ""  # an experiment does not overwrite the profile's run
    folder = Path(out or ROOT / "runs" / f"{settings.name}{changed}")
    run = Run(settings, source, folder, cases, tuple(make_folds(cases, settings.folds)))
    dealt = [{"test": list(fold.test), "train": list(fold.train)} for fold in run.folds]
    described = {"profile": settings.as_dict(), "folds": dealt}
    if read_json(run.folder / "run.json") != described:
        write_json(run.folder / "run.json", described)
    return run


def reopen_run(folder: str | Path) -> Run:
    """A run from its folder alone, for training where its scans are not: run.json has settings and folds, prepared/ the volumes.

    Raises:
        DataError: no run.json in it, or one that holds something else.
    """
    try:
        described = read_json(Path(folder) / "run.json")
        folds = [Fold(number, tuple(one["train"]), tuple(one["test"])) for number, one in enumerate(described["folds"])]
        settings = profile_from(described["profile"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: no run.json of a run ({error}); name the folder that 'prepare' or 'pack' wrote") from error
    cases = sorted({case for fold in folds for case in (*fold.train, *fold.test)})
    return Run(settings, None, Path(folder), tuple(cases), tuple(folds))


def beginning(run: Run) -> Run | None:
    """The run whose networks those of `run` begin with, in a folder inside of its own: the profile `training.begin_with` on the
    same scans, folds and seed. None where they begin with random weights.

    Raises:
        DataError: it begins with itself (`lineage`), or its networks differ in more than the stride, or have another one than 1.
    """
    settings = run.profile
    if not (name := settings.training.begin_with):
        return None
    folder, same = run.folder / "beginning", {key: settings.as_dict()[key] for key in ("seed", "data", "folds")}
    if run.data is not None:
        lineage(name)
    first = reopen_run(folder) if run.data is None else open_run(name, run.data, folder, same)
    own, other = settings.network, first.profile.network
    if replace(other, stride=own.stride) != own or other.stride not in ((1, 1, 1), own.stride):
        allowed = "a profile whose network is the same, or the same but for a stride of 1"
        raise DataError(f"profile {settings.name}: training.begin_with is {name!r}; allowed: {allowed}")
    return first


def trained_weights(folder: Path) -> list[Path]:
    """Weights of the folds trained in a run's folder, in order; where it was evaluated, of those that its manifest names.

    Others may be of earlier settings: what lies aside in fold_<k>.previous-<key>, and what no later run has looked at.
    """
    files = {path.parent.name.removeprefix("fold_"): path for path in Path(folder).glob("fold_*/model.weights.h5")}
    named = (read_json(Path(folder) / "manifest.json") or {}).get("folds", files)
    return [files[number] for number in sorted(filter(str.isdigit, files), key=int) if number in named]


def write_manifest(run: Run, folds: Sequence[int]) -> dict[str, Any]:
    """Write and return manifest.json: versions, machine, seed, minutes of each of these folds, profile, checksums of the images.

    `folds` are the numbers of those that were evaluated. Of others, what lies there may be of other settings.
    """
    manifest = {
        "profile": run.profile.as_dict(),
        "seed": run.profile.seed,
        "data": data_name(run),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "folds": {str(number): read_json(run.fold_folder(number) / "fold.json") for number in folds},
        "checksums": {path.name: checksum(path) for path in sorted((run.data / IMAGES).glob("*.nii*"))},
    }
    write_json(run.folder / "manifest.json", manifest)
    return manifest


def data_name(run: Run) -> str:
    """What every number of the run must be called by: phantoms, the 8-bit surrogate, or the folder's name."""
    if (run.data / "phantom.json").is_file():
        return "phantoms (synthetic chests)"
    return "8-bit surrogate of COVID-19-CT-Seg" if (run.data / "manifest.csv").is_file() else run.data.name


def machine() -> str:
    """Processor, the widest vectors it computes with, cores and memory of this machine in one line."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        told = dict(map(str.strip, line.split(":", 1)) for line in info.read_text().splitlines() if ":" in line)
        vectors = [said for flag, said in VECTORS.items() if flag in told.get("flags", "").split()]
        name = " ".join([told.get("model name", name), *(f"({said})" for said in vectors[:1])])
    return f"{name}, {os.cpu_count()} cores, {memory() / 2**30:.0f} GiB memory"


def memory() -> float:
    """Bytes of this machine's memory, or of its container's if that may use less; not a number where the system does not say."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else math.nan
    allowed = CONTAINER.read_text().strip() if CONTAINER.is_file() else "max"
    return min(whole, float(allowed)) if allowed.isdigit() else whole


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The project's commit, "+" behind it where files differ from it; None without git or outside of a checkout."""
    if not shutil.which("git"):
        return None
    done = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def _default_data(settings: Profile) -> Path:
    from covidlib.phantom import make_phantoms

    if settings.data.source != "phantom":
        raise DataError(
            f"profile {settings.name}: no data folder given; name one in the release's layout (--data DIR, or data = ... in a "
            "notebook); 'python -m covidlib fetch --to DIR' downloads the release"
        )
    seed, scale = settings.data.phantom_seed, settings.data.phantom_scale
    return make_phantoms(ROOT / "data" / f"phantom-seed{seed}-scale{scale:g}", seed=seed, scale=scale)
