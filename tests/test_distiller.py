"""Distiller: a teacher that never changes, weighted terms, what the losses learn, and a user's own parts."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from tiny import TinyNet, assert_same_bits, digits, weights

import jaxkd
from jaxkd import Normalization, Outputs, losses, metrics, models, optimizers

SGD = optimizers.sgd(0.1, momentum=0.9, weight_decay=5e-4)  # one object: equal programs are compiled once
N, B = 96, 32
OTHER = Normalization((0.9,) * 3, (0.7,) * 3)


@pytest.fixture(scope="module")
def train():
    return digits()[0].subset(N).replace(augmentation=None)


@pytest.fixture(scope="module")
def teacher(train):
    """A network whose running statistics are its own, not those of a batch."""
    trainer = jaxkd.Trainer(TinyNet(seed=5, width=4))
    trainer.compile(SGD)
    trainer.fit(train, epochs=3, batch_size=B, verbose=0)
    return trainer.model


def distilled(train, teacher, terms, loss_weights=None, epochs=1, student=None, optimizer=SGD):
    distiller = jaxkd.Distiller(student=student or TinyNet(), teacher=teacher)
    distiller.compile(optimizer, loss=terms, loss_weights=loss_weights)
    distiller.fit(train, epochs=epochs, batch_size=B, verbose=0)
    return distiller


class Witness(losses.Loss):
    """Remembers what the teacher said of each example and how bright the student's image was."""

    def __init__(self, examples, classes=10):
        self.said = nnx.Variable(jnp.zeros((examples, classes)))
        self.brightness = nnx.Variable(jnp.zeros(examples))

    def __call__(self, student, teacher, batch, progress, key):
        self.said[...] = self.said[...].at[batch.index].set(teacher.logits)
        self.brightness[...] = self.brightness[...].at[batch.index].set(batch.images.mean((1, 2, 3)))
        return jnp.float32(0.0)


class Listed(losses.KD):
    """Holds what can be changed, and so cannot tell programs apart."""

    def __init__(self, positions):
        super().__init__()
        self.positions = positions


def loss(logits, labels):
    """A metric with the name of the total."""
    return logits[:, 0]


@pytest.mark.parametrize("own", [None, OTHER])
def test_the_teacher_is_evaluated_with_its_own_statistics_and_stays_as_it_was(train, teacher, own):
    teacher = nnx.clone(teacher)
    if own is not None:
        teacher.normalization = own
    before = weights(teacher)
    predicted = jaxkd.Trainer(teacher).predict(train)
    assert np.abs(predicted - np.array(teacher(train.normalization(train.images)).logits)).max() > 0.1 or own is None
    distiller = distilled(train, teacher, {"ce": losses.CrossEntropy(), "seen": Witness(N)}, epochs=2)
    seen = distiller.state.variables["losses"]["seen"]
    np.testing.assert_allclose(seen["said"], predicted, atol=1e-4)  # in evaluation mode
    # The student, without statistics of its own, is given the data set's.
    np.testing.assert_allclose(seen["brightness"], train.normalization(train.images).mean((1, 2, 3)), atol=1e-5)
    assert distiller.student.normalization == train.normalization
    assert distiller.teacher is teacher
    assert_same_bits(weights(distiller.teacher), before)
    carried = jax.tree_util.tree_leaves_with_path(distiller.state.teacher)
    assert_same_bits({jax.tree_util.keystr(path): np.array(leaf) for path, leaf in carried}, before)


def test_the_total_is_the_sum_of_weighted_terms(train, teacher):
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(4.0), "ats": losses.ATS()}
    by_epoch = {"ce": np.float32(0.1), "kd": lambda epoch: jnp.minimum(epoch / 2, 1.0)}  # ats: 1
    logs = distilled(train, teacher, terms, by_epoch, epochs=3).history.history
    for epoch, ramp in enumerate((0.5, 1.0, 1.0)):
        total = 0.1 * logs["ce"][epoch] + ramp * logs["kd"][epoch] + logs["ats"][epoch]
        assert logs["loss"][epoch] == pytest.approx(total, rel=1e-5)


