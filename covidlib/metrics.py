"""Truth and prediction in, one row per case and class out; Table 1. Paper section 3.7."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from covidlib.dataset import CLASSES
from covidlib.errors import DataError
from covidlib.files import whole_file
from covidlib.runs import Run

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("dice", "sensitivity", "specificity")


def score(truth: np.ndarray, prediction: np.ndarray) -> list[dict[str, float | str]]:
    """Dice, sensitivity and specificity of each class but background, from voxel counts.

    Args:
        truth, prediction: integer labels 0-3 of one shape.

    Returns:
        a dict per class: class, dice = 2 TP / (2 TP + FP + FN), sensitivity = TP / (TP + FN), specificity = TN / (TN + FP),
        truth_voxels, predicted_voxels. A class in neither has Dice 1; sensitivity of an empty truth is NaN.

    Raises:
        DataError: shapes differ.
    """
    if truth.shape != prediction.shape:
        raise DataError(f"truth has shape {truth.shape}, prediction {prediction.shape}; allowed: the same grid")
    counts = np.bincount(truth.ravel().astype(np.int64) * 4 + prediction.ravel(), minlength=16).reshape(4, 4)
    rows: list[dict[str, float | str]] = []
    for label, name in enumerate(CLASSES[1:], 1):
        hit, actual, predicted = int(counts[label, label]), int(counts[label].sum()), int(counts[:, label].sum())
        outside = truth.size - actual
        rows.append({
            "class": name,
            "dice": 2 * hit / (actual + predicted) if actual + predicted else 1.0,
            "sensitivity": hit / actual if actual else float("nan"),
            "specificity": (outside - (predicted - hit)) / outside if outside else float("nan"),
            "truth_voxels": actual,
            "predicted_voxels": predicted,
        })  # fmt: skip
    return rows


def score_fold(run: Run, number: int) -> "pd.DataFrame":
    """Scores of a fold's predictions at the original resolution: fold, case and the columns of `score`, one row per class."""
    import pandas as pd

    rows = []
    for case in run.folds[number].test:
        counted = score(run.case(case).labels, run.predicted_labels(number, case))
        rows += [{"fold": number, "case": case, **row} for row in counted]
    return pd.DataFrame(rows)


def score_run(run: Run, folds: Sequence[int]) -> "pd.DataFrame":
    """`score_fold` of several folds, also written to the run's scores.csv."""
    import pandas as pd

    scores = pd.concat([score_fold(run, number) for number in folds], ignore_index=True)
    with whole_file(run.folder / "scores.csv") as temporary:
        scores.to_csv(temporary, index=False, float_format="%.6g")
    return scores


def table_1(scores: "pd.DataFrame") -> "pd.DataFrame":
    """The paper's Table 1: per fold the median over its cases, lungs as the mean of the two; last row the mean over folds.

    Columns (lungs | infection, dice | sensitivity | specificity). NaN values (empty truth) are left out of a median.
    """
    import pandas as pd

    medians = scores.groupby(["fold", "class"])[list(METRICS)].median().unstack("class")
    columns = {}
    for group, classes in (("lungs", ["left lung", "right lung"]), ("infection", ["infection"])):
        for metric in METRICS:
            columns[group, metric] = medians[metric][classes].mean(axis=1)
    table = pd.DataFrame(columns)
    table.loc["average"] = table.mean()
    return table
