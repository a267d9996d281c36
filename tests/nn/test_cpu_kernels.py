"""The CPU kernels against float64, with everything a network may ask of them."""

import functools
import os
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sweeps import sweep

from jaxkd import models
from jaxkd.nn import cpu_kernels
from jaxkd.nn.batch_norm import batch_moments, batch_norm
from jaxkd.nn.convolution import convolve, convolve_add_relu
from jaxkd.nn.operations import affine, attend, gelu, layer_norm

needs_kernels = pytest.mark.skipif(not cpu_kernels.usable(jnp.float32), reason=cpu_kernels.describe())
pytestmark = needs_kernels

# window, stride, channels in, channels out, groups, (height, width)
CONVOLUTIONS = [
    (3, 1, 3, 16, 1, (9, 7)),
    (3, 1, 16, 16, 1, (8, 8)),
    (3, 2, 16, 32, 1, (9, 8)),
    (1, 1, 8, 24, 1, (5, 6)),
    (1, 2, 16, 32, 1, (8, 8)),
    (1, 2, 5, 7, 1, (7, 5)),
    (7, 2, 3, 64, 1, (32, 30)),
    (5, 3, 4, 6, 1, (11, 13)),
    (3, 1, 24, 24, 24, (6, 6)),
    (3, 2, 20, 20, 20, (7, 8)),
    (3, 1, 12, 24, 12, (6, 5)),
    (1, 1, 24, 60, 3, (4, 4)),
    (3, 1, 32, 64, 4, (6, 6)),
    (2, 2, 4, 8, 1, (8, 8)),
]


