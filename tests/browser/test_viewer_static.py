"""A small book with two viewers and a formula, built with the project's own settings and opened with no network: from disk
and from a local server. Anything that asks for another machine, and any error on the console, fails the test."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
CANVAS = ".slice-canvas canvas"


def write_notebook(path: Path) -> None:
    import nbformat
    import papermill

    cells = [nbformat.v4.new_markdown_cell("# Look\n\nInline $x^2$.")]
    cells += [nbformat.v4.new_code_cell(source) for source in (SETUP, HOUNSFIELD)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    papermill.execute_notebook(path, path, cwd=ROOT, progress_bar=False)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the HTML pages of the small book."""
    if not CHROMIUM:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    root = tmp_path_factory.mktemp("book")
    for name in ("book/_extra", "book/_templates", "book/logo.svg", "_config.yml"):
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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """The test's output is no access log."""


@pytest.fixture(scope="module", params=["file", "http"])
def address(book: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "file":
        yield book.as_uri()
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietServer, directory=book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(browser, url: str, home: str, width: int = 1200) -> SimpleNamespace:
    """A page, and the troubles it has had: requests to elsewhere (blocked), failed ones, console errors."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    troubles: list[str] = []

    def gate(route) -> None:
        if route.request.url.startswith((home, "data:", "blob:")):
            return route.continue_()
        troubles.append(f"outside: {route.request.url}")
        return route.abort()

    page.route("**/*", gate)
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    page.on("response", lambda answer: troubles.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    page.goto(url)
    return SimpleNamespace(page=page, troubles=troubles)


@pytest.fixture
def look(browser, address: str) -> Iterator[SimpleNamespace]:
    """The notebook's page with both viewers drawn; whatever the test does on it must be without trouble."""
    opening = opened(browser, f"{address}/look.html", address)
    for number in (0, 1):
        says(opening.page, "slice", number)
    yield opening
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def says(page, text: str, number: int = 0) -> None:
    """Wait until viewer `number` says which slice it shows."""
    page.locator(".slice-canvas").nth(number).get_by_text(text).first.wait_for()


def picture(page, number: int = 0) -> str:
    return page.locator(CANVAS).nth(number).evaluate("canvas => canvas.toDataURL()")


def pixel(page, column: int, row: int) -> list[int]:
    script = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    return page.locator(CANVAS).first.evaluate(script, [column, row])


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


def test_the_pointer_reads_value_class_and_place(look) -> None:
    page, canvas = look.page, look.page.locator(CANVAS).first
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * (7 - 3 + 0.5) / 8, "y": box["height"] * (9 - 4 + 0.5) / 10})
    says(page, "101 · infection · x 3.0 y 4.0 z 3.0 mm")


def test_formulas_are_typeset_with_our_own_fonts(browser, address: str) -> None:
    opening = opened(browser, f"{address}/index.html", address)
    opening.page.locator("mjx-container mjx-mfrac").wait_for()
    loaded = "[...document.fonts].some(font => font.family.startsWith('MJXTEX') && font.status === 'loaded')"
    opening.page.wait_for_function(loaded)
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)


def test_all_fits_on_a_page_of_400_pixels(browser, address: str) -> None:
    opening = opened(browser, f"{address}/look.html", address, width=400)
    says(opening.page, "slice")
    rights = "[...document.querySelectorAll('.covidlib-viewer *')].map(node => node.getBoundingClientRect().right)"
    assert max(opening.page.evaluate(rights)) <= 400
    assert opening.page.evaluate("document.documentElement.scrollWidth") == 400
    opening.page.close()
    assert not opening.troubles, "\n".join(opening.troubles)
