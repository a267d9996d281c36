"""Descriptions of networks: parameters, multiply-accumulates and shapes, found without computing anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from jaxkd.models.registry import create
from jaxkd.tables import text_table
from jaxkd.types import tree_size

Shape = tuple[int, ...]

SCOPE = "layer "
"""The beginning of a scope's name that stands for a layer."""

CIFAR_CLASSES, IMAGENET_CLASSES, IMAGENET_SIZE = 100, 1000, 224


@dataclass(frozen=True)
class Description:
    """The result of `describe`. Shapes are those of one image; its `str` is a table of them.

    Attributes:
      name: the network's name.
      num_classes: K, the width of its logits.
      image_shape: `(H, W, C)`.
      options: the options of the family that were given.
      parameters: the number of trained values, without running statistics.
      macs: multiply-accumulates of all convolutions and linear layers for one image.
      features: shapes of f0, f1, …; the last is the embedding `(D,)`.
      preactivations: shapes of the features before their ReLU, in the same order.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    options: tuple[tuple[str, Any], ...]
    parameters: int
    macs: int
    features: tuple[Shape, ...]
    preactivations: tuple[Shape, ...]

    @property
    def embedding(self) -> int:
        """D, the width of the pooled embedding, which the classifier takes."""
        return self.features[-1][0]

    def __str__(self) -> str:
        options = "".join(f", {key} {value}" for key, value in self.options)
        rows = [("", "feature", "preactivation")]
        for i, feature in enumerate(self.features):
            before = size_in_words(self.preactivations[i]) if i < len(self.preactivations) else ""
            rows.append((f"f{i}", size_in_words(feature), before))
        return "\n".join(
            [
                f"{self.name}{options}: images {size_in_words(self.image_shape)}, {self.num_classes} classes",
                f"{self.parameters:,} parameters, {self.macs / 1e6:,.1f} M multiply-accumulates",
                *text_table(rows),
            ]
        )


def describe(
    name: str, num_classes: int | None = None, image_shape: tuple[int, int, int] | None = None, **options: Any
) -> Description:
    """Return parameters, multiply-accumulates and the shapes of all features of a network. No weight is drawn.

    Args:
      name: a published name (see `list`), or one of the same form.
      num_classes: K, the width of the logits; by default 1000 for networks of ImageNet, and 100 for those of CIFAR.
      image_shape: `(H, W, C)`; by default the one that the network was published for.
      **options: options of the family, as in `create`.

    Raises:
      ValueError: where the network does not exist or cannot take such images.

    Example:
      >>> print(describe("resnet20"))
      resnet20: images 32×32×3, 100 classes
      278,324 parameters, 40.8 M multiply-accumulates
          feature   preactivation
      f0  32×32×16  32×32×16
      f1  32×32×16  32×32×16
      f2  16×16×32  16×16×32
      f3  8×8×64    8×8×64
      f4  64
      >>> describe("resnet34").parameters, describe("resnet34").num_classes
      (21797672, 1000)
    """
    classes = CIFAR_CLASSES if num_classes is None else num_classes
    model: Any = nnx.eval_shape(lambda: create(name, classes, **options))
    if num_classes is None and model.image_shape[0] == IMAGENET_SIZE:
        return describe(name, IMAGENET_CLASSES, image_shape, **options)
    shape = model.image_shape if image_shape is None else _checked(image_shape, name, model.image_shape[-1])
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    # In training mode one convolution serves both sides of a ReLU; in evaluation mode each side has its own, fused.
    program, outputs = jax.make_jaxpr(lambda *args: nnx.merge(graph, args[0])(args[1], train=True), return_shape=True)(
        state, images
    )
    return Description(
        name=name,
        num_classes=classes,
        image_shape=shape,
        options=model.options,
        parameters=tree_size(nnx.state(model, nnx.Param)),
        macs=macs_of(program.jaxpr),
        features=tuple(entry.shape[1:] for entry in outputs.features),
        preactivations=tuple(entry.shape[1:] for entry in outputs.preactivations),
    )


def _checked(image_shape: Any, name: str, channels: int) -> tuple[int, int, int]:
    shape = tuple(image_shape)
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"image_shape={image_shape!r}: give (height, width, channels), as in (32, 32, {channels})")
    if shape[-1] != channels:
        raise ValueError(
            f"image_shape={image_shape!r}: {name} takes {channels} channels here; give channels={shape[-1]} as well"
        )
    return shape


def macs_of(program: core.Jaxpr) -> int:
    """Return the multiply-accumulates of all convolutions and matrix products in a program, at any depth."""
    return sum(macs_of_scopes(program).values())


def macs_of_scopes(program: core.Jaxpr, scope: str = "") -> Counter[str]:
    """Return the multiply-accumulates of a program by the innermost `jax.named_scope` that begins with `SCOPE`.

    Args:
      program: whose convolutions and matrix products are counted, at any depth.
      scope: that it is in.
    """
    found: Counter[str] = Counter()
    for equation in program.eqns:
        names = [str(getattr(part, "name", "")) for part in equation.source_info.name_stack.stack]
        own = next((name.removeprefix(SCOPE) for name in reversed(names) if name.startswith(SCOPE)), scope)
        if count := _macs_of_one(equation):
            found[own] += count
            continue
        inner = list(_programs(equation.params))
        if equation.primitive.name == "cond":  # ways to compute a convolution; the default, XLA's own, comes last
            inner = inner[-1:]
        for part in inner:
            for name, count in macs_of_scopes(part, own).items():
                found[name] += count * equation.params.get("length", 1)  # turns of a loop
    return found


def _macs_of_one(equation: core.JaxprEqn) -> int:
    """Return the multiply-accumulates of a convolution or a matrix product; 0 for any other operation."""
    operation, parameters = equation.primitive.name, equation.params
    inputs: list[Any] = [operand.aval for operand in equation.invars]
    outputs: list[Any] = [result.aval for result in equation.outvars]
    if operation == "conv_general_dilated":
        kernel, layout = inputs[1], parameters["dimension_numbers"]
        return outputs[0].size * kernel.size // kernel.shape[layout.rhs_spec[0]]
    if operation == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return outputs[0].size * math.prod(inputs[0].shape[axis] for axis in contracted)
    return 0


def _programs(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the programs inside an operation: branches, a loop's body, a function with its own gradient rule."""
    for value in parameters.values():
        for candidate in value if isinstance(value, tuple) else (value,):
            if isinstance(candidate, core.ClosedJaxpr):
                yield candidate.jaxpr
            elif isinstance(candidate, core.Jaxpr):
                yield candidate


def size_in_words(shape: Shape) -> str:
    """Return a shape as in "32×32×3"."""
    return "×".join(map(str, shape))
