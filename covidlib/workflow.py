"""Notebooks in, executed notebooks out: one through papermill, or all in the Snakefile's order."""

import io
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from covidlib.book import BUILT_FROM
from covidlib.dataset import CLASSES
from covidlib.engine import cores as cores_there
from covidlib.errors import DataError
from covidlib.files import only_one, whole_file, write_json
from covidlib.profile import Profile, load_profile
from covidlib.runs import ROOT, memory, open_run

NOTEBOOKS = ROOT / "notebooks"
MARK = "covidlib: "  # lines of a job that the terminal is to show
log = logging.getLogger("covidlib")


def check_parameters(names: dict[str, Any], **kinds: type) -> None:
    """Stop a notebook whose parameters are unknown or of a wrong type; papermill only warns. Lets covidlib's messages show.

    Args:
        names: the notebook's globals(), looked at right after its parameters cell. Any further plain variable there was injected.
        kinds: name -> type of each parameter.

    Raises:
        DataError: names what came and what is allowed.
    """
    plain = (str, int, float, bool, list, dict, type(None))
    given = [name for name, value in names.items() if isinstance(value, plain) and not name.startswith("_")]
    unknown = sorted(set(given) - set(kinds) - {"In", "Out"})
    if unknown and "_parameters_seen" not in names:  # a second run of the cell sees the notebook's own variables
        raise DataError(f"parameter {', '.join(unknown)}: unknown; allowed: {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(names[name]) is not kind:
            raise DataError(f"parameter {name} is {names[name]!r}; allowed: {kind.__name__}")
    names["_parameters_seen"] = True
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]


