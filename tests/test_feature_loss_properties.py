"""One table: AT, NST, RKD, CC, FitNet, OFD, ReviewKD and DIST, with everything they must be able to take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import PROGRESS, batch_of, finite
from flax import nnx
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, losses, models, optimizers
from jaxkd.engine.state import split
from jaxkd.losses import Network
from jaxkd.losses.at import AT
from jaxkd.losses.cc import CC
from jaxkd.losses.dist import DIST
from jaxkd.losses.fitnet import FitNet
from jaxkd.losses.nst import NST
from jaxkd.losses.ofd import OFD
from jaxkd.losses.reviewkd import ReviewKD
from jaxkd.losses.rkd import RKD

LOSSES = {"at": AT, "nst": NST, "rkd": RKD, "cc": CC, "fitnet": FitNet, "ofd": OFD, "reviewkd": ReviewKD, "dist": DIST}
FUSION = {"projection.kernel", "norm.scale", "norm.bias", "kernel", "out_norm.scale", "out_norm.bias"}
CONNECTOR = {"projection.kernel", "norm.scale", "norm.bias"}
ATTENTION = {"attention.kernel", "attention.bias"}
LEARNS = {
    "cc": {f"{who}_embedding.{part}" for who in ("student", "teacher") for part in ("kernel", "bias")},
    "fitnet": {"regressor.kernel", "regressor.bias"},
    "ofd": {f"connectors.{i}.{part}" for i in range(2) for part in CONNECTOR},
    "reviewkd": {f"fusions.{i}.{part}" for i in range(3) for part in (FUSION if i == 2 else FUSION | ATTENTION)},
}
SIZES, STUDENT, TEACHER = (4, 4, 2), (2, 3, 4), (3, 2, 5)

every_loss = pytest.mark.parametrize("name", LOSSES)


def outputs(seed, widths, batch=4, scale=1.0, dtype=jnp.float32):
    """What a network with a stem and stages of these widths may say."""
    rng = np.random.default_rng(seed)
    draws = [scale * rng.standard_normal((batch, n, n, c)) for n, c in zip(SIZES, widths, strict=True)]
    before = tuple(jnp.asarray(maps, dtype) for maps in draws)
    after = tuple(jax.nn.relu(maps) for maps in before)
    logits = jnp.asarray(scale * rng.standard_normal((batch, 4)), dtype)
    return Outputs(logits, (*after, jnp.mean(after[-1], (1, 2))), before)


class Norm(nnx.Module):
    def __init__(self, channels):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))


class Model(nnx.Module):
    def preactivation_norms(self):
        return tuple(Norm(channels) for channels in TEACHER)


class Case:
    """A loss as the engine uses it: a pure function of its variables and what the student says."""

    def __init__(self, name, widths=STUDENT):
        loss = LOSSES[name]()
        if hasattr(loss, "build"):
            pair = (Network(Model(), outputs(0, each, batch=2)) for each in (widths, TEACHER))
            loss.build(*pair, nnx.Rngs(0))
        self.graph, self.params, self.rest = split(loss)
        self.traces = 0
        self.step = jax.jit(jax.value_and_grad(self._value, argnums=(0, 1), has_aux=True))

    def _value(self, params, student, teacher):
        self.traces += 1
        loss = nnx.merge(self.graph, params, self.rest)
        value = loss(student, teacher, batch_of(range(len(student.logits))), PROGRESS, None)
        return value, split(loss)[2]

    def __call__(self, student, teacher):
        """The value, and its gradients: for what the loss learns, for what the student says."""
        (value, after), gradients = self.step(self.params, student, teacher)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, self.rest)
        return value, *gradients


@pytest.fixture(scope="module")
def case():
    return functools.cache(Case)


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def dotted(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


@every_loss
def test_value_and_gradients_are_finite_and_reach_what_is_learned(name, case):
    made = case(name)
    found = value, learned, gradient = made(outputs(1, STUDENT), outputs(2, TEACHER))
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert finite(found)
    assert float(value) > 1e-3
    assert largest(gradient) > 1e-4
    paths = dotted(learned)
    assert paths.keys() == LEARNS.get(name, set())
    assert all(largest(leaf) > 1e-7 for leaf in paths.values()), {path: largest(leaf) for path, leaf in paths.items()}
    made(outputs(3, STUDENT), outputs(4, TEACHER))
    assert made.traces == 1


@pytest.mark.parametrize(("name", "batch"), [*((name, 1) for name in LOSSES), ("rkd", 2), ("dist", 2)])
def test_the_last_batch_may_be_of_one_or_two(name, batch, case):
    assert finite(case(name)(outputs(1, STUDENT, batch), outputs(2, TEACHER, batch)))


@every_loss
def test_features_may_be_zero_equal_tiny_or_huge(name, case):
    made = case(name)
    for scale in (0.0, 1e-30, 1e-15, 1e-7, 1e4):
        for other in (1.0, scale):
            found = made(outputs(1, STUDENT, scale=scale), outputs(2, TEACHER, scale=other))
            assert finite(found), (scale, other)
    # Every example the same: all points coincide, all correlations over the batch are undefined.
    same = [jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), outputs(1, each)) for each in (STUDENT, TEACHER)]
    assert finite(made(*same))
    # Two of them the same.
    twins = [jax.tree.map(lambda x: x.at[1].set(x[0]), outputs(1, each)) for each in (STUDENT, TEACHER)]
    assert finite(made(*twins))


@every_loss
def test_bfloat16_features_are_compared_in_float32(name, case):
    student, teacher = outputs(1, STUDENT, dtype=jnp.bfloat16), outputs(2, TEACHER)  # whose precision is its own
    value, _, gradient = case(name)(student, teacher)
    wide, _, _ = case(name)(jax.tree.map(lambda x: x.astype(jnp.float32), student), teacher)
    assert value.dtype == jnp.float32
    assert finite(gradient)
    np.testing.assert_allclose(value, wide, rtol=1e-5)


@pytest.mark.parametrize("name", ["at", "nst", "rkd", "dist"])
def test_a_student_that_equals_its_teacher_is_at_the_minimum(name, case):
    made, said = Case(name, widths=TEACHER), outputs(1, TEACHER)
    value, _, gradient = made(said, said)
    assert abs(float(value)) < 1e-5
    assert largest(gradient) < 1e-5


def test_where_parts_are_learned_the_minimum_is_reached_through_them():
    said = outputs(1, TEACHER)
    fitnet, cc = Case("fitnet", widths=TEACHER), Case("cc", widths=TEACHER)
    fitnet.params = {"regressor": {"kernel": jnp.eye(TEACHER[2]), "bias": jnp.zeros(TEACHER[2])}}
    cc.params["student_embedding"] = cc.params["teacher_embedding"]
    for made in (fitnet, cc):
        found = made(said, said)
        assert largest(found) == 0.0


# In training.


@pytest.mark.parametrize("teacher", ["resnet14", pytest.param("wrn_16_1", marks=pytest.mark.slow)])
def test_all_train_together_through_a_distiller(teacher):
    student, teacher = models.create("resnet8", num_classes=10), models.create(teacher, num_classes=10, seed=1)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = {name: make() for name, make in LOSSES.items()}
    distiller.compile(optimizers.sgd(0.01), loss={"ce": losses.CrossEntropy(), **terms}, loss_weights={"ofd": 1e-3})
    before = jax.tree.map(np.array, distiller.state.params["losses"])
    logs = distiller.fit(digits()[0].subset(32), epochs=2, batch_size=16, verbose=0).history
    after = jax.tree.map(np.array, distiller.state.params["losses"])
    for name in LOSSES:
        assert np.isfinite(logs[name]).all()
        assert logs[name][0] > 0
        moved = jax.tree.map(lambda ours, theirs: ours - theirs, before[name], after[name]) if name in LEARNS else {}
        assert all(largest(by) > 0 for by in jax.tree.leaves(moved)), dotted(moved)
    assert {name for name in LOSSES if before.get(name)} == set(LEARNS)


def test_a_hint_is_learned():
    train = digits()[0].subset(32).replace(augmentation=None)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=4))
    distiller.compile(optimizers.sgd(0.2, momentum=0.9), loss={"hint": FitNet(position=0)})
    logs = distiller.fit(train, epochs=30, batch_size=16, verbose=0).history
    assert logs["hint"][-1] < 0.3 * logs["hint"][0]


def test_a_loss_may_be_compiled_again_for_other_networks():
    terms = {name: make() for name, make in LOSSES.items()}
    for student, teacher in (("resnet8", "resnet14"), ("wrn_16_1", "resnet8x4")):
        pair = {"student": models.create(student, num_classes=10), "teacher": models.create(teacher, num_classes=10)}
        distiller = jaxkd.Distiller(**pair)
        distiller.compile(optimizers.sgd(0.01), loss=terms)
        regressor = distiller.state.params["losses"]["fitnet"]["regressor"]
        assert regressor["kernel"].shape == (32, 128 if teacher == "resnet8x4" else 32)


# Errors, at compile.


def compiled(loss, student, teacher):
    jaxkd.Distiller(student=student, teacher=teacher).compile(optimizers.sgd(0.1), loss=loss)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "dist"])
def test_without_a_teacher_the_cure_is_named(name):
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(ValueError, match=rf"{LOSSES[name].__name__} .*teacher.*Distiller"):
        trainer.compile(optimizers.sgd(0.1), loss=LOSSES[name]())


class Bare(nnx.Module):
    """Logits, two maps and an embedding, but no preactivations."""

    num_classes = 10

    def __init__(self, features=4, preactivations=0):
        self.linear = models.layers.Linear(3, 10, rngs=nnx.Rngs(0))
        self.counts = features, preactivations

    def __call__(self, images, train=False):
        pooled = images.mean((1, 2))
        features, preactivations = self.counts
        return Outputs(
            self.linear(pooled), (*(images,) * (features - 1), pooled)[:features], (images,) * preactivations
        )


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (AT(positions=(1, 7)), Bare(), Bare(), r"Bare has no features at position 7; it has 0: \[32, 32, 3\], 1: "),
        (AT(positions=(1, 3)), Bare(), Bare(), r"AT compares maps .* student's feature 3 .*\[3\].*earlier"),
        (AT(), Bare(), Bare(5), r"AT pairs the stages .* student has 2 and the teacher 3; give positions"),
        (NST(), TinyNet(), TinyNet(seed=1), r"NST pairs the stages .* student has 0 and the teacher 0"),
        (NST(positions=()), Bare(), Bare(), r"NST pairs the stages"),
        (RKD(position=1), Bare(), Bare(), r"RKD .* feature 1 .*\[32, 32, 3\]"),
        (RKD(), Bare(0), Bare(), r"no features at position -1; it has none"),
        (CC(position=0), Bare(), Bare(), r"CC .* feature 0"),
        (FitNet(position=3), Bare(), Bare(), r"FitNet compares maps .* feature 3"),
        (FitNet(), Bare(), Bare(2), r"Bare has no features at position 2; it has 0: .*, 1: \[3\]"),
        (OFD(), Bare(preactivations=3), Bare(), r"Bare has no preactivations at position 1; it has none"),
        (
            OFD(),
            Bare(preactivations=3),
            Bare(preactivations=2),
            r"OFD .* equal size, .* 32×32, 32×32 .* teacher's 32×32;",
        ),
        (OFD(), Bare(preactivations=3), Bare(preactivations=3), r"OFD .* Bare does not .* preactivation_norms\(\)"),
        (ReviewKD(), Bare(), Bare(5), r"ReviewKD pairs the stages"),
        (ReviewKD(), Bare(), Bare(preactivations=2), r"no preactivations at position 2; it has 0: .*, 1: "),
    ],
)
def test_networks_that_cannot_be_compared_are_refused_at_compile(loss, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        compiled(loss, student, teacher)


def test_an_embedding_needs_a_dimension():
    with pytest.raises(ValueError, match="width=0"):
        CC(width=0)
