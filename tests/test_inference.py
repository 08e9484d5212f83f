"""Windows and whole volume agree on a pointwise model; padding goes; labels come back on the scan's own grid."""

import dataclasses
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from covidlib import inference
from covidlib.dataset import IMAGES, load_case, save_labels
from covidlib.errors import DataError
from covidlib.files import checksum
from covidlib.inference import bytes_per_voxel, load_model, predict_fold, predict_volume, tiles
from covidlib.network import build_network
from covidlib.preprocessing import Prepared, labels_on_grid, prepare
from covidlib.profile import Inference, Network, Patches, Preprocessing, Profile
from covidlib.runs import open_run

NETWORK = Network(filters=(4, 4, 4), flat_levels=1)  # pools by 4, 4, 2
AIR = -2.0


def profile(**inference):
    return Profile(network=NETWORK, patches=Patches(shape_vox=(8, 8, 4)), inference=Inference(**inference))


def pointwise(seen=None):
    """A model whose probabilities depend on each voxel's own value; binary fractions, so that means of them are exact."""
    answers = np.array([[0.5, 0.25, 0.125, 0.125], [0.125, 0.5, 0.25, 0.125], [0.125, 0.125, 0.25, 0.5]], np.float32)

    def model(image, training):
        assert training is False and image.dtype == np.float32
        if seen is not None:
            seen.append(image)
        return answers[np.digitize(image[..., 0], (-0.5, 0.5))]

    return model


def random_volume(shape, seed=0):
    image = np.random.default_rng(seed).normal(size=shape).clip(-1.9, 2).astype(np.float32)
    image.flat[0] = AIR
    return Prepared("random", image, None, (1.0, 1.0, 1.0))


