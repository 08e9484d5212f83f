"""A small book with three viewers and a formula, built with the project's own settings and opened with no network: from disk
and from a local server. Anything that asks for another machine, and any error on the console, fails the test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import numpy as np
from covidlib.viewer import view
image, labels = np.full((8, 10, 6), 100) + np.arange(6), np.zeros((8, 10, 6), np.uint8)  # every slice another grey
image[7, 9, 5] = 255                       # the patient's right, front, top: one white voxel
labels[2:5, 4, 1] = 3                      # infection: axial slice 2, coronal 5, sagittal 3 to 5
labels[7, 0, 1], labels[0, 0, 1] = 2, 1    # right lung, left lung at the back
view(image, labels, spacing_mm=(1, 1, 3))
"""
HOUNSFIELD = "view(np.linspace(-1300, 300, 8 * 10 * 6).reshape(8, 10, 6), intensity='hu')"
COMPARED = """
prediction = np.where((labels == 3) & (np.arange(8) == 4)[:, None, None], 1, labels)  # one of three missed: called left lung
prediction[6, 6:9, 1] = 3                                                           # three in the background too much
view(image, labels, prediction)
"""
LINKED = """
import ipywidgets as W
one, two = view(image, labels), view(image, labels)
W.jslink((one.canvas, "index"), (two.canvas, "index"))
W.VBox([one, two])
"""
CANVAS = ".slice-canvas .frame canvas"


def write_notebook(path: Path) -> None:
    import nbformat
    import papermill

    cells = [nbformat.v4.new_markdown_cell("# Look\n\nInline $x^2$.")]
    cells += [nbformat.v4.new_code_cell(source) for source in (SETUP, HOUNSFIELD, COMPARED, LINKED)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    papermill.execute_notebook(path, path, cwd=ROOT, progress_bar=False)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory, browser) -> Path:
    """The folder with the HTML pages of the small book."""
    root = tmp_path_factory.mktemp("book")
    for name in ("book/_extra", "book/_static", "book/_templates", "book/logo.svg", "_config.yml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (root / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: look\n")
    (root / "index.md").write_text("# A small book\n\n```{math}\n\\frac{\\mathcal{A}}{\\sum_i \\mathbf{b}_i}\n```\n")
    (root / "book/references.bib").write_text("")
    write_notebook(root / "look.ipynb")
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", "-W", "-n", "--keep-going", "-q", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "_build" / "html"


