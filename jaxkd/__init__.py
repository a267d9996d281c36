"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxkd.distiller import Distiller
from jaxkd.summary import summary
from jaxkd.sweep import grid, sweep
from jaxkd.trainer import Trainer
from jaxkd.training import compilation_cache
from jaxkd.training.teacher_cache import TeacherCache
from jaxkd.types import Batch, Normalization, Outputs, Progress

if TYPE_CHECKING:
    from jaxkd import analysis, callbacks, convert, data, losses, metrics, models, optimizers, recipes, records
    from jaxkd.history import History as History

__version__ = "0.1.0"

__all__ = [
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

compilation_cache.enable()


def __getattr__(name: str) -> Any:
    if name in (*__all__, "distributed", "export", "plots", "report"):  # a subpackage: the other names are here already
        return importlib.import_module(f"jaxkd.{name}")
    if name == "History":  # what fit returns; its module says more
        return importlib.import_module("jaxkd.history").History
    raise AttributeError(f"module 'jaxkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
