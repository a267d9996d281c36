"""Networks that see images at another size than they come in, beside others that do not."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, convert, losses, models, optimizers
from jaxkd.nn.modes import call
from jaxkd.nn.tokens import resized
from jaxkd.training.expectations import Expectations


class Measuring(TinyNet):
    """Its logits are all the height of the images."""

    def __call__(self, images, train=False):
        height = jnp.float32(images.shape[1])
        return Outputs(height + 0 * (images.mean((1, 2)) @ self.fc.kernel[...][:3]))


class Difference(losses.Loss):
    def __call__(self, student, teacher, batch, progress, key):
        return jnp.mean(student.logits - teacher.logits)


def measuring(resize_to=None):
    network = Measuring(normalization=digits()[0].normalization)
    network.resize_to = resize_to
    return network


@pytest.mark.parametrize("size", [20, 5])
def test_pixels_are_pytorchs(size):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    network = measuring(size)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(images.transpose(0, 3, 1, 2)), (size, size), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(resized(network, images), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_a_student_sees_large_images_and_its_teacher_small_ones():
    distiller = jaxkd.Distiller(student=measuring(16), teacher=measuring(4))
    distiller.compile(optimizers.sgd(0.0), {"difference": Difference()}, metrics=())
    train, test = (part.subset(8) for part in digits())
    distiller.fit(train, epochs=1, batch_size=8, verbose=0)
    assert distiller.history.last("difference") == 12.0
    assert (distiller.predict(test) == 16.0).all()


def test_one_of_several_teachers_sees_them_at_its_size():
    teacher = models.Ensemble([measuring(16), measuring()])
    assert (teacher(jnp.zeros((1, 8, 8, 3))).logits == 12.0).all()


def test_a_network_with_features_sees_them_at_its_size():
    network = TinyNet()
    network.resize_to = 16
    student = models.with_features(network, ["conv"])
    assert Expectations.of(student).resize_to == 16  # so that nobody is warned of the images' own size
    assert call(student, jnp.zeros((1, 8, 8, 3)), train=False).features[0].shape == (1, 8, 8, 8)


def test_who_does_not_say_it_is_warned_of_small_images():
    made_for = {"name": "vit", "image_shape": (224, 224, 3)}
    with pytest.warns(UserWarning, match=r"with network\.resize_to = 224 it sees them larger"):
        Expectations(**made_for).warn_of_size((32, 32, 3))
    Expectations(**made_for, resize_to=224).warn_of_size((32, 32, 3))  # warnings are errors


def test_a_transformer_learns_from_small_images_and_is_saved_with_its_size(tmp_path):
    student = models.create("vit_tiny_patch16_224", num_classes=10, depth=1, width=8, heads=1, image_size=32)
    student.resize_to = 32
    trainer = jaxkd.Trainer(student)
    trainer.compile(optimizers.sgd(0.05))
    train, test = (part.subset(8) for part in digits())
    trainer.fit(train, epochs=1, batch_size=8, verbose=0)
    convert.save(trainer.model, tmp_path / "student")
    loaded = convert.load(tmp_path / "student")
    assert loaded.resize_to == 32
    np.testing.assert_allclose(jaxkd.Trainer(loaded).predict(test), trainer.predict(test), rtol=1e-4, atol=1e-5)
