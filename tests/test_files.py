"""Files are whole or absent; fingerprints see what could change a result and nothing else."""

import errno
import fcntl
import hashlib
import subprocess
import sys

import pytest

from covidlib import files
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, only_one, read_json, whole_file, write_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "made" / "scores.csv"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.suffix == ".csv"
        temporary.write_text("whole")
        inode = temporary.stat().st_ino
    assert path.read_text() == "whole" and path.stat().st_ino == inode  # renamed, not copied: no moment of half a file
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with only_one(tmp_path / "out"):
        with pytest.raises(DataError, match="another run is at work in this folder; wait for it"), only_one(tmp_path / "out"):
            pass


def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_one(tmp_path / "out"):
        (tmp_path / "out" / "result").touch()
    assert "out: locks do not work here" in caplog.text
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with only_one(tmp_path / "elsewhere"):
        assert "elsewhere: locks do not work here" in caplog.text


def test_a_process_that_inherits_the_lock_holds_the_folder(tmp_path):
    """As Snakemake does where the run that began it is killed."""
    with only_one(tmp_path / "out") as lock:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[lock.fileno()])
    with pytest.raises(DataError, match="another run is at work"), only_one(tmp_path / "out"):
        pass
    child.communicate()
    with only_one(tmp_path / "out"):
        pass


def test_json_goes_out_and_comes_back(tmp_path):
    content = {"case": "coronacases_001", "dice": [0.5, None], "deep": {"ä": True}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert read_json(tmp_path / "no.json") is None


def test_checksum_is_the_sha_256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert checksum(tmp_path / "a").startswith("ba7816bf")  # the published test vector


def test_fingerprint_depends_on_the_content_but_not_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({}, "patches") != fingerprint({}, "losses")
    assert fingerprint({}, "patches", "losses") == fingerprint({}, "losses", "patches")


CODE = 'def double(x):\n    """Twice."""\n    return 2 * x\n'


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ('# why\ndef double(x):\n    """Two times x."""\n    return (\n        2 * x  # a comment\n    )\n', True),
        ('def double(x):\n    """Twice."""\n    return 3 * x\n', False),
        ('def double(y):\n    """Twice."""\n    return 2 * y\n', False),
    ],
)
def test_fingerprint_reads_code_without_comments_docstrings_and_line_breaks(tmp_path, monkeypatch, changed, same):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "files.py"))
    (tmp_path / "module.py").write_text(CODE)
    before = fingerprint({}, "module")
    (tmp_path / "module.py").write_text(changed)
    assert (fingerprint({}, "module") == before) is same


def test_code_reads_the_same_under_every_python(tmp_path):
    """3.12 and 3.13 write a tree in other words: without care, a fold trained under one would not count under another."""
    path = tmp_path / "module.py"
    path.write_text('def f(x):\n    """Said."""\n    return x  # a comment\n\n\nclass A:\n    pass\n')
    assert files._code(path) == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='x')], kwonlyargs=[], kw_defaults=[], "
        "defaults=[]), body=[Expr(value=Constant(value=None)), Return(value=Name(id='x', ctx=Load()))], decorator_list=[]), "
        "ClassDef(name='A', bases=[], keywords=[], body=[Pass()], decorator_list=[])], type_ignores=[])"
    )
