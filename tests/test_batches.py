"""Which batch comes when: the same for the same seed, epoch and index; two cases in each; infection where it is asked for."""

import numpy as np
import pytest

from covidlib.batches import Batches
from covidlib.preprocessing import Prepared


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def numbered_case(number, infected=False):
    """24 x 24 x 12 voxels, all of one value; one infected voxel in a corner."""
    labels = np.zeros((24, 24, 12), np.uint8)
    labels[23, 0, 11] = 3 if infected else 0
    return Prepared(f"case_{number}", np.full((24, 24, 12), number, np.float32), labels, (4.0, 4.0, 6.0))


def test_shapes_and_types(tiny_volumes, tiny_profile):
    batches = Batches(tiny_volumes, tiny_profile(), length=5)
    image, labels = batches[0]
    assert len(batches) == 5
    assert (image.shape, image.dtype) == ((2, 16, 16, 8, 1), np.float32)
    assert (labels.shape, labels.dtype) == ((2, 16, 16, 8), np.uint8)


def test_seed_epoch_and_index_decide_and_nothing_else_does(tiny_volumes, tiny_profile):
    one = Batches(tiny_volumes, tiny_profile(), length=5, epoch=3)
    batch = one[2]
    np.random.seed(7)
    _ = one[0], one[4]
    assert same(one[2], batch)
    assert same(Batches(tiny_volumes, tiny_profile(), length=9, epoch=3)[2], batch)
    for index, epoch, seed in ((1, 3, 0), (2, 4, 0), (2, 3, 1)):
        assert not same(Batches(tiny_volumes, tiny_profile({"seed": seed}), length=5, epoch=epoch)[index], batch)


def test_the_next_epoch_is_what_a_continued_run_begins_with(tiny_volumes, tiny_profile):
    unbroken = Batches(tiny_volumes, tiny_profile(), length=5)
    first = unbroken[0]
    unbroken.epoch = 1
    assert not same(unbroken[0], first)
    assert same(unbroken[0], Batches(tiny_volumes, tiny_profile(), length=5, epoch=1)[0])


def test_validation_batches_are_the_same_in_all_epochs_and_never_augmented(tiny_volumes, tiny_profile):
    watch = Batches(tiny_volumes, tiny_profile(), length=3, augment=False)
    first = [watch[index] for index in range(3)]
    watch.epoch = 1
    assert all(same(watch[index], first[index]) for index in range(3)) and not same(first[0], first[1])
    values = np.concatenate([volume.image.ravel() for volume in tiny_volumes])
    assert np.isin(first[0][0], values).all()


def test_patches_of_a_batch_come_from_different_cases(tiny_profile):
    batches = Batches([numbered_case(n) for n in range(3)], tiny_profile(), length=40, augment=False)
    pairs = [tuple(batches[index][0].mean(axis=(1, 2, 3, 4))) for index in range(40)]
    assert all(one != other for one, other in pairs)
    assert {number for pair in pairs for number in pair} == {0, 1, 2}


def test_a_single_case_may_fill_a_batch(tiny_profile):
    assert Batches([numbered_case(5)], tiny_profile(), length=1, augment=False)[0][0].mean() == 5


@pytest.mark.parametrize("augment", [False, True])
def test_infection_fraction_1_gives_patches_that_hold_infection(tiny_profile, augment):
    """One infected voxel in a corner of the volume; augmented without spatial transforms, which may move it out."""
    settings = {"patches.infection_fraction": 1.0, "augmentation.probability": 0.0}
    batches = Batches([numbered_case(n, infected=True) for n in range(2)], tiny_profile(settings), length=20, augment=augment)
    assert all((labels == 3).any(axis=(1, 2, 3)).all() for _, labels in (batches[index] for index in range(20)))


def test_infection_fraction_0_draws_uniformly(tiny_profile):
    """The corner voxel lies in 1 of 9 x 9 x 5 places of the patch: hardly ever drawn."""
    batches = Batches([numbered_case(n, infected=True) for n in range(2)], tiny_profile(), length=20, augment=False)
    assert sum(int((batches[index][1] == 3).any(axis=(1, 2, 3)).sum()) for index in range(20)) <= 2


def test_a_case_without_infection_is_drawn_uniformly_whatever_is_asked(tiny_profile):
    batches = Batches([numbered_case(1), numbered_case(2)], tiny_profile({"patches.infection_fraction": 1.0}), 3, augment=False)
    assert batches[0][0].shape == (2, 16, 16, 8, 1)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_infection_is_copied_into_as_many_patches_as_asked_and_from_another_case(tiny_profile, chance, share):
    """Of three cases the second and third are infected; a giver is never the case itself, nor one without infection."""
    settings = tiny_profile({"augmentation.copied_probability": chance})
    batches = Batches([numbered_case(n, infected=n > 0) for n in range(3)], settings, length=1)
    rng = np.random.default_rng(0)
    givers = [[batches.giver(number, rng) for _ in range(200)] for number in range(3)]
    there = [[giver[0].id for giver in drawn if giver] for drawn in givers]
    assert np.allclose([len(ids) / 200 for ids in there], share, atol=0.1)
    if chance:
        assert [set(ids) for ids in there] == [{"case_1", "case_2"}, {"case_2"}, {"case_1"}]


def test_without_another_infected_case_nothing_is_copied(tiny_profile):
    settings = tiny_profile({"augmentation.copied_probability": 1.0})
    batches = Batches([numbered_case(0, infected=True), numbered_case(1)], settings, length=1)
    assert batches.giver(0, np.random.default_rng(0)) is None
