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

from unseen import command_line, first_cycles, scored_fold, steps, train_variant, update_table

from covidlib.files import read_json
from covidlib.network import build_network
from covidlib.profile import Network, load_profile
from covidlib.runs import ROOT, Run


def main() -> None:
    """Train, predict and score, and write what is measured as soon as it is."""
    measured = {"not_copied": not_copied, "cycles": cycles}
    parser = command_line(__doc__, "surrogate-gpu")
    parser.add_argument("which", choices=measured)
    parser.add_argument("--folds", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    for number in given.folds:
        measured[given.which](given, number, ROOT / "results" / f"{given.which}.csv")


def not_copied(given: argparse.Namespace, number: int, table: Path) -> None:
    """A row per test case: Dice of each class, and how the network was made."""
    changes = {"augmentation.copied_probability": 0.0, **first_cycles(given.profile, 1)}
    run = train_variant(given, "not_copied", changes, [number])
    update_table(scored_fold(run, number, _made(run, number)), table, "fold")


def cycles(given: argparse.Namespace, number: int, table: Path) -> None:
    """A row per cycle, kind of weights ("mean": of all cycles so far; "last": of this one alone) and test case."""
    kept = ROOT / "runs" / "cycles_alone" / f"fold_{number}"
    kept.mkdir(parents=True, exist_ok=True)
    for done in range(1, len(load_profile(given.profile).training.cycle_epochs) + 1):
        mean = kept / f"mean_{done}.weights.h5"
        if mean.is_file():
            continue  # measured in an earlier call; the fold has gone on since, and would begin anew
        run = train_variant(given, "cycles", first_cycles(given.profile, done), [number])
        trained, told = run.fold_folder(number) / "model.weights.h5", {"cycles": done, **_made(run, number)}
        rows = scored_fold(run, number, {"weights": "mean", **told})
        if done > 1:
            alone = dataclasses.replace(run, folder=kept.parent)
            before = kept / f"mean_{done - 1}.weights.h5"
            write_last(run.profile.network, trained, before, done, kept / "model.weights.h5")
            rows += scored_fold(alone, number, {"weights": "last", **told})
        update_table(rows, table, "fold", "cycles")
        shutil.copyfile(trained, mean)


def write_last(network: Network, mean: Path, before: Path, done: int, to: Path) -> None:
    """Write the weights that the last of `done` cycles ended with, from the mean of all and that of all before it."""
    model, parts = build_network(network), []
    for file in (mean, before):
        model.load_weights(file)
        parts.append(model.get_weights())
    model.set_weights([done * now - (done - 1) * then for now, then in zip(*parts, strict=True)])
    model.save_weights(to)


def _made(run: Run, number: int) -> dict[str, object]:
    kept = read_json(run.fold_folder(number) / "fold.json")
    return {"steps": steps(run, number), "minutes": kept["minutes"], "seed": run.profile.seed, "machine": kept["machine"]}


if __name__ == "__main__":
    main()
