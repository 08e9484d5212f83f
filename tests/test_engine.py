"""OpenVINO computes what Keras computes, from Keras' weights; other weights are refused; nothing else needs to be installed."""

import dataclasses
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import h5py
import nibabel as nib
import numpy as np
import pytest
from variants import SPACING, chest

from covidlib import engine, inference
from covidlib.dataset import make_case
from covidlib.engine import Engine, computed_in, has_bfloat16
from covidlib.errors import DataError
from covidlib.files import read_json
from covidlib.inference import load_model, predict_volume
from covidlib.network import build_network
from covidlib.predict import SHIPPED
from covidlib.preprocessing import Prepared, prepare
from covidlib.profile import Inference, Network, Profile, profile_from
from covidlib.runs import ROOT

KINDS = list(itertools.product(("batch", "instance"), (0, 1), (False, True), [(1, 1, 1)]))
STRIDES = [("instance", 1, True, (2, 2, 1)), ("batch", 0, False, (2, 1, 2))]


def image_of(*shape):
    return np.random.default_rng(0).normal(size=(1, *shape, 1)).astype(np.float32)


@pytest.fixture
def stored(tmp_path):
    """A function that writes a network with every weight drawn by chance; returns the Keras model and the file."""

    def store(settings):
        rng, model, file = np.random.default_rng(1), build_network(settings), tmp_path / "model.weights.h5"
        for variable in model.variables:
            drawn = rng.normal(0, 0.3, variable.shape)
            variable.assign(np.abs(drawn) + 0.5 if variable.path.endswith(("variance", "gamma")) else drawn)
        model.save_weights(file)
        return model, file

    return store


@pytest.mark.parametrize(("norm", "flat_levels", "flat_kernels", "stride"), [*KINDS, *STRIDES])
def test_the_same_probabilities_as_keras_for_any_size(norm, flat_levels, flat_kernels, stride, stored):
    settings = Network(filters=(4, 6, 8), norm=norm, flat_levels=flat_levels, flat_kernels=flat_kernels, stride=stride)
    model, file = stored(settings)
    found = Engine(settings, file)
    for times in ((2, 3, 3), (1, 2, 1), (2, 3, 3)):
        image = image_of(*np.multiply(settings.smallest_step, times))
        expected = np.asarray(model(image, training=False))
        assert expected.std() > 0.05  # there is something to agree on
        np.testing.assert_allclose(found(image), expected, atol=1e-3)
        found.release()


def test_windows_computed_at_the_same_time_give_what_they_give_one_by_one(stored):
    settings = Network(filters=(4, 6))
    _, file = stored(settings)
    volume = Prepared("case", image_of(20, 16, 12)[0, ..., 0], None, (1.0, 1.0, 1.0))
    profile = Profile(network=settings, inference=Inference(mode="windows", window_shape_vox=(8, 8, 4)))
    engines = [Engine(settings, file, at_once) for at_once in (1, 3)]
    one, many = (predict_volume(engine, volume, profile) for engine in engines)
    np.testing.assert_array_equal(one, many)
    with ThreadPoolExecutor(4) as threads:  # four volumes at once by one network, each giving memory back when it is done
        for found in threads.map(lambda _: predict_volume(engines[1], volume, profile), range(4)):
            np.testing.assert_array_equal(found, one)


@pytest.mark.parametrize(("memory_gb", "expected"), [(10, 8), (1, 2), (0.1, 1)])
def test_as_many_windows_at_once_as_cores_and_memory_hold(memory_gb, expected, monkeypatch):
    """A window of 100 x 100 x 100 voxels, 16 filters of 4 bytes, six values of each: 384 MB."""
    monkeypatch.setattr(inference, "cores", lambda: 8)
    windows = Inference(mode="windows", window_shape_vox=(100, 100, 100), memory_gb=memory_gb)
    profile = Profile(network=Network(filters=(16, 32), precision="float32"), inference=windows)
    assert inference._at_once(profile) == expected
    assert inference._at_once(dataclasses.replace(profile, inference=dataclasses.replace(windows, mode="volume"))) == 1


