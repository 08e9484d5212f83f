"""Results in, matplotlib figures out: never shown, always returned.

Charts are dark on white, and book.css turns them over on dark pages; scans are on black and at home on any page.
Axial slices are in radiological display: seen from the feet, the patient's right on the left of the picture. Arrays are (x, y, z)
in RAS+, slices of them (x, y). Lungs are drawn in two blues, infection in a red that all kinds of color vision tell from them.
"""

import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from covidlib.dataset import CLASSES, Case
from covidlib.metrics import lungs_or_infection
from covidlib.preprocessing import Prepared, box_of
from covidlib.profile import Profile
from covidlib.quantification import agreement

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 7.2  # inches, shown about 700 pixels wide in the book: 10 points are 13 pixels there
COLORS = ("#6EC6F5", "#0F52BA", "#F0402C")  # of labels 1, 2, 3: told apart by every kind of color vision, and in grey
ERRORS = {"missed infection": "#FFC20A", "false infection": "#8C1AFF", "other difference": "#4FA3A5"}  # three steps of grey
OVERLAY_TITLE = 95  # characters of 9 points in the width of an overlay
GREY, ORANGE, PALE = "#555555", "#D98200", "#E6EEF7"
OVERLAID = [(label, CLASSES[label], color) for label, color in enumerate(COLORS, 1)]
OVERLAY = np.array([(0, 0, 0, 0), *(colors.to_rgba(color, 0.5) for color in COLORS)])
ERROR_OVERLAY = np.array([(0, 0, 0, 0), *map(colors.to_rgba, ERRORS.values(), (0.9, 0.9, 0.4))])
LUNG_WINDOW = {"hu": (-1000.0, 200.0), "grey": (42.5, 246.5)}  # the second is what -1250..250 HU -> 0..255 makes of the first
STYLE = {"axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#DDDDDD"}


class Panel(NamedTuple):
    """One slice to draw: image (x, y); labels (x, y) or None; window: intensities drawn black and white, "hu" or "grey" for the
    lung window in that unit, None for the 0.5th and 99.5th percentile; spacing_mm along x and y; is_error: labels are errors."""

    title: str
    image: np.ndarray
    labels: np.ndarray | None = None
    window: tuple[float, float] | str | None = None
    spacing_mm: tuple[float, ...] = (1.0, 1.0)
    is_error: bool = False


