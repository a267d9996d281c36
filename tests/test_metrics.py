"""Metrics: hand-made rankings, ties, NaN, and agreement with a sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxkd import metrics


def test_accuracy_by_hand():
    logits = jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [-jnp.inf, -5.0, -jnp.inf]])
    np.testing.assert_array_equal(metrics.accuracy(logits, jnp.array([1, 2, 1])), [1.0, 0.0, 1.0])


@given(k=st.integers(1, 8), classes=st.integers(1, 8), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_top_k_is_the_head_of_a_stable_sort(k, classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (16, classes)).astype(np.float32)  # few values: many ties
    labels = rng.integers(0, classes, 16).astype(np.int32)
    named = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    expected = (named == labels[:, None]).any(-1)
    np.testing.assert_array_equal(metrics.top_k(k)(jnp.asarray(logits), jnp.asarray(labels)), expected)


def test_a_network_that_answers_the_same_everywhere_scores_chance():
    labels = jnp.arange(10, dtype=jnp.int32)
    assert float(metrics.accuracy(jnp.zeros((10, 10)), labels).mean()) == pytest.approx(0.1)
    assert float(metrics.top_k(5)(jnp.zeros((10, 10)), labels).mean()) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["accuracy", "top1", "top5"])
@pytest.mark.parametrize("place", [0, 1, slice(None)], ids=["label", "other", "all"])
def test_nan_is_never_correct(name, place):
    logits = jnp.array([[9.0, 0.0, 1.0]])
    metric = metrics.get(name)[1]
    assert metric(logits, jnp.array([0])).tolist() == [1.0]
    assert metric(logits.at[0, place].set(jnp.nan), jnp.array([0])).tolist() == [0.0]


def test_a_label_that_is_no_class_is_never_correct():
    logits = jnp.array([[3.0, 1.0], [0.0, 5.0], [0.0, 5.0]])
    assert metrics.accuracy(logits, jnp.array([7, -1, 1])).tolist() == [0, 0, 1]


def test_cross_entropy_stays_finite_and_exact_for_extreme_logits():
    logits = jnp.array([[1e4, 0.0], [1e4, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(metrics.cross_entropy(logits, jnp.array([0, 1, 1])), [0.0, 1e4, np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("name", ["accuracy", "top1", "top5", "cross_entropy"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_float32_per_example_under_jit(name, dtype):
    logits = jax.random.normal(jax.random.key(0), (7, 11)).astype(dtype)
    labels = jnp.arange(7, dtype=jnp.int32)
    known, metric = metrics.get(name)
    values = jax.jit(metric)(logits, labels)
    assert known == name
    assert (values.shape, values.dtype) == ((7,), jnp.float32)
    np.testing.assert_allclose(values, metric(logits.astype(jnp.float32), labels), rtol=1e-6)


def test_functions_go_by_their_own_name():
    def margin(logits, labels):
        return logits[:, 0]

    assert metrics.get(margin) == ("margin", margin)
    assert metrics.get(metrics.top_k(3))[0] == "top3"


@pytest.mark.parametrize("nameless", [lambda logits, labels: labels, functools.partial(metrics.accuracy)])
def test_nameless_functions_are_refused(nameless):
    with pytest.raises(ValueError, match="has no name"):
        metrics.get(nameless)


def test_unknown_metrics_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'acuracy'; there are accuracy, top1, top5, cross_entropy"):
        metrics.get("acuracy")
    with pytest.raises(TypeError, match="not 5"):
        metrics.get(5)
    with pytest.raises(ValueError, match=r"top_k\(0\)"):
        metrics.top_k(0)