def arrays(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def in_float64(function, *args):
    """Values and gradients for a cotangent (the last argument), by XLA in float64."""
    with jax.enable_x64(True):
        *primals, cotangent = (jnp.asarray(np.asarray(arg, np.float64)) for arg in args)
        out, transpose = jax.vjp(function, *primals)
        return [np.asarray(value) for value in (out, *transpose(cotangent))]


def plain(stride, padding, groups):
    def function(images, kernel):
        return lax.conv_general_dilated(
            images, kernel, (stride,) * 2, [(padding,) * 2] * 2, None, None, ("NHWC", "HWIO", "NHWC"), groups
        )

    return function


def close(found, wanted, tolerance, flips=0.0):
    """Within a tolerance relative to the size of what was wanted, but for a share of the values.

    Where a ReLU's input is next to zero, rounding may bring it to the other side, and the gradient is another.
    """
    assert found.shape == wanted.shape
    error = np.abs(np.asarray(found, np.float64) - wanted) / max(np.abs(wanted).max(), 1e-6)
    assert np.mean(~(error <= tolerance)) <= flips, error.max()


@sweep("dtype", ["float32", "bfloat16"], core=["float32"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_and_their_gradients(case, dtype):
    if not cpu_kernels.usable(dtype):
        pytest.skip(f"this processor has no {dtype}")
    window, stride, inputs, outputs, groups, size = case
    padding = window // 2
    images, kernel = arrays(0, dtype, (4, *size, inputs), (window, window, inputs // groups, outputs))
    kernel = kernel.astype(jnp.float32)
    out, transpose = jax.vjp(jax.jit(convolve, static_argnums=(2, 3, 4)), images, kernel, stride, padding, groups)[:2]
    (cotangent,) = arrays(1, dtype, out.shape)
    of_images, of_kernel, *_ = transpose(cotangent)
    assert (of_images.dtype, of_kernel.dtype) == (jnp.dtype(dtype), jnp.float32)
    seen = kernel.astype(dtype)  # what is computed from
    wanted = in_float64(plain(stride, padding, groups), images, seen, cotangent)
    for found, value in zip((out, of_images, of_kernel), wanted, strict=True):
        close(found, value, 2e-6 if dtype == "float32" else 1e-2)


def attention_in_full(queries, keys_values=None):
    others = queries if keys_values is None else keys_values
    query, key, value = queries[:, :, 0], others[:, :, -2], others[:, :, -1]
    scores = jnp.einsum("bnhc,bmhc->bhnm", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("bhnm,bmhc->bnhc", jax.nn.softmax(scores), value)


# queries, keys, heads, channels; keys are apart where their number is another
ATTENTION = [(197, 197, 3, 64), (5, 5, 1, 4), (1, 1, 2, 3), (700, 49, 1, 32), (3, 900, 2, 8), (300, 300, 1, 1)]


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_and_its_gradient(case):
    queries, keys, heads, channels = case
    if queries == keys:
        *given, cotangent = arrays(4, jnp.float32, (2, queries, 3, heads, channels), (2, queries, heads, channels))
    else:
        *given, cotangent = arrays(
            4,
            jnp.float32,
            (2, queries, 1, heads, channels),
            (2, keys, 2, heads, channels),
            (2, queries, heads, channels),
        )
    out, transpose = jax.vjp(jax.jit(attend), *given)
    wanted = in_float64(attention_in_full, *given, cotangent)
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, 2e-6)


def test_attention_of_large_scores_and_of_what_is_not_finite():
    (tokens,) = arrays(5, jnp.float32, (1, 40, 3, 2, 8))
    large = 30 * tokens  # scores of thousands: a softmax of ones and zeros
    cotangent = jnp.ones((1, 40, 2, 8))
    out, transpose = jax.vjp(attend, large)
    assert all(np.isfinite(found).all() for found in (out, *transpose(cotangent)))
    close(out, in_float64(attention_in_full, large, cotangent)[0], 1e-5)
    found = np.asarray(attend(tokens.at[0, 3, 0, 1, 0].set(jnp.nan)))  # one query of one head
    assert np.isnan(found[0, 3, 1]).all()
    assert np.isfinite(np.delete(found, 3, axis=1)).all()


def test_attention_refuses_arrays_of_other_parts():
    with pytest.raises(ValueError, match=r"attention of arrays \(2, 5, 2, 1, 4\)"):
        attend(jnp.zeros((2, 5, 2, 1, 4)))


def test_attention_under_vmap_is_that_of_each():
    tokens, cotangent = arrays(6, jnp.float32, (3, 2, 7, 3, 2, 4), (3, 2, 7, 2, 4))

    def gradient(tokens, cotangent):
        out, transpose = jax.vjp(attend, tokens)
        return out, *transpose(cotangent)

    together = jax.jit(jax.vmap(gradient))(tokens, cotangent)
    each = [gradient(*pair) for pair in zip(tokens, cotangent, strict=True)]
    for found, wanted in zip(together, zip(*each, strict=True), strict=True):
        np.testing.assert_array_equal(found, np.stack(wanted))


@pytest.mark.parametrize("shape", [(7,), (1, 7), (33, 7), (4, 9, 7)], ids=str)
def test_a_linear_layer_and_its_gradients(shape):
    features, kernel, bias, cotangent = arrays(7, jnp.float32, shape, (7, 5), (5,), (*shape[:-1], 5))

    def layer(features, kernel, bias):
        return affine(features, kernel, bias)

    out, transpose = jax.vjp(jax.jit(layer), features, kernel, bias)

    def reference(features, kernel, bias):
        return features @ kernel + bias.reshape((1,) * (features.ndim - 1) + (-1,))

    wanted = in_float64(reference, features, kernel, bias, cotangent)
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, 2e-6)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (70, 6), (3, 11, 192)], ids=str)
def test_layer_normalisation_and_its_gradients(shape):
    values, scale, bias, cotangent = arrays(8, jnp.float32, shape, shape[-1:], shape[-1:], shape)
    values = 3 + 2 * values

    def reference(values, scale, bias):
        scale, bias = (value.reshape((1,) * (values.ndim - 1) + (-1,)) for value in (scale, bias))
        unit = (values - values.mean(-1, keepdims=True)) / jnp.sqrt(values.var(-1, keepdims=True) + 1e-5)
        return unit * scale + bias

    out, transpose = jax.vjp(jax.jit(functools.partial(layer_norm, epsilon=1e-5)), values, scale, bias)
    wanted = in_float64(reference, values, scale, bias, cotangent)
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, 2e-6)


def test_gelu_and_its_gradient():
    values = jnp.concatenate([jnp.linspace(-14, 14, 20001), jnp.array([-100.0, 0.0, 100.0])])
    out, transpose = jax.vjp(jax.jit(gelu), values)
    wanted = in_float64(lambda values: jax.nn.gelu(values, approximate=False), values, jnp.ones_like(values))
    for found, value in zip((out, *transpose(jnp.ones_like(values))), wanted, strict=True):
        error = np.abs(np.asarray(found, np.float64) - value)
        assert (error <= 3e-7 * np.maximum(np.abs(value), 1)).all()
        assert (error[:8500] <= 2e-5 * np.abs(value[:8500]) + 1e-30).all()  # the tail keeps its digits
    assert np.isnan(gelu(jnp.full(40, jnp.nan))).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_what_follows_a_convolution_is_computed_with_it(relu, adds):
    images, kernel, bias, residual, cotangent = arrays(
        2, jnp.float32, (3, 8, 8, 6), (3, 3, 6, 10), (10,), (3, 8, 8, 10), (3, 8, 8, 10)
    )

    def reference(images, kernel, bias, residual):
        out = plain(1, 1, 1)(images, kernel) + bias.reshape(1, 1, 1, -1) + (residual if adds else 0 * residual)
        return jnp.maximum(out, 0) if relu else out

    def ours(images, kernel, bias, residual):
        return convolve_add_relu(images, kernel, bias, residual if adds else None, 1, 1, 1, relu)

    out, transpose = jax.vjp(jax.jit(ours), images, kernel, bias, residual)
    wanted = in_float64(reference, images, kernel, bias, residual, cotangent)
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, 2e-6)


