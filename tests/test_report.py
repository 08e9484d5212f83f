"""Markdown made from result files: every number in it is in the files."""

import math
import re

import pandas as pd
import pytest

from covidlib.dataset import CLASSES
from covidlib.files import write_json
from covidlib.metrics import NEARLY_EMPTY
from covidlib.report import (
    cases_markdown,
    confusion_markdown,
    decisions_markdown,
    folds_markdown,
    means_markdown,
    options_markdown,
    overfitting_markdown,
    recipes_markdown,
    stored_results,
    table_1_markdown,
    viewer_markdown,
    windows_markdown,
)
from covidlib.runs import ROOT

NAMES = ("left lung", "right lung", "infection")


def row(fold, case, name, dice, distance=2.0):
    shares = dict.fromkeys(("dice", "dice_infected_slices", "sensitivity", "specificity", "nsd"), dice)
    return {"fold": fold, "case": case, "class": name, **shares, "hd95_mm": distance, "truth_ml": 120.4, "predicted_ml": 99.6}


@pytest.fixture
def scores():
    cases = ((0, "a", 0.75, 2.0), (1, "b", 0.25, math.nan), (1, NEARLY_EMPTY, 0.0, 40.0))
    return pd.DataFrame([row(fold, case, name, dice, far) for fold, case, dice, far in cases for name in NAMES])


def cells(markdown, start):
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_leave_the_nearly_empty_case_out_and_name_what_others_published(scores):
    table = means_markdown(scores)
    assert cells(table, "infection Dice, all slices")[1:4] == ["0.500", "2", "0"]
    assert cells(table, "infection HD95 in mm")[1:4] == ["2.000", "1", "1"]
    everything = cells(table, "infection Dice, all slices, no case left out")
    assert everything[1:3] == ["0.333", "3"] and "Ma et al." in everything[4]
    assert NEARLY_EMPTY in table


def test_every_case_has_a_row_and_a_missing_value_an_empty_cell(scores):
    table = cases_markdown(scores)
    assert cells(table, "0 | a") == ["0", "a", *["0.750"] * 4]
    assert cells(table, "a") == ["a", "0.750", "0.750", "2", "120", "100"]
    assert cells(table, "b")[3] == ""
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 * (2 + 3)


def test_table_1_has_a_row_per_fold_and_the_average(scores):
    lines = table_1_markdown(scores).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["fold", "---", "0", "1", "average"]
    assert cells("\n".join(lines), "average")[4] == f"{(0.75 + 0.125) / 2:.3f}"


def test_confusion_in_percent_of_the_truth_and_lungs_with_infection_as_one(tmp_path):
    """Case b marks half of the left lung as infection, and 10 of 40 voxels of both lungs as background."""
    rows = [
        *[("a", name, *(20 * (name == other) for other in CLASSES)) for name in CLASSES],
        ("b", "background", 50, 0, 0, 0),
        ("b", "left lung", 0, 10, 0, 10),
        ("b", "right lung", 10, 0, 10, 0),
        ("b", "infection", 0, 0, 0, 0),
        (NEARLY_EMPTY, "left lung", 99, 1, 0, 0),
    ]
    pd.DataFrame(rows, columns=["case", "truth", *CLASSES]).to_csv(tmp_path / "confusion.csv", index=False)
    text = confusion_markdown(tmp_path / "confusion.csv")
    assert cells(text, "left lung") == ["left lung", "0.0 %", "75.0 %", "0.0 %", "25.0 %"]
    assert cells(text, "infection") == ["infection", "0.0 %", "0.0 %", "0.0 %", "100.0 %"]
    low = 2 * 30 / (40 + 30)
    assert f"mean Dice {(1 + low) / 2:.3f}, the lowest {low:.3f}" in text and "mean over 2 cases" in text


def test_overfitting_reads_the_last_epoch_of_each_fold():
    history = {"epoch": [1, 2], "loss": [2, 0.5], "val_loss": [3, 0.625]}
    history |= {"soft_dice_infection": [0, 0.75], "val_soft_dice_infection": [0, 0.25]}
    assert cells(overfitting_markdown({"3": pd.DataFrame(history)}), "3") == ["3", "0.500", "0.625", "0.750", "0.250"]


