"""Ours and the original side by side on the same work. Writes bench/results.json, which the book's page "What it costs" reads.

    python bench/speed.py [ROW ...] [--repeats N] [--peer-python PYTHON] [--out FILE]

Without ROW: all of them. Every repeat runs in a fresh process, the original and ours in turn. PEER_PYTHON, or --peer-python,
names the Python of an environment with MIScnn 1.4.0; without one, the original's figures stay those of an earlier measurement on
this machine, or "not measured". Rows that are measured again replace their old ones; a row is written as soon as it is done.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
MARK = "RESULT "  # begins the line in which a piece of work tells its result
FULL = {
    "folder": str(HERE.parent / "data" / "bench"),
    "scan": [512, 512, 200],
    "working": [267, 254, 104],
    "small": [96, 96, 48],
    "patch": [160, 160, 80],
    "filters": [32, 64, 128, 256, 512],
    "batches": 40,
    "steps": 3,
    "growth": [0.25, 0.5, 1, 2],
    "scans": [1, 10, 100],
}


@dataclass(frozen=True)
class Row:
    """A piece of work: how it is called, what the issue asks for, which quantity is compared, and about how long a repeat takes.

    ours and peer are what follows `python`; {size}, {folder} and {out} are filled in. peer None: the original has no such work.
    """

    what: str
    target: str
    ours: tuple[str, ...]
    peer: tuple[str, ...] | None
    judged: str  # cpu_s | wall_s | value
    minutes: float
    unit: str = "s"
    gpu: bool = False
    once: bool = False


def _piece(name: str, script: str = "work") -> tuple[str, ...]:
    return (str(HERE / f"{script}.py"), name, "{size}", "{out}")


PREDICT = ("-m", "covidlib", "predict", "{folder}/scan/case_0/imaging.nii.gz", "--out", "{out}", "--weights", "{folder}/weights")
ROWS = {
    "prepare": Row(
        "preprocess 512 x 512 x 200, image and mask", "8 times less CPU, 1 GiB",
        _piece("prepare"), _piece("prepare", "peer"), "cpu_s", 0.7
    ),
    "batch": Row(
        "one training batch, the paper's augmentation, 2 x 160 x 160 x 80 out of 267 x 254 x 104",
        "4 times less CPU", _piece("batch"), _piece("batch", "peer"), "cpu_s", 3,
    ),
    "scan": Row(
        "scan to labels, 512 x 512 x 200, NIfTI to NIfTI, the paper's network in bfloat16 where there is such, whole volume",
        "10 times less wall time, 5 GiB", (*PREDICT, "--memory", "4GB"), _piece("scan", "peer"), "wall_s", 3,
    ),
    "step": Row(
        "training step 2 x 160 x 160 x 80, the paper's network in bfloat16 where there is such, on the processor",
        "1.3 times less CPU, 8 GiB", _piece("step"), _piece("step", "peer"), "cpu_s", 3,
    ),
    "import": Row(
        "`import covidlib`; original: `import miscnn`", "0.3 s",
        ("-c", "import covidlib"), ("-c", "import miscnn"), "wall_s", 0.1,
    ),
    "help": Row(
        "`python -m covidlib --help`; original: `import miscnn`", "0.5 s",
        ("-m", "covidlib", "--help"), ("-c", "import miscnn"), "wall_s", 0.1,
    ),
    "cubic": Row(
        "grey levels (0 to 255) between our resampling and a plain cubic spline, mean absolute difference",
        "stated", _piece("cubic"), None, "value", 0.7, unit="grey levels", once=True,
    ),
    "book": Row(
        "share of `make book` in which no notebook computes: papermill, Snakemake, Sphinx, phantoms",
        "under 20 %", _piece("book"), None, "value", 15, unit="%", once=True,
    ),
    "gpu_step": Row(
        "GPU: training step 2 x 160 x 160 x 80 in bfloat16, batches included", "60 ms, busy 85 %",
        _piece("gpu_step"), None, "value", 3, unit="ms", gpu=True,
    ),
    "gpu_volume": Row(
        "GPU: prediction of a whole volume, 267 x 254 x 104", "0.5 s", _piece("gpu_volume"), None, "value", 2, gpu=True
    ),
}
for share in FULL["growth"]:
    ROWS[f"growth_size_{share:g}"] = Row(
        f"scan to labels, {share:g} times 512 x 512 x 200", "time and memory against size",
        tuple(word.replace("/scan/", f"/scan_{share:g}/") for word in PREDICT), None, "wall_s", 0.5 * share + 0.2, once=True,
    )
for count in FULL["scans"]:
    ROWS[f"growth_scans_{count}"] = Row(
        f"{count} predictions of 96 x 96 x 48 in one call", "constant memory",
        ("-m", "covidlib", "predict", f"{{folder}}/small_{count}", "--out", "{out}", "--weights", "{folder}/weights"),
        None, "wall_s", 0.1 + 0.05 * count, once=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are named, and say beforehand what that costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", ""))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--size", type=json.loads, default={}, help="JSON: other sizes, to try the harness out")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.rows) - set(ROWS)):
        parser.error(f"no row {', '.join(unknown)}; allowed: {', '.join(ROWS)}")
    if given.size and given.out.resolve() == RESULTS:
        parser.error("--size changes the work: name another file with --out")
    chosen, size = given.rows or list(ROWS), {**FULL, **given.size}
    repeats = {name: 1 if ROWS[name].once else given.repeats for name in chosen}
    for name in chosen:
        _say(f"{name}: about {ROWS[name].minutes * repeats[name]:.1f} minutes; {ROWS[name].what}")
    _say(f"all: about {sum(ROWS[name].minutes * repeats[name] for name in chosen):.0f} minutes on two quiet cores")
    made = run_once(_piece("inputs"), sys.executable, size)
    if "failed" in made:
        parser.exit(1, f"no inputs: {made['failed']}\n")
    for name in chosen:
        update(given.out, name, measure(ROWS[name], size, repeats[name], given.peer_python))
        _say(f"{name}: written to {given.out.name}")


def measure(row: Row, size: Mapping[str, Any], repeats: int, peer_python: str) -> dict[str, Any]:
    """A row of the result file: `repeats` times the original, then ours, each in a process of its own."""
    no_gpu = row.gpu and not _has_gpu()
    ours, peer = [], []
    for _ in range(0 if no_gpu else repeats):
        if row.peer and peer_python:
            peer.append(run_once(row.peer, peer_python, size))
        ours.append(run_once(row.ours, sys.executable, size, "jax" if row.gpu else "tensorflow"))
    missing = "the original has no such work" if row.peer is None else "no PEER_PYTHON"
    said = {"what": row.what, "target": row.target, "judged": row.judged, "unit": row.unit}
    return {**said, "ours": summary(ours, "no GPU" if no_gpu else ""), "peer": summary(peer, missing)}


def run_once(command: Sequence[str], python: str, size: Mapping[str, Any], backend: str = "tensorflow") -> dict[str, Any]:
    """Run a piece of work in a fresh process: wall and CPU seconds, peak memory, and the cores that others used meanwhile.

    A piece that measures only part of its process tells its own seconds, which then count. {"failed": ...} where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend != "jax":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory(prefix="bench-") as out, tempfile.TemporaryFile("w+") as said:
        filled = {"{size}": json.dumps(size), "{folder}": size["folder"], "{out}": out}
        words = [_filled(word, filled) for word in command]
        started, busy = time.perf_counter(), _busy_s()
        process = subprocess.Popen([python, *words], stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=HERE.parent)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
        others = max(0.0, _busy_s() - busy - cpu) / wall
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        return {"failed": f"exit status {process.returncode}: {lines[-1][:300] if lines else 'no output'}"}
    told = next((json.loads(line.removeprefix(MARK)) for line in reversed(lines) if line.startswith(MARK)), {})
    return {"wall_s": wall, "cpu_s": cpu, "peak_gib": used.ru_maxrss / 2**20, "others_cores": others, **told}


