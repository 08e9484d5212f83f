"""The book's tables of what bench measured: every number in them is in the files."""

import sys

import pandas as pd
from test_bench import repeat, row
from test_report import cells

from covidlib.dataset import CLASSES
from covidlib.files import read_json, write_json
from covidlib.metrics import NEARLY_EMPTY
from covidlib.runs import ROOT, machine

sys.path.insert(0, str(ROOT / "bench"))

import speed
from measured import (
    CEILING,
    ceiling_markdown,
    costs_markdown,
    cycles_markdown,
    decisions_markdown,
    folds_markdown,
    growth,
    levels_markdown,
    not_copied_markdown,
    options_markdown,
    seeds_markdown,
    viewer_markdown,
    windows_markdown,
)


def test_the_page_s_table_and_picture_come_from_the_file(tmp_path):
    file = tmp_path / "results.json"
    speed.update(file, "batch", row([repeat(1, 2, 0.5)], [repeat(6, 8, 1.25)]))
    speed.update(file, "gpu_step", row([], []))
    for share, seconds in (("0.5", 3), ("1", 5)):
        speed.update(file, f"growth_size_{share}", row([repeat(seconds, peak=2)], []))
    page = costs_markdown(file, tmp_path)
    assert "| a piece | 2 times less | ours | 2 | 1 | 0.50 |  | 4.0 (CPU) |" in page
    assert "|  |  | original | 8 | 6 | 1.25 |  |  |" in page
    assert "- a piece, ours: no GPU" in page
    assert machine() in page and "Other processes used up to 0.2 cores meanwhile." in page  # 0.25
    kept = read_json(file)
    kept["rows"]["batch"] |= {"machine": "an abacus"}
    kept["rows"]["batch"]["peer"]["others_cores"] = 1.5
    write_json(file, kept)
    assert "meanwhile. On an abacus, beside others on up to 1.5 cores: a piece." in costs_markdown(file, tmp_path)
    assert (tmp_path / "growth.svg").is_file()
    assert growth(read_json(file)["rows"]) == {"size": [(0.5, 3, 2), (1, 5, 2)], "scans": []}


def test_a_setting_is_chosen_by_the_other_folds(tmp_path):
    """Fold 0 alone would like 1, fold 1 alone 0: each gets what the other likes."""
    table = {"setting": "ml", "fold": [0, 0, 1, 1], "case": ["a", "a", "b", "b"], "value": [0, 1, 0, 1]}
    rows = pd.DataFrame({**table, "infection": [0.5, 0.75, 0.75, 0.25]})
    pd.concat([rows, rows.assign(setting="another", infection=1.0)]).to_csv(tmp_path / "decisions.csv", index=False)
    text = decisions_markdown(tmp_path / "decisions.csv", "ml")
    assert cells(text, "0") == ["0", "0.625"] and cells(text, "1") == ["1", "0.500"]
    assert "| chosen by training cases: 0 for fold 0, 1 for fold 1 | 0.375 |" in text
    assert "Not measured" in decisions_markdown(tmp_path / "none.csv", "ml")


