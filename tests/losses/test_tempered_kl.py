"""The gradient of T² · KL, in float32 as exact as the reference in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses.functional import tempered_kl

rng = np.random.default_rng(0)
SCALES = [(0.01, 1.0), (1.0, 4.0), (1.0, 15.6), (10.0, 2.0), (30.0, 1.0), (1e4, 3.0)]


def by_definition(student, teacher, temperature):
    column = temperature[:, None] if jnp.ndim(temperature) else temperature
    log_p, log_q = jax.nn.log_softmax(teacher / column), jax.nn.log_softmax(student / column)
    return jnp.square(temperature) * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


@functools.partial(jax.jit, static_argnums=0)
def gradients(function, *inputs):
    return jax.grad(lambda *inputs: jnp.sum(function(*inputs)), (0, 1, 2))(*inputs)


@pytest.mark.parametrize(("scale", "temperature"), SCALES)
@pytest.mark.parametrize("per_example", [False, True])
def test_it_is_the_derivative(scale, temperature, per_example):
    student, teacher = scale * rng.normal(size=(2, 6, 10))
    value = np.full(6, temperature) + 0.1 * np.arange(6) if per_example else np.float64(temperature)
    with jax.enable_x64(True):
        inputs = [jnp.asarray(x, jnp.float64) for x in (student, teacher, value)]
        wanted, found = gradients(by_definition, *inputs), gradients(tempered_kl, *inputs)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 4.0), (1.0, 15.6), (5.0, 15.6), (10.0, 20.0)])
def test_float32_loses_nothing(scale, temperature):
    student, teacher = scale * rng.normal(size=(2, 64, 100))
    with jax.enable_x64(True):
        exact = gradients(by_definition, *(jnp.asarray(x, jnp.float64) for x in (student, teacher, temperature)))[2]
    narrow = [jnp.asarray(x, jnp.float32) for x in (student, teacher, temperature)]
    np.testing.assert_allclose(gradients(tempered_kl, *narrow)[2], exact, rtol=1e-4)


def test_identical_and_extreme_logits_have_finite_gradients():
    for student, teacher in [
        (np.eye(3), np.eye(3)),
        (1e4 * np.eye(3), -1e4 * np.eye(3)),
        (np.zeros((3, 3)), 1e4 * np.eye(3)),
    ]:
        found = gradients(tempered_kl, *(jnp.asarray(x, jnp.float32) for x in (student, teacher, 2.0)))
        assert all(np.isfinite(gradient).all() for gradient in found)
