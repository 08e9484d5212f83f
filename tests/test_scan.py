"""Reading anyone's scans: what is said about them, what is refused and how, what is left alone; mutated files."""

import gzip
import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from variants import PATIENT, around_z, chest, tilted, turned, write_dicom, write_nifti

from covidlib.errors import DataError
from covidlib.files import checksum
from covidlib.scan import find_scans, read_scan

HU = chest((16, 12, 6))
FINE = (0.8, 0.8, 5.0)


def content(folder: Path) -> dict[str, str]:
    return {str(path): checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}


# What comes out


def test_a_nifti_file_is_a_case_without_labels(tmp_path):
    scan = read_scan(turned(HU, FINE, tmp_path, "LPS"))
    assert (scan.case.id, scan.case.labels, scan.case.intensity, scan.case.orientation) == ("scan", None, "hu", "LPS")
    np.testing.assert_array_equal(scan.case.image, HU)
    np.testing.assert_allclose(scan.case.spacing_mm, FINE, rtol=1e-6)
    assert scan.notes == scan.warnings == ()


def test_a_dicom_series_is_the_same_case(tmp_path):
    scan = read_scan(write_dicom(HU, FINE, tmp_path / "series"))
    assert (scan.case.id, scan.case.orientation, scan.notes, scan.warnings) == ("series", "LPS", (), ())
    np.testing.assert_array_equal(scan.case.image, HU)
    np.testing.assert_allclose(scan.case.affine, read_scan(turned(HU, FINE, tmp_path, "LPS")).case.affine, atol=1e-4)


def test_an_array_needs_its_spacing(tmp_path):
    given = np.where(HU == -1000, -2000, HU).astype(np.float32)
    np.testing.assert_array_equal(read_scan(given, FINE).case.image, np.maximum(given, -1024))
    assert given.min() == -2000  # what was given stays as it is
    with pytest.raises(DataError, match="scan: spacing_mm is None; an array needs three lengths in mm"):
        read_scan(HU)
    for wrong in (0.8, "5", (0.8, 5), ("a", "b", "c")):
        with pytest.raises(DataError, match="an array needs three lengths in mm, along x, y, z"):
            read_scan(HU, wrong)
    with pytest.raises(DataError, match=r"scan: spacing \[0.8, 0.8, -5.0\] mm; allowed: positive"):
        read_scan(HU, (0.8, 0.8, -5))


def test_formats_other_than_nifti(tmp_path):
    """A header of nibabel's that knows nothing but shape and spacing; and Analyze, which has no place for which side is left."""
    plain = read_scan(nib.spatialimages.SpatialImage(HU, np.diag([*FINE, 1.0])))
    np.testing.assert_array_equal(plain.case.image, HU)
    assert plain.warnings == ()
    old = read_scan(nib.Spm2AnalyzeImage(HU, np.diag([*FINE, 1.0])))
    assert "does not say which side is left" in old.warnings[0]


def test_a_spacing_for_what_has_its_own_is_refused(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", HU, np.diag([*FINE, 1.0]))
    for source in (path, nib.load(path)):
        with pytest.raises(DataError, match="spacing_mm is .*; allowed: for arrays only; a file says its own"):
            read_scan(source, spacing_mm=(1, 1, 5))


def test_an_image_in_memory_needs_an_affine_and_a_whole_file(tmp_path):
    with pytest.raises(DataError, match="scan: an image without an affine; give its array and spacing_mm"):
        read_scan(nib.Nifti1Image(HU, None))
    path = write_nifti(tmp_path / "scan.nii", HU, np.diag([*FINE, 1.0]))
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"scan: the image's file is not whole \(OSError\)"):
        read_scan(nib.load(path))


def test_a_file_packed_in_many_parts_is_read_whole(tmp_path):
    """As bgzip writes them: one gzip member after another."""
    path = turned(HU, FINE, tmp_path, "LPS")
    whole, content = read_scan(path).case.image, gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(content[start : start + 100]) for start in range(0, len(content), 100)))
    np.testing.assert_array_equal(read_scan(path).case.image, whole)


