"""Losses, one file per method. All are called as `loss(student, teacher, batch, progress, key)` and combine freely."""

from jaxkd.losses.ats import ATS, asymmetric_scaling
from jaxkd.losses.base import HyperParameter, Loss, Monitor, Network
from jaxkd.losses.cross_entropy import CrossEntropy
from jaxkd.losses.curriculum import CurriculumTemperature, cosine_curriculum, scale_gradient
from jaxkd.losses.divergence import cross_entropy, kl_divergence, soft_cross_entropy
from jaxkd.losses.kd import KD
from jaxkd.losses.standardization import standardize
from jaxkd.losses.temperature import FixedTemperature, Temperature, Tempered, as_temperature, temper

__all__ = [
    "ATS",
    "KD",
    "CrossEntropy",
    "CurriculumTemperature",
    "FixedTemperature",
    "HyperParameter",
    "Loss",
    "Monitor",
    "Network",
    "Temperature",
    "Tempered",
    "as_temperature",
    "asymmetric_scaling",
    "cosine_curriculum",
    "cross_entropy",
    "kl_divergence",
    "scale_gradient",
    "soft_cross_entropy",
    "standardize",
    "temper",
]
