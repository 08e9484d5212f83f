"""Anyone's scan in, a Case without labels out, and what is to be said about it: a NIfTI file, a DICOM series, an array.

Inputs are only read. Of a DICOM header only what place and intensity need is loaded: never who the patient is.
"""

import logging
import os
import re
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covidlib.dataset import (
    AIR_HU,
    NO_SIDES,
    TWO_SPACINGS,
    Case,
    _image_problems,
    check_volume,
    detect_intensity,
    knows_sides,
    make_case,
    read_volume,
    spacing_agrees,
    without_padding,
)
from covidlib.errors import DataError

NIFTI = r"(?i)\.nii(\.gz)?$"
ALLOWED = ".nii or .nii.gz files, or a folder with a CT series as DICOM"
PIXEL_MM, SLICE_MM = (0.4, 2.6), (0.5, 10.0)  # of the data that the networks were trained on, and what they cope with
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # pictures of a screen, such as the dose report that most scanners add
UNREADABLE = (OSError, EOFError, zlib.error, ValueError, MemoryError)
PLACE = (
    "Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "SOPClassUID", "ConvolutionKernel",
)  # fmt: skip
PIXELS = (
    "PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit",
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """A case without labels; `notes` say how it came, `warnings` why its result may be wrong."""

    case: Case
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Slice:
    """Where one DICOM file's slice lies (mm, LPS): corner (3), directions of growing column and row (2, 3), spacing likewise."""

    path: Path
    study: str
    series: str
    number: int
    corner: np.ndarray
    directions: np.ndarray
    spacing_mm: tuple[float, float]
    thickness_mm: float
    shape: tuple[int, int]
    kernel: str

    @property
    def normal(self) -> np.ndarray:
        """Direction across the slice."""
        return np.cross(*self.directions)


def find_scans(inputs: Iterable[str | Path]) -> dict[str, Path]:
    """Scans by name, in order: NIfTI files, those of folders, and folders without any as DICOM series.

    The name is that of the file or folder; with the folder above it where two would be called the same, or differ in nothing
    that every disk tells apart (a and A).

    Raises:
        DataError: two scans of one name even so.
    """
    paths = []
    for path in map(Path, inputs):
        found = sorted(p for p in path.iterdir() if _is_nifti(p)) if os.path.isdir(path) else []
        paths += found or [path]
    names = [_name(path) for path in paths]
    above = [path.resolve().parent.name for path in paths]
    unique = [f"{above[i]}_{names[i]}" if double else names[i] for i, double in enumerate(_double(names))]
    twice = sorted({name for name, double in zip(unique, _double(unique), strict=True) if double})
    if twice:
        raise DataError(f"{', '.join(twice)}: more than one scan of that name; give each once, or predict into separate folders")
    return dict(zip(unique, paths, strict=True))


def _double(names: Sequence[str]) -> list[bool]:
    """Of each name whether another is the same, to a disk that does not tell a from A, or two ways to write an umlaut."""
    counted = Counter(plain := [unicodedata.normalize("NFC", name).casefold() for name in names])
    return [counted[name] > 1 for name in plain]


def read_scan(
    source: Any, spacing_mm: Sequence[float] | None = None, intensity: str | None = None, name: str | None = None
) -> Scan:
    """Read and check one scan.

    Args:
        source: path of a NIfTI file or of a folder with a DICOM series; a nibabel image; or an array (x, y, z) in RAS+.
        spacing_mm: of an array, along x, y, z; the others say their own.
        intensity: "hu" or "grey" to overrule the detection.
        name: the case's id; default: the name of the file or folder.

    Raises:
        DataError: a spacing for what has its own; or a line per problem: unreadable, not one 3-D volume, NaN, constant, neither
            HU nor grey; of DICOM: not CT, several studies, slices that are missing, double or of mixed orientation or size,
            pixels that cannot be decoded.
    """
    path = isinstance(source, str | Path)
    name = name or (_name(Path(source)) if path else "scan")
    where = f"{name}: {source}" if path else name
    notes: list[str] = []
    doubts: list[str] = []
    if spacing_mm is not None and (path or hasattr(source, "dataobj")):
        raise DataError(f"{where}: spacing_mm is {spacing_mm}; allowed: for arrays only; a file says its own, correct it there")
    if path and os.path.isdir(source):
        array, header, affine = _read_dicom(Path(source), where, notes, doubts)
    else:
        if path and not re.search(NIFTI, str(source)):
            raise DataError(f"{where}: neither a folder nor a file that ends in .nii or .nii.gz; allowed: {ALLOWED}")
        array, header, affine = read_volume(Path(source), name) if path else _in_memory(source, spacing_mm, where)
        doubts += [] if knows_sides(header if path else getattr(source, "header", None)) else [NO_SIDES]
    if array.dtype.name not in ("int16", "uint16", "uint8", "int8"):  # these stay small until they are turned
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            array = array.astype(np.float32, copy=False)
    array = without_padding(array, notes)
    kind = intensity or detect_intensity(array)
    if problems := "\n".join(_image_problems(array, kind, where)):
        raise DataError(problems)
    case = make_case(name, array, affine, _anonymous(header), str(kind))
    if kind == "grey" and intensity is None:
        notes.append("taken as grey 0-255, not HU")
    _judge_geometry(case, notes, doubts)
    return Scan(case, tuple(notes), tuple(doubts))


def _is_nifti(path: Path) -> bool:
    return bool(re.search(NIFTI, path.name)) and not path.name.startswith(".")


def _name(path: Path) -> str:
    name = re.sub(NIFTI, "", Path(os.path.abspath(path)).name)
    return os.fsencode(name).decode("utf-8", "replace")  # a name may be of any bytes, a table not


def _in_memory(source: Any, spacing_mm: Sequence[float] | None, where: str) -> tuple[np.ndarray, Any, np.ndarray]:
    import nibabel as nib

    if hasattr(source, "dataobj"):
        if source.affine is None:
            raise DataError(f"{where}: an image without an affine; give its array and spacing_mm")
        try:
            array = np.asanyarray(source.dataobj)
        except UNREADABLE as error:
            raise DataError(f"{where}: the image's file is not whole ({type(error).__name__}); load it again") from error
        affine, spacing = source.affine, np.array(source.header.get_zooms()[:3])
    else:
        try:
            array, spacing = np.asarray(source), np.array(spacing_mm, float).reshape(3)
        except (TypeError, ValueError):
            raise DataError(f"{where}: spacing_mm is {spacing_mm}; an array needs three lengths in mm, along x, y, z") from None
        affine = np.diag([*spacing, 1.0])
    check_volume(array, spacing, affine, where)
    header = nib.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_zooms(spacing)
    return array, header, affine


def _anonymous(header: Any) -> Any:
    """The header without extensions and free text, where converters leave a patient's name."""
    header = header.copy()
    header.extensions.clear()
    for key in ("data_type", "db_name", "descrip", "aux_file", "intent_name"):
        if key in header:
            header[key] = b""
    return header


def _judge_geometry(case: Case, notes: list[str], doubts: list[str]) -> None:
    """Say tilt, turn and unusual spacing."""
    lengths = np.linalg.norm(case.affine[:3, :3], axis=0)
    axes = case.affine[:3, :3] / lengths
    if not spacing_agrees(case.affine, case.header):
        doubts.append(TWO_SPACINGS)
    upright = abs(float(np.linalg.det(axes)))
    tilt, turn = (np.degrees(np.arccos(min(1.0, value))) for value in (upright, abs(axes).max(0).min()))
    if tilt > 0.5:
        notes.append(f"gantry tilt or shear of {tilt:.0f} degrees")
    if turn > 20:
        doubts.append(f"grid turned by {turn:.0f} degrees against the patient: more than the networks have seen")
    elif turn > 0.5:
        notes.append(f"oblique by {turn:.0f} degrees")
    x, y, z = case.spacing_mm
    if not (PIXEL_MM[0] <= min(x, y) and max(x, y) <= PIXEL_MM[1] and SLICE_MM[0] <= z <= SLICE_MM[1]):
        usual = f"{PIXEL_MM[0]} to {PIXEL_MM[1]} mm in plane, {SLICE_MM[0]} to {SLICE_MM[1]} mm between slices"
        doubts.append(f"spacing {x:.2f} x {y:.2f} x {z:.2f} mm is beyond what the networks know ({usual})")


def _read_dicom(folder: Path, where: str, notes: list[str], doubts: list[str]) -> tuple[np.ndarray, Any, np.ndarray]:
    import nibabel as nib

    slices = _in_order(_chosen_series(_ct_slices(folder, where, notes), where, notes, doubts), where)
    affine = _affine(slices)
    array = np.empty((*slices[0].shape, len(slices)), np.float32)
    check_volume(array, np.linalg.norm(affine[:3, :3], axis=0), affine, where)
    for index, one in enumerate(slices):
        array[:, :, index] = _hu(one, where)
    header = nib.Nifti1Image(array, affine).header
    header.set_xyzt_units("mm")
    return array, header, affine


def _ct_slices(folder: Path, where: str, notes: list[str]) -> list[_Slice]:
    """CT slices of all files below a folder; other DICOM and other files are left out, and counted."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    read = [_read_slice(path, f"{where}: {path.name}") for path in files]
    slices, others = [one for one in read if isinstance(one, _Slice)], Counter(one for one in read if isinstance(one, str))
    left_out = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())) or "no files"
    if not slices:
        raise DataError(f"{where}: no CT slice found ({left_out}); allowed: {ALLOWED}")
    if others:
        notes.append(f"left out: {left_out}")
    return slices


def _read_slice(path: Path, where: str) -> _Slice | str:
    """A slice's place and size; of other files what they are. DataError where a CT slice is not whole."""
    import pydicom

    with _guarded(f"{where} is not a whole DICOM file with position, orientation, spacing, size and series", "export it again"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(PLACE))
        except pydicom.errors.InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".ima"):
                raise
            return "not DICOM"
        modality = _code(header.get("Modality")) or "DICOM of unknown kind"
        if modality != "CT":
            return modality
        if "LOCALIZER" in str(header.get("ImageType", "")):
            return "localizer"
        if str(header.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE):
            return "screenshot (secondary capture)"
        if int(header.get("NumberOfFrames") or 1) > 1 or int(header.SamplesPerPixel) != 1:
            raise DataError(f"{where} holds frames or colors; allowed: one grey slice a file; convert it to NIfTI")
        rows_mm, columns_mm = map(float, header.PixelSpacing)
        one = _Slice(
            path=path,
            study=str(header.get("StudyInstanceUID", "")),
            series=str(header.SeriesInstanceUID),
            number=int(header.get("SeriesNumber") or 0),
            corner=np.array(header.ImagePositionPatient, float).reshape(3),
            directions=np.array(header.ImageOrientationPatient, float).reshape(2, 3),
            spacing_mm=(columns_mm, rows_mm),
            thickness_mm=float(header.get("SliceThickness") or 0),
            shape=(int(header.Columns), int(header.Rows)),
            kernel=_code(header.get("ConvolutionKernel")),
        )
    if not np.allclose(one.directions @ one.directions.T, np.eye(2), atol=1e-3) or not np.isfinite(one.corner).all():
        raise DataError(f"{where} has a position or an orientation that is none; export it again")
    return one


