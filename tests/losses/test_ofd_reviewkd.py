"""OFD and ReviewKD: against the authors' numbers, by hand, and against the papers' formulas in NumPy."""

from math import exp, pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import PROGRESS, golden_arrays
from flax import nnx
from values import both_precisions, precision, relative_error

from jaxkd import Outputs
from jaxkd.losses import Network
from jaxkd.losses.features import average_pool, nearest
from jaxkd.losses.ofd import OFD, Connector, expected_negative, partial_l2
from jaxkd.losses.reviewkd import ReviewKD, hierarchical_context


@both_precisions
def test_the_authors_partial_l2(dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays("ofd_partial_l2", dtype)
        arrays = golden["student_feature"], golden["teacher_preactivation"], golden["margin"].reshape(-1)
        value, gradient = jax.jit(jax.value_and_grad(partial_l2))(*arrays)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_feature"]) < gradient_tolerance


def test_partial_l2_by_hand():
    # (student, teacher, margin, cost): active; inactive and above; inactive and below; below the margin.
    cases = [
        (1, 3, -1, 4),
        (4, 3, -1, 1),
        (-0.25, -0.5, -1, 0.0625),
        (-3, -0.5, -1, 0),
        (0, -5, -1, 1),
        (-2, -5, -1, 0),
    ]
    ours, theirs, margins = (jnp.array([case[i] for case in cases], jnp.float32).reshape(1, 1, 1, -1) for i in range(3))
    for i, (*_, cost) in enumerate(cases):
        only = slice(i, i + 1)
        assert float(partial_l2(ours[..., only], theirs[..., only], margins.ravel()[only])) == cost
    ours, theirs = (maps.reshape(2, 3, 1, 1) for maps in (ours, theirs))
    assert float(partial_l2(ours, theirs, jnp.array([-1.0]))) == sum(case[3] for case in cases) / 2


def test_margins_are_means_of_the_negative_values():
    for mean, deviation in [(0.0, 1.0), (0.7, -0.9), (-2.0, 0.5), (3.0, 1.0)]:
        x = np.linspace(min(mean, 0) - 12 * abs(deviation), 0.0, 400_001)
        density = np.exp(-(((x - mean) / deviation) ** 2) / 2)
        expected = np.trapezoid(x * density, x) / np.trapezoid(density, x)
        assert expected_negative(mean, deviation) == pytest.approx(expected, rel=1e-7)
    assert expected_negative(0.0, 2.0) == pytest.approx(-2 * sqrt(2 / pi), rel=1e-12)
    assert expected_negative(3.2, 1.0) == -3.0  # Φ(−3.2) = 0.0007
    assert [expected_negative(mean, 0.0) for mean in (-2.0, 0.0, 2.0)] == [-2.0, 0.0, 0.0]


def test_margins_stay_exact_far_out():
    # For means far below zero, nothing is cut off: the mean itself.
    assert expected_negative(-40.0, 1.0) == -40.0
    assert expected_negative(-1.0, 1e-200) == -1.0
    assert expected_negative(1.0, 1.0) == pytest.approx(1 - exp(-0.5) / sqrt(2 * pi) / 0.15865525393145707, rel=1e-12)


class Norm:
    def __init__(self, bias, scale):
        self.bias, self.scale = np.array(bias), np.array(scale)


class WithNorms(nnx.Module):
    def preactivation_norms(self):
        return tuple(Norm([0.0, -1.0], [1.0, 0.0]) for _ in range(4))


def test_ofd_halves_the_weight_of_each_earlier_stage_and_reads_the_margins():
    sizes = (4, 4, 2, 1)
    student, still = (tuple(jnp.zeros((2, n, n, c)) for n in sizes) for c in (3, 2))
    loss = OFD()
    loss.build(Network(None, Outputs(None, (), student)), Network(WithNorms(), Outputs(None, (), still)), nnx.Rngs(0))
    for connector in loss.connectors:
        np.testing.assert_allclose(connector.margin[...], [-sqrt(2 / pi), -1.0], rtol=1e-6)
    # Maps of zeros stay zero, which costs 3² at every place and channel where the teacher says 3.
    for stage, factor in [(0, 0.0), (1, 0.25), (2, 0.5), (3, 1.0)]:
        teacher = tuple(maps + 3.0 * (i == stage) for i, maps in enumerate(still))
        found = loss(Outputs(None, (), student), Outputs(None, (), teacher), None, PROGRESS, None)
        assert float(found) == pytest.approx(factor * sizes[stage] ** 2 * 2 * 9, rel=1e-6)


@both_precisions
def test_the_authors_hierarchical_context(dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays("reviewkd_hcl", dtype)
        ours, theirs = ([golden[f"{who}_{i}"] for i in range(3)] for who in ("student", "teacher"))

        def total(ours):
            return sum(hierarchical_context(*pair) for pair in zip(ours, theirs, strict=True))

        value, gradients = jax.jit(jax.value_and_grad(total))(ours)
        assert relative_error(value, golden["loss"]) < value_tolerance
        for i, gradient in enumerate(gradients):
            assert relative_error(gradient, golden[f"grad_student_{i}"]) < gradient_tolerance


def test_hierarchical_context_by_hand():
    # A 4×4 map whose upper half is 2 too high: 2 as it is; 2 over 2×2; 1 when averaged: (2 + 2/2 + 1/4) / (7/4).
    apart = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(2.0)
    assert float(hierarchical_context(apart + 3, jnp.full_like(apart, 3.0))) == pytest.approx(3.25 / 1.75, rel=1e-6)


def test_sizes_change_as_in_pytorch():
    maps = jnp.arange(5.0).reshape(1, 1, 5, 1)
    assert average_pool(maps, (1, 3)).ravel().tolist() == pytest.approx([0.5, 2.0, 3.5])  # ⌊5i/3⌋ to ⌈5(i+1)/3⌉
    assert nearest(maps, (2, 3)).ravel().tolist() == [0, 1, 3, 0, 1, 3]


def pooled_by(maps, factor):
    b, h, w, c = maps.shape
    return maps.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


def normalised(maps, norm):
    flat = maps.reshape(-1, maps.shape[-1])
    centred = (maps - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    return centred * np.asarray(norm.scale[...], np.float64) + np.asarray(norm.bias[...], np.float64)


def enlarged(maps, size):
    pick = [int(i * maps.shape[1] / size) for i in range(size)]
    return maps[:, pick][:, :, pick]


def fused_by_the_paper(fusion, maps, deeper, size):
    """Chen et al., figure 3b, place by place."""
    fused = normalised(maps @ np.asarray(fusion.projection.kernel[...], np.float64), fusion.norm)
    if deeper is not None:
        deeper = enlarged(deeper, maps.shape[1])
        layer = fusion.attention
        logits = np.concatenate([fused, deeper], -1) @ np.asarray(layer.kernel[...], np.float64)
        weights = 1 / (1 + np.exp(-logits - np.asarray(layer.bias[...], np.float64)))
        fused = fused * weights[..., [0]] + deeper * weights[..., [1]]
    fused = enlarged(fused, size)
    kernel, out = np.asarray(fusion.kernel[...], np.float64), []
    for y in range(size):
        for x in range(size):
            near = [(i, j) for i in range(3) for j in range(3) if 0 <= y + i - 1 < size and 0 <= x + j - 1 < size]
            out.append(sum(fused[:, y + i - 1, x + j - 1] @ kernel[i, j] for i, j in near))
    out = np.stack(out, 1).reshape(len(maps), size, size, -1)
    return normalised(out, fusion.out_norm), fused


def context_by_the_paper(ours, theirs):
    """Squared differences of the maps as they are, then averaged to 4×4, 2×2 and 1×1; the sides are 6 or 1."""
    apart, errors = ours - theirs, [np.mean((ours - theirs) ** 2)]
    if ours.shape[1] == 6:
        windows = [slice(0, 2), slice(1, 3), slice(3, 5), slice(4, 6)]  # of 4 over a side of 6
        by_four = [[apart[:, rows, columns].mean((1, 2)) for columns in windows] for rows in windows]
        errors += [np.mean(np.square(by_four)), np.mean(pooled_by(apart, 3) ** 2), np.mean(pooled_by(apart, 6) ** 2)]
    weights = 0.5 ** np.arange(len(errors))
    return weights @ errors / weights.sum()


@both_precisions
def test_reviewkd_is_what_the_paper_draws(dtype, value_tolerance, gradient_tolerance):
    rng = np.random.default_rng(0)
    student = [rng.standard_normal(shape) for shape in [(4, 6, 6, 2), (4, 6, 6, 3), (4, 3, 3, 4), (4, 5)]]
    teacher = [rng.standard_normal(shape) for shape in [(4, 6, 6, 2), (4, 6, 6, 4), (4, 6, 6, 5), (4, 7)]]
    with precision(dtype):
        ours, theirs = (tuple(jnp.asarray(value, dtype) for value in values) for values in (student, teacher))
        ours, theirs = Outputs(None, ours), Outputs(None, theirs, theirs[:-1])
        loss = ReviewKD()
        loss.build(Network(None, ours), Network(None, theirs), nnx.Rngs(0))
        sizes, deeper, expected = [6, 6, 1], None, []
        for i in (2, 1, 0):
            maps = student[i + 1] if i < 2 else student[3][:, None, None]
            out, deeper = fused_by_the_paper(loss.fusions[i], maps, deeper, sizes[i])
            expected.insert(0, out)
        found = jax.jit(lambda features: loss.review(features, [(size, size) for size in sizes]))(ours.features)
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) < value_tolerance
        targets = [teacher[1], teacher[2], teacher[3][:, None, None]]
        total = sum(context_by_the_paper(np.asarray(one), other) for one, other in zip(found, targets, strict=True))
        value = jax.jit(lambda ours: loss(ours, theirs, None, PROGRESS, None))(ours)
        assert relative_error(value, total) < value_tolerance


def test_what_is_learned_starts_as_the_authors_begin():
    def network(width):
        maps = (jnp.zeros((2, 4, 4, 8)), jnp.zeros((2, 4, 4, 100)))
        return Network(nnx.Module(), Outputs(None, (*maps, jnp.zeros((2, width))), maps))

    loss = ReviewKD()
    loss.build(network(600), network(700), nnx.Rngs(0))
    stage, _ = loss.fusions
    assert stage.projection.kernel.shape == (100, 512)  # of the student's 600, at most 512
    for kernel, fan in ((stage.projection.kernel, 100), (stage.kernel, 9 * 512)):
        assert 0.98 < float(jnp.abs(kernel[...]).max()) / sqrt(3 / fan) <= 1
    connector = Connector(400, np.zeros(100), rngs=nnx.Rngs(0))
    assert float(connector.projection.kernel[...].std()) == pytest.approx(sqrt(2 / 100), rel=0.02)
