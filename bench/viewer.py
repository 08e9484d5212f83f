"""How heavy is the viewer's page, and how fast does it draw? Measured in headless Chromium. Writes results/viewer.json.

    python bench/viewer.py --data DIR --case CASE

One scan of at most 256 x 256 x 100 voxels (a larger one is cut to its middle), shown with its labels as truth and, moved by two
voxels, as a prediction. For each plane: arrow keys through its slices; from the key to the drawn picture (a pixel read back from
the canvas), and from the key to the second frame after it, when the picture is on the screen.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from ipywidgets.embed import dependency_state, embed_data, escape_script
from playwright.sync_api import sync_playwright

from covidlib.dataset import load_case
from covidlib.files import write_json
from covidlib.runs import ROOT, machine
from covidlib.viewer import PLANES, Viewer, view

TABLE = ROOT / "results" / "viewer.json"
LARGEST = (256, 256, 100)
KIND = "application/vnd.jupyter.widget"
SCRIPTS = "".join(f'<script src="widgets/{name}.js"></script>' for name in ("require", "widgets-local", "embed-amd"))
MEASURE = """async (slices) => {
    const canvas = document.querySelector(".slice-canvas .frame canvas"), drawn = [], seen = [];
    const frame = () => new Promise(requestAnimationFrame);
    const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", {key}));
    press("Home");
    for (let slice = 1; slice < slices; slice++) {
        await frame();
        const told = canvas.ariaValueNow, began = performance.now();
        press("ArrowUp");
        canvas.getContext("2d").getImageData(0, 0, 1, 1);
        drawn.push(performance.now() - began);
        if (canvas.ariaValueNow === told) throw new Error("the slice did not change");
        await frame();
        await frame();
        seen.push(performance.now() - began);
    }
    return [drawn, seen];
}"""


def write_page(box: Viewer, folder: Path) -> Path:
    """The viewer in a page as the book has it: its files beside it, no kernel, no network."""
    shutil.copytree(ROOT / "book" / "_extra" / "_static" / "widgets", folder / "widgets")
    data = embed_data([box], state=dependency_state([box], drop_defaults=False))
    parts = [("state", data["manager_state"]), ("view", data["view_specs"][0])]
    texts = (f'<script type="{KIND}-{kind}+json">{escape_script(json.dumps(part))}</script>' for kind, part in parts)
    (folder / "page.html").write_text(f"<!doctype html><body>{box.still()}{SCRIPTS}{''.join(texts)}</body>", encoding="utf-8")
    return folder / "page.html"


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    return {name: round(float(np.percentile(milliseconds, q)), 1) for name, q in (("median", 50), ("p95", 95), ("max", 100))}


def measure(page: Path, shape: tuple[int, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds by plane and what is drawn: drawn, seen."""
    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.goto(page.as_uri())
        tab.locator(".slice-canvas").get_by_text("slice").first.wait_for()
        for shown in ("truth", "both"):
            tab.get_by_role("button", name=shown, exact=True).click()
            for plane, axis in PLANES.items():
                tab.get_by_role("button", name=plane).click()
                drawn, seen = tab.evaluate(MEASURE, shape[axis])
                found[f"{plane}, {shown}"] = {"drawn_ms": summary(drawn), "seen_ms": summary(seen)}
        return {"chromium": browser.version, "slices": found}


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--case", required=True)
    given = parser.parse_args()
    case = load_case(given.data, given.case)
    cut = tuple(slice(max(0, (n - most) // 2), (n + most) // 2) for n, most in zip(case.image.shape, LARGEST, strict=True))
    image, labels = case.image[cut], case.labels[cut]
    plain = view(image, labels, spacing_mm=case.spacing_mm, intensity=case.intensity)
    compared = view(image, labels, np.roll(labels, 2, 0), spacing_mm=case.spacing_mm, intensity=case.intensity)
    with tempfile.TemporaryDirectory() as folder:
        pages = {name: write_page(box, Path(folder) / name) for name, box in (("plain", plain), ("compared", compared))}
        megabytes = {name: round(page.stat().st_size / 1e6, 2) for name, page in pages.items()}
        measured = measure(pages["compared"], image.shape)
    told = {"data": Path(given.data).name, "case": given.case, "shape": list(image.shape), "machine": machine()}
    write_json(TABLE, {**told, "page_mb": megabytes, **measured})


if __name__ == "__main__":
    main()
