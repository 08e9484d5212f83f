"""The schedule's rules by hand; a tiny fit that learns, repeats and continues; what is kept; the same losses under JAX."""

import csv
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from covidlib import training
from covidlib.batches import Batches
from covidlib.errors import DataError
from covidlib.files import only_one, read_json
from covidlib.network import begin_with, build_network
from covidlib.preprocessing import Prepared
from covidlib.profile import Training, load_profile
from covidlib.runs import ROOT, beginning, open_run, reopen_run
from covidlib.store import pack_run
from covidlib.training import Keeper, after_epoch, compiled_network, fit, next_rate, train_fold

# ------------------------------------------------------------------------------------------------------------------- the rules


def after(losses, **settings):
    """(rate, stop) after each epoch's loss."""
    settings = Training(**settings)
    state = Keeper(Path(), settings, "", None).state
    found = []
    for loss in losses:
        after_epoch(state, loss, settings)
        found.append((round(state["rate"], 9), state["stop"]))
    return found


def test_the_plateau_rule_by_hand():
    """Patience 2, a fall is more than 0.1: 1.00 falls, 0.95 not, 0.89 falls (below 0.90), then two do not, and two more."""
    losses = [1.00, 0.95, 0.89, 0.85, 0.84, 0.83, 0.82, 0.81, 0.80]
    rules = {"plateau_patience": 2, "plateau_delta": 0.1, "plateau_factor": 0.1, "learning_rate_floor": 0.02}
    assert [rate for rate, _ in after(losses, learning_rate=1.0, **rules)] == [1, 1, 1, 1, 0.1, 0.1, 0.02, 0.02, 0.02]


def test_a_fall_by_just_the_delta_is_none():
    rules = {"learning_rate": 1.0, "plateau_patience": 1, "plateau_delta": 0.5, "plateau_factor": 0.5, "learning_rate_floor": 0.0}
    assert [rate for rate, _ in after([2.0, 1.5, 0.75], **rules)] == [1, 0.5, 0.5]


def test_early_stopping_by_hand():
    """Three epochs without a new lowest loss; any new lowest, however little lower, starts the count again."""
    losses = [1.0, 2.0, 2.0, 0.999, 1.0, 0.999, 1.0]
    assert [stop for _, stop in after(losses, stop_patience=3)] == [False] * 6 + [True]


def test_the_paper_s_patience():
    """15 epochs without a fall lower the rate tenfold, down to 1e-5; 100 stop the training."""
    found = after([1.0] + [1.0] * 100)
    rates = [rate for rate, _ in found]
    assert (rates[14], rates[15], rates[29], rates[30], rates[-1]) == (1e-3, 1e-4, 1e-4, 1e-5, 1e-5)
    assert [stop for _, stop in found] == [False] * 100 + [True]


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_other_schedules_do_not_lower_the_rate_on_a_plateau(schedule):
    assert after([1.0] * 5, schedule=schedule, plateau_patience=1)[-1][0] == 1e-3


def test_next_rate_by_hand():
    assert next_rate(7, {"rate": 0.25}, Training()) == 0.25
    cosine = Training(schedule="cosine", epochs=4, learning_rate=1.0, learning_rate_floor=0.1)
    half = 0.5 + 0.25 * math.sqrt(2)  # (1 + cos 45 degrees) / 2
    assert [next_rate(epoch, {}, cosine) for epoch in range(4)] == pytest.approx([1, half, 0.5, 1 - half])
    assert next_rate(4, {}, cosine) == 0.1
    again = Training(schedule="cosine", epochs=4, cycle_epochs=(2, 2), learning_rate=1.0)
    assert [next_rate(epoch, {}, again) for epoch in range(4)] == pytest.approx([1, 0.5, 1, 0.5])
    shorter = Training(schedule="cosine", epochs=5, cycle_epochs=(4, 1), learning_rate=1.0)
    assert [next_rate(epoch, {}, shorter) for epoch in (0, 2, 4)] == pytest.approx([1, 0.5, 1])
    polynomial = Training(schedule="polynomial", epochs=4, learning_rate=1.0)
    assert [next_rate(epoch, {}, polynomial) for epoch in (0, 2)] == pytest.approx([1, 0.5**0.9])


