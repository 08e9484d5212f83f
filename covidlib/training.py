"""A fold in; trained weights and a history out. Stops at any minute and goes on. Paper section 3.6."""

import itertools
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from covidlib.batches import Batches
from covidlib.errors import DataError
from covidlib.files import fingerprint, only_one, read_json, whole_file, write_json
from covidlib.losses import SoftDice, TverskyCrossEntropy
from covidlib.network import begin_with, build_network
from covidlib.preprocessing import Prepared, kept_text
from covidlib.profile import Profile, Training
from covidlib.runs import Run, beginning, commit, machine, versions

CODE = ("augmentation", "batches", "losses", "network", "patches", "training")
log = logging.getLogger("covidlib")


def train_fold(
    run: Run, number: int, on_epoch: Callable[[list[dict[str, float]]], None] | None = None, workers: int = 1
) -> list[dict[str, float]]:
    """Train one fold, or go on with it, or return what is there if it is finished.

    What made a fold (settings, training cases, code) is kept with it; if that has changed, the old folder is moved aside to
    fold_<k>.previous-<key> and training begins anew; if the change is undone, it comes back. A fold of fewer cycles
    (`training.cycle_epochs`) goes on from where it is. Where it is to begin with another profile's network
    (`training.begin_with`), that one is trained first.

    Args:
        run: the run.
        number: the fold.
        on_epoch: called with the history after each epoch, for live curves.
        workers: processes that make batches; the batches are the same for any number.

    Returns:
        history: one dict per epoch (epoch, loss, soft_dice_lungs, soft_dice_infection, val_..., learning_rate, minutes).

    Raises:
        DataError: another call is training this fold; the loss is no number.
    """
    folder, first = run.fold_folder(number), beginning(run)
    keys = _keys(run, number, first)
    state = _state(folder, keys)
    noted = read_json(folder / "fold.json") or {}
    if _complete(state, run.profile.training) and noted.get("epochs") == len(state["history"]):
        return state["history"]
    fold = run.fold(number)
    train, test = run.prepared(fold.train), run.prepared(fold.test)
    with only_one(run.folder / ".training" / folder.name):  # two would take each other's checkpoints away
        model = compiled_network(run.profile)
        if first and not state:
            begin_with(model, _trained(first, number, workers))
        history = fit(model, train, test, run.profile, folder, keys[-1], on_epoch, workers)
    took = {"epochs": len(history), "minutes": history[-1]["minutes"], "commit": commit(), "machine": machine()}
    if first:
        took["began_with"] = read_json(first.fold_folder(number) / "fold.json")
    write_json(folder / "fold.json", {**took, "versions": versions(), "test": fold.test})
    return history


def _trained(run: Run, number: int, workers: int) -> keras.Model:
    """The network of a fold, which is trained if it is not yet; its progress is logged."""
    log.info("fold %d: begins with the network of %s", number, run.profile.name)
    train_fold(run, number, lambda rows: say_progress(rows, run.profile.training.epochs), workers)
    model = build_network(run.profile.network)
    model.load_weights(run.fold_folder(number) / "model.weights.h5")
    return model


