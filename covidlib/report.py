"""Result files in, the Markdown of the results page out: every number of the prose is read here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidlib.dataset import CLASSES
from covidlib.files import read_json
from covidlib.profile import profile_from

if TYPE_CHECKING:
    import pandas as pd

COMPARED = {  # as published by others; the questions on the results page say what may be compared
    "infection Dice, all slices, no case left out": "0.772: Ma et al., lungs and infection in one network, 16/4, mean over cases",
    "infection Dice, infected slices": "0.811: MiniSeg's published masks, scored on 19 cases of the surrogate",
    "infection sensitivity": "0.730: the paper, mean over folds of the median",
    "infection surface Dice at 3 mm": "0.802: Ma et al., 16/4, 20 cases",
    "lungs Dice": "0.956: the paper, mean over folds of the median",
    "left lung Dice": "0.911: Ma et al., 16/4",
    "right lung Dice": "0.922: Ma et al., 16/4",
    "lungs surface Dice at 1 mm": "0.794 left, 0.792 right: Ma et al., 16/4",
    "infection Dice, mean of fold medians (all cases)": "0.761: the paper, on folds of its own",
}
PICTURES = {  # file -> what to look for, caption
    "surrogate_cases.svg": (
        "{} shows which cases drag a mean down.",
        "Dice of every case: lungs as blue triangles, infection as red dots",
    ),
    "surrogate_figure6.png": (
        "The four cases of {} are spread evenly from best to worst; none was picked for its looks.",
        "Four slices from the best infection Dice to the worst: CT, truth, prediction; lungs blue, infection red",
    ),
    "surrogate_failures.png": (
        "Look at {} before you quote a mean.",
        "The three cases of lowest infection Dice, then the nearly empty one, where prediction and truth differ most",
    ),
    "surrogate_figure4.svg": (
        "{} has the trainings that led here.",
        "Loss over the epochs of every fold, on patches of training cases and of test cases",
    ),
}
GROWTH = (  # the same for the picture of the page of costs
    "How does it grow? A straight line in {} is proportional; memory that stays flat does not depend on the number of scans.",
    "Wall time and peak memory against the size of one scan, and against the number of scans in one call",
)


def stored_results(folder: Path, pictures: Path) -> str:
    """What a stored run measured: means beside published ones, Table 1, every case, curves. Draws two pictures into `pictures`.

    Says so where no run is stored.
    """
    import pandas as pd

    from covidlib import figures

    if not (folder / "manifest.json").is_file():
        return "No run of this profile is stored yet.\n"
    scores = pd.read_csv(folder / "scores.csv")
    histories = {path.stem.rpartition("_")[2]: pd.read_csv(path) for path in sorted(folder.glob("history_fold_*.csv"))}
    for name, figure in (("cases", figures.case_dots(scores)), ("figure4", figures.loss_course(histories))):
        figures.keep(figure, pictures / f"surrogate_{name}")
    shown = [_picture(name, *told) for name, told in PICTURES.items() if (pictures / name).is_file()]
    parts = [
        scores_in_short(folder),
        "In the form of the paper's Table 1, with all cases:",
        table_1_markdown(scores),
        cases_markdown(scores),
        *([confusion_markdown(folder / "confusion.csv")] if (folder / "confusion.csv").is_file() else []),
        *shown,
        overfitting_markdown(histories),
    ]
    return "\n\n".join(parts) + "\n"


def scores_in_short(folder: Path) -> str:
    """Where a run's numbers come from, and its means beside published ones."""
    import pandas as pd

    return provenance(read_json(folder / "manifest.json")) + "\n\n" + means_markdown(pd.read_csv(folder / "scores.csv"))


def provenance(manifest: Mapping[str, Any]) -> str:
    """Data, profile, seed, machine and minutes of a run in one paragraph."""
    folds = manifest["folds"]
    minutes = ", ".join(f"fold {number}: {fold['minutes']:.0f} min ({fold['epochs']} epochs)" for number, fold in folds.items())
    planned = profile_from(manifest["profile"]).folds.number
    tested = "the folds run so far: " if len(folds) < planned else ""
    return (
        f"Data: {manifest['data']}. Profile: `{manifest['profile']['name']}`, seed {manifest['seed']}. "
        f"Machine: {manifest['machine']}. Training time, on machines that other work shared, {tested}{minutes}."
    )


