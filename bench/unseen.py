"""What the benchmarks on real cases share: each test case with the network that has not seen it, Dice, tables."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidlib.dataset import Case
from covidlib.files import whole_file
from covidlib.inference import load_model
from covidlib.metrics import score
from covidlib.preprocessing import Prepared
from covidlib.runs import Run, open_run


def trained_run(about: str | None) -> Run:
    """The run that the command line names."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--profile", default="surrogate")
    given = parser.parse_args()
    return open_run(given.profile, given.data)


def unseen_cases(run: Run) -> Iterator[tuple[int, Any, Case, Prepared]]:
    """Fold, its network, and each of its test cases as stored and prepared."""
    for fold in run.folds:
        model = load_model(run.profile, run.fold_folder(fold.number) / "model.weights.h5")
        for case, prepared in zip(map(run.case, fold.test), run.prepared(fold.test), strict=True):
            yield fold.number, model, case, prepared


def dice(truth: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Dice of each class, by the names of the tables' columns."""
    return {row["class"].replace(" ", "_"): row["dice"] for row in score(truth, labels)}


def update_table(rows: list[dict[str, Any]], path: Path, column: str) -> None:
    """Write rows into a table in place of those that have the same values in `column`; all others stay."""
    kept = pd.read_csv(path).to_dict("records") if path.is_file() else []
    measured = {row[column] for row in rows}
    write_table([row for row in kept if row[column] not in measured] + rows, path)


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV, whole or not at all."""
    with whole_file(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4f")
