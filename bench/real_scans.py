"""Scans from file to table, with time and memory; and, of a run, how its quantities agree with the truth: for the book.

python bench/real_scans.py --weights runs/surrogate SCAN.nii.gz=LUNG_MASK.nii.gz ...
python bench/real_scans.py --agreement runs/surrogate --profile surrogate --data DIR
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from covidlib.dataset import ONE_PATIENT, read_volume, to_canonical  # noqa: E402
from covidlib.predict import Predictor  # noqa: E402
from covidlib.runs import data_name, machine, open_run  # noqa: E402

TRIED = ROOT / "book" / "_tried"
HEAD = "| scan | voxels | lungs mL | infected % | lesions | band | warnings | lung Dice | s | peak GiB |\n" + "|---" * 10 + "|"


def row(predictor: Predictor, scan: str) -> str:
    """A line of the table; lung Dice (infection counted as lung) where a mask of the lungs is given as SCAN=MASK."""
    path, _, mask = scan.partition("=")
    started = time.monotonic()
    result = predictor(path)
    seconds, found, dice = time.monotonic() - started, result.quantities, ""
    if mask:
        truth, lungs = to_canonical(*read_volume(Path(mask), "mask")[::2]) > 0, result.labels > 0
        dice = f"{2 * np.count_nonzero(truth & lungs) / (np.count_nonzero(truth) + np.count_nonzero(lungs)):.3f}"
    shape, said = " x ".join(map(str, result.labels.shape)), "; ".join(result.warnings) or "none"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    numbers = f"{found['lung_ml']:.0f} | {found['infected_percent']:.2f} | {found['lesions']} | {found['severity']}"
    return f"| {result.case.id} | {shape} | {numbers} | {said} | {dice} | {seconds:.0f} | {peak:.1f} |"


def agreement(given: argparse.Namespace) -> str:
    """Truth against prediction of a finished run: a picture beside the page, and the numbers."""
    import pandas as pd

    from covidlib.figures import agreement_chart
    from covidlib.quantification import agreement, quantify_fold

    run = open_run(given.profile, given.data, given.agreement)
    done = [fold.number for fold in run.folds if all(run.prediction(fold.number, case).is_file() for case in fold.test)]
    both = pd.concat([quantify_fold(run, number) for number in done]).pivot(index="case", columns="source")
    chart = agreement_chart(both["infected_percent"]["truth"], both["infected_percent"]["prediction"], "percent of lung")
    chart.savefig(TRIED / "agreement.png", dpi=150)
    lines = ["| quantity | cases | mean difference | 95 % limits | correlation |", "|---|---|---|---|---|"]
    for name in ("infected_percent", "left_infected_percent", "right_infected_percent", "infection_ml", "lung_ml"):
        f = agreement(both[name]["truth"], both[name]["prediction"])
        limits = f"{f['low']:.3g} to {f['high']:.3g}"
        lines.append(f"| {name} | {f['n']} | {f['mean_difference']:+.3g} | {limits} | {f['correlation']:.3f} |")
    same = (both["severity"]["truth"] == both["severity"]["prediction"]).sum()
    said = f"Data: {data_name(run)}. Profile: `{run.profile.name}`, folds {', '.join(map(str, done))}, each case by its own fold."
    alt = "Percent of lung infected: prediction against truth, and difference against mean"
    picture = ["```{image} _tried/agreement.png", f":alt: {alt}", "```"]
    followed = [case for case in sorted(*ONE_PATIENT) if case in both.index]
    courses = (source + " " + ", then ".join(f"{value:.1f} %" for value in both["infected_percent"][source][followed])
               for source in ("truth", "prediction"))  # fmt: skip
    course = f"One patient, scanned twice ({' and '.join(followed)}): {'; '.join(courses)}." if len(followed) > 1 else ""
    return "\n".join([said, f"The band is the same in {same} of {len(both)} cases.", "", *lines, "", course, "", *picture, ""])


def main() -> None:
    """Write book/_tried/real_scans.md, or with --agreement agreement.md and its picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--weights")
    parser.add_argument("--agreement", metavar="RUN")
    parser.add_argument("--profile", default="surrogate")
    parser.add_argument("--data", default="")
    given = parser.parse_args()
    TRIED.mkdir(exist_ok=True)
    if given.agreement:
        (TRIED / "agreement.md").write_text(agreement(given), encoding="utf-8")
    else:
        predictor = Predictor(given.weights)
        said = f"Weights: profile `{predictor.profile.name}`, {len(predictor.models)} folds averaged. Machine: {machine()}."
        table = [said, "", HEAD, *(row(predictor, scan) for scan in given.scans), ""]
        (TRIED / "real_scans.md").write_text("\n".join(table), encoding="utf-8")


if __name__ == "__main__":
    main()
