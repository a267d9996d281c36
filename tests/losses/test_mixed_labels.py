"""Losses of mixed images: every one that is computed of logits, against NumPy and against itself under either label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_cases import QUICK, B, Case, K, said
from sweeps import marked
from tiny import leaves

from jaxkd import Batch
from jaxkd.types import MixedLabels

SHARE = 0.3
OWN, PARTNERS = np.array([0, 1, 2, 3]), np.array([3, 1, 0, 2])
STUDENT, TEACHER = (said(seed, (3, 3, 3))["logits"].astype(np.float64) for seed in (1, 2))
NAMES = ("ce", "kd", "hard_label", "deit_soft", "kd_ats", "ats", "dkd", "dkd_ctkd", "mlkd", "dist")


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(teacher, student):
    teacher, student = log_softmax(teacher), log_softmax(student)
    return (np.exp(teacher) * (teacher - student)).sum(-1)


def cross_entropy(labels):
    return -log_softmax(STUDENT)[np.arange(B), labels].mean()


def mixed_cross_entropy():
    """Of the distribution that mixed labels are."""
    target = SHARE * np.eye(K)[OWN] + (1 - SHARE) * np.eye(K)[PARTNERS]
    return -(target * log_softmax(STUDENT)).sum(-1).mean()


def asymmetric(labels):
    softened = TEACHER / np.where(np.eye(K)[labels] > 0, 4.0, 2.0)
    return -(np.exp(log_softmax(softened)) * log_softmax(STUDENT)).sum(-1).mean()


def decoupled(labels):
    total = 0.0
    for teacher, student, label in zip(TEACHER / 4, STUDENT / 4, labels, strict=True):
        pairs, others = [], []
        for logits in (teacher, student):
            p = np.exp(log_softmax(logits))
            pairs.append(np.log([p[label], 1 - p[label]]))
            others.append(np.delete(logits, label))
        total += 16 * (kl(*pairs) + 2 * kl(*others))
    return total / B


def under_both(value):
    return SHARE * value(OWN) + (1 - SHARE) * value(PARTNERS)


class MixedCase(Case):
    """A loss, shown batches of mixed labels."""

    def found(self, labels, mixed=None):
        if not hasattr(self, "_compiled"):
            self._compiled = jax.jit(self.distiller.step, compiler_options=QUICK)
        rows = jnp.arange(B)
        weak, strong = (
            jnp.stack([rows, jnp.full_like(rows, view)], -1).astype(jnp.float32)[:, None, None, :] for view in (0, 1)
        )
        batch = Batch(weak, jnp.asarray(labels, jnp.int32), rows, strong, mixed)
        after, logs = self._compiled(self.state, batch)
        return logs["term"], after.opt_state


MIXED = MixedLabels(jnp.asarray(PARTNERS, jnp.int32), jnp.full(B, SHARE, jnp.float32))


@pytest.fixture(scope="module", params=marked(dict.fromkeys(NAMES), ("ce", "ats", "dkd")))
def case(request):
    return MixedCase(request.param)


def test_value_and_gradients_are_the_mean_under_both_labels(case):
    value, gradients = case.found(OWN, MIXED)
    parts = [case.found(labels) for labels in (OWN, PARTNERS)]
    wanted = jax.tree.map(lambda own, partner: SHARE * own + (1 - SHARE) * partner, *parts)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    for ours, theirs in zip(leaves(gradients), leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_numbers_by_hand(case):
    by_hand = {
        "ce": mixed_cross_entropy,
        "kd": lambda: 16 * kl(TEACHER / 4, STUDENT / 4).mean(),
        "hard_label": lambda: cross_entropy(TEACHER.argmax(-1)),
        "deit_soft": lambda: 9 * kl(TEACHER / 3, STUDENT / 3).mean(),
        "ats": lambda: under_both(asymmetric),
        "dkd": lambda: under_both(decoupled),
    }
    if case.name not in by_hand:
        pytest.skip("its parts are compared above")
    np.testing.assert_allclose(case.found(OWN, MIXED)[0], by_hand[case.name](), rtol=1e-5)