SHAPES = [(16, 16, 8), (17, 13, 9), (30, 21, 11), (3, 20, 5), (1, 1, 1), (16, 5, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_and_volume_agree_exactly_on_a_pointwise_model(shape, overlap):
    volume = random_volume(shape)
    windows = profile(mode="windows", window_shape_vox=(8, 8, 4), overlap=overlap)
    one = predict_volume(pointwise(), volume, windows)
    other = predict_volume(pointwise(), volume, profile(mode="volume"))
    expected = pointwise()(volume.image[..., None], training=False)
    np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(other, expected)
    assert one.shape == (*shape, 4) and one.dtype == np.float32


def test_a_volume_smaller_than_a_window_is_padded_with_air():
    seen = []
    volume = random_volume((3, 20, 5))
    out = predict_volume(pointwise(seen), volume, profile(window_shape_vox=(8, 24, 8)))
    assert out.shape == (3, 20, 5, 4) and len(seen) == 1
    window = seen[0][0, ..., 0]
    assert window.shape == (8, 24, 8)
    np.testing.assert_array_equal(window[:3, :20, :5], volume.image)
    assert (window[3:] == AIR).all() and (window[:, 20:] == AIR).all() and (window[..., 5:] == AIR).all()


def test_a_whole_volume_is_padded_to_what_the_network_can_pool():
    seen = []
    predict_volume(pointwise(seen), random_volume((9, 12, 5)), profile(mode="volume"))
    assert [image.shape for image in seen] == [(1, 12, 12, 6, 1)]
    assert (seen[0][0, 9:, ..., 0] == AIR).all() and (seen[0][0, :, :, 5:, 0] == AIR).all()


def test_overlapping_windows_are_averaged():
    """A model that answers 1 for its first window and 0 for its second; windows of 4 at 0 and 2 of a row of 6."""
    answers = iter([1.0, 0.0])

    def model(image, training):
        return np.full((*image.shape[:-1], 4), next(answers), np.float32)

    out = predict_volume(model, random_volume((6, 4, 2)), profile(window_shape_vox=(4, 4, 2)))
    assert out[:, 0, 0, 0].tolist() == [1, 1, 0.5, 0.5, 0, 0]


# ------------------------------------------------------------------------------------------------------------- tiles and the body


def test_beyond_its_reach_a_voxel_changes_nothing():
    """In plane 4 (1 + 2) + 2 * 4 = 20 and the rest of a cell of 4; along z flat kernels leave 4 + 2 * 2, and a cell is 2."""
    network = Network(filters=(2, 2, 2), flat_levels=1, flat_kernels=True)
    assert network.reach == (24, 24, 10) and Network().reach == (112, 112, 112)
    model, image = build_network(network), np.zeros((1, 64, 64, 32, 1), np.float32)
    before = np.asarray(model(image))
    image[0, 32, 32, 16] = 100
    changed = np.argwhere(np.abs(np.asarray(model(image)) - before).max(-1)[0] > 0)
    assert (np.abs(changed - (32, 32, 16)).max(0) <= network.reach).all() and len(changed) > 1000
    assert dataclasses.replace(network, stride=(2, 2, 3)).reach == (48, 48, 30)


@pytest.mark.parametrize("shape", [(64, 48, 24), (80, 8, 4), (16, 16, 60)])
@pytest.mark.parametrize("memory_gb", [0.004, 0.008, 1.0])
def test_tiles_fit_the_memory_and_keep_each_voxel_once(shape, memory_gb):
    settings = dataclasses.replace(profile(), network=Network(filters=(2, 2, 2), flat_levels=1, flat_kernels=True))
    settings = dataclasses.replace(settings, inference=Inference(memory_gb=memory_gb))
    times = np.zeros(shape, int)
    for read, keep in tiles(shape, settings):
        assert times[read].size * bytes_per_voxel(settings.network) <= memory_gb * 1e9
        assert all(r.start <= k.start and k.stop <= r.stop for r, k in zip(read, keep, strict=True))
        times[keep] += 1
    assert (times == 1).all()


def test_tiles_give_what_the_whole_volume_gives():
    settings = Profile(network=Network(filters=(4, 6, 8), flat_levels=1, flat_kernels=True), inference=Inference(mode="volume"))
    small = dataclasses.replace(settings, inference=Inference(mode="volume", memory_gb=0.01))
    model, volume = build_network(settings.network, seed=1), random_volume((70, 66, 60))
    assert len(list(tiles((72, 68, 60), small))) > 2
    np.testing.assert_allclose(predict_volume(model, volume, small), predict_volume(model, volume, settings), atol=1e-3)


def test_with_little_memory_tiles_see_less_around_them_and_a_warning_says_so(caplog):
    """The paper's network can see 112 voxels around a tile, which with its 112 slices leaves nothing to gain."""
    shape = (256, 256, 112)
    assert len(list(tiles(shape, Profile(inference=Inference(memory_gb=6))))) == 1 and not caplog.records
    seen = [[side.stop - side.start for side in read] for read, _ in tiles(shape, Profile(inference=Inference(memory_gb=1)))]
    assert len(seen) > 1 and max(np.prod(seen, axis=1)) * bytes_per_voxel(Network()) <= 1e9
    assert "tiles see 1/" in caplog.text
    with pytest.raises(DataError, match=r"memory_gb is 0.01; allowed for this volume: \d\.\d+ or more; or set inference.mode"):
        list(tiles(shape, Profile(inference=Inference(memory_gb=0.01))))


@pytest.mark.parametrize("settings", [{"mode": "volume"}, {"mode": "windows", "window_shape_vox": (24, 24, 6)}])
def test_outside_of_the_body_is_background(settings):
    """A body of 8 x 8 in the middle of air; the model calls everything infection, and is asked about 8 voxels more around it."""
    seen, image = [], np.full((40, 36, 6), AIR, np.float32)
    image[16:24, 14:22] = 1.0

    def model(image, training):
        seen.append(image.shape)
        return np.broadcast_to(np.array([0, 0, 0, 1], np.float32), (*image.shape[:-1], 4))

    out = predict_volume(model, Prepared("body", image, None, (1, 1, 1)), profile(**settings))
    expected = np.zeros(image.shape)
    expected[8:32, 6:30] = 3
    assert seen == [(1, 24, 24, 6, 1)] and (out.argmax(-1) == expected).all()


def test_a_body_smaller_than_a_window_is_seen_with_the_air_around_it():
    seen, image = [], np.full((40, 36, 6), AIR, np.float32)
    image[30:38, 14:22] = np.arange(8)[:, None, None]
    predict_volume(pointwise(seen), Prepared("body", image, None, (1, 1, 1)), profile(window_shape_vox=(32, 28, 8)))
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0][0, ..., :6, 0], image[8:, 6:34])
    assert (seen[0][..., 6:, 0] == AIR).all()


