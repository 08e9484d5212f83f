"""Look through a volume slice by slice, in Jupyter and, as the links live in the browser, in the static book."""

import base64
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets as W
import numpy as np
import traitlets as T

from covidlib.dataset import CLASSES, INFECTION, Case
from covidlib.errors import DataError
from covidlib.figures import COLORS, ERRORS, montage

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # plane -> the axis that its slices are counted along
SHOWN = ("truth", "prediction", "both", "disagreement")
LEGEND = {label: (CLASSES[label], color) for label, color in enumerate(COLORS, 1)}
RANGES = {"hu": (-1250.0, 250.0), "grey": (0.0, 255.0)}  # one range in two units (paper, preprocessing)
PRESETS_HU = {"lung": (-1250.0, 150.0), "mediastinum": (-160.0, 240.0), "full": (-np.inf, np.inf)}
STILL = """<div class="covidlib-still"><style>
.covidlib-still {{ display: none }} @media print {{ .covidlib-still {{ display: block }} .covidlib-viewer {{ display: none }} }}
</style><noscript><style>.covidlib-still {{ display: block !important }}</style></noscript>
<img alt="{alt}" src="data:image/jpeg;base64,{data}"></div>"""


class SliceCanvas(anywidget.AnyWidget):
    """What viewer.js draws: volumes as `_pack` makes them; span is what 0 and 255 mean, cut whether there was less or more
    than that, start the first slice of each plane, shown a number in SHOWN. Without a prediction `labels` are all there is, be
    they drawn or predicted."""

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    volume, labels, prediction = (T.Bytes().tag(sync=True) for _ in range(3))
    shape, spacing_mm, span, window, presets, classes, errors, start, cut = (T.List().tag(sync=True) for _ in range(9))
    plane, index, max_index, shown = (T.Int(0).tag(sync=True) for _ in range(4))
    preset = T.Int(0, allow_none=True).tag(sync=True)  # None: a window set by hand
    opacity, unit = T.Float(0.4).tag(sync=True), T.Unicode().tag(sync=True)
    jump, playing = (T.Bool(False).tag(sync=True) for _ in range(2))


class Viewer(W.VBox):
    """The canvas (`.canvas`) over its `.controls`; `.still()`, a montage as HTML, is what shows without scripts and on paper."""

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self.still()))
        display(self._repr_mimebundle_(), raw=True)


