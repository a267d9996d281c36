"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

from jaxkd import compilation_cache
from jaxkd.base import Batch, Normalization, Outputs, Progress
from jaxkd.distiller import Distiller
from jaxkd.history import History
from jaxkd.trainer import Trainer

compilation_cache.enable()

__all__ = ["Batch", "Distiller", "History", "Normalization", "Outputs", "Progress", "Trainer"]