# channels in, channels out, padding, (height, width)
THREE_BY_THREE = [
    (16, 16, 1, (8, 8)),
    (16, 48, 1, (7, 5)),
    (32, 16, 0, (9, 6)),
    (48, 64, 2, (5, 5)),
    (64, 32, 1, (14, 3)),
    (256, 256, 1, (6, 6)),
    (256, 272, 1, (6, 6)),
    (32, 32, 1, (33, 34)),
]


@pytest.mark.parametrize("case", THREE_BY_THREE, ids=str)
def test_what_takes_fewer_products_is_as_exact(case):
    """3×3 convolutions whose channels fill vectors, by Winograd's algorithm where the processor has AVX2 or AVX-512."""
    inputs, outputs, padding, size = case
    images, kernel, bias = arrays(6, jnp.float32, (8, *size, inputs), (3, 3, inputs, outputs), (outputs,))
    shape = (8, *(n + 2 * padding - 2 for n in size), outputs)
    residual, cotangent = arrays(7, jnp.float32, shape, shape)
    images = images + 3  # what a ReLU leaves has a mean, which sums and differences of pixels must not spoil

    def reference(images, kernel, bias, residual):
        return jnp.maximum(plain(1, padding, 1)(images, kernel) + bias.reshape(1, 1, 1, -1) + residual, 0)

    def ours(images, kernel, bias, residual):
        return convolve_add_relu(images, kernel, bias, residual, 1, padding, 1, True)

    out, transpose = jax.vjp(jax.jit(ours), images, kernel, bias, residual)
    wanted = in_float64(reference, images, kernel, bias, residual, cotangent)
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, 2e-6, flips=1e-4)


@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("case", THREE_BY_THREE, ids=str)
def test_a_kernels_gradient_in_bfloat16_is_summed_in_float32(case, batch):
    if not cpu_kernels.usable(jnp.bfloat16):
        pytest.skip("this processor has no bfloat16")
    inputs, outputs, padding, size = case
    images, kernel = arrays(8, jnp.bfloat16, (batch, *size, inputs), (3, 3, inputs, outputs))
    transpose = jax.vjp(lambda kernel: convolve(images, kernel, 1, padding), kernel.astype(jnp.float32))[1]
    shape = (batch, *(n + 2 * padding - 2 for n in size), outputs)
    (cotangent,) = arrays(9, jnp.bfloat16, shape)
    wanted = in_float64(plain(1, padding, 1), images, kernel, cotangent)[2]
    close(transpose(cotangent)[0], wanted, 3e-6)  # one thread sums up 78,540 products


