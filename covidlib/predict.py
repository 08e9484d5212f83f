"""Scans of anyone's in; labels, overlay and quantities out: `Predictor` for one, `predict_scans` for many."""

import contextlib
import csv
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from covidlib.dataset import CLASSES, Case, save_labels, to_stored_order
from covidlib.errors import DataError
from covidlib.files import checksum, fingerprint, only_one, read_json, whole_file
from covidlib.inference import CODE, around_body, body_box, load_model, mean, predict_body
from covidlib.postprocessing import decide, doubt, is_unknown
from covidlib.preprocessing import Prepared, grey_span, prepare, resample
from covidlib.profile import Preprocessing, Profile, profile_from
from covidlib.quantification import quantify
from covidlib.runs import trained_weights
from covidlib.scan import Scan, _name, find_scans, read_scan

SHIPPED = Path(__file__).with_name("weights")
LUNGS_ML = (500.0, 9000.0)  # both lungs of an adult hold 2 to 7 liters
LUNG_GREY = (51.0, 127.5)  # -950 to -500 HU: air and tissue mixed, as hardly anything but lung is
KINDS = ("labels.nii.gz", "overlay.png", "probabilities.nii.gz")  # of files per scan, the last on request
MODULES = (*CODE, "scan", "quantification", "predict")
log = logging.getLogger("covidlib")


