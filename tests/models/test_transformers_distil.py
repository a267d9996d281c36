"""Every family of transformers teaches and learns: three steps on random images, in a ring of small networks."""

import numpy as np
import pytest
from seeded import filled
from small_transformers import FAMILIES, SIZE, SMALL, module_of

import jaxkd
from jaxkd import data, losses, optimizers
from jaxkd.convert.architectures import abstract_model

CLASSES, BATCH, STEPS = 10, 4, 3
NAMES = list(SMALL)


def test_every_family_is_in_the_ring():
    assert {module_of(name) for name in NAMES} == {family.__name__ for family in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("position", range(len(NAMES)))
def test_each_learns_from_the_next(position):
    student, teacher = NAMES[position], NAMES[(position + 1) % len(NAMES)]
    labels = np.arange(STEPS * BATCH) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), SIZE, SIZE, 3), np.uint8)
    images = data.from_arrays(pixels, labels, num_classes=CLASSES)
    distiller = jaxkd.Distiller(
        student=filled(abstract_model(student, CLASSES, image_size=SIZE, drop_path=0.1, **SMALL[student])),
        teacher=filled(abstract_model(teacher, CLASSES, image_size=SIZE, **SMALL[teacher])),
    )
    distiller.compile(
        optimizers.sgd(0.001, momentum=0.9),
        {
            "ce": losses.CrossEntropy(),
            "kd": losses.KD(4.0),
            "dkd": losses.DKD(),
            "crd": losses.CRD(labels, negatives=8),
            "fitnet": losses.FitNet(position=2),
        },
    )
    logs = distiller.fit(images, epochs=1, batch_size=BATCH, verbose=0).history
    assert int(distiller.state.step) == STEPS
    assert all(np.isfinite(logs[name][-1]) and logs[name][-1] > 0 for name in ("loss", "kd", "dkd", "crd", "fitnet"))
