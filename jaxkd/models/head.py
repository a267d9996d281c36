"""The classifier of a network: which of its layers it is, and a fresh one for another number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxkd.models.registry import Classifier, create
from jaxkd.nn.outputs import layer_name

Path = tuple[Any, ...]


def head(network: nnx.Module) -> tuple[str, ...]:
    """Return the names of the layers that make the logits, as `compile(trainable=…)` takes them.

    They are those whose shapes depend on the number of classes.

    Raises:
      ValueError: for a network that `create` did not make, whose layers only its author knows.

    Example:
      >>> head(create("resnet8", num_classes=10)), head(create("MobileNetV2", num_classes=10))
      (('fc',), ('classifier.0',))
    """
    if not isinstance(network, Classifier) or not hasattr(network, "options"):
        raise ValueError(
            f"which layer of a {type(network).__name__} makes the logits is known of networks of the zoo alone: name "
            "it yourself, as in trainable=('fc',)"
        )
    own, other = (
        _shapes(nnx.eval_shape(lambda count=count: create(network.name, count, **dict(network.options))))
        for count in (network.num_classes, network.num_classes + 1)
    )
    return tuple(dict.fromkeys(layer_name(path[:-1]) for path in own if own[path] != other[path]))


def reset_classifier(network: Classifier, num_classes: int, seed: int = 0) -> Classifier:
    """Return a network of the zoo with the same weights and a fresh classifier of another number of classes.

    Args:
      network: its variables are shared by the one returned.
      num_classes: K, the width of the new logits.
      seed: of the fresh classifier, which is the one that `create` draws.

    Raises:
      ValueError: for a network that `create` did not make, or fewer than two classes.

    Example:
      >>> network = reset_classifier(create("resnet8", num_classes=100), 10)
      >>> network.num_classes, network.fc.kernel.shape
      (10, (64, 10))
    """
    replaced = head(network)
    fresh = create(network.name, num_classes, seed, **dict(network.options))
    kept = [
        (path, variable)
        for path, variable in nnx.to_flat_state(nnx.state(network))
        if layer_name(path[:-1]) not in replaced
    ]
    nnx.update(fresh, nnx.from_flat_state(kept))
    fresh.normalization, fresh.resize_to = network.normalization, getattr(network, "resize_to", None)
    return fresh


def _shapes(network: nnx.Module) -> Mapping[Path, tuple[int, ...]]:
    return {path: variable.shape for path, variable in nnx.to_flat_state(nnx.state(network))}
