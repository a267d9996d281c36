"""Every family of transformers teaches and learns: three steps on random images, in a ring of small networks."""

import numpy as np
import pytest
from seeded import filled

import jaxkd
from jaxkd import data, losses, models, optimizers
from jaxkd.convert.architectures import abstract_model

CLASSES, SIZE, BATCH, STEPS = 10, 32, 4, 3
PYRAMID = {"widths": (8, 8, 10, 8), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
PLAIN = {"width": 8, "depth": 4}
RING = {
    "vit_tiny_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "mixer_s16_224": PLAIN | {"patch_size": 8},
    "deit_tiny_distilled_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "swin_tiny_patch4_window7_224": {"width": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    "deit3_small_patch16_224": PLAIN | {"heads": 2, "patch_size": 8},
    "pvt_v2_b0": PYRAMID,
    "pit_ti_224": {"widths": (8, 8, 8), "depths": (1, 1, 1), "heads": (1, 2, 2)},
    "t2t_vit_7": PLAIN | {"heads": 2, "token_width": 8},
    "pvt_tiny": PYRAMID,
    "swin_t": {"width": 8, "depths": (2, 1, 1, 1), "heads": (1, 1, 2, 2)},
}
NAMES = list(RING)
THOROUGH = pytest.param(0, marks=pytest.mark.thorough)
SLOW = [pytest.param(position, marks=pytest.mark.slow) for position in range(1, len(NAMES))]


def test_every_family_is_in_the_ring():
    transformers = {models.vit, models.mixer, models.swin, models.pit, models.pvt, models.t2t}
    modules = {type(abstract_model(name, 10, **RING[name])).__module__ for name in NAMES}
    assert modules == {family.__name__ for family in transformers}


@pytest.mark.parametrize("position", [THOROUGH, *SLOW])
def test_each_learns_from_the_next(position):
    student, teacher = NAMES[position], NAMES[(position + 1) % len(NAMES)]
    labels = np.arange(STEPS * BATCH) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), SIZE, SIZE, 3), np.uint8)
    images = data.from_arrays(pixels, labels, num_classes=CLASSES)
    distiller = jaxkd.Distiller(
        student=filled(abstract_model(student, CLASSES, image_size=SIZE, drop_path=0.1, **RING[student])),
        teacher=filled(abstract_model(teacher, CLASSES, image_size=SIZE, **RING[teacher])),
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
