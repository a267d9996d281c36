"""One table: every loss × everything a loss must be able to take. What it rests on is in `conformance_cases`."""

import doctest
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_cases import OTHER_WIDTHS, QUICK, TABLE, WIDTHS, B, Case, dotted, largest, said
from feature_cases import finite
from flax import nnx
from sweeps import marked
from tiny import assert_same_bits, leaves

from jaxkd import losses
from jaxkd.losses import HyperParameter

CORE = ("kd_ctkd", "crd")  # one learns a temperature, one embeddings of features, and remembers every example
OFTEN = ("kd_instance", "dkd_std", "reviewkd", "rkd", "srrl")  # what costs a program of its own for each loss


@pytest.fixture(scope="module", params=marked(TABLE, CORE))
def case(request):
    """Each loss is compiled once for all tests that use batches of one shape."""
    return Case(request.param)


def test_the_table_names_every_loss_and_every_temperature():
    public = [getattr(losses, name) for name in losses.__all__]
    classes = {one for one in public if isinstance(one, type)}
    wanted = {one for one in classes if issubclass(one, losses.Loss)} - {losses.Loss}
    wanted |= {one for one in classes if hasattr(one, "temper")} - {losses.Temperature}
    tested = {type(part) for row in TABLE.values() for _, part in nnx.iter_modules(row.make())}
    assert {one.__name__ for one in wanted - tested} == set()


def test_compiled_it_gives_a_finite_float32_scalar_and_gradients(case):
    found = case()
    assert found.value.shape == ()
    assert found.value.dtype == jnp.float32
    assert finite(found)
    assert largest(found.value) > 1e-5


def test_the_gradient_reaches_what_it_learns_and_what_it_reads_and_nothing_else(case):
    found = case()
    learned = dotted(found.learned.get("term", {}))
    assert learned.keys() == set(case.row.learns.split())
    assert {path: largest(leaf) for path, leaf in learned.items() if largest(leaf) < 1e-7} == {}
    assert {path for path, leaf in dotted(found.student).items() if largest(leaf) > 0} == set(case.row.reads.split())


def test_the_teacher_gets_no_gradient_and_stays_as_it_was(case):
    after, _ = case.compiled(case.state, jnp.arange(B))
    assert_same_bits(dotted(after.teacher), dotted(case.state.teacher))

    def value(teacher):
        return case.step(replace(case.state, teacher=teacher), jnp.arange(B))[1].value

    assert largest(jax.jit(jax.grad(value))(case.state.teacher)) == 0.0


def test_constants_stay_as_they_were(case):
    after, _ = case.compiled(case.state, jnp.arange(B))
    constants = dotted(nnx.to_pure_dict(nnx.state(case.loss, HyperParameter)))
    now = dotted(after.variables["losses"].get("term", {}))
    assert_same_bits({path: now[path] for path in constants}, constants)


def test_it_is_traced_once_and_its_variables_keep_their_types(case):
    state, _ = case.compiled(case.state, jnp.arange(B))
    traces = case.traces
    after, _ = case.compiled(state, jnp.arange(B))
    assert case.traces == traces
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, case.state)