# ---------------------------------------------------------------------------------------------------------- what is kept on disk


def kept_value(folder, weights, losses):
    """Weight that is left in a one-weight model after epochs with these losses; in epoch k the weight is k."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.Adam(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    keeper = Keeper(folder, Training(weights=weights), "", None)
    keeper.set_model(model)
    for epoch, loss in enumerate(losses):
        keeper.on_epoch_begin(epoch)
        model.set_weights([np.array([[epoch + 1.0]])])
        keeper.on_epoch_end(epoch, {"loss": loss})
    keeper.close(model)
    return model.get_weights()[0].item()


@pytest.mark.parametrize(("weights", "epoch"), [("best", 2), ("last", 4)])
def test_the_weights_of_the_best_training_loss_or_the_last(tmp_path, weights, epoch):
    assert kept_value(tmp_path, weights, [3.0, 1.0, 2.0, 1.0]) == epoch
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.weights.h5", "history.csv", "checkpoint.json"}
    assert read_json(tmp_path / "checkpoint.json")["done"] is True


def test_the_best_weights_are_kept_even_if_the_machine_stops_before_they_are(tmp_path, monkeypatch):
    """Losses 3 and 1, then a stop before the second epoch's weights are copied; then a loss of 2."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.Adam(), loss="mse")
    model.optimizer.build(model.trainable_variables)

    def keeper():
        made = Keeper(tmp_path, Training(weights="best"), "", None)
        made.set_model(model)
        assert made.load(model) == len(made.state["history"])
        return made

    def epoch(one, number, loss):
        one.on_epoch_begin(number)
        model.set_weights([np.array([[number + 1.0]])])
        one.on_epoch_end(number, {"loss": loss})

    first = keeper()
    epoch(first, 0, 3.0)
    monkeypatch.setattr(Keeper, "_keep", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        epoch(first, 1, 1.0)
    monkeypatch.undo()
    again = keeper()
    epoch(again, 2, 2.0)
    again.close(model)
    assert model.get_weights()[0].item() == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_what_to_do(tmp_path, value):
    with pytest.raises(DataError, match=r"fold_3: the loss is (nan|inf) in epoch 2; allowed: .*; lower training.learning_rate"):
        kept_value(tmp_path / "fold_3", "best", [3.0, value])


# -------------------------------------------------------------------------------------------------------------------- tiny fits

PLATEAU = {"plateau_patience": 1, "plateau_delta": 1.0, "plateau_factor": 0.5}  # lowers the rate often: a stop must not forget it
LONG = {"training.epochs": 5, **{f"training.{key}": value for key, value in PLATEAU.items()}}


def without_time(history):
    return [{key: value for key, value in row.items() if key != "minutes"} for row in history]


def tiny_fit(volumes, profile, folder, on_epoch=None, workers=1):
    """History and final weights of a fit on three volumes, watched on the fourth."""
    model = compiled_network(profile)
    history = fit(model, volumes[:3], volumes[3:], profile, folder, "key", on_epoch, workers)
    return without_time(history), model.get_weights()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, tiny_volumes, tiny_profile):
    folder = tmp_path_factory.mktemp("unbroken")
    return *tiny_fit(tiny_volumes, tiny_profile(LONG), folder), folder


def test_a_tiny_fit_lowers_the_loss(unbroken):
    history, _, _ = unbroken
    losses = [row["loss"] for row in history]
    assert losses[-1] < losses[0] - 0.3
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    by_the_rule = [0.01] + [rate for rate, _ in after(losses, learning_rate=0.01, **PLATEAU)]
    assert [row["learning_rate"] for row in history] == pytest.approx(by_the_rule[:5]) and by_the_rule[4] < 0.01
    for name in ("soft_dice_lungs", "soft_dice_infection", "val_soft_dice_lungs", "val_soft_dice_infection"):
        assert all(0 <= row[name] <= 1 for row in history)
    assert all(row["val_loss"] > 0 for row in history)


