"""Is there more to be had? What ships, and what four more trainings make of it. Writes results/ceiling.csv.

    python bench/ceiling.py --data DIR --folds 1 2

`more`: a fifth cycle of `surrogate-gpu`, with copied infection that is mirrored by itself and fainter. `taller`: the same in
patches twice as high, one a batch. `coarse`: the networks of `surrogate-coarse`, not of `surrogate`, go on with such copies, on
their grid; `finer`: and then on the finer one. Each is judged alone, and as the mean of its probabilities with those of the
network that ships. What they begin with is trained first, unless it is there: in runs/ceiling/more/beginning and so on.
"""

import argparse
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml
from unseen import command_line, dice, steps, train_variant, update_table

from covidlib.inference import load_model, predict_volume
from covidlib.postprocessing import decide
from covidlib.preprocessing import resample
from covidlib.runs import ROOT, Run, beginning, machine

TABLE, FOLDER = ROOT / "results" / "ceiling.csv", ROOT / "runs" / "ceiling"
COPIES = {
    "augmentation.copied_probability": 0.5, "augmentation.copied_strength": [0.4, 1.0], "augmentation.copied_mirrored": True,
}  # fmt: skip
VARIANTS = {  # name -> profile, epochs, what it begins with, what else is changed
    "more": ("surrogate-gpu", 6, "surrogate-gpu", {}),
    "taller": ("surrogate-gpu", 6, "surrogate-gpu", {"patches.shape_vox": [256, 192, 48], "patches.batch_size": 1}),
    "coarse": ("surrogate-coarse", 27, "surrogate-coarse", {}),
    "finer": ("surrogate-gpu", 9, "coarse", {}),
}


def main() -> None:
    """Train, then predict and score, fold by fold, and write what is measured as soon as it is."""
    parser = command_line(__doc__, "surrogate-gpu")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    for number in given.folds:
        runs = {name: _trained(given, name, number) for name in VARIANTS}
        base = beginning(runs["more"])  # as shipped
        shipped = [*_probabilities(base, base, number)]
        update_table(_judged(base, number, "shipped", "alone", shipped, 0), TABLE, "variant", "judged", "fold")
        for name, run in runs.items():
            found, made = [*_probabilities(run, base, number)], steps(run, number)
            made += steps(beginning(run), number) if VARIANTS[name][2] in VARIANTS else 0
            means = [(one + other) / 2 for one, other in zip(found, shipped, strict=True)]
            rows = _judged(base, number, name, "alone", found, made) + _judged(base, number, name, "mean", means, made)
            update_table(rows, TABLE, "variant", "judged", "fold")


def _trained(given: argparse.Namespace, name: str, number: int) -> Run:
    """A variant's run, this fold trained; its profile is written down, for another may begin with it."""
    profile, epochs, first, changes = VARIANTS[name]
    length = {"training.epochs": epochs, "training.cycle_epochs": [epochs], "training.weights": "last"}
    if first in VARIANTS:  # which is trained already
        shutil.copytree(FOLDER / first, FOLDER / name / "beginning", dirs_exist_ok=True)
        first = str(FOLDER / f"{first}.yaml")
    settings = {**COPIES, **length, "training.begin_with": first, **changes}
    run = train_variant(argparse.Namespace(profile=profile, data=given.data), f"ceiling/{name}", settings, [number])
    (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump({**run.profile.as_dict(), "name": name}), encoding="utf-8")
    return run


def _probabilities(run: Run, finest: Run, number: int) -> Iterator[np.ndarray]:
    """Of each test case, on the working grid of the run `finest`."""
    model, cases = load_model(run.profile, run.fold_folder(number) / "model.weights.h5"), run.folds[number].test
    for prepared, wanted in zip(run.prepared(cases), finest.prepared(cases), strict=True):
        yield resample(predict_volume(model, prepared, run.profile), wanted.image.shape, "linear")


def _judged(run: Run, number: int, variant: str, judged: str, found: list[np.ndarray], made: int) -> list[dict[str, Any]]:
    """A row per test case: Dice of each class."""
    told = {"steps": made, "seed": run.profile.seed, "machine": machine()}
    rows = []
    for case, probabilities in zip(map(run.case, run.folds[number].test), found, strict=True):
        labels = decide(probabilities, case.labels.shape, case.spacing_mm, run.profile.inference)
        row = {"variant": variant, "judged": judged, "fold": number, "case": case.id}
        rows.append({**row, **dice(case.labels, labels), **told})
    return rows


if __name__ == "__main__":
    main()
