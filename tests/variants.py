"""One scan written in many ways, and a network set by hand that sees each of them: for the matrix of inputs.

`VARIANTS` maps a name to a function (hu, spacing_mm, folder) -> what to give to a Predictor; hu is int16 (x, y, z) in RAS+.
What a variant does to the scan is undone by turning the predicted NIfTI back to RAS+ with nibabel alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from covidlib.profile import Profile

PATIENT = "Doe^Jane^Secret"
SPACING = (4.0, 4.0, 6.0)


def chest(shape: tuple[int, int, int] = (80, 64, 24)) -> np.ndarray:
    """HU of a drawn chest of SPACING: an oval body, two lungs that differ, a hazy block in the left one, low on the back."""
    x, y, z = np.indices(shape) / np.array(shape)[:, None, None, None]
    hu = np.where(((x - 0.5) / 0.45) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1, 40, -1000)
    for middle, width in ((0.3, 0.15), (0.72, 0.12)):  # x grows to the patient's right
        hu[((x - middle) / width) ** 2 + ((y - 0.5) / 0.28) ** 2 + ((z - 0.5) / 0.55) ** 2 < 1] = -850
    hu[(abs(x - 0.3) < 0.08) & (abs(y - 0.35) < 0.1) & (abs(z - 0.3) < 0.15)] = -550
    return hu.astype(np.int16)


def seeing_weights(folder: Path, profile: Profile, shift: bool = True) -> Path:
    """A run's folder with a network whose weights are set by hand: it labels by intensity alone.

    Up to -940 HU background, to -700 left lung, to -300 infection, to 200 right lung, above background. With `shift` each label
    is that of the voxel one further in x, and two in y: a scan turned the wrong way round cannot come out right.
    """
    from covidlib.network import build_network

    model = build_network(profile.network)
    for layer in model.layers:
        if layer.name.split("_")[0] in ("down0a", "down0b", "merge0a", "merge0b", "classes") and "norm" not in layer.name:
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])
    p = profile.preprocessing
    edges = [((hu + 1250) * 255 / 1500 - p.fixed_mean_grey) / p.fixed_deviation_grey for hu in (-1060, -820, -580, -20, 420)]
    taps = {"down0a": (1, 1), "down0b": (1, 2), "merge0a": (2, 1), "merge0b": (1, 2)} if shift else {}
    channels = model.get_layer("down0a").filters
    for name in ("down0a", "down0b", "merge0a", "merge0b"):
        kernel, bias = model.get_layer(name).get_weights()
        for k in range(len(edges)):
            source = 0 if name == "down0a" else k + (channels if name == "merge0a" else 0)
            kernel[(*taps.get(name, (1, 1)), 1, source, k)] = 1
            bias[k] = -edges[k] if name == "down0a" else 0
        model.get_layer(name).set_weights([kernel, bias])
    kernel, bias = model.get_layer("classes").get_weights()
    for label, k in ((1, 0), (3, 1), (2, 2)):  # a hat over each band of intensities, highest in its middle
        left, right = edges[k + 1] - edges[k], edges[k + 2] - edges[k + 1]
        kernel[..., k, label], kernel[..., k + 1, label] = 1 / left, -1 / left - 1 / right
        kernel[..., k + 2, label] = 1 / right
    bias[0] = 0.5
    model.get_layer("classes").set_weights([kernel, bias])
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"profile": profile.as_dict()}))
    model.save_weights(folder / "fold_0" / "model.weights.h5")
    return folder


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, slope: float = 1, inter: float = 0, kind: Any = None) -> Path:
    """NIfTI with stored numbers as given, slope and intercept in the header."""
    kind = kind or nib.Nifti1Image
    image = kind(array, affine, dtype=array.dtype)
    image.header.set_slope_inter(slope, inter)
    image.header["descrip"] = PATIENT.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def turned(hu: np.ndarray, spacing: tuple, folder: Path, codes: str, rotation: np.ndarray | None = None) -> Path:
    """NIfTI stored along other axes; the affine says so."""
    image = nib.Nifti1Image(hu, np.diag([*spacing, 1.0]))
    ornt = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    image = image.as_reoriented(ornt)
    affine = image.affine if rotation is None else rotation @ image.affine
    return write_nifti(folder / "scan.nii.gz", np.asanyarray(image.dataobj), affine)


def around_z(degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def tilted(degrees: float) -> np.ndarray:
    """Shear: each slice moves along y with its height, as under a tilted gantry."""
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(degrees))
    return shear


def in_circle(hu: np.ndarray, value: int, kind: Any = np.int16) -> np.ndarray:
    """Corners of each slice set to a padding value; there is air there."""
    x, y = (np.indices(hu.shape[:2]) + 0.5) / np.array(hu.shape[:2])[:, None, None] - 0.5
    return np.where(((x**2 + y**2) > 0.25)[..., None] & (hu < -990), value, hu).astype(kind)


def as_grey(hu: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(hu, -1250.0, 250.0) + 1250) * 255 / 1500).astype(np.uint8)


def write_dicom(
    hu: np.ndarray,
    spacing: tuple,
    folder: Path,
    slope: float = 1,
    intercept: float = 0,
    unsigned: bool = False,
    padding: int | None = None,
    transposed: bool = False,
    tilt: float = 0,
    syntax: str = ExplicitVRLittleEndian,
    number: int = 1,
    study: str = "1.2.3",
    edit: Callable[[pydicom.Dataset, int], Any] = lambda dataset, index: None,
) -> Path:
    """A CT series, one file a slice, names in no order; `edit` may change slice `index` before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    series, (nx, ny, nz) = f"{study}.{number}", hu.shape
    for z in range(nz):
        stored = np.rint((hu[::-1, ::-1, z].T.astype(float) - intercept) / slope)  # (row, column): to the back, to the left
        directions = [1, 0, 0, 0, 1, 0]
        if transposed:
            stored, directions = stored.T, directions[3:] + directions[:3]
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax if syntax != RLELossless else ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{series}.{z + 1}"
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, PATIENT, "19700101"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber = study, series, number
        data.ImagePositionPatient = [-(nx - 1) * spacing[0], -(ny - 1) * spacing[1] - tilt * z * spacing[2], z * spacing[2]]
        data.ImageOrientationPatient = directions
        data.PixelSpacing = [spacing[0], spacing[1]] if transposed else [spacing[1], spacing[0]]
        data.SliceThickness = spacing[2]
        data.Rows, data.Columns = stored.shape
        data.BitsAllocated, data.BitsStored, data.HighBit, data.SamplesPerPixel = 16, 16, 15, 1
        data.PixelRepresentation, data.PhotometricInterpretation = int(not unsigned), "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        if padding is not None:
            data.PixelPaddingValue = padding
        data.PixelData = stored.astype(np.uint16 if unsigned else np.int16).tobytes()
        data["PixelData"].VR = "OW"
        if syntax == RLELossless:
            data.compress(RLELossless)
        edit(data, z)
        data.save_as(folder / f"{(7 * z) % 1009:04d}_{number}.dcm", enforce_file_format=True)
    return folder