def test_the_history_is_also_a_table_and_tensorboard_s(unbroken):
    history, _, folder = unbroken
    with open(folder / "history.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [float(row["loss"]) for row in rows] == pytest.approx([row["loss"] for row in history], rel=1e-5)
    assert set(rows[0]) == {*history[0], "minutes"}
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))


def check_same(one, other):
    assert one[0] == other[0]
    for weights, same in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(weights, same)


def test_the_same_seed_repeats_bit_for_bit(tmp_path, tiny_volumes, tiny_profile, unbroken):
    seen = []
    again = tiny_fit(tiny_volumes, tiny_profile(LONG), tmp_path, lambda history: seen.append(len(history)))
    check_same(again, unbroken)
    assert seen == [1, 2, 3, 4, 5]


class Stopped(Exception):
    """As if somebody had pulled the plug."""


def stop_within_epoch_3(monkeypatch):
    def on_train_batch_end(keeper, batch, logs=None):
        if len(keeper.state["history"]) == 2 and batch == 1:
            raise Stopped

    monkeypatch.setattr(Keeper, "on_train_batch_end", on_train_batch_end)


def stop_while_writing_epoch_3(monkeypatch):
    def write_json(path, content):
        if len(content["history"]) == 3:
            raise Stopped
        path.write_text(json.dumps(content))

    monkeypatch.setattr(training, "write_json", write_json)


@pytest.mark.parametrize("stop", [stop_within_epoch_3, stop_while_writing_epoch_3])
def test_stop_and_resume_give_the_history_and_weights_of_one_run(tmp_path, tiny_volumes, tiny_profile, unbroken, stop):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop(patch)
        tiny_fit(tiny_volumes, tiny_profile(LONG), tmp_path)
    assert len(read_json(tmp_path / "checkpoint.json")["history"]) == 2
    check_same(tiny_fit(tiny_volumes, tiny_profile(LONG), tmp_path), unbroken)
    assert not list(tmp_path.glob("checkpoint-*")) and (tmp_path / "model.weights.h5").is_file()


def test_fitting_again_where_all_is_done_returns_what_is_there(tmp_path, tiny_volumes, tiny_profile, unbroken):
    history, weights, folder = unbroken
    shutil.copytree(folder, tmp_path / "copy")
    check_same(tiny_fit(tiny_volumes, tiny_profile(LONG), tmp_path / "copy"), (history, weights))


def test_each_epoch_draws_its_own_batches_once(tmp_path, monkeypatch, tiny_volumes, tiny_profile):
    drawn, draw = [], Batches.__getitem__
    monkeypatch.setattr(Batches, "__getitem__", lambda self, index: drawn.append((self.epoch, index)) or draw(self, index))
    settings = {"training.epochs": 3, "training.batches_per_epoch": 2, "training.validation_batches": 0}
    tiny_fit(tiny_volumes, tiny_profile(settings), tmp_path)
    assert drawn == [(epoch, index) for epoch in range(3) for index in range(2)]


def test_batches_made_by_other_processes_train_the_same(tmp_path, tiny_volumes, tiny_profile, unbroken):
    history, weights, _ = unbroken
    check_same(tiny_fit(tiny_volumes, tiny_profile(LONG), tmp_path, workers=2), (history, weights))


# ------------------------------------------------------------------------------------------------------------------------ a fold


@pytest.fixture
def copied(tmp_path, trained_run, tiny_yaml, tiny_folder):
    """A function: the trained run, its data and results copied, opened with overrides."""
    shutil.copytree(trained_run.folder, tmp_path / "run")
    shutil.copytree(tiny_folder, tmp_path / "data")
    return lambda overrides=None: open_run(tiny_yaml, tmp_path / "data", tmp_path / "run", overrides)


