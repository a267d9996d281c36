"""Features of any network by the names of its layers, without touching the network."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.nnx import bridge

from jaxkd.nn.layers import global_average_pool
from jaxkd.nn.modes import call
from jaxkd.nn.outputs import as_outputs, known_layers, layer_name
from jaxkd.types import Outputs

Seen = dict[str, list[Any]]


class WithFeatures(nnx.Module):
    """A network whose features are the outputs of some of its layers; made by `with_features`.

    Attributes:
      network: the one that was given; its weights are trained in place. `convert.to_torch` and `nnx.state` of it are as
        if nothing was around it.
      layers: the names of the features' layers, in order.
      preactivations: likewise, of the preactivations.
      classifier: the name of the layer that maps the embedding to the logits; None where it is not known.
    """

    def __init__(
        self,
        network: nnx.Module,
        layers: Sequence[str],
        preactivations: Sequence[str] = (),
        classifier: str | None = None,
    ):
        self.network = network
        self.layers = tuple(layers)
        self.preactivations = tuple(preactivations)
        self.classifier = classifier
        for name in ("name", "num_classes", "image_shape", "normalization", "resize_to"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        names = dict.fromkeys((*self.layers, *self.preactivations))
        with _recorded(self.network, names) as seen:
            outputs = as_outputs(call(self.network, images, train), self.network)
        values = {name: self._only(name, seen) for name in names}
        features = tuple(values[name] for name in self.layers)
        if features[-1].ndim > 2:
            features = (*features, global_average_pool(features[-1]))
        classify = outputs.classify if self.classifier is None else _function(_layer(self.network, self.classifier))
        return outputs._replace(
            features=features,
            preactivations=tuple(values[name] for name in self.preactivations) or outputs.preactivations,
            classify=classify,
        )

    def _only(self, name: str, seen: Seen) -> jax.Array:
        """Return the one output of a layer.

        Raises:
          ValueError: it was not called, or several times, or returned something else than one array.
        """
        found, kind = seen.get(name, []), type(self.network).__name__
        if not found:
            where = (
                known_layers(name, [tuple(path.split(".")) for path in seen if path])
                if isinstance(self.network, bridge.ToNNX)
                else "only what is called as a layer, and not within nnx.scan, nnx.remat or nnx.jit, has an output"
            )
            raise ValueError(f"layer {name!r} of {kind} was not called: {where}")
        if len(found) > 1:
            raise ValueError(
                f"layer {name!r} of {kind} was called {len(found)} times, and which output is meant cannot be told: "
                "name the layer around it, or one of its own for each place"
            )
        if not hasattr(found[0], "ndim") or found[0].ndim < 2:
            raise ValueError(f"layer {name!r} of {kind} returned {found[0]!r}: features are arrays [B, …]")
        return found[0]


def with_features(
    network: nnx.Module, layers: Sequence[str], *, preactivations: Sequence[str] = (), classifier: str | None = None
) -> WithFeatures:
    """Return a network whose features are the outputs of the layers named, so that feature losses work with it.

    Names are those of attributes, as in "layer2" and "blocks.3.norm"; of a linen module in `nnx.bridge.ToNNX`, those
    of its submodules, as in "Conv_0". What a layer returned is recorded while the network is traced, as a hook of
    PyTorch or torchdistill would: under `jit`, `vmap` and `grad` it costs nothing.

    Losses take the stages between the first, the stem, and the last, the embedding. Where the last layer gives maps
    `[B, H, W, C]` or tokens `[B, N, C]`, their mean over all places is added as the embedding.

    Args:
      network: any that `Trainer` takes.
      layers: in order, the stem first: the features f0, f1, ….
      preactivations: layers whose outputs go into the last ReLU of each stage, for losses that compare these.
      classifier: the layer that maps the embedding to the logits, for losses that call it (SRRL).

    Raises:
      ValueError: for a layer that the network does not have, with those it has, or none at all. When it is called: for
        one that is not called, or more than once.

    Example:
      >>> class Own(nnx.Module):
      ...   def __init__(self, rngs):
      ...     self.stem, self.body = (nnx.Conv(width, 8, (3, 3), rngs=rngs) for width in (3, 8))
      ...     self.fc = nnx.Linear(8, 10, rngs=rngs)
      ...   def __call__(self, images):
      ...     return self.fc(nnx.relu(self.body(nnx.relu(self.stem(images)))).mean((1, 2)))
      >>> network = with_features(Own(nnx.Rngs(0)), ["stem", "body"], classifier="fc")
      >>> [feature.shape for feature in network(jax.numpy.zeros((2, 16, 16, 3))).features]
      [(2, 16, 16, 8), (2, 16, 16, 8), (2, 8)]
    """
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers={layers!r}: name the layers in a list, as in ['layer1', 'layer2']")
    if not isinstance(network, bridge.ToNNX):
        for name in (*layers, *preactivations, *([] if classifier is None else [classifier])):
            _layer(network, name)
    elif classifier is not None:
        raise ValueError(f"classifier={classifier!r}: the layers of a linen module cannot be called by themselves")
    return WithFeatures(network, layers, preactivations, classifier)


def _layer(network: nnx.Module, name: str) -> Any:
    """Return the layer of that name.

    Raises:
      ValueError: there is none.
    """
    found = {layer_name(path): layer for path, layer in nnx.iter_modules(network) if path}
    if name not in found or not callable(found[name]):
        there = "is no layer that can be called" if name in found else "is none of its layers"
        callables = [tuple(path.split(".")) for path, layer in found.items() if callable(layer)]
        raise ValueError(f"{name!r} {there}, {type(network).__name__}: {known_layers(name, callables)}")
    return found[name]


@contextlib.contextmanager
def _recorded(network: Any, names: Sequence[str] | dict[str, None]) -> Iterator[Seen]:
    """Record what layers return while the block runs, by their names."""
    if isinstance(network, bridge.ToNNX):
        seen: Seen = {}
        with linen.intercept_methods(functools.partial(_intercept, seen)):
            yield seen
        return
    seen = {name: [] for name in names}
    with _watched({name: _layer(network, name) for name in names}, lambda name: _Watch(seen[name].append)):
        yield seen


@contextlib.contextmanager
def calls_recorded(network: Any, scope: str) -> Iterator[list[tuple[str, Any]]]:
    """Record what every layer returns while the block runs: name and value, in the order in which they end.

    Operations of a layer are in a `jax.named_scope` called `scope` with its name.
    """
    calls: list[tuple[str, Any]] = []
    network = network.network if isinstance(network, WithFeatures) else network
    if isinstance(network, bridge.ToNNX):

        def intercept(following: Any, args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
            name = layer_name(context.module.path)
            with jax.named_scope(scope + name):
                output = following(*args, **kwargs)
            if name and context.method_name == "__call__":
                calls.append((name, output))
            return output

        with linen.intercept_methods(intercept):
            yield calls
        return

    def watch(name: str) -> _Watch:
        return _Watch(lambda output: calls.append((name, output)), scope + name)

    layers = {layer_name(path): layer for path, layer in nnx.iter_modules(network) if path and callable(layer)}
    with _watched(layers, watch):
        yield calls


@dataclass(frozen=True)
class _Watch:
    """A receiver of a layer's outputs, and the scope that its operations are in, if any."""

    take: Callable[[Any], None]
    scope: str = ""


