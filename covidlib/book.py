"""A finished run in, the HTML book out: pages, executed notebooks, and the numbers of the prose from result files."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from covidlib.errors import DataError
from covidlib.files import read_json
from covidlib.metrics import read_scores, table_1
from covidlib.report import changes_markdown, recipes_markdown, scores_in_short, stored_results, table_1_markdown
from covidlib.runs import ROOT, Run

BUILD = ROOT / "_build"
BUILT_FROM = BUILD / "run.txt"  # which run the HTML shows
LAUNCH = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
RESULTS = ROOT / "results"  # kept in the repository: runs too long for the book's own
COARSE, FINE, BEST = (RESULTS / name for name in ("surrogate_coarse", "surrogate", "surrogate-gpu"))  # each begins with the last
OLDER = ("surrogate_batch_norm", "surrogate_fine", "surrogate_one_cycle")


def build_book(run: Run) -> Path:
    """Lay the book's sources out in _build/source and run Jupyter Book on them, warnings being errors.

    Raises:
        DataError: a notebook of the run is missing, or Jupyter Book's last lines.
    """
    source = stage(run)
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", str(source), "--path-output", str(ROOT), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    (BUILD / "book.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search("WARNING|ERROR", line)]
        raise DataError("the book has warnings (all of them in _build/book.log):\n" + "\n".join(lines[:20]))
    BUILT_FROM.write_text(str(run.folder.resolve()), encoding="utf-8")
    return BUILD / "html" / "index.html"


def stage(run: Run) -> Path:
    """Copy pages and executed notebooks to _build/source and add what is made from results; returns that folder.

    Raises:
        DataError: a notebook is missing, or the run's scores are of some folds only.
    """
    import yaml

    manifest = read_json(run.folder / "manifest.json") or {"folds": {}}
    if len(manifest["folds"]) != len(run.folds):  # notebooks 05 to 07 with some `folds` leave their numbers alone in the run
        raise DataError(f"{run.folder}: its scores are of {len(manifest['folds'])} folds; run notebook 05 with folds = [] again")
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "book", source / "book")
    shutil.copy(ROOT / "_toc.yml", source)
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for name in re.findall(r"'notebooks/(\w+)'", str(toc)):
        _copy_notebook(run.folder / "notebooks" / f"{name}.ipynb", source / "notebooks" / f"{name}.ipynb")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"]["myst_substitutions"] = substitutions(run)
    if address := repository_address():  # without one, launch buttons would lead nowhere
        config |= {"repository": {"url": address, "branch": "main"}, "launch_buttons": LAUNCH}
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    generated = source / "book" / "_generated"
    shutil.copytree(run.folder / "figures", generated)
    shutil.copy(ROOT / "profiles" / "paper.yaml", generated)
    for picture in BEST.glob("*.png"):
        shutil.copy(picture, generated / f"surrogate_{picture.name}")
    texts = {
        "table1.md": table_1_markdown(read_scores(run.folder / "scores.csv")),
        "surrogate.md": stored_results(BEST, generated),
        "model_scores.md": scores_in_short(BEST),
        "finer.md": changes_markdown(COARSE, FINE, generated, "On the finer grid"),
        "copied.md": changes_markdown(FINE, BEST, generated, "With copied infection"),
        "recipes.md": recipes_markdown([*(RESULTS / name for name in OLDER), COARSE, FINE, BEST]),
    }
    for name, text in texts.items():
        (generated / name).write_text(text, encoding="utf-8")
    runpy.run_path(str(ROOT / "bench" / "measured.py"))["main"](generated)
    return source


def substitutions(run: Run) -> dict[str, str]:
    """The numbers that the prose quotes, from scores.csv and manifest.json."""
    manifest, table = read_json(run.folder / "manifest.json"), table_1(read_scores(run.folder / "scores.csv"))
    return {
        "demo_lungs_dice": f"{table.loc['average', ('lungs', 'dice')]:.3f}",
        "demo_infection_dice": f"{table.loc['average', ('infection', 'dice')]:.3f}",
        "demo_minutes": f"{sum(fold['minutes'] for fold in manifest['folds'].values()):.0f}",
        "demo_hardware": manifest["machine"],
        "demo_profile": f"`{run.profile.name}`",
    }


def repository_address() -> str:
    """Where readers find this repository on the web, for the launch buttons; "" where the checkout has no such origin."""
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        told = subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:  # no git
        return ""
    found = re.match(r"(?:https://|git@)(github\.com|gitlab\.com)[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", told.strip())
    return f"https://{found[1]}/{found[2]}" if found else ""


def _copy_notebook(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataError(f"{source.name}: not executed yet; 'python -m covidlib run' makes it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(told_by_fold(source.read_text(encoding="utf-8"), source.stem), encoding="utf-8")


def told_by_fold(notebook: str, name: str) -> str:
    """The text of a notebook that runs once for each fold, with the fold in its title and in its figures' names.

    A reader must be able to tell five pages apart, and a book may hold a name once. Other notebooks stay as they are.
    """
    if fold := re.search(r"_fold_(\d+)$", name):
        notebook = re.sub(r'(?<=")# [^"\\]+', rf"\g<0>, fold {fold[1]}", notebook, count=1)
        for figure in re.findall(r'"name": "(fig-[\w-]+)"', notebook):
            notebook = re.sub(rf'(?<=["`]){figure}(?=["`])', f"{figure}-fold-{fold[1]}", notebook)
    return notebook
