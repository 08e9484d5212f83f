"""Dice, sensitivity and specificity counted by hand in pictures; Table 1 from a small table."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from covidlib.dataset import CLASSES, Fold, save_labels
from covidlib.errors import DataError
from covidlib.metrics import (
    NEARLY_EMPTY,
    confusion,
    headline,
    score,
    score_fold,
    score_folders,
    score_run,
    surface_scores,
    table_1,
)
from covidlib.profile import Profile
from covidlib.runs import Run

NAMES = ("left lung", "right lung", "infection")


def labels(text):
    """Rows of digits to uint8 labels (rows, columns, 1); a dot is background."""
    rows = [[0 if word == "." else int(word) for word in line.split()] for line in text.strip().splitlines()]
    return np.array(rows, np.uint8)[:, :, None]


def scores_of(truth, prediction):
    return {row["class"]: row for row in score(truth, prediction)}


TRUTH = labels("""
    1 1 . 2 2
    1 1 . 2 3
    . . . 3 3
    . . . . .
""")
PREDICTION = labels("""
    1 1 . 2 2
    1 . . 2 2
    1 . . 3 3
    . . . . 3
""")


def test_confusion_counts_what_was_taken_for_what():
    assert confusion(TRUTH, PREDICTION).tolist() == [
        [8, 1, 0, 1],
        [1, 3, 0, 0],
        [0, 0, 3, 0],
        [0, 0, 1, 2],
    ]


def check(row, dice, sensitivity, specificity, truth_voxels, predicted_voxels):
    expected = {"dice": dice, "sensitivity": sensitivity, "specificity": specificity}
    for key, value in expected.items():
        assert row[key] == pytest.approx(value, nan_ok=True), key
    assert (row["truth_voxels"], row["predicted_voxels"]) == (truth_voxels, predicted_voxels)


def test_scores_counted_by_hand():
    """20 voxels. Left: 4 true, 4 found, 3 right. Right: 3, 4, 3. Infection: 3, 3, 2."""
    rows = scores_of(TRUTH, PREDICTION)
    assert tuple(rows) == NAMES == CLASSES[1:]
    check(rows["left lung"], 6 / 8, 3 / 4, 15 / 16, 4, 4)
    check(rows["right lung"], 6 / 7, 3 / 3, 16 / 17, 3, 4)
    check(rows["infection"], 4 / 6, 2 / 3, 16 / 17, 3, 3)


def test_labels_of_any_number_of_axes_are_counted():
    row = np.array([0, 3, 3, 1])
    assert [one["dice"] for one in score(row, np.array([0, 3, 0, 1]))] == [1, 1, pytest.approx(2 / 3)]


def test_a_perfect_prediction():
    for row in score(TRUTH, TRUTH):
        assert (row["dice"], row["sensitivity"], row["specificity"]) == (1, 1, 1)


def test_an_empty_truth_that_is_found_somewhere():
    """Nothing there, 2 of 4 voxels found: Dice 0, sensitivity has no meaning."""
    check(scores_of(labels(". . . ."), labels("3 3 . ."))["infection"], 0, math.nan, 2 / 4, 0, 2)


def test_a_class_in_neither():
    check(scores_of(labels(". . 1"), labels(". 1 1"))["infection"], 1, math.nan, 1, 0, 0)


def test_an_empty_prediction():
    check(scores_of(labels("3 3 . ."), labels(". . . ."))["infection"], 0, 0, 1, 2, 0)


def test_one_class_everywhere_has_no_specificity():
    check(scores_of(labels("3 3"), labels("3 ."))["infection"], 2 / 3, 1 / 2, math.nan, 2, 1)


def test_left_and_right_exchanged_is_all_wrong():
    rows = scores_of(labels("1 1 . 2"), labels("2 2 . 1"))
    check(rows["left lung"], 0, 0, 1 / 2, 2, 1)
    check(rows["right lung"], 0, 0, 1 / 3, 1, 2)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_any_integer_type_and_any_memory_order(kind):
    truth, prediction = TRUTH.astype(kind), np.asfortranarray(PREDICTION.astype(kind))
    assert score(truth, prediction) == score(TRUTH, PREDICTION)


def test_another_grid_is_an_error():
    with pytest.raises(DataError, match=r"truth has shape \(4, 5, 1\), prediction \(5, 4, 1\); allowed: the same grid"):
        score(TRUTH, PREDICTION.transpose(1, 0, 2))


# --------------------------------------------------------------------------------------------------------------------- Table 1


def frame(*rows):
    """(fold, case, class, dice, sensitivity, specificity) a row."""
    return pd.DataFrame(rows, columns=["fold", "case", "class", "dice", "sensitivity", "specificity"])


SCORES = frame(
    # fold 0, three cases: medians left 0.8, right 0.6, infection 0.4
    (0, "a", "left lung", 0.7, 0.1, 0.9), (0, "b", "left lung", 0.8, 0.3, 0.9), (0, "c", "left lung", 0.9, 0.2, 0.9),
    (0, "a", "right lung", 0.6, 0.4, 0.7), (0, "b", "right lung", 0.1, 0.4, 0.7), (0, "c", "right lung", 0.9, 0.4, 0.7),
    (0, "a", "infection", 0.0, 0.5, 1.0), (0, "b", "infection", 0.4, math.nan, 1.0), (0, "c", "infection", 0.5, 0.7, 1.0),
    # fold 1, two cases: medians left 0.5, right 1.0, infection 0.6
    (1, "d", "left lung", 0.4, 0.8, 0.5), (1, "e", "left lung", 0.6, 0.8, 0.5),
    (1, "d", "right lung", 1.0, 1.0, 0.5), (1, "e", "right lung", 1.0, 1.0, 0.5),
    (1, "d", "infection", 0.4, 0.2, 0.8), (1, "e", "infection", 0.8, 0.4, 0.6),
)  # fmt: skip


def test_table_1_median_per_fold_lungs_as_mean_of_two_and_mean_over_folds():
    table = table_1(SCORES)
    assert table.index.tolist() == [0, 1, "average"]
    expected = {
        ("lungs", "dice"): [(0.8 + 0.6) / 2, (0.5 + 1.0) / 2, 0.725],
        ("lungs", "sensitivity"): [(0.2 + 0.4) / 2, (0.8 + 1.0) / 2, 0.6],
        ("lungs", "specificity"): [(0.9 + 0.7) / 2, 0.5, 0.65],
        ("infection", "dice"): [0.4, 0.6, 0.5],
        ("infection", "sensitivity"): [0.6, 0.3, 0.45],  # the case without infection is left out of the median of 0.5 and 0.7
        ("infection", "specificity"): [1.0, 0.7, 0.85],
    }
    assert table.columns.tolist() == list(expected)
    for column, values in expected.items():
        assert table[column].tolist() == pytest.approx(values), column


def test_table_1_of_a_fold_without_any_infection_leaves_it_out_of_the_average():
    scores = SCORES.copy()
    scores.loc[(scores["fold"] == 0) & (scores["class"] == "infection"), "sensitivity"] = math.nan
    table = table_1(scores)
    assert math.isnan(table.loc[0, ("infection", "sensitivity")])
    assert table.loc["average", ("infection", "sensitivity")] == pytest.approx(0.3)


def test_table_1_does_not_depend_on_the_order_of_rows():
    pd.testing.assert_frame_equal(table_1(SCORES.sample(frac=1, random_state=0)), table_1(SCORES))


# ----------------------------------------------------------------------------------------------------------------------- a run


def test_score_run_compares_on_the_original_grid(tmp_path, write_case):
    """Stored as LPS: prediction and truth are brought to the same order whatever the file's."""
    write_case(tmp_path / "data", "case_a")
    write_case(tmp_path / "data", "case_b")
    folds = Fold(0, ("case_b",), ("case_a",)), Fold(1, ("case_a",), ("case_b",))
    run = Run(Profile(), tmp_path / "data", tmp_path / "run", ("case_a", "case_b"), folds)
    right, wrong = run.case("case_a"), run.case("case_b")
    save_labels(right.labels, right, run.prediction(0, "case_a"))
    save_labels(np.where(wrong.labels == 3, 0, wrong.labels), wrong, run.prediction(1, "case_b"))
    scores = score_run(run, [0, 1])
    assert scores[["fold", "case", "class"]].values.tolist() == [
        [fold, case, name] for fold, case in ((0, "case_a"), (1, "case_b")) for name in NAMES
    ]
    assert scores["dice"].tolist() == [1, 1, 1, 1, 1, 0]
    written = pd.read_csv(tmp_path / "run" / "scores.csv")
    pd.testing.assert_frame_equal(written, scores, check_dtype=False, check_exact=False)


