"""A folder in the release's layout in, checked cases in RAS+ out; folds; labels back to the original orientation.

Layout (Ma et al. 2020, Zenodo 3757476): COVID-19-CT-Seg_20cases/<case>.nii.gz and Lung_and_Infection_Mask/<case>.nii.gz.
"""

import logging
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covidlib.errors import DataError
from covidlib.files import whole_file
from covidlib.profile import Folds

IMAGES, MASKS = "COVID-19-CT-Seg_20cases", "Lung_and_Infection_Mask"
CLASSES = ("background", "left lung", "right lung", "infection")
LUNGS, INFECTION = (1, 2), 3  # their labels
MA_GROUPS = (
    ("coronacases_007", "coronacases_008", "radiopaedia_36_86526_0", "radiopaedia_4_85506_1"),
    ("coronacases_004", "coronacases_009", "radiopaedia_14_85914_0", "radiopaedia_7_85703_0"),
    ("coronacases_001", "coronacases_010", "radiopaedia_10_85902_1", "radiopaedia_29_86491_1"),
    ("coronacases_003", "coronacases_005", "radiopaedia_27_86410_0", "radiopaedia_40_86625_0"),
    ("coronacases_002", "coronacases_006", "radiopaedia_10_85902_3", "radiopaedia_29_86490_1"),
)
CASES = tuple(sorted(case for group in MA_GROUPS for case in group))
ONE_PATIENT = ({"radiopaedia_10_85902_1", "radiopaedia_10_85902_3"},)
HU_RANGE = (-4096, 32767)
AIR_HU = -1024.0  # scanners write nothing below it but padding
SPACING_MM = (0.01, 100)
LONGEST_MM = 2500  # longer than any patient
NO_SIDES = "the header does not say which side is left (sform and qform codes are 0): it is a guess"
TWO_SPACINGS = "the header's spacing and its affine differ; the spacing was taken"
GZIP_AT_MOST = 1032  # to one: the format packs no tighter
log = logging.getLogger("covidlib")


@dataclass(frozen=True)
class Case:
    """One scan: arrays (x, y, z) in RAS+ order, and what is needed to write on its original grid.

    image float32 in HU or grey 0-255 (`intensity` says which); labels uint8 0-3, or None; spacing_mm along x, y, z of the
    arrays; affine and header as stored; orientation the stored axis codes, e.g. "LPS".
    """

    id: str
    image: np.ndarray
    labels: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    intensity: str
    affine: np.ndarray
    header: Any
    orientation: str


@dataclass(frozen=True)
class Fold:
    """Case ids to train on and to test on; `number` counts from 0."""

    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]


def list_cases(folder: str | Path) -> list[str]:
    """Case ids of a folder, sorted; each has an image and a mask.

    Raises:
        DataError: no folder, no image in it, or images and masks that do not pair.
    """
    cases, problems, notes = _survey(folder)
    for note in notes:
        log.info(note)
    if problems:
        raise DataError("\n".join(problems))
    return cases


def check_folder(folder: str | Path, seen: Callable[[Case], None] | None = None) -> tuple[list[str], list[str], list[str]]:
    """Read every case of a folder: (sound case ids, all problems, notes), for a report in one go; `seen` gets each sound case."""
    cases, problems, notes = _survey(folder)
    sound = []
    for case in cases:
        try:
            read = load_case(folder, case)
        except DataError as error:
            problems.extend(str(error).splitlines())
            continue
        sound.append(case)
        if seen:
            seen(read)
    return sound, problems, notes


def load_case(folder: str | Path, case: str, intensity: str | None = None) -> Case:
    """Read and check one case.

    Args:
        folder: holds the two folders of the release.
        case: its id.
        intensity: "hu" or "grey" to overrule the detection.

    Raises:
        DataError: one line per problem: unreadable, not 3-D, spacing, NaN, constant, intensity range; mask of another shape or
            place, labels other than 0, 1, 2, 3. Padding that is taken as air, a header that knows no sides, and one with two
            spacings are warned of.
    """
    image_path, mask_path = (_path(Path(folder) / sub, case) for sub in (IMAGES, MASKS))
    problems, volumes, notes = [], [], []
    for path in (image_path, mask_path):
        try:
            volumes.append(read_volume(path, case))
        except DataError as error:
            problems.append(str(error))
            volumes.append(None)
    scan, mask = volumes
    if scan:
        image = without_padding(scan[0], notes)
        kind = intensity or detect_intensity(image)
        problems[:0] = _image_problems(image, kind, f"{case}: {image_path}")
    if mask:
        problems += _mask_problems(mask, scan, f"{case}: {mask_path}")
    if problems:
        raise DataError("\n".join(problems))
    (_, header, affine), labels = scan, mask[0]
    notes += [] if knows_sides(header) else [NO_SIDES]
    notes += [] if spacing_agrees(affine, header) else [TWO_SPACINGS]
    for note in notes:
        log.warning("%s: %s: %s", case, image_path, note)
    return make_case(case, image, affine, header, str(kind), labels.astype(np.uint8))