@pytest.fixture(scope="module", params=["file", "http"])
def address(book: Path, served, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "file":
        yield book.as_uri()
        return
    with served(book) as url:
        yield url


@pytest.fixture
def look(opened, book: Path) -> Iterator[SimpleNamespace]:
    """The notebook's page with all viewers drawn, from disk; whatever the test does on it must be without trouble."""
    opening = opened(f"{book.as_uri()}/look.html", book.as_uri())
    for number in range(5):
        says(opening.page, "slice", number)
    yield opening
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def says(page, text: str, number: int = 0) -> None:
    """Wait until viewer `number` says which slice it shows."""
    page.locator(".slice-canvas").nth(number).get_by_text(text).first.wait_for()


def picture(page, number: int = 0) -> str:
    return page.locator(CANVAS).nth(number).evaluate("canvas => canvas.toDataURL()")


def pixel(page, column: int, row: int, number: int = 0) -> list[int]:
    script = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    return page.locator(CANVAS).nth(number).evaluate(script, [column, row])


def bar(page, number: int) -> list[int]:
    """Colored pixels in each of the columns of the bar that stand for a slice: red, green and blue differ there."""
    script = """(bar, slices) => [...Array(slices).keys()].map(slice => {
        const x = Math.round((8 + slice * (bar.clientWidth - 16) / (slices - 1)) * bar.width / bar.clientWidth) + 4;
        const data = bar.getContext('2d').getImageData(Math.min(x, bar.width - 9), 0, 1, bar.height).data;
        return [...Array(bar.height).keys()].filter(y => data[4 * y + 3] && Math.abs(data[4 * y] - data[4 * y + 2]) > 9).length;
    })"""
    return page.locator(".slice-canvas .bar").nth(number).evaluate(script, 6)


def button(page, name: str, number: int = 0):
    return page.locator(".covidlib-viewer").nth(number).get_by_role("button", name=name, exact=True)


def edges(page) -> str:
    return "".join(page.locator(".slice-canvas").first.locator(".edge").all_inner_texts())


def test_it_opens_on_the_infection_with_the_patient_s_right_on_the_left(look) -> None:
    page = look.page
    says(page, "axial slice 2 of 6")
    assert edges(page) == "RLAP"
    red, green, blue = pixel(page, 7 - 3, 9 - 4)  # x = 3, y = 4: infection
    assert red > 1.4 * max(green, blue)
    right_lung, left_lung = pixel(page, 0, 9), pixel(page, 7, 9)
    assert right_lung != left_lung and all(lung[2] > lung[0] for lung in (right_lung, left_lung))
    assert pixel(page, 3, 3) == [pixel(page, 3, 3)[0]] * 3  # background is grey


@pytest.mark.parametrize(
    ("plane", "slices", "letters", "proportion"),
    [("axial", 6, "RLAP", 8 / 10), ("coronal", 10, "RLSI", 8 / 18), ("sagittal", 8, "APSI", 10 / 18)],
)
def test_each_plane_has_the_white_voxel_in_its_upper_left_corner(
    look, plane: str, slices: int, letters: str, proportion: float
) -> None:
    page = look.page
    page.get_by_role("button", name=plane).first.click()
    says(page, f"{plane} slice")
    page.locator(CANVAS).first.focus()
    page.keyboard.press("End")
    says(page, f"{plane} slice {slices} of {slices}")
    assert edges(page) == letters
    assert pixel(page, 0, 0) == [255, 255, 255]
    assert 255 not in pixel(page, 1, 0) + pixel(page, 0, 1)
    box = page.locator(CANVAS).first.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(proportion, rel=0.01)


def test_wheel_keys_slider_and_jump_change_the_slice_of_their_viewer_only(look) -> None:
    page, canvas = look.page, look.page.locator(CANVAS).first
    other, seen = picture(page, 1), {picture(page)}
    canvas.hover()
    page.mouse.wheel(0, 120)
    says(page, "axial slice 3 of 6")
    seen.add(picture(page))
    canvas.focus()
    page.keyboard.press("PageUp")
    says(page, "axial slice 6 of 6")
    seen.add(picture(page))
    page.keyboard.press("ArrowDown")
    says(page, "axial slice 5 of 6")
    handle = page.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(0, box["y"], steps=5)
    page.mouse.up()
    says(page, "axial slice 1 of 6")
    seen.add(picture(page))
    for _ in range(2):  # it springs back, and works again
        page.get_by_role("button", name="most infection").first.click()
        says(page, "axial slice 2 of 6")
        canvas.focus()
        page.keyboard.press("Home")
        says(page, "axial slice 1 of 6")
    assert len(seen) == 4
    assert picture(page, 1) == other


def test_a_preset_changes_the_picture_and_stays_lit_until_the_window_is_changed_by_hand(look) -> None:
    page, mediastinum = look.page, look.page.get_by_role("button", name="mediastinum").nth(1)
    before = picture(page, 1)
    mediastinum.click()
    says(page, "window -160 to 240 HU", 1)
    assert picture(page, 1) != before
    assert "mod-active" in mediastinum.get_attribute("class")
    page.locator(".noUi-handle-upper").nth(1).press("ArrowLeft")
    says(page, "window -160 to 230 HU", 1)
    assert "mod-active" not in mediastinum.get_attribute("class")


def test_the_overlay_fades_out(look) -> None:
    page = look.page
    overlay = page.locator(".widget-slider", has_text="Overlay").first.locator(".noUi-handle")
    assert pixel(page, 4, 5) != [101, 101, 101]
    overlay.press("Home")
    assert pixel(page, 4, 5) == [108, 108, 108]  # 101 of the lung window's 238, of 255


def test_truth_prediction_both_and_disagreement_are_four_pictures(look) -> None:
    page, missed, invented = look.page, (7 - 4, 9 - 4), (7 - 6, 9 - 7)
    red = pixel(page, 7 - 3, 9 - 4, 2)
    assert pixel(page, *missed, 2) == red and len(set(pixel(page, *invented, 2))) == 1
    button(page, "prediction", 2).click()
    says(page, "infection", 2)
    assert pixel(page, *missed, 2)[2] > pixel(page, *missed, 2)[0] and pixel(page, *invented, 2) == red
    button(page, "both", 2).click()
    says(page, "outlined: prediction", 2)
    filled, outline = pixel(page, 7 - 3, 9 - 4, 2), pixel(page, *invented, 2)
    assert outline[0] - outline[2] > red[0] - red[2]  # stronger, as an outline
    button(page, "disagreement", 2).click()
    says(page, "missed infection", 2)
    yellow, violet, agreed = (pixel(page, *place, 2) for place in (missed, invented, (7 - 3, 9 - 4)))
    assert yellow[0] > yellow[2] and yellow[1] > yellow[2] and violet[2] > violet[1] and len(set(agreed)) == 1
    assert filled != agreed


def test_the_pointer_tells_truth_and_prediction_where_they_can_be_compared(look) -> None:
    page, canvas = look.page, look.page.locator(CANVAS).nth(2)
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * (7 - 4 + 0.5) / 8, "y": box["height"] * (9 - 4 + 0.5) / 10})
    says(page, "101 · infection, predicted left lung · x 4.0 y 4.0 z 1.0 mm", 2)


