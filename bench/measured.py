"""What the scripts of this folder measured, as the tables and the picture of the book's pages: every number is read from a file.

    python bench/measured.py FOLDER         writes them there; `python -m covidlib book` does it
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covidlib import figures
from covidlib.book import RESULTS
from covidlib.dataset import CLASSES
from covidlib.files import read_json
from covidlib.metrics import NEARLY_EMPTY, read_scores
from covidlib.report import markdown_table, picture, three

GROWTH = (  # what to look for, caption
    "How does it grow? A straight line in {} is proportional; memory that stays flat does not depend on the number of scans.",
    "Wall time and peak memory against the size of one scan, and against the number of scans in one call",
)

SEEDS = {"run": "surrogate-coarse", "other seed": "another seed", "mean": "mean of both"}
DOUBT = (
    "In {} a dot is a scan; on the line as much is marked as there is.",
    "Infection marked, as a multiple of the true infection, against the doubt of each scan, by the networks of two seeds",
)
CEILING = {
    "shipped": "ours, as shipped",
    "more": "a fifth cycle",
    "taller": "a fifth cycle, in patches twice as high",
    "coarse": "coarse grid, copied infection",
    "finer": "that, then the finer grid",
}
TYPICAL_WEIGHT, POWERS = 2.0, range(7)


def main(folder: Path) -> None:
    """Write every table of the book that this folder's scripts have measured, and their pictures, into `folder`."""
    decided, folds, usual = RESULTS / "decisions.csv", RESULTS / "folds.csv", RESULTS / "surrogate_one_cycle" / "scores.csv"
    cycles = RESULTS / "cycles.csv"
    texts = {
        "infection_weight.md": decisions_markdown(decided, "infection_weight"),
        "two_lungs.md": decisions_markdown(decided, "two_lungs"),
        "specks.md": decisions_markdown(decided, "smallest_infection_ml"),
        "costs.md": costs_markdown(Path(__file__).with_name("results.json"), folder),
        "options.md": options_markdown(RESULTS / "options.csv"),
        "options_fine.md": options_markdown(RESULTS / "options_fine.csv"),
        "windows.md": windows_markdown(RESULTS / "windows.csv"),
        "levels.md": levels_markdown(RESULTS / "levels.csv"),
        "seeds.md": seeds_markdown(RESULTS / "seeds.csv", folder),
        "folds_inverted.md": folds_markdown(folds, usual, "inverted"),
        "folds_apart.md": folds_markdown(folds, usual, "apart"),
        "not_copied.md": not_copied_markdown(RESULTS / "surrogate" / "scores.csv", RESULTS / "not_copied.csv", cycles),
        "cycles.md": cycles_markdown(cycles),
        "ceiling.md": ceiling_markdown(RESULTS / "ceiling.csv"),
        "viewer.md": viewer_markdown(RESULTS / "viewer.json"),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def options_markdown(file: Path) -> str:
    """What one change at a time did, a table for each arithmetic, from the file that bench/options.py writes."""
    if not file.is_file():
        return "No option has been measured yet.\n"
    rows = pd.read_csv(file, keep_default_na=False)
    first = rows.iloc[0]
    shares = ["dice_left_lung", "dice_right_lung", "dice_infection", "training_loss"]
    rows[shares] = rows[shares].map(three)
    rows["option"] += [f": `{changed}`" if changed else "" for changed in rows["changed"]]
    if "computed_in" not in rows:
        rows["computed_in"] = "an arithmetic that was not written down"
    parts = [
        f"Mean Dice of left lung, right lung and infection over {first.judged_by.replace(' ', ', ')}, after training on "
        f"{len(first.trained_on.split())} other cases; loss and processor time are of the training. "
        f"Data: {first.data}; seed {first.seed} where no other is named."
    ]
    head = ("option", "left", "right", "infection", "loss", "steps", "CPU min")
    for arithmetic, group in rows.groupby("computed_in", sort=False):
        parts.append(f"Computed in {arithmetic} ({'; '.join(group['machine'].unique())}):")
        parts.append(markdown_table(head, group[["option", *shares, "steps", "cpu_minutes"]].itertuples(index=False)))
    return "\n\n".join(parts)


def viewer_markdown(file: Path) -> str:
    """How heavy the viewer's page is and how fast it draws, from the file that bench/viewer.py writes."""
    told = read_json(file)
    if not told:
        return "Not measured yet.\n"
    drawn = [one["drawn_ms"] for one in told["slices"].values()]
    return (
        f"Measured by `bench/viewer.py` on {told['case']} of `{told['data']}`, {' x '.join(map(str, told['shape']))} voxels: the "
        f"page has {told['page_mb']['compared']} MB. A changed slice is drawn after {min(one['median'] for one in drawn)} to "
        f"{max(one['median'] for one in drawn)} ms in the median of each plane; 95 of 100 changes take at most "
        f"{max(one['p95'] for one in drawn)} ms, and the slowest of all took {max(one['max'] for one in drawn)} ms (headless "
        f"Chromium {told['chromium'].split('.')[0]}; {told['machine']}, which other work shared).\n"
    )


def decisions_markdown(file: Path, setting: str) -> str:
    """Infection Dice by the value of a setting of `inference`, from the file that bench/decisions.py writes."""
    if not file.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(file)
    rows = rows[(rows["setting"] == setting) & (rows["case"] != NEARLY_EMPTY)]
    counted = rows.set_index(["fold", "value"])["infection"].sort_index()
    means = counted.groupby("value").mean()
    folds = counted.index.unique("fold")
    chosen = {fold: counted.drop(index=fold, level="fold").groupby("value").mean().idxmax() for fold in folds}
    said = "chosen by training cases: " + ", ".join(f"{value:g} for fold {fold}" for fold, value in chosen.items())
    mean = counted[counted.index.isin(list(chosen.items()))].mean()
    lines = [*((f"{value:g}", three(mean)) for value, mean in means.items()), (f"{said}", three(mean))]
    return markdown_table((f"`{setting}`", "mean infection Dice"), lines)


def folds_markdown(file: Path, scores: Path, name: str) -> str:
    """Dice after training on fewer cases than the run of `scores` did, beside that run's, from what bench/folds.py wrote.

    name: "inverted" (4 scans to learn from, means over the cases) or "apart" (without a test patient's other scan, every case).
    """
    kept = pd.read_csv(file) if file.is_file() else pd.DataFrame({"folds": []})
    rows = kept[kept["folds"] == name]
    if rows.empty:
        return "Not measured yet.\n"
    first, rows = rows.iloc[0], rows[rows["case"] != NEARLY_EMPTY].set_index("case")
    usual = _stored_dice(scores).loc[rows.index, list(CLASSES[1:])]
    other = rows[["left_lung", "right_lung", "infection"]]
    if name == "inverted":
        head = ("trained on", *CLASSES[1:])
        lines = [(f"{first.trained_on} scans", *map(three, other.mean())), ("16 scans", *map(three, usual.mean()))]
    else:
        before, after = usual["infection"], other["infection"]
        head = ("infection Dice of", "trained on 16 scans", f"on {first.trained_on}, without the patient's other one", "change")
        lines = [(case, three(before[case]), three(after[case]), f"{after[case] - before[case]:+.3f}") for case in rows.index]
    said = f"{len(rows)} test cases, {first.steps} steps, seed {first.seed}, {first.minutes:.0f} minutes"
    return f"{markdown_table(head, lines)}\n{said} ({first.machine}, which other work shared).\n"


def not_copied_markdown(before: Path, without: Path, cycles: Path) -> str:
    """Mean infection Dice by fold before copied infection, after a cycle without it, and after one with it.

    From a stored run's scores.csv and the files of bench/last_part.py; of the cases of `without`, but for the nearly empty one.
    """
    if not without.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(without)
    first, rows = rows.iloc[0], rows[rows["case"] != NEARLY_EMPTY].set_index("case")
    heads = ("before", "without copying", "with copying")
    columns = (_stored_dice(before), rows, _cycle_dice(cycles, "mean").loc[1])
    dice = pd.DataFrame({head: column.loc[rows.index, "infection"] for head, column in zip(heads, columns, strict=True)})
    lines = [(f"fold {fold}", *map(three, means)) for fold, *means in dice.groupby(rows["fold"]).mean().itertuples()]
    said = f"*without copying*: {first.steps} steps, seed {first.seed}, {first.minutes:.0f} minutes a fold ({first.machine})."
    return f"{markdown_table(('mean infection Dice', *heads), lines)}\n{said}\n"


def cycles_markdown(file: Path) -> str:
    """Mean infection Dice after each cycle, of its own weights and of the mean of all so far, from bench/last_part.py's file."""
    if not file.is_file():
        return "Not measured yet.\n"
    mean, last = _cycle_dice(file, "mean"), _cycle_dice(file, "last")
    lines = []
    for cycle, group in mean.groupby(level="cycles"):
        alone = (group if cycle == 1 else last.loc[cycle])["infection"].mean()
        by_fold = group.groupby("fold")["infection"].mean()
        lines.append((cycle, f"{group['steps'].iloc[0]:,}", *map(three, (alone, group["infection"].mean(), *by_fold))))
    head = ("cycles", "steps", "the last alone", "mean of all", *(f"fold {fold}" for fold in sorted(mean["fold"].unique())))
    first = mean.loc[1]
    said = f"{len(first)} cases, seed {first['seed'].iloc[0]}; the folds are of the mean. Trained on "
    return f"{markdown_table(head, lines)}\n{said}{'; '.join(mean['machine'].unique())}.\n"


def ceiling_markdown(file: Path) -> str:
    """Mean infection Dice by fold of the networks that ship and of further trainings, from bench/ceiling.py's file."""
    if not file.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(file)
    dice = rows[rows["case"] != NEARLY_EMPTY].pivot_table(index="variant", columns=["judged", "fold"], values="infection")
    made, folds = rows.groupby("variant")["steps"].first(), sorted(rows["fold"].unique())
    lines = []
    for variant, said in CEILING.items():
        shown = [dice.loc[variant].get((judged, fold), math.nan) for judged in ("alone", "mean") for fold in folds]
        lines.append((said, f"{made[variant]:,}", *map(three, shown)))
    head = [f"{judged}fold {fold}" for judged in ("", "mean with ours, ") for fold in folds]
    counted, machines = rows["case"].nunique(), "; ".join(rows["machine"].unique())
    told = f"Mean infection Dice of {counted} cases, seed {rows['seed'].iloc[0]}. Trained on {machines}."
    return f"{markdown_table(('network', 'further steps', *head), lines)}\n{told}\n"


def _cycle_dice(file: Path, weights: str) -> pd.DataFrame:
    """Rows of one kind of weights by cycle and case, without the nearly empty one."""
    rows = pd.read_csv(file)
    rows = rows[(rows["weights"] == weights) & (rows["case"] != NEARLY_EMPTY)]
    return rows.set_index(["cycles", "case"]).sort_index()


def _stored_dice(scores: Path) -> pd.DataFrame:
    """A row per case, a column per class, from a run's scores.csv."""
    return read_scores(scores).pivot(index="case", columns="class", values="dice")


def windows_markdown(file: Path) -> str:
    """Volume against windows on the same networks and cases, from the file that bench/windows.py writes: a table a network."""
    if not file.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(file)
    rows = rows[rows["case"] != NEARLY_EMPTY]
    names = {"volume": "the whole volume", "paper": "the paper's windows", "profile": "the profile's windows"}
    head = ("network sees", "left lung", "right lung", "infection", "infection, from whole volume", "CPU s a scan")
    parts = []
    for norm, group in rows.groupby("norm", sort=False):
        means = group.groupby("mode")[["left_lung", "right_lung", "infection", "cpu_s"]].mean().loc[list(names)]
        each = group.pivot(index="case", columns="mode", values="infection")
        apart = each.sub(each["volume"], axis=0)
        lines = [
            (names[mode], *map(three, dice), f"{apart[mode].mean():+.3f} ({apart[mode].abs().max():.3f})", f"{took:.1f}")
            for mode, *dice, took in means.itertuples(name=None)
        ]
        told = f"{len(each)} cases, {group['steps'].iloc[0]:,} steps, on {' and '.join(group['machine'].unique())}"
        parts.append(f"With {norm} normalization ({told}):\n\n{markdown_table(head, lines)}")
    return "\n".join([*parts, "Of the differences: their mean, and in brackets the largest of one case.\n"])


def levels_markdown(file: Path) -> str:
    """What becomes of doubt and Dice when a scan's grey is moved, from the file that bench/levels.py writes."""
    if not file.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(file)
    empty, rows = rows[rows["case"] == NEARLY_EMPTY], rows[rows["case"] != NEARLY_EMPTY]
    infection, doubts = (rows.pivot(index="case", columns="moved", values=name) for name in ("infection", "doubt"))
    lost = infection.sub(infection[0.0], axis=0).min()
    lines = [
        (f"{moved:+.2f}" if moved else "0", three(doubts[moved].median()), three(infection[moved].mean()), f"{lost[moved]:+.2f}")
        for moved in infection
    ]
    head = ("grey moved by", "median doubt", "mean infection Dice", "what a single case lost at most")
    usual, other = doubts[0.0], empty[empty["moved"] == 0]["doubt"].max()
    said = f"As they are, they are doubted by {usual.min():.2f} to {usual.max():.2f}; `{NEARLY_EMPTY}` by {other:.2f}."
    return f"Of {len(infection)} cases:\n\n{markdown_table(head, lines)}\n{said}\n"


def seeds_markdown(file: Path, pictures: Path) -> str:
    """What the networks of two seeds mark, alone and in a mean, and whether doubt tells how, from the file that bench/seeds.py
    writes. Draws what is marked against doubt into `pictures`."""
    if not file.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(file)
    rows, first, lines, drawn = rows[rows["case"] != NEARLY_EMPTY], rows.iloc[0], [], {}
    for name, said in SEEDS.items():
        group = rows[rows["networks"] == name].set_index(["fold", "case"]).sort_index()
        dice = group.pivot(columns="weight", values="infection")
        one = group[group["weight"] == TYPICAL_WEIGHT]
        doubts, lungs = one["doubt"], one[["left_lung", "right_lung"]].mean().mean()
        shares = (lungs, one["infection"].mean(), by_doubt(dice, doubts).mean(), dice.max(axis=1).mean())
        rank, range_ = one["marked"].corr(doubts, "spearman"), f"{doubts.min():.2f} to {doubts.max():.2f}"
        lines.append((said, f"{doubts.median():.2f} ({range_})", f"{rank:+.2f}", *map(three, shares)))
        if name != "mean":
            drawn[said] = (doubts.tolist(), one["marked"].tolist())
    figures.doubt_chart(drawn).savefig(pictures / "doubt.svg", bbox_inches="tight")
    head = ("networks", "doubt, median", "rank correlation", "lungs", "infection, weight 2", "by doubt", "each its best")
    made = f"seeds {first.seeds}, trained for {first.steps} steps; predicted on {first.machine}"
    return f"{picture('doubt.svg', *DOUBT)}\n\nMeans over {len(dice)} cases ({made}):\n\n{markdown_table(head, lines)}"


def by_doubt(dice: pd.DataFrame, doubts: pd.Series) -> pd.Series:
    """Dice of each case if infection weighs `TYPICAL_WEIGHT` times (doubt / median doubt) to a power, the nearest weight tried.

    Args:
        dice: fold and case x weight.
        doubts: fold and case.

    Median and power are those of the other folds' cases.
    """
    folds, found = dice.index.get_level_values("fold"), []
    for fold in folds.unique():
        others = folds != fold
        typical = doubts[others].median()
        power = max(POWERS, key=lambda power: _ruled(dice[others], doubts[others] / typical, power).mean())
        found.append(_ruled(dice[~others], doubts[~others] / typical, power))
    return pd.concat(found)


def _ruled(dice: pd.DataFrame, doubted: pd.Series, power: int) -> pd.Series:
    """The Dice of each row at the tried weight that is nearest, in proportion, to `TYPICAL_WEIGHT` times doubted ** power."""
    wanted = TYPICAL_WEIGHT * doubted**power
    nearest = {case: min(dice.columns, key=lambda weight: abs(math.log(weight / wanted[case]))) for case in dice.index}
    return dice.apply(lambda row: row[nearest[row.name]], axis=1)


def costs_markdown(file: Path, pictures: Path) -> str:
    """What every piece of work costs, ours beside the original's, and growth, from the file that bench/speed.py writes.

    Draws one picture into `pictures` where growth has been measured.
    """
    rows = (read_json(file) or {"rows": {}})["rows"]
    if not rows:
        return "Nothing has been measured yet: `make bench` does it.\n"
    compared = {name: row for name, row in rows.items() if not name.startswith("growth")}
    parts = [_costs_table(compared), _unmeasured(compared), _taken(rows), _notes(compared)]
    grown = growth(rows)
    if any(len(points) > 1 for points in grown.values()):
        figures.growth_chart(grown).savefig(pictures / "growth.svg", bbox_inches="tight")
        parts.append(picture("growth.svg", *GROWTH))
    else:
        parts.append("Growth: not measured.")
    return "\n\n".join(part for part in parts if part) + "\n"


def growth(rows: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float]]]:
    """Points (x, wall seconds, peak GiB) of "size" (in units of 512 x 512 x 200 voxels) and of "scans" (how many in one call)."""
    found: dict[str, list[tuple[float, float, float]]] = {"size": [], "scans": []}
    for name, row in rows.items():
        kind, _, x = name.removeprefix("growth_").partition("_")
        if kind in found and "wall_min_s" in row["ours"]:
            found[kind].append((float(x), row["ours"]["wall_min_s"], row["ours"]["peak_gib"]))
    return {kind: sorted(points) for kind, points in found.items()}


