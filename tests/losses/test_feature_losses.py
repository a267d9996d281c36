"""AT, NST, RKD, CC, FitNet and DIST: against the authors' numbers, by hand, and against the formulas in NumPy."""

from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import PROGRESS, batch_of, golden_arrays
from flax import nnx
from values import both_precisions, precision, relative_error

from jaxkd import Outputs
from jaxkd.losses import Network
from jaxkd.losses.at import AT, attention_transfer
from jaxkd.losses.cc import CC, adjacent_congruence
from jaxkd.losses.dist import DIST, correlation
from jaxkd.losses.fitnet import FitNet
from jaxkd.losses.nst import NST, channel_discrepancy
from jaxkd.losses.rkd import RKD, angle_loss, distance_loss


def rkd_of(student, teacher):
    return RKD()(Outputs(None, (student,)), Outputs(None, (teacher,)), None, PROGRESS, None)


# The authors' numbers.

PAIRS = {
    "at_same": (attention_transfer, "feature"),
    "at_smaller_teacher": (attention_transfer, "feature"),
    "nst_same": (channel_discrepancy, "feature"),
    "nst_smaller_teacher": (channel_discrepancy, "feature"),
    "rkd": (rkd_of, "feature"),
    "cc": (adjacent_congruence, "embedding"),
}


@both_precisions
@pytest.mark.parametrize("name", PAIRS)
def test_the_authors_values(name, dtype, value_tolerance, gradient_tolerance):
    loss, kind = PAIRS[name]
    with precision(dtype):
        golden = golden_arrays(name, dtype)
        run = jax.jit(jax.value_and_grad(loss))
        value, gradient = run(golden[f"student_{kind}"], golden[f"teacher_{kind}"])
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden[f"grad_student_{kind}"]) < gradient_tolerance


# By hand.


def column(*values):
    """One image of one channel, one column."""
    return jnp.array(values, jnp.float32).reshape(1, -1, 1, 1)


def test_attention_transfer_by_hand():
    # Squares (3, 4) at length one are (0.6, 0.8), those of (1, 0) are (1, 0); differences −0.4 and 0.8.
    assert float(attention_transfer(column(sqrt(3), 2), column(1, 0))) == pytest.approx((0.16 + 0.64) / 2, rel=1e-6)
    # A map of four places is averaged to two: (√3, √3, 2, 2) is the same.
    found = attention_transfer(column(sqrt(3), sqrt(3), 2, 2), column(1, 0))
    assert float(found) == pytest.approx(0.4, rel=1e-6)


def test_channel_discrepancy_by_hand():
    # One student channel (0.6, 0.8), teacher channels (1, 0) and (0, 1): 1 + (1 + 0 + 0 + 1)/4 − 2 · (0.36 + 0.64)/2.
    teacher = jnp.concatenate([column(5, 0), column(0, 0.1)], axis=-1)
    assert float(channel_discrepancy(column(3, 4), teacher)) == pytest.approx(0.5, rel=1e-6)


def test_relations_by_hand():
    # Distances 1, 1, 2 and 1, 4, 5, in units of their means 4/3 and 10/3: differences 0.45, 0.45 and 0 of three pairs,
    # each counted twice among nine.
    ours, theirs = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [1.0], [5.0]])
    assert float(distance_loss(ours, theirs)) == pytest.approx(2 * 2 * 0.5 * 0.45**2 / 9, rel=1e-5)
    # Differences of 1 and more count linearly: distances 1, 0, 1 and 0, 1, 1 with mean 1 differ by 1, 1 and 0.
    ours, theirs = jnp.array([[0.0], [1.0], [1.0]]), jnp.array([[0.0], [0.0], [1.0]])
    assert float(distance_loss(ours, theirs)) == pytest.approx(2 * 2 * 0.5 / 9, rel=1e-6)
    # Middle of a straight line, cosine −1, against that of a corner of a square, 0; the other angles 0° and 45°.
    straight, corner = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    expected = (2 * 0.5 + 4 * 0.5 * (1 - sqrt(0.5)) ** 2) / 27
    assert float(angle_loss(straight, corner)) == pytest.approx(expected, rel=1e-5)


def test_rkd_weighs_distances_and_angles():
    ours, theirs = (jnp.asarray(np.random.default_rng(i).standard_normal((4, 3)), jnp.float32) for i in (0, 1))
    for loss, value in [(RKD(1.0, 0.0), distance_loss), (RKD(0.0, 1.0), angle_loss)]:
        found = loss(Outputs(None, (ours,)), Outputs(None, (theirs,)), None, PROGRESS, None)
        assert float(found) == pytest.approx(float(value(ours, theirs)), rel=1e-6)


def test_adjacent_congruence_by_hand():
    # Differences (1, −2), (−3, 4), (0, 5): 1·3 + 2·4 and 3·0 + 4·5, averaged.
    apart = jnp.array([[1.0, -2.0], [-3.0, 4.0], [0.0, 5.0]])
    assert float(adjacent_congruence(apart + 7, jnp.full((3, 2), 7.0))) == pytest.approx((11 + 20) / 2)


