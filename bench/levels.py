"""How much do the labels hang on a scan's exact grey, and does its doubt tell? Writes results/levels.csv.

    python bench/levels.py --profile surrogate --data DIR

Every test case by the network that has not seen it, with all of its grey moved down or up a little after preprocessing: 0.15 are
70 HU where the grey window is the data's own. Decided twice: with one weight of infection for all, and with one by doubt.
Nothing is chosen by it.
"""

from dataclasses import replace

import numpy as np
from unseen import dice, trained_run, unseen_cases, write_table

from covidlib.inference import predict_volume
from covidlib.postprocessing import INFECTION, decide, doubt
from covidlib.runs import ROOT

TABLE = ROOT / "results" / "levels.csv"
MOVES = (-0.15, 0.0, 0.15)


def main() -> None:
    """Score every test case at every level, with both weights."""
    run, rows = trained_run(__doc__), []
    weights = {"one": replace(run.profile.inference, typical_doubt=0.0), "by doubt": run.profile.inference}
    for fold, model, case, prepared in unseen_cases(run):
        for moved in MOVES:
            probabilities = predict_volume(model, replace(prepared, image=prepared.image + np.float32(moved)), run.profile)
            row = {"fold": fold, "case": case.id, "moved": moved, "doubt": doubt(probabilities)}
            for weight, settings in weights.items():
                labels = decide(probabilities, case.labels.shape, case.spacing_mm, settings)
                marked = np.count_nonzero(labels == INFECTION) / np.count_nonzero(case.labels == INFECTION)
                rows.append({**row, "weight": weight, **dice(case.labels, labels), "marked": marked})
    write_table(rows, TABLE)


if __name__ == "__main__":
    main()