def test_cases_named_by_numbers_keep_their_names(tmp_path, write_case):
    cases = ("001", "1001")
    for case in cases:
        write_case(tmp_path / "data", case)
    run = Run(Profile(), tmp_path / "data", tmp_path / "run", cases, (Fold(0, (), cases),))
    for case in map(run.case, cases):
        save_labels(case.labels, case, run.prediction(0, case.id))
    for _ in ("scored", "read again"):
        assert score_run(run, [0])["case"].unique().tolist() == ["001", "1001"]


def test_scoring_a_fold_that_is_not_predicted_names_case_and_fold(tmp_path, write_case):
    write_case(tmp_path / "data", "case_a")
    run = Run(Profile(), tmp_path / "data", tmp_path / "run", ("case_a",), (Fold(0, (), ("case_a",)),))
    with pytest.raises(DataError, match="case_a: no case_a.nii.gz of fold 0"):
        score_run(run, [0])


# -------------------------------------------------------------------------------------------------------------------- surfaces


def slab(first, last):
    """A mask of 6 x 6 x 12 voxels: whole slices from `first` to `last`."""
    mask = np.zeros((6, 6, 12), bool)
    mask[:, :, first : last + 1] = True
    return mask


def test_surfaces_a_millimeter_apart_agree_within_a_millimeter_and_not_within_half():
    """Slabs of 6 slices, one shifted by a slice of 1 mm: no point is farther than 1 mm from the other surface."""
    one, other = slab(2, 7), slab(3, 8)
    assert surface_scores(one, other, (1, 1, 1), 1.0) == {"nsd": pytest.approx(1), "hd95_mm": pytest.approx(1)}
    assert surface_scores(one, other, (1, 1, 1), 0.5)["nsd"] < 0.7
    assert surface_scores(one, other, (1, 1, 4), 3.0)["hd95_mm"] == pytest.approx(4)