# The papers' formulas in float64 NumPy.


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def relations(p, q):
    """Mean of 1 − Pearson's correlation of the rows; the published code adds 1e-8 to the product of the deviations."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        both = len(a) * a.std() * b.std()
        total += 1 - np.corrcoef(a, b)[0, 1] * both / (both + 1e-8)
    return total / len(p)


@both_precisions
def test_dist_is_the_formula_of_the_paper(dtype, value_tolerance, gradient_tolerance):
    rng = np.random.default_rng(0)
    student, teacher, along = (rng.standard_normal((5, 7)).astype(np.float32).astype(np.float64) for _ in range(3))

    def expected(student):
        p, q = softmax(student / 4), softmax(2 * teacher / 4)
        return 16 * (2 * relations(p, q) + 3 * relations(p.T, q.T))

    with precision(dtype):
        loss = DIST(beta=2.0, gamma=3.0, temperature=4.0)
        theirs = Outputs(jnp.asarray(2 * teacher, dtype))
        batch = batch_of(range(5))
        run = jax.jit(jax.value_and_grad(lambda logits: loss(Outputs(logits), theirs, batch, PROGRESS, None)))
        value, gradient = run(jnp.asarray(student, dtype))
        assert value.dtype == dtype
        assert relative_error(value, expected(student)) < value_tolerance
        slope = (expected(student + 1e-5 * along) - expected(student - 1e-5 * along)) / 2e-5
        assert np.sum(np.asarray(gradient) * along) == pytest.approx(slope, rel=max(gradient_tolerance, 1e-7))


def test_dist_by_hand():
    # Two classes always correlate by ±1; here every example and every class by −1, but for the factor T².
    def value(loss, student, teacher):
        return float(loss(Outputs(jnp.array(student)), Outputs(jnp.array(teacher)), batch_of([0, 1]), PROGRESS, None))

    one, other = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [3.0, 0.0]]
    assert value(DIST(), one, other) == pytest.approx(2 + 2, rel=1e-5)
    assert value(DIST(beta=1.0, gamma=0.0, temperature=2.0), one, other) == pytest.approx(4 * 2, rel=1e-5)
    assert value(DIST(beta=0.0, gamma=2.0), one, other) == pytest.approx(2 * 2, rel=1e-5)
    assert value(DIST(), one, [[7.0, 0.0], [0.0, 1.0]]) == pytest.approx(0, abs=1e-5)  # no need to copy how sure
    assert float(correlation(jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 0.0, 1.0]))) == pytest.approx(sqrt(3) / 2)


def pooled_by(maps, factor):
    b, h, w, c = maps.shape
    return maps.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


@both_precisions
def test_fitnet_is_the_formula_of_the_paper(dtype, value_tolerance, gradient_tolerance):
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 2, 2, 3)), rng.standard_normal((2, 4, 4, 5))
    with precision(dtype):
        ours, theirs = (Outputs(None, (jnp.asarray(maps, dtype),)) for maps in (student, teacher))
        loss = FitNet(position=0)
        loss.build(Network(None, ours), Network(None, theirs), nnx.Rngs(0))
        kernel, bias = (np.asarray(value[...], np.float64) for value in (loss.regressor.kernel, loss.regressor.bias))
        assert np.abs(kernel).max() <= 3**-0.5
        apart = student @ kernel + bias - pooled_by(teacher, 2)
        value, gradient = jax.value_and_grad(
            lambda maps: loss(Outputs(None, (maps,)), theirs, None, PROGRESS, None),
        )(ours.features[0])
        assert relative_error(value, np.mean(apart**2)) < value_tolerance
        assert relative_error(gradient, 2 * apart @ kernel.T / apart.size) < gradient_tolerance


def test_cc_embeds_both_networks():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((4, 3)), rng.standard_normal((4, 5))
    ours, theirs = (Outputs(None, (jnp.asarray(pooled, jnp.float32),)) for pooled in (student, teacher))
    loss = CC()
    loss.build(Network(None, ours), Network(None, theirs), nnx.Rngs(0))
    embedded = []
    for layer, pooled in [(loss.student_embedding, student), (loss.teacher_embedding, teacher)]:
        assert layer.kernel[...].shape[1] == 128
        embedded.append(pooled @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]))
    apart = np.abs(embedded[0] - embedded[1])
    expected = np.mean([apart[i] @ apart[i + 1] for i in range(3)])
    assert float(loss(ours, theirs, None, PROGRESS, None)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("make", "formula"), [(AT, attention_transfer), (NST, channel_discrepancy)])
def test_stages_are_added_up(make, formula):
    rng = np.random.default_rng(0)
    ours, theirs = (
        tuple(jnp.asarray(rng.standard_normal((2, side, side, 3)), jnp.float32) for side in (4, 2)) for _ in range(2)
    )
    found = make(positions=(0, 1))(Outputs(None, ours), Outputs(None, theirs), None, PROGRESS, None)
    assert float(found) == pytest.approx(
        sum(float(formula(*pair)) for pair in zip(ours, theirs, strict=True)), rel=1e-5
    )