@contextmanager
def _guarded(problem: str, advice: str) -> Iterator[None]:
    """pydicom fails and warns in many ways, and may quote the file: of a failure its kind is said, of a warning nothing."""
    logging.getLogger("pydicom").disabled = True
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{problem} ({type(error).__name__}); {advice}") from None


def _chosen_series(slices: list[_Slice], where: str, notes: list[str], doubts: list[str]) -> list[_Slice]:
    """The largest axial series; says which, and warns where others are as large, or none is axial."""
    if len({one.study for one in slices}) > 1:
        raise DataError(f"{where}: slices of several studies; give the folder of one study")
    groups: dict[str, list[_Slice]] = {}
    for one in slices:
        groups.setdefault(one.series, []).append(one)
    ranked = sorted(groups.values(), key=lambda group: (not _axial(group), -len(group), group[0].number))
    chosen, *others = ranked
    if others:
        notes.append(f"took {_said(chosen)}, not {', '.join(map(_said, others))}")
    rivals = [other for other in others if (len(other), _axial(other)) == (len(chosen), _axial(chosen))]
    if rivals:
        other = "for another, give a folder that holds its files alone"
        doubts.append(f"ambiguous: took {_said(chosen)}; as large: {', '.join(map(_said, rivals))}; {other}")
    if not _axial(chosen):
        doubts.append(f"no axial series; took {_said(chosen)}")
    return chosen


