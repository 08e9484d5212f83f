"""Every wrong key, type and range is named with what is allowed; paper.yaml and the dataclasses say the same."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import yaml

from covidlib.errors import DataError
from covidlib.profile import PROFILES, Inference, Network, Patches, Profile, lineage, load_profile, profile_names
from covidlib.runs import ROOT


def test_paper_yaml_is_the_defaults_of_the_dataclasses():
    assert load_profile("paper") == Profile()


def test_paper_yaml_spells_every_setting_out():
    written = yaml.safe_load((PROFILES / "paper.yaml").read_text(encoding="utf-8"))
    for section in dataclasses.fields(Profile):
        if dataclasses.is_dataclass(section.type):
            assert set(written[section.name]) == {field.name for field in dataclasses.fields(section.type)}, section.name


def test_the_numbers_of_the_paper():
    paper = Profile()
    assert paper.preprocessing.spacing_mm == (1.58, 1.58, 2.70) and paper.preprocessing.window_hu == (-1250, 250)
    assert paper.patches.shape_vox == (160, 160, 80) and paper.patches.batch_size == 2
    assert paper.augmentation.probability == 0.15 and paper.augmentation.rotation_degrees == (15, 15, 15)
    assert paper.network.filters == (32, 64, 128, 256, 512)
    assert (paper.loss.alpha, paper.loss.beta) == (0.5, 0.5)
    training = paper.training
    assert (training.learning_rate, training.plateau_patience, training.learning_rate_floor) == (1e-3, 15, 1e-5)
    assert (training.stop_patience, training.epochs, training.batches_per_epoch) == (100, 1000, 150)
    assert paper.inference.overlap == 0.5


@pytest.mark.parametrize("name", profile_names())
def test_each_profile_loads_and_can_be_written_as_json_and_yaml(name):
    profile = load_profile(name)
    assert profile.name == name
    assert json.loads(json.dumps(profile.as_dict())) == profile.as_dict()
    assert yaml.safe_load(yaml.safe_dump(profile.as_dict())) == profile.as_dict()


def test_a_profile_written_out_reads_back_the_same(tmp_path):
    profile = load_profile("paper", {"training.epochs": 3, "data.intensity": {"coronacases_001": "hu"}})
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(profile.as_dict()))
    assert load_profile(path) == profile


def test_a_section_given_as_a_whole_leaves_what_it_does_not_name():
    assert load_profile("demo", {"training": {"epochs": 3}}) == load_profile("demo", {"training.epochs": 3})
    whole = {"data.intensity": {"coronacases_001": "hu"}}
    assert load_profile("demo", {"data": {"intensity": {"coronacases_001": "hu"}}}) == load_profile("demo", whole)
    with pytest.raises(DataError, match="training: is 3; allowed: a section"):
        load_profile("demo", {"training": 3})


@pytest.mark.parametrize("text", ["training: {epochs: 7}\ntraining: {schedule: cosine}\n", "a: {training: 1, training: 2}\n"])
def test_a_key_that_stands_twice_is_refused(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(DataError, match="profile mine.yaml: .*training stands twice"):
        load_profile(tmp_path / "mine.yaml")


def test_a_learning_rate_below_its_floor_is_refused():
    """The schedules would raise it to the floor."""
    with pytest.raises(DataError, match=r"learning_rate_floor is 1e-05; allowed: at most training.learning_rate \(1e-06\)"):
        load_profile("demo", {"training.learning_rate": 1e-6})
    assert load_profile("demo", {"training.learning_rate": 1e-5}).training.learning_rate == 1e-5


@pytest.mark.parametrize("key", ["contrast", "gamma", "scaling"])
def test_factors_that_batchgenerators_would_not_draw_are_refused(key):
    with pytest.raises(DataError, match=rf"augmentation.{key} is \[0.5, 0.8\]; allowed: up to 1 or more"):
        load_profile("demo", {f"augmentation.{key}": [0.5, 0.8]})
    assert getattr(load_profile("demo", {f"augmentation.{key}": [0.5, 1]}).augmentation, key) == (0.5, 1.0)


@pytest.mark.parametrize("name", profile_names())
def test_each_profile_goes_through_notebook_08(name):
    """It shrinks the profile in use, so what it changes must go together with all the rest of it."""
    notebook = json.loads((ROOT / "notebooks" / "08_change_one_thing.ipynb").read_text(encoding="utf-8"))
    cells = {"".join(cell["source"]).split(" = ")[0]: "".join(cell["source"]) for cell in notebook["cells"]}
    found = {"overrides": {}, "run": SimpleNamespace(profile=load_profile(name))}
    exec(cells["same"] + "\n" + cells["changes"], found)
    for change in found["changes"].values():
        assert load_profile(name, {**found["same"], **change}).training.epochs == 4


def test_the_three_profiles_of_the_project_are_there():
    assert {"demo", "surrogate", "paper"} <= set(profile_names())


def test_a_file_of_ones_own_names_only_what_differs(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 7}\n")
    profile = load_profile(path)
    assert profile.name == "mine" and profile.training.epochs == 7
    assert profile == dataclasses.replace(Profile(), name="mine", training=profile.training)


def test_overrides_come_last(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 7, batches_per_epoch: 5}\n")
    profile = load_profile(path, {"training.epochs": 9, "seed": 3})
    assert (profile.training.epochs, profile.training.batches_per_epoch, profile.seed) == (9, 5, 3)


def test_an_empty_file_is_the_paper(tmp_path):
    path = tmp_path / "nothing.yaml"
    path.write_text("# nothing differs\n")
    assert load_profile(path) == Profile(name="nothing")


def test_a_whole_number_may_stand_for_a_real_one_but_not_the_other_way():
    profile = load_profile("paper", {"training.learning_rate": 1})
    assert profile.training.learning_rate == 1.0 and isinstance(profile.training.learning_rate, float)
    with pytest.raises(DataError, match="training.epochs is 3.0; allowed: int"):
        load_profile("paper", {"training.epochs": 3.0})


WRONG = {
    "unknown key": ({"training.epocs": 3}, "training.epocs", "did you mean epochs?"),
    "unknown section": ({"trainin.epochs": 3}, "trainin", "did you mean training?"),
    "unknown key, all allowed ones named": ({"patches.zzz": 3}, "patches.zzz", "shape_vox, batch_size, infection_fraction"),
    "text for a number": ({"training.epochs": "many"}, "training.epochs", "allowed: int"),
    "truth for a number": ({"training.epochs": True}, "training.epochs", "allowed: int"),
    "number for truth": ({"augmentation.swap_lungs": 1}, "augmentation.swap_lungs", "allowed: bool"),
    "nothing": ({"training.epochs": None}, "training.epochs", "allowed: int"),
    "list for a number": ({"training.epochs": [3]}, "training.epochs", "allowed: int"),
    "list for a choice": ({"loss.counts": ["batch"]}, "loss.counts", "allowed: str"),
    "too small": ({"training.epochs": 0}, "training.epochs", "allowed: 1 to 100000"),
    "too large": ({"augmentation.probability": 1.5}, "augmentation.probability", "allowed: 0 to 1"),
    "not a number": ({"training.learning_rate": float("nan")}, "training.learning_rate", "allowed: 1e-08 to 10"),
    "infinite": ({"training.learning_rate": float("inf")}, "training.learning_rate", "allowed: 1e-08 to 10"),
    "bad choice": ({"training.schedule": "linear"}, "training.schedule", "allowed: plateau, cosine, polynomial"),
    "tuple too short": ({"patches.shape_vox": [16, 16]}, "patches.shape_vox", "allowed: a list of 3 numbers (int)"),
    "tuple too long": ({"augmentation.scaling": [1, 2, 3]}, "augmentation.scaling", "allowed: a list of 2 numbers"),
    "number for a tuple": ({"patches.shape_vox": 16}, "patches.shape_vox", "allowed: a list of 3 numbers"),
    "wrong item": ({"patches.shape_vox": [16, 16, "x"]}, "patches.shape_vox", "allowed: int"),
    "item out of range": ({"preprocessing.spacing_mm": [1, 0, 1]}, "preprocessing.spacing_mm", "allowed: 0.3 to 20"),
    "range upside down": ({"preprocessing.window_hu": [250, -1250]}, "preprocessing.window_hu", "the smaller number first"),
    "one level": ({"network.filters": [8]}, "network.filters", "allowed: a list of 2 or more"),
    "number for a section": ({"training": 3}, "training", "allowed: a section"),
    "value below a value": ({"training.epochs.x": 3}, "training.epochs.x", "allowed: a section"),
    "unknown intensity": ({"data.intensity": {"coronacases_001": "HU"}}, "data.intensity", "case: hu or case: grey"),
    "intensity as a list": ({"data.intensity": ["coronacases_001"]}, "data.intensity", "allowed: a section"),
    "patch not divisible": ({"patches.shape_vox": [160, 150, 80]}, "patches.shape_vox", "multiples of [16, 16, 16]"),
    "half a cycle": (
        {"training.cycle_epochs": [300, 300], "training.schedule": "cosine", "training.weights": "last"},
        "training.cycle_epochs",
        "add up to training.epochs (1000)",
    ),
    "a mean of nothing": ({"training.weights": "mean"}, "training.weights", "with training.cycle_epochs, and network.norm"),
    "cycles of a plateau": ({"training.cycle_epochs": [1000]}, "training.cycle_epochs", "with schedule cosine or polynomial"),
    "window not divisible": ({"inference.window_shape_vox": [160, 160, 81]}, "inference.window_shape_vox", "e.g. [160, 160, 80]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_the_key_and_what_is_allowed(name):
    overrides, key, allowed = WRONG[name]
    with pytest.raises(DataError) as caught:
        load_profile("paper", overrides)
    assert key in str(caught.value) and allowed in str(caught.value)


def test_a_profile_to_begin_with_is_looked_for_beside_the_one_that_names_it(tmp_path, monkeypatch):
    """Jobs and notebooks work in other folders."""
    (tmp_path / "coarse.yaml").write_text("seed: 3\n")
    (tmp_path / "fine.yaml").write_text("training: {begin_with: coarse.yaml}\n")
    monkeypatch.chdir(tmp_path)
    assert load_profile("fine.yaml").training.begin_with == str(tmp_path / "coarse.yaml")
    monkeypatch.chdir("/")
    assert lineage(tmp_path / "fine.yaml") == [tmp_path / "fine.yaml", tmp_path / "coarse.yaml"]


def test_a_case_may_be_named_by_a_number():
    assert load_profile("paper", {"data.intensity": {1002: "hu"}}).data.intensity == {"1002": "hu"}


def test_an_error_names_the_file_and_what_came(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training: {epochs: 0}\n")
    with pytest.raises(DataError, match=r"profile mine\.yaml: training\.epochs is 0; allowed: 1 to"):
        load_profile(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"training: [epochs: 3", "not valid YAML"),
        (b"- training\n- data\n", "allowed: a section"),
        (b"training:\n", "training: is None; allowed: a section"),
        (b"name: 3\n", "name is 3; allowed: str"),
        (b"name: caf\xe9\n", "mine.yaml"),  # Latin-1, not UTF-8
        (b"\x00\x01\x02", "mine.yaml"),
    ],
)
def test_a_file_that_is_no_profile_is_an_error_of_ours(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_profile(path)
    assert "mine.yaml" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("name", ["papper", "no/such/file.yaml"])
def test_a_missing_profile_names_those_there_are(name):
    with pytest.raises(DataError) as caught:
        load_profile(name)
    assert name in str(caught.value) and "demo, paper, surrogate" in str(caught.value)


def test_a_number_written_as_1e_3_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-3, without a point, as text; a reader means the number."""
    path = tmp_path / "mine.yaml"
    path.write_text("training: {learning_rate: 1e-3}\n")
    assert load_profile(path).training.learning_rate == 0.001


@pytest.mark.parametrize(("flat_levels", "step"), [(0, (16, 16, 16)), (1, (16, 16, 8)), (2, (16, 16, 4)), (8, (16, 16, 1))])
def test_smallest_step_counts_the_poolings_of_each_axis(flat_levels, step):
    assert Network(flat_levels=flat_levels).smallest_step == step
    assert Network(flat_levels=flat_levels, stride=(2, 1, 3)).smallest_step == (2 * step[0], step[1], 3 * step[2])


def test_a_profile_made_in_code_is_checked_too():
    with pytest.raises(DataError, match=r"patches\.shape_vox is \[20, 16, 16\]; allowed: multiples of \[16, 16, 16\]"):
        Profile(patches=Patches(shape_vox=(20, 16, 16)), inference=Inference(window_shape_vox=(16, 16, 16)))


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Profile().seed = 1