def test_the_bar_over_the_slider_shows_which_slices_are_infected_and_takes_clicks(look) -> None:
    page = look.page
    assert [count > 0 for count in bar(page, 2)] == [False, True, False, False, False, False]
    one = page.locator(".slice-canvas .bar").nth(2)
    width = one.bounding_box()["width"]
    one.click(position={"x": width - 8, "y": 5})
    says(page, "axial slice 6 of 6", 2)
    button(page, "coronal", 2).click()
    says(page, "coronal slice 5 of 10", 2)
    assert page.locator(".slice-canvas .bar").nth(1).is_hidden()  # no labels, nothing to show


def test_linked_viewers_move_together_and_the_others_do_not(look) -> None:
    page, alone = look.page, picture(look.page, 0)
    page.locator(CANVAS).nth(3).focus()
    page.keyboard.press("End")
    for number in (3, 4):
        says(page, "axial slice 6 of 6", number)
    page.locator(CANVAS).nth(4).focus()
    page.keyboard.press("ArrowDown")
    says(page, "axial slice 5 of 6", 3)
    assert picture(page, 0) == alone


def test_play_runs_through_the_slices_and_stops(look) -> None:
    page = look.page
    button(page, "Play", 2).click()
    for number in (5, 1, 3):  # on, over the end, and on again
        says(page, f"axial slice {number} of 6", 2)
    button(page, "Play", 2).click()
    stopped = picture(page, 2)
    page.locator(CANVAS).nth(2).focus()
    page.keyboard.press("Home")
    says(page, "axial slice 1 of 6", 2)
    assert picture(page, 2) != stopped