def _costs_table(rows: Mapping[str, Any]) -> str:
    head = ("work", "to reach", "", "CPU s", "wall s, least (median of how many)", "peak GiB", "result", "times less")
    lines = []
    for row in rows.values():
        result = f"{row['ours']['value']:.3g} {row['unit']}" if "value" in row["ours"] else ""
        times = f"{row['ratio']:.1f} ({'CPU' if row['judged'] == 'cpu_s' else 'wall'})" if row["ratio"] else ""
        lines.append((row["what"], row["target"], "ours", *_cost_cells(row["ours"]), result, times))
        if "wall_min_s" in row["peer"]:
            earlier = f", {row['peer']['earlier']}" if "earlier" in row["peer"] else ""
            lines.append(("", "", f"original{earlier}", *_cost_cells(row["peer"]), "", ""))
    return markdown_table(head, lines)


def _cost_cells(side: Mapping[str, Any]) -> tuple[str, str, str]:
    if "not measured" in side:
        return "not measured", "", ""
    cpu, least, median, peak = (side[name] for name in ("cpu_s", "wall_min_s", "wall_median_s", "peak_gib"))
    of_several = f" ({_short(median)} of {side['repeats']})" if side["repeats"] > 1 else ""
    return _short(cpu), f"{_short(least)}{of_several}", f"{peak:.2f}"


