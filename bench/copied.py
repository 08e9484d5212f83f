"""Is it the copied infection, or just more steps? Folds of `surrogate-gpu` once more, nothing copied. Writes results/copied.csv.

    python bench/copied.py --data DIR --folds 1          goes on where it was stopped

They begin with the networks of `surrogate`, trained first unless they are there: a copy of runs/surrogate as
runs/not_copied/beginning will do.
"""

from unseen import command_line, scored_fold, steps, train_variant, update_table

from covidlib.files import read_json
from covidlib.runs import ROOT, Run

TABLE = ROOT / "results" / "copied.csv"


def main() -> None:
    """Train, predict and score; a fold is written as soon as it is done."""
    parser = command_line(__doc__, "surrogate-gpu")
    parser.add_argument("--folds", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    for number in given.folds:
        run = train_variant(given, "not_copied", {"augmentation.copied_probability": 0.0}, [number])
        update_table(measure(run, number), TABLE, "fold")


def measure(run: Run, number: int) -> list[dict[str, object]]:
    """A row per test case: Dice of each class, and how the network was made."""
    kept = read_json(run.fold_folder(number) / "fold.json")
    how = {"steps": steps(run, number), "minutes": kept["minutes"], "seed": run.profile.seed, "machine": kept["machine"]}
    return scored_fold(run, number, how)


if __name__ == "__main__":
    main()
