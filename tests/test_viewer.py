"""The viewer's Python side: what reaches the browser, told from volumes small enough to count."""

import base64
import gzip
import io
import re
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from covidlib.errors import DataError
from covidlib.viewer import LEGEND, view


def unpacked(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.cumsum(np.frombuffer(gzip.decompress(data), np.uint8), dtype=np.uint8).reshape(shape)


@pytest.fixture
def labels() -> np.ndarray:
    """4 x 5 x 6: infection in three voxels of axial slice 2, coronal slice 1 and the sagittal slices 1 to 3, and in one more."""
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:, 1, 2] = 3
    labels[1, 4, 4] = 3
    labels[0, 0, 5] = 1
    return labels


def test_grey_reaches_the_browser_as_it_is() -> None:
    image = np.arange(24).reshape(2, 3, 4) * 11
    box = view(image, spacing_mm=(1, 2, 3))
    np.testing.assert_array_equal(unpacked(box.canvas.volume, image.shape), image)
    assert (box.canvas.shape, box.canvas.spacing_mm, box.canvas.span) == ([2, 3, 4], [1.0, 2.0, 3.0], [0.0, 255.0])


def test_hu_are_spread_over_the_paper_s_range_and_cut_at_its_ends() -> None:
    image = np.array([-np.inf, -1250, -500, 250, 3000, np.nan]).reshape(6, 1, 1)
    box = view(image, intensity="hu")
    assert unpacked(box.canvas.volume, image.shape).ravel().tolist() == [0, 0, 128, 255, 255, 0]


def test_a_window_is_quantized_and_shown_first() -> None:
    canvas = view(np.array([-200, 0, 200]).reshape(3, 1, 1), intensity="hu", window=(-200, 200)).canvas
    assert unpacked(canvas.volume, (3, 1, 1)).ravel().tolist() == [0, 128, 255]
    assert canvas.window == [-200, 200] and canvas.presets[canvas.preset] == canvas.window


def test_presets_in_hu_and_the_same_ones_in_grey() -> None:
    hu, grey = (view(np.zeros((2, 2, 2)), intensity=unit).canvas.presets for unit in ("hu", "grey"))
    assert hu == [[-1250, 150], [-160, 240], [-1250, 250]]
    np.testing.assert_allclose(grey, (np.array(hu) + 1250) / 1500 * 255, atol=0.01)


def test_it_opens_on_the_slice_with_the_most_infection(labels: np.ndarray) -> None:
    canvas = view(np.zeros(labels.shape), labels).canvas
    assert canvas.start == [2, 1, 1]  # axial, coronal, sagittal
    assert (canvas.index, canvas.max_index) == (2, 5)
    np.testing.assert_array_equal(unpacked(canvas.labels, labels.shape), labels)


def test_without_infection_it_opens_in_the_middle_and_has_nowhere_to_jump() -> None:
    for labels in (None, np.ones((4, 5, 6), np.uint8)):
        box = view(np.zeros((4, 5, 6)), labels)
        assert box.canvas.start == [3, 2, 2]
        assert box.controls["jump"].disabled


def test_one_slice_still_gives_the_slider_a_range() -> None:
    canvas = view(np.zeros((4, 5, 1))).canvas
    assert (canvas.index, canvas.max_index) == (0, 1)


def test_a_case_brings_labels_spacing_and_intensity_and_labels_given_beside_it_win(labels: np.ndarray) -> None:
    case = SimpleNamespace(image=np.full(labels.shape, -1250.0), labels=labels, spacing_mm=(1, 1, 5), intensity="hu")
    canvas = view(case).canvas
    assert (canvas.spacing_mm, canvas.unit, canvas.index) == ([1, 1, 5], "HU", 2)
    prediction = np.zeros_like(labels)
    prediction[0, 0, 3] = 3
    assert view(case, prediction).canvas.index == 3


def test_the_legend_names_the_classes_with_lungs_in_blue_and_infection_in_red(labels: np.ndarray) -> None:
    legend = {name: color for _, name, color in view(np.zeros(labels.shape), labels).canvas.classes}
    red, green, blue = ({name: int(color[i : i + 2], 16) for name, color in legend.items()} for i in (1, 3, 5))
    assert blue["left lung"] > red["left lung"] and blue["right lung"] > red["right lung"]
    assert red["infection"] > 3 * max(green["infection"], blue["infection"])
    assert view(np.zeros(labels.shape)).canvas.classes == []