def _short(seconds: float) -> str:
    return f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}"


def _unmeasured(rows: Mapping[str, Any]) -> str:
    lines = [
        f"- {row['what']}, {who}: {row[side]['not measured']}"
        for row in rows.values()
        for side, who in (("ours", "ours"), ("peer", "original"))
        if "not measured" in row[side] and row[side]["not measured"] != "the original has no such work"
    ]
    return "Not measured:\n\n" + "\n".join(lines) if lines else ""


def _taken(rows: Mapping[str, Any]) -> str:
    """On which machines, when, and how quiet they were."""
    measured = [row for row in rows.values() if "wall_min_s" in row["ours"]]
    if not measured:
        return ""
    machines = [row["machine"] for row in measured]
    usual = max(machines, key=machines.count)
    busiest = max(_others(row) for row in measured if row["machine"] == usual)
    elsewhere = "".join(
        f" On {row['machine']}, beside others on up to {_others(row):.1f} cores: {row['what']}."
        for row in measured
        if row["machine"] != usual
    )
    dates = sorted({row["date"] for row in measured})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {when} on {usual}. Other processes used up to {busiest:.1f} cores meanwhile.{elsewhere}"


def _others(row: Mapping[str, Any]) -> float:
    """Cores that other processes used at most while a row was measured."""
    return max(row[side].get("others_cores", 0.0) for side in ("ours", "peer"))


def _notes(rows: Mapping[str, Any]) -> str:
    lines = []
    for row in rows.values():
        said = ", ".join(f"{key.replace('_', ' ')}: {_note(value)}" for key, value in row["ours"].get("notes", {}).items())
        lines += [f"- {row['what']}: {said}"] if said else []
    return "What else was noted:\n\n" + "\n".join(lines) if lines else ""


def _note(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
