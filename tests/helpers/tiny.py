"""A network that compiles in a moment, a few real digits, and what tests read out of a trainer."""

import functools

import jax
import numpy as np
from flax import nnx

from jaxkd import Outputs, data
from jaxkd.nn.layers import BatchNorm, Conv, Linear, global_average_pool


class TinyNet(nnx.Module):
    """Convolution, BatchNorm, linear layer: all kinds of variables a classifier has."""

    def __init__(self, num_classes=10, seed=0, width=8, normalization=None):
        rngs = nnx.Rngs(seed)
        self.conv, self.bn = Conv(3, width, 3, 2, rngs=rngs), BatchNorm(width)
        self.fc = Linear(width, num_classes, rngs=rngs)
        self.num_classes, self.normalization = num_classes, normalization

    def __call__(self, images, train=False):
        features = jax.nn.relu(self.bn(self.conv(images), train))
        pooled = global_average_pool(features)
        return Outputs(self.fc(pooled), (features, pooled))


class DroppingNet(TinyNet):
    """Drops half of its logits in training, by random keys of its own."""

    def __init__(self, seed=0, **options):
        super().__init__(seed=seed, **options)
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(seed))

    def __call__(self, images, train=False):
        outputs = super().__call__(images, train)
        return outputs._replace(logits=self.drop(outputs.logits, deterministic=not train))


@functools.cache
def digits():
    """`(train, test)`, the embedded digits."""
    return data.load("digits")


def weights(module):
    """All variables of a module by path, as NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(module)))
    return {jax.tree_util.keystr(path): np.array(value) for path, value in leaves}


def leaves(tree):
    """All arrays of a pytree as NumPy arrays, random keys included."""
    plain = [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
    return [np.array(x) for x in plain]


def assert_same_bits(ours, theirs):
    """Two dictionaries or lists of arrays agree in every bit."""
    assert len(ours) == len(theirs)
    pairs = (
        [(key, ours[key], theirs[key]) for key in ours]
        if isinstance(ours, dict)
        else zip(range(len(ours)), ours, theirs, strict=True)
    )
    for key, one, other in pairs:
        np.testing.assert_array_equal(one, other, err_msg=str(key))


def reproducible(history):
    """What of a history is the same in every run: all but the speed."""
    record = history.to_dict()
    del record["history"]["images_per_second"]
    return record