def view(image: np.ndarray | Case, labels: np.ndarray | None = None, prediction: np.ndarray | None = None,
         spacing_mm: Sequence[float] = (1, 1, 1), window: Sequence[float] | None = None, intensity: str = "grey",
         classes: Mapping[int, tuple[str, str]] = LEGEND) -> Viewer:
    """Show a volume, with labels over it, in radiological display (the patient's right on the viewer's left).

    Args:
        image: (x, y, z) RAS+ array in HU or grey 0-255; or a Case, which brings labels, spacing and intensity along.
        labels: (x, y, z) array of 0 and the keys of `classes`; None shows the Case's labels, or no overlay.
        prediction: labels to compare with `labels`, one at a time, both (the prediction as an outline) or where they differ.
            Without labels to compare it with it is simply shown.
        spacing_mm: size of a voxel along x, y, z.
        window: intensities to spread over 256 levels, shown first; default -1250..250 HU (5.9 a level) or 0..255.
        intensity: "hu" or "grey".
        classes: label -> (name, "#rrggbb"). Label 3 is the infection that the viewer opens on and jumps to.

    Returns:
        A box with the canvas (`.canvas`) over its `.controls`. A page holds the whole volume: crop what is large. Millimeters
        are counted from the center of voxel (0, 0, 0), along RAS+.

    Raises:
        DataError: for a shape, label, spacing, window or intensity that cannot be shown. NaN shows as the lowest value.
    """
    if hasattr(image, "intensity"):
        labels = image.labels if labels is None else labels
        image, spacing_mm, intensity = image.image, image.spacing_mm, image.intensity
    try:
        image, unit = np.asarray(image, np.float32), str(intensity).lower()
    except (TypeError, ValueError):
        raise DataError(f"image is a {type(image).__name__}; allowed: an array of numbers (x, y, z) or a Case") from None
    drawn = [np.asarray(one) for one in (labels, prediction) if one is not None] or [np.zeros(image.shape, np.uint8)]
    classes = {} if labels is None and prediction is None else classes
    span = [float(v) for v in (RANGES.get(unit, (0, 1)) if window is None else window)]
    _check(image, drawn, spacing_mm, span, unit, {0, *classes})
    infected = next((one == INFECTION for one in drawn if (one == INFECTION).any()), np.zeros(image.shape, bool))
    counts = [infected.sum(axis=tuple({0, 1, 2} - {axis})) for axis in PLANES.values()]
    canvas = SliceCanvas(
        volume=_pack((np.nan_to_num(image.clip(*span), nan=span[0]) - span[0]) / (span[1] - span[0]) * 255),
        labels=_pack(drawn[0]), prediction=_pack(drawn[1]) if drawn[1:] else b"", errors=[list(e) for e in ERRORS.items()],
        classes=[[int(k), *v] for k, v in classes.items()], shape=list(image.shape), spacing_mm=list(map(float, spacing_mm)),
        span=span, unit="HU" if unit == "hu" else "", presets=_presets(span, unit), preset=0 if window is None else 2,
        cut=[bool((image < span[0]).any()), bool((image > span[1]).any())],
        start=[int(c.argmax()) if c.any() else len(c) // 2 for c in counts], max_index=max(1, image.shape[2] - 1))
    canvas.index, canvas.window = canvas.start[0], canvas.presets[canvas.preset]
    box = _with_controls(canvas, can_jump=bool(infected.any()))
    box.still = lambda: _still(image, drawn[-1].astype(np.uint8) if classes is LEGEND else None, spacing_mm, tuple(canvas.window))
    return box


def _check(image: np.ndarray, drawn: list[np.ndarray], spacing_mm: Sequence, span: list, unit: str, known: set) -> None:
    shapes = [labels.shape for labels in drawn if labels.shape != image.shape]
    unknown = sorted({label for labels in drawn for label in np.unique(labels).tolist()} - known)
    for wrong, message in (
        (unit not in RANGES, f"intensity is {unit!r}; allowed: 'hu' or 'grey'"),
        (image.ndim != 3 or not image.size, f"image has shape {image.shape}; give one volume with axes (x, y, z)"),
        (shapes, f"labels have shape {shapes and shapes[0]}, not the image's {image.shape}; use one grid"),
        (unknown, f"labels hold {unknown}; allowed: {sorted(known)}; name further ones in `classes`"),
        (len(spacing_mm) != 3 or not all(0 < mm < np.inf for mm in spacing_mm),
         f"spacing_mm is {spacing_mm}; give three lengths above 0 mm"),
        (len(span) != 2 or not -np.inf < span[0] < span[-1] < np.inf, f"window is {span}; give (low, high) with low < high"),
    ):
        if wrong:
            raise DataError(message)


def _presets(span: list[float], unit: str) -> list[list[float]]:
    hus = np.array(list(PRESETS_HU.values()))
    return np.clip(np.interp(hus, RANGES["hu"], RANGES[unit]) if unit == "grey" else hus, *span).round(3).tolist()


def _pack(values: np.ndarray) -> bytes:
    """Gzipped uint8, each as its difference to the one before in C order: a tenth smaller. Equal volumes give equal bytes."""
    flat = values.clip(0, 255).round().astype(np.uint8).ravel()
    return gzip.compress(np.diff(flat, prepend=np.uint8(0)).tobytes(), 9, mtime=0)


def _still(image: np.ndarray, labels: np.ndarray | None, spacing_mm: Sequence[float], window: tuple[float, float]) -> str:
    picture = io.BytesIO()
    montage(image, labels, spacing_mm, window=window).savefig(picture, format="jpeg", dpi=100, pil_kwargs={"quality": 75})
    alt = "Axial slices of the volume from below to above" + ("" if labels is None else ", lungs in blue, infection in red")
    return STILL.format(alt=alt, data=base64.b64encode(picture.getvalue()).decode())


def _with_controls(canvas: SliceCanvas, can_jump: bool) -> Viewer:
    step = 10.0 ** int(np.log10(np.ptp(canvas.span)) - 2)
    controls = {
        "index": W.IntSlider(canvas.index, 0, canvas.max_index, description="Slice", readout=False),
        "playing": W.ToggleButton(description="Play", tooltip="Run through the slices, again and again"),
        "jump": W.ToggleButton(description="Slice with most infection", disabled=not can_jump, tooltip="Show that slice"),
        "plane": W.ToggleButtons(options=list(PLANES), description="Plane"),
        "shown": W.ToggleButtons(options=SHOWN, description="Labels"),
        "preset": W.ToggleButtons(options=list(PRESETS_HU), index=canvas.preset, description="Window"),
        "window": W.FloatRangeSlider(value=canvas.window, min=canvas.span[0], max=canvas.span[1], readout=False,
                                     step=step, description="Range"),
        "opacity": W.FloatSlider(canvas.opacity, min=0, max=1, step=0.05, description="Overlay", readout=False),
    }
    for trait, control in controls.items():
        W.jslink((control, "index" if isinstance(control, W.ToggleButtons) else "value"), (canvas, trait))
    W.jsdlink((canvas, "max_index"), (controls["index"], "max"))
    rows = {**controls, "playing": W.HBox([controls["playing"], controls["jump"]])}
    del rows["jump"]
    if not canvas.prediction:
        del rows["shown"]
    box = Viewer([canvas, *rows.values()]).add_class("covidlib-viewer")
    box.canvas, box.controls = canvas, controls
    return box
