"""Memory does not grow over epochs, whether images stay on the device or are read while training."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from reference import python_path
from tiny import TinyNet

import jaxkd
from jaxkd import callbacks, data, losses, optimizers
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop

EPOCHS, SETTLED = 12, 4
"""After the first few epochs everything is compiled, and what a process keeps around has been taken."""


class Noise:
    """Pictures that cost nothing to store."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8), number % 10


def examples(kind):
    if kind == "resident":  # as large as CIFAR-100
        rng = np.random.default_rng(0)
        train = data.from_arrays(rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8), np.arange(50_000) % 10)
        return train, train.subset(2_000)
    views = {"augmentation": RandomResizedCrop(32), "view": ResizedCentreCrop(36, 32)}
    return tuple(data.StreamedDataset(Noise(count), "abcdefghij", workers=0, **views) for count in (2_000, 500))


def resident_bytes():
    """What the process holds at this moment."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def train(kind):
    """Prints the bytes held after each epoch."""
    images, test = examples(kind)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
    terms = {"kd": losses.KD(losses.CurriculumTemperature())}
    distiller.compile(optimizers.sgd(0.1), loss=terms)
    held = []
    look = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: held.append(resident_bytes()))
    distiller.fit(images, test, epochs=EPOCHS, batch_size=500, callbacks=[look], verbose=0)
    print(json.dumps(held))


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="reads memory as Linux shows it")
@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_memory_does_not_grow_over_epochs(kind):
    environment = os.environ | {"PYTHONPATH": python_path(__file__), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"import test_memory; test_memory.train({kind!r})"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    held = json.loads(done.stdout)
    megabytes = [round(value / 1e6) for value in held]
    print(kind, megabytes)
    growth = (held[-1] - held[SETTLED]) / (EPOCHS - 1 - SETTLED)
    assert growth < 3e6, f"{growth / 1e6:.1f} MB an epoch: {megabytes}"
