"""Summaries of networks: their layers, what each gives, holds and computes, and the features to distil from."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from jaxkd.models.description import SCOPE, Shape, macs_of_scopes, size_in_words
from jaxkd.models.features import WithFeatures, calls_recorded
from jaxkd.nn.modes import call
from jaxkd.nn.outputs import as_outputs, layer_name
from jaxkd.nn.stack import Stack
from jaxkd.tables import html_table, text_table
from jaxkd.types import tree_size


@dataclass(frozen=True)
class Layer:
    """A layer of a network, or layers that stand together.

    Attributes:
      name: the names of the attributes that lead to it, with dots between.
      kind: its class, or those of the layers in it.
      output: the shape that it gives for one image; None where it is not called, or gives no array.
      parameters: the number of values in it that may be trained.
      macs: its multiply-accumulates for one image, those of convolutions and matrix products.
    """

    name: str
    kind: str
    output: Shape | None
    parameters: int
    macs: int


@dataclass(frozen=True)
class NetworkSummary:
    """The layers of a network, for one image; its `str` and its HTML are a table.

    Attributes:
      name: the network's name, or that of its class.
      image_shape: `(H, W, C)`.
      num_classes: K, the width of its logits.
      layers: in the order in which they were made.
      parameters: the number of values that may be trained, without running statistics.
      macs: multiply-accumulates of all convolutions and matrix products.
      features: shapes of f0, f1, …, from which losses can distil; none where the network returns logits alone.
      preactivations: shapes of the features before their ReLU, in the same order.
      layers_of_features: the names of their layers, where they were chosen by name.
    """

    name: str
    image_shape: Shape
    num_classes: int
    layers: tuple[Layer, ...]
    parameters: int
    macs: int
    features: tuple[Shape, ...]
    preactivations: tuple[Shape, ...]
    layers_of_features: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return the line above the table."""
        return f"{self.name}: images {size_in_words(self.image_shape)}, {self.num_classes} classes"

    def table(self, kinds: bool = True) -> list[tuple[str, ...]]:
        """Return rows of text: the names of the columns, the layers, and the total."""
        rows: list[tuple[str, ...]] = [("layer", "kind", "output", "parameters", "MACs")]
        for layer in self.layers:
            output = "" if layer.output is None else size_in_words(layer.output)
            rows.append((layer.name, layer.kind, output, f"{layer.parameters:,}", _short(layer.macs)))
        rows.append(("total", "", "", f"{self.parameters:,}", _short(self.macs)))
        return rows if kinds else [(row[0], *row[2:]) for row in rows]

    def feature_rows(self) -> list[tuple[str, ...]]:
        """Return rows of text for the features: name, shape and, where there is one, that before the ReLU."""
        rows = []
        for position, shape in enumerate(self.features):
            layer = self.layers_of_features[position] if position < len(self.layers_of_features) else ""
            name = f"f{position}" + (f" {layer}" if layer else "")
            before = self.preactivations[position : position + 1]
            rows.append((name, size_in_words(shape), *(f"before ReLU {size_in_words(one)}" for one in before)))
        return [(*row, "")[:3] for row in rows]

    def lines(self, kinds: bool = True) -> list[str]:
        """Return the summary as lines of text; without the classes of layers it is narrower."""
        rows = self.table(kinds)
        found = [self.title, *text_table(rows, right=(len(rows[0]) - 2, len(rows[0]) - 1))]
        features = [(name, shape) for name, shape, _ in self.feature_rows()]
        return [*found, "features to distil from:", *text_table(features)] if features else [*found, _NO_FEATURES]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        header, *rows = self.table()
        layers = html_table(header, rows, right=(3, 4), caption=self.title)
        if not self.features:
            return layers + f"<div>{html.escape(_NO_FEATURES)}</div>"
        return layers + html_table(("feature", "shape", ""), self.feature_rows(), caption="features to distil from")


_NO_FEATURES = "no features: it returns logits alone (models.with_features chooses layers by name)"


