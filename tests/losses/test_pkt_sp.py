"""PKT and SP: the authors' values, values by hand, and what the similarities of a batch must not depend on."""

from math import log, sqrt

import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import built, evaluate, golden_arrays, network, normal
from values import both_precisions, precision, relative_error

from jaxkd import Outputs
from jaxkd.losses.pkt import PKT, probabilistic_transfer
from jaxkd.losses.sp import SP, similarity_preservation


@both_precisions
@pytest.mark.parametrize(("name", "loss"), [("pkt", PKT()), ("sp", SP(position=0))])
def test_the_authors_values(name, loss, dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays(name, dtype)
        student, teacher = (network(golden[f"{who}_feature"]) for who in ("student", "teacher"))
        graph, params, rest = built(loss, student, teacher)
        value, learned, [gradient], _ = evaluate(graph, params, rest, student.outputs, teacher.outputs)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_feature"]) < gradient_tolerance
        assert learned == {}


def test_pkt_by_hand():
    # Student: orthogonal, cosines (1, 0), moved to (1, ½), rows (⅔, ⅓). Teacher: parallel, rows (½, ½).
    # Each row: ½ ln ¾ + ½ ln 3/2 = ½ ln 9/8; two rows over B² = 4.
    found = probabilistic_transfer(jnp.eye(2), jnp.array([[1.0, 2.0, 3.0]] * 2))
    assert float(found) == pytest.approx(log(9 / 8) / 4, rel=1e-5)
    # The other way round: ⅔ ln 4/3 + ⅓ ln ⅔.
    found = probabilistic_transfer(jnp.ones((2, 3)), jnp.eye(2))
    assert float(found) == pytest.approx((2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)) / 2, rel=1e-5)


def test_sp_by_hand():
    # Student G = I. Teacher G = [[9, 12], [12, 16]], rows (3, 4)/5: two squares of 2/5, 4/5 and 3/5, 1/5.
    found = similarity_preservation(jnp.eye(2), jnp.array([[3.0], [4.0]]))
    assert float(found) == pytest.approx((0.16 + 0.64 + 0.36 + 0.04) / 4, rel=1e-6)
    # Two pixels of one channel count as a vector of two.
    maps = jnp.array([[1.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1)
    gram = np.array([[1.0, 1.0], [1 / sqrt(5), 2 / sqrt(5)]]) / np.array([[sqrt(2)], [1]])
    expected = np.square(gram - np.eye(2)).mean()
    assert float(similarity_preservation(maps, jnp.eye(2))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("formula", [probabilistic_transfer, similarity_preservation])
def test_scale_and_rotation_of_the_features_do_not_matter(formula):
    student, teacher = normal(0, 8, 5), normal(1, 8, 7)
    turned = jnp.matmul(student, jnp.asarray(np.linalg.qr(np.asarray(normal(2, 5, 5)))[0]), precision="highest")
    plain = float(formula(student, teacher))
    assert plain > 1e-4
    assert float(formula(3.0 * turned, 0.5 * teacher)) == pytest.approx(plain, rel=1e-4)
    order = np.random.default_rng(3).permutation(8)
    assert float(formula(student[order], teacher[order])) == pytest.approx(plain, rel=1e-4)
    assert float(formula(student[order], teacher)) != pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize("make", [PKT, SP])
def test_what_they_look_at(make):
    features = [normal(seed, 4, 2, 2, 3) for seed in range(3)] + [normal(3, 4, 3)]
    others = [normal(seed + 10, *feature.shape) for seed, feature in enumerate(features)]
    student, teacher = Outputs(None, tuple(features)), Outputs(None, tuple(others))
    loss, formula = make(), {PKT: probabilistic_transfer, SP: similarity_preservation}[make]
    at = {PKT: 3, SP: 2}[make]  # the pooled embedding; the last map
    assert float(loss(student, teacher, None, None, None)) == float(formula(features[at], others[at]))


@pytest.mark.parametrize("make", [PKT, SP])
def test_what_cannot_be_compared_is_refused_before_training(make):
    with pytest.raises(ValueError, match=f"{make.__name__} .*Distiller"):
        make().build(network(normal(0, 2, 4, 4, 3), normal(0, 2, 3)), None, None)
    with pytest.raises(ValueError, match=r"no features at position 5; it has 0: \[3\]"):
        make(position=5).build(network(normal(0, 2, 3)), network(normal(0, 2, 3)), None)
