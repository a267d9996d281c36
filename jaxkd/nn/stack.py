"""Equal blocks as one loop over stacked weights, so that a deep network compiles as fast as a shallow one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxkd.nn.layers import KEPT, Preactivation

Carried = Any  # jax.Array | Preactivation, and what comes out is of the kind that went in

LOOP_FROM = 4
"""From how many equal blocks on a loop is worth it; fewer are written out."""


class Stack(nnx.Module):
    """Blocks of the same structure, applied one after another; itself called like a block.

    Their weights lie stacked along a first axis: the network compiles one block however many there are, and the
    optimizer updates one array where there would be as many as blocks. What the backward pass needs of a block is kept
    only as far as it is dear to compute (the outputs of convolutions); the rest is computed anew, which is what makes
    the loop as fast as the blocks written out.

    Args:
      blocks: called as `block(images, train)`, from one array, or one `Preactivation`, to the next of the same shape.

    Attributes:
      block: one block, each variable of which holds all blocks' values, `[n, …]`.
      length: how many blocks there are.
    """

    def __init__(self, blocks: Sequence[nnx.Module]):
        states = [nnx.to_pure_dict(nnx.state(block)) for block in blocks]
        self.block = blocks[0]  # itself, since a copy's attributes would be in another order
        nnx.update(self.block, nnx.State(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)))
        self.length = len(blocks)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Any:
        """A copy of the block at a position, to look at."""
        if not -self.length <= position < self.length:
            raise IndexError(f"a stack of {self.length} blocks has no block {position}")
        graph, state = nnx.split(self.block)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[position], nnx.to_pure_dict(state)))

    def __call__(self, images: Carried, train: bool) -> Carried:
        """All blocks but the last in a loop; what is between two ReLU-to-ReLU blocks is carried after the ReLU.

        The last is apart, since of what it returns both sides of the ReLU may be wanted.
        """
        graph, state = nnx.split(self.block)
        stacked = nnx.to_pure_dict(state)
        looped, last = (jax.tree.map(lambda leaf: leaf[cut], stacked) for cut in (slice(-1), -1))  # noqa: B023
        rectified = isinstance(images, Preactivation)
        carry, statistics = lax.scan(_body(graph, train, rectified), images.relu() if rectified else images, looped)
        closing = nnx.merge(graph, last)
        out = closing(Preactivation.behind(carry) if rectified else carry, train)
        if train:
            final = nnx.to_pure_dict(nnx.state(closing, nnx.BatchStat))
            joined = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), statistics, final)
            nnx.update(self.block, nnx.State(joined))
        return out


@functools.lru_cache(maxsize=128)
def _body(graph: nnx.GraphDef, train: bool, rectified: bool) -> Callable[[jax.Array, Any], tuple[jax.Array, Any]]:
    """The loop's body: always the same function for the same block, so that a call outside of jit compiles it once."""

    def body(images: jax.Array, weights: Any) -> tuple[jax.Array, Any]:
        block = nnx.merge(graph, weights)
        images = block(Preactivation.behind(images), train).relu() if rectified else block(images, train)
        return images, nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)) if train else None

    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    return jax.checkpoint(body, policy=policy, prevent_cse=False)  # a loop's body needs no guard against CSE


def stack_blocks(first: nnx.Module, rest: Sequence[nnx.Module]) -> nnx.List:
    """The blocks of a stage: the first, which changes the shape, and the equal ones after it, stacked if many."""
    return nnx.List([first, Stack(rest)] if len(rest) >= LOOP_FROM else [first, *rest])


def last_block(stage: nnx.List) -> Any:
    """The block that closes a stage; of a stack, a copy."""
    block = stage[-1]
    return block[-1] if isinstance(block, Stack) else block