def _axial(series: list[_Slice]) -> bool:
    return abs(series[0].normal[2]) > 0.8


def _said(series: list[_Slice]) -> str:
    """What tells a series from others, without any text that a person typed."""
    first, places = series[0], [float(one.corner @ series[0].normal) for one in series]
    apart = (max(places) - min(places)) / max(1, len(places) - 1)
    kind, kernel = "axial" if _axial(series) else "not axial", f", kernel {first.kernel}" if first.kernel else ""
    return f"series {first.number} ({len(series)} {kind} slices, {apart:.3g} mm apart{kernel})"


def _code(value: Any) -> str:
    """A DICOM code such as CT or B70f: letters and digits, at most 16."""
    return re.sub("[^A-Za-z0-9]", "", str(value or ""))[:16]


def _in_order(slices: list[_Slice], where: str) -> list[_Slice]:
    """Slices from one end to the other. DataError unless they make one regular stack."""
    first = slices[0]
    for one in slices:
        if not np.allclose(one.directions, first.directions, atol=1e-3):
            raise DataError(f"{where}: mixed orientations ({first.path.name}, {one.path.name}); allowed: parallel slices")
        if one.shape != first.shape or not np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise DataError(f"{where}: slices of different size ({first.path.name}, {one.path.name}); give one series only")
    slices = sorted(slices, key=lambda one: float(one.corner @ first.normal))
    steps = np.diff([one.corner for one in slices], axis=0)
    gaps = steps @ first.normal
    usual = float(np.median(gaps)) if len(gaps) else first.thickness_mm
    double = np.flatnonzero(gaps < 0.01)
    if double.size:
        files = f"{slices[double[0]].path.name} and {slices[double[0] + 1].path.name}"
        raise DataError(f"{where}: slices at the same place, {len(double)} times ({files}): copies or phases; keep one of each")
    if usual < 0.01:
        raise DataError(f"{where}: one slice, of {usual:g} mm; allowed: SliceThickness in mm, or several slices")
    wrong = np.flatnonzero(abs(gaps - usual) > 0.05 * usual + 0.01)
    if wrong.size:
        files = f"{slices[wrong[0]].path.name} and {slices[wrong[0] + 1].path.name}"
        size = f"{gaps[wrong[0]]:.2f} mm between {files}, usually {usual:.2f} mm"
        raise DataError(f"{where}: uneven slices, {len(wrong)} times ({size}); a slice is missing: export the whole series")
    if len(steps) and np.linalg.norm(steps - steps.mean(0), axis=1).max() > 0.5:
        raise DataError(f"{where}: slices shifted against each other; allowed: one straight stack; export the series again")
    return slices