@contextlib.contextmanager
def _watched(layers: dict[str, Any], watch: Callable[[str], _Watch]) -> Iterator[None]:
    """Watch layers, by their names, while the block runs."""
    kinds: dict[str, Any] = {name: type(layer) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            _WATCHES[id(layer), kinds[name]] = watch(name)
            object.__setattr__(layer, "__class__", _recording(kinds[name]))  # past Flax: it is changed back
        yield
    finally:
        for name, layer in layers.items():
            object.__setattr__(layer, "__class__", kinds[name])
            _WATCHES.pop((id(layer), kinds[name]), None)


_WATCHES: dict[tuple[int, Any], _Watch] = {}
"""The layers that are watched, by their identities and the class that they had before."""


@functools.lru_cache(maxsize=256)
def _recording(kind: Any) -> Any:
    """Return a subclass whose calls are recorded."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        watch = _WATCHES.get((id(self), kind))
        if watch is None:
            return kind.__call__(self, *args, **kwargs)
        with jax.named_scope(watch.scope) if watch.scope else contextlib.nullcontext():
            output = kind.__call__(self, *args, **kwargs)
        watch.take(output)
        return output

    own = {"__call__": functools.wraps(kind.__call__)(__call__)}
    return types.new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(own))


def _intercept(seen: Seen, following: Any, args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
    output = following(*args, **kwargs)
    if context.method_name == "__call__":
        seen.setdefault(layer_name(context.module.path), []).append(output)
    return output


@dataclass(frozen=True)
class _Apply:
    """Calls a layer of one structure with the weights it is given; equal to another of the same structure.

    It computes in float32, as all that losses do, also where the layer was split off while it computed in 16 bits.
    """

    graph: nnx.GraphDef[Any]

    def __call__(self, weights: Any, embedding: jax.Array) -> jax.Array:
        layer = nnx.merge(self.graph, weights)
        part: Any
        for _, part in nnx.iter_modules(layer):
            if getattr(part, "dtype", None) == jnp.bfloat16:
                part.dtype = jnp.float32
        return layer(embedding)


def _function(layer: nnx.Module) -> jax.tree_util.Partial:
    """Return a layer with its present weights as a pure function, itself a pytree."""
    graph, weights = nnx.split(layer)
    return jax.tree_util.Partial(_Apply(graph), nnx.to_pure_dict(weights))
