"""Every notebook through papermill on a tiny profile, in the Snakefile's order, in a copy of the project."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import papermill
import pytest

from covidlib import workflow
from covidlib.errors import DataError
from covidlib.files import only_one, write_json
from covidlib.profile import load_profile
from covidlib.runs import ROOT, open_run

FOLDS = "0,4"
RULES = {
    "prepare", "data_exploration", "preprocessing", "augmentation", "training", "evaluation", "figures", "quantification",
    "change_one_thing",
}  # fmt: skip


def call(copy: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(copy), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project in another folder, run once on the tiny profile, two folds."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("covidlib", "notebooks", "profiles", "book", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_extra"))
    for name in ("Snakefile", "_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "tests" / "tiny.yaml", folder / "profiles")
    done = call(folder, "covidlib", "run", "--profile", "tiny", "--folds", FOLDS, "--cores", "2")
    assert done.returncode == 0, done.stderr + (folder / "runs/tiny/snakemake.log").read_text()
    folder.joinpath("said.txt").write_text(done.stdout)
    return folder


def planned(copy: Path) -> set[str]:
    """Names of the rules that a dry run would execute."""
    where = ["--snakefile", str(copy / "Snakefile"), "--directory", str(copy / "runs/tiny"), "--cores", "2", "--nolock"]
    config = ["--config", "profile=tiny", "data=", "out=", f"folds={FOLDS}"]
    done = call(copy, "snakemake", "all", "-n", "--quiet", "rules", *where, *config)
    assert done.returncode == 0, done.stderr
    return {word for line in (done.stdout + done.stderr).splitlines() for word in line.split()[:1]} & RULES


def test_every_notebook_was_executed(copy):
    made = sorted(path.stem for path in (copy / "runs/tiny/notebooks").glob("*.ipynb"))
    assert made == ["01_data_exploration", "02_preprocessing", "03_augmentation", "04_training_fold_0",
                    "04_training_fold_4", "05_evaluation", "06_figures", "07_quantification",
                    "08_change_one_thing"]  # fmt: skip


def test_results_are_where_the_run_says(copy):
    assert "scores.csv" in (copy / "said.txt").read_text()
    scores = pd.read_csv(copy / "runs/tiny/scores.csv")
    assert len(scores) == 2 * 4 * 3  # two folds, four cases, three classes
    assert set(scores.fold) == {0, 4}


def test_no_path_of_the_machine_in_the_executed_notebooks(copy):
    for path in (copy / "runs/tiny/notebooks").glob("*.ipynb"):
        assert str(copy) not in path.read_text(), path.name


def test_injected_cell_has_the_fold(copy):
    notebook = nbformat.read(copy / "runs/tiny/notebooks/04_training_fold_4.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "fold = 4" in cell.source


def test_as_many_trainings_at_once_as_memory_holds():
    small, paper = load_profile("surrogate"), load_profile("paper")
    assert workflow.training_threads(small, 2, 9) == 1  # 3.5 GB each: two at once, a thread each
    assert workflow.training_threads(small, 2, 8) == 2
    assert workflow.training_threads(load_profile("surrogate-coarse"), 2, 6) == 1  # 2.2 GB
    assert workflow.training_threads(small, 16, 24) == 4  # five at once, on three or four threads each
    assert workflow.training_threads(small, 16, 24, cases=200) == 16  # 13 GB each
    assert workflow.training_threads(paper, 2, 26) == 2  # 10.6 GB each at most: one after another
    assert workflow.training_threads(paper, 2, 27) == 1


@pytest.mark.parametrize("given", [("surrogate", "", ()), ("demo", "scans", ()), ("demo", "", (0, 1)), ("four", "", ())])
def test_a_book_of_anything_but_five_folds_on_phantoms_is_refused_before_anything_starts(given, tmp_path):
    """Its pages say that they are."""
    (tmp_path / "four.yaml").write_text("data: {source: phantom}\nfolds: {scheme: random, count: 4}\n")
    profile, data, folds = given
    profile = str(tmp_path / "four.yaml") if profile == "four" else profile
    with pytest.raises(DataError, match="--book: the book tells of five folds on phantoms; allowed: "):
        workflow.run_all(profile, data, str(tmp_path / "run"), folds, book=True)
    assert not (tmp_path / "run").exists()


def test_nothing_to_do_a_second_time(copy):
    assert planned(copy) == set()


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("notebooks/03_augmentation.ipynb", {"augmentation"}),
        ("covidlib/metrics.py", RULES - {"prepare", "data_exploration", "augmentation"}),  # whose notebooks score nothing
        ("covidlib/losses.py", {"training", "evaluation", "figures", "quantification", "change_one_thing"}),
        ("covidlib/viewer.css", {"data_exploration", "evaluation", "figures", "quantification"}),  # figures reads the scores
        ("profiles/tiny.yaml", RULES),
    ],
)
def test_a_change_reruns_only_what_depends_on_it(copy, file, rules):
    path = copy / file
    before, times = path.read_bytes(), path.stat()
    path.write_bytes(before + b"\n")
    try:
        assert planned(copy) == rules
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_whatever_is_in_a_path_stays_in_it(copy):
    odd = copy / "o'brien's {scans}: my #1"
    odd.mkdir()
    where = ["--snakefile", str(copy / "Snakefile"), "--directory", str(copy / "runs/tiny"), "--cores", "1", "--nolock"]
    write_json(copy / "given.json", {"profile": "tiny", "data": str(odd), "out": str(copy / "new")})  # as `run_all` writes it
    done = call(copy, "snakemake", "prepare", "-n", "-p", *where, "--configfile", str(copy / "given.json"))
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() + done.stderr.splitlines() if "-m covidlib prepare" in line)
    given = ["--profile", "tiny", "--data", str(odd), "--out", str(copy / "new")]
    words = shlex.split(line)
    assert words[words.index("-m") :] == ["-m", "covidlib", "prepare", *given]


def test_a_scan_that_is_replaced_by_an_older_file_is_prepared_anew(copy, tiny_yaml, tiny_folder, tmp_path):
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    where = ["--snakefile", str(copy / "Snakefile"), "--directory", str(tmp_path), "--cores", "1", "--nolock", "--quiet", "rules"]
    config = ["--config", f"profile={tiny_yaml}", f"data={data}", f"out={tmp_path / 'out'}"]
    for _ in range(2):
        done = call(copy, "snakemake", "prepare", *where, *config)
        assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr
    os.utime(next(data.rglob("*.nii*")), (0, 0))
    done = call(copy, "snakemake", "prepare", "-n", *where, *config)
    assert "Nothing to be done" not in done.stdout + done.stderr and "prepare" in done.stdout + done.stderr


def test_failing_notebook_ends_the_run_with_its_own_line(copy):
    path = copy / "notebooks" / "03_augmentation.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [*notebook.cells[:4], nbformat.v4.new_code_cell("raise RuntimeError('no such transform')")]
    nbformat.write(notebook, path)
    done = call(copy, "covidlib", "run", "--profile", "tiny", "--folds", FOLDS, "--cores", "2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: failed: 03_augmentation.ipynb cell ") and "RuntimeError: no such transform" in last
    assert (copy / "runs/tiny/notebooks/failed/03_augmentation.ipynb").is_file()
    assert (copy / "runs/tiny/notebooks/04_training_fold_0.ipynb").is_file()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder of notebooks with one that has a parameter and can fail."""
    monkeypatch.setattr(workflow, "NOTEBOOKS", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("if n > 1:\n    raise RuntimeError('too many')"),
    ])  # fmt: skip
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "notebooks" / "toy.ipynb")
    return tmp_path