def _affine(slices: list[_Slice]) -> np.ndarray:
    """Voxel (column, row, slice) to mm in RAS+; DICOM's own coordinates are LPS."""
    first, last = slices[0], slices[-1]
    lps = np.eye(4)
    lps[:3, :2] = first.directions.T * first.spacing_mm
    lps[:3, 2] = (last.corner - first.corner) / (len(slices) - 1) if len(slices) > 1 else first.normal * first.thickness_mm
    lps[:3, 3] = first.corner
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _hu(one: _Slice, where: str) -> np.ndarray:
    """A slice (column, row) in HU by its own slope and intercept; padding becomes air."""
    import pydicom

    with _guarded(f"{where}: {one.path.name}: pixels cannot be decoded", "decompress it (gdcmconv --raw) or export it again"):
        data = pydicom.dcmread(one.path, specific_tags=list(PIXELS))
        stored = data.pixel_array.reshape(one.shape[::-1])
        hu = stored.astype(np.float32) * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        if data.get("PixelPaddingValue") is not None:
            ends = [data.PixelPaddingValue, data.get("PixelPaddingRangeLimit", data.PixelPaddingValue)]
            low, high = sorted(np.array(ends).astype(stored.dtype))  # may be written with the other sign
            hu[(stored >= low) & (stored <= high)] = AIR_HU
    return hu.T
