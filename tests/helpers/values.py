"""How loss values are compared with reference numbers: in float32, and in float64 more strictly."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

both_precisions = pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [
        pytest.param(jnp.float32, 1e-5, 1e-4, id="float32"),
        pytest.param(jnp.float64, 1e-9, 1e-9, id="float64", marks=pytest.mark.thorough),
    ],
)


def precision(dtype):
    return jax.enable_x64(True) if dtype == jnp.float64 else contextlib.nullcontext()


def relative_error(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(theirs).max())