def test_the_logs_tell_each_term_and_what_it_learned(train, teacher):
    rule = losses.CurriculumTemperature(curriculum=losses.cosine_curriculum(2))
    distiller = distilled(train, teacher, {"ce": losses.CrossEntropy(), "kd": losses.KD(rule)}, epochs=3)
    logs = distiller.history.history
    names = {"loss", "ce", "kd", "kd_temperature", "kd_lambda", "accuracy", "learning_rate", "images_per_second"}
    assert logs.keys() == names
    assert logs["kd_lambda"] == pytest.approx([-0.5, -1.0, -1.0], abs=1e-6)
    raw = float(distiller.state.params["losses"]["kd"]["temperature"]["raw"])
    assert logs["kd_temperature"][-1] == pytest.approx(1 + 20 / (1 + np.exp(-raw)), rel=1e-2)
    assert logs["kd_temperature"][-1] != logs["kd_temperature"][0]


def test_weight_decay_acts_on_what_the_losses_learn(train, teacher):
    # λ = 0 leaves θ nothing but the decay: θ ← θ − rate · decay · θ, three times.
    rule = losses.CurriculumTemperature(curriculum=lambda epoch: 0.0)
    sgd = optimizers.sgd(0.1, momentum=0.0, weight_decay=0.5)
    distiller = distilled(train, teacher, {"kd": losses.KD(rule)}, optimizer=sgd)
    raw = distiller.state.params["losses"]["kd"]["temperature"]["raw"]
    assert float(raw) == pytest.approx((1 - 0.1 * 0.5) ** 3, rel=1e-6)


def test_a_single_loss_goes_by_its_class(train, teacher):
    assert "kd" in distilled(train, teacher, losses.KD(2.0)).history.history


def test_a_student_that_distils_comes_closer_to_its_teacher(train, teacher):
    def distance(student):
        ours, theirs = (jaxkd.Trainer(net).predict(train) for net in (student, teacher))
        return np.square(ours - theirs).mean()

    student = TinyNet(normalization=train.normalization)
    before = distance(student)
    distilled(train, teacher, {"kd": losses.KD(1.0)}, epochs=20, student=student)
    assert distance(student) < 0.5 * before


# A user's own network and loss.


class MeanPixel(nnx.Module):
    """The plainest network: one linear map of the pooled pixels."""

    def __init__(self, classes, rngs):
        self.linear = nnx.Linear(3, classes, rngs=rngs)

    def __call__(self, images, train=False):
        pooled = images.mean((1, 2))
        return Outputs(self.linear(pooled), (pooled,))


class MovingTarget(losses.Loss):
    """Matches a learned multiple of the average of what the teacher has said of an example so far."""

    def __init__(self, examples, classes):
        self.factor = nnx.Param(jnp.float32(1.0))
        self.memory = nnx.Variable(jnp.zeros((examples, classes)))

    def __call__(self, student, teacher, batch, progress, key):
        target = 0.5 * self.memory[...][batch.index] + 0.5 * teacher.logits
        self.memory[...] = self.memory[...].at[batch.index].set(target)
        return jnp.mean(jnp.square(student.logits - self.factor[...] * target))


def test_a_users_own_network_and_loss_need_nothing_but_themselves(train, teacher):
    with jax.numpy_rank_promotion("allow"):  # as it is for users; Flax's own layers rely on it
        student = MeanPixel(10, nnx.Rngs(0))
        before = weights(student)
        distiller = distilled(train, teacher, {"own": MovingTarget(N, 10)}, epochs=2, student=student)
    after = weights(distiller.student)
    assert all(np.abs(after[key] - before[key]).max() > 1e-3 for key in before)
    assert abs(float(distiller.state.params["losses"]["own"]["factor"]) - 1) > 1e-3
    memory = distiller.state.variables["losses"]["own"]["memory"]
    np.testing.assert_allclose(memory, 0.75 * jaxkd.Trainer(teacher).predict(train), atol=1e-4)  # ½, then ¾
    assert sum(len(inspect.getsource(part).splitlines()) for part in (MeanPixel, MovingTarget)) < 25


