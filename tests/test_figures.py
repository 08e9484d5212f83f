"""Figures: what is drawn, where and in which unit, read from the artists; and whether each still looks as it did.

After a change that is meant to be seen: `python tests/test_figures.py` draws the small pictures in tests/pictures anew; look at
them before they are committed.
"""

import dataclasses
import io
import itertools
import re
import runpy
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from scipy import ndimage

from covidlib import figures as F
from covidlib.dataset import CLASSES, Case
from covidlib.network import build_network
from covidlib.preprocessing import Prepared
from covidlib.profile import Network, load_profile
from covidlib.runs import ROOT

PICTURES = Path(__file__).parent / "pictures"


def drawn_case() -> Case:
    """6 x 4 x 5 voxels of 2 x 3 x 5 mm in HU: left lung at x = 0, right lung at x = 5, infection in slice 3 and more in 1."""
    labels = np.zeros((6, 4, 5), np.uint8)
    labels[0], labels[5] = 1, 2
    labels[2, 2, 3] = labels[2, 1:3, 1] = 3
    image = np.linspace(-1000, 400, labels.size, dtype=np.float32).reshape(labels.shape)
    return Case("case_a", image, labels, (2.0, 3.0, 5.0), "hu", np.eye(4), None, "RAS")


@pytest.fixture
def case() -> Case:
    return drawn_case()


