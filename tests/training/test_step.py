"""The pure step under `fit`, for loops of one's own."""

import jax
import numpy as np
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import Batch, losses, optimizers
from jaxkd.training.compiled_epoch import end_epoch

SGD = optimizers.sgd(0.1, momentum=0.9, weight_decay=5e-4)


class Counted(losses.KD):
    """KD at a learned temperature that counts how often it is traced."""

    traces = 0

    def __call__(self, *arguments):
        Counted.traces += 1
        return super().__call__(*arguments)


def compiled(optimizer=SGD):
    train, _ = digits()
    student, teacher = (TinyNet(seed=seed, normalization=train.normalization) for seed in (0, 1))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = {"ce": losses.CrossEntropy(), "kd": Counted(losses.CurriculumTemperature())}
    distiller.compile(optimizer, loss=terms, loss_weights={"ce": 0.1, "kd": 0.9})
    return distiller


def batches():
    train = digits()[0].subset(96)
    index = np.arange(96, dtype=np.int32).reshape(3, 32)
    return [Batch(train.images[rows], train.labels[rows], rows) for rows in index]


def test_a_loop_of_ones_own_ends_where_fit_ends():
    fitted, own = compiled(), compiled()
    history = fitted.fit(batches(), epochs=2, verbose=0)

    step, state, seen = jax.jit(own.step), own.state, []
    for _ in range(2):
        for batch in batches():
            state, logs = step(state, batch)
            seen.append(logs)
        state = end_epoch(state)

    assert int(state.step) == 6
    for ours, theirs in zip(leaves(state), leaves(fitted.state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert logs.keys() | {"images_per_second"} == history.history.keys()
    assert all(value.shape == () and value.dtype == np.float32 for value in logs.values())
    for name in ("loss", "ce", "kd", "accuracy"):
        mean = np.mean([float(entry[name]) for entry in seen[3:]])
        np.testing.assert_allclose(history.last(name), mean, rtol=1e-5)


def test_the_step_is_pure_and_traced_once():
    distiller = compiled(optimizers.sgd(0.1))  # a program of its own, not one compiled before
    before, state = leaves(distiller.state), distiller.state
    Counted.traces = 0
    step = jax.jit(distiller.step)
    first, _ = step(state, batches()[0])
    again, _ = step(state, batches()[0])
    assert_same_bits(leaves(first), leaves(again))
    assert_same_bits(leaves(distiller.state), before)
    step(first, batches()[1])
    assert Counted.traces == 1


def test_equal_programs_share_one_step():
    assert compiled().step is compiled().step
    assert compiled().step is not compiled(optimizers.sgd(0.1)).step


def test_fit_traces_once_for_all_epochs():
    distiller, train = compiled(optimizers.sgd(0.1)), digits()[0].subset(96)
    Counted.traces = 0
    distiller.fit(train, epochs=3, batch_size=32, verbose=0)
    traces = Counted.traces
    distiller.fit(train, epochs=2, batch_size=32, verbose=0)
    assert Counted.traces == traces
    assert traces <= 2  # one for the loop's body; the scan may look at it once more to learn its types
