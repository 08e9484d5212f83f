"""Where the book's launch buttons lead."""

import subprocess
from pathlib import Path

import pytest

from covidlib import book


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