@pytest.mark.parametrize(
    ("one", "other", "nsd"), [(slab(0, -1), slab(0, -1), 1), (slab(0, -1), slab(2, 3), 0), (slab(2, 3), slab(0, -1), 0)]
)
def test_empty_masks_have_a_surface_dice_and_no_distance(one, other, nsd):
    scored = surface_scores(one, other, (1, 1, 1), 1.0)
    assert scored["nsd"] == nsd and math.isnan(scored["hd95_mm"])


def test_infected_slices_only():
    """Two slices, one truly infected: the false alarm in the other counts only in the Dice over all slices."""
    truth, prediction = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    truth[:, 0, 0] = prediction[:, 0, 0] = prediction[:, 0, 1] = 3
    infection = {row["class"]: row for row in score(truth, prediction, (1, 1, 1))}["infection"]
    assert infection["dice"] == pytest.approx(4 / 6) and infection["dice_infected_slices"] == 1


def test_headline_leaves_out_the_nearly_empty_case_and_counts_what_has_no_value():
    counted = ("dice", "dice_infected_slices", "sensitivity", "specificity", "nsd")
    cases = ((0, "a", 0.8, 2.0), (0, "b", 0.6, math.nan), (1, NEARLY_EMPTY, 0.0, 9.0), (1, "c", 0.4, 4.0))
    rows = [
        {"fold": fold, "case": case, "class": name, "hd95_mm": distance, **dict.fromkeys(counted, dice)}
        for fold, case, dice, distance in cases
        for name in NAMES
    ]
    table = headline(pd.DataFrame(rows))
    assert table.loc["infection Dice, all slices"].tolist() == [pytest.approx(0.6), 3, 0]
    assert table.loc["infection HD95 in mm"].tolist() == [3, 2, 1]
    assert table.loc["lowest infection Dice", "value"] == 0.4
    assert table.loc["lowest infection Dice, no case left out", "value"] == 0
    for what in ("infection Dice", "infection sensitivity", "lungs Dice"):
        assert table.loc[f"{what}, mean of fold medians (all cases)", "value"] == pytest.approx((0.7 + 0.2) / 2)


