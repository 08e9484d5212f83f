"""What is the last part of `surrogate-gpu` made of? Writes results/not_copied.csv and results/cycles.csv.

    python bench/last_part.py not_copied --data DIR --folds 1
    python bench/last_part.py cycles --data DIR --folds 0 1 2 3 4

`not_copied`: the first cycle without copied infection; is it the copying, or just more steps? `cycles`: what each cycle ends
with, by itself and in the mean of the weights of all so far; is it the cycles, or their mean? A training goes on where it was
stopped. All begin with the networks of `surrogate`, trained first unless they are there: a copy of runs/surrogate as
runs/<which>/beginning will do.
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

from unseen import command_line, scored_fold, steps, train_variant, update_table

from covidlib.files import read_json
from covidlib.network import build_network
from covidlib.profile import Network, load_profile
from covidlib.runs import ROOT, Run


def main() -> None:
    """Train, predict and score; a fold is written as soon as it is done."""
    measured = {"not_copied": not_copied, "cycles": cycles}
    parser = command_line(__doc__, "surrogate-gpu")
    parser.add_argument("which", choices=measured)
    parser.add_argument("--folds", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    for number in given.folds:
        update_table(measured[given.which](given, number), ROOT / "results" / f"{given.which}.csv", "fold")


def not_copied(given: argparse.Namespace, number: int) -> list[dict[str, object]]:
    """A row per test case: Dice of each class, and how the network was made."""
    changes = {"augmentation.copied_probability": 0.0, **_cut(given.profile, 1)}
    run = train_variant(given, "not_copied", changes, [number])
    return scored_fold(run, number, _made(run, number))


def cycles(given: argparse.Namespace, number: int) -> list[dict[str, object]]:
    """A row per cycle, kind of weights ("mean": of all cycles so far; "last": of this one alone) and test case."""
    rows: list[dict[str, object]] = []
    for done in range(1, len(load_profile(given.profile).training.cycle_epochs) + 1):
        run = train_variant(given, "cycles", _cut(given.profile, done), [number])
        alone = dataclasses.replace(run, folder=run.folder.with_name("cycles_alone"))
        mean, last = (one.fold_folder(number) / "model.weights.h5" for one in (run, alone))
        before = last.with_name("mean_before.weights.h5")
        told = {"cycles": done, **_made(run, number)}
        rows += scored_fold(run, number, {"weights": "mean", **told})
        if done > 1:
            write_last(run.profile.network, mean, before, done, last)
            rows += scored_fold(alone, number, {"weights": "last", **told})
        before.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mean, before)
    return rows


def write_last(network: Network, mean: Path, before: Path, done: int, to: Path) -> None:
    """Write the weights that the last of `done` cycles ended with, from the mean of all and that of all before it."""
    model, parts = build_network(network), []
    for file in (mean, before):
        model.load_weights(file)
        parts.append(model.get_weights())
    model.set_weights([done * now - (done - 1) * then for now, then in zip(*parts, strict=True)])
    model.save_weights(to)


def _cut(profile: str, cycles: int) -> dict[str, object]:
    """What ends the profile's training after so many cycles."""
    lengths = load_profile(profile).training.cycle_epochs[:cycles]
    return {"training.epochs": sum(lengths), "training.cycle_epochs": list(lengths)}


def _made(run: Run, number: int) -> dict[str, object]:
    kept = read_json(run.fold_folder(number) / "fold.json")
    return {"steps": steps(run, number), "minutes": kept["minutes"], "seed": run.profile.seed, "machine": kept["machine"]}


if __name__ == "__main__":
    main()
