"""Many small scans, one after the other, and what the process holds meanwhile: is the memory of a batch constant? For the book.

python bench/many_scans.py
"""

import logging
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import TINY_SETTINGS  # noqa: E402
from variants import SPACING, chest, seeing_weights, turned  # noqa: E402

from covidlib.predict import predict_scans  # noqa: E402
from covidlib.profile import profile_from  # noqa: E402
from covidlib.runs import machine  # noqa: E402

SHAPES = [(80 + 8 * x, 64 + 8 * y, 24) for x in range(5) for y in range(3)]
SAID = (1, 5, 10, 25, 50, 75, 100)


class Watch(logging.Handler):
    """Notes the resident memory after every scan, in MiB."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.held: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("%d of"):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.held.append(pages * os.sysconf("SC_PAGE_SIZE") // 2**20)


def main() -> None:
    """Write book/_tried/memory.md."""
    log, watch = logging.getLogger("covidlib"), Watch()
    log.setLevel(logging.INFO)
    log.addHandler(watch)
    settings = TINY_SETTINGS | {"network": {"filters": [6, 8]}, "inference": {"mode": "volume"}}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights"
        maker = multiprocessing.get_context("spawn").Process(target=seeing_weights, args=(weights, profile_from(settings)))
        maker.start()  # in a process of its own: it loads TensorFlow, predicting does not
        maker.join()
        for number in range(SAID[-1]):
            path = turned(chest(SHAPES[number % len(SHAPES)]), SPACING, Path(folder) / "in" / "new", "LPS")
            path.rename(path.parent.parent / f"scan_{number:03d}.nii.gz")
        failed = predict_scans([Path(folder) / "in"], Path(folder) / "out", weights)
    said = (
        f"{SAID[-1]} drawn chests of {len(SHAPES)} sizes around {' x '.join(map(str, SHAPES[7]))} voxels, a tiny network, "
        f"one call; {len(failed)} failed. Machine: {machine()}. Memory of the process after so many scans:"
    )
    head = "| " + " | ".join(["scans", *map(str, SAID)]) + " |\n" + "|---" * (len(SAID) + 1) + "|"
    row = "| " + " | ".join(["MiB", *(str(watch.held[number - 1]) for number in SAID)]) + " |"
    (ROOT / "book" / "_tried" / "memory.md").write_text(f"{said}\n\n{head}\n{row}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
