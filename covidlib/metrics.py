"""Truth and prediction in, one row per case and class out; Table 1. Paper section 3.7."""

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covidlib.dataset import (
    CLASSES,
    INFECTION,
    MASKS,
    TWO_SPACINGS,
    _case_id,
    _mask_problems,
    _path,
    make_case,
    read_volume,
    spacing_agrees,
)
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, read_json, whole_file, write_json
from covidlib.runs import Run

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("dice", "sensitivity", "specificity")
TOLERANCE_MM = {"left lung": 1.0, "right lung": 1.0, "infection": 3.0}  # of the surface Dice, as in Ma et al. 2021
NEARLY_EMPTY = "radiopaedia_29_86490_1"  # about 30 infected voxels: its infection Dice says nothing
log = logging.getLogger("covidlib")


def score(truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float] | None = None) -> list[dict[str, float | str]]:
    """Scores of each class but background.

    Args:
        truth, prediction: integer labels 0-3 (x, y, z) of one shape.
        spacing_mm: voxel size; if given, the surfaces are scored as well.

    Returns:
        a dict per class: class, dice = 2 TP / (2 TP + FP + FN), sensitivity = TP / (TP + FN), specificity = TN / (TN + FP),
        truth_voxels, predicted_voxels. A class in neither has Dice 1; sensitivity of an empty truth is NaN.
        With spacing also truth_ml, predicted_ml, dice_infected_slices (only axial slices that truly hold infection; NaN without
        any) and those of `surface_scores`.

    Raises:
        DataError: shapes differ.
    """
    if truth.shape != prediction.shape:
        raise DataError(f"truth has shape {truth.shape}, prediction {prediction.shape}; allowed: the same grid")
    infected = truth == INFECTION
    rows: list[dict[str, float | str]] = []
    for label, name in enumerate(CLASSES[1:], 1):
        there, found = truth == label, prediction == label
        rows.append({"class": name, **_counted(there, found)})
        if spacing_mm is not None:
            rows[-1] |= _in_space(there, found, infected, spacing_mm, TOLERANCE_MM[name])
    return rows


def surface_scores(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """How well two surfaces agree, by DeepMind's surface-distance, whose definitions Ma et al. 2021 use.

    Args:
        truth, prediction: masks (x, y, z).
        spacing_mm: voxel size.
        tolerance_mm: how far apart two surfaces may lie and still count as the same.

    Returns:
        nsd: share of both surfaces within the tolerance; 1 if both masks are empty, 0 if one is.
        hd95_mm: 95th percentile of the distances from one surface to the other; NaN where a mask is empty, for there is none.
    """
    import surface_distance

    if not truth.any() or not prediction.any():
        return {"nsd": float(not truth.any() and not prediction.any()), "hd95_mm": float("nan")}
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # it calls SciPy by an old name
        distances = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    return {
        "nsd": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(distances, 95)),
    }


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Voxels of each true class (rows) by the class that they were marked as (columns): (4, 4) integers.

    truth, prediction: integer labels 0-3 (x, y, z) of one shape.
    """
    count = len(CLASSES)
    pairs = count * truth.astype(np.uint8).ravel() + prediction.astype(np.uint8).ravel()
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def confusion_fold(run: Run, number: int) -> "pd.DataFrame":
    """`confusion` of a fold's predictions: fold, case, truth (a class), then voxels by the class they were marked as."""
    import pandas as pd

    rows = []
    for case in run.fold(number).test:
        counted = confusion(run.case(case).labels, run.predicted_labels(number, case))
        for name, row in zip(CLASSES, counted.tolist(), strict=True):
            rows.append({"fold": number, "case": case, "truth": name, **dict(zip(CLASSES, row, strict=True))})
    return pd.DataFrame(rows)