def test_a_trained_fold_leaves_weights_history_and_what_it_took(trained_run):
    folder = trained_run.fold_folder(0)
    assert {path.name for path in folder.iterdir()} >= {"model.weights.h5", "history.csv", "fold.json", "checkpoint.json"}
    written = read_json(folder / "fold.json")
    assert written["epochs"] == 3 and written["minutes"] > 0 and written["test"] == list(trained_run.folds[0].test)
    assert written["versions"]["keras"] == keras.__version__ and "cores" in written["machine"]


CYCLES = {"training.schedule": "cosine", "training.weights": "last"}


@pytest.mark.parametrize("weights", ["last", "mean"])
def test_a_second_cycle_from_finished_weights_is_that_of_an_unbroken_training(tmp_path, tiny_volumes, tiny_profile, weights):
    """Whether it is stopped on the way or not; with the mean of both cycles, if that is asked for."""

    def cycles(*lengths, **changes):
        lasting = {"training.epochs": sum(lengths), "training.cycle_epochs": lengths}
        return tiny_profile({**CYCLES, **lasting, "network.norm": "instance", **changes})

    def pull_the_plug(history):
        if len(history) == 3:
            raise Stopped

    chosen = {"training.weights": weights}
    unbroken = tiny_fit(tiny_volumes, cycles(2, 2, **chosen), tmp_path / "unbroken")
    half = tiny_fit(tiny_volumes, cycles(2, **chosen), tmp_path / "broken")
    assert half[0] == unbroken[0][:2]
    with pytest.raises(Stopped):
        tiny_fit(tiny_volumes, cycles(2, 2, **chosen), tmp_path / "broken", pull_the_plug)
    kept = read_json(tmp_path / "broken" / "checkpoint.json")
    assert len(kept["history"]) == 3 and not kept["done"]
    check_same(tiny_fit(tiny_volumes, cycles(2, 2, **chosen), tmp_path / "broken"), unbroken)
    if weights == "mean":  # the second of two cycles begins with what the first ended with, as it would without a mean
        last = tiny_fit(tiny_volumes, cycles(2, 2), tmp_path / "last")
        assert last[0] == unbroken[0]
        for mean, *ends in zip(unbroken[1], half[1], last[1], strict=True):
            np.testing.assert_allclose(mean, np.mean(ends, 0), rtol=1e-5, atol=1e-7)


def test_a_finished_fold_goes_on_with_more_cycles_but_not_with_fewer(tmp_path, monkeypatch, tiny_yaml, tiny_folder):
    def run(*cycles):
        lengths = {"training.epochs": sum(cycles), "training.cycle_epochs": list(cycles), "training.batches_per_epoch": 1}
        return open_run(tiny_yaml, tiny_folder, tmp_path, {**CYCLES, **lengths})

    assert len(train_fold(run(2), 0)) == 2
    assert len(train_fold(run(2, 1), 0)) == 3
    assert not list(tmp_path.glob("fold_0.previous*"))
    monkeypatch.setattr(training, "fit", no_fit)
    assert len(train_fold(run(2, 1), 0)) == 3
    for other in ((2,), (3,), (1, 2)):
        with pytest.raises(AssertionError, match="trained again"):
            train_fold(run(*other), 0)
        (aside,) = tmp_path.glob("fold_0.previous-*")
        aside.replace(tmp_path / "fold_0")


BEGINNING = {"training.epochs": 1, "training.batches_per_epoch": 1, "network.stride": [2, 2, 2]}


@pytest.fixture
def begun(tmp_path, tiny_yaml, tiny_folder):
    """A function: a run whose networks, of stride 2 on a grid of half the spacing, begin with those of the tiny profile."""
    tiny = load_profile(tiny_yaml)
    twice = {"patches.shape_vox": [2 * n for n in tiny.patches.shape_vox], "training.begin_with": str(tiny_yaml)}
    twice["inference.window_shape_vox"] = [2 * n for n in tiny.inference.window_shape_vox]
    twice["preprocessing.spacing_mm"] = [mm / 2 for mm in tiny.preprocessing.spacing_mm]
    return lambda changes=None: open_run(tiny_yaml, tiny_folder, tmp_path / "run", {**BEGINNING, **twice, **(changes or {})})