def make_case(
    case: str, image: np.ndarray, affine: np.ndarray, header: Any, intensity: str, labels: np.ndarray | None = None
) -> Case:
    """Turn stored arrays (in the affine's order) into a Case in RAS+; of HU, what is below air becomes air.

    On a sheared grid (gantry tilt) slices lie nearer than along the slanted axis; not so where pixdim says that already.
    """
    import nibabel as nib

    zooms, order = header.get_zooms()[:3], list(nib.io_orientation(affine)[:, 0])
    x, y, z = (float(zooms[order.index(axis)]) for axis in range(3))
    if spacing_agrees(affine, header):
        z *= round(abs(float(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))), 6)
    image = to_canonical(image, affine, np.float32)
    if intensity == "hu":
        np.maximum(image, AIR_HU, out=image)
    labels = None if labels is None else to_canonical(labels, affine)
    return Case(case, image, labels, (x, y, z), intensity, affine, header, "".join(nib.aff2axcodes(affine)))


def without_padding(image: np.ndarray, notes: list[str]) -> np.ndarray:
    """Far below any HU there may be one value, of voxels outside the field of view: these become air, which is noted."""
    outside = image < HU_RANGE[0]
    values = image[outside]
    if values.size in (0, image.size) or (values != values[0]).any() or not np.isfinite(values[0]):
        return image
    notes.append(f"padding of {values[0]:g} taken as air")
    return np.where(outside, np.float32(AIR_HU), image)


def knows_sides(header: Any) -> bool:
    """Whether a header tells how the scan lies; if not, nibabel takes x as growing to the left. Analyze never does."""
    import nibabel as nib

    if isinstance(header, nib.Nifti1Header):
        return bool(header["sform_code"] or header["qform_code"])
    return not isinstance(header, nib.AnalyzeHeader)


def spacing_agrees(affine: np.ndarray, header: Any) -> bool:
    """Whether the header's spacing (pixdim) is that of its affine, within a hundredth."""
    return np.allclose(np.linalg.norm(affine[:3, :3], axis=0), header.get_zooms()[:3], rtol=0.01)


def to_canonical(array: np.ndarray, affine: np.ndarray, dtype: Any = None) -> np.ndarray:
    """A copy of a stored (i, j, k) array in RAS+ order: axes permuted and flipped to the closest, nothing interpolated."""
    import nibabel as nib

    turned = nib.apply_orientation(array, nib.io_orientation(affine))
    copy = np.empty(turned.shape, dtype or turned.dtype)
    for z in range(0, turned.shape[2], 16):  # a few slices, as files hold them: a sixth of the time of NumPy's own copy
        copy[..., z : z + 16] = turned[..., z : z + 16]
    return copy


def to_stored_order(array: np.ndarray, case: Case) -> np.ndarray:
    """An (x, y, z) RAS+ array of the case in the axis order and directions of its file."""
    import nibabel as nib

    stored = nib.io_orientation(case.affine)
    return nib.apply_orientation(array, nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored))


def save_labels(labels: np.ndarray, case: Case, path: str | Path) -> None:
    """Write RAS+ labels (x, y, z) as uint8 NIfTI on the case's original grid, affine and header."""
    import nibabel as nib

    header = case.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = 0, 0
    image = nib.Nifti1Image(to_stored_order(labels, case).astype(np.uint8), case.affine, header)
    with whole_file(Path(path)) as temporary:
        nib.save(image, temporary)


