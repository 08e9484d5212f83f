"""The whole volume at once, or half-overlapping windows? Dice and CPU seconds. Writes results/windows.csv.

    python bench/windows.py --data DIR                  the trained run of `surrogate-coarse`, all folds
    python bench/windows.py --data DIR --norm batch     two folds with the paper's batch normalization, trained here first

Every test case by the network that has not seen it, with the same weights each time. Nothing is chosen by it.
"""

import time
from dataclasses import replace
from typing import Any

from unseen import command_line, dice, steps, train_variant, update_table

from covidlib.inference import load_model, predict_volume
from covidlib.postprocessing import decide
from covidlib.runs import ROOT, Run, machine, open_run

TABLE = ROOT / "results" / "windows.csv"
MODES = {
    "volume": {"mode": "volume"},
    "paper": {"mode": "windows", "window_shape_vox": (160, 160, 80)},
    "profile": {"mode": "windows"},
}
FOLDS, SHORT = (0, 2), {"network.norm": "batch", "training.epochs": 13, "training.cycle_epochs": []}


def main() -> None:
    """Measure the networks of one normalization; the rows of others stay."""
    parser = command_line(__doc__)
    parser.add_argument("--norm", choices=("instance", "batch"), default="instance")
    given = parser.parse_args()
    if given.norm == "batch":
        run, folds = train_variant(given, "windows", SHORT, FOLDS), FOLDS
    else:
        run = open_run(given.profile, given.data)
        folds = tuple(range(len(run.folds)))
    update_table([row for fold in folds for row in compare(run, fold)], TABLE, "norm")


def compare(run: Run, number: int) -> list[dict[str, Any]]:
    """A row for each test case of a fold and each mode; a mode's first volume, which prepares kernels, is predicted twice."""
    folder, test, rows = run.fold_folder(number), run.folds[number].test, []
    cases, volumes = [run.case(case) for case in test], run.prepared(test)
    made = {"steps": steps(run, number), "machine": machine()}
    for mode, changed in MODES.items():
        one_weight = replace(run.profile.inference, typical_doubt=0.0, **changed)
        profile = replace(run.profile, inference=one_weight)
        model = load_model(profile, folder / "model.weights.h5")
        predict_volume(model, volumes[0], profile)
        for case, volume in zip(cases, volumes, strict=True):
            begun = time.process_time()
            probabilities = predict_volume(model, volume, profile)
            took = time.process_time() - begun
            labels = decide(probabilities, case.image.shape, case.spacing_mm, profile.inference)
            row = {"norm": profile.network.norm, "fold": number, "case": case.id, "mode": mode, **dice(case.labels, labels)}
            rows.append({**row, "cpu_s": took, **made})
    return rows


if __name__ == "__main__":
    main()