def test_a_fold_begins_with_the_network_of_another_profile(begun, trained_run, monkeypatch, caplog):
    """That one is trained first, with this run's seed; at a rate of next to nothing, this one stays as it began."""
    run = begun({"training.learning_rate": 1e-8, "training.learning_rate_floor": 0.0})
    with caplog.at_level(logging.INFO, "covidlib"):
        assert len(train_fold(run, 0)) == 1
    assert "fold 0: begins with the network of tiny" in caplog.text and "epoch 3 of 3" in caplog.text
    first = beginning(run)
    assert first.folder == run.folder / "beginning" and first.profile.as_dict() == trained_run.profile.as_dict()
    assert read_json(run.fold_folder(0) / "fold.json")["began_with"]["epochs"] == 3
    coarse, fine = build_network(first.profile.network), build_network(run.profile.network)
    coarse.load_weights(first.fold_folder(0) / "model.weights.h5")
    begin_with(fine, coarse)
    began = fine.get_weights()
    fine.load_weights(run.fold_folder(0) / "model.weights.h5")
    for ours, theirs, variable in zip(fine.get_weights(), began, fine.weights, strict=True):
        if "moving" not in variable.path:
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    monkeypatch.setattr(training, "fit", no_fit)
    assert len(train_fold(begun({"training.learning_rate": 1e-8, "training.learning_rate_floor": 0.0}), 0)) == 1
    with pytest.raises(AssertionError, match="trained again"):
        train_fold(begun({"training.learning_rate": 1e-8, "training.learning_rate_floor": 0.0, "seed": 1}), 0)


def test_what_a_profile_begins_with_may_begin_with_another(begun, tiny_folder, tmp_path):
    """Here the network of stride 2 goes on as it is, with other patches, after it began with the tiny profile's."""
    fine = tmp_path / "fine.yaml"
    fine.write_text(yaml.safe_dump({**begun().profile.as_dict(), "name": "fine"}))
    longer = {"training.begin_with": str(fine), "training.learning_rate": 1e-8, "training.learning_rate_floor": 0.0}
    run = open_run(fine, tiny_folder, tmp_path / "longer", longer)
    train_fold(run, 0)
    assert [beginning(run).profile.name, beginning(beginning(run)).profile.name] == ["fine", "tiny"]
    assert read_json(run.fold_folder(0) / "fold.json")["began_with"]["began_with"]["epochs"] == 3
    before, after = (build_network(run.profile.network) for _ in range(2))
    for network, folder in ((before, beginning(run)), (after, run)):
        network.load_weights(folder.fold_folder(0) / "model.weights.h5")
    for ours, theirs, variable in zip(after.get_weights(), before.get_weights(), after.weights, strict=True):
        if "moving" not in variable.path:
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_packed_run_has_what_it_begins_with(begun, tmp_path):
    home = begun()
    away = reopen_run(pack_run(home, tmp_path / "packed"))
    assert beginning(away).profile == beginning(home).profile and beginning(away).data is None
    history = train_fold(away, 0)
    shutil.copytree(away.fold_folder(0), home.fold_folder(0))
    assert train_fold(home, 0) == history and not beginning(home).fold_folder(0).exists()


@pytest.mark.parametrize("change", [{"network.filters": [4, 4]}, {"network.norm": "instance"}])
def test_networks_that_differ_in_more_than_the_stride_cannot_begin_with_each_other(begun, change):
    with pytest.raises(DataError, match=r"training\.begin_with is '.*tiny\.yaml'; allowed: .*the same but for a stride of 1"):
        train_fold(begun(change), 0)