def some_scores() -> pd.DataFrame:
    """Two folds of two cases; Dice 0.9 and 0.7 for the lungs, 0.1 to 0.4 for infection, one sensitivity undefined."""
    rows = []
    for number, name in enumerate(("a", "b", "c", "d")):
        for label, dice in zip(CLASSES[1:], (0.9, 0.7, 0.1 * (number + 1)), strict=True):
            sensitivity = np.nan if (name, label) == ("d", "infection") else dice
            rows.append((number // 2, name, label, dice, sensitivity, 0.99, 10, 10))
    columns = ["fold", "case", "class", "dice", "sensitivity", "specificity", "truth_voxels", "predicted_voxels"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def scores() -> pd.DataFrame:
    return some_scores()


def history(epochs: int = 6, validation: bool = True) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = {"epoch": epoch, "loss": 2 / epoch, "soft_dice_lungs": 1 - 0.5 / epoch, "soft_dice_infection": 1 - 0.9 / epoch}
    if validation:
        columns |= {f"val_{key}": value * 1.1 for key, value in columns.items() if key != "epoch"}
    return pd.DataFrame({**columns, "learning_rate": 1e-3, "minutes": epoch * 1.0})


def texts(figure: plt.Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in [axes.title, *axes.texts])


def legend(figure: plt.Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_no_figure_stays_open(case: Case) -> None:
    F.overlay_pair(case)
    assert plt.get_fignums() == []  # or a notebook would show it a second time


def test_grey_lung_window_is_the_hu_one_mapped() -> None:
    low, high = ((hu + 1250) / 1500 * 255 for hu in F.LUNG_WINDOW["hu"])
    assert F.LUNG_WINDOW["grey"] == (low, high)


def test_fullest_slice_is_infection_before_lung_before_middle(case: Case) -> None:
    assert F.fullest_slice(case.labels) == 1
    lungs = np.zeros((3, 3, 4), np.uint8)
    lungs[0, :2, 2] = 1
    assert F.fullest_slice(lungs) == 2
    assert F.fullest_slice(np.zeros((3, 3, 8))) == 4


def test_a_slice_is_drawn_in_mm_with_the_patients_right_on_the_left(case: Case) -> None:
    axes = F.overlay_pair(case).axes[0]
    assert axes.get_xlim() == (12, 0)  # 6 voxels of 2 mm; x grows to the patient's right
    assert axes.get_ylim() == (0, 12)  # 4 voxels of 3 mm, front at the top
    assert axes.get_aspect() == 1
    letters = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert letters["R"] < 0.5 < letters["L"]


def test_pair_is_the_slice_and_the_slice_with_its_labels(case: Case) -> None:
    plain, labeled = F.overlay_pair(case).axes
    np.testing.assert_array_equal(plain.images[0].get_array(), case.image[:, :, 1].T)
    assert plain.images[0].get_clim() == (-1000, 200)
    assert len(plain.images) == 1
    overlay = labeled.images[1].get_array()  # (y, x, RGBA)
    assert tuple(overlay[2, 0]) == to_rgba(F.COLORS[0], 0.5)
    assert tuple(overlay[2, 5]) == to_rgba(F.COLORS[1], 0.5)
    assert tuple(overlay[2, 2]) == to_rgba(F.COLORS[2], 0.5)
    assert overlay[0, 2, 3] == 0


def test_pair_of_a_given_slice_and_of_several_cases(case: Case) -> None:
    assert F.overlay_pair(case, z=3).axes[0].get_title() == "case_a, slice 4"
    assert len(F.overlay_pair(case, case, case).axes) == 6


def test_case_without_labels_shows_the_middle(case: Case) -> None:
    bare = SimpleNamespace(id="new", image=case.image, labels=None, spacing_mm=case.spacing_mm, intensity="hu")
    panel = F.slice_panel(bare)
    assert (panel.title, panel.labels) == ("new, slice 3", None)


def test_scale_bar_is_the_longest_round_one_under_half_of_the_width() -> None:
    figure = F.step_strip([("wide", np.eye(210)), ("narrow", np.eye(30)), ("tiny", np.eye(8))])
    lengths = [abs(np.diff(axes.lines[0].get_xdata())[0]) for axes in figure.axes[:3]]
    assert lengths == pytest.approx([100, 10, 5])


def test_strip_without_a_window_uses_percentiles_and_hides_unused_places() -> None:
    image = np.arange(100.0).reshape(10, 10)
    figure = F.step_strip([("one", image)], columns=3)
    assert figure.axes[0].images[0].get_clim() == tuple(np.percentile(image, (0.5, 99.5)))
    assert [axes.axison for axes in figure.axes] == [True, False, False]
    assert figure.legends == []


def test_truth_and_prediction_in_rows_of_three(case: Case) -> None:
    nothing = np.zeros_like(case.labels)
    figure = F.truth_and_prediction([("worst", case, nothing), ("best", case, case.labels)])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["worst", "truth", "prediction", "best", "truth", "prediction"]
    assert [len(axes.images) for axes in figure.axes] == [1, 2, 2] * 2
    assert figure.axes[2].images[1].get_array().max() == 0
    shown = case.image[:, :, F.fullest_slice(case.labels)].T
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), shown)
    assert legend(figure) == ["left lung", "right lung", "infection"]


@pytest.mark.parametrize("labels", [True, False])
def test_blocks_are_framed_where_they_lie_from_below_and_from_the_front(case: Case, labels: bool) -> None:
    """Voxels are 2 x 3 x 5 mm: a block of 3 x 2 x 4 at (1, 2, 0) begins at 2, 6 and 0 mm and is 6 x 6 x 20 mm."""
    figure = F.framed(Prepared("a", case.image, case.labels, case.spacing_mm), [(0, 0, 0), (1, 2, 0)], (3, 2, 4), labels)
    assert [axes.get_title() for axes in figure.axes] == ["from below", "from the front"]
    assert [len(axes.images) for axes in figure.axes] == [1 + labels] * 2
    for axes, expected in zip(figure.axes, ((2, 6, 6, 6), (2, 0, 6, 20)), strict=True):
        (_, frame) = [patch for patch in axes.patches if not patch.get_fill()]
        assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == expected


def wrong_prediction(case: Case) -> np.ndarray:
    """Of the case: infection missed in slice 1, invented in slice 4, and a voxel of lung called background in slice 0."""
    prediction = case.labels.copy()
    prediction[2, 1, 1], prediction[3, 3, 4], prediction[0, 0, 0] = 0, 3, 0
    return prediction


def test_disagreement_has_three_kinds(case: Case) -> None:
    wrong = F.disagreement(case.labels, wrong_prediction(case))
    assert (wrong[2, 1, 1], wrong[3, 3, 4], wrong[0, 0, 0]) == (1, 2, 3) and np.count_nonzero(wrong) == 3


def test_error_map_shows_truth_prediction_and_errors_of_infection_in_colors_of_their_own(case: Case) -> None:
    figure = F.error_map([("case_a", case, wrong_prediction(case))])
    assert [axes.get_title() for axes in figure.axes] == ["case_a", "prediction", "where they differ"]
    missed = figure.axes[2].images[1].get_array()[1, 2]  # slice 1: the first with an error of infection
    assert tuple(missed) == to_rgba(F.ERRORS["missed infection"], 0.9)
    assert figure.axes[2].images[1].get_array()[..., 3].astype(bool).sum() == 1
    assert legend(figure) == ["left lung", "right lung", "infection", "missed infection", "false infection", "other difference"]


def test_case_strip_goes_from_the_lowest_to_the_highest_infected_slice(case: Case) -> None:
    figure = F.case_strip(case, wrong_prediction(case), n=3)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["truth, 2", "truth, 3", "truth, 5"]  # infection in slices 1 to 4, counted from 0
    assert [title.split(",")[0] for title in titles[::3]] == ["truth", "prediction", "differences"]
    assert figure.axes[8].images[1].get_array()[3, 3, 3] == 0.9  # the invented voxel


def test_case_strip_of_a_healthy_case_spans_it_all(case: Case) -> None:
    healthy = dataclasses.replace(case, labels=np.zeros_like(case.labels))
    assert [axes.get_title() for axes in F.case_strip(healthy, healthy.labels, n=2).axes[:2]] == ["truth, 1", "truth, 5"]


def test_gif_has_a_frame_a_slice_in_proportion_with_the_right_on_the_left(case: Case, tmp_path: Path) -> None:
    from PIL import Image

    labels = np.zeros_like(case.labels)
    labels[5, 0, 2] = 3  # the patient's right, at the back
    image = Image.open(F.fly_through(tmp_path / "case.gif", case, labels, width=60))
    assert (image.n_frames, image.size) == (5, (60, 60))  # 12 x 12 mm
    image.seek(2)
    red, green, blue = image.convert("RGB").getpixel((2, 57))
    assert red > 1.5 * max(green, blue)


def test_scans_are_on_black_and_charts_on_white(scores: pd.DataFrame) -> None:
    strip, chart = F.error_map(rows()), F.score_boxes(scores)
    assert (strip.get_facecolor(), chart.get_facecolor()) == (to_rgba("black"), to_rgba("white"))
    words = [*(axes.title for axes in strip.axes), *strip.legends[0].get_texts()]
    assert {to_rgba(text.get_color()) for text in words} == {to_rgba("white")}


def test_charts_are_kept_as_vectors_and_pictures_as_pixels(case: Case, scores: pd.DataFrame, tmp_path: Path) -> None:
    pair = F.overlay_pair(case)
    assert F.keep(pair, tmp_path / "figures" / "pair") is pair
    assert "<svg" in F.keep(F.score_boxes(scores), tmp_path / "figures" / "boxes").data
    before = (tmp_path / "figures" / "boxes.svg").read_bytes()
    F.keep(F.score_boxes(scores), tmp_path / "figures" / "boxes")
    assert (tmp_path / "figures" / "boxes.svg").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["boxes.svg", "pair.png"]


def linear(color: str) -> np.ndarray:
    """Light intensities of a color's red, green and blue."""
    value = np.array(to_rgba(color)[:3])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def test_on_a_dark_page_white_is_its_ground_and_colors_of_charts_have_contrast_to_it() -> None:
    css = (ROOT / "book" / "_static" / "book.css").read_text(encoding="utf-8")
    invert, brightness = map(float, re.search(r"invert\(([\d.]+)\) hue-rotate\(180deg\) brightness\(([\d.]+)\)", css).groups())

    def turned(color: str) -> tuple[float, ...]:
        """A color as the page's filter shows it (W3C Filter Effects 1: half a turn of the hue mirrors it at its grey)."""
        inverted = invert + np.array(to_rgba(color)[:3]) * (1 - 2 * invert)
        rotated = 2 * (inverted @ (0.213, 0.715, 0.072)) - inverted
        return tuple((brightness * rotated.clip(0, 1)).clip(0, 1))

    assert np.round(np.multiply(turned("white"), 255)).tolist() == [0x12] * 3  # #121212, the theme's
    seen = ("#121212", *map(turned, (*F.COLORS, F.ORANGE)))
    ground, *bright = (linear(color) @ (0.2126, 0.7152, 0.0722) + 0.05 for color in seen)
    assert min(bright) / ground >= 3  # WCAG 1.4.11


@pytest.mark.parametrize("palette", [F.COLORS, tuple(F.ERRORS.values())], ids=["labels", "errors"])
def test_colors_differ_in_grey_and_for_every_kind_of_color_vision(palette: tuple[str, ...]) -> None:
    seen = {  # Machado, Oliveira and Fernandes 2009, severity 1
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    for one, other in itertools.combinations(map(linear, palette), 2):
        dark, light = sorted(light @ (0.2126, 0.7152, 0.0722) for light in (one, other))
        assert (light + 0.05) / (dark + 0.05) > 1.5
        for matrix in seen.values():
            assert np.abs(np.array(matrix) @ (one - other)).max() > 0.15


@pytest.mark.parametrize(("n", "shown"), [(2, [2, 4]), (99, [1, 2, 3, 4, 5])])
def test_montage_spreads_slices_from_below_to_above(case: Case, n: int, shown: list[int]) -> None:
    figure = F.montage(case.image, case.labels, case.spacing_mm, n=n)
    assert [axes.get_title() for axes in figure.axes if axes.axison] == [f"slice {z}" for z in shown]
    assert len({axes.images[0].get_clim() for axes in figure.axes if axes.axison}) == 1


def test_pipeline_chart_tells_the_papers_numbers() -> None:
    told = texts(F.pipeline_chart(load_profile("paper")))
    for number in ("-1250 … 250 HU", "1.58×1.58×2.70 mm", "160×160×80", "batches of 2", "p = 0.15", "32–64–128–256–512",
                   "Adam 0.001", "after 15 epochs", "1000 epochs of 150", "50% overlap", "5 folds"):  # fmt: skip
        assert number in told


def test_pipeline_chart_follows_the_profile() -> None:
    told = texts(F.pipeline_chart(load_profile("paper", {"inference.mode": "volume", "training.schedule": "cosine"})))
    assert "whole volumes" in told and "cosine" in told and "overlap" not in told


def layer(kind: str, **settings: object) -> object:
    return type(kind, (), {"strides": (1, 1, 1), "name": "", **settings})()


def test_network_chart_draws_what_the_layers_say() -> None:
    layers = [
        layer("Conv3D", filters=7, kernel_size=(3, 3, 1)),
        layer("MaxPooling3D", pool_size=(2, 2, 1)),
        layer("Conv3D", filters=9, kernel_size=(3, 3, 3)),
        layer("Conv3DTranspose", filters=7, strides=(2, 2, 1)),
        layer("Concatenate"),
        layer("Conv3D", filters=7, kernel_size=(3, 3, 1)),
        layer("Conv3D", filters=4, kernel_size=(1, 1, 1)),
    ]
    figure = F.network_chart(SimpleNamespace(layers=layers, count_params=lambda: 1234), (32, 16, 8))
    told = texts(figure)
    for words in ("7\n3×3×1\n32×16×8", "9\n3×3×3\n16×8×8", "7·4\n3×3×1\n32×16×8", "1,234 parameters", "2×2×1"):
        assert words in told
    arrows = [text.arrow_patch.get_linestyle() for text in figure.axes[0].texts if hasattr(text, "arrow_patch")]
    assert sorted(arrows) == ["dashed", "solid", "solid"]  # a skip connection, down, up


def test_network_chart_counts_a_stride_as_it_counts_poolings() -> None:
    """32 x 16 x 8 voxels are 16 x 8 x 8 blocks on the first level; the transposed convolution at the end is no level."""
    network = Network(filters=(7, 9), flat_levels=1, flat_kernels=True, stride=(2, 2, 1))
    told = texts(F.network_chart(build_network(network), (32, 16, 8)))
    for words in ("7·7\n6×6×1\n16×8×8", "9·9\n3×3×3\n8×4×8", "7·7·4\n3×3×1\n16×8×8"):
        assert words in told
    assert "32×16×8" not in told


def test_loss_course_follows_the_losses_and_their_scatter() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 6)) * 0.05
    folds = {number: history() for number in range(3)}
    for fold, scatter in zip(folds.values(), noise, strict=True):
        fold["val_loss"] += scatter
    axes = F.loss_course(folds).axes[0]
    named = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert set(named) == {"training", "validation"} and len(axes.lines) == 8
    assert named["training"].get_ydata()[-1] == pytest.approx(2 / 6, rel=0.1)
    tight, wide = (np.ptp(band.get_paths()[0].vertices[:, 1][np.isclose(band.get_paths()[0].vertices[:, 0], 6)])
                   for band in axes.collections)  # fmt: skip
    assert 0 <= tight < wide < 0.3
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()[0]) == ("epoch", "loss", 0)


