"""A finished run's small files are copied; weights in half precision predict the same and take half the room."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from covidlib import store
from covidlib.errors import DataError
from covidlib.files import read_json, write_json
from covidlib.inference import load_model, predict_fold, predict_volume
from covidlib.metrics import score_run
from covidlib.runs import Run, open_run, trained_weights, write_manifest
from covidlib.store import export_weights, pack_run, store_results


@pytest.fixture
def evaluated(trained_run, tmp_path):
    """The trained run copied, its fold predicted, scored and described."""
    shutil.copytree(trained_run.folder, tmp_path / "run")
    run = Run(trained_run.profile, trained_run.data, tmp_path / "run", trained_run.cases, trained_run.folds)
    predict_fold(run, 0)
    score_run(run, [0])
    write_manifest(run, [0])
    return run


def test_weights_in_half_precision_predict_nearly_the_same(evaluated, tmp_path):
    made = export_weights(evaluated, tmp_path / "weights")
    assert made == [tmp_path / "weights" / "fold_0" / "model.weights.h5"]
    assert read_json(tmp_path / "weights" / "run.json") == read_json(evaluated.folder / "run.json")
    half = Run(evaluated.profile, evaluated.data, tmp_path / "weights", evaluated.cases, evaluated.folds)
    volume = evaluated.prepared(evaluated.folds[0].test[:1])[0]
    files = [trained_weights(run.folder)[0] for run in (evaluated, half)]
    one, other = (predict_volume(load_model(half.profile, file), volume, half.profile) for file in files)
    np.testing.assert_allclose(one, other, atol=0.01)
    assert np.abs(one - other).max() > 0  # they are not the same file


def test_weights_of_another_run_do_not_stay_beside_new_ones(evaluated, tmp_path):
    export_weights(evaluated, tmp_path / "weights")
    (tmp_path / "weights" / "fold_0").rename(tmp_path / "weights" / "fold_3")
    (made,) = export_weights(evaluated, tmp_path / "weights")
    assert trained_weights(tmp_path / "weights") == [made]


def test_a_run_is_not_packed_into_itself(evaluated):
    with pytest.raises(DataError, match="run: is the run itself; give another folder"):
        pack_run(evaluated, evaluated.folder / ".." / "run")


def test_kernels_become_float16_and_vectors_stay_float32(evaluated, tmp_path):
    (made,) = export_weights(evaluated, tmp_path / "weights")
    kinds = set()
    with h5py.File(made) as file:
        file.visititems(lambda _, item: kinds.add((item.ndim > 1, str(item.dtype))) if isinstance(item, h5py.Dataset) else None)
    assert {kind for kind in kinds if kind[1].startswith("float")} == {(True, "float16"), (False, "float32")}


def test_the_model_card_holds_the_run_s_own_scores_and_no_markup_of_the_book(evaluated, tmp_path):
    export_weights(evaluated, tmp_path / "weights")
    card = (tmp_path / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    scores = pd.read_csv(evaluated.folder / "scores.csv")
    assert f"| lowest infection Dice | {scores['dice'][scores['class'] == 'infection'].min():.3f} | 1 | 0 |" in card
    assert "Not for clinical use" in card and "{" not in card


def test_a_run_without_a_trained_fold_has_no_weights_to_export(tiny_yaml, tiny_folder, tmp_path):
    with pytest.raises(DataError, match="no trained fold; run"):
        export_weights(open_run(tiny_yaml, tiny_folder, tmp_path / "run"), tmp_path / "weights")


def test_store_copies_scores_histories_and_settings_and_draws_what_needs_the_scans(evaluated, tmp_path):
    stored = store_results(evaluated, tmp_path / "stored")
    names = {"run.json", "manifest.json", "scores.csv", "history_fold_0.csv", "figure6.png", "failures.png"}
    assert {path.name for path in stored.iterdir()} == names | {"quantities.csv", "confusion.csv"}
    assert (stored / "history_fold_0.csv").read_text() == (evaluated.folder / "fold_0" / "history.csv").read_text()


def test_the_stored_history_has_the_epochs_of_the_beginning_first(evaluated, tiny_yaml, tiny_folder, monkeypatch, tmp_path):
    """Here a run that begins with a copy of itself: three epochs, and three more."""
    first = Run(evaluated.profile, evaluated.data, tmp_path / "first", evaluated.cases, evaluated.folds)
    shutil.copytree(evaluated.folder, first.folder)
    monkeypatch.setattr(store, "beginning", lambda run: first if run is evaluated else None)
    kept = pd.read_csv(store_results(evaluated, tmp_path / "stored") / "history_fold_0.csv")
    one = pd.read_csv(first.fold_folder(0) / "history.csv")
    assert kept["epoch"].tolist() == [1, 2, 3, 4, 5, 6] and kept["loss"].tolist() == one["loss"].tolist() * 2
    assert kept["minutes"].iloc[-1] == pytest.approx(2 * one["minutes"].iloc[-1], rel=1e-4)
    (first.fold_folder(0) / "history.csv").unlink()
    with pytest.raises(DataError, match="history.csv: not there; where the fold was trained elsewhere, copy its folder"):
        store_results(evaluated, tmp_path / "stored")


def test_settings_or_folds_that_were_not_evaluated_are_not_stored(evaluated, tmp_path):
    """What was stored before stays as it is."""
    stored = store_results(evaluated, tmp_path / "stored")
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    manifest = read_json(evaluated.folder / "manifest.json")
    for changed in ({"profile": {**manifest["profile"], "seed": 7}}, {"folds": {**manifest["folds"], "1": {}}}):
        write_json(evaluated.folder / "manifest.json", {**manifest, **changed})
        with pytest.raises(DataError, match="not evaluated with these settings on all its folds; run"):
            store_results(evaluated, stored)
        assert {path.name: path.read_bytes() for path in stored.iterdir()} == before


def test_a_history_of_a_fold_that_is_not_of_this_run_goes(evaluated, tmp_path):
    stored = store_results(evaluated, tmp_path / "stored")
    (stored / "history_fold_0.csv").rename(stored / "history_fold_3.csv")
    store_results(evaluated, stored)
    assert [path.name for path in stored.glob("history_fold_*.csv")] == ["history_fold_0.csv"]


def test_a_run_that_is_not_evaluated_cannot_be_stored(trained_run, tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json; run"):
        store_results(trained_run, tmp_path / "stored")