@pytest.mark.slow
def test_they_are_as_exact_on_processors_with_narrower_vectors(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX") or "c++"} "$@" -mno-avx512f\n')
    compiler.chmod(0o755)
    again = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "fewer_products or gradients",
    ]
    told = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path), "ONEDNN_MAX_CPU_ISA": "AVX2"}
    told["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    found = subprocess.run(again, env=told, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout
    assert list((tmp_path / "jaxkd" / "kernels").glob("*.so"))


def test_a_residual_is_not_spoilt_by_what_is_added_to_it():
    images, kernel, bias, residual = arrays(3, jnp.float32, (2, 4, 4, 3), (1, 1, 3, 5), (5,), (2, 4, 4, 5))
    before = np.asarray(residual)

    @jax.jit
    def twice(images, kernel, bias, residual):
        first = convolve_add_relu(images, kernel, bias, residual, 1, 0, 1, False)
        return first, residual, convolve_add_relu(images, kernel, bias, residual, 1, 0, 1, False)

    first, kept, second = twice(images, kernel, bias, residual)
    np.testing.assert_array_equal(kept, before)
    np.testing.assert_array_equal(residual, before)
    np.testing.assert_array_equal(first, second)


def test_convolutions_can_be_mapped():
    images, kernels = arrays(4, jnp.float32, (3, 2, 6, 6, 4), (3, 3, 3, 4, 8))
    mapped = jax.jit(jax.vmap(lambda one, kernel: convolve(one, kernel, 1, 1)))(images, kernels)
    for found, one, kernel in zip(mapped, images, kernels, strict=True):
        np.testing.assert_array_equal(found, convolve(one, kernel, 1, 1))


def test_channels_that_do_not_fit_are_refused():
    images, kernel = arrays(5, jnp.float32, (2, 4, 4, 3), (3, 3, 4, 8))
    with pytest.raises(ValueError, match="images of 3 channels"):
        convolve(images, kernel, 1, 1)


def test_operands_that_do_not_fit_are_refused_before_the_kernels_read_them():
    """Without a compiled program nothing else would: the kernels read as many numbers as the images have."""
    rows, images, kernel, short = arrays(9, jnp.float32, (4, 192), (8, 4, 4, 16), (192, 16), (48,))
    with pytest.raises(ValueError, match=r"layer normalisation of \(4, 192\) by scale \(48,\) and bias \(48,\)"):
        layer_norm(rows, short, short, 1e-5)
    with pytest.raises(ValueError, match=r"a bias \(48,\) for a product of 16 columns"):
        cpu_kernels.product(rows, kernel, short)
    each = [jnp.ones(16)] * 4
    for residual in (images[..., :8], images[:, :1, :1], images.astype(jnp.bfloat16)):
        with pytest.raises(ValueError, match=r"a residual .* for images float32\[8, 4, 4, 16\]: bring it to their"):
            batch_norm(images, *each, residual, 1e-5, True)
    with pytest.raises(ValueError, match=r"\(16,\), \(48,\) for images of 16 channels"):
        batch_norm(images, *each[:3], short, None, 1e-5, True)


def test_batches_of_nothing_are_nothing():
    kernel, bias, scale = jnp.ones((7, 5)), jnp.ones(5), jnp.ones(7)
    for shape in ((0, 7), (0, 3, 7), (2, 0, 7)):
        assert affine(jnp.zeros(shape), kernel, bias).shape == (*shape[:-1], 5)
        of_kernel = jax.grad(lambda kernel, features: affine(features, kernel, bias).sum())(kernel, jnp.zeros(shape))
        assert (np.asarray(of_kernel) == 0).all()
        assert layer_norm(jnp.zeros(shape), scale, scale, 1e-5).shape == shape
    assert attend(jnp.zeros((0, 5, 3, 4, 8))).shape == (0, 5, 4, 8)
    assert attend(jnp.ones((2, 0, 1, 4, 8)), jnp.ones((2, 7, 2, 4, 8))).shape == (2, 0, 4, 8)


def reference_norm(epsilon, relu, adds):
    def function(images, scale, bias, residual):
        axes = tuple(range(images.ndim - 1))
        mean, var = images.mean(axes), images.var(axes)
        out = (images - mean) / jnp.sqrt(var + epsilon) * scale + bias + (residual if adds else 0 * residual)
        return jnp.maximum(out, 0) if relu else out

    return function


NORMS = [
    ((4, 5, 5, 3), False, False),
    ((64, 8, 8, 16), True, False),
    ((64, 8, 8, 16), True, True),
    ((7, 3, 5, 17), True, True),
    ((33, 64), False, True),
    ((2, 3, 3, 300), True, True),
    ((5, 1, 1, 1000), True, False),
    ((1000, 1), True, True),
    ((64, 32, 32, 16), True, True),
]


@pytest.mark.parametrize(("shape", "relu", "adds"), NORMS)
@sweep("offset", [0.0, 1000.0], core=[1000.0])
def test_batch_normalisation_and_its_gradient(shape, relu, adds, offset):
    images, residual, cotangent, scale, bias = arrays(6, jnp.float32, shape, shape, shape, shape[-1:], shape[-1:])
    images = images + offset

    @jax.jit
    def ours(images, scale, bias, residual):
        return batch_norm(
            images,
            *batch_moments(images, jnp.zeros(images.shape[-1])),
            scale,
            bias,
            residual if adds else None,
            1e-5,
            relu,
        )

    out, transpose = jax.vjp(ours, images, scale, bias, residual)
    with jax.numpy_rank_promotion("allow"):
        wanted = in_float64(reference_norm(1e-5, relu, adds), images, scale, bias, residual, cotangent)
    tolerance = 3e-6 * max(1.0, offset)  # float32 cannot hold the images themselves better than this
    for found, value in zip((out, *transpose(cotangent)), wanted, strict=True):
        close(found, value, tolerance, flips=1e-5 if relu and offset else 0)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_moments_of_many_rows_lose_nothing(mean):
    images = jnp.asarray(np.random.default_rng(7).standard_normal((200_001, 3)) + mean, jnp.float32)
    exact = np.asarray(images, np.float64)
    found = batch_moments(images, jnp.zeros(images.shape[-1]))
    np.testing.assert_allclose(found[0], exact.mean(0), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found[1], exact.var(0), rtol=1e-6)


def test_batch_normalisation_in_bfloat16():
    if not cpu_kernels.usable(jnp.bfloat16):
        pytest.skip("this processor has no bfloat16")
    shape = (32, 8, 8, 24)
    images, residual, cotangent = arrays(8, jnp.bfloat16, shape, shape, shape)
    scale, bias = arrays(9, jnp.float32, shape[-1:], shape[-1:])

    def ours(images, scale, bias, residual):
        return batch_norm(
            images, *batch_moments(images, jnp.zeros(images.shape[-1])), scale, bias, residual, 1e-5, True
        )

    out, transpose = jax.vjp(ours, images, scale, bias, residual)
    with jax.numpy_rank_promotion("allow"):
        wanted = in_float64(reference_norm(1e-5, True, True), images, scale, bias, residual, cotangent)
    for found, value, tolerance in zip(
        (out, *transpose(cotangent)), wanted, (5e-3, 5e-3, 2e-3, 2e-3, 5e-3), strict=True
    ):
        close(found, value, tolerance, flips=1e-3)


def test_values_that_are_not_finite_are_passed_on():
    images = jnp.full((64, 4, 4, 16), jnp.nan)
    ones = jnp.ones(16)
    for dtype in ("float32", "bfloat16"):
        if cpu_kernels.usable(dtype):
            out = batch_norm(images.astype(dtype), ones, ones, ones, ones, None, 1e-5, True)
            assert bool(jnp.isnan(out).all())
    assert bool(jnp.isnan(convolve(images, jnp.ones((3, 3, 16, 16)), 1, 1)).all())
    for dtype in ("float32", "bfloat16"):
        if cpu_kernels.usable(dtype):  # whichever of the kernels computes it
            for side, stride, outputs in ((3, 1, 16), (3, 2, 16), (1, 1, 5)):
                kernel = jnp.ones((side, side, 16, outputs))
                out = convolve_add_relu(
                    images.astype(dtype), kernel, jnp.ones(outputs), None, stride, side // 2, 1, True
                )
                assert bool(jnp.isnan(out).all())


@pytest.mark.thorough
def test_the_gradient_of_a_network_is_as_exact_as_xlas():
    """A whole ResNet-20 in training: at most twice the error of XLA's own float32 form, against float64.

    Where a ReLU's input is next to zero, rounding decides on the gradient, in one draw of the images out of three. So
    the second best of five is compared.
    """
    script = """
import sys, numpy as np, jax, jax.numpy as jnp
from flax import nnx
from jaxkd import models
def gradients(dtype):
    graph, *parts = nnx.split(models.create("resnet20", num_classes=10, seed=0), nnx.Param, ...)
    params, rest = (jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), nnx.to_pure_dict(part)) for part in parts)
    def loss(params, images):
        logits = nnx.merge(graph, params, rest)(images, train=True).logits
        return -jax.nn.log_softmax(logits)[:, 3].mean()
    gradient, draws = jax.jit(jax.grad(loss)), np.random.default_rng(0).standard_normal((5, 4, 32, 32, 3))
    each = [jax.tree.leaves(gradient(params, jnp.asarray(images, dtype))) for images in draws]
    return jnp.stack([jnp.concatenate([leaf.ravel() for leaf in leaves]) for leaves in each])
if sys.argv[1] == "float64":
    jax.config.update("jax_enable_x64", True)
np.save(sys.argv[2], np.asarray(gradients(sys.argv[1]), np.float64))
"""
    found = {}
    for name, dtype, switch in (("exact", "float64", "off"), ("xla", "float32", "off"), ("kernels", "float32", "on")):
        found[name] = run_and_load(script, dtype, switch, XLA_FLAGS="")  # float64 would take a minute without
    errors = {name: np.sort(np.linalg.norm(found[name] - found["exact"], axis=1)) for name in ("xla", "kernels")}
    assert errors["kernels"][1] <= 2 * errors["xla"][1], errors


def run_and_load(script, dtype, switch, **variables):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "found.npy")
        environment = {**os.environ, "JAXKD_CPU_KERNELS": switch, **variables}
        subprocess.run([sys.executable, "-c", script, dtype, path], check=True, env=environment, timeout=300)
        return np.load(path)


