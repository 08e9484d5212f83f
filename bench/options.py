"""What each choice of a profile is worth: one change at a time, the same steps, the same cases. Writes results/options.csv.

    python bench/options.py --data DIR                       every option that has no row yet
    python bench/options.py --data DIR --only "batch normalization"

The cases are the training cases of one fold: 12 to learn from, one published group of 4 to judge by. The fold's own test cases
are never looked at. (The 4 are test cases of another fold, so what was chosen here makes that fold's scores a little too good.)
"""

import csv
import time
from collections.abc import Sequence
from typing import Any

from unseen import command_line, dice, write_table

from covidlib.dataset import MA_GROUPS, Fold
from covidlib.files import fingerprint
from covidlib.profile import load_profile
from covidlib.runs import ROOT, Run, data_name, machine, open_run

TABLE = ROOT / "results" / "options.csv"
FOLD, JUDGED_BY = 2, 0  # the fold whose test cases stay unseen; the group that the options are judged by
STEPS: dict[str, Any] = {
    "training.epochs": 3, "training.cycle_epochs": [], "training.batches_per_epoch": 100, "training.validation_batches": 0,
}  # fmt: skip
FINER = {
    "preprocessing.spacing_mm": [2.0, 2.0, 2.7],
    "patches.shape_vox": [160, 128, 16],
    "inference.window_shape_vox": [160, 128, 16],
}
PAPER = {
    "preprocessing.grey": "volume", "preprocessing.z_score": "volume", "patches.infection_fraction": 0.0,
    "augmentation.mirror_axes": "xyz", "augmentation.swap_lungs": False, "augmentation.image_order": 3, "network.norm": "batch",
    "loss.counts": "sample", "training.learning_rate": 0.001, "training.schedule": "plateau", "training.weights": "best",
    "inference.window_shape_vox": [128, 96, 12], "inference.mirror_axes": "none",
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "the profile as it is": {},
    "float32": {"network.precision": "float32"},
    "another seed": {"seed": [1]},
    "mean of two networks": {"seed": [0, 1]},
    "whole volume at once": {"inference.mode": "volume"},
    "windows half as high": {"inference.window_shape_vox": [128, 96, 12]},
    "windows of whole slices": {"inference.window_shape_vox": [160, 144, 12]},
    "smaller windows": {"inference.window_shape_vox": [96, 96, 24]},
    "no mirror images at test time": {"inference.mirror_axes": "none"},
    "finer grid": FINER,
    "finer grid, half the steps": {**FINER, "training.batches_per_epoch": 50},
    "learning rate 0.001": {"training.learning_rate": 0.001},
    "polynomial schedule": {"training.schedule": "polynomial"},
    "constant rate (plateau rule)": {"training.schedule": "plateau"},
    "patches drawn uniformly": {"patches.infection_fraction": 0.0},
    "patches drawn uniformly, another seed": {"patches.infection_fraction": 0.0, "seed": [1]},
    "a quarter of the patches around infection": {"patches.infection_fraction": 0.25},
    "mirroring along all axes": {"augmentation.mirror_axes": "xyz"},
    "lungs not swapped when mirrored": {"augmentation.swap_lungs": False},
    "no augmentation but mirroring": {"augmentation.probability": 0.0},
    "augmentation twice as often": {"augmentation.probability": 0.3},
    "fixed mean and deviation of grey": {"preprocessing.z_score": "fixed"},
    "batch normalization": {"network.norm": "batch"},
    "batch normalization, fixed mean and deviation": {"network.norm": "batch", "preprocessing.z_score": "fixed"},
    "running mean of the weights": {"training.average_momentum": 0.99},
    "soft counts per sample": {"loss.counts": "sample"},
    "Tversky 0.3 / 0.7": {"loss.alpha": 0.7, "loss.beta": 0.3},
    "each volume's own grey window": {"preprocessing.grey": "volume", "preprocessing.z_score": "volume"},
    "paper's patch shape, a quarter": {"patches.shape_vox": [96, 96, 32], "inference.window_shape_vox": [96, 96, 32]},
    "the paper's recipe, on this network and grid": PAPER,
    "twice the filters": {"network.filters": [32, 64, 96, 192, 256]},
}


