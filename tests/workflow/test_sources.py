"""The notebooks as they lie in the repository."""

import itertools
import re

import nbformat
import pytest

from covidlib.workflow import NOTEBOOKS

SOURCES = sorted(NOTEBOOKS.glob("*.ipynb"))
COMMON = ["profile", "data", "out", "overrides"]


def test_all_eight_are_there():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04", "05", "06", "07", "08"]


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


def is_picture(cell):
    return "alt" in cell.metadata.get("mystnb", {}).get("image", {})


def is_heading(cell):
    return cell.cell_type == "markdown" and cell.source.startswith("## ")


def is_sentence(cell):
    return "Markdown(" in cell.source if cell.cell_type == "code" else not is_heading(cell)


def test_it_says_what_one_learns_what_one_needs_and_what_it_costs(notebook):
    parts = ["# ", "**What you will learn**\n\n- ", "| prerequisite | needed | for |\n", "**What it costs.** "]
    places = [notebook.cells[0].source.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)


def test_a_picture_comes_early(notebook):
    first = next(number for number, cell in enumerate(notebook.cells) if is_picture(cell))
    assert sum(cell.source.count("\n## ") + is_heading(cell) for cell in notebook.cells[:first]) <= 1


def test_each_picture_is_captioned_and_followed_by_a_sentence_about_it(notebook):
    for number, cell in enumerate(notebook.cells):
        if is_picture(cell):
            after = itertools.takewhile(lambda one: not is_heading(one) and not is_picture(one), notebook.cells[number + 1 :])
            assert "caption" in cell.metadata.mystnb.get("figure", {}), cell.source
            assert any(map(is_sentence, after)), cell.source


def test_named_pictures_are_referred_to(notebook):
    told = "".join(cell.source for cell in notebook.cells)
    names = [cell.metadata.mystnb.get("figure", {}).get("name") for cell in notebook.cells if is_picture(cell)]
    assert [name for name in names if name and f"{{numref}}`{name}`" not in told] == []


def test_it_ends_with_exercises_with_folded_solutions_a_summary_and_what_next(notebook):
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    exercises, _, end = told.partition("\n## Exercises\n")[2].partition("\n## Summary\n")
    asked = re.findall(r"^\d\. ", exercises, re.M)
    assert len(asked) >= 2 and exercises.count(":::{dropdown} ") == len(asked)
    assert "**What next:** {doc}`" in end


def test_cells_are_of_a_few_lines_none_wider_than_the_page(notebook):
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and "remove-input" not in cell.metadata.get("tags", [])]
    assert max(cell.source.count("\n") + 1 for cell in shown) <= 25
    assert [line for cell in shown for line in cell.source.splitlines() if len(line) > 80] == []  # what a page shows unscrolled
