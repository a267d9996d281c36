"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

import importlib
import importlib.util
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxkd import analysis, callbacks, convert, data, losses, metrics, models, optimizers, recipes, records
    from jaxkd.distiller import Distiller
    from jaxkd.history import History as History
    from jaxkd.summary import summary
    from jaxkd.sweep import grid, sweep
    from jaxkd.trainer import Trainer
    from jaxkd.training.ema import EMA
    from jaxkd.training.teacher_cache import TeacherCache
    from jaxkd.types import Batch, Normalization, Outputs, Progress

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "Batch",
    "Distiller",
    "Normalization",
    "Outputs",
    "Progress",
    "TeacherCache",
    "Trainer",
    "__version__",
    "analysis",
    "callbacks",
    "convert",
    "data",
    "grid",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "recipes",
    "records",
    "summary",
    "sweep",
]

_HOMES = {
    **dict.fromkeys(("Batch", "Normalization", "Outputs", "Progress"), "jaxkd.types"),
    "Distiller": "jaxkd.distiller",
    "EMA": "jaxkd.training.ema",
    "History": "jaxkd.history",  # what fit returns; its module says more
    "TeacherCache": "jaxkd.training.teacher_cache",
    "Trainer": "jaxkd.trainer",
    "grid": "jaxkd.sweep",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for, so that `jaxkd --help` need not wait for JAX."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if not name.startswith("_") and importlib.util.find_spec(f"jaxkd.{name}"):
        return importlib.import_module(f"jaxkd.{name}")
    raise AttributeError(f"module 'jaxkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def _function(name: str) -> Any:
    """Return what leaves a name to a function, although an import sets the submodule of that name."""
    return property(lambda _: getattr(importlib.import_module(f"jaxkd.{name}"), name), lambda _, submodule: None)


class _Package(types.ModuleType):
    """This module, some functions of which stand in submodules of the same names."""

    summary = _function("summary")
    sweep = _function("sweep")


sys.modules[__name__].__class__ = _Package
