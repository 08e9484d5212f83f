"""How small may a piece of infection be? Chosen for each fold on its own training cases. Writes results/specks.csv.

    python bench/specks.py --profile surrogate --data DIR

A fold's training cases are the test cases of the other folds, whose networks had not seen them. Their predictions tell which
`inference.smallest_infection_ml` would have been best; the fold's own test cases have no say. The run must have been predicted
with specks left in.
"""

import argparse

import pandas as pd

from covidlib.files import whole_file
from covidlib.metrics import score
from covidlib.postprocessing import drop_specks
from covidlib.profile import Inference
from covidlib.runs import ROOT, open_run

TABLE = ROOT / "results" / "specks.csv"
SMALLEST_ML = (0.0, 0.1, 0.3, 1.0, 3.0)
SMALLEST_LUNG_ML = 20.0  # chosen beforehand: no lobe is as small


def main() -> None:
    """Score every candidate on every test case; `report.specks_markdown` says which the training cases of each fold choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--profile", default="surrogate")
    given = parser.parse_args()
    run = open_run(given.profile, given.data)
    rows = []
    for fold in run.folds:
        for name in fold.test if run.prediction(fold.number, fold.test[0]).is_file() else ():
            case, found = run.case(name), run.predicted_labels(fold.number, name)
            for ml in SMALLEST_ML:
                settings = Inference(smallest_lung_ml=SMALLEST_LUNG_ML, smallest_infection_ml=ml)
                left, right, infection = score(case.labels, drop_specks(found, case.spacing_mm, settings))
                dice = {"left_lung": left["dice"], "right_lung": right["dice"], "infection": infection["dice"]}
                rows.append({"fold": fold.number, "case": name, "smallest_infection_ml": ml, **dice})
    table = pd.DataFrame(rows)
    with whole_file(TABLE) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
