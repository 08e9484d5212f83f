"""The benchmark harness: its arithmetic, its file, and the path that a GPU would take, at tiny size. No times are judged."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from covidlib.files import read_json
from covidlib.network import build_network
from covidlib.profile import Network
from covidlib.runs import ROOT, machine

sys.path.insert(0, str(ROOT / "bench"))

import last_part
import speed
import work


def repeat(wall: float, cpu: float = 1.0, peak: float = 0.5) -> dict:
    return {"wall_s": wall, "cpu_s": cpu, "peak_gib": peak, "others_cores": 0.25}


def row(ours: list, peer: list, judged: str = "cpu_s") -> dict:
    said = {"what": "a piece", "target": "2 times less", "judged": judged, "unit": "s"}
    return {**said, "ours": speed.summary(ours, "no GPU"), "peer": speed.summary(peer, "no PEER_PYTHON")}


def test_summary_takes_least_and_median_wall_median_cpu_and_highest_peak() -> None:
    found = speed.summary([repeat(3, 5, 0.5), repeat(1, 6, 0.75), repeat(2, 9, 0.25)])
    assert (found["wall_min_s"], found["wall_median_s"], found["cpu_s"], found["peak_gib"]) == (1, 2, 6, 0.75)
    assert found["repeats"] == 3


def test_one_failed_repeat_makes_the_row_not_measured_with_its_reason() -> None:
    assert speed.summary([repeat(1), {"failed": "exit status 1: no memory"}]) == {"not measured": "exit status 1: no memory"}


@pytest.mark.parametrize(("judged", "times"), [("cpu_s", 4.0), ("wall_s", 3.0), ("value", None)])
def test_ratio_is_the_original_s_by_ours_in_the_judged_quantity(judged: str, times: float | None) -> None:
    assert speed.ratio(row([repeat(2, 1), repeat(4, 1)], [repeat(6, 4), repeat(9, 4)], judged)) == times


def test_no_ratio_where_the_original_is_not_measured() -> None:
    assert speed.ratio(row([repeat(2)], [])) is None


def test_update_replaces_one_row_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    speed.update(file, "batch", row([repeat(1)], [repeat(8)]))
    speed.update(file, "prepare", row([repeat(2)], []))
    speed.update(file, "batch", row([repeat(4)], [repeat(8)]))
    rows = read_json(file)["rows"]
    assert list(rows) == ["prepare", "batch"]
    assert (rows["prepare"]["ours"]["wall_min_s"], rows["batch"]["ours"]["wall_min_s"]) == (2, 4)


@pytest.mark.parametrize("same", [True, False])
def test_the_original_s_earlier_figures_stay_only_if_this_machine_took_them(same: bool, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    speed.update(file, "batch", row([repeat(1, 2)], [repeat(8, 8)]))
    before = read_json(file)
    before["rows"]["batch"] |= {"machine": machine() if same else "another", "date": "2026-01-02"}
    file.write_text(json.dumps(before))
    speed.update(file, "batch", row([repeat(1, 4)], []))
    found = read_json(file)["rows"]["batch"]
    if same:
        assert (found["peer"]["earlier"], found["peer"]["cpu_s"], found["ratio"]) == ("2026-01-02", 8, 2)
    else:
        assert (found["peer"], found["ratio"]) == ({"not measured": "no PEER_PYTHON"}, None)


def test_a_gpu_row_without_a_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_has_gpu", lambda: False)
    assert speed.measure(speed.ROWS["gpu_step"], speed.FULL, 1, "")["ours"] == {"not measured": "no GPU"}


def test_a_piece_s_own_seconds_count_and_a_failure_gives_its_last_line(tmp_path: Path) -> None:
    size = {"folder": str(tmp_path)}
    told = speed.run_once(("-c", "print('RESULT {\"cpu_s\": 7}')"), sys.executable, size)
    assert told["cpu_s"] == 7
    assert told["wall_s"] > 0 and told["peak_gib"] > 0
    failed = speed.run_once(("-c", "raise SystemExit('no such scan')"), sys.executable, size)
    assert failed == {"failed": "exit status 1: no such scan"}


def test_seconds_in_which_two_notebooks_compute_count_once() -> None:
    assert work.busy_s([(10, 14), (0, 2), (12, 15), (13, 14)]) == 7
    assert work.busy_s([]) == 0


def test_cell_spans_are_read_from_what_papermill_notes(tmp_path: Path) -> None:
    run = {"papermill": {"start_time": "2026-01-01T00:00:00+00:00", "end_time": "2026-01-01T00:00:02.500000+00:00"}}
    cells = [{"metadata": run}, {"metadata": {}}, {"metadata": {"papermill": {"start_time": None, "end_time": None}}}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    ((begin, end),) = work.cell_spans(tmp_path / "a.ipynb")
    assert end - begin == 2.5


def test_forward_flops_by_hand() -> None:
    import keras

    layers = [keras.layers.Conv3D(2, 3, padding="same"), keras.layers.MaxPooling3D(2), keras.layers.Conv3D(3, 1)]
    layers.append(keras.layers.Conv3DTranspose(1, 2, strides=2))
    model = keras.Sequential([keras.Input((4, 4, 4, 1)), *layers])
    assert work.forward_flops(model, (4, 4, 4)) == 2 * (27 * 1 * 2 * 64 + 2 * 3 * 8 + 8 * 1 * 3 * 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict:
    made = {"folder": str(tmp_path_factory.mktemp("bench") / "inputs"), "scan": [32, 32, 16], "working": [32, 32, 16]}
    made |= {"small": [16, 16, 16], "patch": [16, 16, 8], "filters": [4, 8], "batches": 2, "steps": 1, "growth": [], "scans": []}
    made |= {"workers": 1}
    work.inputs(made, Path())
    return made


@pytest.mark.parametrize("piece", ["gpu_step", "gpu_volume"])
def test_the_path_of_a_gpu_runs_under_jax_on_a_processor(piece: str, tiny: dict) -> None:
    found = speed.run_once(speed.ROWS[piece].ours, sys.executable, tiny, "jax")
    assert "failed" not in found, found
    assert found["value"] > 0
    assert found["notes"]["tflops"] > 0


@pytest.mark.parametrize("piece", ["prepare", "batch", "step", "cubic"])
def test_every_piece_for_a_processor_runs(piece: str, tiny: dict) -> None:
    found = speed.run_once(speed.ROWS[piece].ours, sys.executable, tiny)
    assert "failed" not in found, found
    assert found["wall_s"] > 0


def test_what_the_last_cycle_ended_with_is_found_from_the_means(tmp_path: Path) -> None:
    network, ends = Network(filters=(2, 3)), [1.0, 2.0, 6.0]
    model = build_network(network)
    for name, cycles in (("before", 2), ("mean", 3)):
        model.set_weights([np.full(weights.shape, sum(ends[:cycles]) / cycles) for weights in model.get_weights()])
        model.save_weights(tmp_path / f"{name}.weights.h5")
    files = [tmp_path / f"{name}.weights.h5" for name in ("mean", "before", "last")]
    last_part.write_last(network, *files[:2], 3, files[2])
    model.load_weights(files[2])
    assert all(np.allclose(weights, 6) for weights in model.get_weights())
