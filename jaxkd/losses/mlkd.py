"""Multi-level logit distillation (MLKD; Jin et al., CVPR 2023): instances, the batch and the classes, in two views.

Beside the distribution of each example, the student matches how similar the teacher's predictions for the examples of a
batch are, and how often it predicts two classes together. All of it is compared at several temperatures, and each image
is seen weakly and strongly augmented.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.checks import check_number
from jaxkd.losses.base import Loss, Monitor
from jaxkd.losses.functional import cross_entropy
from jaxkd.losses.temperature import FixedTemperature, Temperature, Tempered, as_temperature, scaled_kl, temper
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32

BOTH_VIEWS, WEAK_VIEW = (3.0, 5.0), (2.0, 6.0)
"""Temperatures beside the base: those at which the published code compares both views, and the weak view only."""


def batch_correlation_loss(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Return ‖PₜPₜᵀ − PₛPₛᵀ‖² / B, P the probabilities, `[B, K], [B, K] -> []`.

    Example:
      >>> certain = jnp.array([[1e4, 0.0], [0.0, 1e4]])
      >>> float(batch_correlation_loss(certain, jnp.zeros((2, 2))))
      0.5
    """
    return _gram_distance(jax.nn.softmax(student_logits), jax.nn.softmax(teacher_logits))


def class_correlation_loss(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Return ‖PₜᵀPₜ − PₛᵀPₛ‖² / K, P the probabilities, `[B, K], [B, K] -> []`.

    Example:
      >>> certain = jnp.array([[1e4, 0.0], [1e4, 0.0]])
      >>> float(class_correlation_loss(certain, jnp.zeros((2, 2))))
      1.5
    """
    return _gram_distance(jax.nn.softmax(student_logits).T, jax.nn.softmax(teacher_logits).T)


def _gram_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    # In full precision on every device: the two products are nearly the same, and their difference is all that counts.
    grams = [jnp.matmul(rows, rows.T, precision="highest") for rows in (teacher, student)]
    return jnp.sum(jnp.square(grams[0] - grams[1])) / len(teacher)


def unsure_shares(teacher_logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the shares of examples and of classes on which the teacher is at most as sure as on the median one.

    The method means to keep just these examples and classes. The published code multiplies by their mask after the mean
    over the batch has been taken, so that the mask acts by its own mean: about one half.

    Example:
      >>> unsure_shares(jnp.array([[9.0, 0.0], [1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]))
      (Array(0.5, dtype=float32), Array(0.5, dtype=float32))
    """
    probabilities = jax.nn.softmax(teacher_logits)
    confidences = probabilities.max(-1), probabilities.sum(0)
    examples, classes = (jnp.mean(c <= jnp.median(c), dtype=c.dtype) for c in confidences)
    return examples, classes


class MLKD(Loss):
    """KD, class correlation and batch correlation, summed over the temperatures T, 3, 5, 2 and 6, as published.

    Paper: Jin et al., *Multi-Level Logit Distillation*, CVPR 2023.

    What the published code sums, and this class with it, is less than the paper describes: the strong view enters by
    KD alone, and there only at T, 3 and 5 (the weak view takes its place at 2 and 6); the masks halve the weak view's
    terms, see `unsure_shares`. Only KD compares standardised logits. The three parts appear in the logs.

    The labels teach both views: use it with `TwoViewCrossEntropy`. Every step runs teacher and student on both views.

    Args:
      temperature: T, or a temperature rule.
      standardize: whether logits are standardised before KD (Sun et al., CVPR 2024).
      strong_view: the strong augmentation: the name `"rand_augment"`, which stands for `data.RandAugment()`, or a
        function called as `(key, images)` with uint8 images `[B, H, W, C]` that are already cropped and flipped, which
        returns such. Equal ones make equal programs: give a frozen dataclass or one function.

    Example:
      >>> from jaxkd import Batch
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> logits = Outputs(jnp.array([[1.0, 0.0]]), strong=Outputs(jnp.array([[0.0, 1.0]])))
      >>> float(MLKD(temperature=4.0)(logits, logits, batch, None, None))
      0.0
    """

    def __init__(
        self,
        temperature: float | Temperature = 4.0,
        standardize: bool = False,
        strong_view: str | Callable[[jax.Array, jax.Array], jax.Array] = "rand_augment",
    ):
        self.temperature = as_temperature(temperature)
        self.fixed = nnx.List([FixedTemperature(value) for value in (*BOTH_VIEWS, *WEAK_VIEW)])
        self.standardize = standardize
        self.strong_view = strong_view
        self.kd, self.class_correlation, self.batch_correlation = (Monitor(jnp.float32(0.0)) for _ in range(3))

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        rules = [self.temperature, *self.fixed]

        def tempered(student: Outputs, teacher: Outputs | None, standardize: bool = self.standardize) -> list[Tempered]:
            return [temper(rule, standardize, student, teacher, batch, progress) for rule in rules]

        strong = tempered(strong_outputs(student), teacher and teacher.strong)
        raw = tempered(student, teacher, standardize=False)
        weak = tempered(student, teacher)  # last, so that a learned temperature reports what it gives the weak view
        examples, classes = unsure_shares(at_least_float32(teacher.logits))

        both = 1 + len(BOTH_VIEWS)
        kd = examples * _total(jnp.mean(scaled_kl(each)) for each in weak)
        kd += _total(jnp.mean(scaled_kl(each)) for each in (*strong[:both], *weak[both:]))
        by_class = classes * _total(class_correlation_loss(each.student, each.teacher) for each in raw)
        by_batch = examples * _total(batch_correlation_loss(each.student, each.teacher) for each in raw)
        for monitor, value in ((self.kd, kd), (self.class_correlation, by_class), (self.batch_correlation, by_batch)):
            monitor[...] = jax.lax.stop_gradient(value).astype(jnp.float32)
        return kd + by_class + by_batch


class TwoViewCrossEntropy(Loss):
    """The cross-entropy with the labels of the weak view plus that of the strong one, which another term asks for.

    Args:
      label_smoothing: as `CrossEntropy` has it.

    Example:
      >>> from jaxkd import Batch
      >>> batch = Batch(images=None, labels=jnp.array([0]), index=None)
      >>> student = Outputs(jnp.zeros((1, 2)), strong=Outputs(jnp.zeros((1, 2))))
      >>> round(float(TwoViewCrossEntropy()(student, None, batch, None, None)), 4)
      1.3863
    """

    def __init__(self, label_smoothing: float = 0.0):
        check_number("label_smoothing", label_smoothing, below=1.0)
        self.label_smoothing = float(label_smoothing)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        views = student, strong_outputs(student)
        return _total(jnp.mean(cross_entropy(view.logits, batch.labels, self.label_smoothing)) for view in views)


def strong_outputs(student: Outputs) -> Outputs:
    """Return the student's outputs for the strong view.

    Raises:
      ValueError: where there are none.
    """
    if student.strong is None:
        raise ValueError(
            "this loss compares two views of each image, and there is no strong one: train on a data.Dataset or on "
            "arrays with a term that has a strong_view, such as MLKD; batches from an iterable come in one view"
        )
    return student.strong


def _total(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)