def test_a_fold_is_scored_anew_when_a_prediction_changes(tmp_path, write_case):
    write_case(tmp_path / "data", "case_a")
    run = Run(Profile(), tmp_path / "data", tmp_path / "run", ("case_a",), (Fold(0, (), ("case_a",)),))
    case = run.case("case_a")
    save_labels(case.labels, case, run.prediction(0, "case_a"))
    assert score_fold(run, 0)["dice"].tolist() == [1, 1, 1]
    save_labels(np.zeros_like(case.labels), case, run.prediction(0, "case_a"))
    assert score_fold(run, 0)["dice"].tolist() == [0, 0, 0]


# --------------------------------------------------------------------------------------------------------- two folders of labels


def stored(path, text_or_array, affine):
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(text_or_array, affine), path)


def test_anyone_s_labels_are_scored_case_by_case_and_what_cannot_be_is_said(tmp_path):
    truth, affine = np.zeros((4, 4, 4), np.uint8), np.diag([2.0, 2, 5, 1])
    truth[:2, 0, 0] = 3
    half = truth.copy()
    half[1, 0, 0] = 0
    for name, prediction in (("a", truth), ("b", half), ("c", truth + 9), ("d", truth[:3])):
        stored(tmp_path / "truth" / f"{name}.nii.gz", truth, affine)
        stored(tmp_path / "found" / f"{name}.nii.gz", prediction, affine)
    stored(tmp_path / "truth" / "e.nii.gz", truth, affine)
    table, problems = score_folders(tmp_path / "truth", tmp_path / "found", tmp_path / "out.csv")
    infection = table[table["class"] == "infection"].set_index("case")
    assert infection["dice"].to_dict() == {"a": 1, "b": pytest.approx(2 / 3)}
    assert infection["truth_ml"].tolist() == pytest.approx([0.04, 0.04]) and infection["predicted_ml"]["b"] == pytest.approx(0.02)
    assert [problem.split(":")[0] for problem in problems] == ["c", "d", "e"]
    assert "labels [9, 12] found" in problems[0] and "mask shape (3, 4, 4)" in problems[1]
    assert problems[2].startswith(f"e: {tmp_path / 'truth' / 'e.nii.gz'}: no prediction of that name")
    assert pd.read_csv(tmp_path / "out.csv")["case"].nunique() == 2


def test_labels_of_one_place_are_scored_however_they_are_stored(tmp_path):
    """The same labels in RAS as integers, and in LPS as floats; and moved by a voxel of 2 mm."""
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[0, :3, 2], truth[2, 1, :4], truth[3, 4, 5] = 1, 2, 3
    there, turned = np.diag([2.0, 2, 5, 1]), np.diag([-2.0, -2, 5, 1])
    turned[:2, 3] = 2 * (4 - 1), 2 * (5 - 1)
    moved = there.copy()
    moved[0, 3] = 2
    for name, labels, affine in (("a", truth[::-1, ::-1].astype(np.float32), turned), ("b", truth, moved)):
        stored(tmp_path / "truth" / f"{name}.nii.gz", truth, there)
        stored(tmp_path / "found" / f"{name}_labels.nii", labels, affine)  # named as predict names them
        stored(tmp_path / "found" / f"{name}_probabilities.nii", np.zeros((4, 5, 6, 4), np.uint8), affine)
    table, (problem,) = score_folders(tmp_path / "truth", tmp_path / "found", tmp_path / "out.csv")
    assert table["case"].tolist() == ["a"] * 3 and table["dice"].tolist() == [1, 1, 1]
    assert problem.startswith("b: ") and "mask lies up to 2.0 mm off the image" in problem