def main() -> None:
    """Measure the options that are not in the table yet."""
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=OPTIONS, metavar="NAME", help="one of: " + "; ".join(OPTIONS))
    given = parser.parse_args()
    for name in [given.only] if given.only else OPTIONS:
        if name not in {row["option"] for row in table()}:
            row = {"option": name, **measure(given.profile, given.data, OPTIONS[name])}
            write_table(sorted([*table(), row], key=lambda row: list(OPTIONS).index(row["option"])), TABLE)


def table() -> list[dict[str, Any]]:
    """What has been measured so far; read anew each time, for several may measure at once."""
    return list(csv.DictReader(TABLE.open(encoding="utf-8"))) if TABLE.is_file() else []


def measure(profile: str, data: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Train for `STEPS` with `changes`, score the judging cases: a row of the table.

    What only changes prediction is judged with the network of the profile as it is, trained once and kept under runs/options.
    Each of the values of `seed` makes a network; the mean of what they predict is judged.
    """
    from covidlib.engine import computed_in

    grid = fingerprint({key: value for key, value in changes.items() if key.startswith("preprocessing.")})[:12]
    where, seeds = ROOT / "runs" / "options" / grid, changes.get("seed", [load_profile(profile).seed])
    runs = [open_run(profile, data, where, {**STEPS, **changes, "seed": seed}) for seed in seeds]
    run, judged_by = runs[0], MA_GROUPS[JUDGED_BY]
    split = Fold(FOLD, tuple(case for case in run.folds[FOLD].train if case not in judged_by), judged_by)
    models, losses, minutes = zip(*(train(one, split) for one in runs), strict=True)
    return {
        "changed": "; ".join(f"{key} = {value}" for key, value in changes.items()),
        **judge(run, models, split),
        "training_loss": f"{sum(losses) / len(losses):.4f}",
        "cpu_minutes": f"{sum(minutes):.1f}" if all(minutes) else "",
        "steps": run.profile.training.epochs * run.profile.training.batches_per_epoch,
        "seed": " ".join(map(str, seeds)),
        "trained_on": " ".join(split.train),
        "judged_by": " ".join(split.test),
        "data": data_name(run),
        "machine": machine(),
        "computed_in": computed_in(run.profile.network),
    }


def train(run: Run, split: Fold) -> tuple[Any, float, float]:
    """The network after training, its last loss, and the minutes of processor time it took now, 0 if it lay there."""
    from covidlib.training import CODE, compiled_network, fit

    model, cases = compiled_network(run.profile), run.prepared(split.train)
    made_by = {section: given for section, given in run.profile.as_dict().items() if section != "inference"}
    folder = run.folder / fingerprint(made_by, *CODE)[:12]
    was_there, begun = (folder / "checkpoint.json").is_file(), time.process_time()
    history = fit(model, cases, [], run.profile, folder)
    return model, history[-1]["loss"], 0 if was_there else (time.process_time() - begun) / 60


def judge(run: Run, models: Sequence[Any], split: Fold) -> dict[str, str]:
    """Mean Dice of each class over the judging cases, on their own grids."""
    from covidlib.inference import mean, predict_volume
    from covidlib.preprocessing import labels_on_grid

    found = []
    for case, prepared in zip(map(run.case, split.test), run.prepared(split.test), strict=True):
        probabilities = mean(predict_volume(model, prepared, run.profile) for model in models)
        found.append(dice(case.labels, labels_on_grid(probabilities, case.labels.shape)))
    return {f"dice_{name}": f"{sum(one[name] for one in found) / len(found):.4f}" for name in found[0]}


if __name__ == "__main__":
    main()
