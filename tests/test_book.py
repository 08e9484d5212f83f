"""Launch buttons; a notebook that the book shows once for each fold."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from covidlib import book
from covidlib.dataset import Fold
from covidlib.errors import DataError
from covidlib.files import write_json
from covidlib.profile import Profile
from covidlib.runs import Run


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/someone/covid.git", "https://github.com/someone/covid"),
        ("git@github.com:someone/covid.git", "https://github.com/someone/covid"),
        ("https://gitlab.com/someone/covid.book/", "https://gitlab.com/someone/covid.book"),
        ("/srv/git/covid.git", ""),
        ("https://token@example.org/someone/covid", ""),
        (None, ""),
    ],
)
def test_address_is_the_origin_s_if_that_is_a_public_forge(
    origin: str | None, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if origin:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", origin], check=True)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    assert book.repository_address() == address


def test_a_notebook_that_runs_for_each_fold_has_the_fold_in_its_title_and_in_its_figures_names() -> None:
    text = '["# Training\\n", "# not the title"] {"name": "fig-course"} {"name": "fig-course-end"} see `fig-course`, `fig-else`'
    three = text.replace("Training", "Training, fold 3").replace("end", "end-fold-3")
    three = three.replace('course"', 'course-fold-3"').replace("course`", "course-fold-3`")
    assert book.told_by_fold(text, "04_training_fold_3") == three
    assert book.told_by_fold(text, "05_evaluation") == text


def test_scores_of_some_folds_only_make_no_book(tmp_path: Path) -> None:
    """As notebook 05 leaves them when it is run with `folds`."""
    folds = tuple(Fold(number, (), ()) for number in range(2))
    run = Run(Profile(), tmp_path, tmp_path, (), folds)
    write_json(tmp_path / "manifest.json", {"folds": {"0": {}}})
    with pytest.raises(DataError, match=r"its scores are of 1 folds; run notebook 05 with folds = \[\] again"):
        book.stage(run)


def test_every_table_that_a_page_includes_is_made(tmp_path: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (book.ROOT / "book").glob("*.md"))
    runpy.run_path(str(book.ROOT / "bench" / "measured.py"))["main"](tmp_path)
    of_a_run = re.findall(r'^ +"(\w+\.md)": ', Path(book.__file__).read_text(encoding="utf-8"), re.MULTILINE)
    made = {*of_a_run, *(path.name for path in tmp_path.glob("*.md"))}
    assert set(re.findall(r"_generated/(\w+\.md)", pages)) == made
