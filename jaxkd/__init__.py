"""Knowledge distillation for image classifiers on JAX, with Keras's verbs."""

from jaxkd.base import Batch, Normalization, Outputs, Progress

__all__ = ["Batch", "Normalization", "Outputs", "Progress"]
