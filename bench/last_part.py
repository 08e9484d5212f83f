"""What is the last part of `surrogate-gpu` made of? Its folds once more with one thing changed. Writes results/<variant>.csv.

    python bench/last_part.py --data DIR --variant not_copied --folds 1
    python bench/last_part.py --data DIR --variant last --folds 0 1 2 3 4

`not_copied`: the first cycle without copied infection; is it the copying, or just more steps? `last`: the weights that the second
cycle ended with; is it that cycle, or the mean of both? A training goes on where it was stopped. All begin with the networks of
`surrogate`, trained first unless they are there: a copy of runs/surrogate as runs/<variant>/beginning will do.
"""

from unseen import command_line, scored_fold, steps, train_variant, update_table

from covidlib.files import read_json
from covidlib.runs import ROOT, Run

VARIANTS = {
    "not_copied": {"augmentation.copied_probability": 0.0, "training.epochs": 15, "training.cycle_epochs": [15]},
    "last": {"training.weights": "last"},
}


def main() -> None:
    """Train, predict and score; a fold is written as soon as it is done."""
    parser = command_line(__doc__, "surrogate-gpu")
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    for number in given.folds:
        run = train_variant(given, given.variant, VARIANTS[given.variant], [number])
        update_table(measure(run, number), ROOT / "results" / f"{given.variant}.csv", "fold")


def measure(run: Run, number: int) -> list[dict[str, object]]:
    """A row per test case: Dice of each class, and how the network was made."""
    kept = read_json(run.fold_folder(number) / "fold.json")
    how = {"steps": steps(run, number), "minutes": kept["minutes"], "seed": run.profile.seed, "machine": kept["machine"]}
    return scored_fold(run, number, how)


if __name__ == "__main__":
    main()
