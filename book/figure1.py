"""Draws the README's picture, book/figure1.png, from phantoms: `.venv/bin/python book/figure1.py`."""

import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from covidlib.dataset import load_case
from covidlib.figures import slice_panel, step_strip
from covidlib.phantom import make_phantoms

CASES = ("radiopaedia_27_86410_0", "radiopaedia_14_85914_0")


def draw() -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        cases = [load_case(make_phantoms(Path(folder, "phantoms"), cases=CASES), name) for name in CASES]
    shown = ("a phantom", None), ("its labels", True)
    return step_strip([slice_panel(case, title=title, labels=labels) for case in cases for title, labels in shown])


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_suffix(".png"), dpi=150, bbox_inches="tight")
