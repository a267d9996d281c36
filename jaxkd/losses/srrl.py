"""Softmax regression representation learning (SRRL; Yang et al., ICLR 2021): the teacher's classifier is shared."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxkd.losses.base import Loss, Network
from jaxkd.losses.features import StatelessBatchNorm, embedding_widths, require_teacher
from jaxkd.nn.layers import Linear
from jaxkd.types import Batch, Key, Outputs, Progress, at_least_float32


def representation_loss(student: tuple[jax.Array, jax.Array], teacher: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean squared error of the embeddings plus that of the logits, each over all elements.

    Args:
      student: `[B, D]` embeddings at the teacher's width, and the `[B, K]` logits the teacher's classifier gives them.
      teacher: its own embeddings and logits.

    Example:
      >>> student, teacher = (jnp.zeros((1, 2)), jnp.zeros((1, 4))), (jnp.array([[2.0, 4.0]]), jnp.ones((1, 4)))
      >>> float(representation_loss(student, teacher))
      11.0
    """
    embeddings, logits = (
        jnp.mean(jnp.square(at_least_float32(ours) - at_least_float32(theirs)))
        for ours, theirs in zip(student, teacher, strict=True)
    )
    return embeddings + logits


class SRRL(Loss):
    """The squared distance of the embeddings, the student's mapped to the teacher's width, plus that of the logits.

    Paper: Yang et al., *Knowledge Distillation via Softmax Regression Representation Learning*, ICLR 2021.

    The map is linear, with BatchNorm and ReLU; the logits of both are those of the teacher's frozen classifier, see
    `representation_loss`. Published with weight 1.

    Args:
      position: which feature; by default the pooled one.

    Raises:
      ValueError: at compile, where a network has no embedding there or the teacher's outputs hold no classifier.

    Example:
      >>> from jaxkd import Outputs
      >>> srrl, student = SRRL(), Network(None, Outputs(None, (jnp.zeros((2, 3)),)))
      >>> teacher = Outputs(jnp.zeros((2, 4)), (jnp.zeros((2, 5)),), classify=lambda embedding: embedding[:, :4] + 1.0)
      >>> srrl.build(student, Network(None, teacher), nnx.Rngs(0))
      >>> float(srrl(student.outputs, teacher, None, None, None))
      1.0
    """

    def __init__(self, position: int = -1):
        self.position = position

    def build(self, student: Network, teacher: Network | None, rngs: nnx.Rngs) -> None:
        teacher = require_teacher(self, teacher)
        ours, theirs = embedding_widths(self, student, teacher, self.position)
        if teacher.outputs.classify is None:
            raise ValueError(
                f"SRRL asks the teacher's classifier, but {type(teacher.model).__name__} does not give it: let it "
                "return Outputs(…, classify=…), a function from embeddings [B, C] to logits [B, K]"
            )
        self.projection = Linear(ours, theirs, bias=False, rngs=rngs)
        self.norm = StatelessBatchNorm(theirs)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress, key: Key) -> jax.Array:
        mapped = jax.nn.relu(self.norm(self.projection(at_least_float32(student.features[self.position]))))
        theirs = teacher.features[self.position], teacher.logits
        assert teacher.classify is not None  # as `build` has seen
        return representation_loss((mapped, teacher.classify(mapped)), theirs)