# Errors.


def compile_with(teacher, **arguments):
    jaxkd.Distiller(student=TinyNet(), teacher=teacher).compile(SGD, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "needs a loss"),
        ({"loss": {}}, ValueError, "no losses"),
        ({"loss": losses.KD}, TypeError, "instance"),
        ({"loss": {"kd": losses.KD}}, TypeError, "'kd'.*instance"),
        ({"loss": {"kd": 4.0}}, TypeError, "'kd' is 4.0"),
        ({"loss": {"loss": losses.KD()}}, ValueError, "'loss' cannot name a loss"),
        ({"loss": {"a b": losses.KD()}}, ValueError, "'a b' cannot name a loss"),
        ({"loss": {"kd": losses.KD()}, "loss_weights": {"ce": 1.0}}, ValueError, "ce, but the losses are kd"),
        ({"loss": {"kd": losses.KD()}, "loss_weights": {"kd": "0.9"}}, TypeError, "'kd' is '0.9'"),
        ({"loss": {"kd": losses.KD()}, "loss_weights": {"kd": float("nan")}}, ValueError, "'kd' is nan"),
        (
            {"loss": {"kd": losses.KD()}, "loss_weights": {"kd": lambda epoch: min(epoch / 20, 1)}},
            ValueError,
            "'kd'.*jnp.minimum",
        ),
        (
            {"loss": {"kd": losses.KD()}, "loss_weights": {"kd": lambda epoch: np.minimum(epoch / 20, 1)}},
            ValueError,
            "'kd'.*jnp.minimum",
        ),
        ({"loss": {"kd": losses.KD()}, "loss_weights": [0.9]}, TypeError, r"loss_weights=\[0.9\].*as in {\"kd\": 1.0}"),
        ({"loss": {"kd": losses.KD()}, "loss_weights": 0.9}, TypeError, "loss_weights=0.9"),
        (
            {"loss": {"kd": losses.KD()}, "loss_weights": {"kd": lambda epoch: jnp.ones(1)}},
            ValueError,
            r"'kd' is a function that returns shape \(1,\).*one number",
        ),
        ({"loss": {"kd": losses.KD()}, "loss_weights": {"kd": lambda epoch: None}}, ValueError, "'kd'.*returns None"),
        ({"loss": losses.FitNet(position="x")}, TypeError, "position='x': give a whole number"),
        ({"loss": {"own": Listed([1, 2])}}, TypeError, "own.positions is a list.*tuple"),
        ({"loss": {"own": Listed({1: 2})}}, TypeError, "own.positions is a dict.*tuple"),
        ({"loss": {"kd": losses.KD()}, "metrics": ["acuracy"]}, ValueError, "acuracy"),
        ({"loss": {"kd": losses.KD()}, "metrics": "accuracy"}, TypeError, "metrics='accuracy': give a list"),
        ({"loss": {"kd": losses.KD()}, "metrics": None}, TypeError, "metrics=None: give a list"),
        ({"loss": {"learning_rate": losses.KD()}}, ValueError, "'learning_rate', as training calls something else"),
        ({"loss": {"val_kd": losses.KD()}}, ValueError, "'val_kd', as training calls something else"),
        ({"loss": {"kd": losses.KD()}, "metrics": [loss]}, ValueError, "metric is called 'loss'"),
        ({"loss": {"kd": losses.KD()}, "metrics": ["top5", metrics.top_k(5)]}, ValueError, "two metrics .*'top5'"),
        ({"loss": {"top5": losses.KD()}, "metrics": ["top5"]}, ValueError, "loss and a metric are both called top5"),
    ],
)
def test_what_cannot_be_compiled_is_refused(teacher, arguments, error, message):
    with pytest.raises(error, match=message):
        compile_with(teacher, **arguments)


