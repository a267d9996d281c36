"""CTKD's temperature for each example: the authors' numbers, what it learns from, and a run."""

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
from jaxkd.losses.base import Network
from jaxkd.losses.cross_entropy import CrossEntropy
from jaxkd.losses.kd import KD
from jaxkd.losses.temperature import InstanceTemperature
from jaxkd.training.state import split

B, K = 6, 10


def instance_divergence(teacher_logits, student_logits, temperatures, epsilon=0.0):
    """The mean of Tᵢ² · Σ p · (log p − log q), where p = softmax(teacher / Tᵢ) + ε, and q likewise without ε.

    With ε = 0 it is the paper's loss. The authors' sketch adds ε = 1e-7 so that log p exists where p is 0, at the price
    of K·ε more than probability 1; the values differ by about T² · K · ε.
    """
    temperatures = temperatures[:, None]
    said = jax.nn.log_softmax(student_logits / temperatures)
    log_target = jax.nn.log_softmax(teacher_logits / temperatures)
    target = jnp.exp(log_target) + epsilon
    log_target = jnp.log(target) if epsilon else log_target
    return jnp.mean(jnp.square(temperatures[:, 0]) * jnp.sum(target * (log_target - said), -1))


def logits(seed, shape=(B, K), scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def built(classes=K, hidden=16, **options):
    rule = InstanceTemperature(hidden, **options)
    network = Network(rule, Outputs(jax.ShapeDtypeStruct((2, classes), jnp.float32)))
    rule.build(network, network, nnx.Rngs(3))
    return rule


def value_of(loss, student, teacher, epoch=10):
    batch = Batch(images=None, labels=jnp.arange(len(student), dtype=jnp.int32) % student.shape[1], index=None)
    progress = Progress(jnp.int32(0), jnp.int32(epoch))
    return loss(Outputs(jnp.asarray(student)), Outputs(jnp.asarray(teacher)), batch, progress, None)


@both_precisions
def test_the_authors_values(dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = np.load(GOLDENS / "losses" / "ctkd_instance_kl.npz")
        student, teacher, temperatures = (
            jnp.asarray(golden[key], dtype) for key in ("student_logits", "teacher_logits", "temperatures")
        )

        def value(student, temperatures):
            return instance_divergence(teacher, student, temperatures, epsilon=1e-7)

        found, gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(student, temperatures)
        assert found.dtype == dtype
        assert relative_error(found, golden["loss"]) < value_tolerance
        assert relative_error(gradients[0], golden["grad_student_logits"]) < gradient_tolerance
        assert relative_error(gradients[1], golden["grad_temperatures"]) < gradient_tolerance
        # Without their 1e-7 it is another number, by less than T² · K · 1e-7 · |log q|.
        plain = instance_divergence(teacher, student, temperatures)
        assert 1e-9 < abs(float(plain - golden["loss"])) < 21**2 * 100 * 1e-7 * 10


def test_kd_with_it_is_the_formula():
    rule, student, teacher = built(), logits(0), logits(1)
    found = value_of(KD(rule), student, teacher)
    hidden = np.maximum(np.concatenate([student, teacher], 1) @ rule.first[...] + rule.first_bias[...][None], 0)
    raw = (hidden @ rule.second[...] + rule.second_bias[...][None])[:, 0]
    temperatures = 1 + 20 / (1 + np.exp(-raw))
    assert np.ptp(temperatures) > 0.5
    np.testing.assert_allclose(found, instance_divergence(teacher, student, temperatures), rtol=1e-5)
    np.testing.assert_allclose(rule.temperature[...], temperatures.mean(), rtol=1e-6)
    np.testing.assert_allclose(rule.lambda_[...], -1.0)


def test_it_starts_around_the_temperature_of_the_global_rule():
    rule = built(hidden=128)
    scale = rule.temper(logits(0, (256, K)), logits(1, (256, K)), None, Progress(None, jnp.int32(1))).scale
    assert scale.shape == (256,)
    assert np.sqrt(scale).mean() == pytest.approx(1 + 20 / (1 + np.exp(-1)), rel=0.1)
    assert np.sqrt(scale).min() > 1
    assert np.sqrt(scale).max() < 21


def slopes(factor, student, teacher):
    graph, params, rest = split(KD(built(curriculum=lambda epoch: factor)))

    def value(params, student):
        return value_of(nnx.merge(graph, params, rest), student, teacher)

    return jax.jit(jax.grad(value, argnums=(0, 1)))(params, student)


def test_lambda_multiplies_the_gradient_of_the_network_and_of_nothing_else():
    student, teacher = logits(0), logits(1)
    plain, through = slopes(1.0, student, teacher)
    assert len(jax.tree.leaves(plain)) == 4
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(plain))
    for factor in (-1.0, -0.5, 0.0):
        scaled, same = slopes(factor, student, teacher)
        for ours, theirs in zip(jax.tree.leaves(scaled), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(ours, factor * theirs, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(same, through, rtol=1e-6)


def test_predictions_are_only_read():
    # The student's gradient is that of KD at the same, constant temperatures.
    rule, student, teacher = built(), logits(0), logits(1)
    scale = rule.temper(jnp.asarray(student), jnp.asarray(teacher), None, Progress(None, jnp.int32(10))).scale
    constant = jax.grad(lambda z: instance_divergence(teacher, z, jnp.sqrt(scale)))(jnp.asarray(student))
    _, gradient = slopes(-1.0, student, teacher)
    np.testing.assert_allclose(gradient, constant, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:two standardised logits")
@pytest.mark.parametrize("shape", [(1, K), (B, 2), (B, K)])
def test_standardised_it_is_finite_at_extremes_and_zero_where_both_agree(shape):
    graph, params, rest = split(KD(built(shape[1]), standardize=True))

    @jax.jit
    def step(params, student, teacher):
        return jax.value_and_grad(
            lambda params, student: value_of(nnx.merge(graph, params, rest), student, teacher), argnums=(0, 1)
        )(params, student)

    for scale in (0.0, 1e-7, 1.0, 1e4):
        same = logits(0, shape, scale)
        found = step(params, same, same)
        assert abs(float(found[0])) < 1e-3
        for teacher in (same, -same, logits(1, shape, scale)):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(step(params, same, teacher)))


def test_misuse_is_refused():
    for hidden in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match=f"hidden={hidden}"):
            InstanceTemperature(hidden)
    with pytest.raises(ValueError, match="t_end=-1"):
        InstanceTemperature(t_end=-1)
    with pytest.raises(ValueError, match="compile"):
        value_of(KD(InstanceTemperature()), logits(0), logits(1))
    with pytest.raises(ValueError, match="Distiller"):
        InstanceTemperature().build(Network(nnx.Module(), Outputs(logits(0))), None, nnx.Rngs(0))


def test_it_distils_and_learns():
    student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(
        optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4),
        loss={"ce": CrossEntropy(), "kd": KD(temperature=InstanceTemperature(hidden=8), standardize=True)},
        loss_weights={"ce": 0.1, "kd": 0.9},
        image_shape=(8, 8, 3),
    )
    before = jax.tree.map(np.array, distiller.state.params["losses"]["kd"]["temperature"])
    logs = distiller.fit(digits()[0].subset(48), epochs=2, batch_size=24, verbose=0).history
    after = distiller.state.params["losses"]["kd"]["temperature"]
    assert before.keys() == {"first", "first_bias", "second", "second_bias"}
    assert all(np.abs(after[name] - before[name]).max() > 1e-6 for name in before)
    assert all(1 < value < 21 for value in logs["kd_temperature"])
    assert logs["kd_lambda"] == pytest.approx([-0.5 * (1 - np.cos(np.pi * epoch / 10)) for epoch in (1, 2)], rel=1e-4)
