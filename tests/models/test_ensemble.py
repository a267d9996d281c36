"""Ensembles: the mean by hand, each network's own normalisation, and what cannot be one."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import Normalization, Outputs, data, losses, models, optimizers
from jaxkd.models import Ensemble

SGD = optimizers.sgd(0.05, momentum=0.9)
DIM, BRIGHT = Normalization((0.2,) * 3, (0.3,) * 3), Normalization((0.7,) * 3, (0.9,) * 3)
BATCH = 32


@pytest.fixture(scope="module")
def images():
    return digits()[0].subset(72).replace(augmentation=None)


def teachers(*normalizations):
    normalizations = normalizations or (DIM, BRIGHT)
    return [TinyNet(seed=5 + i, width=4 + i, normalization=own) for i, own in enumerate(normalizations)]


def said(network, given, pixels):
    """A network's logits for pixels, normalised by hand."""
    mean, std = map(np.float32, network.normalization or given)
    return np.asarray(network(jnp.asarray((np.float32(pixels) / 255 - mean) / std)).logits)


def softmax(logits):
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


MEANS = {
    "logits": lambda one, other: 0.75 * one + 0.25 * other,
    "probabilities": lambda one, other: np.log(0.75 * softmax(one) + 0.25 * softmax(other)),
}


@pytest.mark.parametrize("average", MEANS)
@pytest.mark.parametrize("own", [(DIM, BRIGHT), (None, BRIGHT), (DIM, DIM), (None, None)])
def test_an_ensemble_says_the_mean_of_what_each_says_of_its_own_images(images, average, own):
    networks = teachers(*own)
    found = jaxkd.Trainer(Ensemble(networks, [3, 1], average)).predict(images)
    one, other = (said(network, images.normalization, images.images) for network in networks)
    np.testing.assert_allclose(found, MEANS[average](one, other), rtol=1e-4, atol=1e-5)


def test_float_images_are_taken_as_they_are():
    networks = teachers()
    values = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    found = Ensemble(networks)(values)
    np.testing.assert_allclose(found.logits, sum(network(values).logits for network in networks) / 2, rtol=1e-5)
    assert found.features == ()


class Witness(losses.Loss):
    """Remembers what the teacher said of each example."""

    def __init__(self):
        self.said = nnx.Variable(jnp.zeros((72, 10)))

    def __call__(self, student, teacher, batch, progress, key):
        self.said[...] = self.said[...].at[batch.index].set(teacher.logits)
        return jnp.float32(0.0)


def distilled(images, teacher, **options):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=teacher)
    distiller.compile(SGD, {"kd": losses.KD(4.0), "witness": Witness()}, **options)
    distiller.fit(images, epochs=2, batch_size=BATCH, verbose=0)
    return distiller


class ByHand(nnx.Module):
    """The mean of networks that see the same images, written out."""

    def __init__(self, networks):
        self.first, self.second = networks
        self.num_classes = 10

    def __call__(self, images, train=False):
        return Outputs((self.first(images, train=train).logits + self.second(images, train=train).logits) / 2)