def say_progress(history: Sequence[Mapping[str, float]], epochs: int) -> None:
    """Log a line at every tenth of the epochs: loss, and minutes left if the rest goes like what is done."""
    done = len(history)
    if done % max(1, epochs // 10) == 0 or done == epochs:
        left = history[-1]["minutes"] / done * (epochs - done)
        log.info("epoch %d of %d: loss %.3f, about %.0f minutes left", done, epochs, history[-1]["loss"], left)


def compiled_network(profile: Profile) -> keras.Model:
    """The profile's network with its loss, soft Dice metrics and Adam, ready to fit."""
    model = build_network(profile.network, profile.seed)
    model.compile(
        optimizer=_optimizer(profile.training),
        loss=TverskyCrossEntropy(profile.loss),
        metrics=[SoftDice((1, 2), "soft_dice_lungs"), SoftDice((3,), "soft_dice_infection")],
        jit_compile=keras.backend.backend() == "jax",  # XLA on a CPU is many times slower at 3D convolution
    )
    return model


def _optimizer(settings: Training) -> keras.optimizers.Optimizer:
    average = {"use_ema": True, "ema_momentum": settings.average_momentum} if settings.average_momentum else {}
    return keras.optimizers.Adam(settings.learning_rate, **average)


def fit(
    model: keras.Model,
    train: list[Prepared],
    test: list[Prepared],
    profile: Profile,
    folder: Path,
    key: str = "",
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    workers: int = 1,
) -> list[dict[str, float]]:
    """Fit `model` on the cases of `train`, watching crops of `test`; continue from the checkpoint in `folder` if there is one.

    Leaves model.weights.h5 (of the best training loss, the last, or the mean of all cycles: `training.weights`) and history.csv
    in `folder`, and these weights in the model. Returns the history.
    """
    settings = profile.training
    keeper = Keeper(folder, settings, key, on_epoch)
    begun = keeper.load(model)
    if _complete(keeper.state, settings):
        return keeper.state["history"]
    if not keeper.finished:
        batches = Batches(train, profile, settings.batches_per_epoch, workers=workers)
        watched = test if settings.validation_batches else []
        watch = Batches(watched, profile, settings.validation_batches, augment=False).feed() if watched else None
        if workers > 1:
            model.test_on_batch(*batches[0])  # or Keras would draw some to see their shapes, before it is said of which epoch
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: setattr(batches, "epoch", epoch))
        model.fit(
            batches.feed(),
            validation_data=watch,
            initial_epoch=begun,
            epochs=settings.epochs,
            callbacks=[begin, keeper, *_tensorboard(folder)],
            shuffle=False,
            verbose=0,
        )
    keeper.close(model)
    return keeper.state["history"]


def next_rate(epoch: int, state: dict[str, Any], settings: Training) -> float:
    """Learning rate of an epoch (counted from 0): as the plateau rule left it, or by the cosine or polynomial schedule.

    These two begin anew with every cycle (SGDR, Loshchilov and Hutter 2017).
    """
    if settings.schedule == "plateau":
        return float(state["rate"])
    start, length = _cycle(epoch, settings)
    share = (epoch - start) / length
    shape = 0.5 * (1 + math.cos(math.pi * share)) if settings.schedule == "cosine" else (1 - share) ** 0.9
    return max(settings.learning_rate_floor, settings.learning_rate * shape)


def _cycle(epoch: int, settings: Training) -> tuple[int, int]:
    """The first epoch and the length of the cycle that an epoch lies in; past the last, of the last."""
    lengths = settings.cycle_epochs or (settings.epochs,)
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return max(pair for pair in zip(starts, lengths, strict=True) if pair[0] <= epoch)


def _cycle_ends(settings: Training) -> list[int]:
    """The last epoch of each cycle, counted from 1."""
    return list(itertools.accumulate(settings.cycle_epochs))


def after_epoch(state: dict[str, Any], loss: float, settings: Training) -> None:
    """Update the schedule's memory with an epoch's training loss: best so far, epochs without a fall, rate, whether to stop.

    A fall is one by more than `plateau_delta` for the rate; early stopping counts every epoch without a new lowest loss, and is
    not for cycles, with each of which the loss rises on purpose.
    """
    state["since_best"] = 0 if loss < state["best"] else state["since_best"] + 1
    state["best"] = min(state["best"], loss)
    fell = loss < state["plateau_best"] - settings.plateau_delta
    state["plateau_best"] = loss if fell else state["plateau_best"]
    state["since_fall"] = 0 if fell else state["since_fall"] + 1
    if settings.schedule == "plateau" and state["since_fall"] >= settings.plateau_patience:
        state["rate"] = max(settings.learning_rate_floor, state["rate"] * settings.plateau_factor)
        state["since_fall"] = 0
    state["stop"] = not settings.cycle_epochs and state["since_best"] >= settings.stop_patience