def test_a_profile_cannot_begin_with_itself(begun, tiny_folder, tmp_path):
    path = tmp_path / "circle.yaml"
    path.write_text(yaml.safe_dump({**begun({"training.begin_with": str(path)}).profile.as_dict(), "name": "circle"}))
    with pytest.raises(DataError, match=r"training\.begin_with is '.*circle\.yaml'; allowed: .*does not begin with itself"):
        train_fold(open_run(path, tiny_folder, tmp_path / "circle"), 0)


def test_profiles_cannot_begin_with_each_other(begun, tiny_folder, tmp_path):
    for name, other in (("one", "other"), ("other", "one")):
        settings = begun({"training.begin_with": str(tmp_path / f"{other}.yaml")}).profile.as_dict()
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "name": name}))
    with pytest.raises(DataError, match=r"training\.begin_with is '.*other\.yaml'; allowed: .*does not begin with itself"):
        train_fold(open_run(tmp_path / "one.yaml", tiny_folder, tmp_path / "circle"), 0)


def test_the_place_of_a_profile_s_file_does_not_make_a_fold(begun, tiny_yaml, tiny_folder, tmp_path):
    keys = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        shutil.copy(tiny_yaml, folder / "tiny.yaml")
        settings = begun({"training.begin_with": str(folder / "tiny.yaml")}).profile.as_dict()
        (folder / "fine.yaml").write_text(yaml.safe_dump({**settings, "name": "fine"}))
        run = open_run(folder / "fine.yaml", tiny_folder, tmp_path / "run")
        keys.append(training._keys(run, 0, beginning(run)))
    assert keys[0] == keys[1]


def test_a_fold_is_not_trained_by_two_at_once(tiny_yaml, tiny_folder, tmp_path):
    run = open_run(tiny_yaml, tiny_folder, tmp_path / "run")
    with only_one(run.folder / ".training" / "fold_0"), pytest.raises(DataError, match="fold_0: another run is at work"):
        train_fold(run, 0)


def no_fit(*arguments, **options):
    raise AssertionError("trained again")


def test_a_finished_fold_is_not_trained_again(copied, monkeypatch):
    monkeypatch.setattr(training, "fit", no_fit)
    assert len(train_fold(copied(), 0)) == 3
    assert len(train_fold(copied({"inference.overlap": 0.25}), 0)) == 3  # has nothing to do with the weights


