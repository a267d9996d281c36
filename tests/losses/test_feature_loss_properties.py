"""Losses on features: what they learn in a run, networks they are compiled for, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_cases import TABLE, Case, dotted, largest
from feature_cases import finite
from flax import nnx
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, losses, models, optimizers
from jaxkd.losses.at import AT
from jaxkd.losses.cc import CC
from jaxkd.losses.fitnet import FitNet
from jaxkd.losses.nst import NST
from jaxkd.losses.ofd import OFD
from jaxkd.losses.reviewkd import ReviewKD
from jaxkd.losses.rkd import RKD
from jaxkd.nn.layers import Linear

LOSSES = {"at": AT, "nst": NST, "rkd": RKD, "cc": CC, "fitnet": FitNet, "ofd": OFD, "reviewkd": ReviewKD}
WEIGHTS = {"ofd": 1e-3, "pkt": 3000.0, "sp": 300.0}


@pytest.mark.parametrize(("name", "rate"), [("vid", 1.0), ("srrl", 0.05), ("crd", 0.01)])
def test_descending_along_the_gradient_of_what_it_learns_lowers_it(name, rate):
    case, values = Case(name), []
    case.state, _ = case.compiled(case.state, jnp.arange(4))  # CRD's Z is set; its memories are held still
    learned = case.state.params["losses"]["term"]
    for _ in range(30):
        found = case(learned=learned)
        learned = jax.tree.map(lambda leaf, slope: leaf - rate * slope, learned, found.learned["term"])
        values.append(float(found.value))
    assert np.diff(values).max() < 0
    assert values[-1] < 0.97 * values[0]


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["wrn_10_2", "resnet14"])
def test_all_train_together_between_published_networks(teacher):
    train = digits()[0].subset(32)
    student, teacher = models.create("resnet8", num_classes=10), models.create(teacher, num_classes=10, seed=1)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    rows = {name: row for name, row in TABLE.items() if row.reads[:4] in ("feat", "prea")}
    terms = {name: row.make() for name, row in rows.items()} | {"crd": losses.CRD(train.labels, negatives=20)}
    sgd = optimizers.sgd(0.01)
    distiller.compile(sgd, {"ce": losses.CrossEntropy(), **terms}, WEIGHTS, image_shape=train.images.shape[1:])
    before = jax.tree.map(np.array, distiller.state.params["losses"])
    logs = distiller.fit(train, epochs=2, batch_size=16, verbose=0).history
    after = jax.tree.map(np.array, distiller.state.params["losses"])
    assert finite([logs[name] for name in terms])
    moved = dotted(jax.tree.map(lambda ours, theirs: ours - theirs, before, after))
    assert {path.partition(".")[0] for path in moved} == {name for name, row in rows.items() if row.learns}
    assert {path for path, by in moved.items() if largest(by) == 0} == set()


def test_a_hint_is_learned():
    train = digits()[0].subset(32).replace(augmentation=None)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=4))
    distiller.compile(optimizers.sgd(0.2, momentum=0.9), loss={"hint": FitNet(position=0)})
    logs = distiller.fit(train, epochs=30, batch_size=16, verbose=0).history
    assert logs["hint"][-1] < 0.3 * logs["hint"][0]


def test_a_loss_may_be_compiled_again_for_other_networks():
    terms = {name: make() for name, make in LOSSES.items()}
    for student, teacher in (("resnet8", "resnet14"), ("wrn_16_1", "resnet8x4")):
        pair = {"student": models.create(student, num_classes=10), "teacher": models.create(teacher, num_classes=10)}
        distiller = jaxkd.Distiller(**pair)
        distiller.compile(optimizers.sgd(0.01), loss=terms)
        regressor = distiller.state.params["losses"]["fitnet"]["regressor"]
        assert regressor["kernel"].shape == (32, 128 if teacher == "resnet8x4" else 32)


# Errors, at compile.


def compiled(loss, student, teacher):
    jaxkd.Distiller(student=student, teacher=teacher).compile(optimizers.sgd(0.1), loss=loss)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_teacher_the_cure_is_named(name):
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(ValueError, match=rf"{LOSSES[name].__name__} .*teacher.*Distiller"):
        trainer.compile(optimizers.sgd(0.1), loss=LOSSES[name]())


class Bare(nnx.Module):
    """Logits, two maps and an embedding, but no preactivations."""

    num_classes = 10

    def __init__(self, features=4, preactivations=0):
        self.linear = Linear(3, 10, rngs=nnx.Rngs(0))
        self.counts = features, preactivations

    def __call__(self, images, train=False):
        pooled = images.mean((1, 2))
        features, preactivations = self.counts
        return Outputs(
            self.linear(pooled), (*(images,) * (features - 1), pooled)[:features], (images,) * preactivations
        )


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (AT(positions=(1, 7)), Bare(), Bare(), r"Bare has no features at position 7; it has 0: \[32, 32, 3\], 1: "),
        (AT(positions=(1, 3)), Bare(), Bare(), r"AT compares maps .* student's feature 3 .*\[3\].*earlier"),
        (AT(), Bare(), Bare(5), r"AT pairs the stages .* student has 2 and the teacher 3; give positions"),
        (NST(), TinyNet(), TinyNet(seed=1), r"NST pairs the stages .* student has 0 and the teacher 0"),
        (NST(positions=()), Bare(), Bare(), r"NST pairs the stages"),
        (RKD(position=1), Bare(), Bare(), r"RKD .* feature 1 .*\[32, 32, 3\]"),
        (RKD(), Bare(0), Bare(), r"no features at position -1; it has none"),
        (CC(position=0), Bare(), Bare(), r"CC .* feature 0"),
        (FitNet(position=3), Bare(), Bare(), r"FitNet compares maps .* feature 3"),
        (FitNet(), Bare(), Bare(2), r"Bare has no features at position 2; it has 0: .*, 1: \[3\]"),
        (OFD(), Bare(preactivations=3), Bare(), r"Bare has no preactivations at position 1; it has none"),
        (
            OFD(),
            Bare(preactivations=3),
            Bare(preactivations=2),
            r"OFD .* equal size, .* 32×32, 32×32 .* teacher's 32×32;",
        ),
        (OFD(), Bare(preactivations=3), Bare(preactivations=3), r"OFD .* Bare does not .* preactivation_norms\(\)"),
        (ReviewKD(), Bare(), Bare(5), r"ReviewKD pairs the stages"),
        (ReviewKD(), Bare(), Bare(preactivations=2), r"no preactivations at position 2; it has 0: .*, 1: "),
    ],
)
def test_networks_that_cannot_be_compared_are_refused_at_compile(loss, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        compiled(loss, student, teacher)


def test_an_embedding_needs_a_dimension():
    with pytest.raises(ValueError, match="width=0"):
        CC(width=0)


@pytest.mark.parametrize("positions", [3, "3"])
def test_a_single_position_is_refused(positions):
    with pytest.raises(TypeError, match=f"positions={positions!r}: give the numbers of the features in a tuple"):
        AT(positions=positions)