class Keeper(keras.callbacks.Callback):
    """Sets each epoch's learning rate, and keeps weights, optimizer, schedule and history on disk after each epoch."""

    def __init__(self, folder: Path, settings: Training, key: str, on_epoch: Callable | None):
        """`key` is written into the checkpoint: what made it."""
        super().__init__()
        self.folder, self.settings, self.on_epoch = Path(folder), settings, on_epoch
        fresh = {"rate": settings.learning_rate, "best": math.inf, "plateau_best": math.inf, "since_best": 0, "since_fall": 0}
        self.state: dict[str, Any] = {"key": key, "done": False, "stop": False, "history": [], **fresh}

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return self.state["stop"] or len(self.state["history"]) >= self.settings.epochs

    def load(self, model: keras.Model) -> int:
        """Restore the last checkpoint into model and optimizer; returns the epoch to begin with (0 where there is none)."""
        kept = read_json(self.folder / "checkpoint.json")
        if kept:
            self.state = {**kept, "key": self.state["key"]}
            if not kept["done"]:
                model.optimizer.build(model.trainable_variables)
            model.load_weights(self.folder / "model.weights.h5" if kept["done"] else self._weights(len(kept["history"])))
            if not kept["done"]:
                self._keep(len(kept["history"]), kept["since_best"] == 0)
            elif self.settings.weights == "mean":
                shutil.copyfile(self.folder / "model.weights.h5", self.folder / "kept.weights.h5")
        return len(self.state["history"])

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set the learning rate; with a new cycle, forget Adam's means, so that it begins as from a finished fold's weights."""
        self.started = time.monotonic()
        if epoch and epoch == _cycle(epoch, self.settings)[0]:
            for variable in self.model.optimizer.variables:
                variable.assign(ops.zeros_like(variable))
        self.model.optimizer.learning_rate = next_rate(epoch, self.state, self.settings)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """After a few batches of the first epoch: say what the whole will cost."""
        if batch == 0:  # the first batch also compiles: do not count it
            self.compiled = time.monotonic()
        if batch == 5 and not self.state["history"]:
            minutes = self.settings.epochs * self.settings.batches_per_epoch * (time.monotonic() - self.compiled) / 5 / 60
            log.info("%s: at most %d epochs, about %.0f minutes", self.folder.name, self.settings.epochs, minutes)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write everything needed to go on; first the weights, for the JSON file says that they count."""
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(self.model.optimizer.learning_rate)
        before = self.state["history"][-1]["minutes"] if self.state["history"] else 0.0
        minutes = before + (time.monotonic() - self.started) / 60
        if not math.isfinite(numbers["loss"]):
            what = f"{self.folder.name}: the loss is {numbers['loss']} in epoch {epoch + 1}"
            raise DataError(f"{what}; allowed: a finite number; lower training.learning_rate")
        after_epoch(self.state, numbers["loss"], self.settings)
        self.state["done"] = False  # it is not any more, if this fold was and goes on with another cycle
        self.state["history"].append({"epoch": epoch + 1, **numbers, "learning_rate": rate, "minutes": minutes})
        if self.settings.weights == "mean" and epoch + 1 in (ends := _cycle_ends(self.settings)):
            self._average(ends.index(epoch + 1))
        _save(self.model, self._weights(epoch + 1))
        write_json(self.folder / "checkpoint.json", self.state)
        self._keep(epoch + 1, self.state["since_best"] == 0)
        self._weights(epoch).unlink(missing_ok=True)
        _write_history(self.folder, self.state["history"])
        self.model.stop_training = bool(self.state["stop"])
        if self.on_epoch:
            self.on_epoch(self.state["history"])

    def close(self, model: keras.Model) -> None:
        """Put the kept weights into the model and beside the history, without the optimizer; drop the checkpoint."""
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / "kept.weights.h5")
        model.optimizer.finalize_variable_values(model.trainable_variables)  # the running mean of the weights, if one is kept
        bare = keras.Model(model.inputs, model.outputs)
        _save(bare, self.folder / "model.weights.h5")
        _write_history(self.folder, self.state["history"])
        write_json(self.folder / "checkpoint.json", {**self.state, "done": True})
        for path in (self.folder / "kept.weights.h5", self._weights(len(self.state["history"]))):
            path.unlink(missing_ok=True)

    def _average(self, before: int) -> None:
        """Replace the model's weights by their mean with those that so many cycles before ended with, which `_keep` kept."""
        last = self.model.get_weights()
        if before:
            keras.Model(self.model.inputs, self.model.outputs).load_weights(self.folder / "kept.weights.h5")  # Adam's stay
            pairs = zip(self.model.get_weights(), last, strict=True)
            self.model.set_weights([mean + (new - mean) / (before + 1) for mean, new in pairs])

    def _keep(self, epoch: int, best: bool) -> None:
        """Take an epoch's weights for those to predict with; done again after a stop, which may have come before it."""
        counts = {"best": best, "last": True, "mean": epoch in _cycle_ends(self.settings)}
        if counts[self.settings.weights]:
            with whole_file(self.folder / "kept.weights.h5") as temporary:
                shutil.copyfile(self._weights(epoch), temporary)

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"checkpoint-{epoch:04d}.weights.h5"


