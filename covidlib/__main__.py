"""`python -m covidlib ...`: the package's verbs from a shell."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from covidlib.errors import DataError

if TYPE_CHECKING:
    from covidlib.dataset import Case


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 with the reason on standard error."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return given.command(given) or 0
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m covidlib", description="COVID-19 in chest CT, segmented. Not for clinical use."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = verbs.add_parser("run", help="train, predict and evaluate a profile: every notebook, in order")
    _profile_arguments(run)
    run.add_argument("--folds", type=_numbers, default=(), metavar="0,3", help="only these folds (default: all)")
    run.add_argument("--cores", type=int, default=0, help="jobs and threads at once (default: all of the machine's)")
    run.add_argument("--book", action="store_true", help="build the HTML book from the run, too (demo)")
    run.set_defaults(command=_run)

    predict = verbs.add_parser("predict", help="mark lungs and infection in scans of your own; say how much is infected")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help=".nii, .nii.gz, a folder of them, or of a DICOM series")
    predict.add_argument("--out", required=True, metavar="DIR", help="folder for labels, overlays and quantification.csv")
    predict.add_argument("--weights", default="", metavar="DIR", help="a run's folder (default: the weights of this package)")
    predict.add_argument("--intensity", choices=("hu", "grey"), help="overrules the detection")
    predict.add_argument("--probabilities", action="store_true", help="write the probabilities of the classes, too")
    predict.add_argument("--memory", type=_gigabytes, metavar="4GB", help="for the network, about (default: 4GB)")
    predict.set_defaults(command=_predict)

    check = verbs.add_parser("check", help="list every problem of a data folder; exit code 1 if there is one")
    check.add_argument("folder", metavar="DIR")
    check.set_defaults(command=_check)

    fetch = verbs.add_parser("fetch", help="download the Zenodo release (about 1.1 GB), checked and unpacked")
    fetch.add_argument("--to", required=True, metavar="DIR")
    fetch.set_defaults(command=_fetch)

    phantom = verbs.add_parser("phantom", help="make the twenty synthetic chests")
    phantom.add_argument("--to", required=True, metavar="DIR")
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--scale", type=float, default=1.0, help="voxels per axis, as a fraction (default: 1)")
    phantom.set_defaults(command=_phantom)

    prepare = verbs.add_parser("prepare", help="bring every case of a run to the working grid (a step of run)")
    _profile_arguments(prepare)
    prepare.set_defaults(command=_prepare)

    begin = verbs.add_parser("begin", help="train a fold of what a run begins with (a step of run)")
    _profile_arguments(begin)
    begin.add_argument("--fold", type=int, required=True)
    begin.set_defaults(command=_begin)

    store = verbs.add_parser("store", help="keep a finished run: results/<profile>/, and its weights in half precision")
    _profile_arguments(store)
    store.add_argument("--weights", default="", metavar="DIR", help="write the weights there (default: do not)")
    store.set_defaults(command=_store)

    pack = verbs.add_parser("pack", help="write a run's settings and prepared volumes, small, to train it elsewhere")
    _profile_arguments(pack)
    pack.add_argument("--to", required=True, metavar="DIR")
    pack.set_defaults(command=_pack)

    train = verbs.add_parser("train", help="train folds of a folder that 'pack' wrote, without scans or notebooks")
    train.add_argument("--run", required=True, metavar="DIR")
    train.add_argument("--folds", type=_numbers, default=(), metavar="0,3", help="only these folds (default: all)")
    train.add_argument("--workers", type=int, default=1, help="processes that make batches (default: 1)")
    train.set_defaults(command=_train)

    score = verbs.add_parser("score", help="compare two folders of labels (NIfTI files of the same names), case by case")
    score.add_argument("--truth", required=True, metavar="DIR")
    score.add_argument("--prediction", required=True, metavar="DIR")
    score.add_argument("--out", required=True, metavar="FILE.csv")
    score.set_defaults(command=_score)

    notebook = verbs.add_parser("notebook", help="execute one notebook of a run (a step of run)")
    notebook.add_argument("name")
    _profile_arguments(notebook)
    notebook.add_argument("--fold", type=int)
    notebook.add_argument("--folds", type=_numbers, default=(), metavar="0,3")
    notebook.set_defaults(command=_notebook)

    book = verbs.add_parser("book", help="build the HTML book from a finished run (a step of run --book)")
    _profile_arguments(book)
    book.set_defaults(command=_book)
    return parser


def _profile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="demo", help="name in profiles/, or a .yaml file (default: demo)")
    parser.add_argument(
        "--data", default="", metavar="DIR", help="folder in the release's layout (default: the profile's phantoms)"
    )
    parser.add_argument("--out", default="", metavar="DIR", help="folder for the results (default: runs/<profile>)")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _gigabytes(text: str) -> float:
    amount = float(text.upper().removesuffix("GB"))
    if not 0.1 <= amount <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 0.1GB to 1000GB")
    return amount


def _run(given: argparse.Namespace) -> None:
    from covidlib.workflow import run_all

    folder = run_all(given.profile, given.data, given.out, given.folds, given.cores, given.book)
    sys.stdout.write(f"results: {folder}/scores.csv, manifest.json; notebooks: {folder}/notebooks\n")


def _predict(given: argparse.Namespace) -> int:
    from covidlib.predict import SHIPPED, predict_scans

    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # where TensorFlow computes: only its errors between the lines about scans
    weights = given.weights or SHIPPED
    failed = predict_scans(given.inputs, given.out, weights, given.intensity, given.probabilities, given.memory)
    sys.stdout.write(f"{len(failed)} failed, see errors.csv; " if failed else "")
    sys.stdout.write(f"results: {given.out}/quantification.csv\n")
    return 1 if failed else 0


def _check(given: argparse.Namespace) -> int:
    from covidlib.dataset import check_folder

    sound, problems, notes = check_folder(given.folder, seen=_describe)
    for line in [*(f"note: {note}" for note in notes), *(f"problem: {problem}" for problem in problems)]:
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{len(sound)} sound cases, {len(problems)} problems\n")
    return 1 if problems else 0


def _describe(case: "Case") -> None:
    shape, spacing = " x ".join(map(str, case.image.shape)), " x ".join(f"{length:.2f}" for length in case.spacing_mm)
    sys.stdout.write(f"{case.id}: {shape} voxels of {spacing} mm, stored {case.orientation}, intensity {case.intensity}\n")


def _fetch(given: argparse.Namespace) -> None:
    from covidlib.fetch import fetch

    sys.stdout.write(f"{fetch(given.to)}\n")


def _phantom(given: argparse.Namespace) -> None:
    from covidlib.phantom import make_phantoms

    sys.stdout.write(f"{make_phantoms(given.to, seed=given.seed, scale=given.scale)}\n")


def _prepare(given: argparse.Namespace) -> None:
    from covidlib.runs import beginning, open_run

    started = time.monotonic()
    run = open_run(given.profile, given.data, given.out)
    run.prepared(run.cases)
    if first := beginning(run):
        first.prepared(first.cases)
    _say(f"{len(run.cases)} cases on the working grid", started)


def _begin(given: argparse.Namespace) -> None:
    from covidlib.runs import beginning, open_run
    from covidlib.training import say_progress, train_fold
    from covidlib.workflow import MARK

    started, run = time.monotonic(), beginning(open_run(given.profile, given.data, given.out))
    if not run:
        raise DataError(f"profile {given.profile}: begins with random weights; allowed: one with training.begin_with")
    name = f"{run.profile.name} fold {given.fold}"
    logging.basicConfig(level=logging.INFO, format=f"{MARK}{name}: %(message)s", stream=sys.stderr, force=True)
    train_fold(run, given.fold, lambda rows: say_progress(rows, run.profile.training.epochs))
    _say(name, started)


def _store(given: argparse.Namespace) -> None:
    from covidlib.runs import ROOT, open_run
    from covidlib.store import export_weights, store_results

    run = open_run(given.profile, given.data, given.out)
    sys.stdout.write(f"{store_results(run, ROOT / 'results' / run.profile.name)}\n")
    if given.weights:
        made = export_weights(run, Path(given.weights))
        sys.stdout.writelines(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n" for path in made)


def _pack(given: argparse.Namespace) -> None:
    from covidlib.runs import open_run
    from covidlib.store import pack_run

    folder = pack_run(open_run(given.profile, given.data, given.out), Path(given.to))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sys.stdout.write(f"{folder}: {size / 1e6:.1f} MB\n")


def _train(given: argparse.Namespace) -> None:
    from covidlib.runs import reopen_run
    from covidlib.training import say_progress, train_fold

    run = reopen_run(given.run)
    for number in given.folds or range(len(run.folds)):
        history = train_fold(run, number, lambda rows: say_progress(rows, run.profile.training.epochs), given.workers)
        sys.stdout.write(f"fold {number}: loss {history[-1]['loss']:.3f} after {history[-1]['minutes']:.1f} minutes\n")


def _score(given: argparse.Namespace) -> int:
    from covidlib.metrics import score_folders

    scores, problems = score_folders(Path(given.truth), Path(given.prediction), Path(given.out))
    sys.stdout.writelines(f"problem: {problem}\n" for problem in problems)
    where = "nothing written" if scores.empty else given.out
    sys.stdout.write(f"{where}: {scores['case'].nunique()} cases scored, {len(problems)} problems\n")
    return 1 if problems else 0


def _notebook(given: argparse.Namespace) -> None:
    from covidlib.runs import open_run
    from covidlib.workflow import MARK, absolute, execute

    started = time.monotonic()
    folder = open_run(given.profile, given.data, given.out).folder
    parameters = {**absolute(given.profile, given.data, given.out), "fold": given.fold, "folds": list(given.folds)}
    defaults = {"profile": "demo", "data": "", "out": "", "fold": None, "folds": []}
    differing = {key: value for key, value in parameters.items() if value != defaults[key]}
    name = given.name if given.fold is None else f"{given.name} fold {given.fold}"
    sys.stderr.write(f"{MARK}{name} begins\n")
    execute(given.name, folder, differing)
    _say(name, started)


def _book(given: argparse.Namespace) -> None:
    from covidlib.book import build_book
    from covidlib.runs import open_run

    started = time.monotonic()
    page = build_book(open_run(given.profile, given.data, given.out))
    _say(f"book: {Path(page).name}", started)


def _say(what: str, started: float) -> None:
    from covidlib.workflow import MARK

    sys.stderr.write(f"{MARK}{what}: {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # everything is written: to take the networks apart would take a third of a second
