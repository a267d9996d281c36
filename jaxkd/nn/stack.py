"""Stages of blocks: equal blocks run as one loop over stacked weights, so that deep networks compile fast."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxkd.nn.layers import Linear, Preactivation, global_average_pool
from jaxkd.nn.operations import SAVED
from jaxkd.types import Outputs

Carried = TypeVar("Carried", jax.Array, Preactivation)

CHANGED = nnx.Any(nnx.BatchStat, nnx.RngCount)
"""The variables that a block changes in training: running statistics, and how often it drew random numbers."""

LOOP_FROM = 4
"""The number of equal blocks from which a loop pays; fewer are written out."""


class Stack(nnx.Module):
    """Blocks of the same structure, applied one after another; itself called like a block.

    Their weights are stacked along a first axis: the network compiles one block however many there are, and the
    optimizer updates one array instead of one per block. For the backward pass only the expensive values of a block are
    saved (the outputs of convolutions); the rest is recomputed, which makes the loop as fast as the blocks written out.

    Args:
      blocks: called as `block(images, train)`, from one array, or one `Preactivation`, to the next of the same shape.
      names: of the blocks, where the stack stands in a module for attributes called so; in a list they are numbered.

    Attributes:
      block: one block, each variable of which holds all blocks' values, `[n, …]`.
      length: the number of blocks.
    """

    def __init__(self, blocks: Sequence[nnx.Module], names: Sequence[str] = ()):
        states = [nnx.to_pure_dict(nnx.state(block)) for block in blocks]
        self.block = blocks[0]  # itself, since a copy's attributes would be in another order
        nnx.update(self.block, nnx.State(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)))
        self.length = len(blocks)
        self.names = tuple(names)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Any:
        """Return a copy of the block at a position."""
        if not -self.length <= position < self.length:
            raise IndexError(f"a stack of {self.length} blocks has no block {position}")
        graph, state = nnx.split(self.block)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[position], nnx.to_pure_dict(state)))

    def __call__(self, images: Any, train: bool) -> Any:
        """Apply all blocks to an array or a `Preactivation`, and return the same kind.

        The loop carries an array from block to block. Of `Preactivation`s it carries the output of the ReLU, and the
        last block runs outside of it, since both sides of the ReLU after it may be wanted.
        """
        graph, state = nnx.split(self.block)
        stacked = nnx.to_pure_dict(state)
        if not isinstance(images, Preactivation):
            out, changed = lax.scan(_body(graph, train, False), images, stacked)
            if train:
                nnx.update(self.block, nnx.State(changed))
            return out
        looped, last = (jax.tree.map(lambda leaf: leaf[cut], stacked) for cut in (slice(-1), -1))  # noqa: B023
        carry, changed = lax.scan(_body(graph, train, True), images.relu(), looped)
        closing = nnx.merge(graph, last)
        before = closing(Preactivation.behind(carry), train)
        if train:
            final = nnx.to_pure_dict(nnx.state(closing, CHANGED))
            joined = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), changed, final)
            nnx.update(self.block, nnx.State(joined))
        return before


@functools.lru_cache(maxsize=128)
def _body(graph: nnx.GraphDef[Any], train: bool, rectified: bool) -> Callable[[jax.Array, Any], tuple[jax.Array, Any]]:
    """Return the loop's body, the same function for the same block, so that a call outside of jit compiles it once."""

    def body(images: jax.Array, weights: Any) -> tuple[jax.Array, Any]:
        block = nnx.merge(graph, weights)
        images = block(Preactivation.behind(images), train).relu() if rectified else block(images, train)
        return images, nnx.to_pure_dict(nnx.state(block, CHANGED)) if train else None

    policy = jax.checkpoint_policies.save_only_these_names(SAVED)
    return jax.checkpoint(body, policy=policy, prevent_cse=False)  # a loop's body needs no guard against CSE


def stack_blocks(first: nnx.Module, rest: Sequence[nnx.Module]) -> nnx.List[Any]:
    """Return a stage: the first block, which changes the shape, and the equal ones after it, stacked if many."""
    return nnx.List([first, Stack(rest)] if len(rest) >= LOOP_FROM else [first, *rest])


def named_blocks(blocks: Mapping[str, nnx.Module]) -> nnx.Dict[Any]:
    """Return a stage like that of `stack_blocks`, whose blocks have names instead of numbers."""
    (name, first), *rest = blocks.items()
    if len(rest) < LOOP_FROM:
        return nnx.Dict(blocks)
    names, equal = zip(*rest, strict=True)
    return nnx.Dict({name: first, names[0]: Stack(equal, names)})


def stack_stages(blocks: Sequence[nnx.Module], stages: int) -> nnx.List[Any]:
    """Return equal blocks in so many stages of about as many blocks, each a stack; of one block, the block itself.

    Fewer blocks than stages are a stage each.

    Raises:
      ValueError: for no blocks.
    """
    if not blocks:
        raise ValueError("depth=0: a network needs at least one block")
    bounds = [round(i * len(blocks) / stages) for i in range(stages + 1)]
    parts = [blocks[start:stop] for start, stop in itertools.pairwise(bounds) if stop > start]
    return nnx.List([Stack(part) if len(part) > 1 else part[0] for part in parts])


def stacked_paths(network: nnx.Module) -> tuple[tuple[Any, ...], ...]:
    """Return the paths in a network at which each variable holds those of several blocks, along its first axis.

    Example:
      >>> stacked_paths(nnx.Dict({"stage": Stack([nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1)])}))
      (('stage', 'block'),)
    """
    return tuple((*path, "block") for path, layer in nnx.iter_modules(network) if isinstance(layer, Stack))


def several_blocks(name: str) -> str:
    """Return why a name that looks like that of one block is none, and what to name."""
    return f"that is no single block, but a row of equal ones in one array: name {name + '.block'!r} for all of them"


def last_block(stage: Iterable[Any]) -> Any:
    """Return the last block of a stage; of a stack, a copy."""
    *_, block = stage
    return block[-1] if isinstance(block, Stack) else block


def preactivations(
    stem: Carried, stages: Iterable[Iterable[Callable[[Carried, bool], Carried]]], train: bool
) -> list[Carried]:
    """Return the preactivations after the stem and after each stage.

    Example:
      >>> double = lambda before, train: Preactivation.of(2 * before.value)
      >>> found = preactivations(Preactivation.of(jnp.float32(1)), [[double], [double, double]], train=False)
      >>> [float(before.value) for before in found]
      [1.0, 2.0, 8.0]
    """
    found = [stem]
    for stage in stages:
        before = found[-1]
        for block in stage:
            before = block(before, train)
        found.append(before)
    return found


def pooled_outputs(before: list[Preactivation], classifier: Linear) -> Outputs:
    """Return the outputs of a network that ends in a ReLU, a pooling and a linear layer."""
    features = [one.relu() for one in before]
    features.append(global_average_pool(features[-1]))
    values = tuple(one.value for one in before)
    return Outputs(classifier(features[-1]), tuple(features), values, classifier.function())
