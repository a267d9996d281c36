"""One table: every loss, with everything a loss must be able to take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        import flax.nnx as nnx

        self.traces += 1
        loss = nnx.merge(self.graph, params, rest)
        batch, progress = Batch(None, labels, None), Progress(jnp.int32(3), jnp.int32(2))
        value = loss(Outputs(student), Outputs(teacher), batch, progress, jax.random.key(0))
        return value, split(loss)[2]

    def __call__(self, student, teacher, labels=None):
        """The value, and its gradients: for what the loss learns, for the student's logits."""
        labels = jnp.arange(len(student)) % student.shape[-1] if labels is None else labels
        (value, self.rest), gradients = self.step(self.params, student, self.rest, teacher, labels)
        return value, *gradients


def logits(seed, shape=(B, K), scale=3.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


@every_loss
def test_compiled_it_is_a_finite_float32_scalar_the_same_as_not_compiled(name):
    found = value, _, gradient = Case(name)(logits(0), logits(1))
    assert value.shape == () and value.dtype == jnp.float32 and finite(found)
    assert float(jnp.abs(gradient).max()) > 1e-4
    with jax.disable_jit():
        eager = Case(name)(logits(0), logits(1))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@every_loss
def test_the_gradient_reaches_what_it_learns_and_nothing_else(name):
    case = Case(name)
    _, learned, _ = case(logits(0), logits(1))
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(learned)}
    assert paths.keys() == LEARNS.get(name, set())
    assert all(float(jnp.abs(leaf)) > 1e-6 for leaf in paths.values())


@every_loss
def test_it_compiles_once(name):
    case = Case(name)
    before = jax.tree.map(lambda leaf: leaf.aval, (case.params, case.rest))
    for seed in range(3):
        case(logits(seed), logits(seed + 1))
    assert case.traces == 1
    assert jax.tree.map(lambda leaf: leaf.aval, (case.params, case.rest)) == before


@every_loss
def test_it_maps_over_students_and_over_its_own_variables(name):
    case, teacher, labels = Case(name), logits(9), jnp.arange(B)
    students = jnp.stack([logits(seed) for seed in range(3)])
    factors = jnp.array([0.5, 1.0, 1.5])
    many = jax.tree.map(lambda leaf: factors.reshape(-1, *[1] * leaf.ndim) * leaf[None], (case.params, case.rest))
    mapped = jax.vmap(case.step, in_axes=(0, 0, 0, None, None))(many[0], students, many[1], teacher, labels)
    for seed in range(3):
        params, rest = jax.tree.map(lambda leaf, seed=seed: leaf[seed], many)
        alone = case.step(params, students[seed], rest, teacher, labels)
        for ours, theirs in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-4, atol=1e-6)


@every_loss
def test_bfloat16_logits_are_compared_in_float32(name):
    student, teacher = logits(0).astype(jnp.bfloat16), logits(1).astype(jnp.bfloat16)
    value, _, gradient = Case(name)(student, teacher)
    wide, _, wide_gradient = Case(name)(student.astype(jnp.float32), teacher.astype(jnp.float32))
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, wide, rtol=1e-6)
    np.testing.assert_allclose(gradient.astype(jnp.float32), wide_gradient, rtol=1e-2, atol=1e-5)


@every_loss
@pytest.mark.parametrize("shape", [(1, K), (B, 2), (1, 2)])
def test_batches_of_one_and_two_classes(name, shape):
    found = Case(name)(logits(0, shape), logits(1, shape))
    assert finite(found)


@every_loss
def test_it_is_a_mean_over_the_batch(name):
    student, teacher, labels = logits(0), logits(1), jnp.arange(B)
    whole, _, _ = Case(name)(student, teacher, labels)
    alone = [Case(name)(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1])[0] for i in range(2)]
    pair, _, _ = Case(name)(student[:2], teacher[:2], labels[:2])
    np.testing.assert_allclose(pair, sum(alone) / 2, rtol=1e-5)
    assert not np.isclose(whole, pair)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_equals_its_teacher_is_at_the_minimum(name):
    value, learned, gradient = Case(name)(logits(0), logits(0))
    assert abs(float(value)) < 1e-4
    assert all(float(jnp.abs(leaf).max()) < 1e-4 for leaf in jax.tree.leaves((learned, gradient)))


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1e4])
@pytest.mark.parametrize("same", [True, False])
def test_logits_all_equal_tiny_or_huge_stay_finite(name, scale, same):
    student = logits(0, scale=scale)
    found = Case(name)(student, student if same else logits(1, scale=scale))
    assert finite(found)