CHANGES = {
    "settings": {"training.epochs": 4},
    "seed": {"seed": 1},
    "loss": {"loss.alpha": 0.7},
    "preprocessing": {"preprocessing.spacing_mm": [5.0, 4.0, 6.0]},
    "folds": {"folds.seed": 3},
    "data": None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fold_made_by_something_else_is_moved_aside(copied, monkeypatch, caplog, write_case, change):
    monkeypatch.setattr(training, "fit", lambda *arguments: [{"minutes": 1.0}])
    run = copied(CHANGES[change])
    if change == "data":
        write_case(run.data, "tiny_0", labels=np.zeros((24, 24, 12), np.uint8), image=None, affine=run.case("tiny_0").affine)
    folder = run.fold_folder(0)
    weights = (folder / "model.weights.h5").read_bytes()
    with caplog.at_level(logging.WARNING, "covidlib"):
        train_fold(run, 0)
    (aside,) = run.folder.glob("fold_0.previous-*")
    assert (aside / "model.weights.h5").read_bytes() == weights and not (folder / "model.weights.h5").exists()
    assert "fold_0: settings, data or code changed" in caplog.text and aside.name in caplog.text


def test_a_fold_comes_back_when_the_change_is_undone(copied, monkeypatch, caplog):
    """Two other settings were tried meanwhile, and left after an epoch."""
    history = train_fold(copied(), 0)
    weights = (copied().fold_folder(0) / "model.weights.h5").read_bytes()

    def leave_after_an_epoch(model, train, test, profile, folder, key, *_):
        folder.mkdir()
        (folder / "checkpoint.json").write_text(json.dumps({"key": key, "done": False, "history": [{}]}))
        raise Stopped

    monkeypatch.setattr(training, "fit", leave_after_an_epoch)
    for seed in (1, 2):
        with pytest.raises(Stopped):
            train_fold(copied({"seed": seed}), 0)
    monkeypatch.setattr(training, "fit", no_fit)
    assert train_fold(copied(), 0) == history and "fold_0: taken back from fold_0.previous-" in caplog.text
    assert (copied().fold_folder(0) / "model.weights.h5").read_bytes() == weights
    assert len(list(copied().folder.glob("fold_0.previous-*"))) == 2


@pytest.mark.parametrize("where", ["_write_history", "commit"])
def test_what_is_written_last_is_made_up_for(tmp_path, monkeypatch, tiny_yaml, tiny_folder, where):
    """A stop in the last epoch, before its row is in history.csv, or after it, before fold.json."""
    run = open_run(tiny_yaml, tiny_folder, tmp_path, {"training.epochs": 2, "training.batches_per_epoch": 1})
    write = getattr(training, where)

    def stop(*arguments):
        if where == "commit" or len(arguments[1]) == 2:
            raise Stopped
        return write(*arguments)

    monkeypatch.setattr(training, where, stop)
    with pytest.raises(Stopped):
        train_fold(run, 0)
    monkeypatch.undo()
    assert len(train_fold(run, 0)) == 2
    assert read_json(tmp_path / "fold_0" / "fold.json")["epochs"] == 2
    assert len((tmp_path / "fold_0" / "history.csv").read_text().splitlines()) == 3  # with its head


def test_no_such_fold(trained_run):
    with pytest.raises(DataError, match="fold 2: no such fold; allowed: 0 to 1"):
        train_fold(trained_run, 2)


# ------------------------------------------------------------------------------------------------------------------------- JAX


SLOWLY = {"training.learning_rate": 1e-3}  # Adam's first large steps would blow rounding up
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0"  # 11 s instead of 26, for four steps


def kept_volumes(folder):
    with np.load(Path(folder) / "volumes.npz") as kept:
        return [Prepared(str(n), kept["images"][n], kept["labels"][n], (4.0, 4.0, 6.0)) for n in range(len(kept["images"]))]


def tiny_losses(folder):
    """Loss of each of four steps from the weights, cases and profile in `folder`, under whatever backend Keras has."""
    profile, cases = load_profile(Path(folder) / "tiny.yaml", SLOWLY), kept_volumes(folder)
    model = compiled_network(profile)
    model.load_weights(Path(folder) / "start.weights.h5")
    batches = Batches(cases, profile, length=4)
    return [float(model.train_on_batch(*batches[index])[0]) for index in range(4)]


def losses_by_workers(folder):
    """Loss of each of two epochs, the batches made by one process and by two."""
    short = {"training.epochs": 2, "training.batches_per_epoch": 2, "training.validation_batches": 0}
    profile, cases = load_profile(Path(folder) / "tiny.yaml", short), kept_volumes(folder)
    for workers in (1, 2):
        history = fit(compiled_network(profile), cases, [], profile, Path(folder) / str(workers), workers=workers)
        yield [row["loss"] for row in history]


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_jax_trains_the_same_network_to_the_same_losses(tmp_path, tiny_volumes, tiny_yaml):
    pytest.importorskip("jax", reason="jax is not installed")
    shutil.copy(tiny_yaml, tmp_path / "tiny.yaml")
    np.savez(tmp_path / "volumes.npz", images=[v.image for v in tiny_volumes], labels=[v.labels for v in tiny_volumes])
    compiled_network(load_profile(tiny_yaml, SLOWLY)).save_weights(tmp_path / "start.weights.h5")
    call = "json.dumps([t.tiny_losses(sys.argv[1]), *t.losses_by_workers(sys.argv[1])])"
    code = f"import sys, json, keras, test_training as t; print(keras.backend.backend(), {call})"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_TO_COMPILE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    backend, told = done.stdout.splitlines()[-1].split(maxsplit=1)
    losses, by_one, by_two = json.loads(told)
    assert backend == "jax" and by_one == by_two
    assert losses == pytest.approx(tiny_losses(tmp_path), rel=1e-5)
    assert keras.backend.backend() == "tensorflow"


# ---------------------------------------------------------------------------------------------------------------- the paper's own


def available_gib():
    """Memory that could be had now, GiB; infinite where the system does not tell."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), math.inf)


def one_step(profile):
    """Shape of the batch; loss and soft Dice of one training step; how far each of the network's arrays moved."""
    rng = np.random.default_rng(0)
    labels = np.zeros([n + 4 for n in profile.patches.shape_vox], np.uint8)
    x, y, z = (n // 8 for n in labels.shape)
    labels[x : 3 * x, y : 7 * y, z : 7 * z], labels[5 * x : 7 * x, y : 7 * y, z : 7 * z] = 1, 2
    labels[2 * x : 3 * x, 2 * y : 4 * y, 2 * z : 5 * z] = 3
    cases = [Prepared(f"case_{n}", rng.normal(labels, 0.5).astype(np.float32), labels, (1.58, 1.58, 2.7)) for n in range(2)]
    model = compiled_network(profile)
    before = [weights.copy() for weights in model.get_weights()]
    image, truth = Batches(cases, profile, length=1)[0]
    results = [float(value) for value in model.train_on_batch(image, truth)]
    return image.shape, results, [np.abs(new - old).max() for new, old in zip(model.get_weights(), before, strict=True)]


@pytest.mark.slow
def test_one_training_step_of_the_paper_s_profile():
    """2 patches of 160 x 160 x 80 through 22.6 million parameters, forward and back."""
    if available_gib() < 12:
        pytest.skip(f"needs 12 GiB of free memory, here {available_gib():.0f}")
    shape, (loss, lungs, infection), moved = one_step(load_profile("paper"))
    assert shape == (2, 160, 160, 80, 1)
    assert 1 < loss < 10 and 0 < lungs < 1 and 0 < infection < 1
    assert np.isfinite(moved).all() and np.count_nonzero(moved) > 0.9 * len(moved)


def test_a_packed_run_trains_without_its_scans_and_is_taken_back_as_trained(tmp_path, copied):
    """On another machine: settings and 8-bit volumes only. Back at home the fold counts as trained."""
    home = copied()
    shutil.rmtree(home.fold_folder(0))
    away = reopen_run(pack_run(home, tmp_path / "packed"))
    assert away.data is None and away.profile == home.profile and away.folds == home.folds
    case = home.cases[0]
    here, there = (run.prepared([case])[0] for run in (home, away))
    assert np.abs(here.image - there.image).max() <= np.ptp(here.image) / 510 * 1.01 and there.spacing_mm == here.spacing_mm
    np.testing.assert_array_equal(here.labels, there.labels)
    history = train_fold(away, 0)
    shutil.copytree(away.fold_folder(0), home.fold_folder(0))
    assert train_fold(home, 0) == history and not list(home.folder.glob("fold_0.previous*"))


def test_a_folder_that_is_no_run_cannot_be_reopened(tmp_path):
    with pytest.raises(DataError, match=r"no run\.json of a run"):
        reopen_run(tmp_path)


AWAY = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "nibabel", "matplotlib", "yaml", "papermill", "tqdm"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Missing())
from covidlib.__main__ import main
sys.exit(main(["train", "--run", sys.argv[1], "--folds", "0"]))
"""


def test_a_packed_run_trains_under_jax_where_little_is_installed(tmp_path, trained_run):
    """As on a GPU machine without TensorFlow and nibabel: keras, jax, scipy and batchgenerators are enough."""
    packed = pack_run(trained_run, tmp_path / "packed")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", AWAY, str(packed)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fold 0: loss" in done.stdout and (packed / "fold_0" / "model.weights.h5").is_file()
