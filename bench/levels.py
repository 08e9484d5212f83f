"""How much do the labels hang on a scan's exact grey, and its doubt, too? Writes results/levels.csv.

    python bench/levels.py --data DIR

Every test case by the network that has not seen it, with all of its grey moved down or up a little after preprocessing: 0.15 are
70 HU where the grey window is the data's own. Infection has its weight however much a scan is doubted. Nothing is chosen by it.
"""

from dataclasses import replace

import numpy as np
from unseen import dice, trained_run, unseen_cases, write_table

from covidlib.inference import predict_volume
from covidlib.postprocessing import decide, doubt
from covidlib.runs import ROOT

TABLE = ROOT / "results" / "levels.csv"
MOVES = (-0.15, 0.0, 0.15)


def main() -> None:
    """Score every test case at every level."""
    run, rows = trained_run(__doc__), []
    settings = replace(run.profile.inference, typical_doubt=0.0)
    for fold, model, case, prepared in unseen_cases(run):
        for moved in MOVES:
            probabilities = predict_volume(model, replace(prepared, image=prepared.image + np.float32(moved)), run.profile)
            labels = decide(probabilities, case.labels.shape, case.spacing_mm, settings)
            row = {"fold": fold, "case": case.id, "moved": moved, "doubt": doubt(probabilities)}
            rows.append({**row, **dice(case.labels, labels)})
    write_table(rows, TABLE)


if __name__ == "__main__":
    main()
