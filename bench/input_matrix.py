"""One scan stored in many ways, predicted each time, compared with the prediction of the plain file: a table for the book.

python bench/input_matrix.py SCAN.nii.gz --weights runs/surrogate --label "8-bit surrogate of COVID-19-CT-Seg"
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from variants import NEARLY, PLAIN, VARIANTS, predict_variant  # noqa: E402

from covidlib.predict import Predictor  # noqa: E402
from covidlib.runs import machine  # noqa: E402
from covidlib.scan import read_scan  # noqa: E402

OTHER: dict[str, tuple[Any, Any, Any]] = {  # name -> array and spacing, which of its voxels, and which of the plain ones they are
    "every second slice": (lambda hu, mm: (hu[..., ::2], (*mm[:2], 2 * mm[2])), np.s_[:], np.s_[..., ::2]),
    "every fourth slice": (lambda hu, mm: (hu[..., ::4], (*mm[:2], 4 * mm[2])), np.s_[:], np.s_[..., ::4]),
    "each slice three times": (lambda hu, mm: (hu.repeat(3, 2), (*mm[:2], mm[2] / 3)), np.s_[..., 1::3], np.s_[:]),
    "half the pixels on a side": (lambda hu, mm: (hu[::2, ::2], (2 * mm[0], 2 * mm[1], mm[2])), np.s_[:], np.s_[::2, ::2]),
    "twice the pixels on a side": (
        lambda hu, mm: (hu.repeat(2, 0).repeat(2, 1), (mm[0] / 2, mm[1] / 2, mm[2])), np.s_[::2, ::2], np.s_[:]),
    "lower half of the slices": (lambda hu, mm: (hu[..., : hu.shape[2] // 2], mm), np.s_[:], None),
    "array upside down": (lambda hu, mm: (hu[..., ::-1], mm), np.s_[..., ::-1], np.s_[:]),
    "array face down": (lambda hu, mm: (hu[:, ::-1], mm), np.s_[:, ::-1], np.s_[:]),
    "array with left and right exchanged": (lambda hu, mm: (hu[::-1], mm), np.s_[::-1], np.s_[:]),
}  # fmt: skip


def dice(found: np.ndarray, plain: np.ndarray, labels: tuple[int, ...]) -> str:
    """Dice of a set of labels, to three digits."""
    one, other = np.isin(found, labels), np.isin(plain, labels)
    total = int(one.sum() + other.sum())
    return f"{2 * int((one & other).sum()) / total:.3f}" if total else "none"


def rows(predictor: Predictor, hu: np.ndarray, mm: tuple[float, ...]) -> Any:
    """Name and Dice of both lungs apart and of infection, for each way of storing the scan."""
    plain = None
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, write) in enumerate({**VARIANTS, **NEARLY}.items()):
            source = write(hu, mm, Path(folder) / str(number))
            found = predict_variant(predictor, source, Path(folder))
            plain = found if name == PLAIN else plain
            yield name, found, plain
    for name, (change, mine, of_plain) in OTHER.items():
        found = predictor(*change(hu, mm)).labels
        yield name, found[mine], plain[..., : found.shape[2]] if of_plain is None else plain[of_plain]


def main() -> None:
    """Write book/_tried/inputs.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scan")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--label", required=True, help="what the scan's data are to be called")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scan, predictor, started = read_scan(given.scan).case, Predictor(given.weights), time.monotonic()
    shape = " x ".join(map(str, scan.image.shape))
    lines = ["| input | left lung | right lung | infection |", "|---|---|---|---|"]
    for name, found, plain in rows(predictor, np.rint(scan.image).astype(np.int16), scan.spacing_mm):
        lines.append(f"| {name} | {dice(found, plain, (1,))} | {dice(found, plain, (2,))} | {dice(found, plain, (3,))} |")
        logging.info("%.0f s %s", time.monotonic() - started, lines[-1])
    said = (
        f"Scan: {scan.id} of the {given.label}, {shape} voxels. Weights: profile `{predictor.profile.name}`, "
        f"{len(predictor.models)} folds averaged. Machine: {machine()}. Dice against the labels predicted for the plain file:"
    )
    target = ROOT / "book" / "_tried" / "inputs.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([said, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