def test_every_control_is_linked_to_the_canvas_in_the_browser() -> None:
    box = view(np.zeros((2, 2, 2)))
    state = ipywidgets.Widget.get_manager_state()["state"].values()
    canvas = f"IPY_MODEL_{box.canvas.model_id}"
    linked = {s["state"]["target"][1] for s in state if "target" in s["state"] and s["state"]["target"][0] == canvas}
    assert linked == {"plane", "index", "playing", "jump", "shown", "preset", "window", "opacity"} == set(box.controls)


def test_truth_and_prediction_travel_apart_and_there_is_a_switch_between_them(labels: np.ndarray) -> None:
    prediction = np.roll(labels, 1, axis=2)
    box = view(np.zeros(labels.shape), labels, prediction)
    np.testing.assert_array_equal(unpacked(box.canvas.labels, labels.shape), labels)
    np.testing.assert_array_equal(unpacked(box.canvas.prediction, labels.shape), prediction)
    assert box.controls["shown"].options == ("truth", "prediction", "both", "disagreement")
    assert box.controls["shown"] in box.children
    assert box.canvas.index == 2  # where the truth has most of it
    assert [name for name, _ in box.canvas.errors] == ["missed infection", "false infection", "other difference"]


def test_a_prediction_without_truth_is_shown_as_it_is_with_no_switch(labels: np.ndarray) -> None:
    box = view(np.zeros(labels.shape), prediction=labels)
    np.testing.assert_array_equal(unpacked(box.canvas.labels, labels.shape), labels)
    assert box.canvas.prediction == b"" and box.canvas.classes and box.canvas.index == 2
    assert box.controls["shown"] not in box.children


def test_labels_may_come_as_floating_point_numbers(labels: np.ndarray) -> None:
    box = view(np.zeros(labels.shape), labels.astype(float))
    np.testing.assert_array_equal(unpacked(box.canvas.labels, labels.shape), labels)
    assert "infection in red" in box.still()


def test_a_truth_without_infection_opens_on_the_predicted_one(labels: np.ndarray) -> None:
    assert view(np.zeros(labels.shape), np.zeros_like(labels), labels).canvas.index == 2


def test_shown_in_a_notebook_it_leaves_a_picture_for_paper_and_for_pages_without_scripts(labels: np.ndarray, monkeypatch) -> None:
    said = []
    monkeypatch.setattr("IPython.display.display", lambda shown, **_: said.append(shown))
    view(np.full(labels.shape, 100), labels)._ipython_display_()
    still, widget = said[0].data, said[1]
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert "<noscript>" in still and "@media print" in still
    alt, data = re.search('<img alt="(.+?)" src="data:image/jpeg;base64,(.+?)"', still).groups()
    assert alt.endswith("lungs in blue, infection in red")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    assert (picture[..., 0] > 1.4 * picture[..., 1:].max(axis=-1)).sum() > 100  # infection is red in it


def test_it_knows_whether_the_window_cuts_what_there_is() -> None:
    image = np.arange(8.0).reshape(2, 2, 2)
    assert [view(image, window=window).canvas.cut for window in ((0, 7), (1, 7), (0, 6))] == [
        [False, False],
        [True, False],
        [False, True],
    ]


def test_equal_volumes_give_equal_bytes() -> None:
    first, second = (view(np.eye(4)[..., None]).canvas.volume for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image": SimpleNamespace(spacing_mm=(1, 1, 1))}, "image is a SimpleNamespace; allowed: an array of numbers"),
        ({"image": np.zeros((4, 5))}, r"shape \(4, 5\)"),
        ({"image": np.zeros((4, 5, 0))}, r"shape \(4, 5, 0\)"),
        ({"labels": np.zeros((4, 5, 5))}, r"\(4, 5, 5\)"),
        ({"prediction": np.zeros((4, 5, 5))}, r"\(4, 5, 5\)"),
        ({"labels": np.zeros((4, 5, 6)), "prediction": np.full((4, 5, 6), 9)}, r"hold \[9\]"),
        ({"labels": np.full((4, 5, 6), 7)}, r"hold \[7\]; allowed: \[0, 1, 2, 3\]"),
        ({"labels": np.full((4, 5, 6), 3), "classes": {1: LEGEND[1]}}, r"hold \[3\]; allowed: \[0, 1\]"),
        ({"spacing_mm": (1, 1)}, "spacing_mm"),
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm"),
        ({"spacing_mm": (1, np.nan, 1)}, "spacing_mm"),
        ({"window": (0, np.inf)}, "low < high"),
        ({"window": (5, 5)}, "low < high"),
        ({"window": (1, 2, 3)}, "low, high"),
        ({"window": ()}, "low, high"),
        ({"intensity": "rgb"}, "'rgb'; allowed: 'hu' or 'grey'"),
    ],
)
def test_what_cannot_be_shown_is_named(arguments: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        view(**{"image": np.zeros((4, 5, 6))} | arguments)
