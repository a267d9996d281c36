"""VID: the authors' values for maps of equal and unequal size, values by hand, and what is refused."""

from math import log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import built, evaluate, golden_arrays, network, normal
from flax import nnx
from values import both_precisions, precision, relative_error

from jaxkd.losses.vid import VID, Regressor, gaussian_nll


def extras(golden, prefix):
    """What the authors' regressor learns, as ours names it."""
    layers = {i: {"kernel": golden[f"{prefix}_regressor_{2 * i}_weight"][:, :, 0, 0].T} for i in range(3)}
    return {"regressors": {0: {"layers": layers, "scale": golden[f"{prefix}_log_scale"]}}}


@both_precisions
@pytest.mark.parametrize("name", ["vid_same", "vid_smaller_teacher", "vid_larger_teacher"])
def test_the_authors_values(name, dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays(name, dtype)
        student, teacher = (network(golden[f"{who}_feature"]) for who in ("student", "teacher"))
        graph, params, rest = built(VID(positions=[0]), student, teacher)
        theirs = extras(golden, "param")
        np.testing.assert_allclose(params["regressors"][0]["scale"], theirs["regressors"][0]["scale"], rtol=1e-6)
        value, learned, [gradient], _ = evaluate(graph, theirs, rest, student.outputs, teacher.outputs)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_feature"]) < gradient_tolerance
        errors = jax.tree.map(relative_error, learned, extras(golden, "grad_param"))
        assert max(jax.tree.leaves(errors)) < gradient_tolerance
        assert len(jax.tree.leaves(errors)) == 4


def test_surprise_by_hand():
    # Channel 0: ½ (3²/1 + ln 1); channel 1: ½ (2²/4 + ln 4).
    found = gaussian_nll(jnp.zeros((1, 2)), jnp.array([1.0, 4.0]), jnp.array([[3.0, 2.0]]))
    assert float(found) == pytest.approx((4.5 + 0.5 * (1 + log(4))) / 2, rel=1e-6)


def identity(variance=5.0):
    """A regressor of one channel whose convolutions change nothing."""
    regressor = Regressor(1, 1, variance, rngs=nnx.Rngs(0))
    for layer in regressor.layers:
        layer.kernel[...] = jnp.ones((1, 1))
    return regressor


def column(*values):
    return jnp.array(values).reshape(1, -1, 1, 1)


def test_regressor_by_hand():
    # At the first step σ² is 5; negative values do not pass the ReLUs: predictions 2 and 0 of 5 and −1.
    found = identity()(column(2.0, -7.0), column(5.0, -1.0))
    assert float(found) == pytest.approx(((9 + 1) / 5 / 2 + log(5)) / 2, rel=1e-6)


def test_uneven_maps_are_averaged_in_windows_that_overlap():
    # Three rows to two: means of rows 0, 1 and of rows 1, 2.
    short, long = column(1.0, 2.0), column(0.0, 4.0, 6.0)
    expected = 0.5 * np.mean(np.square([1.0 - 2.0, 2.0 - 5.0]))
    assert float(identity(1.0)(short, long)) == pytest.approx(expected, rel=1e-4)
    assert float(identity(1.0)(long, short)) == pytest.approx(expected, rel=1e-4)


def stages(seed, *widths):
    """Stem, stages and pooled embedding."""
    maps = [normal(seed + i, 2, 4, 4, width) for i, width in enumerate(widths)]
    return network(*maps, normal(seed, 2, widths[-1]))


def test_it_adds_up_the_stages_between_stem_and_embedding():
    student, teacher = stages(0, 2, 3, 4, 5), stages(10, 6, 7, 8, 9)
    whole = VID()
    whole.build(student, teacher, nnx.Rngs(0))
    shapes = [[layer.kernel.shape for layer in regressor.layers] for regressor in whole.regressors]
    assert shapes == [[(3, 7), (7, 7), (7, 7)], [(4, 8), (8, 8), (8, 8)], [(5, 9), (9, 9), (9, 9)]]
    parts = [
        float(regressor(student.outputs.features[i], teacher.outputs.features[i]))
        for i, regressor in enumerate(whole.regressors, start=1)
    ]
    found = float(whole(student.outputs, teacher.outputs, None, None, None))
    assert found == pytest.approx(sum(parts), rel=1e-6)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 1e4])
def test_the_variance_starts_where_it_is_told(variance):
    found = jax.nn.softplus(Regressor(1, 1, variance, rngs=nnx.Rngs(0)).scale[...]) + 1e-5
    assert float(found[0]) == pytest.approx(variance, rel=1e-4)


def test_what_cannot_be_compared_is_refused_before_training():
    student, deep = stages(0, 2, 3, 4), stages(0, 2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"VID .*Distiller"):
        VID().build(student, None, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"VID .*student has 2 .*teacher 3.*positions"):
        VID().build(student, deep, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"VID .*student's feature -1 .*\[4\]"):
        VID(positions=[-1]).build(student, deep, nnx.Rngs(0))
    with pytest.raises(ValueError, match="no features at position 7"):
        VID(positions=[7]).build(student, deep, nnx.Rngs(0))
    with pytest.raises(ValueError, match="variance=0"):
        VID(variance=0)