@every_loss
def test_the_extremes_of_confidence_stay_finite(name):
    student = jnp.where(jax.nn.one_hot(jnp.arange(B), K) > 0, 1e4, -1e4)
    assert finite(Case(name)(student, -student))
    assert finite(Case(name)(student, jnp.roll(student, 1, axis=1)))
    assert finite(Case(name)(student, jnp.zeros((B, K))))


def test_standardisation_and_asymmetric_scaling_compose():
    student, teacher, labels = np.asarray(logits(0)), np.asarray(logits(1)), np.arange(B)

    def standardised(z):
        return (z - z.mean(1, keepdims=True)) / (1e-7 + z.std(1, keepdims=True, ddof=1))

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    taus = np.where(np.arange(K) == labels[:, None], 4.0, 2.0)
    wanted, said = log_softmax(standardised(teacher) / taus), log_softmax(standardised(student))
    cross_entropy = -(np.exp(wanted) * said).sum(1).mean()
    np.testing.assert_allclose(Case("ats_std")(logits(0), logits(1), jnp.asarray(labels))[0], cross_entropy, rtol=1e-5)
    divergence = (np.exp(wanted) * (wanted - said)).sum(1).mean()
    np.testing.assert_allclose(Case("kd_ats_std")(logits(0), logits(1), jnp.asarray(labels))[0], divergence, rtol=1e-5)


@pytest.mark.parametrize("name", DISTILLS)
def test_teachers_that_cannot_be_compared_are_refused(name):
    batch, progress = Batch(None, jnp.arange(B), None), Progress(jnp.int32(0), jnp.int32(1))
    loss = LOSSES[name]()
    with pytest.raises(ValueError, match=r"\(6, 10\).*\(6, 20\)"):
        loss(Outputs(logits(0)), Outputs(logits(1, (B, 20))), batch, progress, None)
    with pytest.raises(ValueError, match="Distiller"):
        loss(Outputs(logits(0)), None, batch, progress, None)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "4", None, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: losses.KD(temperature=value),
        lambda value: losses.ATS(correct=value),
        lambda value: losses.ATS(wrong=value),
        lambda value: losses.ATS(student=value),
        lambda value: losses.CurriculumTemperature(t_start=value),
        lambda value: losses.CurriculumTemperature(t_end=value),
    ],
    ids=["temperature", "correct", "wrong", "student", "t_start", "t_end"],
)
def test_temperatures_that_are_none_are_refused_by_name(make, value, request):
    argument = request.node.callspec.id.rsplit("-", 1)[-1]
    with pytest.raises(ValueError, match=f"{argument}={value!r}".replace("+", r"\+")):
        make(value)


def test_a_class_is_no_temperature():
    with pytest.raises(ValueError, match="temperature=.*ATS"):
        losses.KD(temperature=losses.ATS)


def test_numbers_of_numpy_are_temperatures():
    student, teacher, labels = logits(0), logits(1), jnp.arange(B)
    batch = Batch(None, labels, None)
    values = [losses.KD(kind(4))(Outputs(student), Outputs(teacher), batch, None, None) for kind in (float, np.float32, np.int64)]
    assert values[0] == values[1] == values[2]


def test_a_curriculum_needs_an_epoch():
    with pytest.raises(ValueError, match="epochs=0"):
        losses.cosine_curriculum(0)


def test_the_gradient_of_the_learned_temperature_is_turned_round():
    rule = losses.CurriculumTemperature
    student, teacher, batch = Outputs(logits(0)), Outputs(logits(1)), Batch(None, jnp.arange(B), None)

    def slope(factor):
        graph, params, rest = split(losses.KD(rule(curriculum=lambda epoch: factor)))

        def value(params):
            from flax import nnx

            return nnx.merge(graph, params, rest)(student, teacher, batch, Progress(jnp.int32(0), jnp.int32(1)), None)

        return value, params, float(jax.grad(value)(params)["temperature"]["raw"])

    value, params, plain = slope(1.0)
    step = 1e-2
    ends = [float(value(jax.tree.map(lambda raw, by=by: raw + by, params))) for by in (step, -step)]
    assert plain == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-3)
    assert slope(-1.0)[2] == pytest.approx(-plain, rel=1e-6)
    assert slope(0.0)[2] == 0.0
