"""Result files in, the Markdown of the results page out: every number of the prose is read here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidlib.dataset import CLASSES
from covidlib.files import read_json
from covidlib.metrics import NEARLY_EMPTY, headline, lungs_or_infection, read_scores, table_1
from covidlib.profile import profile_from

if TYPE_CHECKING:
    import pandas as pd

COMPARED = {  # as published by others; the questions on the results page say what may be compared
    "infection Dice, all slices, no case left out": "0.772: Ma et al., lungs and infection in one network, 16/4, mean over cases",
    "infection Dice, infected slices": "0.811: MiniSeg's published masks, scored on 19 cases of the surrogate",
    "infection surface Dice at 3 mm": "0.802: Ma et al., 16/4, 20 cases",
    "left lung Dice": "0.911: Ma et al., 16/4",
    "right lung Dice": "0.922: Ma et al., 16/4",
    "lungs surface Dice at 1 mm": "0.794 left, 0.792 right: Ma et al., 16/4",
    "infection Dice, mean of fold medians (all cases)": "0.761: the paper, on folds of its own",
    "infection sensitivity, mean of fold medians (all cases)": "0.730: the paper, on folds of its own",
    "lungs Dice, mean of fold medians (all cases)": "0.956: the paper, on folds of its own",
}
LICENSE = "(license: CC BY-NC-SA, as the scans')"
PICTURES = {  # file -> what to look for, caption
    "surrogate_cases.svg": (
        "{} shows which cases drag a mean down.",
        "Dice of every case: lungs as blue triangles, infection as red dots",
    ),
    "surrogate_figure6.png": (
        "The four cases of {} are spread evenly from best to worst; none was picked for its looks.",
        "Four slices from the best infection Dice to the worst: CT, truth, prediction; lungs blue, infection red " + LICENSE,
    ),
    "surrogate_failures.png": (
        "Look at {} before you quote a mean.",
        "The three cases of lowest infection Dice, then the nearly empty one, where prediction and truth differ most " + LICENSE,
    ),
    "surrogate_figure4.svg": (
        "{} has the trainings that led here.",
        "Loss over the epochs of every fold, on patches of training cases and of test cases",
    ),
}


def stored_results(folder: Path, pictures: Path) -> str:
    """What a stored run measured: means beside published ones, Table 1, every case, curves. Draws two pictures into `pictures`.

    Says so where no run is stored.
    """
    import pandas as pd

    from covidlib import figures

    if not (folder / "manifest.json").is_file():
        return "No run of this profile is stored yet.\n"
    scores = read_scores(folder / "scores.csv")
    histories = {path.stem.rpartition("_")[2]: pd.read_csv(path) for path in sorted(folder.glob("history_fold_*.csv"))}
    for name, figure in (("cases", figures.case_dots(scores)), ("figure4", figures.loss_course(histories))):
        figures.keep(figure, pictures / f"surrogate_{name}")
    shown = [picture(name, *told) for name, told in PICTURES.items() if (pictures / name).is_file()]
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
    return provenance(read_json(folder / "manifest.json")) + "\n\n" + means_markdown(read_scores(folder / "scores.csv"))


def provenance(manifest: Mapping[str, Any]) -> str:
    """Data, profile, seed, machine and minutes of a run in one paragraph."""
    folds = manifest["folds"]
    minutes = ", ".join(f"fold {number}: {_took(fold)}" for number, fold in folds.items())
    machines = dict.fromkeys(part["machine"] for fold in folds.values() for part in _parts(fold))
    planned = profile_from(manifest["profile"]).folds.number
    tested = "the folds run so far: " if len(folds) < planned else ""
    return (
        f"Data: {manifest['data']}. Profile: `{manifest['profile']['name']}`, seed {manifest['seed']}. "
        f"Evaluated on {manifest['machine']}. The trainings ended on {'; '.join(machines)}; minutes, on machines that other work "
        f"shared: {tested}{minutes}."
    )


def _took(fold: Mapping[str, Any]) -> str:
    """Minutes and epochs of a fold's training, and before them those of the one it began with, and so on."""
    minutes, epochs = (" + ".join(f"{part[key]:.0f}" for part in _parts(fold)) for key in ("minutes", "epochs"))
    return f"{minutes} min ({epochs} epochs)"