def _keys(run: Run, number: int, first: Run | None) -> list[str]:
    """What makes the fold, if training ends with its first cycle, the second, and so on; the last is the whole.

    `first` is the run that it begins with.
    """
    settings = run.profile.as_dict()
    fold = run.fold(number)
    made_by = {name: settings[name] for name in ("seed", "patches", "augmentation", "network", "loss", "training")}
    volumes = [_content(run, case) for case in (*fold.train, *fold.test)]
    began_with = _keys(first, number, beginning(first))[-1] if first else ""
    keys = []
    cycles = settings["training"]["cycle_epochs"]
    for end in range(1, len(cycles) + 1) or [0]:
        length = {"cycle_epochs": cycles[:end], "epochs": sum(cycles[:end]) or settings["training"]["epochs"]}
        made_by["training"] = {**settings["training"], **length, "begin_with": bool(first)}  # not its file, which may move
        keys.append(fingerprint([made_by, fold.train, fold.test, volumes, began_with], *CODE))
    return keys


def _content(run: Run, case: str) -> str:
    run.prepared([case])
    return kept_text(run.folder / "prepared" / f"{case}.npz", "content")


def _complete(state: dict[str, Any], settings: Training) -> bool:
    return bool(state.get("done")) and (state["stop"] or len(state["history"]) >= settings.epochs)


def _state(folder: Path, keys: list[str]) -> dict[str, Any]:
    """How far a fold is that these keys have made; another that lies there is moved aside, and one that lay aside taken back."""
    state = read_json(folder / "checkpoint.json") or {}
    if state and state["key"] not in keys:
        aside = _aside(folder, state["key"])
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        log.warning("%s: settings, data or code changed; the old fold is kept in %s", folder.name, aside.name)
        state = {}
    for aside in (_aside(folder, key) for key in reversed(keys)):
        if not state and (aside / "checkpoint.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)  # at most a beginning, without a whole epoch
            aside.rename(folder)
            log.warning("%s: taken back from %s, where these settings, data and code had made it", folder.name, aside.name)
            state = read_json(folder / "checkpoint.json")
    return state


def _aside(folder: Path, key: str) -> Path:
    return folder.with_name(f"{folder.name}.previous-{key[:8]}")


def _save(model: keras.Model, path: Path) -> None:
    with whole_file(path) as temporary:
        model.save_weights(temporary)


def _write_history(folder: Path, history: list[dict[str, float]]) -> None:
    lines = [",".join(history[0])] + [",".join(f"{value:.6g}" for value in row.values()) for row in history]
    with whole_file(folder / "history.csv") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tensorboard(folder: Path) -> list[keras.callbacks.Callback]:
    if keras.backend.backend() != "tensorflow":
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