def test_a_header_that_does_not_say_which_side_is_left_is_warned_of(tmp_path):
    path = turned(HU, FINE, tmp_path, "LPS")
    image = nib.load(path)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "without.nii.gz")
    for source in (tmp_path / "without.nii.gz", nib.load(tmp_path / "without.nii.gz")):
        (warning,) = read_scan(source).warnings
        assert "does not say which side is left" in warning
    assert read_scan(image.get_fdata(), FINE).warnings == ()  # of an array it is agreed


def test_free_text_of_a_header_does_not_go_on(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", HU, np.diag([*FINE, 1.0]))
    image = nib.load(path)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", PATIENT.encode()))
    nib.save(image, path)
    header = read_scan(path).case.header
    assert PATIENT.encode() not in header.binaryblock and len(header.extensions) == 0


@pytest.mark.parametrize(
    ("affine", "spacing", "notes", "warnings"),
    [
        (np.eye(4), FINE, "", ""),
        (tilted(15), FINE, "gantry tilt or shear of 15 degrees", ""),
        (around_z(10), FINE, "oblique by 10 degrees", ""),
        (around_z(30), FINE, "", "grid turned by 30 degrees"),
        (np.eye(4), (0.2, 0.2, 5), "", "spacing 0.20 x 0.20 x 5.00 mm is beyond what the networks know"),
        (np.eye(4), (0.8, 0.8, 12), "", "beyond what the networks know"),
    ],
)
def test_unusual_geometry_is_said(tmp_path, affine, spacing, notes, warnings):
    scan = read_scan(turned(HU, spacing, tmp_path, "LPS", affine))
    said = "; ".join(scan.notes), "; ".join(scan.warnings)
    assert all(wanted in given and bool(wanted) == bool(given) for wanted, given in zip((notes, warnings), said, strict=True))


def test_slices_of_a_tilted_gantry_lie_nearer_than_their_corners(tmp_path):
    """At 60 degrees the corners of neighbors are 10 mm apart, the slices 5 mm."""
    scan = read_scan(write_dicom(HU, FINE, tmp_path / "series", tilt=np.tan(np.radians(60))))
    np.testing.assert_allclose(scan.case.spacing_mm, FINE, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(scan.case.affine[:3, 2]), 10, rtol=1e-4)


def test_a_header_that_has_the_distance_between_tilted_slices_is_taken_at_its_word(tmp_path):
    """The affine's slanted axis is 5 / cos 30 long, pixdim says 5: that is the distance already."""
    path = turned(HU, FINE, tmp_path, "LPS", tilted(30))
    stored = bytearray(gzip.decompress(path.read_bytes()))
    stored[88:92] = np.float32(5).tobytes()  # pixdim[3]
    path.write_bytes(gzip.compress(stored))
    scan = read_scan(path)
    assert scan.case.spacing_mm[2] == 5 and "spacing and its affine differ" in scan.warnings[0]


def test_spacing_that_the_affine_contradicts_is_said(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", HU, np.diag([*FINE, 1.0]))
    stored = bytearray(path.read_bytes())
    stored[88:92] = np.float32(7).tobytes()  # pixdim[3]
    path.write_bytes(stored)
    scan = read_scan(path)
    assert scan.case.spacing_mm[2] == 7 and "the header's spacing and its affine differ" in scan.warnings[0]
    loaded = read_scan(nib.load(path))
    assert loaded.case.spacing_mm == scan.case.spacing_mm and loaded.warnings == scan.warnings


def test_grey_is_detected_and_said_or_overruled(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", np.clip(HU + 1024, 0, 255).astype(np.uint8), np.diag([*FINE, 1.0]))
    assert read_scan(path).notes == ("taken as grey 0-255, not HU",) and read_scan(path).case.intensity == "grey"
    assert read_scan(path, intensity="hu").case.intensity == "hu"
    with pytest.raises(DataError, match="intensity 'gray'; allowed: hu, grey"):
        read_scan(path, intensity="gray")


def screenshot(data, z):
    """As the dose report of most scanners: called CT, in colors, and nowhere in the patient."""
    data.SOPClassUID, data.SamplesPerPixel = "1.2.840.10008.5.1.4.1.1.7", 3
    del data.ImagePositionPatient


def test_the_largest_axial_series_is_taken_and_said(tmp_path):
    write_dicom(HU[..., :4], FINE, tmp_path / "a", number=4)
    write_dicom(HU, FINE, tmp_path / "a" / "b", number=7)
    write_dicom(HU[..., :2], FINE, tmp_path / "a", number=9, edit=lambda data, z: setattr(data, "ImageType", "LOCALIZER"))
    write_dicom(HU[..., :1], FINE, tmp_path / "a", number=10, edit=lambda data, z: setattr(data, "Modality", "SR"))
    write_dicom(HU[..., :1], FINE, tmp_path / "a", number=11, edit=screenshot)
    (tmp_path / "a" / "README.txt").write_text("a stray file")
    scan = read_scan(tmp_path / "a")
    assert scan.case.image.shape == HU.shape and scan.warnings == ()
    left_out = "left out: 1 SR, 2 localizer, 1 not DICOM, 1 screenshot (secondary capture)"
    assert scan.notes == (left_out, "took series 7 (6 axial slices, 5 mm apart), not series 4 (4 axial slices, 5 mm apart)")


def test_of_series_as_large_the_first_is_taken_and_all_are_listed(tmp_path):
    for number, kernel in ((5, "B70f"), (3, ["Br40d", "3"]), (6, None)):
        edit = [lambda data, z, kernel=kernel: setattr(data, "ConvolutionKernel", kernel), lambda data, z: None][kernel is None]
        write_dicom(HU + number, FINE, tmp_path / "series", number=number, edit=edit)
    scan = read_scan(tmp_path / "series")
    assert scan.case.image.max() == HU.max() + 3
    others = "series 5 (6 axial slices, 5 mm apart, kernel B70f), series 6 (6 axial slices, 5 mm apart)"
    took = "took series 3 (6 axial slices, 5 mm apart, kernel Br40d3)"
    assert scan.notes == (f"{took}, not {others}",)
    assert scan.warnings == (
        f"ambiguous: {took}; as large: {others}; for another, give a folder that holds its files alone",
    )


def test_a_series_that_is_not_axial_is_taken_with_a_warning(tmp_path):
    def coronal(data, z):
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [0, 2.0 * z, 0]

    scan = read_scan(write_dicom(HU, FINE, tmp_path / "series", edit=coronal))
    assert "no axial series; took series 1 (6 not axial slices, 2 mm apart)" in scan.warnings
    assert scan.case.image.shape == (16, 6, 12)


def test_scans_are_found_and_named(tmp_path):
    for name in ("one/a.nii.gz", "one/b.nii", "two/a.nii.gz", "one/.hidden.nii", "one/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "series").mkdir()
    found = find_scans([tmp_path / "one", tmp_path / "two" / "a.nii.gz", tmp_path / "series", tmp_path / "none.nii"])
    assert list(found) == ["one_a", "b", "two_a", "series", "none"]
    (tmp_path / "series" / "LOUD.NII.GZ").touch()
    (tmp_path / "series" / os.fsdecode(b"bytes\xff.nii")).touch()
    assert list(find_scans([tmp_path / "series"])) == ["LOUD", "bytes\ufffd"]  # a name that a table can hold
    with pytest.raises(DataError, match="one_a: more than one scan of that name"):
        find_scans([tmp_path / "one", tmp_path / "one" / "a.nii.gz"])


def test_names_that_some_disks_take_for_one_are_told_apart(tmp_path):
    for name in ("one/Scan.nii.gz", "two/scan.nii.gz", "one/u\u0308.nii", "two/\u00fc.nii", "two/other.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_scans([tmp_path / "one", tmp_path / "two"])
    assert sorted(found) == sorted(["one_Scan", "two_scan", "one_u\u0308", "two_\u00fc", "other"])


# What is refused: file, reason, remedy


def break_slice(index, **elements):
    def edit(data, z):
        if z == index:
            for key, value in elements.items():
                setattr(data, key, value)

    return edit


def lose(key):
    return lambda data, z: z == 2 and delattr(data, key)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (break_slice(2, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), "mixed orientations (0000_1.dcm, 0014_1.dcm); allowed"),
        (break_slice(2, PixelSpacing=[0.9, 0.9]), "slices of different size"),
        (break_slice(2, ImagePositionPatient=[0, 0, 10.0]), "slices shifted against each other"),
        (
            break_slice(2, ImagePositionPatient=[-12, -8.8, 5.0]),
            "slices at the same place, 1 times (0007_1.dcm and 0014_1.dcm): copies or phases; keep one of each",
        ),
        (lambda data, z: setattr(data, "PixelSpacing", [0, 0]), "spacing [0.0, 0.0, 5.0] mm; allowed: positive"),
        (lambda data, z: setattr(data, "Rows", 0), "shape (16, 0, 6) of float32; allowed: one 3-D volume"),
        (break_slice(2, ImagePositionPatient=[-12, -8.8, 11.0]), "uneven slices, 2 times (6.00 mm between"),
        (break_slice(2, StudyInstanceUID="1.2.4"), "slices of several studies; give the folder of one study"),
        (break_slice(2, NumberOfFrames=3), "0014_1.dcm holds frames or colors; allowed: one grey slice a file"),
        (break_slice(2, SamplesPerPixel=3), "0014_1.dcm holds frames or colors"),
        (break_slice(2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "0014_1.dcm has a position or an orientation that is none"),
        (break_slice(2, PixelData=b"12"), "0014_1.dcm: pixels cannot be decoded (ValueError); decompress it"),
        (lambda data, z: setattr(data, "Modality", "MR"), "no CT slice found (6 MR); allowed"),
        (lose("ImagePositionPatient"), "0014_1.dcm is not a whole DICOM file with position"),
        (lose("PixelSpacing"), "0014_1.dcm is not a whole DICOM file with position"),
    ],
)
def test_dicom_that_is_no_volume_is_refused(tmp_path, edit, words):
    folder = write_dicom(HU, FINE, tmp_path / "series", edit=edit)
    with pytest.raises(DataError) as caught:
        read_scan(folder)
    assert str(caught.value).startswith(f"series: {folder}: ") and words in str(caught.value)
    assert PATIENT not in str(caught.value)


def test_a_missing_a_cut_and_a_double_slice_are_refused(tmp_path):
    folder = write_dicom(HU, FINE, tmp_path / "series")
    whole = (folder / "0014_1.dcm").read_bytes()
    (folder / "0014_1.dcm").unlink()
    with pytest.raises(DataError, match=r"uneven slices, 1 times \(10.00 mm between 0007_1.dcm and 0021_1.dcm, usually 5.00 mm"):
        read_scan(folder)
    for cut, words in ((0, "not a whole DICOM file"), (len(whole) - 100, "pixels cannot be decoded")):
        (folder / "0014_1.dcm").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=f"0014_1.dcm.* {words}"):
            read_scan(folder)
    for name in ("0014_1.dcm", "copy.dcm"):
        (folder / name).write_bytes(whole)
    with pytest.raises(DataError, match="slices at the same place"):
        read_scan(folder)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.stack([HU, HU], 3), r"shape \(16, 12, 6, 2\) of int16; allowed: one 3-D volume"),
        (np.zeros(HU.shape, [(c, "u1") for c in "RGB"]), "allowed: one 3-D volume of numbers"),
        (HU.astype(np.complex64), "allowed: one 3-D volume of numbers"),
        (np.where(HU > 0, np.nan, HU), "voxels are NaN or infinite; allowed: finite values"),
        (HU * np.float64(1e300), "voxels are NaN or infinite"),
        (np.full_like(HU, -1000), "constant, every voxel is -1000"),
        (HU + np.int16(1000), "neither HU .* nor grey 0-255; apply the rescale slope, or name the kind"),
        ((HU > 0).astype(np.uint8), "neither HU"),
    ],
)
def test_nifti_that_is_no_scan_is_refused(tmp_path, array, words):
    path = write_nifti(tmp_path / "scan.nii.gz", array, np.diag([*FINE, 1.0]))
    with pytest.raises(DataError, match=f"^scan: {path}: .*{words}"):
        read_scan(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.nii.gz", "not a whole NIfTI file"),
        ("notes.txt", "neither a folder nor a file that ends in .nii or .nii.gz; allowed: .nii or .nii.gz files, or a folder"),
        ("pair.img", "neither a folder nor a file that ends in .nii"),
        ("series/0007_1.dcm", "neither a folder nor a file that ends in .nii"),
        ("empty", "no CT slice found (no files)"),
        ("empty.nii.gz", "not a whole NIfTI file (Empty file"),
    ],
)
def test_what_is_no_scan_at_all_is_refused(tmp_path, name, words):
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.nii.gz").touch()
    nib.save(nib.Nifti1Pair(HU, np.eye(4)), tmp_path / "pair.img")
    write_dicom(HU, FINE, tmp_path / "series")
    with pytest.raises(DataError) as caught:
        read_scan(tmp_path / name)
    assert str(caught.value).startswith(f"{Path(name).name.removesuffix('.nii.gz')}: ") and words in str(caught.value)