PLAIN = "plain NIfTI"
VARIANTS: dict[str, Callable[[np.ndarray, tuple, Path], Any]] = {
    PLAIN: lambda hu, mm, to: turned(hu, mm, to, "RAS"),
    **{f"stored {code}": (lambda hu, mm, to, code=code: turned(hu, mm, to, code))
       for code in ("LPS", "LAS", "LPI", "RPI", "PIR", "SAL", "ASR")},
    "oblique by 10 degrees": lambda hu, mm, to: turned(hu, mm, to, "LPS", around_z(10)),
    "unsigned with intercept": lambda hu, mm, to: write_nifti(
        to / "scan.nii.gz", (hu + 1024).astype(np.uint16), np.diag([*mm, 1.0]), 1, -1024),
    "rescale slope 0.5": lambda hu, mm, to: write_nifti(
        to / "scan.nii", (2 * (hu.astype(np.int32) + 1000)).astype(np.int32), np.diag([*mm, 1.0]), 0.5, -1000),
    "float HU": lambda hu, mm, to: write_nifti(to / "scan.nii.gz", hu.astype(np.float64) + 0.25, np.diag([*mm, 1.0])),
    "big-endian": lambda hu, mm, to: write_nifti(to / "scan.nii", hu.astype(">i2"), np.diag([*mm, 1.0])),
    "NIfTI-2": lambda hu, mm, to: write_nifti(to / "scan.nii.gz", hu, np.diag([*mm, 1.0]), kind=nib.Nifti2Image),
    "padding -2000": lambda hu, mm, to: turned(in_circle(hu, -2000), mm, to, "LPS"),
    "padding -32768": lambda hu, mm, to: turned(in_circle(hu, -32768), mm, to, "LPS"),
    "grey 0-255": lambda hu, mm, to: turned(as_grey(hu), mm, to, "LPS"),
    "array and spacing": lambda hu, mm, to: (hu, mm),
    "nibabel image": lambda hu, mm, to: nib.Nifti1Image(hu, np.diag([*mm, 1.0])),
    "DICOM": write_dicom,
    "DICOM, unsigned with intercept": lambda hu, mm, to: write_dicom(hu, mm, to, 1, -1024, unsigned=True),
    "DICOM, rescale slope 0.5": lambda hu, mm, to: write_dicom(hu, mm, to, 0.5, 500),
    "DICOM, implicit, transposed": lambda hu, mm, to: write_dicom(hu, mm, to, transposed=True, syntax=ImplicitVRLittleEndian),
    "DICOM, padding above": lambda hu, mm, to: write_dicom(
        in_circle(hu, 9000), mm, to, 1, -1024, unsigned=True, padding=9000 + 1024),
    "DICOM, RLE": lambda hu, mm, to: write_dicom(hu, mm, to, syntax=RLELossless),
}  # fmt: skip
NEARLY: dict[str, Callable[[np.ndarray, tuple, Path], Any]] = {  # the slices keep their pixels, their distance is another one
    "gantry tilt of 5 degrees": lambda hu, mm, to: turned(hu, mm, to, "LPS", tilted(5)),
    "DICOM, gantry tilt of 5 degrees": lambda hu, mm, to: write_dicom(hu, mm, to, tilt=np.tan(np.radians(5))),
}


def predict_variant(predictor: Any, source: Any, out: Path) -> np.ndarray:
    """Labels of a variant, saved as NIfTI and turned back to RAS+ by nibabel alone."""
    from covidlib.dataset import save_labels

    result = predictor(*source) if isinstance(source, tuple) else predictor(source)
    save_labels(result.labels, result.case, out / "labels.nii.gz")
    return np.asanyarray(nib.as_closest_canonical(nib.load(out / "labels.nii.gz")).dataobj)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """The smallest Dice over the classes that are there; background counts."""
    found = np.unique([*np.unique(one), *np.unique(other)])
    return min(2 * float(((one == k) & (other == k)).sum()) / float((one == k).sum() + (other == k).sum()) for k in found)