@pytest.mark.parametrize("case", marked(TABLE, CORE, OFTEN), indirect=True, scope="module")
def test_mapped_over_runs_it_is_as_one_after_another(case):
    def run(seed, factor):
        """A run with outputs, a random key and variables of its own."""
        state = case.told(student=said(seed, WIDTHS), teacher=said(seed + 1, WIDTHS))
        own = state.params["losses"], state.variables["losses"]
        learned, variables = jax.tree.map(lambda x: x * factor if jnp.issubdtype(x.dtype, jnp.floating) else x, own)
        return replace(
            state,
            key=jax.random.key(seed),
            params=state.params | {"losses": learned},
            variables=state.variables | {"losses": variables},
        )

    runs = [run(3, jnp.float32(1.0)), run(5, jnp.float32(1.25))]
    both = jax.jit(jax.vmap(case.step, in_axes=(0, None)), compiler_options=QUICK)
    mapped = both(jax.tree.map(lambda *x: jnp.stack(x), *runs), jnp.arange(B))
    for place, state in enumerate(runs):
        alone = case.compiled(state, jnp.arange(B))
        for ours, theirs in zip(leaves(mapped), leaves(alone), strict=True):
            np.testing.assert_allclose(ours[place], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", marked(TABLE, CORE, OFTEN), indirect=True, scope="module")
def test_bfloat16_outputs_are_compared_in_float32(case):
    said_by = {"student": said(1, WIDTHS), "teacher": said(2, WIDTHS)}
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), said_by)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    found = case(**narrow)
    assert finite(found)
    assert {leaf.dtype for leaf in jax.tree.leaves((found.logs, found.learned))} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(found.student)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(found.value, case(**wide).value, rtol=1e-5)


def test_one_example_is_a_batch(case):
    found = case(rows=[2])
    assert finite(found)
    assert (largest(found.student) < 1e-6) == (case.row.alone is not None), case.row.alone


def test_it_is_the_mean_over_the_batch(case):
    apart = np.mean([case(rows=[i]).value for i in range(B)]) / case().value - 1
    assert (abs(apart) > 1e-4) == (case.row.together is not None), case.row.together


@pytest.mark.filterwarnings("ignore:two standardised logits")
def test_two_classes_are_enough_and_widths_may_differ(case):
    found = Case(case.name, student=OTHER_WIDTHS, classes=2)()
    assert finite(found)
    assert (largest(found.student) < 1e-5) == (case.row.two is not None), case.row.two


def test_a_student_that_equals_its_teacher_is_at_the_minimum(case):
    same, other, minimum = said(1, WIDTHS), said(2, WIDTHS), case.row.minimum
    learned = minimum(case.state.params["losses"]["term"]) if callable(minimum) else None
    found, apart = (case(student=same, teacher=teacher, learned=learned) for teacher in (same, other))
    assert finite((found, apart))
    at_minimum = abs(found.value) < 1e-3 * apart.value and largest(found.student) < 1e-3 * largest(apart.student)
    assert at_minimum != isinstance(minimum, str), minimum


def test_what_the_networks_say_may_be_zero_tiny_equal_or_extreme(case):
    for scale in (0.0, 1e-30, 1e-15, 1e-7, 1e4):
        student = said(1, WIDTHS, scale=scale)
        for other in (1.0, scale):
            teacher = said(2, WIDTHS, scale=other)
            assert finite(case(student=student, teacher=teacher)), (scale, other)
        views = {view: student[view] for view in ("logits", "strong")}
        for sign in (1, -1):  # as sure of the same, of the opposite
            found = case(student=student, teacher=teacher | {view: sign * given for view, given in views.items()})
            assert finite(found), (scale, sign)
    # All examples the same, then two of them: points coincide, correlations over the batch are undefined.
    for rows in (np.zeros(B, int), np.array([0, 0, 2, 3])):
        pair = {"student": said(1, WIDTHS), "teacher": said(2, WIDTHS)}
        assert finite(case(**jax.tree.map(lambda x, rows=rows: x[rows], pair)))


def test_what_it_keeps_survives_a_save(case, tmp_path):
    state, _ = case.compiled(case.state, jnp.arange(B))
    case.distiller.state = jax.tree.map(jnp.copy, state)
    case.distiller.save(tmp_path)
    fresh = Case(case.name, seed=1).distiller
    with pytest.warns(UserWarning, match="seed=0 stays"):
        fresh.restore(tmp_path)
    assert_same_bits(leaves(fresh.state), leaves(state))


def test_an_example_shows_it(case):
    made = type(case.loss)
    finder = doctest.DocTestFinder()
    shown = [*finder.find(made), *finder.find(sys.modules[made.__module__])]
    assert any(test.examples for test in shown)