def _parts(fold: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is noted of a fold's training, after what is noted of the one it began with, and so on."""
    return [*(_parts(fold["began_with"]) if "began_with" in fold else []), fold]


def means_markdown(scores: "pd.DataFrame") -> str:
    """The means that are compared with others', with how many cases each counts."""
    rows = [
        (name, f"{row.value:.3f}", f"{row.counted:.0f}", f"{row['left out']:.0f}", COMPARED.get(name, ""))
        for name, row in headline(scores).iterrows()
    ]
    note = (
        f"`{NEARLY_EMPTY}` is left out where not all cases are named; its own scores stand with those of every case on the "
        "book's results page."
    )
    return markdown_table(("mean over cases", "here", "counted", "without a value", "published"), rows) + "\n" + note


def table_1_markdown(scores: "pd.DataFrame") -> str:
    """The paper's Table 1."""
    head = ("fold", "lungs Dice", "sensitivity", "specificity", "infection Dice", "sensitivity", "specificity")
    return markdown_table(head, ((fold, *map(three, row)) for fold, *row in table_1(scores).itertuples(name=None)))


def cases_markdown(scores: "pd.DataFrame") -> str:
    """A row per case, in two tables narrow enough to read: Dice of the classes; the other scores of infection and its volume."""
    wide = scores.pivot(index=["fold", "case"], columns="class")
    dice = wide[[*(("dice", name) for name in CLASSES[1:]), ("dice_infected_slices", "infection")]]
    rest = wide[[(name, "infection") for name in ("sensitivity", "nsd", "hd95_mm", "truth_ml", "predicted_ml")]]
    dice_rows = ((*place, *map(three, row)) for place, *row in dice.itertuples(name=None))
    rest_rows = ((case, *map(three, row[:2]), *map(_whole, row[2:])) for (_, case), *row in rest.itertuples(name=None))
    return (
        "Dice of every test case; the last column counts infected slices only:\n\n"
        + markdown_table(("fold", "case", *CLASSES[1:], "inf. slices"), dice_rows)
        + "\nThe other scores of its infection: sensitivity; surface Dice at 3 mm; HD95, the distance in mm that 95 % of the "
        "surfaces keep within; and how much there is:\n\n"
        + markdown_table(("case", "sensitivity", "surface Dice", "HD95", "true mL", "marked mL"), rest_rows)
    )


def confusion_markdown(file: Path) -> str:
    """What the networks took each class for, and lungs and infection as one, from the file that `store` writes."""
    import pandas as pd

    rows = pd.read_csv(file)
    counts = rows[rows["case"] != NEARLY_EMPTY].groupby(["case", "truth"])[list(CLASSES)].sum()
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    mean = shares.groupby("truth").mean().loc[list(CLASSES[1:])]
    head = ("of what is truly", *(f"marked as {name}" for name in CLASSES))
    lines = [(name, *(f"{share:.1f} %" for share in row)) for name, *row in mean.itertuples(name=None)]
    chest = [_dice_of_chest(one.droplevel("case")) for _, one in counts.groupby("case")]
    return (
        f"What was taken for what, mean over {len(chest)} cases:\n\n{markdown_table(head, lines)}\n"
        f"Lungs and infection counted as one: mean Dice {three(sum(chest) / len(chest))}, the lowest {three(min(chest))}."
    )


def _dice_of_chest(counted: "pd.DataFrame") -> float:
    """Dice of all that is not background, from voxels by true class (rows) and marked class."""
    inside = list(CLASSES[1:])
    hit = counted.loc[inside, inside].to_numpy().sum()
    return 2 * hit / (counted.loc[inside].to_numpy().sum() + counted[inside].to_numpy().sum())


def overfitting_markdown(histories: "Mapping[str, pd.DataFrame]") -> str:
    """The paper saw no overfitting: the same question put to this run, answered by the ends of the curves."""
    names = ("loss", "val_loss", "soft_dice_infection", "val_soft_dice_infection")
    rows = [(fold, *map(three, history.iloc[-1].reindex(names))) for fold, history in histories.items()]
    head = ("fold", "training loss", "test loss", "training soft Dice, infection", "test soft Dice, infection")
    said = (
        "Is there overfitting? The paper saw none. The last epoch of each fold here, on augmented patches of the training cases "
        "(half of them around infection) and on plain patches of the test cases:"
    )
    return f"{said}\n\n{markdown_table(head, rows)}"


def changes_markdown(before: Path, after: Path, pictures: Path, what: str) -> str:
    """Every case but the nearly empty one in two stored runs, drawn into `pictures`, and how many gained; "" without both.

    `what` is new in the second, in a few words that begin a sentence.
    """
    from covidlib import figures

    if not all((run / "scores.csv").is_file() for run in (before, after)):
        return ""
    tables = [read_scores(run / "scores.csv") for run in (before, after)]
    scores = [table[table["case"] != NEARLY_EMPTY] for table in tables]
    name = f"{after.name}_changes"
    figures.keep(figures.case_changes(*scores), pictures / name)
    told = []
    old, new = (one.groupby(["case", lungs_or_infection(one)])["dice"].mean().unstack() for one in scores)
    for kind, column in (("infection", "infection"), ("the lungs", "lungs")):
        change = new[column] - old[column]
        told.append(f"for {kind} in {sum(change > 0)} of {len(change)} ({change.min():+.3f} to {change.max():+.3f})")
    said = f"{what} Dice rises {' and '.join(told)}, the nearly empty case aside: {{}}."
    gray, colored = (run.name.replace("_", "-") for run in (before, after))
    return picture(f"{name}.svg", said, f"Dice of every case by `{gray}` (gray) and by `{colored}` (colored)")


def recipes_markdown(runs: Sequence[Path]) -> str:
    """Stored runs side by side: the settings that differ (of those not named, the defaults), and means. "" for fewer than two."""
    import pandas as pd

    runs = [run for run in runs if (run / "scores.csv").is_file()]
    if len(runs) < 2:
        return ""
    profiles = [profile_from(read_json(run / "run.json")["profile"]).as_dict() for run in runs]
    settings = [pd.json_normalize(profile).loc[0].to_dict() for profile in profiles]  # dotted keys
    differing = [key for key in settings[0] if key != "name" and any(one[key] != settings[0][key] for one in settings)]
    means = [headline(read_scores(run / "scores.csv"))["value"] for run in runs]
    columns = [run.name.removeprefix("surrogate").strip("-_").replace("_", " ") or run.name for run in runs]  # words, to fit
    lines = [(f"`{key}`".replace(".", "` `"), *(one[key] for one in settings)) for key in differing]
    lines += [(name, *(three(mean[name]) for mean in means)) for name in means[0].index]
    return markdown_table(("", *columns), lines)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Head and rows as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def three(value: float) -> str:
    """A number with three decimals; "" for NaN."""
    return "" if value != value else f"{value:.3f}"


def _whole(value: float) -> str:
    return "" if value != value else f"{value:.0f}"


def picture(name: str, said: str, caption: str) -> str:
    """A figure of a page from a file in _generated, after a sentence whose {} becomes its number."""
    label = Path(name).stem.replace("_", "-")
    figure = f"```{{figure}} _generated/{name}\n:name: {label}\n:alt: {caption}\n\n{caption}.\n```"
    return f"{said.format(f'{{numref}}`{label}`')}\n\n{figure}"
