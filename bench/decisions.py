"""From probabilities to labels: what the settings on that way are worth. Writes results/decisions.csv.

    python bench/decisions.py --data DIR

`inference.infection_weight`, `smallest_infection_ml` and `two_lungs`, one changed at a time. A fold's training cases are the test
cases of the other folds, whose networks had not seen them: their scores tell what a fold may choose; its own have no say.
"""

from dataclasses import replace

from unseen import dice, trained_run, unseen_cases, write_table

from covidlib.inference import predict_volume
from covidlib.postprocessing import decide
from covidlib.runs import ROOT

TABLE = ROOT / "results" / "decisions.csv"
TRIED = {
    "infection_weight": (1.0, 1.5, 2.0, 3.0, 4.0, 8.0),
    "smallest_infection_ml": (0.0, 0.1, 0.3, 1.0, 3.0),
    "two_lungs": (False, True),
}


def main() -> None:
    """Score every value on every test case; `measured.decisions_markdown` says which the training cases of each fold choose."""
    run, rows = trained_run(__doc__, "surrogate-gpu"), []
    for fold, model, case, prepared in unseen_cases(run):
        probabilities = predict_volume(model, prepared, run.profile)
        for setting, value in ((setting, value) for setting, values in TRIED.items() for value in values):
            settings = replace(run.profile.inference, **{setting: value})
            labels = decide(probabilities, case.image.shape, case.spacing_mm, settings)
            row = {"setting": setting, "value": float(value), "fold": fold, "case": case.id}
            rows.append({**row, **dice(case.labels, labels)})
    write_table(rows, TABLE)


if __name__ == "__main__":
    main()
