"""Scans from file to table, with time and memory: for the book.

python bench/real_scans.py --weights runs/surrogate SCAN.nii.gz=LUNG_MASK.nii.gz ...
"""

import argparse
import re
import time
from pathlib import Path

import numpy as np

from covidlib.dataset import read_volume, to_canonical
from covidlib.predict import Predictor
from covidlib.runs import ROOT, machine

TRIED = ROOT / "book" / "_tried"
HEAD = "| scan | voxels | lungs mL | infected % | lesions | band | warnings | lung Dice | s | peak GiB |\n" + "|---" * 10 + "|"


def row(predictor: Predictor, scan: str) -> str:
    """A line of the table; lung Dice (infection counted as lung) where a mask of the lungs is given as SCAN=MASK."""
    path, _, mask = scan.partition("=")
    Path("/proc/self/clear_refs").write_text("5")  # count the peak of memory anew
    started = time.monotonic()
    result = predictor(path)
    seconds, found, dice = time.monotonic() - started, result.quantities, ""
    if mask:
        truth, lungs = to_canonical(*read_volume(Path(mask), "mask")[::2]) > 0, result.labels > 0
        dice = f"{2 * np.count_nonzero(truth & lungs) / (np.count_nonzero(truth) + np.count_nonzero(lungs)):.3f}"
    shape, said = " x ".join(map(str, result.labels.shape)), "; ".join(result.warnings) or "none"
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20
    numbers = f"{found['lung_ml']:.0f} | {found['infected_percent']:.2f} | {found['lesions']} | {found['severity']}"
    return f"| {result.case.id} | {shape} | {numbers} | {said} | {dice} | {seconds:.0f} | {peak:.1f} |"


def main() -> None:
    """Write book/_tried/real_scans.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scans", nargs="+")
    parser.add_argument("--weights", required=True)
    given = parser.parse_args()
    TRIED.mkdir(exist_ok=True)
    predictor = Predictor(given.weights)
    said = f"Weights: profile `{predictor.profile.name}`, {len(predictor.models)} folds averaged. Machine: {machine()}."
    table = [said, "", HEAD, *(row(predictor, scan) for scan in given.scans), ""]
    (TRIED / "real_scans.md").write_text("\n".join(table), encoding="utf-8")


if __name__ == "__main__":
    main()
