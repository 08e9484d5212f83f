"""From probabilities to labels: what the settings on that way are worth. Writes results/decisions.csv.

    python bench/decisions.py --profile surrogate --data DIR

`inference.infection_weight`, `smallest_infection_ml` and `two_lungs`, one changed at a time. A fold's training cases are the test
cases of the other folds, whose networks had not seen them: their scores tell what a fold may choose; its own have no say.
"""

import argparse
from dataclasses import replace

import pandas as pd

from covidlib.files import whole_file
from covidlib.inference import load_model, predict_volume
from covidlib.metrics import score
from covidlib.postprocessing import decide
from covidlib.runs import ROOT, open_run

TABLE = ROOT / "results" / "decisions.csv"
TRIED = {
    "infection_weight": (1.0, 1.5, 2.0, 3.0, 4.0, 8.0),
    "smallest_infection_ml": (0.0, 0.1, 0.3, 1.0, 3.0),
    "two_lungs": (False, True),
}


def main() -> None:
    """Score every value on every test case; `report.decisions_markdown` says which the training cases of each fold choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--profile", default="surrogate")
    given = parser.parse_args()
    run = open_run(given.profile, given.data)
    rows = []
    for fold in run.folds:
        model = load_model(run, fold.number)
        for case, prepared in zip(map(run.case, fold.test), run.prepared(fold.test), strict=True):
            probabilities = predict_volume(model, prepared, run.profile)
            for setting, value in ((setting, value) for setting, values in TRIED.items() for value in values):
                settings = replace(run.profile.inference, **{setting: value})
                left, right, infection = score(case.labels, decide(probabilities, case.image.shape, case.spacing_mm, settings))
                dice = {"left_lung": left["dice"], "right_lung": right["dice"], "infection": infection["dice"]}
                rows.append({"setting": setting, "value": float(value), "fold": fold.number, "case": case.id, **dice})
    with whole_file(TABLE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
