"""Labels in; volumes in mL, percent of the lung infected, lesions and a severity band out; agreement of two measurements."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from covidlib.dataset import INFECTION, LUNGS
from covidlib.postprocessing import lung_sides, pieces
from covidlib.preprocessing import box_of
from covidlib.runs import Run

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_LESION_ML = 0.1  # a ball of 6 mm; below it, specks
BANDS = ("CT-0", "CT-1", "CT-2", "CT-3", "CT-4")


def quantify(
    labels: np.ndarray, spacing_mm: Sequence[float], image: np.ndarray | None = None, intensity: str = "grey"
) -> dict[str, float | int | str]:
    """How much lung, and how much of it is infected.

    Args:
        labels: (x, y, z) integers 0-3. Infection is part of the lung it lies in: that of the nearest voxel of lung.
        spacing_mm: size of a voxel along x, y, z.
        image: (x, y, z), for the mean intensity; used only where `intensity` is "hu".

    Returns:
        for the whole and for left_ and right_: lung_ml (infection included), infection_ml, infected_percent (NaN without lung);
        infection_mean_hu (NaN where there is no HU or no infection); lesions (of at least 0.1 mL, touching at a corner is
        one) and largest_lesion_ml; severity, see `severity`.
    """
    box = box_of(labels > 0)
    labels, image = labels[box], None if image is None else image[box]
    sides, infected = lung_sides(labels, spacing_mm), labels == INFECTION
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    found: dict[str, float | int | str] = {}
    lungs = [np.count_nonzero(sides == side) for side in LUNGS]
    infections = np.bincount(sides[infected], minlength=3)[1:]  # infection without any lung lies in neither
    voxels = ((sum(lungs), np.count_nonzero(infected)), *zip(lungs, infections, strict=True))
    for prefix, counted in zip(("", "left_", "right_"), voxels, strict=True):
        lung_ml, infection_ml = (float(count * voxel_ml) for count in counted)
        found[f"{prefix}lung_ml"], found[f"{prefix}infection_ml"] = lung_ml, infection_ml
        found[f"{prefix}infected_percent"] = 100 * infection_ml / lung_ml if lung_ml else float("nan")
    in_hu = image is not None and intensity == "hu" and infected.any()
    found["infection_mean_hu"] = float(image[infected].mean(dtype=np.float64)) if in_hu else float("nan")
    lesions = lesion_volumes_ml(infected, voxel_ml)
    found["lesions"] = int((lesions >= SMALLEST_LESION_ML).sum())
    found["largest_lesion_ml"] = float(lesions.max(initial=0.0))
    found["severity"] = severity(float(found["infected_percent"]))
    return found


def lesion_volumes_ml(infected: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Volume of each connected piece of a mask (x, y, z), float; voxels that share a face, an edge or a corner are connected."""
    return pieces(infected)[1][1:] * voxel_ml


def severity(infected_percent: float) -> str:
    """Band of Morozov et al. 2020 (MosMedData) by the percent of lung alone: CT-0 none, CT-1 below 25, CT-2 below 50,
    CT-3 to 75, CT-4 above; "" for NaN. The source's readers also looked at the kind of change; this is no clinical grade."""
    if np.isnan(infected_percent):
        return ""
    limits = (infected_percent > 0, infected_percent >= 25, infected_percent >= 50, infected_percent > 75)
    return BANDS[sum(limits)]


def quantify_fold(run: Run, number: int) -> "pd.DataFrame":
    """`quantify` of the truth and of the prediction of a fold's test cases: fold, case, source, then its values."""
    import pandas as pd

    rows = []
    for name in run.fold(number).test:
        case = run.case(name)
        for source, labels in (("truth", case.labels), ("prediction", run.predicted_labels(number, name))):
            measured = quantify(labels, case.spacing_mm, case.image, case.intensity)
            rows.append({"fold": number, "case": name, "source": source, **measured})
    return pd.DataFrame(rows)


def agreement(truth: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Bland and Altman's mean difference (predicted minus truth) and its 95 % limits; and Pearson's correlation.

    Pairs with a NaN are left out. Fewer than two pairs, or values that are all the same: what cannot be said is NaN.
    """
    pairs = np.array([truth, predicted], float)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    count, difference = pairs.shape[1], pairs[1] - pairs[0]
    mean = float(difference.mean()) if count else float("nan")
    spread = 1.96 * float(difference.std(ddof=1)) if count > 1 else float("nan")
    varied = count > 1 and np.ptp(pairs, axis=1).min() > 0
    correlation = float(np.corrcoef(pairs)[0, 1]) if varied else float("nan")
    return {"n": count, "mean_difference": mean, "low": mean - spread, "high": mean + spread, "correlation": correlation}
