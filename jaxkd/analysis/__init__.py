"""Statistics of networks' answers, and of what a student learned from its teacher.

Functions of logits: NumPy arrays `[N, K]` of N images and K classes in, NumPy in float64 out. `jaxkd.plots` draws them,
and `jaxkd figures` makes the papers' figures from both.

Example:
  >>> import numpy as np
  >>> from jaxkd import analysis
  >>> teacher, student = np.array([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]]), np.array([[3.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
  >>> analysis.agreement(teacher, student, labels=np.array([0, 1])).same_answer
  0.5
"""

from jaxkd.analysis.embedding import check_scikit_learn, embed, separation
from jaxkd.analysis.logits import embeddings, predict
from jaxkd.analysis.predictions import (
    Agreement,
    Reliability,
    agreement,
    class_accuracy,
    class_gain,
    class_profiles,
    difference,
    disagreements,
    logit_correlation,
    reliability,
)
from jaxkd.analysis.teacher_statistics import (
    DerivedStatistics,
    LogitStatistics,
    WrongClasses,
    derived_statistics,
    logit_statistics,
    over_temperatures,
    wrong_classes,
)

__all__ = [
    "Agreement",
    "DerivedStatistics",
    "LogitStatistics",
    "Reliability",
    "WrongClasses",
    "agreement",
    "check_scikit_learn",
    "class_accuracy",
    "class_gain",
    "class_profiles",
    "derived_statistics",
    "difference",
    "disagreements",
    "embed",
    "embeddings",
    "logit_correlation",
    "logit_statistics",
    "over_temperatures",
    "predict",
    "reliability",
    "separation",
    "wrong_classes",
]
