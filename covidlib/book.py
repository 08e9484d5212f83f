"""A finished run in, the HTML book out: pages, executed notebooks, and the numbers of the prose from result files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidlib.errors import DataError
from covidlib.files import read_json
from covidlib.runs import ROOT, Run

if TYPE_CHECKING:
    import pandas as pd

BUILD = ROOT / "_build"
PICTURE = "Four slices of real CT from the best infection Dice to the worst: CT, truth, prediction; lungs blue, infection red"
BUILT_FROM = BUILD / "run.txt"  # which run the HTML shows
LAUNCH = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
RESULTS = ROOT / "results"  # kept in the repository: runs too long for the book's own


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
    """Copy pages and executed notebooks to _build/source and add what is made from results; returns that folder."""
    import yaml

    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "book", source / "book")
    shutil.copy(ROOT / "_toc.yml", source)
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for name in re.findall(r"'notebooks/(\w+)'", str(toc)):
        _copy_notebook(run.folder / "notebooks" / f"{name}.ipynb", source / "notebooks" / f"{name}.ipynb")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"]["myst_substitutions"] = substitutions(run)
    if repository_address():  # without one, launch buttons would lead nowhere
        config |= {"repository": {"url": repository_address(), "branch": "main"}, "launch_buttons": LAUNCH}
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    generated = source / "book" / "_generated"
    generated.mkdir()
    for picture in (run.folder / "figures").glob("*.*"):
        shutil.copy(picture, generated)
    (generated / "table1.md").write_text(table_1_markdown(run.folder), encoding="utf-8")
    (generated / "surrogate.md").write_text(stored_results(RESULTS / "surrogate"), encoding="utf-8")
    for picture in (RESULTS / "surrogate").glob("*.png"):
        shutil.copy(picture, generated / f"surrogate_{picture.name}")
    return source


def substitutions(run: Run) -> dict[str, str]:
    """The numbers that the prose quotes, from scores.csv and manifest.json."""
    from covidlib.metrics import table_1

    manifest, table = read_json(run.folder / "manifest.json"), table_1(_scores(run.folder))
    return {
        "demo_lungs_dice": f"{table.loc['average', ('lungs', 'dice')]:.3f}",
        "demo_infection_dice": f"{table.loc['average', ('infection', 'dice')]:.3f}",
        "demo_minutes": f"{sum(fold['minutes'] for fold in manifest['folds'].values()):.0f}",
        "demo_hardware": manifest["machine"],
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


def table_1_markdown(folder: Path) -> str:
    """Table 1 of a run's folder as a Markdown table."""
    from covidlib.metrics import table_1

    table = table_1(_scores(folder))
    head = "| fold | lungs Dice | sensitivity | specificity | infection Dice | sensitivity | specificity |\n" + "|---" * 7 + "|\n"
    rows = [f"| {fold} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for fold, *row in table.itertuples(name=None)]
    return head + "\n".join(rows) + "\n"


def stored_results(folder: Path) -> str:
    """What a stored run measured, case by case, with profile, machine and time, as Markdown; says so where there is none."""
    manifest = read_json(folder / "manifest.json")
    if not manifest:
        return "No run of this profile is stored yet.\n"
    scores = _scores(folder)
    dice = scores.pivot(index=["fold", "case"], columns="class", values="dice")[["left lung", "right lung", "infection"]]
    lines = ["| fold | case | left lung | right lung | infection |", "|---|---|---|---|---|"]
    lines += [f"| {fold} | {case} | {a:.3f} | {b:.3f} | {c:.3f} |" for (fold, case), a, b, c in dice.itertuples(name=None)]
    picture = ["```{image} _generated/surrogate_figure6.png", f":alt: {PICTURE}", "```", "", f"{PICTURE}."]
    return "\n".join([_provenance(manifest), "", "Dice of each test case:", "", *lines, "", *picture, ""])


def _provenance(manifest: dict[str, Any]) -> str:
    folds = manifest["folds"]
    minutes = ", ".join(
        f"fold {number}: {content['minutes']:.0f} min ({content['epochs']} epochs)" for number, content in folds.items()
    )
    tested = "the folds run so far: " if len(folds) < 5 else ""
    return (
        f"Data: {manifest['data']}. Profile: `{manifest['profile']['name']}`, seed {manifest['seed']}. "
        f"Machine: {manifest['machine']}. Training time on that machine, which other work shared, {tested}{minutes}."
    )


def _scores(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(folder / "scores.csv")


def _copy_notebook(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataError(f"{source.name}: not executed yet; 'python -m covidlib run' makes it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