def test_a_stored_run_makes_tables_and_pictures(scores, tmp_path):
    profile = {"name": "surrogate"}
    folds = {"0": {"minutes": 25.2, "epochs": 2}, "1": {"minutes": 24, "epochs": 2}}
    manifest = {"data": "8-bit surrogate", "profile": profile, "seed": 7, "machine": "an abacus", "folds": folds}
    write_json(tmp_path / "stored" / "manifest.json", manifest)
    scores.to_csv(tmp_path / "stored" / "scores.csv", index=False)
    history = {"epoch": [1, 2], "loss": [2, 0.5], "val_loss": [3, 0.6], "soft_dice_infection": [0, 0.7]}
    for fold in (0, 1):
        pd.DataFrame({**history, "val_soft_dice_infection": [0, 0.3]}).to_csv(
            tmp_path / f"stored/history_fold_{fold}.csv", index=False
        )
    text = stored_results(tmp_path / "stored", tmp_path)
    assert "seed 7" in text and "an abacus" in text and "fold 0: 25 min (2 epochs)" in text
    assert "surrogate_cases.svg" in text and "surrogate_figure6.png" not in text  # that one was not stored
    assert "{numref}`surrogate-cases` shows" in text and ":name: surrogate-cases" in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {"surrogate_cases.svg", "surrogate_figure4.svg"}


def test_nothing_stored_is_said(tmp_path):
    assert "No run" in stored_results(tmp_path, tmp_path)
    assert "No option" in options_markdown(tmp_path / "options.csv")


def test_two_stored_runs_are_told_by_what_differs(scores, tmp_path):
    for name, norm, shift in (("one", "batch", 0.0), ("other", "instance", 0.0625)):
        write_json(tmp_path / name / "run.json", {"profile": {"seed": 0, "network": {"norm": norm, "filters": [4, 8]}}})
        changed = scores.assign(dice=scores["dice"] + shift)
        changed.to_csv(tmp_path / name / "scores.csv", index=False)
    text = recipes_markdown([tmp_path / "one", tmp_path / "other"])
    assert cells(text, "`network` `norm`") == ["`network` `norm`", "batch", "instance"]
    assert "seed" not in text and "filters" not in text
    _, before, after = cells(text, "infection Dice, all slices")
    assert float(after) - float(before) == pytest.approx(0.0625, abs=1e-3)
    assert recipes_markdown([tmp_path / "one", tmp_path / "none"]) == ""


def test_a_setting_is_chosen_by_the_other_folds(tmp_path):
    """Fold 0 alone would like 1, fold 1 alone 0: each gets what the other likes."""
    table = {"setting": "ml", "fold": [0, 0, 1, 1], "case": ["a", "a", "b", "b"], "value": [0, 1, 0, 1]}
    rows = pd.DataFrame({**table, "infection": [0.5, 0.75, 0.75, 0.25]})
    pd.concat([rows, rows.assign(setting="another", infection=1.0)]).to_csv(tmp_path / "decisions.csv", index=False)
    text = decisions_markdown(tmp_path / "decisions.csv", "ml")
    assert cells(text, "0") == ["0", "0.625"] and cells(text, "1") == ["1", "0.500"]
    assert "| chosen by training cases: 0 for fold 0, 1 for fold 1 | 0.375 |" in text
    assert "Not measured" in decisions_markdown(tmp_path / "none.csv", "ml")