def test_execute_gives_the_executed_copy(toy):
    made = workflow.execute("toy", toy / "run", {})
    assert made == toy / "run" / "notebooks" / "toy.ipynb"
    assert nbformat.read(made, as_version=4).cells[-1].execution_count == 2


def test_failing_cell_is_one_line_and_the_copy_is_kept(toy):  # cell 3: papermill adds one with the parameters
    with pytest.raises(DataError, match=r"^toy.ipynb cell 3: RuntimeError: too many \(executed copy: .*failed.*toy.ipynb\)$"):
        workflow.execute("toy", toy / "run", {"n": 2})
    assert (toy / "run" / "notebooks" / "failed" / "toy.ipynb").is_file()
    assert not (toy / "run" / "notebooks" / "toy.ipynb").exists()


def test_a_kernel_that_died_is_one_line(toy, monkeypatch):
    def killed(*_, **__):
        raise nbclient.exceptions.DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", killed)
    with pytest.raises(DataError, match=r"^toy.ipynb: its kernel died, as when memory runs out; try fewer jobs"):
        workflow.execute("toy", toy / "run", {})


def test_what_a_job_says_last_is_why_the_run_stopped_and_jobs_hold_the_folder(tmp_path):
    """The lock is open in the job under the same number."""
    code = "import os, sys; os.fstat(int(sys.argv[1])); print('error: case_3: no mask'); print('Exiting'); sys.exit(1)"
    with only_one(tmp_path) as lock, pytest.raises(DataError, match="^failed: case_3: no mask$"):
        workflow._watch([sys.executable, "-c", code, str(lock.fileno())], tmp_path / "snakemake.log", lock)
    assert "Exiting" in (tmp_path / "snakemake.log").read_text()


def test_a_run_that_is_refused_changes_nothing(tmp_path, tiny_yaml, tiny_folder):
    before = open_run(tiny_yaml, tiny_folder, tmp_path).folder.joinpath("run.json").read_text()
    with only_one(tmp_path), pytest.raises(DataError, match="another run is at work"):
        workflow.run_all("surrogate", str(tiny_folder), str(tmp_path))
    assert (tmp_path / "run.json").read_text() == before


def test_unknown_parameter_and_notebook_stop_before_anything_runs(toy):
    with pytest.raises(DataError, match="unknown parameter m"):
        workflow.execute("toy", toy / "run", {"m": 2})
    with pytest.raises(DataError, match="notebook tow: no such file; allowed: toy"):
        workflow.execute("tow", toy / "run", {})


def test_parameters_are_checked_by_name_and_type():
    names = {"profile": "demo", "fold": 0, "open_run": print, "_private": 1}
    workflow.check_parameters(dict(names), profile=str, fold=int)
    with pytest.raises(DataError, match="parameter fodl: unknown; allowed: profile, fold"):
        workflow.check_parameters({**names, "fodl": 2}, profile=str, fold=int)
    with pytest.raises(DataError, match="parameter fold is '2'; allowed: int"):
        workflow.check_parameters({**names, "fold": "2"}, profile=str, fold=int)


def test_parameters_cell_may_be_run_again_later():
    names = {"fold": 0}
    workflow.check_parameters(names, fold=int)
    names["scores"] = [1, 2]  # the notebook's own variable, made by a later cell
    workflow.check_parameters(names, fold=int)


def test_wrong_fold_is_said_before_anything_starts(tmp_path):
    with pytest.raises(DataError, match=r"--folds \[7\]: no such fold; allowed: 0 to 4"):
        workflow.run_all("demo", out=str(tmp_path), folds=[7])
