"""What a fold does to a score: 4 scans to learn from instead of 16, and a patient on both sides. Writes results/folds.csv.

    python bench/folds.py --data DIR                     both, one after the other; goes on where it was stopped
    python bench/folds.py --data DIR --only inverted     Ma et al.'s 20/80: trained on group 0, tested on the 16 others
    python bench/folds.py --data DIR --only apart        fold 2, which tests radiopaedia_10_85902_1, without the other scan of
                                                         that patient, radiopaedia_10_85902_3, among its 16 training cases

Trained for the profile's first cycle: results/surrogate_one_cycle holds folds of as many steps for comparison.
"""

from dataclasses import replace

from unseen import command_line, first_cycles, scored_fold, update_table

from covidlib.dataset import ONE_PATIENT, Fold
from covidlib.runs import ROOT, Run, machine, open_run
from covidlib.training import train_fold

TABLE = ROOT / "results" / "folds.csv"
TRIED = {"inverted": 0, "apart": 2}  # and the fold that is trained


def main() -> None:
    """Train, predict and score; the table is written with what there is."""
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=TRIED)
    given = parser.parse_args()
    for name in [given.only] if given.only else TRIED:
        update_table(measure(opened(given.profile, given.data, name), name), TABLE, "folds")


def opened(profile: str, data: str, name: str) -> Run:
    """The run whose fold `TRIED[name]` is the one to train."""
    scheme = "inverted" if name == "inverted" else "ma"
    run = open_run(profile, data, ROOT / "runs" / "folds" / name, {"folds.scheme": scheme, **first_cycles(profile, 1)})
    if name == "inverted":
        return run
    return replace(run, folds=tuple(without_known_patients(fold) for fold in run.folds))


def without_known_patients(fold: Fold) -> Fold:
    """The fold without those training cases that are other scans of its test cases' patients."""
    known = {case for scans in ONE_PATIENT if scans & set(fold.test) for case in scans}
    return replace(fold, train=tuple(case for case in fold.train if case not in known))


def measure(run: Run, name: str) -> list[dict[str, object]]:
    """A row per test case: Dice of each class, and what the network was trained on."""
    number = TRIED[name]
    history = train_fold(run, number)
    made = {"trained_on": len(run.folds[number].train), "steps": len(history) * run.profile.training.batches_per_epoch}
    made |= {"minutes": history[-1]["minutes"], "seed": run.profile.seed, "machine": machine()}
    return [{"folds": name, **row} for row in scored_fold(run, number, made)]


if __name__ == "__main__":
    main()