@pytest.mark.parametrize("epochs", [1, 2])
def test_loss_course_of_hardly_any_epochs_and_without_validation(epochs: int) -> None:
    axes = F.loss_course({0: history(epochs, validation=False)}).axes[0]
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == ["training"]
    assert all(np.isfinite(line.get_ydata()).all() for line in axes.lines)


def test_score_boxes_hold_every_defined_score(scores: pd.DataFrame) -> None:
    panels = F.score_boxes(scores).axes
    assert [axes.get_title() for axes in panels] == ["Dice", "Sensitivity", "Specificity"]
    dots = [[line.get_ydata() for line in axes.lines if line.get_marker() == "o"] for axes in panels]
    assert dots[0][0] == pytest.approx([0.8] * 4)  # lungs: mean of left and right
    assert dots[0][1] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len(dots[1][1]) == 3  # the undefined one is left out
    assert panels[0].get_ylim() == (-0.02, 1.02) and panels[2].get_ylim()[0] > 0.5
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["lungs", "infection"]


def test_case_changes_run_from_the_first_run_to_the_second(scores: pd.DataFrame) -> None:
    better = scores.assign(dice=scores["dice"] + 0.05)
    lungs, infection = F.case_changes(scores, better).axes
    assert [line.get_xdata().tolist() for line in lungs.lines] == [pytest.approx([0.8] * 4), pytest.approx([0.85] * 4)]
    assert infection.lines[1].get_xdata() == pytest.approx([0.15, 0.25, 0.35, 0.45])
    ends = [(*part[0], *part[1]) for part in infection.collections[0].get_segments()]
    assert ends[3] == pytest.approx((0.4, 3, 0.45, 3))
    assert [label.get_text() for label in lungs.get_yticklabels()] == ["a", "b", "c", "d"]


