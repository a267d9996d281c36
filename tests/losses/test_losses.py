"""Losses against the authors' code, and against values worked out by hand."""

import json
from math import log, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import GOLDENS
from values import both_precisions, precision, relative_error

from jaxkd import Batch, Outputs, Progress, losses
from jaxkd.training.state import split

FOLDER = GOLDENS / "losses"
CASES = {case["name"]: case["params"] for case in json.loads((FOLDER / "index.json").read_text())}
KD_CASES = [name for name in CASES if name.startswith("kd")]
ATS_CASES = [name for name in CASES if name.startswith("ats_") and "total" not in name]
TOTAL_CASES = [name for name in CASES if name.startswith("ats_total")]
CTKD_CASES = [name for name in CASES if name.startswith("ctkd_global")]


def ats(params):
    taus = params["tau1_correct"], params["tau2_wrong"], params["student_temperature"]
    return losses.ATS(*taus)


def value_and_gradients(terms, name, dtype):
    """Σ weight · term of one golden's logits, and its gradients: of the student's logits, of what the terms learn."""
    golden = np.load(FOLDER / f"{name}.npz")
    student, teacher = (jnp.asarray(golden[f"{who}_logits"], dtype) for who in ("student", "teacher"))
    batch = Batch(images=None, labels=jnp.asarray(golden["labels"]), index=None)
    graph, params, rest = split(nnx.List([term for _, term in terms]))

    def total(logits, params):
        made = nnx.merge(graph, params, rest)
        progress = Progress(jnp.int32(0), jnp.int32(1))
        values = [term(Outputs(logits), Outputs(teacher), batch, progress, None) for term in made]
        return sum(weight * value for (weight, _), value in zip(terms, values, strict=True))

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(student, params)
    assert value.dtype == dtype
    return golden, value, gradients[0], jax.tree.leaves(gradients[1])


@both_precisions
@pytest.mark.parametrize("name", KD_CASES + ATS_CASES + TOTAL_CASES)
def test_the_authors_values(name, dtype, value_tolerance, gradient_tolerance):
    params = CASES[name]
    with precision(dtype):
        if name in KD_CASES:
            terms = [(1.0, losses.KD(params["temperature"], standardize=params.get("standardize", False)))]
        elif name in ATS_CASES:
            terms = [(1.0, ats(params))]
        else:
            terms = [(1 - params["lamb"], losses.CrossEntropy()), (params["lamb"], ats(params))]
        golden, value, gradient, learned = value_and_gradients(terms, name, dtype)
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_logits"]) < gradient_tolerance
        assert learned == []


@both_precisions
@pytest.mark.parametrize("name", CTKD_CASES)
def test_the_authors_curriculum_temperature(name, dtype, value_tolerance, gradient_tolerance):
    params = CASES[name]
    with precision(dtype):
        rule = losses.CurriculumTemperature(params["t_start"], params["t_end"], lambda epoch: params["decay_value"])
        rule.raw = nnx.Param(jnp.asarray(params["raw_temperature"], dtype))
        terms = [(1.0, losses.KD(rule, standardize=params.get("standardize", False)))]
        golden, value, gradient, [raw] = value_and_gradients(terms, name, dtype)
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_logits"]) < gradient_tolerance
        np.testing.assert_allclose(raw, golden["grad_raw_temperature"][0], rtol=gradient_tolerance)


def test_every_case_is_used():
    assert [len(cases) for cases in (KD_CASES, ATS_CASES, TOTAL_CASES, CTKD_CASES)] == [3, 3, 3, 4]


def test_the_authors_curriculum():
    golden, params = np.load(FOLDER / "ctkd_cosine_decay.npz"), CASES["ctkd_cosine_decay"]
    curriculum = losses.cosine_curriculum(params["decay_loops"], low=params["decay_min"])
    values = [float(curriculum(jnp.int32(epoch))) for epoch in golden["epoch"]]
    np.testing.assert_allclose(values, golden["value"], atol=1e-6)


# By hand: logits whose softmax at the temperature in question is a fraction.

THREE_QUARTERS = log(3)  # softmax([ln 3, 0]) = (3/4, 1/4)


def by_hand(loss, student, teacher, labels, epoch=1):
    batch = Batch(images=None, labels=jnp.array(labels), index=None)
    progress = Progress(jnp.int32(0), jnp.int32(epoch))
    return float(loss(Outputs(jnp.array(student)), Outputs(jnp.array(teacher)), batch, progress, None))