def fullest_slice(labels: np.ndarray) -> int:
    """Axial slice with most infection; without any, with most lung; without both, the middle."""
    voxels = [np.isin(labels, wanted).sum((0, 1)) for wanted in ([3], [1, 2])]
    return next((int(counts.argmax()) for counts in voxels if counts.any()), labels.shape[2] // 2)


def slice_panel(case: Case | Prepared, z: int | None = None, title: str | None = None, labels: Any = True) -> Panel:
    """Axial slice `z` of a case (default: `fullest_slice`), with its own labels (True), none (None), or a (x, y, z) array."""
    labels = case.labels if labels is True else labels
    z = fullest_slice(np.zeros(case.image.shape) if case.labels is None else case.labels) if z is None else z
    shown, title = None if labels is None else labels[:, :, z], f"{case.id}, slice {z + 1}" if title is None else title
    return Panel(title, case.image[:, :, z], shown, getattr(case, "intensity", None), case.spacing_mm[:2])


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a slice in mm, for a black figure: x growing to the left, with a scale bar and the patient's sides."""
    width, height = (n * s for n, s in zip(panel.image.shape, panel.spacing_mm, strict=False))
    low, high = LUNG_WINDOW.get(panel.window, panel.window) or np.percentile(panel.image, (0.5, 99.5))
    axes.imshow(panel.image.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=(0, width, 0, height))
    if panel.labels is not None:
        overlay = ERROR_OVERLAY if panel.is_error else OVERLAY
        axes.imshow(overlay[panel.labels.T], interpolation="nearest", origin="lower", extent=(0, width, 0, height))
    axes.set(xlim=(width, 0), ylim=(0, height), xticks=[], yticks=[])
    axes.set_title(panel.title, color="white")
    axes.spines[:].set_visible(False)
    bar = next((length for length in (100, 50, 20, 10) if length < width / 2), 5)
    axes.plot([0.95 * width, 0.95 * width - bar], [0.05 * height] * 2, color="white", linewidth=2, zorder=4)
    for x, y, text in ((0.05, 0.07, f"{bar} mm"), (0.02, 0.92, "R"), (0.94, 0.92, "L")):
        axes.text(x, y, text, transform=axes.transAxes, color="white", fontsize=8, bbox={"fc": "#00000080", "lw": 0, "pad": 1})


def step_strip(panels: Sequence[Panel | tuple[Any, ...]], columns: int = 4) -> Figure:
    """Slices side by side, e.g. before and after each step; tuples are Panel's fields in order."""
    drawn = [Panel(*panel) for panel in panels]
    rows, titles = -(-len(drawn) // columns), max(panel.title.count("\n") + 1 for panel in drawn)
    sizes = [np.multiply(panel.image.shape, panel.spacing_mm[:2]) for panel in drawn]
    tall = min(4, max(height / width for width, height in sizes))  # of a scout, seen from the side, a slice is a line
    figure, axes = _figure(rows, columns, rows * (tall * WIDTH / columns + 0.2 * titles) + 0.3)
    figure.set_facecolor("black")
    for place, panel in zip(np.ravel(axes), drawn, strict=False):
        draw_panel(place, panel)
    for place in np.ravel(axes)[len(drawn) :]:
        place.set_axis_off()
    kinds = {panel.is_error for panel in drawn if panel.labels is not None}
    keys = [(name, color) for _, name, color in OVERLAID if False in kinds] + [key for key in ERRORS.items() if True in kinds]
    if keys:
        _legend(figure, [Patch(fc=color, ec="white", lw=0.5, label=name) for name, color in keys], 3, "white")
    return figure


def framed(volume: Prepared, corners: Iterable[Sequence[int]], shape_vox: Sequence[int], labels: bool = True) -> Figure:
    """Where blocks of a volume lie, such as patches or windows: yellow frames, from below and from the front.

    Args:
        volume: shown with its labels or without.
        corners: of the blocks, in voxels.
        shape_vox: of each block.
    """
    y, (x_mm, _, z_mm) = volume.labels.shape[1] // 2, volume.spacing_mm
    front = volume.image[:, y], volume.labels[:, y] if labels else None
    below = slice_panel(volume, None, "from below", labels or None)
    figure = step_strip([below, Panel("from the front", *front, spacing_mm=(x_mm, z_mm))], columns=2)
    width, depth, height = np.multiply(shape_vox, volume.spacing_mm)
    for x, y_low, z_low in np.multiply([*corners], volume.spacing_mm):
        for axes, start, tall in zip(figure.axes, (y_low, z_low), (depth, height), strict=True):
            axes.add_patch(Rectangle((x, start), width, tall, fill=False, color="#FFD400"))
    return figure


def overlay_pair(*cases: Case | Prepared, z: int | None = None, columns: int = 2) -> Figure:
    """Figure 1: CT beside the same slice with its labels; one pair, or one for each of several cases."""
    shown = ((None, None), ("labels", True))
    return step_strip([slice_panel(case, z, title, labels) for case in cases for title, labels in shown], columns)


def truth_and_prediction(rows: Sequence[tuple[str, Case, np.ndarray]]) -> Figure:
    """Figure 6: a row of CT, truth and prediction per (title, case, prediction), on the slice with most infection in truth."""
    panels = []
    for title, case, prediction in rows:
        for name, labels in ((title, None), ("truth", True), ("prediction", prediction)):
            panels.append(slice_panel(case, None, name, labels))
    return step_strip(panels, 3)


def disagreement(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """0 where labels agree, 1 infection missed, 2 infection where there is none, 3 another difference; uint8, shape as given."""
    return np.select([truth == prediction, truth == 3, prediction == 3], [0, 1, 2], 3).astype(np.uint8)


def error_map(rows: Sequence[tuple[str, Case, np.ndarray]]) -> Figure:
    """A row of truth, prediction and their disagreement per (title, case, prediction), where infection is most wrong."""
    panels = []
    for title, case, prediction in rows:
        wrong = disagreement(case.labels, prediction)
        z = int(np.isin(wrong, (1, 2)).sum((0, 1)).argmax())
        panels += [slice_panel(case, z, title), slice_panel(case, z, "prediction", prediction)]
        panels.append(slice_panel(case, z, "where they differ", wrong)._replace(is_error=True))
    return step_strip(panels, 3)


def case_strip(case: Case, prediction: np.ndarray, n: int = 5) -> Figure:
    """`n` slices of a case from its lowest to its highest infected one: truth above, prediction, and below where they differ."""
    wrong = disagreement(case.labels, prediction)
    infected = np.flatnonzero((np.maximum(case.labels, prediction) == 3).any((0, 1)))
    first, last = infected[[0, -1]] if infected.size else (0, wrong.shape[2] - 1)
    chosen = np.unique(np.linspace(first, last, n).round().astype(int))
    rows = (("truth", case.labels), ("prediction", prediction), ("differences", wrong))
    panels = [slice_panel(case, z, f"{name}, {z + 1}", labels)._replace(is_error=labels is wrong)
              for name, labels in rows for z in chosen]  # fmt: skip
    return step_strip(panels, len(chosen))


def fly_through(path: Path, case: Case, labels: np.ndarray, width: int = 256) -> Path:
    """Write an animated GIF from the lowest to the highest slice, in proportion, `width` pixels wide; labels (x, y, z)."""
    from PIL import Image, ImageDraw

    low, high = LUNG_WINDOW[case.intensity]
    across, down = np.multiply(case.image.shape, case.spacing_mm)[:2]
    frames = []
    for z in range(case.image.shape[2]):
        grey = ((case.image[:, :, z, None] - low) / (high - low)).clip(0, 1)
        cover = OVERLAY[labels[:, :, z]]
        shade = (255 * (grey + cover[..., 3:] * (cover[..., :3] - grey))).astype(np.uint8)
        frame = Image.fromarray(shade[::-1, ::-1].swapaxes(0, 1)).resize((width, round(width * down / across)))  # R, A first
        for x, side in ((4, "R"), (width - 10, "L")):
            ImageDraw.Draw(frame).text((x, frame.height // 2), side, fill="white")
        frames.append(frame.quantize(48, dither=Image.Dither.NONE))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, loop=0)
    return path


def keep(figure: Figure, path: Path) -> Any:
    """Write a figure, SVG for a chart and PNG for pictures, to `path` and that ending; returns what a notebook is to display."""
    from IPython.display import SVG

    pictures = any(axes.images for axes in figure.axes)
    target = path.with_suffix(".png" if pictures else ".svg")
    target.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "covidlib"}):  # equal figures, equal files
        figure.savefig(target, dpi=150, bbox_inches="tight", metadata={} if pictures else {"Date": None})
    return figure if pictures else SVG(filename=str(target))


def montage(image: np.ndarray, labels: np.ndarray | None, spacing_mm: Sequence[float], n: int = 12, window: Any = None) -> Figure:
    """`n` axial slices (at most all), evenly spaced from below to above; image and labels (x, y, z), window as in Panel."""
    n = min(n, image.shape[2])
    chosen = ((np.arange(n) + 0.5) * image.shape[2] / n).astype(int)
    parts = [(f"slice {z + 1}", image[:, :, z], None if labels is None else labels[:, :, z]) for z in chosen]
    window = tuple(np.percentile(image, (0.5, 99.5))) if window is None else window
    return step_strip([Panel(*part, window, tuple(spacing_mm[:2])) for part in parts])


def pipeline_chart(profile: Profile) -> Figure:
    """Figure 2: from the scans to the scores, with the profile's numbers."""
    p, a, t, i = profile.preprocessing, profile.augmentation, profile.training, profile.inference
    plateau = f"× {t.plateau_factor:g} after {t.plateau_patience} epochs\nwithout a fall"
    windows = f"windows of {_times(i.window_shape_vox)} voxels,\n{i.overlap:.0%} overlap, mean of probabilities"
    texts = {
        (50, 95): f"Scans and labels\n{'phantoms' if profile.data.source == 'phantom' else 'NIfTI files'}, axes turned to RAS+",
        (50, 81): f"Preprocessing\nclip to {p.window_hu[0]:g} … {p.window_hu[1]:g} HU; grey 0–255 ({p.grey} range);\n"
                  f"resample to {_times(p.spacing_mm, '.2f')} mm; z-score",
        (50, 67): f"Cross-validation\n{profile.folds.number} folds (scheme {profile.folds.scheme})",
        (23, 52): f"Training cases\nrandom patches of {_times(profile.patches.shape_vox)} voxels\n"
                  f"in batches of {profile.patches.batch_size}",
        (23, 33): f"Augmentation\nmirroring, p = {a.mirror_probability:g} per axis; p = {a.probability:g} each:\n"
                  "elastic deformation, rotation, scaling,\ncontrast, brightness, gamma, noise",
        (23, 10): f"3D U-Net\nfeature maps {'–'.join(map(str, profile.network.filters))}\nloss: Tversky + cross-entropy\n"
                  f"Adam {t.learning_rate:g}, {plateau if t.schedule == 'plateau' else t.schedule}\n"
                  f"at most {t.epochs} epochs of {t.batches_per_epoch} batches",
        (77, 52): f"Test cases\n{'whole volumes' if i.mode == 'volume' else windows}",
        (77, 33): f"Prediction\nwith the {t.weights} weights,\nlabels back on each scan's own grid",
        (77, 10): "Evaluation\nDice, sensitivity, specificity per case;\nmedian per fold, mean over folds",
    }  # fmt: skip
    figure, axes = _figure(1, 1, 6.6)
    axes.axis((0, 100, 0, 100))
    axes.set_axis_off()
    boxes = [_box(axes, *place, text) for place, text in texts.items()]
    for above, below in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (2, 6), (6, 7), (5, 7), (7, 8)):
        _arrow(axes, boxes[above], boxes[below])
    return figure


def network_chart(model: Any, shape_vox: Sequence[int]) -> Figure:
    """Figure 3: a keras U-Net as its layers say: feature maps, kernel and, for an input of `shape_vox`, voxels of each level."""
    blocks = _blocks(model)
    depth, last = len(blocks) // 2, len(blocks) - 1
    figure, axes = _figure(1, 1, 0.9 * depth + 1)
    axes.set(xlim=(-0.5, last + 0.5), ylim=(-depth - 0.4, 0.4), title=f"{model.count_params():,} parameters")
    axes.set_axis_off()
    boxes = []
    for x, (maps, kernels, divided, step) in enumerate(blocks):
        size = _times([n // d for n, d in zip(shape_vox, divided, strict=True)])
        boxes.append(_box(axes, x, abs(x - depth) - depth, "\n".join(['·'.join(maps), max(kernels), size]), 8))
        where = {"ha": "right", "x": x - 0.6} if x <= depth else {"ha": "left", "x": x - 0.4}  # outside of the V
        axes.text(y=abs(x - 0.5 - depth) - depth - 0.1, s=step, fontsize=7.5, color=GREY, **where)
    for start, end in [(x, x + 1) for x in range(last)] + [(x, last - x) for x in range(depth)]:
        _arrow(axes, boxes[start], boxes[end], **({"linestyle": "dashed", "color": ORANGE} if end - start > 1 else {}))
    key = "boxes: feature maps, kernel, voxels\ndown: max pooling\nup: transposed convolution\ndashed: skip connection"
    axes.text(-0.45, -depth - 0.3, key, fontsize=9)
    return figure


def loss_course(histories: "Mapping[int, pd.DataFrame]") -> Figure:
    """Figure 4: training and validation loss of all folds, their Gaussian process regression and its 95 % confidence band."""
    figure, axes = _figure(1, 1, 4)
    for column, name, color, style in (("loss", "training", GREY, "-"), ("val_loss", "validation", ORANGE, "--")):
        found = [h[["epoch", column]].dropna().to_numpy(float) for h in histories.values() if column in h]
        for fold in found:
            axes.plot(*fold.T, "." + style, color=color, linewidth=0.8, markersize=3, alpha=0.5)
        if sum(map(len, found)):
            epochs, mean, low, high = _smooth(np.concatenate(found))
            axes.plot(epochs, mean, style, color=color, linewidth=2.5, label=name)
            axes.fill_between(epochs, low, high, color=color, alpha=0.25, linewidth=0)
    title = "thin: each fold; thick: the regression over all, with its 95 % band"
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None), title=title)
    axes.legend(frameon=False)
    return figure


def score_boxes(scores: "pd.DataFrame") -> Figure:
    """Figure 5: box plots of Dice, sensitivity and specificity, cases as dots; lungs: mean of left and right. NaN is left out."""
    figure, axes = _figure(1, 3, 3.6)
    by_case = scores.groupby([lungs_or_infection(scores), "fold", "case"])
    for place, metric in zip(axes, ("dice", "sensitivity", "specificity"), strict=True):
        values = [by_case[metric].mean()[name].dropna().to_numpy() for name in ("lungs", "infection")]
        place.boxplot(values, widths=0.6, showfliers=False, medianprops={"color": "black"}, tick_labels=("lungs", "infection"))
        for x, (cases, color) in enumerate(zip(values, COLORS[1:], strict=True), 1):
            place.plot(x + np.linspace(-0.2, 0.2, len(cases)), cases, "o", color=color, alpha=0.7, markersize=4)
        place.set(title=metric.capitalize(), ylim=None if metric == "specificity" else (-0.02, 1.02))  # that one is near 1
        place.grid(axis="y")
    return figure


def case_changes(before: "pd.DataFrame", after: "pd.DataFrame") -> Figure:
    """Dice of every case in two runs, lungs (mean of left and right) and infection: a gray dot before, a colored one after."""
    figure, axes = _figure(1, 2, 0.2 * before["case"].nunique() + 1.4, sharey=True)
    tables = [one.groupby(["fold", "case", lungs_or_infection(one)])["dice"].mean().unstack() for one in (before, after)]
    for place, kind, color in zip(axes, ("lungs", "infection"), COLORS[1:], strict=True):
        old, new = (table[kind].to_numpy() for table in tables)
        rows = range(len(old))
        place.hlines(rows, old, new, color=color, linewidth=2)
        place.plot(old, rows, "o", color=GREY, markersize=4, label="before")
        place.plot(new, rows, "o", color=color, markersize=6, label="after")
        place.set(title=kind.capitalize(), xlabel="Dice", ylim=(len(old) - 0.5, -0.5))
        place.set(yticks=rows, yticklabels=[case for _, case in tables[0].index])
        place.grid()
    _legend(figure, [axes[0].get_lines()[0], *(place.get_lines()[1] for place in axes)])
    return figure


def case_dots(scores: "pd.DataFrame", metric: str = "dice") -> Figure:
    """A row per case, a dot per class; a missing dot is an undefined score (empty truth)."""
    table = scores.pivot_table(index=["fold", "case"], columns="class", values=metric)
    figure, axes = _figure(1, 1, 0.24 * len(table) + 1.2)
    for (_, name, color), marker in zip(OVERLAID, "<>o", strict=True):
        axes.plot(table[name], range(len(table)), marker, color=color, mec=GREY, mew=0.5, label=name)
    axes.set(yticks=range(len(table)), yticklabels=[f"{case} (fold {fold})" for fold, case in table.index])
    axes.set(xlabel=metric.capitalize(), xlim=(-0.02, 1.02), ylim=(len(table) - 0.5, -0.5))
    axes.grid()
    _legend(figure, axes.get_lines())
    return figure


def history_curves(history: "pd.DataFrame") -> Figure:
    """One fold's loss, soft Dice and learning rate over its epochs; training solid, validation dashed."""
    figure, axes = _figure(1, 3, 3)
    axes[2].semilogy(history["epoch"], history["learning_rate"], ".-", color=GREY)
    for place, column, color in ((0, "loss", GREY), (1, "soft_dice_lungs", COLORS[1]), (1, "soft_dice_infection", COLORS[2])):
        for prefix, style, name in (("", ".-", "training"), ("val_", ".--", "validation")):
            values = history.get(prefix + column, np.full(len(history), np.nan))
            axes[place].plot(history["epoch"], values, style, color=color, label=f"{column.split('_')[-1]}, {name}")
    for place, title in zip(axes, ("loss", "soft Dice on patches", "learning rate"), strict=True):
        place.set(xlabel="epoch", title=title, ylim=(0, 1) if "Dice" in title else None)
        place.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, [*axes[0].get_lines(), *axes[1].get_lines()], 3)
    return figure