def execute(notebook: str, folder: Path, parameters: Mapping[str, Any]) -> Path:
    """Run one notebook through papermill, from the notebooks folder, into `folder`/notebooks.

    Args:
        notebook: file name without ending, e.g. "04_training".
        folder: the run's folder.
        parameters: only those that differ from the notebook's defaults; a `fold` becomes part of the executed copy's name.

    Returns:
        the executed copy, whole.

    Raises:
        DataError: no such notebook or parameter; or one line with notebook, cell and error, the executed copy being kept in
            `folder`/notebooks/failed.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = NOTEBOOKS / f"{notebook}.ipynb"
    if not source.is_file():
        raise DataError(
            f"notebook {notebook}: no such file; allowed: {', '.join(p.stem for p in sorted(NOTEBOOKS.glob('*.ipynb')))}"
        )
    unknown = sorted(set(parameters) - set(papermill.inspect_notebook(str(source))))
    if unknown:
        raise DataError(f"notebook {notebook}: unknown parameter {', '.join(unknown)}")
    name = f"{notebook}_fold_{parameters['fold']}" if "fold" in parameters else notebook
    target = Path(folder) / "notebooks" / f"{name}.ipynb"
    options = {"cwd": str(NOTEBOOKS), "progress_bar": False, "kernel_name": "python3", "stdout_file": _Relay(name)}
    with whole_file(target) as working:
        try:
            papermill.execute_notebook(str(source), str(working), dict(parameters), **options)
        except papermill.PapermillExecutionError as error:
            failed = target.parent / "failed" / target.name
            failed.parent.mkdir(exist_ok=True)
            os.replace(working, failed)
            where = f"{source.name} cell {error.exec_count}"
            said = " ".join(str(error.evalue).split())
            raise DataError(f"{where}: {error.ename}: {said} (executed copy: {_short(failed)})") from None
        except DeadKernelError:
            raise DataError(f"{source.name}: its kernel died, as when memory runs out; try fewer jobs (--cores)") from None
        _tidy(working)
    return target


def absolute(profile: str, data: str, out: str) -> dict[str, str]:
    """The three of a run with paths made absolute, for jobs and notebooks that work in other folders; "" stays ""."""
    given = {"profile": profile, "data": data, "out": out}
    is_path = {"profile": profile.endswith((".yaml", ".yml")), "data": bool(data), "out": bool(out)}
    return {key: str(Path(value).resolve()) if is_path[key] else value for key, value in given.items()}


def run_all(profile: str, data: str = "", out: str = "", folds: Sequence[int] = (), cores: int = 0, book: bool = False) -> Path:
    """Run every notebook of a run in the Snakefile's order, redoing only what is out of date.

    Args:
        profile, data, out: as for `open_run`.
        folds: fold numbers to train and evaluate; empty: all.
        cores: how many jobs and threads at once; 0: all that this process may use.
        book: build the HTML book from the run as well: of five folds on phantoms, as its pages tell of them.

    Returns:
        the run's folder.

    Raises:
        DataError: bad profile, data or folds, or a run that the book's text is not about, before anything starts; or the first
            failing job's own line.
    """
    settings = load_profile(profile)
    folder = Path(out or ROOT / "runs" / settings.name).resolve()
    wrong = [fold for fold in folds if not 0 <= fold < settings.folds.number]
    if wrong:
        raise DataError(f"--folds {wrong}: no such fold; allowed: 0 to {settings.folds.number - 1}")
    phantoms, five = settings.data.source == "phantom" and not data, settings.folds.number == len(set(folds) or range(5)) == 5
    if book and not (phantoms and five):
        allowed = "a profile with data.source phantom and five folds, without --data and --folds; or no --book, and the notebooks"
        raise DataError(f"--book: the book tells of five folds on phantoms; allowed: {allowed}")
    config = {**absolute(profile, data, out), "folds": ",".join(map(str, sorted(set(folds))))}
    command = [sys.executable, "-m", "snakemake", "book" if book else "all", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(cores or cores_there()), "--nolock", "--rerun-incomplete"]
    command += ["--configfile", str(folder / "snakemake.json")]  # on the command line, a path with ": " or " #" would be another
    if book and not (BUILT_FROM.is_file() and BUILT_FROM.read_text(encoding="utf-8") == str(folder)):
        command += ["--forcerun", "book"]  # the HTML shows another run
    with only_one(folder) as lock:
        if data or settings.data.source == "folder":
            open_run(profile, data, folder)  # complains about data now, not after minutes
        write_json(folder / "snakemake.json", config)
        _watch(command, folder / "snakemake.log", lock)
    return folder


def training_threads(profile: Profile, cores: int, memory_gb: float | None = None, cases: int = 20) -> int:
    """Threads for one training, so that as many folds train at once as cores and memory hold.

    Two trainings of one thread each make a fifth more steps than one of two threads: a small network leaves threads waiting for
    each other. A training needs at most about 1.7 GB, sixteen maps of its finest level (and where a stride makes that one coarser
    than the patch, eight times the patch's probabilities), and all scans, of 350 x 350 x 300 mm, on its grid: with twenty 3.5 GB
    for `surrogate` (3.2 measured), 10.6 GB for `paper` (a step: 7.2, without the scans).

    Args:
        cores: to share among the trainings.
        memory_gb: of which four fifths may be used; None: the machine's.
    """
    voxels, stride = math.prod(profile.patches.shape_vox) * profile.patches.batch_size, math.prod(profile.network.stride)
    values = 16 * profile.network.filters[0] / stride + (8 * len(CLASSES) if stride > 1 else 0)
    scans = cases * 350 * 350 * 300 / math.prod(profile.preprocessing.spacing_mm) * (4 + 1)  # float32 image, uint8 labels
    needed = 1.7 + (voxels * values * 4 + scans) / 1e9
    there = memory_gb or memory() / 1e9
    at_once = int(0.8 * there / needed) if math.isfinite(there) else 1
    return -(-cores // max(1, min(at_once, cores, profile.folds.number)))


class _Relay(io.TextIOBase):
    """Takes what a notebook prints and shows its lines in the terminal, each after the notebook's name."""

    def __init__(self, name: str):
        self.name = name

    def write(self, text: str) -> int:
        """Show the lines of `text`; called by papermill."""
        sys.stderr.writelines(f"{MARK}{self.name}: {line}\n" for line in text.splitlines() if line.strip())
        return len(text)


def _watch(command: list[str], log_file: Path, lock: IO[str]) -> None:
    """Run a command: all it says goes into a file, marked lines to the terminal. DataError with the first failed job's own line.

    It inherits the lock, for it may outlive this process.
    """
    started, failure = time.monotonic(), ""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "pass_fds": [lock.fileno()]}
    with open(log_file, "w", encoding="utf-8") as file, subprocess.Popen(command, **options) as process:
        for line in process.stdout or ():
            file.write(line)
            said = line.removeprefix(MARK).strip()
            if line.startswith("error: "):  # as `main` ends a job
                said = f"failed: {line.removeprefix('error: ').strip()}"
                failure = failure or said
            if line.startswith((MARK, "error: ")):
                sys.stderr.write(f"[{(time.monotonic() - started) / 60:5.1f} min] {said}\n")
    if process.returncode:
        raise DataError(failure or f"the run stopped; the reason is at the end of {_short(log_file)}")


def _tidy(path: Path) -> None:
    """Give the injected cell the tags of the parameters cell, and drop papermill's record of this machine's paths."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tags = next((c["metadata"].get("tags", []) for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])), [])
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"] += [tag for tag in tags if tag != "parameters"]
    for key in ("input_path", "output_path", "parameters"):
        notebook["metadata"].get("papermill", {}).pop(key, None)
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
