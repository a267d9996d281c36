"""DKD against the authors' values, by hand, at extremes, with every temperature rule, and in a run."""

import json
from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import GOLDENS
from tiny import digits
from values import both_precisions, precision, relative_error

import jaxkd
from jaxkd import Batch, Outputs, Progress, models, optimizers
from jaxkd.losses.ats import ATS, asymmetric_scaling
from jaxkd.losses.base import Network
from jaxkd.losses.cross_entropy import CrossEntropy
from jaxkd.losses.dkd import DKD, decoupled_divergence
from jaxkd.losses.functional import kl_divergence
from jaxkd.losses.temperature import CurriculumTemperature, InstanceTemperature, Tempered
from jaxkd.schedules import Warmup, warmup
from jaxkd.training.state import split

FOLDER = GOLDENS / "losses"
CASES = {case["name"]: case["params"] for case in json.loads((FOLDER / "index.json").read_text())}
DKD_CASES = [name for name in CASES if name.startswith("dkd")]
B, K = 6, 10


def value_of(loss, student, teacher, labels, epoch=1):
    batch = Batch(images=None, labels=jnp.asarray(labels, jnp.int32), index=None)
    progress = Progress(jnp.int32(0), jnp.int32(epoch))
    return loss(Outputs(jnp.asarray(student)), Outputs(jnp.asarray(teacher)), batch, progress, None)