def score_fold(run: Run, number: int) -> "pd.DataFrame":
    """Scores of a fold's predictions at the original resolution: fold, case and the columns of `score`, one row per class.

    Kept in the fold's scores.csv: scored anew where predictions or code have changed.
    """
    import pandas as pd

    folder, cases = run.fold_folder(number), run.fold(number).test
    files = [(run.prediction(number, case), _path(run.scans(case) / MASKS, case)) for case in cases]
    key = fingerprint([checksum(path) for pair in files for path in pair if path.is_file()], "metrics", "dataset")
    kept = folder / "scores.csv"
    if read_json(folder / "scores.json") == key and kept.is_file():
        return read_scores(kept)
    rows = []
    for case in cases:
        there = run.case(case)
        scored = score(there.labels, run.predicted_labels(number, case), there.spacing_mm)
        rows += [{"fold": number, "case": case, **row} for row in scored]
    _write_csv(pd.DataFrame(rows), kept)
    write_json(folder / "scores.json", key)
    return read_scores(kept)


def read_scores(file: Path) -> "pd.DataFrame":
    """A scores.csv: fold, case and the columns of `score`. A case stays a name, even one such as 001."""
    import pandas as pd

    return pd.read_csv(file, dtype={"case": str})


def score_run(run: Run, folds: Sequence[int]) -> "pd.DataFrame":
    """`score_fold` of several folds, also written to the run's scores.csv."""
    import pandas as pd

    scores = pd.concat([score_fold(run, number) for number in folds], ignore_index=True)
    _write_csv(scores, run.folder / "scores.csv")
    return scores


def score_folders(truth: Path, prediction: Path, out: Path) -> "tuple[pd.DataFrame, list[str]]":
    """Scores of anyone's labels: NIfTI files of the same names in two folders.

    Args:
        truth, prediction: folders of <case>.nii or .nii.gz with labels 0-3 on the same grid, each in any orientation;
            <case>_labels.nii.gz, as `predict` writes it, is taken for the case as well.
        out: CSV to write: case and the columns of `score`, one row per case and class; none where no case could be scored.

    Returns:
        the table, and a line for each case that could not be scored (missing, unreadable, other grid, other labels).

    Raises:
        DataError: no such folder, two files of one case, or `out` cannot be written.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    problems, (there, found) = [], map(_files, (truth, prediction))
    for case in sorted({*there, *found}):
        try:
            rows += [{"case": case, **row} for row in _score_files(case, there.get(case), found.get(case))]
        except DataError as error:
            problems += str(error).splitlines()
    if not rows:
        problems.append(f"{truth}: no case could be scored; expected <case>.nii.gz files of the same names in both folders")
    table = pd.DataFrame(rows, columns=None if rows else ["case"])
    try:
        if rows:
            _write_csv(table, Path(out))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); give another file") from error
    return table, problems


def lungs_or_infection(scores: "pd.DataFrame") -> "pd.Series":
    """"lungs" or "infection" for each row of scores, to group by: left and right lung together."""
    return scores["class"].where(scores["class"] == "infection", "lungs").rename("kind")


def headline(scores: "pd.DataFrame") -> "pd.DataFrame":
    """The means that are compared with other systems': one row per way of counting, columns value, counted, left out.

    `NEARLY_EMPTY` is left out of the means over cases; cases without a value (NaN) are not counted.
    """
    import pandas as pd

    counted = scores[scores["case"] != NEARLY_EMPTY]
    infection, lungs = counted[counted["class"] == "infection"], counted[counted["class"] != "infection"]
    every, medians = scores[scores["class"] == "infection"], table_1(scores).drop("average")
    values = {
        "infection Dice, all slices": infection["dice"],
        "infection Dice, all slices, no case left out": every["dice"],
        "infection Dice, infected slices": infection["dice_infected_slices"],
        "infection sensitivity": infection["sensitivity"],
        "infection surface Dice at 3 mm": infection["nsd"],
        "infection HD95 in mm": infection["hd95_mm"],
        "lowest infection Dice": infection["dice"].nsmallest(1),
        "lowest infection Dice, no case left out": every["dice"].nsmallest(1),
        "lungs Dice": lungs["dice"],
        "left lung Dice": lungs["dice"][lungs["class"] == "left lung"],
        "right lung Dice": lungs["dice"][lungs["class"] == "right lung"],
        "lungs surface Dice at 1 mm": lungs["nsd"],
        "infection Dice, mean of fold medians (all cases)": medians["infection", "dice"],
        "infection sensitivity, mean of fold medians (all cases)": medians["infection", "sensitivity"],
        "lungs Dice, mean of fold medians (all cases)": medians["lungs", "dice"],
    }
    return pd.DataFrame(
        {name: {"value": v.mean(), "counted": v.count(), "left out": v.isna().sum()} for name, v in values.items()}
    ).T


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


def _counted(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Scores of one class from voxel counts of two masks."""
    hit, actual, predicted = int((truth & prediction).sum()), int(truth.sum()), int(prediction.sum())
    outside = truth.size - actual
    return {
        "dice": 2 * hit / (actual + predicted) if actual + predicted else 1.0,
        "sensitivity": hit / actual if actual else float("nan"),
        "specificity": (outside - (predicted - hit)) / outside if outside else float("nan"),
        "truth_voxels": actual,
        "predicted_voxels": predicted,
    }


