"""Many students in one program end where each would have ended alone."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import data, losses, optimizers, together

TEACHER = TinyNet(seed=9)
CELLS = jaxkd.grid(correct=(1.0, 4.0), wrong=(1.0, 2.0, 3.0))


def make(correct, wrong, seed=0, weight=0.5, cache=False):
    distiller = jaxkd.Distiller(student=TinyNet(seed=seed), teacher=TEACHER)
    distiller.compile(
        optimizers.sgd(optimizers.step_decay(0.05, drops=[1]), momentum=0.9, weight_decay=5e-4),
        loss={"ce": losses.CrossEntropy(), "ats": losses.KD(temperature=losses.ATS(correct=correct, wrong=wrong))},
        loss_weights={"ce": 1 - weight, "ats": weight},
        seed=seed,
        cache_teacher=cache,
    )
    return distiller


@pytest.fixture(scope="module")
def source():
    train, test = digits()
    return dataclasses.replace(train.subset(90), augmentation=data.Augmentation(pad=1, flip=False)), test.subset(60)


def assert_equal_to_separate_runs(found, source, make=make, epochs=2):
    train, test = source
    for cell, run in zip(found.cells, found.runs, strict=True):
        alone = make(**cell)
        history = alone.fit(train, test, epochs=epochs, batch_size=32, verbose=0)
        for ours, theirs in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(alone.state.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        for name, values in history.history.items():
            if name != "images_per_second":
                np.testing.assert_allclose(run.history.history[name], values, rtol=1e-4, err_msg=name)
        assert int(run.state.epoch) == epochs
        assert run.evaluate(test)["accuracy"] == pytest.approx(run.history.last("val_accuracy"))


def test_each_cell_is_its_separate_run(source):
    found = jaxkd.sweep(make, CELLS, *source, epochs=2, batch_size=32, verbose=0)
    assert_equal_to_separate_runs(found, source)
    assert len({float(loss) for loss in found.last("ats")}) == len(CELLS)


def test_seeds_and_weights_form_groups(source, capsys):
    cells = [
        {"correct": 2.0, "wrong": 1.0},
        {"correct": 2.0, "wrong": 1.0, "seed": 1},
        {"correct": 4.0, "wrong": 1.0},
        {"correct": 4.0, "wrong": 1.0, "weight": 0.9},
        {"correct": 4.0, "wrong": 1.0, "seed": 1},
    ]
    found = jaxkd.sweep(make, cells, *source, epochs=2, batch_size=32)
    told = capsys.readouterr().out
    assert [line.split(" in ")[0] for line in told.splitlines() if "program" in line] == [
        "2 of 5 runs", "2 of 5 runs", "1 of 5 runs",
    ]  # fmt: skip
    assert_equal_to_separate_runs(found, source)


def test_a_shared_cache_teaches_all(source):
    cache = jaxkd.TeacherCache()

    def cached(**cell):
        return make(**cell, cache=cache)

    found = jaxkd.sweep(cached, CELLS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert found.histories[1].history["teacher_cache_hits"][0] == 0.0
    again = jaxkd.sweep(cached, CELLS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert again.histories[1].history["teacher_cache_hits"] == [1.0, 1.0]
    np.testing.assert_allclose(found.last("loss"), again.last("loss"), rtol=1e-6)


def test_what_does_not_fit_is_halved(source, monkeypatch):
    sizes = []
    train = together.Together.train

    def out_of_memory(self, *args):
        sizes.append(len(self.runs))
        if len(self.runs) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        train(self, *args)

    monkeypatch.setattr(together.Together, "train", out_of_memory)
    found = jaxkd.sweep(make, CELLS, *source, epochs=1, batch_size=32, verbose=0)
    assert sizes == [6, 3, 2, 1, 3, 2, 1]
    assert all(run.history.epoch == [0] for run in found.runs)
    sizes.clear()
    jaxkd.sweep(make, CELLS, *source, epochs=1, batch_size=32, at_once=2, verbose=0)
    assert sizes == [2, 2, 2]


def test_other_errors_are_not_swallowed(source, monkeypatch):
    def broken(self, *args):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(together.Together, "train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        jaxkd.sweep(make, CELLS, *source, verbose=0)


def test_the_table(source, tmp_path):
    found = jaxkd.sweep(make, CELLS[:2], *source, epochs=2, batch_size=32, verbose=0)
    rows = found.rows()
    assert [(row["correct"], row["wrong"], row["epoch"]) for row in rows] == [
        (1.0, 1.0, 1), (1.0, 1.0, 2), (1.0, 2.0, 1), (1.0, 2.0, 2),
    ]  # fmt: skip
    found.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["val_accuracy"]) for row in read] == [row["val_accuracy"] for row in rows]
    assert found.last("val_accuracy").shape == (2,)


def test_a_diverging_run_leaves_the_others_alone(source):
    def fragile(temperature):
        distiller = jaxkd.Distiller(student=TinyNet(), teacher=TEACHER)
        distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature=temperature))
        return distiller

    found = jaxkd.sweep(fragile, [{"temperature": 4.0}, {"temperature": 1e-40}], source[0], batch_size=32, verbose=0)
    finite, diverged = found.last("loss")
    assert np.isfinite(finite)
    assert not np.isfinite(diverged)


def test_mistakes_are_named(source):
    with pytest.raises(ValueError, match="at least one cell"):
        jaxkd.sweep(make, [], *source)
    with pytest.raises(ValueError, match="data that can be on the device"):
        jaxkd.sweep(make, CELLS[:1], [(source[0].images, source[0].labels)], verbose=0)
    with pytest.raises(ValueError, match="at_once=-1"):
        jaxkd.sweep(make, CELLS, *source, at_once=-1)
    trained = make(1.0, 1.0)
    trained.fit(source[0], epochs=1, batch_size=32, verbose=0)
    with pytest.raises(ValueError, match="compiled and not trained"):
        jaxkd.sweep(lambda **cell: trained, CELLS[:1], *source, verbose=0)


def test_equal_arguments_make_equal_optimizers():
    one, other = (optimizers.sgd(optimizers.step_decay(0.1, drops=[2, 4])) for _ in range(2))
    assert one is other
    assert one is not optimizers.sgd(optimizers.step_decay(0.1, drops=[2, 5]))