def test_a_student_of_two_learns_as_of_their_mean_by_hand_also_from_a_cache(images):
    networks = teachers(None, None)
    plain = distilled(images, networks)
    assert isinstance(plain.teacher, Ensemble)
    expected = distilled(images, ByHand(networks))
    for one, other in zip(leaves(plain.state.params), leaves(expected.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    cached = distilled(images, networks, cache_teacher=True)
    for one, other in zip(leaves(plain.state.params), leaves(cached.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


def test_each_teacher_sees_images_normalised_with_its_own_statistics(images):
    networks = teachers()
    before = leaves(nnx.state(networks[0]))
    distiller = distilled(images, networks)
    one, other = (said(network, None, images.images) for network in networks)
    heard = distiller.state.variables["losses"]["witness"]["said"]
    np.testing.assert_allclose(heard, (one + other) / 2, rtol=1e-4, atol=1e-5)
    assert_same_bits(leaves(nnx.state(networks[0])), before)


def test_a_cache_tells_ensembles_apart(images):
    cache, networks = jaxkd.TeacherCache(), teachers()
    distilled(images, networks, cache_teacher=cache)
    assert cache.filled == 1
    for other in (Ensemble(networks, [2, 1]), Ensemble(networks, average="probabilities"), networks[0]):
        with pytest.raises(ValueError, match="filled with another teacher"):
            distilled(images, other, cache_teacher=cache)
    distilled(images, Ensemble(networks), cache_teacher=cache)


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        ([], {}, "needs at least one network"),
        ([TinyNet(3), TinyNet(4)], {}, "networks of 3 and 4 classes: their outputs have no mean"),
        ([TinyNet(), Ensemble([TinyNet()])], {}, "the ensemble of TinyNet is one of them: give all networks to one"),
        ([TinyNet(), TinyNet()], {"weights": [1]}, "give one for each of the 2 networks"),
        ([TinyNet(), TinyNet()], {"weights": [1, 0]}, "must be above 0; leave out a network"),
        ([TinyNet(), TinyNet()], {"weights": [1, np.nan]}, "must be above 0"),
        ([TinyNet(), TinyNet()], {"average": "median"}, "average='median': choose one of 'logits', 'probabilities'"),
    ],
)
def test_what_is_no_ensemble(networks, options, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(networks, **options)


class Silent(nnx.Module):
    def __call__(self, images, train=False):
        return images


def test_what_networks_have_to_return_and_losses_cannot_read(images):
    student = TinyNet()
    with pytest.raises(ValueError, match="student and teacher are the same object"):
        jaxkd.Distiller(student=student, teacher=[TinyNet(seed=1), student])
    with pytest.raises(ValueError, match=r"the logits of Silent are float32 of shape \(2, 8, 8, 3\): return logits"):
        Ensemble([TinyNet(), Silent()])(jnp.zeros((2, 8, 8, 3)))
    distiller = jaxkd.Distiller(student=student, teacher=[TinyNet(seed=1), TinyNet(seed=2)])
    with pytest.raises(
        ValueError, match=r"ensemble of TinyNet and TinyNet has no features .* losses\.FromTeacher\(0, loss\)"
    ):
        distiller.compile(SGD, {"crd": losses.CRD(images.labels)})


class OfFlax(nnx.Module):
    """A network as Flax's users write it: it returns logits, and is told its mode by attributes of its layers."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.conv, self.bn = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.dropout, self.fc = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, images):
        return self.fc(self.dropout(nnx.relu(self.bn(self.conv(images))).mean((1, 2))))


def test_networks_of_ones_own_are_called_as_they_are_alone(images):
    networks = [OfFlax(0), OfFlax(1), TinyNet()]
    alone = [jaxkd.Trainer(network).predict(images) for network in networks]
    np.testing.assert_allclose(
        jaxkd.Trainer(Ensemble(networks)).predict(images), np.mean(alone, 0), rtol=1e-4, atol=1e-5
    )
    assert all(not network.bn.use_running_average for network in networks[:2])


def test_networks_of_the_zoo_are_named():
    first, second = nnx.eval_shape(lambda: [models.create(name, num_classes=10) for name in ("resnet8", "vgg8")])
    ensemble = Ensemble([first, second])
    assert (ensemble.name, ensemble.num_classes) == ("ensemble of resnet8 and vgg8", 10)
    assert ensemble.image_shape == (32, 32, 3)


def stepped(images, teacher, loss, weights, **options):
    """A student, and its changes by one step of plain gradient descent: gradients of several losses add up in it."""
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=teacher)
    distiller.compile(optimizers.sgd(0.1, momentum=0.0), loss, weights, image_shape=(8, 8, 3), **options)
    before = leaves(distiller.state.params["model"])
    distiller.fit(images.take(range(BATCH)), epochs=1, batch_size=BATCH, verbose=0)
    after = leaves(distiller.state.params["model"])
    return distiller, [new - old for new, old in zip(after, before, strict=True)]


def test_a_loss_for_each_teacher_is_the_sum_of_those_of_each_alone(images):
    """KD from one and a hint from the other, whose maps are wider: the step is the sum of both steps."""
    networks, weights = teachers(), {"kd": 0.9, "hint": 3.0}
    terms = {"kd": lambda: losses.KD(4.0), "hint": lambda: losses.FitNet(0)}
    loss = {name: losses.FromTeacher(place, terms[name]()) for place, name in enumerate(terms)}
    joint, moved = stepped(images, networks, loss, weights)
    wanted, logs = [0.0] * len(moved), {}
    for place, name in enumerate(terms):
        own, by = stepped(images, networks[place], {name: terms[name]()}, {name: weights[name]})
        wanted = [total + one for total, one in zip(wanted, by, strict=True)]
        logs[name] = own.history.last(name)
    for one, other in zip(moved, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    for name, value in logs.items():
        assert joint.history.last(name) == pytest.approx(value, rel=1e-5)
    assert joint.history.last("loss") == pytest.approx(0.9 * logs["kd"] + 3.0 * logs["hint"], rel=1e-5)
    assert (
        joint.state.params["losses"]["hint"]["loss"]["regressor"]["kernel"].shape[-1] == networks[1].fc.kernel.shape[0]
    )


def test_a_loss_from_one_of_several_reads_its_strong_view_and_what_it_learns_and_remembers(images):
    loss = {
        "mlkd": losses.FromTeacher(1, losses.MLKD(strong_view=data.Augmentation(pad=1))),
        "ctkd": losses.FromTeacher(0, losses.KD(losses.CurriculumTemperature())),
        "crd": losses.FromTeacher(0, losses.CRD(images.labels[:BATCH], negatives=4, feature_dim=4)),
    }
    distiller, _ = stepped(images, teachers(), loss, {})
    assert {"mlkd", "ctkd_temperature", "crd"} <= distiller.history.history.keys()
    assert np.isfinite([distiller.history.last(name) for name in ("mlkd", "ctkd", "crd")]).all()


@pytest.mark.thorough
def test_what_losses_hear_of_each_teacher_is_cached(images):
    """The logits of one and the embedding of the other: the same training, and all is known in the second epoch."""
    cache, ends = jaxkd.TeacherCache(), []

    def trained(option, first, second):
        distiller = jaxkd.Distiller(student=TinyNet(), teacher=[TinyNet(seed=seed, width=4) for seed in (5, 6)])
        terms = {"kd": losses.FromTeacher(first, losses.KD(4.0)), "pkt": losses.FromTeacher(second, losses.PKT())}
        distiller.compile(SGD, terms, image_shape=(8, 8, 3), cache_teacher=option)
        distiller.fit(images, epochs=2, batch_size=BATCH, verbose=0)
        return distiller

    for option in (False, cache):
        found = trained(option, 0, 1)
        ends.append(leaves(found.state.params))
    assert found.history.history["teacher_cache_hits"] == [0.0, 1.0]
    assert cache.bytes == 72 * 4 * (10 + 10 + 10 + 4)  # the logits of the mean and of both, and an embedding
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
    with pytest.raises(ValueError, match="filled with another choice of outputs"):  # which is as wide
        trained(cache, 1, 0)


def test_maps_of_one_of_several_are_too_large_to_cache(images):
    with pytest.raises(ValueError, match="cache_teacher: a loss reads the teacher's feature maps"):
        stepped(images, teachers(), losses.FromTeacher(0, losses.FitNet(0)), {}, cache_teacher=True)


@pytest.mark.parametrize(
    ("teacher", "make", "message"),
    [
        (TinyNet(), lambda: losses.FromTeacher(0, losses.KD(4.0)), "from teacher 0, but there are not several"),
        ([TinyNet(), TinyNet()], lambda: losses.FromTeacher(2, losses.KD(4.0)), "there are 2, counted from 0"),
        ([TinyNet(), TinyNet()], lambda: losses.FromTeacher(-1, losses.KD(4.0)), "position=-1: the teachers"),
        ([TinyNet(), TinyNet()], lambda: losses.FromTeacher(0, losses.AT()), "AT pairs the stages"),
    ],
)  # fmt: skip
def test_a_teacher_that_there_is_not_is_refused_before_training(images, teacher, make, message):
    with pytest.raises(ValueError, match=message):
        stepped(images, teacher, make(), {})


def test_a_loss_is_told_of_its_own_teacher_alone():
    class Heard(losses.Loss):
        def build(self, student, teacher, rngs):
            self.built_for = teacher.model

        def __call__(self, student, teacher, batch, progress, key):
            return teacher.strong.logits.mean()

    each = Outputs(jnp.zeros((2, 3))), Outputs(jnp.ones((2, 3)))
    both = Outputs(each[0].logits, each=each, strong=Outputs(each[0].logits, each=each))
    loss = losses.FromTeacher(1, Heard())
    loss.build(None, losses.Network(SimpleNamespace(networks=["first", "second"]), both), nnx.Rngs(0))
    assert loss.loss.built_for == "second"
    assert float(loss(each[0], both, None, None, None)) == 1.0
