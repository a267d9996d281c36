"""A learned temperature that sits at its bound raises a warning, through a run."""

import warnings

import jax.numpy as jnp
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import callbacks, losses, optimizers

ADVERSARIAL = losses.cosine_curriculum(1)  # one object, so that all runs are one program


def compiled(raw, rate=0.01):
    """A run whose temperature starts at this θ."""
    rule = losses.CurriculumTemperature(curriculum=ADVERSARIAL)
    rule.raw[...] = jnp.float32(raw)
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=4))
    optimizer = optimizers.sgd(rate, momentum=0.0)
    distiller.compile(optimizer, loss={"kd": losses.KD(rule)}, steps_per_execution=1)
    return distiller


def warned(distiller, epochs=2, **options):
    """What it warned of while it trained so many epochs in all."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train = digits()[0].subset(64)
        history = distiller.fit(train, epochs=epochs, batch_size=32, verbose=0, **options).history
    assert len(history["kd_temperature"]) >= epochs
    return [str(warning.message).partition(":")[0] for warning in caught if "bound" in str(warning.message)]


def fitted(raw, rate=0.01, epochs=2):
    """What a new run warned of."""
    return warned(compiled(raw, rate), epochs)


@pytest.mark.parametrize(("raw", "side"), [(-12.0, "lower bound, 1"), (12.0, "upper bound, 21")])
def test_a_temperature_at_its_bound_is_warned_of_once_in_a_run(raw, side):
    assert fitted(raw, epochs=3) == [f"kd_temperature stayed at its {side}, through all of epoch 1"]


def test_it_is_not_warned_of_again_in_another_fit_nor_after_resuming(tmp_path):
    saved = callbacks.Checkpoint(tmp_path)
    first = compiled(-12.0)
    assert len(warned(first, epochs=1, callbacks=[saved])) == 1
    assert warned(first, epochs=2, callbacks=[saved]) == []
    resumed = compiled(-12.0)
    assert warned(resumed, epochs=4, resume="auto", callbacks=[saved]) == []
    assert len(resumed.history.epoch) == 4


def test_every_run_warns_of_its_own():
    assert len(fitted(-12.0)) == len(fitted(-12.0)) == 1


@pytest.mark.parametrize("raw", [1.0, -3.0, 3.0])
def test_one_within_its_range_is_not(raw):
    assert fitted(raw) == []


def test_only_epochs_that_never_leave_the_bound_count():
    # One step at this rate throws θ from the middle to a bound: the first epoch began elsewhere.
    found = fitted(1.0, rate=1e9)
    assert len(found) == 1
    assert "through all of epoch 2" in found[0]