def test_cross_entropy_by_hand():
    # −ln(1/4) and −ln(1/2), averaged: (2 ln 2 + ln 2) / 2
    found = by_hand(losses.CrossEntropy(), [[THREE_QUARTERS, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 2, [1, 0])
    assert found == pytest.approx(1.5 * log(2), rel=1e-6)


def test_kd_by_hand():
    # At T = 2 the teacher says (3/4, 1/4) and the student (1/2, 1/2); KL = 3/4 ln 3/2 + 1/4 ln 1/2, and T² = 4.
    # The second example agrees: the mean over the batch halves it.
    student, teacher = [[0.0, 0.0], [1.0, 2.0]], [[2 * THREE_QUARTERS, 0.0], [1.0, 2.0]]
    divergence = 0.75 * log(1.5) + 0.25 * log(0.5)
    assert by_hand(losses.KD(2.0), student, teacher, [0, 0]) == pytest.approx(4 * divergence / 2, rel=1e-6)


@pytest.mark.filterwarnings("ignore:two standardised logits")
def test_standardised_kd_by_hand():
    # Two classes standardise to ±1/√2, whatever their size; at T = √2/ln 3 they are ±(ln 3)/2, that is (3/4, 1/4).
    # Teacher (3/4, 1/4), student (1/4, 3/4): KL = 3/4 ln 3 − 1/4 ln 3 = (ln 3)/2; T² = 2/(ln 3)²; product 1/ln 3.
    found = by_hand(losses.KD(sqrt(2) / log(3), standardize=True), [[-3.0, 5.0]], [[100.0, 20.0]], [0])
    assert found == pytest.approx(1 / log(3), rel=1e-5)


def test_ats_by_hand():
    # True class 0 of the teacher: 4 ln 3 / 4 = ln 3; the other 2 ln 2 / 2 = ln 2; softmax (3/5, 2/5).
    teacher = [[4 * log(3), 2 * log(2)]]
    # At τₛ = 1 the student says (4/5, 1/5).
    expected = -(3 / 5 * log(4 / 5) + 2 / 5 * log(1 / 5))
    assert by_hand(losses.ATS(4.0, 2.0), [[log(4), 0.0]], teacher, [0]) == pytest.approx(expected, rel=1e-6)
    # With the same probabilities at τₛ = 3 it counts τₛ² = 9 times.
    found = by_hand(losses.ATS(4.0, 2.0, student=3.0), [[3 * log(4), 0.0]], teacher, [0])
    assert found == pytest.approx(9 * expected, rel=1e-6)
    # With class 1 the true one, the temperatures change places: 4 ln 3 / 2 = ln 9 and 2 ln 2 / 4 = ln √2.
    top = 9 / (9 + sqrt(2))
    expected = -(top * log(4 / 5) + (1 - top) * log(1 / 5))
    assert by_hand(losses.ATS(4.0, 2.0), [[log(4), 0.0]], teacher, [1]) == pytest.approx(expected, rel=1e-6)


def test_ats_as_a_temperature_of_kd_by_hand():
    # KL instead of the cross-entropy: the teacher's entropy is subtracted.
    teacher = [[4 * log(3), 2 * log(2)]]
    expected = 3 / 5 * log(3 / 4) + 2 / 5 * log(2)
    found = by_hand(losses.KD(losses.ATS(4.0, 2.0)), [[log(4), 0.0]], teacher, [0])
    assert found == pytest.approx(expected, rel=1e-6)
    found = by_hand(losses.KD(losses.ATS(4.0, 2.0, student=3.0)), [[3 * log(4), 0.0]], teacher, [0])
    assert found == pytest.approx(9 * expected, rel=1e-6)


def test_the_range_of_a_learned_temperature():
    rule = losses.CurriculumTemperature(t_start=2.0, t_end=40.0)
    rule.raw[...] = jnp.float32(0.0)
    found = by_hand(losses.KD(rule), [[0.0, 0.0]], [[22 * THREE_QUARTERS, 0.0]], [0])
    assert found == pytest.approx(22**2 * (0.75 * log(1.5) + 0.25 * log(0.5)), rel=1e-5)
    assert float(rule.temperature[...]) == 22.0


def test_curriculum_temperature_by_hand():
    # θ = 0: T = 1 + 20/2 = 11. Teacher (3/4, 1/4), student (1/2, 1/2) as above; T² = 121.
    rule = losses.CurriculumTemperature()
    assert float(rule.temperature[...]) == pytest.approx(1 + 20 / (1 + np.exp(-1)), rel=1e-6)
    rule.raw[...] = jnp.float32(0.0)
    found = by_hand(losses.KD(rule), [[0.0, 0.0]], [[11 * THREE_QUARTERS, 0.0]], [0], epoch=5)
    assert found == pytest.approx(121 * (0.75 * log(1.5) + 0.25 * log(0.5)), rel=1e-6)
    assert float(rule.temperature[...]) == 11.0
    assert float(rule.lambda_[...]) == pytest.approx(-0.5)  # half way down the cosine of ten epochs
