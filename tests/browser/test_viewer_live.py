"""The viewer in a JupyterLab with a kernel: it moves, and Python knows where it stands."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CELLS = (
    "import numpy as np\nfrom covidlib.viewer import view\nlabels = np.zeros((8, 10, 6), np.uint8)\nlabels[2:5, 4, 1] = 3\n"
    "box = view(np.full(labels.shape, 100), labels, np.roll(labels, 1, 2))\nbox",
    "print('stands at', box.canvas.index, box.canvas.plane, box.canvas.shown)",
    "box.canvas.index = 4",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab that serves a folder with one notebook."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "look.ipynb")
    options = ["--no-browser", "--allow-root", "--ServerApp.token=", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"]
    homes = {f"JUPYTER{name}_DIR": str(folder / "home") for name in ("_CONFIG", "LAB_SETTINGS", "LAB_WORKSPACES")}
    environment = {**os.environ, **homes, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "jupyterlab", *options, "--notebook-dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        said = next((line for line in server.stderr if re.search(r"http://127\.0\.0\.1:\d+/lab", line)), "")
        yield re.search(r"http://127\.0\.0\.1:\d+", said).group()
        server.terminate()
        server.stderr.read()


def test_viewer_and_python_follow_each_other(browser, lab: str) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.set_default_timeout(60_000)
    page.goto(f"{lab}/lab/tree/look.ipynb")
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    run = lambda number: (cells.nth(number).locator(".cm-content").click(), page.keyboard.press("Shift+Enter"))  # noqa: E731
    page.get_by_text("(ipykernel) | Idle").wait_for()
    run(0)
    where = page.locator(".slice-canvas")
    where.get_by_text("axial slice 2 of 6").wait_for()
    page.locator(".slice-canvas .frame canvas").focus()
    page.keyboard.press("ArrowUp")
    where.get_by_text("axial slice 3 of 6").wait_for()
    page.get_by_role("button", name="disagreement").click()
    run(1)
    page.get_by_text("stands at 2 0 3").wait_for()
    run(2)
    where.get_by_text("axial slice 5 of 6").wait_for()
    handle = page.locator(".covidlib-viewer .noUi-handle").first
    assert handle.get_attribute("aria-valuenow") == "4.0"
    page.close()
