"""Losses on logits: how their parts combine, and what they refuse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import Batch, Outputs, Progress, losses

B, K = 6, 10
BATCH, PROGRESS = Batch(None, jnp.arange(B), None), Progress(jnp.int32(3), jnp.int32(2))
DISTIL = {
    "kd": lambda: losses.KD(4.0),
    "kd_std": lambda: losses.KD(2.0, standardize=True),
    "kd_ctkd": lambda: losses.KD(losses.CurriculumTemperature()),
    "kd_ats": lambda: losses.KD(losses.ATS(4.0, 2.0)),
    "ats": lambda: losses.ATS(4.0, 2.0),
    "dkd": losses.DKD,
    "dist": losses.DIST,
}


def logits(seed, shape=(B, K)):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_standardisation_and_asymmetric_scaling_compose():
    student, teacher, labels = logits(0), logits(1), np.arange(B)

    def standardised(z):
        return (z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, keepdims=True, ddof=1))

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    taus = np.where(np.arange(K) == labels[:, None], 4.0, 2.0)
    wanted, said = log_softmax(standardised(teacher) / taus), log_softmax(standardised(student))
    cross_entropy = -(np.exp(wanted) * said).sum(1).mean()
    pair = Outputs(student), Outputs(teacher), BATCH, PROGRESS, None
    np.testing.assert_allclose(losses.ATS(4.0, 2.0, standardize=True)(*pair), cross_entropy, rtol=1e-5)
    divergence = (np.exp(wanted) * (wanted - said)).sum(1).mean()
    np.testing.assert_allclose(losses.KD(losses.ATS(4.0, 2.0), standardize=True)(*pair), divergence, rtol=1e-5)


def test_equal_logits_which_a_head_of_zeros_gives_have_no_gradient_through_their_deviation():
    flat, teacher = jnp.zeros((B, K)).at[1].set(logits(0)[1]), Outputs(logits(1))
    gradient = jax.grad(
        lambda student: losses.KD(2.0, standardize=True)(Outputs(student), teacher, BATCH, PROGRESS, None)
    )
    found = np.abs(gradient(flat)).max(1)
    assert found[1] > 0
    np.testing.assert_array_equal(np.delete(found, 1), 0)
    np.testing.assert_array_equal(losses.standardize(flat)[0], 0)


@pytest.mark.parametrize("name", DISTIL)
def test_teachers_that_cannot_be_compared_are_refused(name):
    loss = DISTIL[name]()
    with pytest.raises(ValueError, match=r"\(6, 10\).*\(6, 20\)"):
        loss(Outputs(logits(0)), Outputs(logits(1, (B, 20))), BATCH, PROGRESS, None)
    with pytest.raises(ValueError, match="Distiller"):
        loss(Outputs(logits(0)), None, BATCH, PROGRESS, None)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "4", None, True, losses.ATS])
@pytest.mark.parametrize(
    ("argument", "made"),
    [
        ("temperature", losses.KD),
        ("correct", losses.ATS),
        ("wrong", losses.ATS),
        ("student", losses.ATS),
        ("t_start", losses.CurriculumTemperature),
        ("t_end", losses.CurriculumTemperature),
    ],
)
def test_what_is_no_temperature_is_refused_by_name(value, argument, made):
    with pytest.raises(ValueError, match=re.escape(f"{argument}={value!r}")):
        made(**{argument: value})


def test_a_rule_of_temperatures_goes_by_no_name():
    with pytest.raises(ValueError, match=r"temperature='ctkd': give a positive number, or a rule such as losses\."):
        losses.KD("ctkd")


def test_numbers_of_numpy_are_temperatures():
    rules = [losses.KD(kind(4)).temperature for kind in (float, np.float32, np.float64, np.int64)]
    assert {float(rule.value[...]) for rule in rules} == {4.0}


@pytest.mark.parametrize("epochs", [0, 7.9, float("nan"), float("inf")])
def test_a_curriculum_takes_an_epoch_or_more(epochs):
    with pytest.raises(ValueError, match=f"epochs={epochs}: the curriculum takes a whole number of epochs"):
        losses.cosine_curriculum(epochs)


def test_equal_curricula_are_one_so_that_their_runs_share_a_program():
    one, other = (losses.CurriculumTemperature(curriculum=losses.cosine_curriculum(5)) for _ in range(2))
    assert one.curriculum is other.curriculum
    assert losses.CurriculumTemperature().curriculum is losses.InstanceTemperature().curriculum


def test_lambda_multiplies_the_gradient_of_the_learned_temperature():
    student, teacher = Outputs(logits(0)), Outputs(logits(1))

    @jax.jit
    def value(raw, factor):
        rule = losses.CurriculumTemperature(curriculum=lambda epoch: factor)
        rule.raw[...] = raw
        return losses.KD(rule)(student, teacher, BATCH, PROGRESS, None)

    def slope(factor):
        return float(jax.grad(value)(jnp.float32(1.0), jnp.float32(factor)))

    ends = [float(value(jnp.float32(1 + by), jnp.float32(1.0))) for by in (0.1, -0.1)]
    plain = slope(1.0)
    assert plain == pytest.approx((ends[0] - ends[1]) / 0.2, rel=2e-2)
    assert slope(-1.0) == pytest.approx(-plain, rel=1e-6)
    assert slope(0.0) == 0.0