def test_case_dots_name_case_and_fold(scores: pd.DataFrame) -> None:
    figure = F.case_dots(scores, "sensitivity")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (fold 0)", "b (fold 0)", "c (fold 1)", "d (fold 1)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert axes.lines[2].get_xdata()[:3] == pytest.approx([0.1, 0.2, 0.3]) and np.isnan(axes.lines[2].get_xdata()[3])
    assert (axes.get_xlabel(), legend(figure)) == ("Sensitivity", ["left lung", "right lung", "infection"])


@pytest.mark.parametrize("validation", [True, False])
def test_history_curves(validation: bool) -> None:
    figure = F.history_curves(history(validation=validation))
    loss, dice, rate = figure.axes
    assert loss.lines[0].get_ydata() == pytest.approx(2 / np.arange(1, 7))
    assert np.isfinite(loss.lines[1].get_ydata()).all() == validation
    assert (dice.get_ylim(), rate.get_yscale()) == ((0, 1), "log")
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert [line.get_linestyle() for line in dice.lines] == ["-", "--"] * 2


def test_histogram_shades_the_window_in_each_cases_unit(case: Case) -> None:
    grey = Case("case_b", np.linspace(0, 255, 120).reshape(6, 4, 5), case.labels, case.spacing_mm, "grey", np.eye(4), None, "RAS")
    figure = F.histogram(case, grey, window_hu=(-900, 100))
    spans = [axes.patches[0].get_extents().transformed(axes.transData.inverted()) for axes in figure.axes]
    assert [(round(span.x0), round(span.x1)) for span in spans] == [(-900, 100), (0, 255)]
    assert [axes.get_xlabel() for axes in figure.axes] == ["HU", "grey"]
    counted = [sum(stairs.get_data().values.sum() for stairs in axes.patches[1:2]) for axes in figure.axes]
    assert counted == [case.image.size, grey.image.size]
    assert legend(figure) == ["window", "all voxels", "left lung", "right lung", "infection"]


