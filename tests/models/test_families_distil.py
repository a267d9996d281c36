"""A converted network of each family teaches, and one of each family learns: three steps on random images."""

import contextlib

import numpy as np
import pytest
from reference import reference_weights
from small_transformers import module_of, transformers
from sweeps import sweep
from tiny import TinyNet

import jaxkd
from jaxkd import convert, data, losses, models, optimizers
from jaxkd.convert.architectures import abstract_model, entries
from jaxkd.formats import torch_writer

SGD = optimizers.sgd(0.001, momentum=0.9, weight_decay=5e-4)
CLASSES, SHAPE, BATCH, STEPS = 10, (32, 32, 3), 4, 3

SMALL = ["resnet8", "wrn_10_1", "vgg8", "ResNet18", "ResNeXt11-4-4d", "MobileNetV2", "ShuffleV2"]
LARGE = [
    "resnet8x4", "ResNet18_cifar", "ShuffleV1",
    "resnet20", "ResNet50", "resnext50_32x4d", "wrn_16_2", "vgg11_bn", "MobileNetV1", "mobilenet_v2", "ShuffleNetV1",
    "shufflenet_v2_x0_5", "convnext_atto", "densenet121", "efficientnet_b0", "mobilenet_v3_small",
    "mobilenetv4_conv_small", "regnetx_002", "resnet18d",
]  # fmt: skip


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, *SHAPE), np.uint8)
    return data.from_arrays(pixels, np.arange(len(pixels)) % CLASSES, num_classes=CLASSES)


@pytest.fixture
def converted(tmp_path):
    """Makes a network from a torch file with the weights of the reference numbers."""

    def make(name):
        listing = [(entry.name, entry.torch_shape) for entry in entries(abstract_model(name, CLASSES))]
        torch_writer.write(tmp_path / f"{name}.pth", reference_weights(listing))
        return convert.from_torch(tmp_path / f"{name}.pth", name)

    return make


def distilled(student, teacher, images, **terms):
    """What three steps say; the teacher sees the images as they are."""
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(SGD, {"ce": losses.CrossEntropy(), "kd": losses.KD(4.0), **terms}, image_shape=SHAPE)
    logs = distiller.fit(images, epochs=1, batch_size=BATCH, verbose=0).history
    assert int(distiller.state.step) == STEPS
    return {name: logs[name][-1] for name in ("loss", "ce", "kd", *terms)}


@sweep("name", [*SMALL, *LARGE], core=["resnet8", "ShuffleV2"], thorough=())
def test_a_converted_teacher_distils(name, converted, images):
    """Its logits, its embedding and its classifier are all learnt from."""
    found = distilled(TinyNet(), converted(name), images, srrl=losses.SRRL())
    assert all(np.isfinite(value) and value > 0 for value in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_a_student_learns_from_its_like(name, converted, images):
    """Maps, preactivations and their BatchNorms are compared, and gradients flow through the whole network."""
    student = models.create(name, num_classes=CLASSES)
    large = student.image_shape[0] >= 128  # it is shown smaller images than it was made for, and says so
    said = pytest.warns(UserWarning, match="made for images of 224×224") if large else contextlib.nullcontext()
    ofd = {"ofd": losses.OFD()} if hasattr(student, "preactivation_norms") else {}  # which others have none of
    with said:
        found = distilled(student, converted(name), images, at=losses.AT(), **ofd)
    assert all(np.isfinite(value) and value > 0 for value in found.values()), found


def test_every_file_of_networks_is_represented():
    """Transformers distil in `test_transformers_distil`."""
    others = set(models.list()) - set(transformers())
    assert {module_of(name) for name in SMALL + LARGE} == {module_of(name) for name in others}