def test_weights_that_come_after_compile_are_told_to_be_left_aside(train, teacher):
    def compiled(*networks):
        distiller = jaxkd.Distiller(student=networks[0], teacher=networks[1])
        distiller.compile(SGD, loss=losses.KD())
        return distiller

    verbs = {"fit": {"epochs": 1, "batch_size": B, "verbose": 0}, "evaluate": {}, "predict": {}}
    for position, cure in enumerate(["start", "learn"]):
        networks = TinyNet(), nnx.clone(teacher)
        for verb, options in verbs.items():
            distiller = compiled(*networks)
            nnx.update(networks[position], jax.tree.map(lambda leaf: leaf + 1, nnx.state(networks[position])))
            with pytest.warns(UserWarning, match=f"weights of TinyNet were changed after compile.* again to {cure}"):
                getattr(distiller, verb)(train, **options)
            getattr(distiller, verb)(train, **options)  # once
    owner = jaxkd.Trainer(teacher)
    owner.compile(SGD)
    distiller = compiled(TinyNet(), owner.model)
    assert owner.model is teacher  # in equal copies
    distiller.fit(train, **verbs["fit"])


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (
            "resnet20",
            r"='resnet20': give a network, as jaxkd\.models\.create\('resnet20', num_classes=10\) returns one",
        ),
        ("a/resnet56.pth", r"='a/resnet56\.pth': give a network, as jaxkd\.convert\.from_torch\('a/resnet56\.pth'\)"),
        (pathlib.Path("resnet56.pth"), r"='resnet56\.pth': give a network, as jaxkd\.convert\.from_torch\("),
        (linen.Dense(10), r"=Dense: give flax\.nnx\.bridge\.ToNNX\(module"),
        (TinyNet, r"=TinyNet: give an instance, TinyNet\(…\), not the class"),
        (None, "=NoneType: give a flax.nnx.Module"),
    ],
)
def test_what_is_no_network_is_refused_at_once(given, cure):
    with pytest.raises(TypeError, match="^model" + cure):
        jaxkd.Trainer(given)
    with pytest.raises(TypeError, match="^student" + cure):
        jaxkd.Distiller(given, TinyNet())
    for teacher in (given, [TinyNet(), given]):
        with pytest.raises(TypeError, match="^teacher" + cure):
            jaxkd.Distiller(TinyNet(), teacher)


def test_a_teacher_of_other_classes_is_refused(teacher):
    with pytest.raises(ValueError, match="student has 7 classes and the teacher 10"):
        jaxkd.Distiller(student=TinyNet(num_classes=7), teacher=teacher).compile(SGD, loss=losses.KD())
    with pytest.raises(ValueError, match="same object"):
        jaxkd.Distiller(student=teacher, teacher=teacher)


def test_a_teacher_of_other_channels_is_refused(train):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=models.create("resnet8", num_classes=10, channels=1))
    distiller.compile(SGD, loss=losses.KD())
    stream = [(train.normalization(train.images[:32]), train.labels[:32])]
    for given in (train, stream):
        with pytest.raises(ValueError, match="images have 3 channels, but resnet8 takes 1"):
            distiller.fit(given, batch_size=B, verbose=0)


def test_a_teachers_loss_without_a_teacher_is_refused(train):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, loss=losses.KD())
    with pytest.raises(ValueError, match="Distiller"):
        trainer.fit(train, batch_size=B, verbose=0)


@pytest.mark.parametrize("shape", [(), (32, 1)])
def test_a_metric_that_is_not_one_number_for_each_example_is_refused(train, shape):
    def share(logits, labels):
        return jnp.broadcast_to(jnp.mean(logits), shape)

    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, metrics=[share])
    for measure in (lambda: trainer.fit(train, batch_size=B, verbose=0), lambda: trainer.evaluate(train, batch_size=B)):
        with pytest.raises(ValueError, match=re.escape(f"'share' returned shape {shape} for 32 examples")):
            measure()


def test_a_loss_that_is_not_one_number_is_refused(train, teacher):
    with pytest.raises(ValueError, match=r"'each' returned shape \(32,\)"):
        distilled(train, teacher, {"each": lambda student, *rest: student.logits.mean(1)})