def test_class_balance_in_percent() -> None:
    voxels = pd.DataFrame([[80, 10, 5, 5], [90, 5, 5, 0]], index=["a", "b"], columns=CLASSES)
    scan, lung = F.class_balance(voxels).axes
    assert [bar.get_width() for bar in scan.patches] == pytest.approx([80, 90, 10, 5, 5, 5, 5, 0])
    assert [bar.get_width() for bar in lung.patches] == pytest.approx([25, 0])
    assert (scan.get_xlabel(), lung.get_xlabel()) == ("percent of the scan", "infected percent of the lung")


def test_overlay_shows_the_height_of_the_labels(case):
    labels = np.zeros(case.image.shape, np.uint8)
    labels[0, 0, 1:4] = 1
    figure = F.overlay(case, labels, "case_a: 1 % infected")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["slice 2", "slice 3", "slice 4"] and figure.get_suptitle() == "case_a: 1 % infected"
    assert len([axes for axes in F.overlay(case, np.zeros_like(labels), "").axes if axes.get_title()]) == 5  # none: all slices


def test_a_scout_from_the_side_is_drawn_no_higher_than_four_times_its_width():
    image = np.linspace(-1000, 500, 512 * 8).reshape(1, 512, 8)
    scout = Case("scout", image, None, (0.7, 0.7, 0.7), "hu", np.eye(4), None, "RAS")
    width, height = F.overlay(scout, np.zeros(image.shape, np.uint8), "scout").get_size_inches()
    assert height < 4 * width


