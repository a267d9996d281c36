"""One table: every loss, with everything a loss must be able to take."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxkd import Batch, Outputs, Progress, losses
from jaxkd.engine.state import split

B, K = 6, 10
LOSSES = {
    "cross_entropy": losses.CrossEntropy,
    "kd": lambda: losses.KD(4.0),
    "kd_std": lambda: losses.KD(2.0, standardize=True),
    "kd_ctkd": lambda: losses.KD(losses.CurriculumTemperature()),
    "kd_ctkd_std": lambda: losses.KD(losses.CurriculumTemperature(), standardize=True),
    "kd_ats": lambda: losses.KD(losses.ATS(4.0, 2.0)),
    "kd_ats_std": lambda: losses.KD(losses.ATS(4.0, 2.0), standardize=True),
    "ats": lambda: losses.ATS(4.0, 2.0),
    "ats_std": lambda: losses.ATS(4.0, 2.0, standardize=True),
}
LEARNS = {"kd_ctkd": {"['temperature']['raw']"}, "kd_ctkd_std": {"['temperature']['raw']"}}
DIVERGENCES = ["kd", "kd_std", "kd_ctkd", "kd_ctkd_std"]  # zero, and at their minimum, where both logits are the same
DISTILLS = [name for name in LOSSES if name != "cross_entropy"]

every_loss = pytest.mark.parametrize("name", LOSSES)


class Case:
    """A loss as the engine uses it: a pure function of its variables and the logits."""

    def __init__(self, name):
        self.graph, self.params, self.rest = split(LOSSES[name]())
        self.traces = 0
        self.step = jax.jit(jax.value_and_grad(self._value, argnums=(0, 1), has_aux=True))

    def _value(self, params, student, rest, teacher, labels):
        self.traces += 1
        loss = nnx.merge(self.graph, params, rest)
        batch, progress = Batch(None, labels, None), Progress(jnp.int32(3), jnp.int32(2))
        value = loss(Outputs(student), Outputs(teacher), batch, progress, None)
        return value, split(loss)[2]

    def __call__(self, student, teacher, labels=None):
        """The value, and its gradients: for what the loss learns, for the student's logits."""
        labels = np.arange(len(student), dtype=np.int32) % student.shape[-1] if labels is None else labels
        (value, self.rest), gradients = self.step(self.params, student, self.rest, teacher, labels)
        return value, *gradients


@pytest.fixture(scope="module")
def case():
    """Each loss is compiled once for all tests that use batches of one shape."""
    return functools.cache(Case)


def logits(seed, shape=(B, K), scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def finite(tree):
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


@every_loss
def test_compiled_it_gives_a_finite_float32_scalar_and_gradient(name, case):
    found = value, _, gradient = case(name)(logits(0), logits(1))
    assert value.shape == ()
    assert value.dtype == jnp.float32
    assert finite(found)
    assert np.abs(gradient).max() > 1e-4


@every_loss
def test_the_gradient_reaches_what_it_learns_and_nothing_else(name, case):
    _, learned, _ = case(name)(logits(0), logits(1))
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(learned)}
    assert paths.keys() == LEARNS.get(name, set())
    assert all(abs(float(leaf)) > 1e-6 for leaf in paths.values())


@every_loss
def test_it_is_traced_once_and_its_variables_keep_their_types(name):
    case = Case(name)
    before = jax.tree.map(jax.typeof, (case.params, case.rest))
    for seed in range(3):
        case(logits(seed), logits(seed + 1))
    assert case.traces == 1
    assert jax.tree.map(jax.typeof, (case.params, case.rest)) == before


@every_loss
def test_it_maps_over_students_and_over_its_own_variables(name, case):
    made, teacher, labels = case(name), logits(9), np.arange(B, dtype=np.int32)
    students = np.stack([logits(seed) for seed in range(3)])
    factors = np.array([0.5, 1.0, 1.5], np.float32)
    many = jax.tree.map(lambda leaf: factors * np.asarray(leaf), (made.params, made.rest))
    mapped = jax.vmap(made.step, in_axes=(0, 0, 0, None, None))(many[0], students, many[1], teacher, labels)
    for seed in range(3):
        params, rest = jax.tree.map(lambda leaf, seed=seed: leaf[seed], many)
        alone = made.step(params, students[seed], rest, teacher, labels)
        for ours, theirs in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-4, atol=1e-5)


@every_loss
def test_bfloat16_logits_are_compared_in_float32(name, case):
    student, teacher = (logits(seed).astype(jnp.bfloat16) for seed in (0, 1))
    value, _, gradient = case(name)(student, teacher)
    wide, _, wide_gradient = case(name)(student.astype(np.float32), teacher.astype(np.float32))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wide, rtol=1e-5)
    np.testing.assert_allclose(gradient.astype(np.float32), wide_gradient, rtol=1e-2, atol=1e-5)