def read_volume(path: Path, case: str) -> tuple[np.ndarray, Any, np.ndarray]:
    """A 3-D NIfTI file as (array in stored order, header, affine).

    Raises:
        DataError: missing, truncated, not NIfTI, not 3-D, not numeric, spacing not positive, affine not invertible.
    """
    import nibabel as nib

    where = f"{case}: {path}"
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):  # CIFTI, for one, ends in .nii as well
            raise nib.filebasedimages.ImageFileError(f"it is {type(image).__name__}")
        with nib.openers.ImageOpener(path) as file:  # nibabel mends a bad spacing when it loads: read what is really there
            spacing = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]
        promised = math.prod(image.shape) * image.get_data_dtype().itemsize
        if promised > GZIP_AT_MOST * path.stat().st_size:
            raise EOFError("its header promises more than it holds")  # or the memory would be claimed before that is noticed
        if path.suffix.lower() == ".gz":
            size = image.dataobj.offset + promised
            unpacker = zlib.decompressobj(wbits=31)
            content = unpacker.decompress(path.read_bytes(), size)  # many small calls wait for threads
            if len(content) == size:  # else it is cut, or of several members: left to nibabel
                while unpacker.unconsumed_tail:  # to its end, where the checksum stands
                    unpacker.decompress(unpacker.unconsumed_tail, 1 << 20)
                if not unpacker.eof:
                    raise EOFError("it is cut")
                image = type(image).from_bytes(content)
        array = np.asanyarray(image.dataobj)
        if math.prod(array.shape[3:]) == 1:  # a series of one volume
            array = array.reshape(array.shape[:3])
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError, nib.filebasedimages.ImageFileError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__  # nibabel's messages may be of several lines
        raise DataError(f"{where}: not a whole NIfTI file ({reason}); copy or download it again") from error
    except (nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError) as error:
        raise DataError(f"{where}: NIfTI header refused ({error}); write the file again") from error
    check_volume(array, spacing, image.affine, where)
    return array, image.header, image.affine


def check_volume(array: np.ndarray, spacing_mm: np.ndarray, affine: np.ndarray, where: str) -> None:
    """DataError unless the array is one 3-D volume of numbers, of a scan's spacing and extent, and its affine can be inverted."""
    import nibabel as nib

    if array.ndim != 3 or array.dtype.kind not in "iufb" or 0 in array.shape:
        raise DataError(
            f"{where}: shape {array.shape} of {array.dtype}; allowed: one 3-D volume of numbers; save the volume alone"
        )
    if not ((spacing_mm >= SPACING_MM[0]) & (spacing_mm <= SPACING_MM[1])).all():
        given = [float(f"{value:.4g}") for value in spacing_mm]
        allowed = f"positive, {SPACING_MM[0]} to {SPACING_MM[1]}"
        raise DataError(f"{where}: spacing {given} mm; allowed: {allowed}; correct it (in NIfTI: pixdim)")
    if (extent := np.multiply(array.shape, spacing_mm)).max() > LONGEST_MM:  # on the working grid it could exceed all memory
        size = " x ".join(f"{length:.0f}" for length in extent)
        raise DataError(f"{where}: {size} mm; allowed: up to {LONGEST_MM} mm a side; correct the spacing (in NIfTI: pixdim)")
    singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6
    if singular or np.isnan(nib.io_orientation(affine)).any():  # an axis may be as good as lost
        raise DataError(f"{where}: affine cannot be inverted; correct sform or qform in the header")


def detect_intensity(image: np.ndarray) -> str | None:
    """ "hu" (air well below zero), "grey" (0-255), or None where the values fit neither."""
    low, high = float(np.min(image)), float(np.max(image))
    if HU_RANGE[0] <= low <= -500 and high <= HU_RANGE[1]:
        return "hu"
    return "grey" if low >= -1 and 32 <= high <= 256 else None


def make_folds(cases: Sequence[str], settings: Folds) -> list[Fold]:
    """Deal cases into folds.

    Args:
        cases: all case ids.
        settings: scheme "ma" (the five published groups), "random" (seeded), "grouped" (random, the release's two scans of one
            patient kept together) or "inverted" (Ma et al.'s 20/80: train on the group, test on the rest).

    Raises:
        DataError: a case that no published group holds, a group without a case, "grouped" without these two scans, or more
            folds than patients.
    """
    published = settings.scheme in ("ma", "inverted")
    groups = _published(cases, settings.scheme) if published else _dealt(cases, settings)
    folds = []
    for number, group in enumerate(groups):
        rest = tuple(case for case in sorted(cases) if case not in group)
        train, test = (group, rest) if settings.scheme == "inverted" else (rest, group)
        folds.append(Fold(number, train, test))
    return folds


def _published(cases: Sequence[str], scheme: str) -> list[tuple[str, ...]]:
    unknown = sorted(set(cases) - set(CASES))
    if unknown:
        raise DataError(f"folds.scheme {scheme}: {', '.join(unknown)} not among the 20 published cases; use scheme random")
    groups = [tuple(case for case in group if case in cases) for group in MA_GROUPS]
    if not all(groups):
        raise DataError(f"folds.scheme {scheme}: a published group has no case in this folder; use scheme random")
    return groups


