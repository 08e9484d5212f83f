"""The notebooks as they lie in the repository."""

import nbformat
import pytest

from covidlib.workflow import NOTEBOOKS

SOURCES = sorted(NOTEBOOKS.glob("*.ipynb"))
COMMON = ["profile", "data", "out", "overrides"]


def test_all_seven_are_there():
    assert [path.stem[:2] for path in SOURCES][:7] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_no_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_one_first_heading(notebook):
    headings = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(line.startswith("# ") for line in headings) == 1
    assert notebook.cells[0].source.startswith("# ")


def test_parameters_are_plain_literals_in_the_common_order(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = [line.split(" = ")[0] for line in cell.source.splitlines()]
    assert names[:4] == COMMON
    scope: dict = {}
    exec(cell.source, {"__builtins__": {}}, scope)
    assert scope["profile"] == "demo"


def test_unknown_parameters_are_looked_for_right_after_the_parameters(notebook):
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert notebook.cells[tagged[0] + 1].source.startswith("check_parameters(")
