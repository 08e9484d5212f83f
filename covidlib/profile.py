"""YAML and overrides in, a frozen and checked Profile out: every number a run depends on.

The defaults below are the paper's (Müller et al. 2020, section in each comment). A profile file names what differs.
"""

import contextlib
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covidlib.errors import DataError

PROFILES = Path(__file__).resolve().parent.parent / "profiles"


def _number(default: Any, low: float, high: float, least: int = 2) -> Any:
    """A number, or a list of numbers, of `least` or more where its length is not given."""
    return field(default=default, metadata={"range": (low, high), "least": least})


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class Data:
    """Where the cases come from."""

    source: str = _choice("folder", "phantom")  # folder: --data names it; phantom: made on first use
    phantom_seed: int = _number(0, 0, 2**31)
    phantom_scale: float = _number(1.0, 0.2, 1.5)  # voxels per axis of the phantoms, as a fraction of their full size
    intensity: Mapping[str, str] = field(default_factory=dict)  # case -> hu | grey, where the detection is to be overruled


@dataclass(frozen=True)
class Folds:
    """How cases are dealt into training and test cases (section 3.1; Ma et al.'s published groups)."""

    scheme: str = _choice("ma", "random", "grouped", "inverted")  # grouped: random but for the release's one pair
    count: int = _number(5, 2, 20)  # of the random and grouped schemes
    seed: int = _number(0, 0, 2**31)

    @property
    def number(self) -> int:
        """How many folds there are."""
        return self.count if self.scheme in ("random", "grouped") else 5


@dataclass(frozen=True)
class Preprocessing:
    """Section 3.2."""

    window_hu: tuple[float, float] = _number((-1250.0, 250.0), -4096, 32767)
    grey: str = _choice("fixed", "volume")  # fixed: the window becomes 0-255; volume: each volume's own minimum and maximum do
    spacing_mm: tuple[float, float, float] = _number((1.58, 1.58, 2.70), 0.3, 20)
    low_pass: bool = True  # widen the cubic kernel where the grid gets coarser (the original does not)
    z_score: str = _choice("volume", "fixed", "levels")  # by each volume's mean and deviation; by these two for all volumes,
    # whatever part a scan shows; or by the grey of each scan's own lung and soft tissue, where its window is not known:
    fixed_mean_grey: float = _number(100.0, 0, 255)
    fixed_deviation_grey: float = _number(80.0, 1, 255)


@dataclass(frozen=True)
class Patches:
    """Section 3.4."""

    shape_vox: tuple[int, int, int] = _number((160, 160, 80), 8, 1024)
    batch_size: int = _number(2, 1, 64)
    infection_fraction: float = _number(0.0, 0, 1)  # of the patches centred on an infected voxel; the paper draws uniformly


@dataclass(frozen=True)
class Augmentation:
    """Section 3.3; ranges from the original code."""

    probability: float = _number(0.15, 0, 1)  # of each transform and sample, mirroring excepted
    mirror_probability: float = _number(0.5, 0, 1)  # of each axis
    mirror_axes: str = _choice("xyz", "xz", "x")  # x: left-right, y: back-front, z: up-down
    swap_lungs: bool = True  # left-right mirroring swaps labels 1 and 2 (the original does not)
    contrast: tuple[float, float] = _number((0.3, 3.0), 0.01, 100)
    brightness: tuple[float, float] = _number((0.5, 2.0), 0.01, 100)
    gamma: tuple[float, float] = _number((0.7, 1.5), 0.01, 100)
    noise_deviation: tuple[float, float] = _number((0.0, 0.05), 0, 10)
    elastic_alpha_vox: tuple[float, float] = _number((0.0, 900.0), 0, 1e5)
    elastic_sigma_vox: tuple[float, float] = _number((9.0, 13.0), 0.5, 100)
    rotation_degrees: tuple[float, float, float] = _number((15.0, 15.0, 15.0), 0, 180)  # about x, y, z; drawn from +-
    scaling: tuple[float, float] = _number((0.85, 1.25), 0.2, 5)
    copied_probability: float = _number(0.0, 0, 1)  # of copying another case's infection into the patch's lungs (not the paper's)
    copied_strength: tuple[float, float] = _number((1.0, 1.0), 0.1, 1)  # of its grey; the rest is the patch's own: fainter
    copied_mirrored: bool = False  # by itself first, along `mirror_axes`: right-sided infection into left lungs
    image_order: int = _number(2, 0, 3)  # of the interpolating spline; the original: 3


