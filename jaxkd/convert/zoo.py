"""Networks of the zoo without weights: to be filled, and to ask in which order their attributes were defined."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxkd import models


def abstract_model(name: str, num_classes: int, **options: Any) -> Any:
    """`models.create` without initial weights: shapes only, in a fraction of the time.

    Example:
      >>> abstract_model("resnet8", 10).fc.kernel.shape
      (64, 10)
    """
    return nnx.eval_shape(lambda: models.create(name, num_classes, **options))


def in_definition_order(model: Any, names_of: Callable[[Any], list[str]]) -> list[str]:
    """What `names_of` says of a network like `model` that was never taken apart.

    Flax sorts attributes by name when it splits a module and merges it again, while PyTorch lists them as they were
    defined. A network of the zoo is built once more to find out; of others, whose maker is unknown, `model` is asked.

    Args:
      model: any module.
      names_of: lists the names of a module's variables.
    """
    try:
        return list(_names(model.name, model.num_classes, model.options, names_of))
    except (AttributeError, ValueError):  # not made by models.create
        return names_of(model)


@functools.lru_cache(maxsize=64)
def _names(name: str, num_classes: int, options: tuple, names_of: Callable[[Any], list[str]]) -> tuple[str, ...]:
    names: list[str] = []

    def build() -> nnx.Module:
        model = models.create(name, num_classes, **dict(options))
        names.extend(names_of(model))
        return model

    nnx.eval_shape(build)
    return tuple(names)