def _dealt(cases: Sequence[str], settings: Folds) -> list[tuple[str, ...]]:
    patients = {case: (case,) for case in sorted(cases)}
    if settings.scheme == "grouped":
        for scans in ONE_PATIENT:
            if not scans <= set(cases):
                known = " and ".join(sorted(scans))
                raise DataError(f"folds.scheme grouped: knows of {known} only; use random, with one scan a patient")
            patients.update(dict.fromkeys(scans, tuple(sorted(scans))))
    units = sorted(set(patients.values()))
    if len(units) < settings.count:
        raise DataError(f"folds.count is {settings.count}, but there are {len(units)} patients; allowed: 2 to {len(units)}")
    order = np.random.default_rng(settings.seed).permutation(len(units))
    groups: list[tuple[str, ...]] = [()] * settings.count
    for index in sorted(order, key=lambda i: -len(units[i])):  # the large first, each to the smallest group so far
        smallest = min(range(settings.count), key=lambda g: len(groups[g]))
        groups[smallest] += units[index]
    return [tuple(sorted(group)) for group in groups]


def _case_id(path: Path) -> str:
    return re.sub(r"(?i)\.nii(\.gz)?$", "", path.name).replace("coronacases_org_", "coronacases_")


def _path(folder: Path, case: str) -> Path:
    found = [path for path in sorted(folder.glob("*.nii*")) if _case_id(path) == case]
    if not found:
        raise DataError(f"{case}: no {case}.nii.gz in {folder}; put it there or leave the case out")
    return found[0]


def _survey(folder: str | Path) -> tuple[list[str], list[str], list[str]]:
    found, notes, double = {}, [], {}
    for sub in (IMAGES, MASKS):
        paths = sorted((Path(folder) / sub).iterdir()) if (Path(folder) / sub).is_dir() else []
        scans = [path for path in paths if re.search(r"\.nii(\.gz)?$", path.name) and not path.name.startswith(".")]
        notes += [f"{path}: ignored, not a .nii or .nii.gz file" for path in paths if path not in scans]
        found[sub] = {_case_id(path): path for path in scans}
        for path in scans:
            if path != found[sub][_case_id(path)]:
                double[_case_id(path)] = f"{_case_id(path)}: {path}: {found[sub][_case_id(path)].name} is the same case; keep one"
    if not found[IMAGES]:
        layout = f"{IMAGES}/<case>.nii.gz and {MASKS}/<case>.nii.gz"
        told = f"{folder}: no case found; expected {layout}; 'python -m covidlib fetch --to DIR' downloads the release"
        return [], [told], notes
    missing = sorted(set(found[IMAGES]) - set(found[MASKS]))
    extra = sorted(set(found[MASKS]) - set(found[IMAGES]))
    problems = [f"{case}: {found[IMAGES][case]}: no mask {MASKS}/{case}.nii.gz; add it or remove the image" for case in missing]
    problems += [
        f"{case}: {found[MASKS][case]}: mask without image {IMAGES}/{case}.nii.gz; add it or remove the mask" for case in extra
    ]
    problems += double.values()
    return sorted((set(found[IMAGES]) & set(found[MASKS])) - set(double)), problems, notes


def _image_problems(image: np.ndarray, kind: str | None, where: str) -> Iterator[str]:
    bad = int(image.size - np.isfinite(image).sum())
    if bad:
        yield f"{where}: {bad} voxels are NaN or infinite; allowed: finite values; replace them knowingly"
    elif image.min() == image.max():
        yield f"{where}: constant, every voxel is {image.flat[0]:g}; allowed: a CT scan; export it again"
    elif kind is None:
        yield (
            f"{where}: values {image.min():g} to {image.max():g} are neither HU (air below -500) nor grey 0-255; "
            "apply the rescale slope, or name the kind (--intensity, or data.intensity in the profile)"
        )
    elif kind not in ("hu", "grey"):
        yield f"{where}: intensity {kind!r}; allowed: hu, grey"


def _mask_problems(mask: tuple, scan: tuple | None, where: str) -> Iterator[str]:
    labels = mask[0]
    if scan and labels.shape != scan[0].shape:
        yield f"{where}: mask shape {labels.shape}, image shape {scan[0].shape}; allowed: the same; resample the mask"
    elif scan and (shift := _largest_shift_mm(mask[2], scan[2], labels.shape)) > 0.1:
        yield f"{where}: mask lies up to {shift:.1f} mm off the image (another affine); allowed: 0.1 mm; save it with the image's"
    if not np.isin(labels, (0, 1, 2, 3)).all():
        wrong = np.unique(labels[~np.isin(labels, (0, 1, 2, 3))])[:5]
        yield f"{where}: labels {wrong.tolist()} found; allowed: the integers 0 background, 1 left, 2 right lung, 3 infection"


def _largest_shift_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])], float)
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())
