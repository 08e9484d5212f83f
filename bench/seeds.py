"""What are networks of another seed worth, alone and in a mean, and does doubt tell how to decide? Writes results/seeds.csv.

    python bench/seeds.py --data DIR

The trained run of a profile, and the same profile with the next seed and one cycle of 4,000 steps, trained here first. Every
test case by the networks that have not seen it: that of the run, that of the other seed, and the mean of both; each decided with
several weights of infection. Nothing is chosen by it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from unseen import command_line, dice, steps, train_variant, write_table

from covidlib.dataset import INFECTION, Case
from covidlib.inference import load_model, predict_volume
from covidlib.postprocessing import decide, doubt
from covidlib.runs import ROOT, Run, machine, open_run

TABLE = ROOT / "results" / "seeds.csv"
WEIGHTS = (0.5, 0.8, 1.25, 2.0, 3.2, 5.0, 8.0)
ONE_CYCLE = {"training.epochs": 40, "training.cycle_epochs": []}


def main() -> None:
    """Train what is not trained yet, and measure every fold."""
    given = command_line(__doc__).parse_args()
    run = open_run(given.profile, given.data)
    seed = run.profile.seed + 1
    other = train_variant(given, f"seed_{seed}", {"seed": seed, **ONE_CYCLE}, range(len(run.folds)))
    write_table([row for fold in run.folds for row in compare(run, other, fold.number)], TABLE)


def compare(run: Run, other: Run, number: int) -> Iterator[dict[str, Any]]:
    """A row for each test case of a fold, each of the three predictions and each weight."""
    runs = {"run": run, "other seed": other}
    models = {name: load_model(run.profile, one.fold_folder(number) / "model.weights.h5") for name, one in runs.items()}
    made = {
        "seeds": f"{run.profile.seed} and {other.profile.seed}",
        "steps": " and ".join(f"{steps(one, number):,}" for one in runs.values()),
        "machine": machine(),
    }
    for case, prepared in zip(map(run.case, run.folds[number].test), run.prepared(run.folds[number].test), strict=True):
        predicted = {name: predict_volume(model, prepared, run.profile) for name, model in models.items()}
        doubts = {name: doubt(probabilities) for name, probabilities in predicted.items()}
        doubts["mean"], predicted["mean"] = sum(doubts.values()) / len(models), sum(predicted.values()) / len(models)
        for name, probabilities in predicted.items():
            for row in decided(case, probabilities, run):
                yield {"networks": name, "fold": number, "case": case.id, "doubt": doubts[name], **row, **made}


def decided(case: Case, probabilities: np.ndarray, run: Run) -> Iterator[dict[str, float]]:
    """Dice, and infection marked by true infection, with each weight, however much the scan is doubted."""
    for weight in WEIGHTS:
        settings = replace(run.profile.inference, infection_weight=weight, typical_doubt=0.0)
        labels = decide(probabilities, case.labels.shape, case.spacing_mm, settings)
        marked = np.count_nonzero(labels == INFECTION) / np.count_nonzero(case.labels == INFECTION)
        yield {"weight": weight, **dice(case.labels, labels), "marked": marked}


if __name__ == "__main__":
    main()