def summarize(
    network: nnx.Module, image_shape: Sequence[int] | None = None, depth: int | None = None
) -> NetworkSummary:
    """Return what a network is made of. It is only traced: nothing is computed.

    Args:
      network: of the zoo, your own, or a linen module in `nnx.bridge.ToNNX` that was initialised.
      image_shape: `(H, W, C)`; by default the one it was published for.
      depth: how many levels of layers have rows of their own: 1 makes a row of each stage, 2 of each block. By
        default 1, and 2 where that would be one row for almost all of it.

    Raises:
      ValueError: where the shape is not known, or no image has it.

    Example:
      >>> from jaxkd import models
      >>> print(summarize(models.create("resnet8", num_classes=10)))
      resnet8: images 32×32×3, 10 classes
      layer   kind        output    parameters    MACs
      conv1   Conv        32×32×16         432   442 k
      bn1     BatchNorm                     32
      layer1  BasicBlock  32×32×16       4,672  4.72 M
      layer2  BasicBlock  16×16×32      14,528  3.67 M
      layer3  BasicBlock  8×8×64        57,728  3.67 M
      fc      Linear      10               650     640
      total                             78,042  12.5 M
      features to distil from:
      f0  32×32×16
      f1  32×32×16
      f2  16×16×32
      f3  8×8×64
      f4  64
    """
    shape = image_shape if image_shape is not None else getattr(network, "image_shape", None)
    if shape is None:
        raise ValueError(f"{type(network).__name__} does not say what images it takes: give image_shape=(H, W, C)")
    shape = tuple(shape)
    if len(shape) != 3 or any(not isinstance(length, int) or length < 1 for length in shape):
        raise ValueError(f"image_shape={image_shape!r}: give (height, width, channels), as in (32, 32, 3)")
    if depth is not None and depth < 1:
        raise ValueError(f"depth={depth}: must be at least 1")
    graph, state = nnx.split(network)
    outputs: list[tuple[str, Shape]] = []

    def traced(variables: Any, images: jax.Array) -> Any:
        merged = nnx.merge(graph, variables)
        with calls_recorded(merged, SCOPE) as calls:
            # In training mode one convolution serves both sides of a ReLU; in evaluation each side has its own, fused.
            found = as_outputs(call(merged, images, True), merged)
        outputs.extend((name, shape) for name, value in calls if (shape := _shape_of(value)) is not None)
        return found._replace(classify=None)

    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    program, found = jax.make_jaxpr(traced, return_shape=True)(state, images)
    macs = macs_of_scopes(program.jaxpr)
    return NetworkSummary(
        name=_name(network),
        image_shape=shape,
        num_classes=found.logits.shape[1],
        layers=_layers(network, outputs, macs, depth),
        parameters=tree_size(nnx.state(network, nnx.Param)),
        macs=sum(macs.values()),
        features=tuple(entry.shape[1:] for entry in found.features),
        preactivations=tuple(entry.shape[1:] for entry in found.preactivations),
        layers_of_features=network.layers if isinstance(network, WithFeatures) else (),
    )


def _name(network: Any) -> str:
    """Return a network's name, or that of its class, whatever was put around it."""
    inner = network.network if isinstance(network, WithFeatures) else network
    inner = inner.to_nnx__module if isinstance(inner, bridge.ToNNX) else inner
    return getattr(network, "name", None) or type(inner).__name__


def _layers(
    network: nnx.Module, outputs: Sequence[tuple[str, Shape]], macs: Counter[str], depth: int | None
) -> tuple[Layer, ...]:
    """Return the layers of a network, those that share their first names as one, in the order of their calls."""
    network = network.network if isinstance(network, WithFeatures) else network
    modules = {layer_name(path): layer for path, layer in nnx.iter_modules(network) if path}
    sizes: Counter[str] = Counter()
    for path, value in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        sizes[layer_name(path[:-1] or path)] += tree_size(value)
    called = [name for name, _ in outputs]
    order = list(vars(network))  # layers are made in the order in which they are called, by and large
    every = sorted([*called, *sizes], key=lambda name: _position(name.partition(".")[0], order))
    levels = _sensible_depth(macs) if depth is None else depth

    def group(name: str) -> str:
        return ".".join(name.split(".")[:levels])

    found = []
    for own in dict.fromkeys(map(group, every)):
        shapes = [(name.count("."), shape) for name, shape in outputs if group(name) == own]
        least = min((level for level, _ in shapes), default=0)
        layer = Layer(
            own,
            _kind_of(own, modules),
            next((shape for level, shape in reversed(shapes) if level == least), None),
            sum(size for name, size in sizes.items() if group(name) == own),
            sum(count for name, count in macs.items() if group(name) == own),
        )
        found += [layer] if layer.parameters or layer.macs else []
    return tuple(found)


def _position(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _sensible_depth(macs: Counter[str]) -> int:
    """Return 1, or 2 where one layer at the top computes most of it, so that a row would say nothing."""
    top: Counter[str] = Counter()
    for name, count in macs.items():
        top[name.partition(".")[0]] += count
    return 2 if max(top.values(), default=0) > 0.8 * sum(top.values()) else 1


def _kind_of(name: str, modules: dict[str, Any]) -> str:
    """Return the class of a layer; of a list of layers, those in it, and how many there are of each."""
    layer = modules.get(name)
    if layer is None:
        return ""
    if isinstance(layer, Stack):
        return f"{len(layer)} × {type(layer.block).__name__}"
    if callable(layer):
        return type(layer).__name__
    inside: Counter[str] = Counter()
    for each, part in modules.items():
        if each.startswith(f"{name}.") and each.count(".") == name.count(".") + 1:
            one = part.block if isinstance(part, Stack) else part
            inside[type(one).__name__] += len(part) if isinstance(part, Stack) else 1
    return ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in inside.items())


def _shape_of(output: Any) -> Shape | None:
    """Return the shape of what a layer returned for one image, without the batch; None for no array."""
    arrays = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "shape") and len(leaf.shape) > 1]
    return tuple(arrays[0].shape[1:]) if arrays else None


def _short(count: int) -> str:
    """Return a number of multiply-accumulates in a few characters, and nothing for none.

    Example:
      >>> [_short(count) for count in (640, 442_368, 12_501_632, 999_600_000, 4_090_000_000, 0)]
      ['640', '442 k', '12.5 M', '1 G', '4.09 G', '']
    """
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3), ("", 1)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return ""
