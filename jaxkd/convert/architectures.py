"""Build networks without weights: to be filled, and to ask which keys and shapes a file for them has."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxkd import models
from jaxkd.convert.entries import WEIGHTS, walk
from jaxkd.models.registry import hashable

CLASSES, CHANNELS = 10_007, 10_009
"""Stand in a survey's shapes for the number of classes and of input channels: numbers that no layer is as wide as."""

NO_WEIGHTS = nnx.Not(nnx.Any(*WEIGHTS))
"""The variables of a network that no file of weights has."""

Options = tuple[tuple[str, Any], ...]
Shapes = Mapping[str, tuple[int, ...]]


def abstract_model(name: str, num_classes: int, **options: Any) -> Any:
    """Return what `models.create` makes without initial weights: shapes only, in a fraction of the time.

    What is no weight, as the random keys of dropout, has its value.

    Example:
      >>> abstract_model("resnet8", 10).fc.kernel.shape
      (64, 10)
    """
    # Without the copy all networks of one blueprint would have the same variables: filling one would change the others.
    return nnx.merge(*_blueprint(name, num_classes, hashable(options)), copy=True)


@functools.lru_cache(maxsize=64)
def _blueprint(name: str, num_classes: int, options: Options) -> tuple[nnx.GraphDef[Any], nnx.State[Any, Any]]:
    def build() -> Any:
        return models.create(name, num_classes, **dict(options))

    model = nnx.eval_shape(build)
    if jax.tree.leaves(nnx.state(model, NO_WEIGHTS)):
        # The weights are dead code here, which XLA drops.
        nnx.update(model, jax.jit(lambda: nnx.state(build(), NO_WEIGHTS))())
    return nnx.split(model)


class Survey(NamedTuple):
    """The state dict of a network, whatever its classes and channels.

    Attributes:
      shapes: by key, in PyTorch's order and layout; `CLASSES`, `CHANNELS` and `ANY` stand for the numbers that vary.
      graph: its structure without weights or name. Networks of equal structure compute the same.
    """

    shapes: Shapes
    graph: nnx.GraphDef[Any]


@functools.lru_cache(maxsize=512)
def survey(name: str, options: Options = ()) -> Survey:
    """Return the keys, shapes and structure of a network.

    Flax sorts attributes by name when it splits a module and merges it again, while PyTorch lists them as they were
    defined. So a network is built here, and looked at before Flax has taken it apart.

    Args:
      name: as `models.create` takes it.
      options: likewise, but for `channels`.

    Raises:
      ValueError: unknown name or option.

    Example:
      >>> list(survey("resnet8").shapes.items())[-1] == ("fc.bias", (CLASSES,))
      True
    """
    found = []

    def build() -> tuple[()]:
        try:
            model: Any = models.create(name, CLASSES, channels=CHANNELS, **dict(options))
        except ValueError:  # a family for images of three channels only, or what the next line complains of
            model = models.create(name, CLASSES, **dict(options))
        shapes = {entry.name: entry.torch_pattern for entry in walk(model)}
        model.name = model.image_shape = None
        found.append(Survey(MappingProxyType(shapes), nnx.graphdef(model)))
        return ()

    jax.eval_shape(build)
    return found[0]