def histogram(*cases: Case, window_hu: tuple[float, float] = (-1250, 250)) -> Figure:
    """Voxels per intensity, in all and by class, of cases side by side; the window shaded (on grey cases: 0 to 255)."""
    figure, axes = _figure(1, len(cases), 3.4, sharey=True)
    for place, one in zip(np.ravel(axes), cases, strict=True):
        hu = one.intensity == "hu"
        bins = np.arange(-1400, 1001, 20) if hu else np.arange(-8, 264, 4)
        place.axvspan(*(window_hu if hu else (0, 255)), color=PALE, label="window")
        place.stairs(np.histogram(one.image, bins)[0], bins, color=GREY, linestyle=":", label="all voxels")
        for (label, name, color), style in zip(OVERLAID, ("-", "--", "-"), strict=True):
            counted = np.histogram(one.image[one.labels == label], bins)[0]
            place.stairs(counted, bins, color=color, linewidth=1.6, linestyle=style, label=name)
        place.set(title=one.id, yscale="log", xlabel="HU" if hu else "grey", xlim=(bins[0], bins[-1]))
    np.ravel(axes)[0].set_ylabel("voxels")
    _legend(figure, place.get_legend_handles_labels()[0])
    return figure


def class_balance(voxels: "pd.DataFrame") -> Figure:
    """From voxels of each case (index) and class (columns CLASSES): percent of the scan, and infected percent of the lung."""
    figure, axes = _figure(1, 2, 0.23 * len(voxels) + 1.2, sharey=True)
    figure.get_layout_engine().set(wspace=0.08)  # or the last number of one axis touches the first of the other
    share = 100 * voxels.div(voxels.sum(axis=1), axis=0)
    share.plot.barh(stacked=True, ax=axes[0], color=["#DDDDDD", *COLORS], width=0.8, legend=False)
    (100 * voxels["infection"] / voxels[list(CLASSES[1:])].sum(axis=1)).plot.barh(ax=axes[1], color=COLORS[2], width=0.8)
    axes[0].set(xlabel="percent of the scan", ylabel="", xlim=(0, 100))
    axes[1].set(xlabel="infected percent of the lung", ylim=(len(voxels) - 0.5, -0.5))
    _legend(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    figure = plt.figure(figsize=(WIDTH, height), dpi=140, layout="constrained")  # outside of rc_context: it may load the backend
    with plt.rc_context(STYLE):
        axes = figure.subplots(rows, columns, **options)
    plt.close(figure)  # or a notebook would draw it by itself as well
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Any], columns: int = 5, color: str = "black") -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, labelcolor=color)