def test_the_shipped_networks_mark_what_keras_marks():
    """In 32 bits the same, even of noise, but for a tie or two. In the arithmetic of the profile and this processor, bfloat16
    perhaps, they round at other places: one voxel in a thousand of a chest may differ."""
    profile, file = profile_from(read_json(SHIPPED / "run.json")["profile"]), SHIPPED / "fold_0" / "model.weights.h5"
    affine, hu = np.diag([2.0, 2, 2, 1]), chest((160, 128, 24))
    drawn = prepare(make_case("chest", hu, affine, nib.Nifti1Image(hu, affine).header, "hu"), profile.preprocessing).image
    whole = tuple(slice(n // step * step) for n, step in zip(drawn.shape, profile.network.smallest_step, strict=True))
    noise = image_of(*np.multiply(profile.network.smallest_step, 2)).clip(-1, 2)
    tried = ("float32", noise, 0.0001), (profile.network.precision, drawn[whole][None, ..., None], 0.001)
    for precision, image, may_differ in tried:
        settings = dataclasses.replace(profile.network, precision=precision)
        found, expected = Engine(settings, file)(image), np.asarray(inference._keras_model(settings, file)(image, training=False))
        assert found.dtype == expected.dtype == np.float32 and found.shape == (*image.shape[:4], 4)
        np.testing.assert_allclose(found.sum(-1), 1, atol=0.01)
        assert (np.bincount(expected.argmax(-1).ravel(), minlength=4) > 1000).all()
        assert (found.argmax(-1) != expected.argmax(-1)).mean() <= may_differ


def test_keras_computes_where_it_has_a_graphics_card(stored, monkeypatch):
    settings = Network(filters=(4, 6))
    _, file = stored(settings)
    assert isinstance(load_model(Profile(network=settings), file), Engine)
    monkeypatch.setattr(inference, "has_gpu", lambda: True)
    model = load_model(Profile(network=settings), file)
    assert model.name == "unet3d"
    np.testing.assert_allclose(np.asarray(model(image_of(8, 8, 4))), Engine(settings, file)(image_of(8, 8, 4)), atol=1e-3)


@pytest.mark.parametrize("with_gpu", [False, True])
@pytest.mark.parametrize(
    "other", [{"filters": (4, 6, 8)}, {"filters": (4, 5)}, {"filters": (4,)}, {"norm": "instance"}, {"flat_levels": 1}]
)
def test_weights_of_another_network_are_refused(other, with_gpu, stored, monkeypatch):
    monkeypatch.setattr(inference, "has_gpu", lambda: with_gpu)
    settings = {"filters": (4, 6)}
    _, file = stored(Network(**settings))
    with pytest.raises(DataError, match=r"model.weights.h5: not the weights of the network in run.json \("):
        load_model(Profile(network=Network(**{**settings, **other})), file)


def test_a_file_with_a_layer_too_many_a_broken_one_and_none_are_refused(stored, tmp_path):
    settings = Network(filters=(4, 6))
    _, file = stored(settings)
    with h5py.File(file, "a") as opened:
        opened["layers/dense/vars/0"] = np.zeros((2, 2), np.float32)
    with pytest.raises(DataError, match="arrays of dense besides the network's"):
        load_model(Profile(network=settings), file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="not the weights"):
        load_model(Profile(network=settings), file)
    with pytest.raises(DataError, match="nowhere.h5: not the weights"):
        load_model(Profile(network=settings), tmp_path / "nowhere.h5")


def test_a_graphics_card_is_asked_for_where_there_are_signs_of_one(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "CARDS", (str(tmp_path / "driver"),))
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    card = SimpleNamespace(config=SimpleNamespace(list_physical_devices=lambda kind: [kind]))
    monkeypatch.delitem(sys.modules, "tensorflow")
    assert not engine.has_gpu() and "tensorflow" not in sys.modules
    monkeypatch.setitem(sys.modules, "tensorflow", card)
    assert engine.has_gpu()
    (tmp_path / "driver").touch()
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # a driver, but no TensorFlow
    assert not engine.has_gpu()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(default_backend=lambda: "gpu"))
    assert engine.has_gpu()


@pytest.mark.parametrize(
    ("flags", "known"),
    [("fma avx512f avx512_bf16", True), ("asimd bf16", True), ("fma avx512f avx512_vnni", False), (None, False)],
)
def test_bfloat16_is_used_where_the_processor_says_that_it_computes_in_it(flags, known, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"model name\t: a processor\nflags\t\t: {flags}\n")
    monkeypatch.setattr(engine, "has_gpu", lambda: False)
    assert has_bfloat16(cpuinfo) == known
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    assert has_bfloat16(cpuinfo)
    monkeypatch.setattr(engine, "has_bfloat16", lambda: known)
    assert computed_in(Network(precision="mixed_bfloat16")) == ("mixed_bfloat16" if known else "float32")
    assert computed_in(Network(precision="float32")) == "float32"


ALONE = """
import sys
sys.modules.update(dict.fromkeys(("tensorflow", "keras", "jax", "batchgenerators", "sklearn")))  # as if they were not installed
from covidlib.__main__ import main
code = main(["predict", sys.argv[1], "--out", sys.argv[2]])
sys.exit(code or sys.modules["openvino_telemetry"] is not None)
"""


def test_a_scan_is_predicted_without_keras_and_nobody_is_told(tmp_path):
    """OpenVINO comes with a package that reports its use to its makers; it is kept from loading."""
    nib.save(nib.Nifti1Image(chest(), np.diag([*SPACING, 1])), tmp_path / "scan.nii.gz")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "scan.nii.gz"), str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scan_labels.nii.gz").is_file()
