"""The whole volume at once, or the paper's half-overlapping windows? Dice and CPU seconds of both. Writes results/windows.csv.

    python bench/windows.py --profile surrogate --data DIR

Every test case of a trained run, by the network that has not seen it, with the same weights both times. Nothing is chosen by it.
"""

import time
from dataclasses import replace

from unseen import dice, trained_run, unseen_cases, write_table

from covidlib.inference import predict_volume
from covidlib.postprocessing import decide
from covidlib.runs import ROOT

TABLE = ROOT / "results" / "windows.csv"


def main() -> None:
    """Predict and score every test case in both modes; a fold's first volume, which prepares kernels, twice."""
    run, rows, warm = trained_run(__doc__), [], None
    for mode in ("volume", "windows"):
        profile = replace(run.profile, inference=replace(run.profile.inference, mode=mode))
        for fold, model, case, prepared in unseen_cases(replace(run, profile=profile)):
            if model is not warm:
                predict_volume(model, prepared, profile)
                warm = model
            begun = time.process_time()
            probabilities = predict_volume(model, prepared, profile)
            took = time.process_time() - begun
            labels = decide(probabilities, case.image.shape, case.spacing_mm, profile.inference)
            rows.append({"fold": fold, "case": case.id, "mode": mode, **dice(case.labels, labels), "cpu_s": took})
    write_table(rows, TABLE)


if __name__ == "__main__":
    main()