@pytest.mark.thorough
def test_equal_convolutions_at_once_do_not_disturb_each_other():
    """As in an ensemble: XLA calls for them from several threads, and each call has threads of its own."""
    script = """
import sys, numpy as np, jax, jax.numpy as jnp
from jaxkd.nn.convolution import convolve
def run(images, kernel, cotangent):
    out, transpose = jax.vjp(lambda images, kernel: convolve(images, kernel, 2, 1), images, kernel)
    return out, *transpose(cotangent)
draws, shapes = np.random.default_rng(0), ((64, 32, 32, 16), (3, 3, 16, 32), (64, 16, 16, 32))
each = [[jnp.asarray(draws.standard_normal(shape), jnp.float32) for shape in shapes] for _ in range(8)]
alone, at_once = jax.jit(run), jax.jit(lambda each: [run(*one) for one in each])
wanted = [alone(*one) for one in each]
np.save(sys.argv[2], [
    np.array_equal(one, other)
    for _ in range(20) for ones, others in zip(wanted, at_once(each)) for one, other in zip(ones, others)
])
"""
    assert run_and_load(script, "float32", "on", OMP_NUM_THREADS="2").all()


@pytest.mark.thorough
@pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT", "OMP_MAX_ACTIVE_LEVELS"])
def test_no_share_of_the_work_is_left_where_fewer_threads_are_allowed(limit):
    script = """
import sys, numpy as np, jax.numpy as jnp
from jaxkd.nn.batch_norm import batch_moments
images = jnp.asarray(np.random.default_rng(0).standard_normal((64, 16, 16, 16)) + 5, jnp.float32)
np.save(sys.argv[2], batch_moments(images, jnp.zeros(16)))
"""
    allowed = {"OMP_THREAD_LIMIT": "1", "OMP_MAX_ACTIVE_LEVELS": "0"}[limit]
    mean, variance = run_and_load(script, "float32", "on", OMP_NUM_THREADS="2", **{limit: allowed})
    np.testing.assert_allclose(mean, 5, atol=0.05)
    np.testing.assert_allclose(variance, 1, atol=0.05)


