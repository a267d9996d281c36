"""Convolution, BatchNorm and initial weights against autodiff, PyTorch and the formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from sweeps import sweep

from jaxkd import models
from jaxkd.nn.batch_norm import batch_norm, batch_norm_of_maxima, moments_in_one_pass
from jaxkd.nn.convolution import _by_xla, _loop_gradients, _xla_gradients, convolve
from jaxkd.nn.layers import BatchNorm, Conv, Linear, _maxima_of_windows, max_pool


def double(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape))


@sweep("window", [1, 2, 3, 5], core=[3])
def test_the_loops_gradient_rule_is_autodiffs(window):
    rng = np.random.default_rng(window)
    with jax.enable_x64(True):
        for stride, size in [(1, (6, 6)), (1, (5, 8)), (2, (6, 6)), (2, (7, 5)), (2, (8, 7)), (3, (7, 9))]:
            padding = window // 2
            images, kernel = double(rng, 2, *size, 3), double(rng, window, window, 3, 4)

            def plain(images, kernel, stride=stride, borders=[(padding, padding)] * 2):
                dimensions = ("NHWC", "HWIO", "NHWC")
                return lax.conv_general_dilated(images, kernel, (stride,) * 2, borders, dimension_numbers=dimensions)

            out, transpose = jax.vjp(plain, images, kernel)
            np.testing.assert_allclose(convolve(images, kernel, stride, padding), out, atol=1e-12)
            cotangent = double(rng, *out.shape)
            ours = jax.jit(_loop_gradients, static_argnums=(3, 4))(images, kernel, cotangent, stride, padding)
            theirs = transpose(cotangent)
            for one, other in zip(ours, theirs, strict=True):
                assert one.shape == other.shape
                np.testing.assert_allclose(one, other, atol=1e-10, err_msg=f"{stride} {size} {padding}")


@sweep(
    ("groups", "outputs"),
    [(2, 6), (6, 12), (3, 6), (6, 6)],
    core=[(2, 6)],
    thorough=(),
)
def test_grouped_convolutions_on_both_kinds_of_platform(groups, outputs):
    rng = np.random.default_rng(groups)
    with jax.enable_x64(True):
        for window, stride, size in [(1, 1, (5, 5)), (3, 1, (5, 6)), (3, 2, (6, 7)), (1, 2, (4, 5))]:
            padding = window // 2
            images, kernel = double(rng, 2, *size, 6), double(rng, window, window, 6 // groups, outputs)
            out, transpose = jax.vjp(partial(_by_xla, stride=stride, padding=padding, groups=groups), images, kernel)
            ours, pullback = jax.vjp(lambda *args: convolve(*args, stride, padding, groups), images, kernel)  # noqa: B023
            np.testing.assert_allclose(ours, out, atol=1e-12)
            cotangent = double(rng, *out.shape)
            for one, other in zip(pullback(cotangent), transpose(cotangent), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-10, err_msg=f"{window} {stride} {size}")


@sweep(("stride", "groups"), [(1, 1), (2, 1), (2, 2), (1, 6)], core=[(2, 2)])
def test_gradients_of_many_convolutions_at_once_are_those_of_each(stride, groups):
    """As GPUs compute a sweep, with images, kernels and cotangents of one or of every run."""
    rng = np.random.default_rng(stride)
    with jax.enable_x64(True):
        images, kernels = double(rng, 3, 2, 7, 6, 6), double(rng, 3, 3, 3, 6 // groups, 6)
        cotangents = double(rng, 3, 2, *((n + 2 - 3) // stride + 1 for n in (7, 6)), 6)
        gradients, each = _xla_gradients(stride, 1, groups), (images, kernels, cotangents)
        for shared in ((), (0,), (1,), (2,), (0, 1)):
            given = [array[0] if i in shared else array for i, array in enumerate(each)]
            found = jax.vmap(gradients, in_axes=[None if i in shared else 0 for i in range(3)])(*given)
            for run in range(3):
                alone = [array if i in shared else array[run] for i, array in enumerate(given)]
                for one, other in zip(found, gradients(*alone), strict=True):
                    np.testing.assert_allclose(one[run], other, atol=1e-10, err_msg=f"{shared}")


@sweep(("stride", "padding", "groups"), [(1, 1, 1), (2, 1, 1), (2, 0, 2), (3, 2, 6)], core=[(2, 1, 1)])
def test_the_gradient_of_a_kernel_is_summed_in_its_own_type(stride, padding, groups):
    rng = np.random.default_rng(stride)
    images = jnp.asarray(rng.standard_normal((2, 8, 7, 6)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 6 // groups, 6)), jnp.float32)
    out, transpose = jax.vjp(
        lambda kernel: _by_xla(images.astype(jnp.float32), kernel, stride, padding, groups), kernel
    )
    cotangent = jnp.asarray(rng.standard_normal(out.shape), jnp.bfloat16)
    _, found = _xla_gradients(stride, padding, groups)(images, kernel, cotangent)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, transpose(cotangent.astype(jnp.float32))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mean", "near", "error"), [(0, 0, 1e-6), (30, 30, 1e-6), (3, 0, 1e-5), (-100, -99, 1e-6)])
def test_moments_in_one_pass_are_as_exact_as_they_say(mean, near, error):
    images = (mean + np.random.default_rng(0).standard_normal((64, 16, 16, 4))).astype(np.float32)
    found = moments_in_one_pass(jnp.asarray(images), jnp.full(4, near, jnp.float32))
    exact = images.astype(np.float64)
    in_order = 10 if jax.__version_info__ < (0, 10, 2) else 1  # XLA added up one after the other on the CPU
    np.testing.assert_allclose(found[0], exact.mean((0, 1, 2)), atol=1e-6 * (1 + abs(mean)))
    np.testing.assert_allclose(found[1], exact.var((0, 1, 2)), rtol=error * in_order)


@sweep("size", [(8, 8), (7, 9)], core=[(7, 9)])
@pytest.mark.parametrize(("window", "padding"), [(2, 0), (3, 1)])
def test_max_pooling_is_pytorchs(size, window, padding):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    theirs = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(theirs, window, 2, padding)
    pooled.square().sum().backward()
    for pool in (max_pool, _maxima_of_windows):  # the second where there is no CPU
        ours = pool(jnp.asarray(images), window, padding)
        np.testing.assert_array_equal(ours, pooled.detach().numpy().transpose(0, 2, 3, 1))
        gradient = jax.jit(jax.grad(lambda images: jnp.sum(jnp.square(pool(images, window, padding)))))(images)  # noqa: B023
        np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6)


@pytest.mark.parametrize(("window", "padding"), [(2, 0), (3, 1)])
def test_normalising_the_maxima_only_is_pooling_what_was_normalised(window, padding):
    rng = np.random.default_rng(window)
    pool = partial(_maxima_of_windows, window=window, padding=padding)

    def after(images, mean, var, scale, bias):
        return pool(batch_norm(images, mean, var, scale, bias, None, 1e-5, False))

    def before(*values):
        return batch_norm_of_maxima(*values, 1e-5, pool)

    def outputs(function, images, scale, bias):
        values = lax.stop_gradient(images).astype(scale.dtype)  # their part is in the gradient of the images
        return function(images, values.mean((0, 1, 2)), values.var((0, 1, 2)), scale, bias)

    with jax.enable_x64(True):
        images, bias = double(rng, 3, 8, 6, 4) * 2 + 1, double(rng, 4)
        scale = jnp.array([0.7, -1.3, 0.0, 2.0])
        (one, back), (other, to_compare) = (
            jax.vjp(partial(outputs, function), images, scale, bias) for function in (before, after)
        )
        np.testing.assert_array_equal(one, other)
        cotangent = double(rng, *one.shape)
        chosen = jnp.array([0, 1, 3])  # where the scale is 0, every pixel is a maximum: the scale's gradient is free
        for ours, theirs in zip(back(cotangent), to_compare(cotangent), strict=True):
            np.testing.assert_allclose(ours[..., chosen], theirs[..., chosen], atol=1e-12)
    narrow = images.astype(jnp.bfloat16), *(value.astype(jnp.float32) for value in (scale, bias))
    np.testing.assert_array_equal(outputs(before, *narrow), outputs(after, *narrow))


def test_accelerators_add_the_bias_to_maxima_only():
    def pooled(images):
        return BatchNorm(4).preactivation(images, True).max_pool(3, padding=1).relu()

    traced = jax.jit(pooled).trace(jnp.ones((2, 8, 8, 4)))
    for platform in ("cuda", "tpu"):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        added = [line for line in program.splitlines() if "= stablehlo.add " in line]
        assert any("tensor<2x4x4x4xf32>" in line for line in added)
        assert not any("tensor<2x8x8x4xf32>" in line for line in added)


def test_the_platforms_rule_is_chosen_when_compiling():
    def loss(images, kernel):
        return jnp.sum(jnp.square(convolve(images, kernel, 2, 1)))

    args = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile().as_text()
    assert "convolution(" in compiled or "custom-call" in compiled
    assert "conditional" not in compiled


@pytest.mark.parametrize(("size", "stride"), [((8, 8), 2), ((7, 9), 2), ((5, 5), 1)])
def test_padding_is_pytorchs(size, stride):
    torch = pytest.importorskip("torch")
    for window in (1, 3):
        ours = Conv(3, 4, window, stride, bias=True, rngs=nnx.Rngs(window))
        ours.bias[...] = jnp.arange(4, dtype=jnp.float32)
        theirs = torch.nn.Conv2d(3, 4, window, stride, padding=window // 2)
        with torch.no_grad():
            theirs.weight.copy_(torch.tensor(np.array(ours.kernel[...]).transpose(3, 2, 0, 1)))
            theirs.bias.copy_(torch.tensor(np.array(ours.bias[...])))
        images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
        wanted = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours(jnp.asarray(images)), wanted, atol=1e-5)


def test_batch_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    scale, bias = rng.standard_normal((2, 3)).astype(np.float32)
    ours.scale[...], ours.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    theirs.weight.data, theirs.bias.data = torch.tensor(scale), torch.tensor(bias)
    graph, params, stats = nnx.split(ours, nnx.Param, nnx.BatchStat)

    @jax.jit
    def step(params, stats, images, cotangent):
        def objective(params, images):
            layer = nnx.merge(graph, params, stats)
            out = layer(images, train=True)
            return jnp.sum(out * cotangent), (out, nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)))

        return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, images)

    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    for batch in range(4):
        # Far from zero mean, so that a variance taken as E[x²] − E[x]² would show.
        images = (5 + (batch + 1) * rng.standard_normal((4, 5, 6, 3))).astype(np.float32)
        cotangent = rng.standard_normal(images.shape).astype(np.float32)
        (slopes, slope), (out, stats) = step(params, stats, images, cotangent)
        theirs.zero_grad()
        leaf = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
        wanted = theirs(leaf)
        wanted.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
        pairs = [
            (out, wanted.detach().numpy().transpose(0, 2, 3, 1)),
            (slope, leaf.grad.numpy().transpose(0, 2, 3, 1)),
            (slopes["scale"], theirs.weight.grad.numpy()),
            (slopes["bias"], theirs.bias.grad.numpy()),
            (stats["mean"], theirs.running_mean.numpy()),
            (stats["var"], theirs.running_var.numpy()),
        ]
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    nnx.update(ours, nnx.State(stats))
    theirs.eval()
    wanted = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours(jnp.asarray(images), train=False), wanted, atol=1e-5)
    np.testing.assert_array_equal(ours.mean[...], stats["mean"])  # evaluation leaves the statistics alone


def test_convolutions_begin_kaiming_normal_and_linear_layers_uniform():
    conv = np.array(Conv(32, 64, 3, rngs=nnx.Rngs(0)).kernel[...])
    wanted = (2 / (3 * 3 * 64)) ** 0.5  # fan-out
    assert conv.std() == pytest.approx(wanted, rel=0.02)
    assert abs(conv.mean()) < 0.02 * wanted
    assert np.abs(conv).max() > 3 * wanted  # a normal distribution, not one cut off at two deviations

    linear = Linear(100, 200, rngs=nnx.Rngs(0))
    for values in (np.array(linear.kernel[...]), np.array(linear.bias[...])):
        assert 0.09 < np.abs(values).max() <= 0.1  # 1/sqrt(100)
        assert values.std() == pytest.approx(0.1 / 3**0.5, rel=0.1)


def test_equal_seeds_give_equal_networks_and_other_seeds_others():
    one, same, other = (models.create("resnet8", num_classes=10, seed=seed).conv1.kernel[...] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1
