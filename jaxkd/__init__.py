"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

from jaxkd import compilation_cache, distributed
from jaxkd.base import Batch, Normalization, Outputs, Progress
from jaxkd.distiller import Distiller
from jaxkd.engine.teacher_cache import TeacherCache
from jaxkd.history import History
from jaxkd.sweeping import Sweep, grid, sweep
from jaxkd.trainer import Trainer

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