def logits(seed, shape=(B, K), scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_every_case_is_used():
    assert len(DKD_CASES) == 3


@both_precisions
@pytest.mark.parametrize("name", DKD_CASES)
def test_the_authors_values(name, dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden, loss = np.load(FOLDER / f"{name}.npz"), DKD(**CASES[name])
        student, teacher = (jnp.asarray(golden[f"{who}_logits"], dtype) for who in ("student", "teacher"))
        value, gradient = jax.jit(jax.value_and_grad(lambda z: value_of(loss, z, teacher, golden["labels"])))(student)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_logits"]) < gradient_tolerance


def test_by_hand():
    # Teacher (1/2, 3/8, 1/8) with true class 0: the pair is (1/2, 1/2), the others (3/4, 1/4).
    # Student (1/3, 1/3, 1/3): the pair is (1/3, 2/3), the others (1/2, 1/2).
    teacher = 2 * np.log(np.array([[1 / 2, 3 / 8, 1 / 8]], np.float32))  # at T = 2 the probabilities above
    target = 1 / 2 * log(3 / 2) + 1 / 2 * log(3 / 4)
    others = 3 / 4 * log(3 / 2) + 1 / 4 * log(1 / 2)
    found = value_of(DKD(alpha=3.0, beta=5.0, temperature=2.0), np.zeros((1, 3), np.float32), teacher, [0])
    assert float(found) == pytest.approx(4 * (3 * target + 5 * others), rel=1e-5)
    # With true class 2 the pair is (1/8, 7/8) and the others (4/7, 3/7).
    target = 1 / 8 * log(3 / 8) + 7 / 8 * log(21 / 16)
    others = 4 / 7 * log(8 / 7) + 3 / 7 * log(6 / 7)
    found = value_of(DKD(alpha=3.0, beta=5.0, temperature=2.0), np.zeros((1, 3), np.float32), teacher, [2])
    assert float(found) == pytest.approx(4 * (3 * target + 5 * others), rel=1e-5)


def test_the_two_parts_make_up_kl():
    # Equation 7 of the paper: KL = TCKD + (1 - p) · NCKD, p what the teacher gives the true class.
    student, teacher, labels = logits(0), logits(1), jnp.arange(B)
    target, others = decoupled_divergence(teacher, student, labels)
    rest = 1 - jax.nn.softmax(teacher)[jnp.arange(B), labels]
    np.testing.assert_allclose(target + rest * others, kl_divergence(teacher, student), rtol=1e-4)


def test_two_classes_have_nothing_beside_the_true_one():
    student, teacher, labels = logits(0, (B, 2)), logits(1, (B, 2)), np.arange(B) % 2
    expected = 16 * kl_divergence(teacher / 4, student / 4).mean()
    np.testing.assert_allclose(value_of(DKD(beta=100.0), student, teacher, labels), expected, rtol=1e-4)


def built(rule):
    if hasattr(rule, "build"):
        network = Network(rule, Outputs(jax.ShapeDtypeStruct((2, K), jnp.float32)))
        rule.build(network, network, nnx.Rngs(0))
    return rule


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("make", [CurriculumTemperature, lambda **given: built(InstanceTemperature(4, **given))])
def test_the_gradient_of_a_learned_temperature_is_the_finite_difference(make, standardize):
    with jax.enable_x64(True):
        # Logits as sure as those at which a probability of float32 underflows to 0 where a class is masked.
        student, teacher = (logits(seed, scale=scale).astype(np.float64) for seed, scale in ((0, 3.0), (1, 30.0)))
        graph, params, rest = split(DKD(temperature=make(curriculum=lambda epoch: 1.0), standardize=standardize))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

        @jax.jit
        def value(params):
            return value_of(nnx.merge(graph, params, rest), student, teacher, np.arange(B))

        gradient = jax.grad(value)(params)
        rng = np.random.default_rng(0)
        for _ in range(3):
            way = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
            ahead, behind = (
                float(value(jax.tree.map(lambda leaf, step, by=by: leaf + by * step, params, way)))
                for by in (1e-5, -1e-5)
            )
            slope = sum(float((g * w).sum()) for g, w in zip(*map(jax.tree.leaves, (gradient, way)), strict=True))
            assert abs(slope) > 1e-5
            assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_the_gradient_of_a_learned_temperature_is_finite_in_float32(scale):
    graph, params, rest = split(DKD(temperature=CurriculumTemperature(curriculum=lambda epoch: -1.0)))

    def value(params):
        return value_of(nnx.merge(graph, params, rest), logits(0, scale=scale), logits(1, scale=scale), np.arange(B))

    [slope] = jax.tree.leaves(jax.jit(jax.grad(value))(params))
    assert np.isfinite(slope)
    assert slope != 0


def test_each_example_counts_with_its_own_temperature():
    class ByPosition(nnx.Module):
        def temper(self, student, teacher, labels, progress):
            value = jnp.arange(1, B + 1, dtype=jnp.float32)
            return Tempered(student / value[:, None], teacher / value[:, None], jnp.square(value))

    student, teacher, labels = logits(0), logits(1), np.arange(B)
    alone = [
        value_of(DKD(temperature=float(i + 1)), student[i : i + 1], teacher[i : i + 1], labels[i : i + 1])
        for i in range(B)
    ]
    np.testing.assert_allclose(value_of(DKD(temperature=ByPosition()), student, teacher, labels), np.mean(alone), 1e-5)


def test_with_asymmetric_scaling():
    student, teacher, labels = logits(0), logits(1), jnp.arange(B)
    target, others = decoupled_divergence(asymmetric_scaling(teacher, labels, 4.0, 2.0), student, labels)
    found = value_of(DKD(beta=3.0, temperature=ATS(4.0, 2.0)), student, teacher, labels)
    np.testing.assert_allclose(found, np.mean(target + 3 * others), rtol=1e-5)


def test_the_warm_up():
    rise = warmup(20)
    assert [float(rise(jnp.int32(epoch))) for epoch in (1, 5, 20, 240)] == pytest.approx([0.05, 0.25, 1.0, 1.0])
    assert float(warmup(4, weight=9.0)(jnp.int32(2))) == 4.5
    assert rise == warmup(20) == Warmup(20, 1.0)
    assert hash(rise) == hash(warmup(20))
    assert rise != warmup(10)
    for epochs in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"epochs={epochs}"):
            warmup(epochs)
    with pytest.raises(ValueError, match="weight=nan"):
        warmup(20, weight=float("nan"))


def test_it_distils_with_a_warm_up_and_a_learned_temperature():
    train = digits()[0].subset(48)
    student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(
        optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4),
        loss={"ce": CrossEntropy(), "dkd": DKD(temperature=CurriculumTemperature(), standardize=True)},
        loss_weights={"dkd": warmup(4)},
    )
    logs = distiller.fit(train, epochs=2, batch_size=24, verbose=0).history
    for epoch, share in enumerate((0.25, 0.5)):
        assert logs["loss"][epoch] == pytest.approx(logs["ce"][epoch] + share * logs["dkd"][epoch], rel=1e-5)
    assert logs["dkd_temperature"][1] != logs["dkd_temperature"][0]