def means_markdown(scores: "pd.DataFrame") -> str:
    """The means that are compared with others', with how many cases each counts."""
    from covidlib.metrics import NEARLY_EMPTY, headline

    rows = [
        (name, f"{row.value:.3f}", f"{row.counted:.0f}", f"{row['left out']:.0f}", COMPARED.get(name, ""))
        for name, row in headline(scores).iterrows()
    ]
    note = (
        f"`{NEARLY_EMPTY}` is left out where not all cases are named; its own scores stand with those of every case on the "
        "book's results page."
    )
    return _table(("mean over cases", "here", "counted", "without a value", "published"), rows) + "\n" + note


def table_1_markdown(scores: "pd.DataFrame") -> str:
    """The paper's Table 1."""
    from covidlib.metrics import table_1

    head = ("fold", "lungs Dice", "sensitivity", "specificity", "infection Dice", "sensitivity", "specificity")
    return _table(head, ((fold, *map(_three, row)) for fold, *row in table_1(scores).itertuples(name=None)))


def cases_markdown(scores: "pd.DataFrame") -> str:
    """A row per case, in two tables narrow enough to read: Dice of the classes; the other scores of infection and its volume."""
    wide = scores.pivot(index=["fold", "case"], columns="class")
    dice = wide[[*(("dice", name) for name in CLASSES[1:]), ("dice_infected_slices", "infection")]]
    rest = wide[[(name, "infection") for name in ("sensitivity", "nsd", "hd95_mm", "truth_ml", "predicted_ml")]]
    dice_rows = ((*place, *map(_three, row)) for place, *row in dice.itertuples(name=None))
    rest_rows = ((case, *map(_three, row[:2]), *map(_whole, row[2:])) for (_, case), *row in rest.itertuples(name=None))
    return (
        "Dice of every test case; the last column counts infected slices only:\n\n"
        + _table(("fold", "case", *CLASSES[1:], "inf. slices"), dice_rows)
        + "\nThe other scores of its infection: sensitivity; surface Dice at 3 mm; HD95, the distance in mm that 95 % of the "
        "surfaces keep within; and how much there is:\n\n"
        + _table(("case", "sensitivity", "surface Dice", "HD95", "true mL", "marked mL"), rest_rows)
    )


def confusion_markdown(table: Path) -> str:
    """What the networks took each class for, and lungs and infection as one, from the file that `store` writes."""
    import pandas as pd

    from covidlib.metrics import NEARLY_EMPTY

    rows = pd.read_csv(table)
    counts = rows[rows["case"] != NEARLY_EMPTY].groupby(["case", "truth"])[list(CLASSES)].sum()
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    mean = shares.groupby("truth").mean().loc[list(CLASSES[1:])]
    head = ("of what is truly", *(f"marked as {name}" for name in CLASSES))
    lines = [(name, *(f"{share:.1f} %" for share in row)) for name, *row in mean.itertuples(name=None)]
    chest = [_dice_of_chest(one.droplevel("case")) for _, one in counts.groupby("case")]
    return (
        f"What was taken for what, mean over {len(chest)} cases:\n\n{_table(head, lines)}\nLungs and infection counted as one: "
        f"mean Dice {_three(sum(chest) / len(chest))}, the lowest {_three(min(chest))}."
    )


def _dice_of_chest(counted: "pd.DataFrame") -> float:
    """Dice of all that is not background, from voxels by true class (rows) and marked class."""
    inside = list(CLASSES[1:])
    hit = counted.loc[inside, inside].to_numpy().sum()
    return 2 * hit / (counted.loc[inside].to_numpy().sum() + counted[inside].to_numpy().sum())


def overfitting_markdown(histories: "Mapping[str, pd.DataFrame]") -> str:
    """The paper saw no overfitting: the same question put to this run, answered by the ends of the curves."""
    names = ("loss", "val_loss", "soft_dice_infection", "val_soft_dice_infection")
    rows = [(fold, *map(_three, history.iloc[-1][list(names)])) for fold, history in histories.items()]
    head = ("fold", "training loss", "test loss", "training soft Dice, infection", "test soft Dice, infection")
    said = (
        "Is there overfitting? The paper saw none. The last epoch of each fold here, on augmented patches of the training cases "
        "(half of them around infection) and on plain patches of the test cases:"
    )
    return f"{said}\n\n{_table(head, rows)}"


