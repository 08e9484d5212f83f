"""What the benchmarks on real cases share: each test case with the network that has not seen it, Dice, tables."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidlib.dataset import Case
from covidlib.files import read_json, whole_file
from covidlib.inference import load_model, predict_fold
from covidlib.metrics import score
from covidlib.preprocessing import Prepared
from covidlib.profile import load_profile
from covidlib.runs import ROOT, Run, open_run


def command_line(about: str | None, profile: str = "surrogate-coarse") -> argparse.ArgumentParser:
    """What every one of these scripts is told: a data folder and a profile."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--profile", default=profile)
    return parser


def trained_run(about: str | None, profile: str = "surrogate-coarse") -> Run:
    """The run that the command line names."""
    given = command_line(about, profile).parse_args()
    return open_run(given.profile, given.data)


def train_variant(given: argparse.Namespace, name: str, changes: dict[str, Any], folds: Sequence[int]) -> Run:
    """The profile with changes, in runs/`name`, these folds trained as far as they are not."""
    from covidlib.training import train_fold

    run = open_run(given.profile, given.data, ROOT / "runs" / name, changes)
    for number in folds:
        train_fold(run, number)
    return run


def first_cycles(profile: str, count: int) -> dict[str, Any]:
    """What ends a profile's training after so many of its cycles."""
    lengths = load_profile(profile).training.cycle_epochs[:count]
    return {"training.epochs": sum(lengths), "training.cycle_epochs": list(lengths)}


def steps(run: Run, number: int) -> int:
    """How many steps a fold was trained for."""
    return read_json(run.fold_folder(number) / "fold.json")["epochs"] * run.profile.training.batches_per_epoch


def unseen_cases(run: Run) -> Iterator[tuple[int, Any, Case, Prepared]]:
    """Fold, its network, and each of its test cases as stored and prepared."""
    for fold in run.folds:
        model = load_model(run.profile, run.fold_folder(fold.number) / "model.weights.h5")
        for case, prepared in zip(map(run.case, fold.test), run.prepared(fold.test), strict=True):
            yield fold.number, model, case, prepared


def scored_fold(run: Run, number: int, told: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per test case of a trained fold, predicted if it is not yet: fold, case, Dice of each class, and what is `told`."""
    made = predict_fold(run, number)
    return [
        {"fold": number, "case": case.id, **dice(case.labels, run.predicted_labels(number, case.id)), **told}
        for case in map(run.case, made)
    ]


def dice(truth: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Dice of each class, by the names of the tables' columns."""
    return {row["class"].replace(" ", "_"): row["dice"] for row in score(truth, labels)}


def update_table(rows: list[dict[str, Any]], path: Path, *columns: str) -> None:
    """Write rows into a table in place of those that have the same values in `columns`; all others stay."""
    kept = pd.read_csv(path).to_dict("records") if path.is_file() else []
    measured = {tuple(row[column] for column in columns) for row in rows}
    write_table([row for row in kept if tuple(row[column] for column in columns) not in measured] + rows, path)


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV, whole or not at all."""
    with whole_file(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4f")