def summary(repeats: Sequence[Mapping[str, Any]], missing: str = "") -> dict[str, Any]:
    """Several repeats in one: minimum and median wall seconds, median CPU seconds, highest peak; or why there is none."""
    failed = [repeat["failed"] for repeat in repeats if "failed" in repeat]
    if failed or not repeats:
        return {"not measured": failed[0] if failed else missing}
    column = {name: [repeat[name] for repeat in repeats] for name in ("wall_s", "cpu_s", "peak_gib", "others_cores")}
    values = {"value": statistics.median(repeat["value"] for repeat in repeats)} if "value" in repeats[0] else {}
    return {
        "wall_min_s": min(column["wall_s"]),
        "wall_median_s": statistics.median(column["wall_s"]),
        "cpu_s": statistics.median(column["cpu_s"]),
        "peak_gib": max(column["peak_gib"]),
        "others_cores": max(column["others_cores"]),
        "repeats": len(repeats),
        **values,
        "notes": repeats[-1].get("notes", {}),
    }


def ratio(row: Mapping[str, Any]) -> float | None:
    """How many times less ours takes, in the quantity that the row is judged by; None where a side is not measured."""
    name = {"cpu_s": "cpu_s", "wall_s": "wall_min_s"}.get(row["judged"])
    both = row["peer"].get(name), row["ours"].get(name)
    return both[0] / both[1] if name and all(both) else None


def update(file: Path, name: str, row: Mapping[str, Any]) -> None:
    """Put a row into the result file and leave the others; the original's earlier figures stay, if this machine took them."""
    from covidlib.files import read_json, write_json
    from covidlib.runs import commit, machine, versions

    found = read_json(file) or {"rows": {}}
    taken = {"machine": machine(), "commit": commit(), "date": time.strftime("%Y-%m-%d"), "versions": versions()}
    row, before = {**row, **taken}, found["rows"].get(name, {})
    kept = before.get("peer", {})
    if "not measured" in row["peer"] and "wall_min_s" in kept and before["machine"] == row["machine"]:
        row["peer"] = {"earlier": before["date"], **kept}
    row["ratio"] = ratio(row)
    rows = {**found["rows"], name: row}
    write_json(file, {"rows": {known: rows[known] for known in [*ROWS, *(n for n in rows if n not in ROWS)] if known in rows}})


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _busy_s() -> float:
    """CPU seconds that all processes of this machine have used since it started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _has_gpu() -> bool:
    asked = "import jax, sys; sys.exit(jax.default_backend() != 'gpu')"
    return subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode == 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
