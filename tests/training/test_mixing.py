"""Mixed batches in training: both networks see them, they do not depend on how a batch is computed, and resume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_cases import QUICK
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import Batch, Outputs, losses, optimizers
from jaxkd.data import Augmentation, Mixing

SGD = optimizers.sgd(0.05, momentum=0.9)
MIXING = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)
EXAMPLES, BATCH = 64, 32


class Mean(TinyNet):
    """A linear network of the mean pixel, whose parts of a batch know nothing of each other."""

    def __call__(self, images, train=False):
        return Outputs(images.mean((1, 2)) @ self.fc.kernel[...][:3])


class Apart(losses.Loss):
    """How far apart the logits of student and teacher are, on average."""

    def __call__(self, student, teacher, batch, progress, key):
        return jnp.abs(student.logits - teacher.logits).mean()


def compiled(seed=0, loss=None, **options):
    student, teacher = (TinyNet(seed=one, normalization=digits()[0].normalization) for one in (seed, 9))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(
        SGD, loss or {"ce": losses.CrossEntropy(0.1), "kd": losses.KD(4.0)}, seed=seed, **{"mixing": MIXING, **options}
    )
    return distiller


def fit(trainer, epochs=2, examples=EXAMPLES):
    train = digits()[0].subset(examples).replace(augmentation=Augmentation(pad=2))
    trainer.fit(train, epochs=epochs, batch_size=BATCH, verbose=0)
    return trainer


@pytest.fixture(scope="module")
def straight():
    return fit(compiled())


def test_resumed_bit_for_bit(straight, tmp_path):
    fit(compiled(), epochs=1).save(tmp_path)
    resumed = compiled()
    resumed.restore(tmp_path)
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


def one_step(*, microbatches=1, teacher_seed=0, mixing=MIXING):
    """The state after one step of linear networks, and what it logs."""
    train = digits()[0].subset(BATCH)
    student, teacher = (Mean(seed=seed, normalization=train.normalization) for seed in (0, teacher_seed))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = {"ce": losses.CrossEntropy(), "dkd": losses.DKD(), "apart": Apart()}
    distiller.compile(SGD, terms, mixing=mixing, gradient_accumulation_steps=microbatches)
    step = jax.jit(distiller.step, compiler_options=QUICK)
    return step(distiller.state, Batch(train.images, train.labels, np.arange(BATCH, dtype=np.int32)))


def test_student_and_teacher_see_the_same_mixed_images():
    _, logs = one_step()
    assert float(logs["apart"]) == 0.0
    assert 0 < float(logs["accuracy"]) < 1


def test_parts_of_a_batch_are_mixed_as_the_whole():
    """The partners of examples lie in other parts of the batch."""
    (whole, logs), (parts, sums), (plain, _) = (
        one_step(teacher_seed=1), one_step(teacher_seed=1, microbatches=2), one_step(teacher_seed=1, mixing=None)
    )  # fmt: skip
    np.testing.assert_allclose(sums["dkd"], logs["dkd"], rtol=1e-4)
    ours, theirs, unmixed = (leaves(state.params) for state in (whole, parts, plain))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(ours, unmixed, strict=True))


@pytest.mark.thorough
def test_stacked_runs_mix_as_each_would_alone(straight):
    train = digits()[0].subset(EXAMPLES).replace(augmentation=Augmentation(pad=2))
    found = jaxkd.sweep(compiled, [{"seed": 0}] * 2, train, epochs=2, batch_size=BATCH, verbose=0)
    for run in found.runs:
        for one, other in zip(leaves(run.state.params), leaves(straight.state.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_mixed_is_refused():
    crd = {"crd": losses.CRD(digits()[0].subset(EXAMPLES).labels, negatives=4)}
    with pytest.raises(ValueError, match="CRD remembers each example by its place"):
        compiled(loss=crd)
    with pytest.raises(TypeError, match=r"mixing=0\.8: give data\.Mixing"):
        compiled(mixing=0.8)
    with pytest.raises(ValueError, match="mixed images are new ones in every step"):
        fit(compiled(cache_teacher=True))