@pytest.mark.slow
def test_processes_with_as_many_threads_end_with_the_same_bits():
    script = """
import sys, numpy as np, jax, jax.numpy as jnp
from jaxkd import Trainer, models, optimizers
trainer = Trainer(models.create("resnet8", num_classes=10, seed=0))
trainer.compile(optimizers.sgd(0.02, momentum=0.9))  # at larger rates six steps make last bits large
rng = np.random.default_rng(0)
images, labels = rng.standard_normal((96, 16, 16, 3)).astype(np.float32), np.arange(96) % 10
trainer.fit((images, labels), epochs=2, batch_size=32, verbose=0)
np.save(sys.argv[2], np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(trainer.state.params)]))
"""
    once, again = (run_and_load(script, "float32", "on") for _ in range(2))
    np.testing.assert_array_equal(once, again)
    asked_for_fewer = run_and_load(script, "float32", "on", OMP_DYNAMIC="true")  # where the machine is busy
    np.testing.assert_array_equal(once, asked_for_fewer)
    alone = run_and_load(script, "float32", "on", OMP_NUM_THREADS="1")
    assert np.abs(alone - once).max() < 1e-3  # sums in another order, over six steps


def test_networks_compute_with_the_kernels():
    model = models.create("resnet8", num_classes=10)
    program = jax.jit(lambda images: model(images, train=False).logits).lower(jnp.zeros((2, 8, 8, 3))).as_text()
    assert program.count("@jaxkd_convolution(") == 9  # with both shortcuts, and every BatchNorm folded
    assert "stablehlo.convolution" not in program
