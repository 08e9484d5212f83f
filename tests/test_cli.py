"""`python -m covidlib ...`: exit codes and what is printed; and that importing covidlib loads nothing heavy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from covidlib.__main__ import main
from covidlib.dataset import IMAGES, MASKS
from covidlib.profile import load_profile
from covidlib.workflow import MARK

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("tensorflow", "keras", "jax", "openvino", "matplotlib", "pandas", "scipy", "nibabel", "papermill", "batchgenerators")
LIGHT = ("", ".errors", ".profile", ".files", ".dataset", ".preprocessing", ".patches", ".runs", ".workflow", ".__main__",
         ".scan", ".quantification", ".predict")  # fmt: skip


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def good(tmp_path, write_case):
    write_case(tmp_path, "case_a")
    return write_case(tmp_path, "case_b")


@pytest.fixture
def bad(good, write_case):
    """Two sound cases and seven bad ones, one of them bad in two ways, and a stray file."""
    hu = np.linspace(-1000, 400, 120).reshape(6, 5, 4)
    write_case(good, "case_c", labels=None)
    write_case(good, "case_d", image=None)
    write_case(good, "case_e", labels=np.full((6, 5, 4), 4, np.uint8), pixdim={1: 0.0})
    write_case(good, "case_f", image=np.where(hu > 300, np.nan, hu), labels=np.full((6, 5, 4), 1.6))
    write_case(good, "case_g", image=np.zeros((6, 5, 4)))
    path = write_case(good, "case_h") / IMAGES / "case_h.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    write_case(good, "case_i", image=hu + 1000)
    (good / IMAGES / "notes.txt").write_text("stray")
    return good


def test_check_is_content_with_a_good_folder(good, capsys):
    assert main(["check", str(good)]) == 0
    case_a, case_b, last = capsys.readouterr().out.splitlines()
    assert case_a == "case_a: 6 x 5 x 4 voxels of 1.00 x 1.00 x 2.00 mm, stored LPS, intensity hu"
    assert case_b.startswith("case_b: ") and last == "2 sound cases, 0 problems"


def test_check_lists_all_problems_at_once_and_exits_1(bad, capsys):
    assert main(["check", str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines[:2]] == ["case_a: ", "case_b: "]
    assert lines[2] == f"note: {bad / IMAGES / 'notes.txt'}: ignored, not a .nii or .nii.gz file"
    problems = [line.removeprefix("problem: ").split(": ")[:2] for line in lines[3:-1]]
    assert [(case, Path(file).parent.name) for case, file in problems] == [
        ("case_c", IMAGES), ("case_d", MASKS), ("case_e", IMAGES), ("case_e", MASKS), ("case_f", IMAGES), ("case_f", MASKS),
        ("case_g", IMAGES), ("case_h", IMAGES), ("case_i", IMAGES),
    ]  # fmt: skip
    assert lines[-1] == "2 sound cases, 9 problems"


def test_check_from_a_shell(bad, tmp_path):
    done = python("-m", "covidlib", "check", str(bad))
    assert done.returncode == 1 and "2 sound cases" in done.stdout and "Traceback" not in done.stderr
    for problem in ("case_c: ", "case_g: ", "constant", "NaN", "labels [1.6]", "labels [4]", "neither HU"):
        assert problem in done.stdout


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_check_of_an_empty_or_missing_folder(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / folder)]) == 1
    out = capsys.readouterr().out
    assert f"problem: {tmp_path / folder}: no case found; expected {IMAGES}/<case>.nii.gz" in out and "0 sound cases" in out


def test_prepare_brings_every_case_to_the_working_grid(tiny_yaml, tiny_folder, tmp_path, capsys):
    assert main(["prepare", "--profile", str(tiny_yaml), "--data", str(tiny_folder), "--out", str(tmp_path)]) == 0
    assert len(list((tmp_path / "prepared").glob("tiny_*.npz"))) == 4
    assert "4 cases on the working grid" in capsys.readouterr().err


def test_begin_trains_what_a_profile_begins_with_and_says_so_to_the_workflow(tiny_yaml, tiny_folder, tmp_path):
    """Every line that the terminal is to show is marked."""
    tiny = load_profile(tiny_yaml)
    changed = {"network.stride": [2, 1, 1], "training.begin_with": str(tiny_yaml)}
    changed["patches.shape_vox"], changed["inference.window_shape_vox"] = (
        [2 * shape[0], *shape[1:]] for shape in (tiny.patches.shape_vox, tiny.inference.window_shape_vox)
    )
    path = tmp_path / "fine.yaml"
    path.write_text(yaml.safe_dump(load_profile(tiny_yaml, changed).as_dict()))
    given = ["--profile", str(path), "--data", str(tiny_folder), "--out", str(tmp_path / "run")]
    done = python("-m", "covidlib", "begin", *given, "--fold", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "beginning" / "fold_1" / "model.weights.h5").is_file()
    said = [line for line in done.stderr.splitlines() if line.startswith(MARK)]
    assert f"{MARK}tiny fold 1: epoch 3 of 3" in said[-2] and said[-1].startswith(f"{MARK}tiny fold 1: ")


def test_a_profile_that_begins_with_random_weights_has_no_beginning(tiny_yaml, tiny_folder, tmp_path, capsys):
    given = ["--profile", str(tiny_yaml), "--data", str(tiny_folder), "--out", str(tmp_path)]
    assert main(["begin", *given, "--fold", "0"]) == 1
    assert "begins with random weights; allowed: one with training.begin_with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "--profile", "papper"], "profile papper: no file papper.yaml; allowed: demo, paper, surrogate"),
        (["prepare", "--profile", "paper"], "profile paper: no data folder given"),
        (["prepare", "--profile", "paper", "--data", "{tmp}/none"], "none: no case found"),
        (["run", "--profile", "paper", "--data", "{tmp}/none", "--out", "{tmp}/run"], "none: no case found"),
        (["run", "--profile", "paper", "--folds", "0,7", "--out", "{tmp}/run"], "--folds [7]: no such fold; allowed: 0 to 4"),
        (["run", "--profile", "papper", "--out", "{tmp}/run"], "profile papper"),
    ],
)
def test_an_error_of_ours_is_one_line_and_exit_code_1(tmp_path, capsys, arguments, words):
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and "Traceback" not in err
    assert not (tmp_path / "run" / "notebooks").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["chekc"], ["check"], ["run", "--folds", "one"], ["run", "--fold", "x"], ["predict", "a", "--out=b", "--memory=nan"]],
)
def test_a_wrong_call_shows_how_it_is_called(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: python -m covidlib" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and all(verb in out for verb in ("run", "predict", "check", "fetch", "phantom"))


def test_importing_covidlib_and_its_light_modules_loads_nothing_heavy():
    code = f"import sys; import {', '.join(f'covidlib{name}' for name in LIGHT)}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