@dataclass(frozen=True)
class Prediction:
    """One scan's result.

    case: the scan in RAS+; labels uint8 (x, y, z) on its grid; probabilities float32 (x, y, z, 4) on the working grid; doubt: how
    unsure the networks are of the infection, each by itself (`postprocessing.doubt`); quantities as `quantify` gives them; notes
    and warnings in words.
    """

    case: Case
    labels: np.ndarray
    probabilities: np.ndarray
    doubt: float
    quantities: dict[str, float | int | str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class Predictor:
    """The networks of a weights folder, loaded once; called with a scan, it gives a Prediction.

        predictor = Predictor()
        result = predictor("scan.nii.gz")
        view(result.case, result.labels)
    """

    def __init__(self, weights: str | Path = SHIPPED, memory_gb: float | None = None):
        """Load every fold of `weights`, a run's folder or the shipped one; several are an ensemble, and need no mirror images.

        `memory_gb` overrules the profile's: a volume that needs more is cut into tiles, and as many windows are computed at
        once as fit. With batch normalization the result is the same, with instance normalization nearly: each tile is normalized
        by itself.

        Raises:
            DataError: no run.json or no fold's weights in it, or weights that do not fit its settings.
        """
        profile, files = _weights(Path(weights))
        inference = profile.inference if memory_gb is None else replace(profile.inference, memory_gb=memory_gb)
        if len(files) > 1:  # several networks see a scan in ways enough: mirror images would double the time for nothing
            inference = replace(inference, mirror_axes="none")
        self.profile = replace(profile, inference=inference)
        self.models = [load_model(self.profile, file) for file in files]

    def __call__(self, source: Any, spacing_mm: Sequence[float] | None = None, intensity: str | None = None) -> Prediction:
        """Mean probabilities of the networks, and labels on the scan's own grid.

        Arguments and errors as `read_scan`.
        """
        scan = read_scan(source, spacing_mm, intensity)
        return self.measure(scan, *self.mark(scan.case, prepare(scan.case, self.profile.preprocessing)))

    def mark(self, case: Case, prepared: Prepared) -> tuple[np.ndarray, np.ndarray, float]:
        """Labels, mean probabilities and doubt, as in Prediction, of a case `prepared` by the profile's preprocessing."""
        from tqdm import tqdm

        doubts: list[float] = []
        models = tqdm(self.models, f"networks on {case.id}", disable=None, leave=False)
        body = body_box(prepared.image, self.profile)
        found = mean(_noting_doubt((predict_body(model, prepared, self.profile, body) for model in models), doubts))
        probabilities = around_body(found, body, prepared.image.shape)
        doubted = sum(doubts) / len(doubts)
        labels = decide(probabilities, case.image.shape, case.spacing_mm, self.profile.inference, doubted)
        return labels, probabilities, doubted

    def measure(self, scan: Scan, labels: np.ndarray, probabilities: np.ndarray, doubted: float) -> Prediction:
        """What `mark` found, with quantities and warnings."""
        case = scan.case
        quantities = quantify(labels, case.spacing_mm, case.image, case.intensity)
        unlike = [*_unlike_a_chest(case, labels, quantities, self.profile.preprocessing)]
        if is_unknown(doubted, self.profile.inference) and quantities["infected_percent"] > 0:
            told = f"{doubted:.2f}; typical is {self.profile.inference.typical_doubt:.2f}"
            unlike.append(f"the networks doubt the infection they mark ({told}): perhaps there is none")
        return Prediction(case, labels, probabilities, doubted, quantities, scan.notes, (*scan.warnings, *unlike))


def predict_scans(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    weights: str | Path = SHIPPED,
    intensity: str | None = None,
    probabilities: bool = False,
    memory_gb: float | None = None,
) -> list[str]:
    """Predict many scans, one after the other, into a folder.

    Writes <name>_labels.nii.gz, <name>_overlay.png, on request <name>_probabilities.nii.gz, and a row of quantification.csv;
    errors go to errors.csv. A scan whose file, weights and settings are those of its row is left as it is. Its
    result by another name, of an earlier call, goes. Labels that were changed by hand stay beside new ones, as `_forget` says.

    Returns:
        names of the scans that failed.

    Raises:
        DataError: no such weights; two scans of one name, in this call or an earlier one; `out` is an input, holds one, or cannot
            be written to; another call at work there.
    """
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    scans, folder = _apart(inputs, Path(out)), Path(out)
    profile, files = _weights(Path(weights))
    limit = profile.inference.memory_gb if memory_gb is None else memory_gb
    made_with = fingerprint([profile.as_dict(), [checksum(file) for file in files], intensity, limit], *MODULES)

    def read(name: str) -> tuple[Scan, Prepared]:
        """A scan, read and prepared aside."""
        scan = read_scan(scans[name], None, intensity, name)
        return scan, prepare(scan.case, profile.preprocessing)

    failed, started = [], time.monotonic()
    with only_one(folder), logging_redirect_tqdm(), ThreadPoolExecutor(1) as reader:
        for left_by_a_killed_call in folder.glob(".part-*"):
            shutil.rmtree(left_by_a_killed_call)
        made_of = _made_of(folder, scans, made_with)
        finished = _finished(folder, made_of, KINDS if probabilities else KINDS[:2])
        todo = [name for name in scans if name not in finished]
        for name in finished | ({_name(Path(path)) for path in inputs} - scans.keys()):
            _put_row(folder / "errors.csv", name, None)  # it, or the folder it is in, was out of reach in an earlier call
        log.info("%d scans, %d of them finished before; networks: %d", len(scans), len(scans) - len(todo), len(files))
        coming = [reader.submit(read, name) for name in todo[:1]]
        if todo:
            predictor = Predictor(weights, memory_gb)
            reader.submit(__import__, "covidlib.figures")  # matplotlib, while the networks compute
        for number, name in enumerate(tqdm(todo, "scans", disable=None), 1):
            coming += [reader.submit(read, following) for following in todo[number : number + 1]]  # the next, meanwhile
            reachable = os.path.exists(scans[name])
            try:
                said = _predict_one(predictor, *coming.pop(0).result(), folder, made_of[name], probabilities)
            except Exception as error:  # one bad scan must not stop the others
                said = _give_up(folder, name, error, reachable)
                failed.append(name)
            else:
                _put_row(folder / "errors.csv", name, None)
            left = (time.monotonic() - started) / number * (len(todo) - number) / 60
            log.info("%d of %d, %s%s", number, len(todo), said, f"; about {left:.0f} min left" if number < len(todo) else "")
        for name, now in _renamed(folder, made_of).items():
            if now not in failed:
                _forget(folder, name)  # or one scan would count twice
    return failed


def _apart(inputs: Sequence[str | Path], out: Path) -> dict[str, Path]:
    """The scans of `inputs` by name. DataError where results in `out` would lie among them, or be taken for them."""
    scans, target = find_scans(inputs), out.resolve()
    files = {path.resolve() for path in scans.values()}
    holding = {path.parent.resolve() for path in scans.values() if not os.path.isdir(path)}
    if target in {*holding, *(Path(path).resolve() for path in inputs)} or files & {target, *target.parents}:
        raise DataError(f"{out}: is an input as well, or holds one; give another folder for the results, so that none is lost")
    return scans


def _weights(folder: Path) -> tuple[Profile, list[Path]]:
    """Settings and weight files of a run's folder."""
    files = trained_weights(folder)
    if not files or not (folder / "run.json").is_file():
        layout = "run.json and fold_<k>/model.weights.h5"
        raise DataError(f"{folder}: no weights; expected a run's folder with {layout}; --weights names another")
    try:
        given = read_json(folder / "run.json")["profile"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'run.json'}: holds no profile ({type(error).__name__}); take a whole run") from error
    profile, manifest = profile_from(given), read_json(folder / "manifest.json")
    if manifest and replace(profile_from(manifest["profile"]), inference=profile.inference) != profile:
        raise DataError(f"{folder}: run.json has other settings than its networks were trained with; run the profile again")
    return profile, files


def _stamp(path: Path) -> list[Any]:
    """What changes when a file, or a folder's files, do: path, size and time of change."""
    seen = sorted(p for p in path.rglob("[!.]*") if p.is_file()) if os.path.isdir(path) else [path]
    return [[os.path.abspath(p), *((p.stat().st_size, p.stat().st_mtime_ns) if os.path.exists(p) else ())] for p in seen]


def _made_of(folder: Path, scans: Mapping[str, Path], made_with: str) -> dict[str, dict[str, str]]:
    """What a scan's row says of its origin: `source`, which file it is, as a fingerprint, for paths may name patients; `key`, of
    the file's present content, settings and code. DataError if `folder` has the result of another file by a scan's name."""
    sources = {name: fingerprint(os.path.abspath(path))[:12] for name, path in scans.items()}
    known = {name: row.get("source") for name, row in _rows(folder / "quantification.csv").items()}
    if others := [name for name in scans if known.get(name) not in (None, sources[name])]:
        what = f"{', '.join(others)}: {folder} has the result of another file of that name"
        raise DataError(f"{what}; give all files in one call, or another folder for the results")
    return {name: {"source": sources[name], "key": fingerprint([made_with, _stamp(path)])[:12]} for name, path in scans.items()}


def _finished(folder: Path, made_of: Mapping[str, Mapping[str, str]], kinds: Sequence[str]) -> set[str]:
    """Names of the scans whose rows are of this origin, and whose files of these kinds are there."""
    known = _rows(folder / "quantification.csv")
    ours = [name for name, told in made_of.items() if known.get(name, {}).get("key") == told["key"]]
    return {name for name in ours if all((folder / f"{name}_{kind}").is_file() for kind in kinds)}


def _renamed(folder: Path, made_of: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Names that these files had in an earlier call, and have now: with two of one name, the folder above comes before it."""
    names = {told["source"]: name for name, told in made_of.items()}
    known = {name: names.get(row.get("source", ""), name) for name, row in _rows(folder / "quantification.csv").items()}
    return {name: now for name, now in known.items() if now != name}


def _forget(folder: Path, name: str) -> None:
    """Remove a scan's row and files: nothing may stay of an earlier prediction, or of half of one.

    But labels that are not those of the row were changed since, by hand: they go aside, to <name>_changed<n>.nii.gz.
    """
    row, labels = _rows(folder / "quantification.csv").get(name, {}), folder / f"{name}_{KINDS[0]}"
    if row.get("labels") and labels.is_file() and row["labels"] != checksum(labels)[:12]:
        free = (folder / f"{name}_changed{number}.nii.gz" for number in itertools.count(1))
        aside = next(path for path in free if not path.exists())
        labels.rename(aside)
        log.warning("%s: its labels were changed by hand; they are kept in %s", name, aside.name)
    _put_row(folder / "quantification.csv", name, None)
    for kind in KINDS:
        (folder / f"{name}_{kind}").unlink(missing_ok=True)


def _give_up(folder: Path, name: str, error: Exception, reachable: bool) -> str:
    """Note in errors.csv why a scan failed, and return it. An earlier result goes, but not that of a share that is gone."""
    if reachable:
        with contextlib.suppress(OSError):
            _forget(folder, name)
    said = _reason(name, error)
    _put_row(folder / "errors.csv", name, {"error": said})
    return said


def _reason(name: str, error: Exception) -> str:
    """What goes to errors.csv: our own words; of another error its kind, because its text may quote a file."""
    if isinstance(error, DataError):
        return str(error)
    kind = ", ".join(filter(None, (type(error).__name__, getattr(error, "strerror", None))))
    return f"{name}: {kind}; an error of the program, or of the machine (disk, memory)"


def _predict_one(
    predictor: Predictor, scan: Scan, prepared: Prepared, folder: Path, made_of: Mapping[str, str], probabilities: bool
) -> str:
    """Predict a scan and write its files, the row of the table last, in place of earlier ones; returns a line about it."""
    name = scan.case.id
    _forget(folder, name)
    marked = predictor.mark(scan.case, prepared)
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(save_labels, marked[0], scan.case, folder / f"{name}_labels.nii.gz")
        result = predictor.measure(scan, *marked)
        said = f"{name}: {_sentence(result)}"
        _save_overlay(result, said, folder / f"{name}_overlay.png")
    written.result()
    if probabilities:
        _save_probabilities(result, folder / f"{name}_probabilities.nii.gz")
    size = {f"{axis}_mm": length for axis, length in zip("xyz", result.case.spacing_mm, strict=True)}
    remarks = {"warnings": "; ".join(result.warnings), "notes": "; ".join(result.notes)}
    row = {**result.quantities, "doubt": result.doubt, **remarks, "intensity": result.case.intensity, **size, **made_of}
    row["labels"] = checksum(folder / f"{name}_labels.nii.gz")[:12]
    _put_row(folder / "quantification.csv", name, row)
    return said


def _sentence(result: Prediction) -> str:
    found = result.quantities
    percent = f"{found['infected_percent']:.1f} % of {found['lung_ml']:.0f} mL lung infected"
    return "; ".join([percent if found["lung_ml"] else "no lungs found", *(f"WARNING: {text}" for text in result.warnings)])


def _save_overlay(result: Prediction, said: str, path: Path) -> None:
    from covidlib.figures import overlay

    title = said.replace("; WARNING", "\nWARNING") + "\nNot for clinical use."
    with whole_file(path) as temporary:
        overlay(result.case, result.labels, title).savefig(temporary, dpi=150, pil_kwargs={"compress_level": 1})


def _save_probabilities(result: Prediction, path: Path) -> None:
    """4-D NIfTI on the scan's grid, classes last, stored as uint8 in steps of 1/255."""
    import nibabel as nib

    case = result.case
    stored = np.empty((*to_stored_order(case.image, case).shape, len(CLASSES)), np.uint8)
    for label in range(len(CLASSES)):
        share = resample(result.probabilities[..., label], case.image.shape, "linear")
        stored[..., label] = np.rint(255 * to_stored_order(share, case))
    image = nib.Nifti1Image(stored, case.affine, case.header)
    image.header.set_slope_inter(1 / 255, 0)
    image.set_data_dtype(np.uint8)
    with whole_file(path) as temporary:
        nib.save(image, temporary)


def _rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have put its mark before it
            return {row["scan"]: row for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        reason = type(error).__name__
        raise DataError(f"{path}: not a table with a column scan ({reason}); move it away or give another folder") from error


def _put_row(path: Path, name: str, row: Mapping[str, Any] | None) -> None:
    """Add, replace or, with None, remove a scan's row of a table; a table without rows is no file."""
    rows = _rows(path)
    if row is None and name not in rows:
        return
    rows.pop(name, None)
    if row is not None:
        rows[name] = {"scan": name, **{key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}}
    if not rows:
        path.unlink()
        return
    try:
        opened = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}  # a path may be of any bytes
        with whole_file(path) as temporary, open(temporary, "w", **opened) as file:
            writer = csv.DictWriter(file, list(next(reversed(rows.values()))), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows.values())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); make room and call again: finished scans stay") from error


def _noting_doubt(volumes: Iterable[np.ndarray], doubts: list[float]) -> Iterator[np.ndarray]:
    """Each network's probabilities, handed on one by one; what each doubts is added to `doubts`."""
    for probabilities in volumes:
        doubts.append(doubt(probabilities))
        yield probabilities


def _unlike_a_chest(case: Case, labels: np.ndarray, found: Mapping[str, Any], settings: Preprocessing) -> Iterator[str]:
    """Why this may be no whole chest, or not one such as the networks were trained on."""
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    black, white = grey_span(case.image, case.intensity, settings)
    air, dense = (black + grey / 255 * (white - black) if np.isfinite(black) else grey for grey in LUNG_GREY)
    lung_like_ml = voxel_ml * np.count_nonzero((case.image > air) & (case.image < dense))
    if lung_like_ml < LUNGS_ML[0]:
        yield f"hardly anything as dark as lung in it ({lung_like_ml:.0f} mL): a head, an abdomen, another kind of intensity?"
    if found["lung_ml"] < LUNGS_ML[0]:
        yield f"lungs of {found['lung_ml']:.0f} mL found: no chest, or a small part of one"
        return
    if found["lung_ml"] > LUNGS_ML[1]:
        yield f"lungs of {found['lung_ml']:.0f} mL found: more than a chest holds"
    smaller, larger = sorted((found["left_lung_ml"], found["right_lung_ml"]))
    if smaller < 0.2 * larger:
        yield f"one lung of {larger:.0f} mL and one of {smaller:.0f} mL found"
    area = np.count_nonzero(labels, axis=(0, 1))
    cut = [end for end, size in (("bottom", area[0]), ("top", area[-1])) if size > 0.1 * area.max()]
    if cut:
        yield f"lungs cut off at the {' and the '.join(cut)}: volumes and percents are of what is shown"
    marked = labels > 0
    if np.count_nonzero(marked & (case.image > dense)) > np.count_nonzero(marked) / 2:
        yield "what was marked as lung is mostly not as dark as lung"