def test_one_slice_needs_its_thickness(tmp_path):
    folder = write_dicom(HU[..., :1], FINE, tmp_path / "series", edit=lambda data, z: delattr(data, "SliceThickness"))
    with pytest.raises(DataError, match="one slice, of 0 mm; allowed: SliceThickness in mm, or several slices"):
        read_scan(folder)


def test_a_header_that_promises_more_than_its_file_holds_claims_no_memory(tmp_path):
    """8 billion voxels in a packed file of 2304 bytes: 16 GB, if the header were believed."""
    stored = bytearray(write_nifti(tmp_path / "scan.nii", HU, np.diag([*FINE, 1.0])).read_bytes())
    stored[42:48] = np.array([2000] * 3, np.int16).tobytes()  # dim[1:4]
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(stored))
    with pytest.raises(DataError, match="its header promises more than it holds"):
        read_scan(tmp_path / "scan.nii.gz")


# Mutated files: an error of our own or a sound case; nothing else happens


def sound_or_refused(path: Path, folder: Path, caplog) -> bool:
    """Read it; true if it gave a case. Fails on any other error, on a NaN, and if a file of the folder changed."""
    before = content(folder)
    try:
        case = read_scan(path).case
    except DataError as error:
        assert PATIENT not in str(error)
        case = None
    assert content(folder) == before and PATIENT not in caplog.text
    assert case is None or (np.isfinite(case.image).all() and case.image.ndim == 3 and min(case.spacing_mm) > 0)
    return case is not None


MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


def mutated(whole: bytes, changes: list[tuple[int, int]], upto: int, keep: float) -> bytes:
    data = bytearray(whole)
    for place, value in changes:
        data[place % min(upto, len(data))] = value
    return bytes(data[: int(len(data) * keep)])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=MUTATIONS, keep=st.sampled_from([1, 1, 1, 0.9, 0.3, 0]), packed=st.booleans(), header=st.booleans())
def test_mutated_nifti(tmp_path_factory, caplog, changes, keep, packed, header):
    folder = tmp_path_factory.mktemp("nifti")
    whole = write_nifti(folder / "scan.nii", HU, np.diag([*FINE, 1.0])).read_bytes()
    changed = mutated(whole, changes, 352 if header else len(whole), keep)
    path = folder / "scan.nii.gz" if packed else folder / "scan.nii"
    path.write_bytes(gzip.compress(changed) if packed else changed)
    sound_or_refused(path, folder, caplog)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=MUTATIONS, keep=st.sampled_from([1, 0.9, 0.3]), file=st.integers(0, 3))
def test_mutated_gzip_and_dicom(tmp_path_factory, caplog, changes, keep, file):
    folder = tmp_path_factory.mktemp("files")
    caplog.set_level(logging.DEBUG)
    if file == 0:
        path = write_nifti(folder / "scan.nii.gz", HU, np.diag([*FINE, 1.0]))
        path.write_bytes(mutated(path.read_bytes(), changes, 10**6, keep))
    else:
        path = write_dicom(HU[..., :4], FINE, folder / "series")
        one = path / f"{7 * file:04d}_1.dcm"
        one.write_bytes(mutated(one.read_bytes(), changes, 900 if file < 3 else 10**6, keep))
    sound_or_refused(path, folder, caplog)


def test_what_the_fuzz_test_starts_from_is_sound(tmp_path, caplog):
    assert sound_or_refused(write_nifti(tmp_path / "scan.nii", HU, np.diag([*FINE, 1.0])), tmp_path, caplog)
    assert sound_or_refused(write_dicom(HU[..., :4], FINE, tmp_path / "series"), tmp_path, caplog)