def _in_space(
    truth: np.ndarray, prediction: np.ndarray, infected: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    """What needs a third axis and the size of a voxel: mL, Dice on truly infected slices, surfaces."""
    ml, slices = float(np.prod(spacing_mm)) / 1000, infected.any((0, 1))
    return {
        "truth_ml": np.count_nonzero(truth) * ml,
        "predicted_ml": np.count_nonzero(prediction) * ml,
        "dice_infected_slices": _counted(truth[..., slices], prediction[..., slices])["dice"] if slices.any() else float("nan"),
        **surface_scores(truth, prediction, spacing_mm, tolerance_mm),
    }


def _files(folder: Path) -> dict[str, Path]:
    """NIfTI files of a folder by case; what `predict` wrote for a scan goes by the scan's name."""
    paths = [path for path in sorted(Path(folder).glob("[!.]*")) if re.search(r"(?i)(?<!_probabilities)\.nii(\.gz)?$", path.name)]
    cases = [_case_id(path).removesuffix("_labels") for path in paths]
    twice = sorted({case for case in cases if cases.count(case) > 1})
    if twice or not Path(folder).is_dir():
        raise DataError(f"{folder}: " + (f"two files of {', '.join(twice)}; keep one" if twice else "no such folder"))
    return dict(zip(cases, paths, strict=True))


def _score_files(case: str, truth: Path | None, prediction: Path | None) -> list[dict[str, float | str]]:
    """Scores of two files of labels; DataError where one is missing, or they do not lie on one grid."""
    if truth is None or prediction is None:
        raise DataError(f"{case}: {prediction or truth}: no {'truth' if truth is None else 'prediction'} of that name; add it")
    (drawn, affine, spacing_mm), (found, other, _) = (_labels(path, case) for path in (truth, prediction))
    wrong = list(_mask_problems((found, None, other), (drawn, None, affine), f"{case}: {prediction} against {truth}"))
    of_one_kind = [truth] if drawn.max() == 1 else []  # scored as a left lung, it would look like a result
    if found.max() == 1 and found.shape == drawn.shape and np.mean(drawn[found == 1] == INFECTION) > 0.5:
        of_one_kind.append(prediction)
    only = "no label but 1; allowed: 1 left, 2 right lung, 3 infection; write infection as 3"
    wrong += [f"{case}: {path}: {only}" for path in of_one_kind]
    if wrong:
        raise DataError("\n".join(wrong))
    return score(drawn, found, spacing_mm)


def _labels(path: Path, case: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Labels in RAS+, their affine and spacing. DataError for anything but labels 0-3."""
    import nibabel as nib

    array, header, affine = read_volume(path, case)
    if not spacing_agrees(affine, header):
        log.warning("%s: %s: %s", case, path, TWO_SPACINGS)
    if wrong := "\n".join(_mask_problems((array, header, affine), None, f"{case}: {path}")):
        raise DataError(wrong)
    made = make_case(case, array, affine, header, "grey", array.astype(np.uint8))
    turned = affine @ nib.orientations.inv_ornt_aff(nib.io_orientation(affine), array.shape)
    return made.labels, turned, made.spacing_mm


def _write_csv(table: "pd.DataFrame", path: Path) -> None:
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
