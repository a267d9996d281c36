"""Networks of the user's own: a mode that is not passed on, and BatchNorm that sees a single value."""

import warnings

import jax
import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet

import jaxkd
from jaxkd import Outputs, losses, models, optimizers
from jaxkd.nn.layers import BatchNorm
from jaxkd.training.trials import changed_by_evaluation, fitting_batch_size, smallest_part

SGD = optimizers.sgd(0.01)
IMAGES = np.random.default_rng(0).standard_normal((13, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(13) % 3
SHAPE = (8, 8, 3)


class Own(nnx.Module):
    """Flax's idiom, `model.train()` and `model.eval()`; `passed_on` heeds `train=` as well."""

    def __init__(self, passed_on, dropout=True, seed=0):
        rngs = nnx.Rngs(seed)
        self.first, self.bn = nnx.Linear(192, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if dropout else None
        self.fc, self.num_classes, self.passed_on = nnx.Linear(8, 3, rngs=rngs), 3, passed_on

    def __call__(self, images, train=False):
        mode = {"use_running_average": not train} if self.passed_on else {}
        hidden = jax.nn.relu(self.bn(self.first(images.reshape(len(images), -1)), **mode))
        if self.dropout is not None:
            hidden = self.dropout(hidden, **({"deterministic": not train} if self.passed_on else {}))
        return Outputs(self.fc(hidden), (hidden,))


class Flat(nnx.Module):
    """jaxkd's BatchNorm after a linear layer."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.first, self.norm = nnx.Linear(192, 8, rngs=rngs), BatchNorm(8)
        self.fc, self.num_classes = nnx.Linear(8, 3, rngs=rngs), 3

    def __call__(self, images, train=False):
        hidden = jax.nn.relu(self.norm(self.first(images.reshape(len(images), -1)), train))
        return Outputs(self.fc(hidden), (hidden,))


class Rematerialised(TinyNet):
    """Its pass is a transformation that hands every variable back, changed or not."""

    def __call__(self, images, train=False):
        return Outputs(nnx.jit(lambda network, images: TinyNet.__call__(network, images, train).logits)(self, images))


def compiled(network, **options):
    trainer = jaxkd.Trainer(network)
    trainer.compile(SGD, **options)
    return trainer


def told(run):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    assert all(one.filename == __file__ for one in seen)
    return [str(one.message) for one in seen]


def test_what_evaluation_changes_is_found_and_nothing_else():
    changed = changed_by_evaluation(Own(passed_on=False), SHAPE)
    assert {"bn.mean", "bn.var"} < set(changed)
    assert any(path.startswith("dropout.") for path in changed)
    for network in (Own(passed_on=True), TinyNet(), Flat(), Rematerialised(), Own(False, dropout=False)):
        if isinstance(network, Own):
            network.eval()
        assert changed_by_evaluation(network, SHAPE) == []


VERBS = {
    "evaluate": lambda trainer: trainer.evaluate((IMAGES, LABELS)),
    "evaluate batches": lambda trainer: trainer.evaluate([(IMAGES, LABELS)]),
    "predict": lambda trainer: trainer.predict(IMAGES),
    "validation": lambda trainer: trainer.fit(
        (IMAGES, LABELS), validation_data=(IMAGES, LABELS), batch_size=13, epochs=2, verbose=0
    ),
}


@pytest.mark.parametrize("use", VERBS.values(), ids=VERBS)
def test_a_network_that_ignores_its_mode_is_told_once(use):
    trainer = compiled(Own(passed_on=False))
    [message] = told(lambda: use(trainer))
    assert "Own changes bn.mean, bn.var" in message
    assert "use_running_average=not train" in message
    assert told(lambda: use(trainer)) == []  # it is known by now
    assert told(lambda: use(compiled(Own(passed_on=True)))) == []


def test_a_teacher_that_ignores_its_mode_is_told_too():
    distiller = jaxkd.Distiller(student=Own(True), teacher=Own(False))
    distiller.compile(SGD, loss=losses.KD(4.0), image_shape=SHAPE)
    for given in ((IMAGES, LABELS), [(IMAGES, LABELS)]):
        distiller._networks._trials._tried.clear()
        [message] = told(lambda given=given: distiller.fit(given, batch_size=13, verbose=0))
        assert "bn.mean" in message


@pytest.mark.parametrize("network", [Flat, lambda: Own(passed_on=True)], ids=["jaxkd", "flax"])
def test_a_last_batch_of_one_is_refused_before_training_where_batch_norm_sees_one_value(network):
    trainer = compiled(network())
    message = r"13 examples and batch_size=12.*one image.*one value for each channel.*such as 11"
    with pytest.raises(ValueError, match=message):
        trainer.fit((IMAGES, LABELS), batch_size=12, verbose=0)
    with pytest.raises(ValueError, match="batch_size=1, "):
        trainer.fit((IMAGES, LABELS), batch_size=1, verbose=0)
    with pytest.raises(ValueError, match=r"a batch or a part of it has one image.*leave it out"):
        trainer.fit([(IMAGES[:12], LABELS[:12]), (IMAGES[12:], LABELS[12:])], verbose=0)
    assert trainer.history.epoch == []
    assert np.isfinite(trainer.fit((IMAGES, LABELS), batch_size=11, verbose=0).last("loss"))
    trainer.evaluate((IMAGES, LABELS), batch_size=12)  # evaluation needs no statistics of a batch


def test_parts_of_a_batch_count_as_batches():
    trainer = compiled(Flat(), gradient_accumulation_steps=4)
    for given in ((IMAGES[:8], LABELS[:8]), [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]):
        with pytest.raises(ValueError, match="a part of it has one image"):
            trainer.fit(given, batch_size=4, verbose=0)


def test_a_batch_of_one_is_fine_where_there_is_more_to_see():
    for network in (TinyNet(num_classes=3), models.create("resnet8", num_classes=3)):
        compiled(network).fit((IMAGES[:3], LABELS[:3]), batch_size=2, verbose=0)


def test_a_sweep_refuses_what_its_runs_would():
    def make(seed):
        return compiled(Flat(seed))

    with pytest.raises(ValueError, match="batch_size=12"):
        jaxkd.sweep(make, [{"seed": 0}], (IMAGES, LABELS), batch_size=12, verbose=0)


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("microbatches", [1, 2, 3, 5])
def test_the_smallest_part_is_that_of_the_cut(size, microbatches):
    each = -(-size // microbatches)
    assert smallest_part(size, microbatches, devices=1) == min(len(part) for part in _cut(range(size), each))


def _cut(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def test_the_nearest_size_that_fits_is_proposed():
    assert fitting_batch_size(12, lambda size: 13 % size != 1) == 11
    assert fitting_batch_size(64, lambda size: size % 8 == 0) == 64
    assert fitting_batch_size(4, lambda size: False) is None
