"""The original's pieces of work for bench/speed.py: MIScnn 1.4.0 by its public interface, in the paper's configuration.

Run by PEER_PYTHON, in an environment that has MIScnn and not this project: `python bench/peer.py PIECE SIZE OUT`.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from miscnn import Data_Augmentation, Data_IO, Neural_Network, Preprocessor
from miscnn.data_loading.interfaces import NIFTI_interface
from miscnn.neural_network.architecture.unet.standard import Architecture
from miscnn.neural_network.data_generator import DataGenerator
from miscnn.neural_network.metrics import tversky_crossentropy
from miscnn.processing.subfunctions import Clipping, Normalization, Resampling


def prepare(size: dict, out: Path) -> dict:
    """The four steps on one scan with its mask."""
    data, steps = scans(size, "scan", out), subfunctions()
    sample = data.sample_loader("case_0", load_seg=True)
    with Clock() as clock:
        for one in steps:
            one.preprocessing(sample, training=True)
    return clock.took()


def batch(size: dict, out: Path) -> dict:
    """Batches with every augmentation of the paper."""
    data = scans(size, "working", out)
    augmentation = Data_Augmentation(cycles=1, scaling=True, rotations=True, elastic_deform=True, mirror=True,
                                     brightness=True, contrast=True, gamma=True, gaussian_noise=True)
    augmentation.config_p_per_sample = 0.15
    np.random.seed(0)
    worker = preprocessor(size, data, augmentation)
    made = DataGenerator(sorted(data.get_indiceslist()), worker, training=True, shuffle=True, iterations=size["batches"] + 1)
    made[0]
    with Clock() as clock:
        for index in range(1, size["batches"] + 1):
            made[index]
    return clock.took(size["batches"])


def step(size: dict, out: Path) -> dict:
    """Training steps on one batch of noise, without the first."""
    network, rng, shape = build(preprocessor(size, scans(size, "working", out))), np.random.default_rng(0), (2, *size["patch"])
    images = rng.normal(size=(*shape, 1)).astype(np.float32)
    labels = np.eye(4, dtype=np.float32)[rng.integers(0, 4, shape)]
    network.model.train_on_batch(images, labels)
    with Clock() as clock:
        for _ in range(size["steps"]):
            network.model.train_on_batch(images, labels)
    return clock.took(size["steps"])


def scan(size: dict, out: Path) -> dict:
    """From the scan's file to the labels' file; the whole process counts, so this tells no seconds of its own."""
    worker = preprocessor(size, scans(size, "scan", out))
    worker.patchwise_overlap = tuple(n // 2 for n in size["patch"])
    build(worker).predict(["case_0"])
    return {}


def scans(size: dict, name: str, out: Path) -> Data_IO:
    """The folder `name` of the common inputs."""
    data = Data_IO(NIFTI_interface(channels=1, classes=4), str(Path(size["folder"]) / name), output_path=str(out / "labels"),
                   batch_path=str(out / "batches"), delete_batchDir=True)
    data.get_indiceslist()
    return data


def subfunctions() -> list:
    """Section 3.2 of the paper."""
    spacing = Resampling((1.58, 1.58, 2.70))
    return [Clipping(min=-1250, max=250), Normalization(mode="grayscale"), spacing, Normalization(mode="z-score")]


def preprocessor(size: dict, data: Data_IO, augmentation: Data_Augmentation | None = None) -> Preprocessor:
    """Section 3.4: two random crops a batch."""
    return Preprocessor(data, data_aug=augmentation, batch_size=2, subfunctions=subfunctions(), prepare_subfunctions=True,
                        prepare_batches=False, analysis="patchwise-crop", patch_shape=tuple(size["patch"]))


def build(worker: Preprocessor) -> Neural_Network:
    """Section 3.5: the standard 3D U-Net, 22.6 million parameters."""
    return Neural_Network(preprocessor=worker, architecture=Architecture(depth=4, activation="softmax", batch_normalization=True),
                          loss=tversky_crossentropy, metrics=[], learning_rate=0.001, batch_queue_size=3, workers=1)


class Clock:
    """Wall and CPU seconds of what stands in its `with`."""

    def __enter__(self) -> "Clock":
        self.started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.perf_counter(), time.process_time()

    def took(self, times: int = 1) -> dict:
        """Seconds of each of so many times."""
        wall, cpu = ((end - start) / times for start, end in zip(self.started, self.ended, strict=True))
        return {"wall_s": wall, "cpu_s": cpu}


if __name__ == "__main__":
    piece, size, out = sys.argv[1:]
    told = {"prepare": prepare, "batch": batch, "step": step, "scan": scan}[piece](json.loads(size), Path(out))
    notes = {name: version(name) for name in ("miscnn", "tensorflow-cpu", "numpy", "batchgenerators")}
    sys.stdout.write("\nRESULT " + json.dumps({**told, "notes": notes}) + "\n")
