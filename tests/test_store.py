"""A finished run's small files are copied; weights in half precision predict the same and take half the room."""

import shutil

import h5py
import numpy as np
import pytest

from covidlib.errors import DataError
from covidlib.files import read_json, write_json
from covidlib.inference import load_model, predict_fold, predict_volume
from covidlib.metrics import score_run
from covidlib.runs import Run, open_run
from covidlib.store import export_weights, store_results


def test_weights_in_half_precision_predict_nearly_the_same(trained_run, tmp_path):
    made = export_weights(trained_run, tmp_path / "weights")
    assert made == [tmp_path / "weights" / "fold_0" / "model.weights.h5"]
    assert read_json(tmp_path / "weights" / "run.json") == read_json(trained_run.folder / "run.json")
    half = Run(trained_run.profile, trained_run.data, tmp_path / "weights", trained_run.cases, trained_run.folds)
    volume = trained_run.prepared(trained_run.folds[0].test[:1])[0]
    step = trained_run.profile.network.smallest_step
    one, other = (predict_volume(load_model(run, 0), volume, run.profile.inference, step) for run in (trained_run, half))
    np.testing.assert_allclose(one, other, atol=0.01)
    assert np.abs(one - other).max() > 0  # they are not the same file


def test_kernels_become_float16_and_vectors_stay_float32(trained_run, tmp_path):
    (made,) = export_weights(trained_run, tmp_path)
    kinds = set()
    with h5py.File(made) as file:
        file.visititems(lambda _, item: kinds.add((item.ndim > 1, str(item.dtype))) if isinstance(item, h5py.Dataset) else None)
    assert {kind for kind in kinds if kind[1].startswith("float")} == {(True, "float16"), (False, "float32")}


def test_a_run_without_a_trained_fold_has_no_weights_to_export(tiny_yaml, tiny_folder, tmp_path):
    with pytest.raises(DataError, match="no trained fold; run"):
        export_weights(open_run(tiny_yaml, tiny_folder, tmp_path / "run"), tmp_path / "weights")


def test_store_copies_scores_histories_settings_and_the_pictures_that_are_there(trained_run, tmp_path):
    shutil.copytree(trained_run.folder, tmp_path / "run")
    run = Run(trained_run.profile, trained_run.data, tmp_path / "run", trained_run.cases, trained_run.folds)
    with pytest.raises(DataError, match=r"no manifest\.json; run"):
        store_results(run, tmp_path / "stored")
    write_json(run.folder / "manifest.json", {})
    predict_fold(run, 0)
    score_run(run, [0])
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "figure6.png").write_bytes(b"picture")
    stored = store_results(run, tmp_path / "stored")
    names = {"run.json", "manifest.json", "scores.csv", "history_fold_0.csv", "figure6.png", "failures.png"}
    assert {path.name for path in stored.iterdir()} == names
    assert (stored / "history_fold_0.csv").read_text() == (run.folder / "fold_0" / "history.csv").read_text()