def _times(numbers: Sequence[float], digits: str = "g") -> str:
    return "×".join(format(n, digits) for n in numbers)


def _box(axes: Axes, x: float, y: float, text: str, size: float = 9) -> Any:
    return axes.text(x, y, text, ha="center", va="center", size=size, bbox={"boxstyle": "round", "fc": PALE, "ec": COLORS[1]})


def _arrow(axes: Axes, start: Any, end: Any, **options: Any) -> None:
    look = {"arrowstyle": "-|>", "color": GREY, "patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(), **options}
    axes.annotate("", end.get_position(), start.get_position(), arrowprops=look)


def _blocks(model: Any) -> list[tuple[list[str], set[str], list[int], str]]:
    """Level by level, down and up: feature maps, kernel, what the input's size is divided by, the step from the level before."""
    blocks, divided = [([], set(), [1, 1, 1], "")], np.ones(3, int)
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv3D" or layer.name == "classes":  # which is transposed where the first has a stride
            if len(blocks) == 1:
                divided = divided * layer.strides
                blocks[0][2][:] = divided.tolist()
            blocks[-1][0].append(str(layer.filters))
            blocks[-1][1].add(_times(layer.kernel_size))
        elif kind in ("MaxPooling3D", "Conv3DTranspose"):
            step = layer.pool_size if kind == "MaxPooling3D" else layer.strides
            divided = divided * step if kind == "MaxPooling3D" else divided // step
            blocks.append(([], set(), divided.tolist(), _times(step)))
    return blocks


def _smooth(points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Epochs, mean and 95 % band of the mean, by Gaussian process regression of the log of the loss on the log of the epoch."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    chosen = np.log(np.random.default_rng(0).permutation(points)[:400])  # the cost grows with the cube of their number
    model = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(0.1), normalize_y=True)
    with warnings.catch_warnings(action="ignore"):  # a bound of the kernel was reached: so be it
        model.fit(chosen[:, :1], chosen[:, 1])
    epochs = np.linspace(points[:, 0].min(), points[:, 0].max(), 200)
    mean, deviation = model.predict(np.log(epochs)[:, None], return_std=True)
    band = 1.96 * np.sqrt(np.maximum(deviation**2 - model.kernel_.k2.noise_level * np.var(chosen[:, 1]), 0))
    return epochs, np.exp(mean), np.exp(mean - band), np.exp(mean + band)


def overlay(case: Case, labels: np.ndarray, title: str) -> Figure:
    """Twelve axial slices of CT and labels under a title, cut to where labels are and 15 mm; without any: the whole scan."""
    seen = labels > 0 if labels.any() else np.ones(labels.shape, bool)
    levels, margins = np.flatnonzero(seen.any((0, 1))), [int(15 / mm) for mm in case.spacing_mm[:2]]
    cut = tuple(slice(max(0, side.start - n), side.stop + n) for side, n in zip(box_of(seen), margins, strict=False))
    shown = replace(case, image=case.image[cut])
    chosen = levels[np.unique(((np.arange(12) + 0.5) * len(levels) / 12).astype(int))]
    figure = step_strip([slice_panel(shown, z, f"slice {z + 1}", labels[cut]) for z in chosen])
    lines = [textwrap.fill(line, OVERLAY_TITLE) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=9, color="white", parse_math=False)
    return figure


def agreement_chart(truth: Sequence[float], predicted: Sequence[float], what: str) -> Figure:
    """Prediction against truth with the line of equality; and Bland and Altman's plot: difference against mean, 95 % limits."""
    truth, predicted, found = np.array(truth, float), np.array(predicted, float), agreement(truth, predicted)
    figure, axes = _figure(1, 2, 3.6)
    top = 1.05 * np.nanmax([truth, predicted], initial=1e-6)
    axes[0].plot([0, top], [0, top], color=GREY, linewidth=0.8)
    axes[0].plot(truth, predicted, "o", color=COLORS[1], alpha=0.7)
    axes[0].set(xlabel=f"truth, {what}", ylabel=f"prediction, {what}", title=f"correlation {found['correlation']:.3f}")
    axes[1].plot((truth + predicted) / 2, predicted - truth, "o", color=COLORS[1], alpha=0.7)
    for value, style in ((found["mean_difference"], "-"), (found["low"], "--"), (found["high"], "--")):
        axes[1].axhline(value, color=ORANGE, linestyle=style)
    title = f"mean {found['mean_difference']:+.4g}, limits {found['low']:.4g} to {found['high']:.4g}"
    axes[1].set(xlabel=f"mean of both, {what}", ylabel=f"prediction − truth, {what}", title=title)
    for place in axes:
        place.grid()
    return figure


def growth_chart(growth: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Wall seconds above, peak GiB below; left against the scan's size, right against the number of scans (x, seconds, GiB)."""
    figure, axes = _figure(2, 2, 4.6, sharex="col")
    kinds = {"size": "size, in 512 × 512 × 200 voxels", "scans": "scans in one call"}
    for column, (kind, label) in enumerate(kinds.items()):
        points = np.array(growth[kind], float).reshape(-1, 3)
        for row, (unit, style, color) in enumerate((("wall time, s", "o-", COLORS[1]), ("peak memory, GiB", "s--", ORANGE))):
            place = axes[row, column]
            place.plot(points[:, 0], points[:, 1 + row], style, color=color, clip_on=False)
            place.set(ylabel=unit, xlim=(0, None), ylim=(0, None))
            place.grid()
        axes[1, column].set(xlabel=label)
    return figure


def doubt_chart(marked: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Infection marked by true infection against doubt (doubts, shares by name), a dot a scan; on the line it is as much."""
    figure, axes = _figure(1, 1, 3.4)
    axes.axhline(1, color=GREY, linewidth=0.8)
    for (name, (doubts, shares)), style, color in zip(marked.items(), ("o", "s"), (COLORS[1], ORANGE), strict=True):
        axes.plot(doubts, shares, style, color=color, alpha=0.8, label=name)
    axes.set(xlabel="doubt", ylabel="infection marked, true = 1", yscale="log")
    axes.set_yticks([0.5, 1, 2], labels=["0.5", "1", "2"])
    axes.set_yticks([], minor=True)
    axes.grid()
    _legend(figure, axes.get_lines()[1:])
    return figure


def time_course(percents: "pd.DataFrame") -> Figure:
    """Infected percent of the lung (index: time points in order; a column a line, e.g. truth and prediction)."""
    figure, axes = _figure(1, 1, 3)
    for column, style, color in zip(percents, ("o-", "s--"), (GREY, COLORS[2]), strict=False):
        axes.plot(range(len(percents)), percents[column], style, color=color, label=column)
    axes.set(xticks=range(len(percents)), xticklabels=percents.index, ylabel="infected percent of the lung", ylim=(0, None))
    axes.margins(x=0.3)
    axes.grid(axis="y")
    _legend(figure, axes.get_lines())
    return figure
