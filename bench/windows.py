"""The whole volume at once, or the paper's half-overlapping windows? Dice and CPU seconds of both. Writes results/windows.csv.

    python bench/windows.py --profile surrogate --data DIR

Every test case of a trained run, by the network that has not seen it, with the same weights both times. Nothing is chosen by it.
"""

import argparse
import time
from dataclasses import replace

import pandas as pd

from covidlib.files import whole_file
from covidlib.inference import load_model, predict_volume
from covidlib.metrics import score
from covidlib.postprocessing import decide
from covidlib.runs import ROOT, open_run

TABLE = ROOT / "results" / "windows.csv"


def main() -> None:
    """Predict and score every test case in both modes; a first volume, which builds the graph, is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--profile", default="surrogate")
    given = parser.parse_args()
    run = open_run(given.profile, given.data)
    profiles = {mode: replace(run.profile, inference=replace(run.profile.inference, mode=mode)) for mode in ("volume", "windows")}
    rows = []
    for fold in run.folds:
        model = load_model(run, fold.number)
        predict_volume(model, run.prepared(fold.test[:1])[0], run.profile)
        for case, prepared in zip(map(run.case, fold.test), run.prepared(fold.test), strict=True):
            for mode, profile in profiles.items():
                begun = time.process_time()
                probabilities = predict_volume(model, prepared, profile)
                took = time.process_time() - begun
                labels = decide(probabilities, case.image.shape, case.spacing_mm, profile.inference)
                left, right, infection = score(case.labels, labels)
                dice = {"left_lung": left["dice"], "right_lung": right["dice"], "infection": infection["dice"]}
                rows.append({"fold": fold.number, "case": case.id, "mode": mode, **dice, "cpu_s": took})
    with whole_file(TABLE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