@every_loss
def test_it_is_the_mean_over_the_batch_and_takes_a_batch_of_one(name, case):
    student, teacher, labels = logits(0), logits(1), np.arange(B, dtype=np.int32)
    alone = [case(name)(*(part[i : i + 1] for part in (student, teacher, labels))) for i in range(B)]
    assert finite(alone)
    whole, _, _ = case(name)(student, teacher, labels)
    np.testing.assert_allclose(whole, np.mean([value for value, _, _ in alone]), rtol=1e-4)


@every_loss
def test_it_takes_two_classes(name, case):
    assert finite(case(name)(logits(0, (B, 2)), logits(1, (B, 2))))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_equals_its_teacher_is_at_the_minimum(name, case):
    value, learned, gradient = case(name)(logits(0), logits(0))
    assert abs(float(value)) < 1e-4
    assert all(np.abs(leaf).max() < 1e-4 for leaf in jax.tree.leaves((learned, gradient)))
    apart, _, _ = case(name)(logits(0), logits(1))
    assert float(apart) > 0.1


@every_loss
def test_logits_all_equal_tiny_huge_or_extreme_stay_finite(name, case):
    for scale in (0.0, 1e-30, 1e-7, 1e4):
        for seed in (0, 1):  # seed 0: the student equals its teacher
            assert finite(case(name)(logits(0, scale=scale), logits(seed, scale=scale))), (scale, seed)
    sure = np.where(np.arange(K) == np.arange(B)[:, None], 1e4, -1e4).astype(np.float32)
    for teacher in (sure, -sure, np.roll(sure, 1, axis=1), np.zeros_like(sure)):
        assert finite(case(name)(sure, teacher))


def test_standardisation_and_asymmetric_scaling_compose(case):
    student, teacher, labels = logits(0), logits(1), np.arange(B)

    def standardised(z):
        return (z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, keepdims=True, ddof=1))

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    taus = np.where(np.arange(K) == labels[:, None], 4.0, 2.0)
    wanted, said = log_softmax(standardised(teacher) / taus), log_softmax(standardised(student))
    cross_entropy = -(np.exp(wanted) * said).sum(1).mean()
    np.testing.assert_allclose(case("ats_std")(student, teacher)[0], cross_entropy, rtol=1e-5)
    divergence = (np.exp(wanted) * (wanted - said)).sum(1).mean()
    np.testing.assert_allclose(case("kd_ats_std")(student, teacher)[0], divergence, rtol=1e-5)


@pytest.mark.parametrize("name", DISTILLS)
def test_teachers_that_cannot_be_compared_are_refused(name):
    batch, progress = Batch(None, jnp.arange(B), None), Progress(jnp.int32(0), jnp.int32(1))
    loss = LOSSES[name]()
    with pytest.raises(ValueError, match=r"\(6, 10\).*\(6, 20\)"):
        loss(Outputs(logits(0)), Outputs(logits(1, (B, 20))), batch, progress, None)
    with pytest.raises(ValueError, match="Distiller"):
        loss(Outputs(logits(0)), None, batch, progress, None)


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


def test_numbers_of_numpy_are_temperatures():
    rules = [losses.KD(kind(4)).temperature for kind in (float, np.float32, np.float64, np.int64)]
    assert {float(rule.value[...]) for rule in rules} == {4.0}


def test_a_curriculum_takes_an_epoch_or_more():
    with pytest.raises(ValueError, match="epochs=0"):
        losses.cosine_curriculum(0)


def test_lambda_multiplies_the_gradient_of_the_learned_temperature(case):
    student, teacher, labels = logits(0), logits(1), np.arange(B, dtype=np.int32)

    def slope(factor):
        graph, params, rest = split(losses.KD(losses.CurriculumTemperature(curriculum=lambda epoch: factor)))

        def value(params):
            batch, progress = Batch(None, labels, None), Progress(jnp.int32(0), jnp.int32(1))
            return nnx.merge(graph, params, rest)(Outputs(student), Outputs(teacher), batch, progress, None)

        return float(jax.jit(jax.grad(value))(params)["temperature"]["raw"])

    made = case("kd_ctkd")
    ends = [
        made.step({"temperature": {"raw": jnp.float32(1 + by)}}, student, made.rest, teacher, labels)[0][0]
        for by in (0.1, -0.1)
    ]
    plain = slope(1.0)
    assert plain == pytest.approx(float(ends[0] - ends[1]) / 0.2, rel=2e-2)
    assert slope(-1.0) == pytest.approx(-plain, rel=1e-6)
    assert slope(0.0) == 0.0
