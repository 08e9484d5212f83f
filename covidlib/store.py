"""A finished run in; what is worth keeping of it out: scores, histories, pictures, and weights small enough to ship."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from covidlib.errors import DataError
from covidlib.files import read_json, whole_file, write_json
from covidlib.metrics import NEARLY_EMPTY, _write_csv, confusion_fold, read_scores
from covidlib.preprocessing import pack_prepared
from covidlib.quantification import quantify_fold
from covidlib.report import scores_in_short
from covidlib.runs import ROOT, Run, beginning, trained_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def store_results(run: Run, folder: Path) -> Path:
    """Copy what a reader of the results needs into `folder`; large files stay in the run.

    run.json (settings, folds), manifest.json (versions, machine, minutes, checksums), scores.csv (a row per case and class),
    history_fold_<k>.csv (a row per epoch, first those of the network that it began with); and what needs the scans:
    quantities.csv (`quantify_fold`), confusion.csv (`confusion_fold`) and the `pictures`.

    Raises:
        DataError: the run has not been evaluated yet.
    """
    for name in (copied := ("run.json", "manifest.json", "scores.csv")):
        if not (run.folder / name).is_file():
            raise DataError(f"{run.folder}: no {name}; run 'python -m covidlib run' with this profile first")
    folds, kept = sorted(set(read_scores(run.folder / "scores.csv")["fold"])), read_json(run.folder / "manifest.json")
    if kept["profile"] != run.profile.as_dict() or list(kept["folds"]) != list(map(str, folds)):
        raise DataError(f"{run.folder}: not evaluated with these settings on all its folds; run 'python -m covidlib run' again")
    histories = {f"history_fold_{fold}.csv": _history(run, fold) for fold in folds}
    folder = Path(folder)
    for old in set(folder.glob("history_fold_*.csv")) - {folder / name for name in histories}:
        old.unlink()
    for name in copied:
        with whole_file(folder / name) as temporary:
            shutil.copyfile(run.folder / name, temporary)
    for name, history in histories.items():
        _write_csv(history, folder / name)
    for name, counted in (("quantities", quantify_fold), ("confusion", confusion_fold)):
        with whole_file(folder / f"{name}.csv") as temporary:
            pd.concat([counted(run, fold) for fold in folds]).to_csv(temporary, index=False, float_format="%.9g")
    for name, figure in pictures(run).items():
        with whole_file(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
    return folder


def _history(run: Run, fold: int) -> pd.DataFrame:
    """A fold's epochs, after those of the network that it began with; epochs and minutes go on counting."""
    file = run.fold_folder(fold) / "history.csv"
    if not file.is_file():
        raise DataError(f"{file}: not there; where the fold was trained elsewhere, copy its folder from there")
    own = pd.read_csv(file)
    if not (first := beginning(run)):
        return own
    before = _history(first, fold)
    for column in ("epoch", "minutes"):
        own[column] += before[column].iloc[-1]
    return pd.concat([before, own])


def pack_run(run: Run, folder: Path) -> Path:
    """Write what training needs into `folder`, small: run.json and the prepared volumes by `preprocessing.pack_prepared`.

    There `python -m covidlib train --run FOLDER` trains it, without scans or nibabel; its fold_<k> folders, copied back into the
    run's own, are taken for trained. With it, in beginning/, the run that it begins with.

    Raises:
        DataError: `folder` is the run's own, whose volumes would lose their detail.
    """
    if Path(folder).resolve() == run.folder.resolve():
        raise DataError(f"{folder}: is the run itself; give another folder")
    run.prepared(run.cases)
    for case in run.cases:
        pack_prepared(run.folder / "prepared" / f"{case}.npz", Path(folder) / "prepared" / f"{case}.npz")
    write_json(Path(folder) / "run.json", read_json(run.folder / "run.json"))
    if first := beginning(run):
        pack_run(first, Path(folder) / "beginning")
    return Path(folder)


def pictures(run: Run) -> "dict[str, Figure]":
    """figure6: four cases from the best infection Dice to the worst; failures: the three worst and the nearly empty case.

    Each on the slice with most infection, or for the failures where prediction and truth differ most.
    """
    from covidlib.figures import error_map, truth_and_prediction

    scores = read_scores(run.folder / "scores.csv")
    ranked = scores[scores["class"] == "infection"].sort_values("dice", ascending=False)
    empty = ranked["case"] == NEARLY_EMPTY
    spread = ranked.iloc[[round(i * (len(ranked) - 1) / 3) for i in range(4)]]
    worst = pd.concat([ranked[~empty].iloc[:-4:-1], ranked[empty]])
    return {"figure6": truth_and_prediction(_rows(run, spread)), "failures": error_map(_rows(run, worst))}


def _rows(run: Run, chosen: pd.DataFrame) -> list[tuple]:
    return [
        (f"{row.case}, {row.dice:.2f}", run.case(row.case), run.predicted_labels(row.fold, row.case))
        for row in chosen.itertuples()
    ]


def export_weights(run: Run, folder: Path) -> list[Path]:
    """Write the weights of every trained fold in half precision, with settings and model card, in the layout of a run.

    `folder`/run.json, fold_<k>/model.weights.h5 (about 2 bytes a parameter), MODEL_CARD.md (the book's page with this run's
    scores). Kernels become float16; vectors, among them the running variances, which may exceed its range, stay float32. Any
    Keras backend and `engine` load them.

    Raises:
        DataError: nothing has been trained yet.
    """
    made = []
    for source in trained_weights(run.folder):
        made.append(Path(folder) / source.parent.name / source.name)
        with whole_file(made[-1]) as temporary:
            _halve(source, temporary)
    if not made:
        raise DataError(f"{run.folder}: no trained fold; run 'python -m covidlib run' with this profile first")
    for old in set(Path(folder).glob("fold_*")) - {path.parent for path in made}:
        shutil.rmtree(old)  # of another run: `predict` would take it for one of these
    write_json(Path(folder) / "run.json", read_json(run.folder / "run.json"))
    with whole_file(Path(folder) / "MODEL_CARD.md") as temporary:
        temporary.write_text(model_card(run.folder), encoding="utf-8")
    return made


def model_card(folder: Path) -> str:
    """The book's model card with the scores of the run in `folder`, readable outside of the book."""
    text = (ROOT / "book" / "model_card.md").read_text(encoding="utf-8")
    text = text.replace("```{include} _generated/model_scores.md\n```", scores_in_short(folder))
    text = re.sub(r"\{doc\}`/(book/[^`]+)`", r"`\1.md`", text)
    return re.sub(r"\{term\}`([^`]+)`", r"\1", text)


def _halve(source: Path, target: Path) -> None:
    import h5py

    names: list[str] = []
    with h5py.File(source) as whole, h5py.File(target, "w") as half:
        whole.visit(names.append)
        for name in names:
            item = whole[name]
            if isinstance(item, h5py.Group):
                half.require_group(name).attrs.update(item.attrs)
            elif item.ndim > 1:
                half.create_dataset(name, data=item[...].astype("float16"), compression="gzip", shuffle=True)
            else:
                half.create_dataset(name, data=item[...])
