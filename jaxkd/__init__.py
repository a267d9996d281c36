"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

from jaxkd.distiller import Distiller
from jaxkd.history import History
from jaxkd.sweep import Sweep, grid, sweep
from jaxkd.trainer import Trainer
from jaxkd.training import compilation_cache
from jaxkd.training.teacher_cache import TeacherCache
from jaxkd.types import Batch, Normalization, Outputs, Progress

compilation_cache.enable()

__all__ = [
    "Batch",
    "Distiller",
    "History",
    "Normalization",
    "Outputs",
    "Progress",
    "Sweep",
    "TeacherCache",
    "Trainer",
    "distributed",
    "grid",
    "sweep",
]