def test_volume_and_windows_are_compared_case_by_case_for_each_network(tmp_path):
    cases = {"a": (0.5, 0.625, 0.75), "b": (0.75, 0.75, 0.25), NEARLY_EMPTY: (0.0, 0.0, 1.0)}
    made = {"left_lung": 1.0, "right_lung": 0.5, "steps": 1200, "machine": "an abacus"}
    rows = [
        {"norm": norm, "case": case, "mode": mode, "infection": dice * share, "cpu_s": took, **made}
        for norm, share in (("instance", 1.0), ("batch", 0.5))
        for case, found in cases.items()
        for mode, dice, took in zip(("volume", "paper", "profile"), found, (1.0, 2.0, 4.0), strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "windows.csv", index=False)
    instance, batch = windows_markdown(tmp_path / "windows.csv").split("With batch normalization")
    assert "With instance normalization (2 cases, 1,200 steps, on an abacus)" in instance
    assert cells(instance, "the whole volume")[1:] == ["1.000", "0.500", "0.625", "+0.000 (0.000)", "1.0"]
    assert cells(instance, "the paper's windows")[3:] == ["0.688", "+0.062 (0.125)", "2.0"]
    assert cells(instance, "the profile's windows")[3:] == ["0.500", "-0.125 (0.500)", "4.0"]
    assert cells(batch, "the profile's windows")[3:] == ["0.250", "-0.062 (0.250)", "4.0"]
    assert "Not measured" in windows_markdown(tmp_path / "none.csv")


def test_moved_grey_is_told_with_doubt_and_what_a_single_case_loses(tmp_path):
    cases = {"a": (0.5, 0.75, 0.25), "b": (0.75, 0.25, 0.75), NEARLY_EMPTY: (0.0, 1.0, 0.0)}
    rows = [
        {"case": case, "moved": moved, "doubt": 0.25 + moved, "infection": dice}
        for case, found in cases.items()
        for moved, dice in zip((-0.15, 0.0, 0.15), found, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "levels.csv", index=False)
    text = levels_markdown(tmp_path / "levels.csv")
    assert "Of 2 cases" in text and f"doubted by 0.25 to 0.25; `{NEARLY_EMPTY}` by 0.25." in text
    assert cells(text, "-0.15") == ["-0.15", "0.100", "0.625", "-0.25"]
    assert cells(text, "0") == ["0", "0.250", "0.500", "+0.00"]
    assert cells(text, "+0.15") == ["+0.15", "0.400", "0.500", "-0.50"]
    assert "Not measured" in levels_markdown(tmp_path / "none.csv")


SEEDED = {"seeds": "0 and 1", "steps": "300 and 100", "machine": "an abacus"}


def seed_rows(networks, folds):
    """Rows of seeds.csv: in each fold three scans, doubted by 1, 2 and 4, with their Dice by weights of 1, 2 and 4."""
    return [
        {"networks": networks, "fold": fold, "case": f"{fold}{doubt}", "doubt": doubt, "weight": weight, "infection": dice,
         "left_lung": 0.75, "right_lung": 1.0, "marked": weight / doubt, **SEEDED}
        for fold, scans in enumerate(folds)
        for doubt, found in zip((1, 2, 4), scans, strict=True)
        for weight, dice in zip((1.0, 2.0, 4.0), found, strict=True)
    ]  # fmt: skip


def test_what_doubt_tells_is_judged_by_what_the_other_folds_tell(tmp_path):
    """In a fold of one kind, scans that are doubted more do better with more weight; in one of the other kind, all with 2."""
    rising = ((1.0, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 1.0))
    level = ((0.0, 1.0, 0.0),) * 3
    rows = [{"networks": "run", "fold": 0, "case": NEARLY_EMPTY, "doubt": 9, "weight": 2.0, "infection": 0.0, **SEEDED}]
    for networks, folds in (("run", (rising, rising)), ("other seed", (rising, level)), ("mean", (level, level))):
        rows += seed_rows(networks, folds)
    pd.DataFrame(rows).to_csv(tmp_path / "seeds.csv", index=False)
    text = seeds_markdown(tmp_path / "seeds.csv", tmp_path)
    expected = ["surrogate-coarse", "2.00 (1.00 to 4.00)", "-1.00", "0.875", "0.667", "1.000", "1.000"]
    assert cells(text, "surrogate-coarse") == expected
    # the rising fold is judged by the level one's power of 0: (0.5 + 1 + 0.5) / 3; the level one by 1: (0 + 1 + 0) / 3
    assert cells(text, "another seed")[4:] == ["0.833", "0.500", "1.000"]
    assert cells(text, "mean of both")[4:] == ["1.000", "1.000", "1.000"]
    assert "over 6 cases (seeds 0 and 1, trained for 300 and 100 steps; predicted on an abacus)" in text
    assert (tmp_path / "doubt.svg").is_file()
    assert "Not measured" in seeds_markdown(tmp_path / "none.csv", tmp_path)


def test_training_on_other_folds_is_told_beside_the_stored_run(tmp_path):
    tested, dices = ["a", "b"], (("a", 0.75), ("b", 0.25), (NEARLY_EMPTY, 0.0))
    scores = pd.DataFrame([{"case": case, "class": name, "dice": dice} for case, dice in dices for name in CLASSES[1:]])
    scores.to_csv(tmp_path / "scores.csv", index=False)
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


def test_what_copying_is_worth_is_told_by_fold_between_a_stored_run_and_the_first_cycle(tmp_path):
    before, without, cycles = tmp_path / "scores.csv", tmp_path / "without.csv", tmp_path / "cycles.csv"
    cases = ["a", "b", NEARLY_EMPTY, "c"]
    pd.DataFrame({"case": cases, "class": "infection", "dice": [0.25, 0.5, 1.0, 1.0]}).to_csv(before, index=False)
    how = {"fold": [1, 1, 1, 2], "case": cases, "steps": 15, "minutes": 3.2, "seed": 7, "machine": "an abacus"}
    pd.DataFrame({**how, "infection": [0.75, 1.0, 0.0, 0.5], "cycles": 1, "weights": "mean"}).to_csv(cycles, index=False)
    assert "Not measured" in not_copied_markdown(before, without, cycles)
    rows = pd.DataFrame({**how, "infection": [0.5, 0.625, 0.0, 0.9]})
    rows[:3].to_csv(without, index=False)
    text = not_copied_markdown(before, without, cycles)
    assert cells(text, "fold 1") == ["fold 1", "0.375", "0.562", "0.875"] and "fold 2" not in text
    assert "*without copying*: 15 steps, seed 7, 3 minutes a fold (an abacus)" in text
    rows.to_csv(without, index=False)
    assert cells(not_copied_markdown(before, without, cycles), "fold 2") == ["fold 2", "1.000", "0.900", "0.500"]


def test_cycles_are_told_alone_and_as_the_mean_of_all_so_far(tmp_path):
    cases = pd.DataFrame({"fold": [1, 1, 0], "case": ["a", "b", NEARLY_EMPTY], "seed": 7, "machine": "an abacus"})
    cases = pd.concat([cases, pd.DataFrame({"fold": [0], "case": ["c"], "seed": 7, "machine": "a slide rule"})])
    kinds = {(1, "mean"): [0.5, 0.6, 1.0, 0.4], (2, "last"): [0.4, 0.5, 1.0, 0.3], (2, "mean"): [0.6, 0.8, 1.0, 0.4]}
    rows = [cases.assign(cycles=n, weights=kind, infection=dice, steps=1000 * n) for (n, kind), dice in kinds.items()]
    assert "Not measured" in cycles_markdown(tmp_path / "cycles.csv")
    pd.concat(rows).to_csv(tmp_path / "cycles.csv", index=False)
    text = cycles_markdown(tmp_path / "cycles.csv")
    assert cells(text, "1") == ["1", "1,000", "0.500", "0.500", "0.400", "0.550"]
    assert cells(text, "2") == ["2", "2,000", "0.400", "0.600", "0.400", "0.700"]
    assert "3 cases, seed 7" in text and "an abacus; a slide rule" in text


def test_further_trainings_are_shown_alone_and_in_the_mean_with_what_ships(tmp_path):
    """The nearly empty case counts in neither."""
    assert "Not measured" in ceiling_markdown(tmp_path / "ceiling.csv")
    told = {"fold": 1, "seed": 7, "machine": "an abacus"}
    rows = []
    for number, variant in enumerate(CEILING):
        for judged in ("alone",) if variant == "shipped" else ("alone", "mean"):
            for case, dice in (("a", 0.4), ("b", 0.6), (NEARLY_EMPTY, 0.0)):
                row = {"variant": variant, "judged": judged, "case": case, "steps": 100 * number, **told}
                rows.append({**row, "infection": dice + 0.1 * (judged == "mean")})
    pd.DataFrame(rows).to_csv(tmp_path / "ceiling.csv", index=False)
    text = ceiling_markdown(tmp_path / "ceiling.csv")
    assert cells(text, CEILING["shipped"]) == [CEILING["shipped"], "0", "0.500", ""]
    assert cells(text, CEILING["coarse"]) == [CEILING["coarse"], "300", "0.500", "0.600"]
    assert "seed 7" in text and "an abacus" in text


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


def test_what_has_not_been_measured_is_said(tmp_path):
    assert "No option" in options_markdown(tmp_path / "options.csv")
    assert "Nothing has been measured yet" in costs_markdown(tmp_path / "none.json", tmp_path)