def test_all_controls_have_names_and_states_for_screen_readers(look) -> None:
    page, viewer = look.page, look.page.locator(".covidlib-viewer").nth(2)
    for name in ("Slice", "Range, low end", "Range, high end", "Overlay", "axial CT slice; arrow keys change it"):
        assert viewer.get_by_role("slider", name=name, exact=True).count() == 1
    for name in ("Plane", "Labels", "Window"):
        assert viewer.get_by_role("group", name=name, exact=True).count() == 1
    button(page, "coronal", 2).click()
    viewer.get_by_role("button", name="coronal", pressed=True).wait_for()
    said = page.locator(CANVAS).nth(2).get_attribute("aria-valuetext")
    assert said == "slice 5 of 10, 3 infected voxels, 2 predicted"
    handle = viewer.get_by_role("slider", name="Slice", exact=True)
    assert handle.get_attribute("aria-valuetext") == "slice 5 of 10"  # its own numbers count from 0
    for pressed in (True, False):
        button(page, "Play", 2).click()
        viewer.get_by_role("button", name="Play", exact=True, pressed=pressed).wait_for()
    nameless = "nodes => nodes.filter(n => !n.textContent.trim() && !n.ariaLabel || n.title === 'null').length"
    assert viewer.locator("button, label").evaluate_all(nameless) == 0


def test_the_viewer_can_be_worked_with_the_tab_and_enter_keys_alone(look) -> None:
    page = look.page
    page.locator(CANVAS).nth(2).focus()
    names = []
    for _ in range(16):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
    assert names[:3] == ["Slice", "Play", "Slice with most infection"] and names[-1] == "Overlay"
    button(page, "sagittal", 2).focus()
    page.keyboard.press("Enter")
    says(page, "sagittal slice", 2)


def test_a_montage_stands_in_where_scripts_are_off_and_on_paper(opened, look, book: Path) -> None:
    still = look.page.locator(".covidlib-still").nth(2)
    assert still.is_hidden()
    look.page.emulate_media(media="print")
    assert still.is_visible() and look.page.locator(".covidlib-viewer").nth(2).is_hidden()
    without = opened(f"{book.as_uri()}/look.html", book.as_uri(), java_script_enabled=False)
    picture = without.page.locator(".covidlib-still img").nth(2)
    assert picture.is_visible() and picture.bounding_box()["width"] > 300
    without.page.close()


def test_the_pointer_reads_value_class_and_place(look) -> None:
    page, canvas = look.page, look.page.locator(CANVAS).first
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * (7 - 3 + 0.5) / 8, "y": box["height"] * (9 - 4 + 0.5) / 10})
    says(page, "101 · infection · x 3.0 y 4.0 z 3.0 mm")


def test_without_labels_nothing_is_said_of_infection_and_what_is_cut_is_marked(look) -> None:
    """HU from -1300 to 300 in a window of -1250 to 250; the first voxel is the lowest."""
    page, canvas = look.page, look.page.locator(CANVAS).nth(1)
    canvas.focus()
    page.keyboard.press("Home")
    says(page, "axial slice 1 of 6", 1)
    assert canvas.get_attribute("aria-valuetext") == "slice 1 of 6"
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] - 2, "y": box["height"] - 2})
    says(page, "≤ -1250 HU · x 0.0 y 0.0 z 0.0 mm", 1)


def test_the_browser_s_own_shortcuts_stay_its_own(look) -> None:
    page = look.page
    page.locator(CANVAS).first.focus()
    for keys in ("Control+Home", "Alt+ArrowUp", "Meta+ArrowUp"):
        page.keyboard.press(keys)
    page.keyboard.press("ArrowUp")
    says(page, "axial slice 3 of 6")


def test_formulas_are_typeset_with_our_own_fonts(opened, address: str) -> None:
    opening = opened(f"{address}/index.html", address)
    opening.page.locator("mjx-container mjx-mfrac").wait_for()
    loaded = "[...document.fonts].some(font => font.family.startsWith('MJXTEX') && font.status === 'loaded')"
    opening.page.wait_for_function(loaded)
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def test_all_fits_on_a_page_of_400_pixels(opened, address: str) -> None:
    opening = opened(f"{address}/look.html", address, width=400)
    says(opening.page, "slice")
    rights = "[...document.querySelectorAll('.covidlib-viewer *')].map(node => node.getBoundingClientRect().right)"
    assert max(opening.page.evaluate(rights)) <= 400
    assert opening.page.evaluate("document.documentElement.scrollWidth") == 400
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)
