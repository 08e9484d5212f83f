"""Files that are whole when they exist, and fingerprints of what made them."""

import ast
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from covidlib.errors import DataError

log = logging.getLogger("covidlib")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` at the end, and removed on an error.

    The temporary name keeps the ending of `path`, because libraries choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


@contextmanager
def only_one(folder: Path) -> Iterator[IO[str]]:
    """Make a folder for results and hold it: DataError where it cannot be written to, or another call is at work in it.

    Yields the locked file: a process that inherits it holds the folder as well.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to ({error.strerror}); give another folder for the results") from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another run is at work in this folder; wait for it or give another --out") from None
        except (OSError, ModuleNotFoundError):  # some shared file systems; Windows
            log.warning("%s: locks do not work here; see to it that only one run writes into this folder", folder)
        yield lock


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is no such file."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(content: Any, *modules: str) -> str:
    """SHA-256 of JSON-able `content` and of the code of covidlib's `modules`, in hex.

    Comments, docstrings and line breaks do not count: only code that could change a result does.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for module in sorted(modules):
        digest.update(_code(Path(__file__).with_name(f"{module}.py")).encode())
    return digest.hexdigest()


def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = None
    said: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **said).replace(", type_params=[]", "")  # what Python 3.11 says, for a run may go on elsewhere
