"""Losses on features as the engine uses them: built for two networks, then pure functions of their variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from reference import golden

from jaxkd import Batch, Outputs, Progress
from jaxkd.losses import Network
from jaxkd.training.state import split

PROGRESS = Progress(jnp.int32(0), jnp.int32(1))


def golden_arrays(name, dtype):
    """The arrays of one reference case: floats as `dtype`, maps with their channels last, indices as int32."""
    arrays = {}
    for key, value in golden(f"losses/{name}").items():
        if np.issubdtype(value.dtype, np.integer):
            arrays[key] = jnp.asarray(value, jnp.int32)
        else:
            last = value.transpose(0, 2, 3, 1) if key.endswith("_nchw") else value
            arrays[key.removesuffix("_nchw")] = jnp.asarray(last, dtype)
    return arrays


def network(*features, logits=None, classify=None):
    """What a loss is told of a network with these features."""
    return Network(nnx.Module(), Outputs(logits, features, classify=classify and jax.tree_util.Partial(classify)))


def built(loss, student, teacher):
    """`(graph, params, rest)` of a loss built for two networks."""
    loss.build(student, teacher, nnx.Rngs(0))
    return split(loss)


def evaluate(graph, params, rest, student, teacher, batch=None, key=None):
    """Compiled: the value, its gradients for the params and the student's features, the other variables afterwards."""
    outputs = student._replace(features=()), teacher
    (found, after), (learned, gradient) = _compiled(graph)(params, student.features, rest, outputs, batch, key)
    return found, learned, gradient, after


@functools.cache
def _compiled(graph):
    def value(params, features, rest, outputs, batch, key):
        loss, (student, teacher) = nnx.merge(graph, params, rest), outputs
        found = loss(student._replace(features=features), teacher, batch, PROGRESS, key)
        return found, split(loss)[2]

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


def finite(tree):
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


def batch_of(labels, index=None):
    index = np.arange(len(labels)) if index is None else index
    return Batch(None, jnp.asarray(labels, jnp.int32), jnp.asarray(index, jnp.int32))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