@dataclass(frozen=True)
class Network:
    """Section 3.5."""

    filters: tuple[int, ...] = _number((32, 64, 128, 256, 512), 1, 4096)  # per level, finest first
    flat_levels: int = _number(0, 0, 8)  # finest levels pooled in plane only (thick slices)
    flat_kernels: bool = False  # and convolved in plane only
    stride: tuple[int, int, int] = _number((1, 1, 1), 1, 4)  # of the first convolution; the last one, transposed, undoes it
    norm: str = _choice("batch", "instance")  # over the batch, in prediction by running means; or over each patch alone
    norm_momentum: float = _number(0.99, 0.5, 0.9999)  # of the running mean and variance that batch normalization predicts with
    precision: str = _choice("float32", "mixed_bfloat16")  # bfloat16 where the hardware computes in it, else float32

    def pool(self, level: int) -> tuple[int, int, int]:
        """Cells of the pooling below a level; 0 is the finest."""
        return (2, 2, 1) if level < self.flat_levels else (2, 2, 2)

    def kernel(self, level: int) -> tuple[int, int, int]:
        """Of a level's convolutions."""
        return (3, 3, 1) if self.flat_kernels and level < self.flat_levels else (3, 3, 3)

    @property
    def smallest_step(self) -> tuple[int, int, int]:
        """The numbers that must divide a volume's x, y, z for the skips to fit."""
        depth = len(self.filters) - 1
        poolings = depth, depth, max(0, depth - self.flat_levels)
        return tuple(stride * 2**count for stride, count in zip(self.stride, poolings, strict=True))

    @property
    def reach(self) -> tuple[int, int, int]:
        """Voxels along x, y, z beyond which nothing changes an output: half of each kernel on its level, and one cell of
        stride and poolings together.

        In multiples of `smallest_step`, and true of boxes that begin and end at such multiples.
        """
        depth = len(self.filters) - 1
        layers = [(level, 4 if level < depth else 2) for level in range(depth + 1)]  # two on the way down, two on the way up
        xy = sum(count * 2**level for level, count in layers)
        deep = [layer for layer in layers if not (self.flat_kernels and layer[0] < self.flat_levels)]
        z = sum(count * 2 ** max(0, level - self.flat_levels) for level, count in deep)
        sides = zip((xy, xy, z), self.stride, self.smallest_step, strict=True)
        return tuple(-(-(n * stride + step - 1) // step) * step for n, stride, step in sides)


@dataclass(frozen=True)
class Loss:
    """Section 3.5, equations 1 to 3."""

    alpha: float = _number(0.5, 0, 10)
    beta: float = _number(0.5, 0, 10)
    tversky_weight: float = _number(1.0, 0, 100)
    cross_entropy_weight: float = _number(1.0, 0, 100)
    counts: str = _choice("sample", "batch")  # soft counts per sample, or over the whole batch


@dataclass(frozen=True)
class Training:
    """Section 3.6."""

    begin_with: str = ""  # a profile whose networks, trained first, these begin with; "": random weights
    epochs: int = _number(1000, 1, 100000)
    batches_per_epoch: int = _number(150, 1, 100000)
    validation_batches: int = _number(16, 0, 10000)
    learning_rate: float = _number(1e-3, 1e-8, 10)
    schedule: str = _choice("plateau", "cosine", "polynomial")
    cycle_epochs: tuple[int, ...] = _number((), 1, 100000, least=0)  # e.g. [26, 10]: after 26 epochs rate and Adam begin anew
    plateau_patience: int = _number(15, 1, 100000)
    plateau_factor: float = _number(0.1, 1e-3, 1)
    plateau_delta: float = _number(1e-4, 0, 1)
    learning_rate_floor: float = _number(1e-5, 0, 1)
    stop_patience: int = _number(100, 1, 100000)
    weights: str = _choice("best", "last", "mean")  # predicted with: those of the best training loss, the last, or the mean of
    # those that the cycles ended with, with which the next cycle begins (after stochastic weight averaging, Izmailov 2018)
    average_momentum: float = _number(0.0, 0, 0.9999)  # above 0: predict with a running mean of the weights over the steps


@dataclass(frozen=True)
class Inference:
    """Section 3.4, last paragraph."""

    mode: str = _choice("windows", "volume")  # volume: the whole padded volume in one go
    window_shape_vox: tuple[int, int, int] = _number((160, 160, 80), 8, 1024)
    overlap: float = _number(0.5, 0, 0.9)  # of the window's length, on each axis
    memory_gb: float = _number(4.0, 0.1, 1000)  # volumes that need more are cut into tiles; and windows computed at once
    mirror_axes: str = _choice("none", "x", "xz")  # mean over the volume and its mirror images along these
    infection_weight: float = _number(1.0, 0.1, 100)  # infection's probability counts as often when the likeliest class is taken
    typical_doubt: float = _number(0.0, 0, 1)  # of an infected scan, see `postprocessing.doubt`: far beyond it that weight is 1
    two_lungs: bool = False  # of all connected pieces, only those with most of the left and of the right lung stay
    smallest_lung_ml: float = _number(0.0, 0, 1000)  # smaller pieces of lung and infection together become background
    smallest_infection_ml: float = _number(0.0, 0, 1000)  # smaller pieces of infection become lung


@dataclass(frozen=True)
class Profile:
    """All settings of a run; `load_profile` reads one."""

    name: str = "paper"
    seed: int = _number(0, 0, 2**31)
    data: Data = Data()
    folds: Folds = Folds()
    preprocessing: Preprocessing = Preprocessing()
    patches: Patches = Patches()
    augmentation: Augmentation = Augmentation()
    network: Network = Network()
    loss: Loss = Loss()
    training: Training = Training()
    inference: Inference = Inference()

    def __post_init__(self) -> None:
        """Raises DataError for settings that do not go together."""
        if wrong := next(_contradictions(self), ""):
            raise DataError(f"profile {self.name}: {wrong}")

    def as_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as JSON and YAML can hold them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def _contradictions(profile: Profile) -> Iterator[str]:
    """What in a profile does not go together, and what is allowed."""
    step = profile.network.smallest_step
    for key, shape in (
        ("patches.shape", profile.patches.shape_vox),
        ("inference.window_shape", profile.inference.window_shape_vox),
    ):
        if any(n % m for n, m in zip(shape, step, strict=True)):
            near = [max(m, round(n / m) * m) for n, m in zip(shape, step, strict=True)]
            yield f"{key}_vox is {list(shape)}; allowed: multiples of {list(step)}, e.g. {near}"
    for key in ("contrast", "gamma", "scaling"):
        low, high = getattr(profile.augmentation, key)
        if high < 1:  # batchgenerators draws half of the factors from 1 up to the larger number
            yield f"augmentation.{key} is {[low, high]}; allowed: up to 1 or more"
    training, cycles = profile.training, profile.training.cycle_epochs
    rate, floor = training.learning_rate, training.learning_rate_floor
    if floor > rate:
        yield f"training.learning_rate_floor is {floor:g}; allowed: at most training.learning_rate ({rate:g})"
    simple = training.schedule != "plateau" and training.weights != "best" and not training.average_momentum
    if cycles and not (simple and sum(cycles) == training.epochs):
        yield (
            f"training.cycle_epochs is {list(cycles)}; allowed: [], or numbers that add up to training.epochs ({training.epochs})"
            ", with schedule cosine or polynomial, weights last or mean, and average_momentum 0"
        )
    if training.weights == "mean" and not (cycles and profile.network.norm == "instance"):
        yield (
            "training.weights is mean; allowed: with training.cycle_epochs, and network.norm instance "
            "(a mean of networks has not the running means of any)"
        )


def load_profile(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile by its name in profiles/ or by its path.

    Args:
        name: "demo", "surrogate", "paper", or the path of a YAML file of your own.
        overrides: dotted key -> value, e.g. {"training.epochs": 3} or {"training": {"epochs": 3}}; applied last.

    Raises:
        DataError: no such profile, a key that is no setting, a value of the wrong type or out of range.
    """
    path = profile_file(name)
    if not path.is_file():
        raise DataError(
            f"profile {name}: no file {path.name}; allowed: {', '.join(profile_names())}, or the path of a .yaml file"
        )
    given = _section(_read_yaml(path) or {}, f"profile {path.name}")
    training = given.get("training")
    if isinstance(training, dict) and str(training.get("begin_with")).endswith((".yaml", ".yml")):
        training["begin_with"] = str((path.parent / training["begin_with"]).resolve())  # jobs work in other folders
    for key, value in (overrides or {}).items():
        _put(given, key, value)
    return _build(Profile, {"name": path.stem, **given}, path.name, "")


def lineage(name: str | Path) -> list[Path]:
    """The files of a profile, of the one that it begins with (`training.begin_with`), and so on.

    Raises:
        DataError: they go in a circle, or as `load_profile`.
    """
    files: list[Path] = []
    while name:
        if (file := profile_file(name)) in files:
            allowed = "a profile that does not begin with itself, at once or by others"
            raise DataError(f"profile {files[-1].stem}: training.begin_with is {str(name)!r}; allowed: {allowed}")
        files.append(file)
        name = load_profile(name).training.begin_with
    return files


def profile_from(settings: Mapping[str, Any]) -> Profile:
    """The Profile of settings as `Profile.as_dict` gives them, from a run.json or a manifest.json."""
    return _build(Profile, settings, "run.json", "")


def profile_file(name: str | Path) -> Path:
    """The YAML file of a profile named by its name in profiles/ or by its path; whether it is there is not asked."""
    return Path(name) if str(name).endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"


def profile_names() -> list[str]:
    """The profiles that ship with the project."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _section(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: is {given!r}; allowed: a section of 'key: value' lines")
    return {str(key): value for key, value in given.items()}


def _read_yaml(path: Path) -> Any:
    """What a YAML file holds. DataError where it is none, or where a key stands twice: the first would be lost without a word."""
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """A section, in which each key stands once."""
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if repeated := {key for key in keys if keys.count(key) > 1}:
                said = f"{', '.join(sorted(repeated))} stands twice"
                raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"profile {path.name}: not valid YAML in UTF-8: {error}") from error


def _put(given: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value; a whole section's are set one by one, so that those it does not name stay."""
    if dataclasses.is_dataclass(typing.get_type_hints(Profile).get(dotted)) and isinstance(value, Mapping):
        for key, one in value.items():
            _put(given, f"{dotted}.{key}", one)
        return
    *sections, key = str(dotted).split(".")
    for name in sections:
        given[name] = given = _section(given.get(name) or {}, dotted)
    given[key] = value


def _build(cls: type, given: Mapping[str, Any], file: str, prefix: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    types_ = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        where = f"profile {file}: {prefix}{key}"
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise DataError(f"{where} is not a setting{hint}; allowed here: {', '.join(fields)}")
        if dataclasses.is_dataclass(types_[key]):
            values[key] = _build(types_[key], _section(value, where), file, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, types_[key], fields[key].metadata, where)
    return cls(**values)


def _checked(value: Any, kind: Any, allowed: Mapping[str, Any], where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        return _checked_tuple(value, typing.get_args(kind), allowed, where)
    if typing.get_origin(kind) is not None:
        return _checked_intensities(value, where)
    if kind is float and isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3, without a point, as text
            value = float(value)
    wanted = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{where} is {value!r}; allowed: {kind.__name__}")
    if "choices" in allowed and value not in allowed["choices"]:
        raise DataError(f"{where} is {value!r}; allowed: {', '.join(allowed['choices'])}")
    if "range" in allowed and not allowed["range"][0] <= value <= allowed["range"][1]:
        low, high = allowed["range"]
        raise DataError(f"{where} is {value!r}; allowed: {low:g} to {high:g}")
    return float(value) if kind is float else value


def _checked_tuple(value: Any, kinds: tuple[Any, ...], allowed: Mapping[str, Any], where: str) -> tuple[Any, ...]:
    open_ended = kinds[-1] is Ellipsis
    size_ok = isinstance(value, list | tuple) and (len(value) >= allowed["least"] if open_ended else len(value) == len(kinds))
    if not size_ok:
        size = f"{allowed['least']} or more" if open_ended else len(kinds)
        raise DataError(f"{where} is {value!r}; allowed: a list of {size} numbers ({kinds[0].__name__})")
    checked = tuple(_checked(item, kinds[0], allowed, where) for item in value)
    if len(kinds) == 2 and not open_ended and checked[0] > checked[1]:
        raise DataError(f"{where} is {value!r}; allowed: the smaller number first")
    return checked


def _checked_intensities(value: Any, where: str) -> Mapping[str, str]:
    kinds = _section(value or {}, where)
    wrong = {case: kind for case, kind in kinds.items() if kind not in ("hu", "grey")}
    if wrong:
        raise DataError(f"{where} is {wrong!r}; allowed: case: hu or case: grey")
    return kinds