def test_all_of_a_long_title_is_in_the_overlay(case):
    said = "WARNING: ambiguous: took series 2 of 3, the one with most slices, " * 4
    figure = F.overlay(case, case.labels, f"{said}\nNot for clinical use.")
    figure.canvas.draw()
    place = figure._suptitle.get_window_extent()
    assert place.x0 >= 0 and place.x1 <= figure.bbox.width and place.y1 <= figure.bbox.height
    assert figure.get_suptitle().split() == f"{said} Not for clinical use.".split()


def test_agreement_chart_draws_points_mean_and_limits():
    figure = F.agreement_chart([10, 20, 30], [11, 23, 32], "mL")
    scatter, bland_altman = figure.axes
    np.testing.assert_array_equal(scatter.lines[1].get_xydata(), [[10, 11], [20, 23], [30, 32]])
    np.testing.assert_array_equal(bland_altman.lines[0].get_xydata(), [[10.5, 1], [21.5, 3], [31, 2]])
    assert [line.get_ydata()[0] for line in bland_altman.lines[1:]] == pytest.approx([2, 0.04, 3.96])
    assert scatter.get_xlabel() == "truth, mL"


def test_time_course_has_a_line_a_column():
    table = pd.DataFrame({"truth": [10.0, 5.0], "prediction": [11.0, 4.0]}, index=["first", "second"])
    (axes,) = F.time_course(table).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[10, 5], [11, 4]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "second"]


def small_network() -> SimpleNamespace:
    layers = [
        layer("Conv3D", filters=7, kernel_size=(3, 3, 3)),
        layer("MaxPooling3D", pool_size=(2, 2, 2)),
        layer("Conv3D", filters=9, kernel_size=(3, 3, 3)),
        layer("Conv3DTranspose", filters=7, strides=(2, 2, 2)),
        layer("Conv3D", filters=7, kernel_size=(3, 3, 3)),
    ]
    return SimpleNamespace(layers=layers, count_params=lambda: 1234)


def rows() -> list[tuple]:
    return [("case_a", drawn_case(), wrong_prediction(drawn_case()))]