def test_a_truth_of_one_kind_and_a_prediction_without_truth_are_said(tmp_path):
    lesion = np.zeros((4, 4, 4), np.uint8)
    lesion[1:3, 1:3, 1:3] = 1
    for name in ("truth/a.nii", "found/a.nii", "found/b.nii", "found/.hidden.nii"):
        stored(tmp_path / name, lesion, np.eye(4))
    table, problems = score_folders(tmp_path / "truth", tmp_path / "found", tmp_path / "out.csv")
    assert table.empty and len(problems) == 3
    assert "no label but 1" in problems[0] and "write infection as 3" in problems[0]
    assert problems[1] == f"b: {tmp_path / 'found' / 'b.nii'}: no truth of that name; add it"


def test_a_prediction_of_infection_written_as_1_is_said(tmp_path):
    """Not one of a left lung alone, which may be what was asked of a network."""
    truth = np.zeros((6, 4, 4), np.uint8)
    truth[:3], truth[1:3, 1:3, 1:3] = 1, 3
    stored(tmp_path / "truth" / "a.nii", truth, np.eye(4))
    stored(tmp_path / "truth" / "b.nii", truth, np.eye(4))
    stored(tmp_path / "found" / "a.NII.GZ", (truth == 3).astype(np.uint8), np.eye(4))
    stored(tmp_path / "found" / "b.nii", (truth == 1).astype(np.uint8), np.eye(4))
    table, (problem,) = score_folders(tmp_path / "truth", tmp_path / "found", tmp_path / "out.csv")
    assert problem.startswith(f"a: {tmp_path / 'found' / 'a.NII.GZ'}: no label but 1") and set(table["case"]) == {"b"}


def test_folders_and_files_that_cannot_be_are_refused(tmp_path):
    stored(tmp_path / "truth" / "a.nii", np.full((2, 2, 2), 3, np.uint8), np.eye(4))
    with pytest.raises(DataError, match="none: no such folder"):
        score_folders(tmp_path / "truth", tmp_path / "none", tmp_path / "out.csv")
    with pytest.raises(DataError, match="truth: cannot be written"):
        score_folders(tmp_path / "truth", tmp_path / "truth", tmp_path / "truth")
    stored(tmp_path / "truth" / "a.nii.gz", np.full((2, 2, 2), 3, np.uint8), np.eye(4))
    with pytest.raises(DataError, match="truth: two files of a; keep one"):
        score_folders(tmp_path / "truth", tmp_path / "truth", tmp_path / "out.csv")


def test_folders_without_a_common_case_are_a_problem(tmp_path):
    """The table that an earlier call has written stays."""
    (tmp_path / "out.csv").write_text("scored before")
    table, problems = score_folders(tmp_path, tmp_path, tmp_path / "out.csv")
    assert table.empty and "no case could be scored" in problems[0] and (tmp_path / "out.csv").read_text() == "scored before"


def test_labels_whose_spacing_and_affine_differ_are_warned_of(tmp_path, caplog):
    for name in ("truth", "found"):
        stored(tmp_path / name / "a.nii", np.full((2, 2, 2), 3, np.uint8), np.diag([2.0, 2, 2, 1]))
    content = bytearray((tmp_path / "truth" / "a.nii").read_bytes())
    content[88:92] = np.float32(7).tobytes()  # pixdim[3]
    (tmp_path / "truth" / "a.nii").write_bytes(content)
    table, problems = score_folders(tmp_path / "truth", tmp_path / "found", tmp_path / "out.csv")
    assert not problems and table["truth_ml"].max() == pytest.approx(8 * 2 * 2 * 7 / 1000)
    assert [("truth" in said, "spacing and its affine differ" in said) for said in caplog.messages] == [(True, True)]


def test_a_run_without_its_scans_cannot_be_scored(trained_run):
    away = dataclasses.replace(trained_run, data=None)
    with pytest.raises(DataError, match="this run was opened without its scans"):
        score_fold(away, 0)
