"""Label smoothing, mixing, averaged weights, AdamW with a mask, clipping and drop paths, all on at once."""

import jax
import numpy as np
import pytest
from tiny import DroppingNet, TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import EMA, losses, optimizers
from jaxkd.data import Augmentation, Mixing

STEPS, BATCH = 4, 16


def compiled(seed=0):
    student, teacher = DroppingNet(seed), TinyNet(seed=9)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    rate = optimizers.timm_cosine(0.01, epochs=4, warmup=1, final=1e-4, start=1e-5)
    distiller.compile(
        optimizers.clipped(optimizers.adamw(rate, weight_decay=0.05, mask=optimizers.kernels), norm=1.0),
        {"ce": losses.CrossEntropy(label_smoothing=0.1), "kd": losses.KD(losses.CurriculumTemperature())},
        seed=seed,
        mixing=Mixing(0.8, 1.0, prob=0.9),
        ema=EMA(0.9, warmup=True),
        steps_per_execution=1,
    )
    return distiller


class Saved(jaxkd.callbacks.Callback):
    """Saves in the middle of the second epoch, and breaks off."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def on_train_batch_end(self, step, logs=None):
        if int(self.trainer.state.step) >= STEPS + 2:
            self.trainer.save(self.directory)
            raise KeyboardInterrupt


def fit(distiller, callbacks=()):
    train = digits()[0].subset(STEPS * BATCH).replace(augmentation=Augmentation(pad=1))
    distiller.fit(train, digits()[1].subset(BATCH), epochs=2, batch_size=BATCH, callbacks=callbacks, verbose=0)
    return distiller


def test_a_run_that_was_broken_off_within_an_epoch_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    straight, broken, resumed = fit(compiled()), compiled(), compiled()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, [Saved(tmp_path)])
    resumed.restore(tmp_path)
    assert 0 < int(resumed.state.step) < 2 * STEPS
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))
    for name in ("ce", "kd", "accuracy", "val_accuracy", "val_ema_loss"):
        np.testing.assert_array_equal(resumed.history.history[name], straight.history.history[name])
    assert all(np.isfinite(leaf).all() for leaf in leaves(straight.state.params))


def test_the_optimizer_takes_short_steps_without_strict_types_getting_in_the_way():
    """Under `jax_numpy_dtype_promotion="strict"`, as these tests set it."""
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    optimizer = optimizers.lamb(0.1)
    weight = np.array([3.0, 4.0], np.float32)
    update, _ = optimizer.update(weight, optimizer.init(weight), weight, epoch=1)
    np.testing.assert_allclose(np.linalg.norm(update), 0.5, rtol=1e-5)