@pytest.mark.parametrize(("axes", "views"), [("none", 1), ("x", 2), ("xz", 4)])
def test_mirror_images_are_averaged_with_left_and_right_exchanged(axes, views):
    """A model that calls the first half along x left lung, the second right: seen in a mirror, it says the opposite."""
    seen = []

    def model(image, training):
        seen.append(image)
        found = np.zeros((*image.shape[:-1], 4), np.float32)
        found[:, :8, ..., 1], found[:, 8:, ..., 2] = 1, 1
        return found

    volume = random_volume((16, 4, 4))
    out = predict_volume(model, volume, profile(mode="volume", mirror_axes=axes))
    assert len(seen) == views
    np.testing.assert_array_equal(out, model(volume.image[None, ..., None], False)[0])
    assert any((image[0, ..., 0] == volume.image[::-1]).all() for image in seen) == (axes != "none")


def test_labels_of_a_marked_block_come_back_on_the_stored_grid(tmp_path, write_case):
    """Prepared, its labels taken for a perfect prediction, brought back and saved: the block lies where it was drawn."""
    labels = np.zeros((20, 16, 12), np.uint8)
    labels[2:10, 4:12, 3:9], labels[12:18, 4:12, 3:9] = 2, 1  # stored as LPS: the patient's left is at high x
    image = np.where(labels > 0, -800, 40).astype(np.int16)
    image[0, 0, 0] = -1000
    affine = np.diag([-1.6, -1.6, 5.4, 1.0])
    case = load_case(write_case(tmp_path, "marked", image, labels, affine), "marked")
    prepared = prepare(case, Preprocessing(spacing_mm=(0.8, 0.8, 2.7)))
    assert prepared.labels.shape == (40, 32, 24)
    back = labels_on_grid(np.eye(4, dtype=np.float32)[prepared.labels], case.image.shape)
    save_labels(back, case, tmp_path / "labels.nii.gz")
    saved = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), labels)
    np.testing.assert_array_equal(saved.affine, nib.load(tmp_path / IMAGES / "marked.nii.gz").affine)


@pytest.fixture
def copied(tmp_path, trained_run, tiny_yaml, tiny_folder):
    """A function: the trained run copied, opened with overrides."""
    shutil.copytree(trained_run.folder, tmp_path / "run")
    return lambda overrides=None: open_run(tiny_yaml, tiny_folder, tmp_path / "run", overrides)


def test_a_trained_fold_predicts_its_test_cases_on_their_own_grids(copied):
    run = copied()
    made = predict_fold(run, 0)
    assert set(made) == set(run.folds[0].test)
    for case, path in made.items():
        stored, predicted = nib.load(run.data / IMAGES / f"{case}.nii.gz"), nib.load(path)
        assert path == run.prediction(0, case) and predicted.shape == stored.shape
        np.testing.assert_array_equal(predicted.affine, stored.affine)
        assert set(np.unique(np.asanyarray(predicted.dataobj))) <= {0, 1, 2, 3}
        np.testing.assert_array_equal(run.predicted_labels(0, case), np.asanyarray(predicted.dataobj)[::-1, ::-1])
        assert (run.predicted_labels(0, case) == run.case(case).labels).mean() > 0.4  # it has learned something


def test_predictions_that_are_there_stay_and_others_are_made_anew(copied, monkeypatch):
    run = copied()
    made = predict_fold(run, 0)
    loaded = []
    monkeypatch.setattr(inference, "load_model", lambda *given: loaded.append(given[1].parent.name) or load_model(*given))
    assert predict_fold(run, 0) == made and loaded == []
    predict_fold(copied({"inference.overlap": 0.25}), 0)
    assert loaded == ["fold_0"]
    predict_fold(copied({"inference.overlap": 0.25}), 0)
    assert loaded == ["fold_0"]
    next(iter(made.values())).unlink()
    predict_fold(copied({"inference.overlap": 0.25}), 0)
    assert loaded == ["fold_0", "fold_0"] and all(path.is_file() for path in made.values())


def test_predictions_repeat_bit_for_bit(copied):
    run = copied()
    first = {case: checksum(path) for case, path in predict_fold(run, 0).items()}
    os.remove(run.fold_folder(0) / "predictions.json")
    assert {case: checksum(path) for case, path in predict_fold(run, 0).items()} == first


def test_predicting_a_fold_that_is_not_trained_says_so(copied):
    with pytest.raises(DataError, match="fold 1"):
        predict_fold(copied(), 1)


def test_the_loaded_model_has_the_kept_weights(trained_run):
    volume = trained_run.prepared([trained_run.folds[0].test[0]])[0]
    weights, settings = trained_run.fold_folder(0) / "model.weights.h5", trained_run.profile
    one, same = (predict_volume(load_model(settings, weights), volume, settings) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(one.sum(-1), 1, rtol=1e-5)
