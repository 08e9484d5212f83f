"""Prepared cases in, training batches out, as a keras.utils.PyDataset. Paper section 3.4."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from covidlib.augmentation import augmented_crop
from covidlib.dataset import INFECTION
from covidlib.patches import Corner, corner_around, crop, random_corner
from covidlib.preprocessing import Prepared
from covidlib.profile import Profile

if TYPE_CHECKING:
    import tensorflow as tf



class Batches(keras.utils.PyDataset):
    """Batches of random patches: image float32 (B, X, Y, Z, 1), labels uint8 (B, X, Y, Z).

    Each patch of a batch comes from another case. Batch `index` of epoch `epoch` depends on the profile's seed and these two
    numbers only, so a continued run sees what an unbroken one would have seen.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        profile: Profile,
        length: int,
        augment: bool = True,
        epoch: int = 0,
        workers: int = 1,
    ):
        """`length` batches an epoch from `cases`; without `augment`, plain crops that are the same in every epoch.

        `workers` above 1 are processes: batchgenerators draws from generators that are global to a process.
        """
        super().__init__(workers=workers, use_multiprocessing=workers > 1, max_queue_size=max(10, 2 * workers))
        self.cases, self.profile, self.length, self.augment, self.epoch = list(cases), profile, length, augment, epoch
        self.infected = [np.flatnonzero(case.labels == INFECTION) for case in self.cases]

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.length

    def feed(self) -> "Batches | tf.data.Dataset":
        """What `model.fit` is to be given; before each epoch, `epoch` is to be set.

        On TensorFlow, unless processes make the batches, a tf.data set that does not tune itself. Keras would make one that does,
        and to end that after an epoch may take as long again as the epoch, all cores idle (TensorFlow 2.21).
        """
        if keras.backend.backend() != "tensorflow" or self.workers > 1:
            return self
        import tensorflow as tf

        options, patches = tf.data.Options(), self.profile.patches
        options.autotune.enabled = False
        shape = (patches.batch_size, *patches.shape_vox)
        kinds = (tf.TensorSpec((*shape, 1), tf.float32), tf.TensorSpec(shape, tf.uint8))
        drawn = tf.data.Dataset.from_generator(lambda: map(self.__getitem__, range(self.length)), output_signature=kinds)
        return drawn.apply(tf.data.experimental.assert_cardinality(self.length)).prefetch(2).with_options(options)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of the present epoch."""
        epoch = self.epoch if self.augment else 2**31
        rng = np.random.default_rng((self.profile.seed, epoch, index))
        size = self.profile.patches.batch_size
        chosen = rng.choice(len(self.cases), size, replace=size > len(self.cases))
        patches = [self.patch(int(case), rng) for case in chosen]
        return np.stack([image for image, _ in patches])[..., None], np.stack([labels for _, labels in patches])

    def patch(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One random patch of case `number`: image float32 and labels uint8, both (X, Y, Z)."""
        case, shape = self.cases[number], self.profile.patches.shape_vox
        corner = self.corner(number, rng)
        if self.augment:
            return augmented_crop(case, corner, shape, self.profile.augmentation, rng, self.giver(number, rng))
        return crop(case.image, corner, shape, case.air), crop(case.labels, corner, shape, 0)

    def giver(self, number: int, rng: np.random.Generator) -> tuple[Prepared, Corner] | None:
        """Another infected case and a corner around its infection, for `augmentation.copied_probability` of the patches."""
        chance = self.profile.augmentation.copied_probability
        if not chance or rng.random() >= chance:
            return None
        others = [other for other, infected in enumerate(self.infected) if other != number and infected.size]
        if not others:
            return None
        other = int(rng.choice(others))
        return self.cases[other], self.infected_corner(other, rng)

    def corner(self, number: int, rng: np.random.Generator) -> Corner:
        """Where to crop: uniform, or around an infected voxel for `patches.infection_fraction` of the patches."""
        if self.infected[number].size and rng.random() < self.profile.patches.infection_fraction:
            return self.infected_corner(number, rng)
        return random_corner(self.cases[number].labels.shape, self.profile.patches.shape_vox, rng)

    def infected_corner(self, number: int, rng: np.random.Generator) -> Corner:
        """A corner around an infected voxel of case `number`, which has one."""
        infected, shape = self.infected[number], self.cases[number].labels.shape
        voxel = np.unravel_index(infected[rng.integers(infected.size)], shape)
        return corner_around(voxel, shape, self.profile.patches.shape_vox, rng)