def flight() -> plt.Figure:
    """The middle slice of the animation."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        frames = Image.open(F.fly_through(Path(folder) / "flight.gif", drawn_case(), drawn_case().labels))
        frames.seek(frames.n_frames // 2)
        figure, axes = plt.subplots(figsize=(3, 3))
        axes.imshow(frames.convert("RGB"))
    return figure


DRAWN = {
    "overlay_pair": lambda: F.overlay_pair(drawn_case()),
    "truth_and_prediction": lambda: F.truth_and_prediction(rows()),
    "error_map": lambda: F.error_map(rows()),
    "case_strip": lambda: F.case_strip(drawn_case(), wrong_prediction(drawn_case()), 3),
    "fly_through": flight,
    "montage": lambda: F.montage(drawn_case().image, drawn_case().labels, drawn_case().spacing_mm),
    "pipeline_chart": lambda: F.pipeline_chart(load_profile("paper")),
    "network_chart": lambda: F.network_chart(small_network(), (32, 16, 8)),
    "loss_course": lambda: F.loss_course({0: history(), 1: history(5)}),
    "score_boxes": lambda: F.score_boxes(some_scores()),
    "case_dots": lambda: F.case_dots(some_scores()),
    "case_changes": lambda: F.case_changes(some_scores(), some_scores().assign(dice=lambda scores: scores["dice"] ** 0.8)),
    "history_curves": lambda: F.history_curves(history()),
    "histogram": lambda: F.histogram(drawn_case()),
    "overlay": lambda: F.overlay(drawn_case(), drawn_case().labels, "case_a: 50.0 % infected"),
    "agreement_chart": lambda: F.agreement_chart([10, 20, 30], [11, 23, 32], "mL"),
    "time_course": lambda: F.time_course(pd.DataFrame({"truth": [10.0, 5.0], "prediction": [11.0, 4.0]}, index=["1", "2"])),
    "doubt_chart": lambda: F.doubt_chart({"one": ([0.1, 0.2], [1.5, 0.5]), "other": ([0.15, 0.3], [0.8, 2.0])}),
    "growth_chart": lambda: F.growth_chart({"size": [(1, 24, 3.6), (2, 50, 6)], "scans": [(1, 7, 1), (9, 17, 1)]}),
    "class_balance": lambda: F.class_balance(pd.DataFrame([[80, 10, 5, 5]], index=["a"], columns=CLASSES)),
}


def thumbnail(figure: plt.Figure, **saved) -> np.ndarray:
    """The figure as a reader sees it from afar, 120 pixels wide: letters become spots, so that a font's details do not count."""
    page = io.BytesIO()
    figure.savefig(page, format="png", **{"dpi": 140, **saved})
    return from_afar(page)


def from_afar(file: Path | io.BytesIO) -> np.ndarray:
    from PIL import Image

    image = Image.open(file).convert("RGB")
    return np.asarray(image.resize((120, round(image.height * 120 / image.width)), Image.Resampling.BOX), int)


def outside(image: np.ndarray, other: np.ndarray) -> int:
    """How far `image` leaves, at worst, what `other` has there or in a neighboring pixel: another font moves things that far."""
    low, high = (extreme(other, size=(3, 3, 1)) for extreme in (ndimage.minimum_filter, ndimage.maximum_filter))
    return int(np.maximum(image - high, low - image).max())


def looks_like(figure: plt.Figure, name: str) -> bool:
    from PIL import Image

    return alike(thumbnail(figure), np.asarray(Image.open(PICTURES / f"{name}.png"), int))


def alike(drawn: np.ndarray, expected: np.ndarray) -> bool:
    return drawn.shape == expected.shape and max(outside(drawn, expected), outside(expected, drawn)) <= 75  # other hinting: 72


@pytest.mark.parametrize("name", DRAWN)
def test_each_figure_looks_as_it_did(name: str) -> None:
    assert looks_like(DRAWN[name](), name), f"{name} has changed; see the head of this file"


def test_the_readme_s_picture_is_what_its_command_draws() -> None:
    command = ROOT / "book" / "figure1.py"
    figure = runpy.run_path(str(command))["draw"]()
    assert alike(thumbnail(figure, dpi=150, bbox_inches="tight"), from_afar(command.with_suffix(".png")))


def test_a_visible_change_is_seen() -> None:
    scale, title, color = F.overlay_pair(drawn_case()), F.overlay_pair(drawn_case()), F.score_boxes(some_scores())
    assert looks_like(scale, "overlay_pair")
    next(text for text in scale.axes[0].texts if text.get_text() == "5 mm").remove()
    title.axes[1].set_title("")
    color.axes[0].lines[-1].set_color(F.COLORS[0])
    assert not any((looks_like(scale, "overlay_pair"), looks_like(title, "overlay_pair"), looks_like(color, "score_boxes")))


if __name__ == "__main__":
    from PIL import Image

    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        Image.fromarray(thumbnail(draw()).astype(np.uint8)).save(PICTURES / f"{name}.png", optimize=True)