def recipes_markdown(runs: Sequence[Path]) -> str:
    """Stored runs side by side: the settings that differ (of those not named, the defaults), and means. "" for fewer than two."""
    import pandas as pd

    from covidlib.metrics import headline

    runs = [run for run in runs if (run / "scores.csv").is_file()]
    if len(runs) < 2:
        return ""
    settings = [_dotted(profile_from(read_json(run / "run.json")["profile"]).as_dict()) for run in runs]
    differing = [key for key in settings[0] if any(one[key] != settings[0][key] for one in settings)]
    means = [headline(pd.read_csv(run / "scores.csv"))["value"] for run in runs]
    columns = [run.name.removeprefix(f"{runs[-1].name}_").replace("_", " ") for run in runs]  # words, so that five fit in a row
    lines = [(f"`{key}`".replace(".", "` `"), *(one[key] for one in settings)) for key in differing]
    lines += [(name, *(_three(mean[name]) for mean in means)) for name in means[0].index]
    return _table(("", *columns), lines)


def _dotted(given: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in given.items():
        flat |= _dotted(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def options_markdown(table: Path) -> str:
    """What one change at a time did, a table for each arithmetic, from the file that bench/options.py writes."""
    import pandas as pd

    if not table.is_file():
        return "No option has been measured yet.\n"
    rows = pd.read_csv(table, keep_default_na=False)
    first = rows.iloc[0]
    shares = ["dice_left_lung", "dice_right_lung", "dice_infection", "training_loss"]
    rows[shares] = rows[shares].map(_three)
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
        parts.append(_table(head, group[["option", *shares, "steps", "cpu_minutes"]].itertuples(index=False)))
    return "\n\n".join(parts)


def viewer_markdown(table: Path) -> str:
    """How heavy the viewer's page is and how fast it draws, from the file that bench/viewer.py writes."""
    told = read_json(table)
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


def decisions_markdown(table: Path, setting: str) -> str:
    """Infection Dice by the value of a setting of `inference`, from the file that bench/decisions.py writes."""
    import pandas as pd

    from covidlib.metrics import NEARLY_EMPTY

    if not table.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(table)
    rows = rows[(rows["setting"] == setting) & (rows["case"] != NEARLY_EMPTY)]
    counted = rows.set_index(["fold", "value"])["infection"].sort_index()
    means = counted.groupby("value").mean()
    folds = counted.index.unique("fold")
    chosen = {fold: counted.drop(index=fold, level="fold").groupby("value").mean().idxmax() for fold in folds}
    said = "chosen by training cases: " + ", ".join(f"{value:g} for fold {fold}" for fold, value in chosen.items())
    mean = counted[counted.index.isin(list(chosen.items()))].mean()
    lines = [*((f"{value:g}", _three(mean)) for value, mean in means.items()), (f"{said}", _three(mean))]
    return _table((f"`{setting}`", "mean infection Dice"), lines)


def folds_markdown(table: Path, scores: Path, name: str) -> str:
    """Dice after training on fewer cases than the run of `scores` did, beside that run's, from what bench/folds.py wrote.

    name: "inverted" (4 scans to learn from, means over the cases) or "apart" (without a test patient's other scan, every case).
    """
    import pandas as pd

    from covidlib.metrics import NEARLY_EMPTY

    kept = pd.read_csv(table) if table.is_file() else pd.DataFrame({"folds": []})
    rows = kept[kept["folds"] == name]
    if rows.empty:
        return "Not measured yet.\n"
    first, rows = rows.iloc[0], rows[rows["case"] != NEARLY_EMPTY].set_index("case")
    usual = pd.read_csv(scores).pivot(index="case", columns="class", values="dice").loc[rows.index, list(CLASSES[1:])]
    other = rows[["left_lung", "right_lung", "infection"]]
    if name == "inverted":
        head = ("trained on", *CLASSES[1:])
        lines = [(f"{first.trained_on} scans", *map(_three, other.mean())), ("16 scans", *map(_three, usual.mean()))]
    else:
        before, after = usual["infection"], other["infection"]
        head = ("infection Dice of", "trained on 16 scans", f"on {first.trained_on}, without the patient's other one", "change")
        lines = [(case, _three(before[case]), _three(after[case]), f"{after[case] - before[case]:+.3f}") for case in rows.index]
    said = f"{len(rows)} test cases, {first.steps} steps, seed {first.seed}, {first.minutes:.0f} minutes"
    return f"{_table(head, lines)}\n{said} ({first.machine}, which other work shared).\n"


def windows_markdown(table: Path) -> str:
    """Volume against windows on the same networks and cases, from the file that bench/windows.py writes."""
    import pandas as pd

    from covidlib.metrics import NEARLY_EMPTY

    if not table.is_file():
        return "Not measured yet.\n"
    rows = pd.read_csv(table)
    rows = rows[rows["case"] != NEARLY_EMPTY]
    means = rows.groupby("mode")[["left_lung", "right_lung", "infection", "cpu_s"]].mean()
    head = ("network sees", "left lung", "right lung", "infection", "CPU s a scan")
    names = {"volume": "the whole volume", "windows": "half-overlapping windows"}
    lines = ((names[mode], *map(_three, dice), f"{took:.1f}") for mode, *dice, took in means.itertuples(name=None))
    each = rows.pivot(index="case", columns="mode", values="infection")
    apart = (each["volume"] - each["windows"]).abs()
    return (
        f"Mean Dice over {len(each)} cases, each by the network that has not seen it:\n\n{_table(head, lines)}\n"
        f"Case by case, infection differs by {apart.median():.3f} in the median and by {apart.max():.3f} at most.\n"
    )


def costs_markdown(file: Path, pictures: Path) -> str:
    """What every piece of work costs, ours beside the original's, and growth, from the file that bench/speed.py writes.

    Draws one picture into `pictures` where growth has been measured.
    """
    from covidlib import figures

    rows = (read_json(file) or {"rows": {}})["rows"]
    if not rows:
        return "Nothing has been measured yet: `make bench` does it.\n"
    compared = {name: row for name, row in rows.items() if not name.startswith("growth")}
    parts = [_costs_table(compared), _unmeasured(compared), _taken(rows), _notes(compared)]
    grown = growth(rows)
    if any(len(points) > 1 for points in grown.values()):
        figures.growth_chart(grown).savefig(pictures / "growth.svg", bbox_inches="tight")
        parts.append(_picture("growth.svg", *GROWTH))
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
    head = ("work", "to reach", "", "CPU s", "wall s, least (median)", "peak GiB", "result", "times less")
    lines = []
    for row in rows.values():
        result = f"{row['ours']['value']:.3g} {row['unit']}" if "value" in row["ours"] else ""
        times = f"{row['ratio']:.1f} ({'CPU' if row['judged'] == 'cpu_s' else 'wall'})" if row["ratio"] else ""
        lines.append((row["what"], row["target"], "ours", *_cost_cells(row["ours"]), result, times))
        if "wall_min_s" in row["peer"]:
            earlier = f", {row['peer']['earlier']}" if "earlier" in row["peer"] else ""
            lines.append(("", "", f"original{earlier}", *_cost_cells(row["peer"]), "", ""))
    return _table(head, lines)


def _cost_cells(side: Mapping[str, Any]) -> tuple[str, str, str]:
    if "not measured" in side:
        return "not measured", "", ""
    cpu, least, median, peak = (side[name] for name in ("cpu_s", "wall_min_s", "wall_median_s", "peak_gib"))
    return _short(cpu), f"{_short(least)} ({_short(median)})", f"{peak:.2f}"


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
    elsewhere = "".join(f" On {row['machine']}: {row['what']}." for row in measured if row["machine"] != usual)
    dates = sorted({row["date"] for row in measured})
    sides = [side for row in measured for side in (row["ours"], row["peer"])]
    busiest = max(side.get("others_cores", 0.0) for side in sides)
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"Measured {when} on {usual}. Other processes used up to {busiest:.1f} cores meanwhile.{elsewhere}"


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


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _three(value: float) -> str:
    return "" if value != value else f"{value:.3f}"  # NaN: no value


def _whole(value: float) -> str:
    return "" if value != value else f"{value:.0f}"


def _picture(name: str, said: str, caption: str) -> str:
    label = Path(name).stem.replace("_", "-")
    figure = f"```{{figure}} _generated/{name}\n:name: {label}\n:alt: {caption}\n\n{caption}.\n```"
    return f"{said.format(f'{{numref}}`{label}`')}\n\n{figure}"