def test_volume_and_windows_are_compared_case_by_case(tmp_path):
    cases = {"a": (0.5, 0.75), "b": (0.75, 0.25), NEARLY_EMPTY: (0.0, 1.0)}
    rows = [
        {"case": case, "mode": mode, "left_lung": 1.0, "right_lung": 0.5, "infection": dice, "cpu_s": took}
        for case, pair in cases.items()
        for mode, dice, took in zip(("volume", "windows"), pair, (1.0, 4.0), strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "windows.csv", index=False)
    text = windows_markdown(tmp_path / "windows.csv")
    assert cells(text, "the whole volume")[1:] == ["1.000", "0.500", "0.625", "1.0"]
    assert cells(text, "half-overlapping windows")[3:] == ["0.500", "4.0"]
    assert "over 2 cases" in text and "0.375 in the median and by 0.500 at most" in text
    assert "Not measured" in windows_markdown(tmp_path / "none.csv")


def test_training_on_other_folds_is_told_beside_the_stored_run(scores, tmp_path):
    scores.to_csv(tmp_path / "scores.csv", index=False)
    tested = [case for case in scores["case"].unique() if case != NEARLY_EMPTY][:2]
    made = {"fold": 2, "trained_on": 15, "steps": 2600, "minutes": 70.4, "seed": 0, "machine": "a machine"}
    dice = {"left_lung": 0.5, "right_lung": 0.6, "infection": 0.1}
    rows = [{"folds": name, "case": case, **dice, **made} for name in ("inverted", "apart") for case in (*tested, NEARLY_EMPTY)]
    pd.DataFrame(rows).to_csv(tmp_path / "folds.csv", index=False)
    files = tmp_path / "folds.csv", tmp_path / "scores.csv"
    infection = scores[scores["class"] == "infection"].set_index("case")["dice"]
    apart, inverted = folds_markdown(*files, "apart"), folds_markdown(*files, "inverted")
    assert cells(apart, tested[0])[1:] == [f"{infection[tested[0]]:.3f}", "0.100", f"{0.1 - infection[tested[0]]:+.3f}"]
    assert NEARLY_EMPTY not in apart and "70 minutes" in apart
    assert cells(inverted, "15 scans")[1:] == ["0.500", "0.600", "0.100"]
    assert cells(inverted, "16 scans")[3] == f"{infection[tested].mean():.3f}"
    assert "Not measured" in folds_markdown(tmp_path / "none.csv", tmp_path / "scores.csv", "apart")


def test_the_viewer_is_told_with_the_slowest_plane_and_where_it_was_measured(tmp_path):
    slices = {name: {"drawn_ms": {"median": ms, "p95": 2 * ms, "max": 3 * ms}} for name, ms in (("axial", 4.0), ("coronal", 1.0))}
    told = {"data": "drawn", "case": "a", "shape": [8, 9, 5], "machine": "an abacus", "page_mb": {"compared": 1.5}}
    write_json(tmp_path / "viewer.json", {**told, "chromium": "99.0.1", "slices": slices})
    text = viewer_markdown(tmp_path / "viewer.json")
    assert "a of `drawn`, 8 x 9 x 5 voxels" in text and "1.5 MB" in text and "Chromium 99; an abacus" in text
    assert "1.0 to 4.0 ms in the median" in text and "at most 8.0 ms" in text and "took 12.0 ms" in text
    assert "Not measured" in viewer_markdown(tmp_path / "none.json")


def test_options_are_told_with_what_they_were_measured_on(tmp_path):
    table = {"option": ["base", "slow"], "changed": ["", "training.learning_rate = 0.001"], "dice_left_lung": [0.9, 0.8]}
    table |= {
        "dice_right_lung": [0.9, 0.8],
        "dice_infection": [0.5, 0.25],
        "training_loss": [1.0, 2.0],
        "cpu_minutes": [8.0, 8.0],
    }
    table |= {"steps": 300, "seed": 0, "trained_on": "c d e", "judged_by": "a b", "data": "surrogate"}
    table |= {"machine": ["an abacus", "a slide rule"], "computed_in": ["beads", "marks"]}
    pd.DataFrame(table).to_csv(tmp_path / "options.csv", index=False)
    text = options_markdown(tmp_path / "options.csv")
    assert "over a, b, after training on 3 other cases" in text
    beads, marks = text.split("Computed in ")[1:]
    assert beads.startswith("beads (an abacus)") and marks.startswith("marks (a slide rule)")
    assert "base" in beads and "slow" not in beads and "slow" in marks
    assert cells(text, "slow: `training.learning_rate = 0.001`")[1:] == ["0.800", "0.800", "0.250", "2.000", "300", "8.0"]
    assert cells(text, "base")[3] == "0.500"


def test_the_readme_quotes_the_stored_scores():
    """Its table is a choice of rows of the results page's, character by character."""
    table = means_markdown(pd.read_csv(ROOT / "results" / "surrogate" / "scores.csv")).splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line in readme if re.match(r"\| (infection|lungs|lowest)", line)]
    assert len(quoted) >= 4 and set(quoted) <= set(table)
