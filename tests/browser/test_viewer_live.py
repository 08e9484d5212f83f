"""The viewer in JupyterLab and, where it is installed, Notebook 7, with a kernel: it moves, and Python knows where it stands."""

import contextlib
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


PATHS = {"jupyterlab": "lab/tree/look.ipynb", "notebook": "notebooks/look.ipynb"}  # module that serves -> where the notebook is


@pytest.fixture(scope="module", params=PATHS)
def opened_notebook(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of the notebook in a JupyterLab or a Notebook 7 that serves its folder."""
    pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "look.ipynb")
    options = ["--no-browser", "--allow-root", "--ServerApp.token=", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"]
    homes = {f"JUPYTER{name}_DIR": str(folder / "home") for name in ("_CONFIG", "LAB_SETTINGS", "LAB_WORKSPACES")}
    environment = {**os.environ, **homes, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", request.param, *options, "--notebook-dir", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        said = next((line for line in server.stderr if re.search(r"http://127\.0\.0\.1:\d+/\w", line)), "")
        yield re.search(r"http://127\.0\.0\.1:\d+/", said).group() + PATHS[request.param]
        server.terminate()
        server.stderr.read()


def test_viewer_and_python_follow_each_other(browser, opened_notebook: str) -> None:
    from playwright.sync_api import TimeoutError

    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.set_default_timeout(60_000)
    page.goto(opened_notebook)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    run = lambda number: (cells.nth(number).locator(".cm-content").click(), page.keyboard.press("Shift+Enter"))  # noqa: E731
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(state="attached")
    where = page.locator(".slice-canvas")
    for _ in range(6):  # what is run in the first moments of a kernel is lost to its widgets: run it again, as a reader would
        run(0)
        with contextlib.suppress(TimeoutError):
            where.get_by_text("axial slice 2 of 6").wait_for(timeout=10_000)
            break
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
