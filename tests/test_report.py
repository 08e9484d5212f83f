"""Markdown made from result files: every number in it is in the files."""

import math
import re

import pandas as pd
import pytest

from covidlib.dataset import CLASSES
from covidlib.files import write_json
from covidlib.metrics import NEARLY_EMPTY, read_scores
from covidlib.report import (
    cases_markdown,
    changes_markdown,
    confusion_markdown,
    means_markdown,
    overfitting_markdown,
    recipes_markdown,
    stored_results,
    table_1_markdown,
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
    unwatched = pd.DataFrame(history)[["epoch", "loss", "soft_dice_infection"]]  # training.validation_batches: 0
    assert cells(overfitting_markdown({"3": unwatched}), "3") == ["3", "0.500", "", "0.750", ""]


def test_a_stored_run_makes_tables_and_pictures(scores, tmp_path):
    profile = {"name": "surrogate"}
    began = {"minutes": 99, "epochs": 7, "machine": "a loom", "began_with": {"minutes": 60, "epochs": 5, "machine": "an abacus"}}
    folds = {"0": {"minutes": 25.2, "epochs": 2, "machine": "a slide rule"}}
    folds["1"] = {"minutes": 24, "epochs": 2, "machine": "a loom", "began_with": began}
    manifest = {"data": "8-bit surrogate", "profile": profile, "seed": 7, "machine": "an abacus", "folds": folds}
    write_json(tmp_path / "stored" / "manifest.json", manifest)
    scores.to_csv(tmp_path / "stored" / "scores.csv", index=False)
    history = {"epoch": [1, 2], "loss": [2, 0.5], "val_loss": [3, 0.6], "soft_dice_infection": [0, 0.7]}
    for fold in (0, 1):
        pd.DataFrame({**history, "val_soft_dice_infection": [0, 0.3]}).to_csv(
            tmp_path / f"stored/history_fold_{fold}.csv", index=False
        )
    text = stored_results(tmp_path / "stored", tmp_path)
    assert "seed 7" in text
    assert "Evaluated on an abacus. The trainings ended on a slide rule; an abacus; a loom; minutes" in text
    assert "fold 0: 25 min (2 epochs), fold 1: 60 + 99 + 24 min (5 + 7 + 2 epochs)" in text
    assert "surrogate_cases.svg" in text and "surrogate_figure6.png" not in text  # that one was not stored
    assert "{numref}`surrogate-cases` shows" in text and ":name: surrogate-cases" in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {"surrogate_cases.svg", "surrogate_figure4.svg"}


def test_nothing_stored_is_said(tmp_path):
    assert "No run" in stored_results(tmp_path, tmp_path)


def test_two_stored_runs_are_told_by_what_differs(scores, tmp_path):
    for name, norm, shift in (("one", "batch", 0.0), ("other", "instance", 0.0625)):
        profile = {"name": name, "seed": 0, "network": {"norm": norm, "filters": [4, 8]}}
        write_json(tmp_path / name / "run.json", {"profile": profile})
        changed = scores.assign(dice=scores["dice"] + shift)
        changed.to_csv(tmp_path / name / "scores.csv", index=False)
    text = recipes_markdown([tmp_path / "one", tmp_path / "other"])
    assert cells(text, "`network` `norm`") == ["`network` `norm`", "batch", "instance"]
    assert "seed" not in text and "filters" not in text and "`name`" not in text
    _, before, after = cells(text, "infection Dice, all slices")
    assert float(after) - float(before) == pytest.approx(0.0625, abs=1e-3)
    assert recipes_markdown([tmp_path / "one", tmp_path / "none"]) == ""


def test_changes_count_who_gained(scores, tmp_path):
    for name, shift in (("before", 0.0), ("after", 0.0625)):
        changed = scores.assign(dice=scores["dice"] + shift * (scores["class"] == "infection"))
        (tmp_path / name).mkdir()
        changed.to_csv(tmp_path / name / "scores.csv", index=False)
    text = changes_markdown(tmp_path / "before", tmp_path / "after", tmp_path, "By magic")
    assert "By magic Dice rises for infection in 2 of 2 (+0.062 to +0.062) and for the lungs in 0 of 2 (+0.000 to +0.000)" in text
    assert "the nearly empty case aside: {numref}`after-changes`." in text and "by `before` (gray)" in text
    assert (tmp_path / "after_changes.svg").is_file()
    assert changes_markdown(tmp_path / "before", tmp_path / "none", tmp_path, "By magic") == ""


def test_the_readme_quotes_the_stored_scores():
    """Its table is a choice of rows of the results page's, character by character."""
    table = means_markdown(pd.read_csv(ROOT / "results" / "surrogate-gpu" / "scores.csv")).splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line in readme if re.match(r"\| (infection|lungs|lowest)", line)]
    assert len(quoted) >= 4 and set(quoted) <= set(table)


def test_the_readme_says_what_is_marked_in_the_nearly_empty_case():
    scores = read_scores(ROOT / "results" / "surrogate-gpu" / "scores.csv").set_index(["case", "class"])
    true_ml, marked_ml = scores.loc[(NEARLY_EMPTY, "infection"), ["truth_ml", "predicted_ml"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{true_ml:.1f} mL of infection" in readme and f"{marked_ml:.0f} mL are marked" in readme
