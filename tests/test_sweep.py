"""Many students in one program end where each would have ended alone."""

import csv
import dataclasses
import importlib
import itertools
import re

import jax
import numpy as np
import pytest
from sweeps import sweep
from tiny import TinyNet, digits

import jaxkd
from jaxkd import callbacks, data, losses, optimizers
from jaxkd.training import stacked_runs

TEACHER, OTHER = TinyNet(seed=9), TinyNet(seed=8)
CELLS = jaxkd.grid(correct=(1.0, 4.0), wrong=(1.0, 2.0, 3.0))


def make(correct, wrong, seed=0, weight=0.5, cache=False, steps_per_execution=None):
    distiller = jaxkd.Distiller(student=TinyNet(seed=seed), teacher=TEACHER)
    distiller.compile(
        optimizers.sgd(optimizers.step_decay(0.05, drops=[1]), momentum=0.9, weight_decay=5e-4),
        loss={"ce": losses.CrossEntropy(), "ats": losses.KD(temperature=losses.ATS(correct=correct, wrong=wrong))},
        loss_weights={"ce": 1 - weight, "ats": weight},
        seed=seed,
        cache_teacher=cache,
        steps_per_execution=steps_per_execution,
    )
    return distiller


@pytest.fixture(scope="module")
def source():
    train, test = digits()
    return dataclasses.replace(train.subset(90), augmentation=data.Augmentation(pad=1, flip=False)), test.subset(60)


def assert_equal_to_separate_runs(found, source, make=make, epochs=2, hooks=lambda **cell: ()):
    train, test = source
    for cell, run in zip(found.cells, found.runs, strict=True):
        alone = make(**cell)
        history = alone.fit(train, test, epochs=epochs, batch_size=32, callbacks=hooks(**cell), verbose=0)
        for ours, theirs in zip(jax.tree.leaves(run.state.params), jax.tree.leaves(alone.state.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        for name, values in history.history.items():
            if name != "images_per_second":
                np.testing.assert_allclose(run.history.history[name], values, rtol=1e-4, err_msg=name)
        assert run.history.epoch == list(range(epochs))
        assert int(run.state.epoch) == int(alone.state.epoch)
        best_or_last = run.history.history["val_accuracy"][int(run.state.epoch) - 1]
        assert run.evaluate(test)["accuracy"] == pytest.approx(best_or_last)


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


Group = importlib.import_module("jaxkd.sweep")._Group  # `jaxkd.sweep` is the function
SEEDS = [{"correct": 4.0, "wrong": 2.0, "seed": seed} for seed in range(3)]


@sweep("mapped", ["one after the other", "batched"], core=["one after the other"])
def test_seeds_are_one_program_with_batches_of_their_own(source, mapped, monkeypatch, capsys):
    """On the CPU runs follow one another within the program; on other devices they are batched."""
    if mapped == "batched":
        monkeypatch.setattr(stacked_runs, "mapped_over_runs", lambda placement: lambda run, given: jax.vmap(run)(given))
    stacked_runs.make_per_seed_loop.cache_clear()
    found = jaxkd.sweep(make, SEEDS, *source, epochs=2, batch_size=32)
    stacked_runs.make_per_seed_loop.cache_clear()
    assert "3 of 3 runs in one program" in capsys.readouterr().out
    assert len({float(loss) for loss in found.last("ats")}) == len(SEEDS)
    assert_equal_to_separate_runs(found, source)


@pytest.mark.thorough
def test_seeds_share_a_cache(source):
    def cached(**cell):
        return make(**cell, cache=cache)

    cache = jaxkd.TeacherCache()
    found = jaxkd.sweep(cached, SEEDS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert_equal_to_separate_runs(found, source)
    again = jaxkd.sweep(cached, SEEDS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert again.histories[1].history["teacher_cache_hits"] == [1.0, 1.0]


def kept(folder, **others):
    """Callbacks for each seed: a log and checkpoints, and what else is given for it."""
    return lambda seed, **_: [
        callbacks.CSVLogger(folder / f"{seed}.csv"),
        *others.get(f"seed{seed}", []),
        callbacks.Checkpoint(folder / str(seed)),
    ]


def test_a_sweep_goes_on_where_its_runs_were(source, tmp_path, capsys):
    def begun(cells, epochs, folder, **others):
        kind = {"callbacks": kept(folder, **others), "resume": "auto"}
        return jaxkd.sweep(make, cells, *source, epochs=epochs, batch_size=32, **kind)

    begun(SEEDS[:2], 1, tmp_path / "resumed")
    found = begun(SEEDS[:2], 2, tmp_path / "resumed")
    assert capsys.readouterr().out.count("resuming after epoch 1 and step 3") == 2
    whole = begun(SEEDS[:2], 2, tmp_path / "whole")
    for run, other in zip(found.runs, whole.runs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, run.state.params, other.state.params)
        assert run.history.history["loss"] == other.history.history["loss"]
    for seed in range(2):
        log = (tmp_path / "resumed" / f"{seed}.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in log] == ["epoch", "1", "2"]
    done = begun(SEEDS[:2], 2, tmp_path / "whole")
    assert done.last("val_accuracy").tolist() == whole.last("val_accuracy").tolist()


@pytest.mark.thorough
def test_runs_that_are_further_on_are_a_program_of_their_own(source, tmp_path, capsys):
    hooks = {"callbacks": kept(tmp_path), "resume": "auto"}
    jaxkd.sweep(make, SEEDS[:1], *source, epochs=1, batch_size=32, **hooks, verbose=0)
    found = jaxkd.sweep(make, SEEDS[:2], *source, epochs=2, batch_size=32, **hooks)
    assert capsys.readouterr().out.count("1 of 2 runs in one program") == 2
    assert_equal_to_separate_runs(found, source)
    found.runs[0].fit(*source, epochs=1, batch_size=32, verbose=0)
    assert found.histories[0].epoch == [0, 1, 2]  # that it was restored once no longer counts


@pytest.mark.thorough
def test_a_run_broken_off_within_an_epoch_goes_on_by_itself(source, tmp_path):
    class Ends(callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            self.trainer.save(tmp_path / "0")
            raise KeyboardInterrupt

    alone = make(**SEEDS[0], steps_per_execution=1)
    with pytest.raises(KeyboardInterrupt):
        alone.fit(*source, epochs=2, batch_size=32, callbacks=[Ends()], verbose=0)
    found = jaxkd.sweep(
        make, SEEDS[:2], *source, epochs=2, batch_size=32, callbacks=kept(tmp_path), resume="auto", verbose=0
    )
    assert_equal_to_separate_runs(found, source)


@pytest.mark.thorough
def test_a_run_that_stops_leaves_the_others_going(source, tmp_path):
    class StopsAfter(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.trainer.stop_training = True

    heard = []
    ends = callbacks.LambdaCallback(on_train_end=lambda logs: heard.append(logs["val_accuracy"]))
    hooks = kept(tmp_path, seed1=[StopsAfter()], seed2=[ends])
    found = jaxkd.sweep(make, SEEDS, *source, epochs=2, batch_size=32, callbacks=hooks, verbose=0)
    assert [run.history.epoch for run in found.runs] == [[0, 1], [0], [0, 1]]
    assert heard == [found.histories[2].last("val_accuracy")]
    for cell, run in zip(SEEDS, found.runs, strict=True):
        alone = make(**cell)
        alone.fit(*source, epochs=len(run.history.epoch), batch_size=32, verbose=0)
        assert run.history.last("loss") == pytest.approx(alone.history.last("loss"), rel=1e-4)


def test_a_best_state_that_is_put_back_is_not_trained_again(source):
    scores = {0: [0.1, 0.9, 0.3], 1: [0.9, 0.1, 0.3]}
    ended = []

    def best(seed, **_):
        scored = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=scores[seed][epoch]))
        ends = callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(seed))
        return [scored, callbacks.EarlyStopping("score", patience=9, mode="max", restore_best=True), ends]

    found = jaxkd.sweep(make, SEEDS[:2], *source, epochs=3, batch_size=32, callbacks=best, verbose=0)
    assert ended == [0, 1]
    assert [int(run.state.epoch) for run in found.runs] == [2, 1]
    assert_equal_to_separate_runs(found, source, epochs=3, hooks=best)


def halved(trainer):
    trainer.state = dataclasses.replace(trainer.state, params=jax.tree.map(lambda leaf: leaf / 2, trainer.state.params))


def halved_in_place(trainer):
    trainer.state.params["model"]["fc"]["kernel"] /= 2


@sweep(
    ("change", "hook"),
    itertools.product([halved, halved_in_place], ["on_epoch_begin", "on_train_batch_end", "on_epoch_end"]),
    core=[(halved, "on_epoch_begin"), (halved_in_place, "on_epoch_end")],
)
def test_a_state_that_a_callback_assigns_is_trained_on(source, change, hook):
    def changing(seed, **_):
        def heard(*_):
            if seed and waiting:
                change(waiting.pop().trainer)

        waiting = [callbacks.LambdaCallback(**{hook: heard})]
        return list(waiting)

    found = jaxkd.sweep(make, SEEDS[:2], *source, epochs=2, batch_size=32, callbacks=changing, verbose=0)
    assert_equal_to_separate_runs(found, source, hooks=changing)


@sweep("epochs", [1, 2], core=[2])
def test_a_run_goes_back_to_an_earlier_epoch_only_where_it_ends(source, epochs):
    class GoesBack(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = jax.tree.map(jax.numpy.copy, self.trainer.state)

        def on_epoch_end(self, epoch, logs=None):
            self.trainer.state = self.before

    def back(seed, **_):
        return [GoesBack()] if seed else []

    kind = {"epochs": epochs, "batch_size": 32, "callbacks": back, "verbose": 0}
    if epochs > 1:
        with pytest.raises(ValueError, match="at step 3 after 1 epochs and step 0 after 0 epochs: a callback that ass"):
            jaxkd.sweep(make, SEEDS[:2], *source, **kind)
        return
    found = jaxkd.sweep(make, SEEDS[:2], *source, **kind)
    assert [int(run.state.epoch) for run in found.runs] == [1, 0]
    assert [run.history.epoch for run in found.runs] == [[0], [0]]


@pytest.mark.thorough
def test_a_shared_cache_teaches_all(source):
    cache = jaxkd.TeacherCache()

    def cached(**cell):
        return make(**cell, cache=cache)

    found = jaxkd.sweep(cached, CELLS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert found.histories[1].history["teacher_cache_hits"][0] == 0.0
    again = jaxkd.sweep(cached, CELLS[:2], *source, epochs=2, batch_size=32, verbose=0)
    assert again.histories[1].history["teacher_cache_hits"] == [1.0, 1.0]
    np.testing.assert_allclose(found.last("loss"), again.last("loss"), rtol=1e-6)


@pytest.mark.thorough
def test_what_does_not_fit_is_halved(source, monkeypatch):
    sizes = []
    train = Group.train

    def out_of_memory(self, *args):
        sizes.append(len(self.members))
        if len(self.members) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return train(self, *args)

    monkeypatch.setattr(Group, "train", out_of_memory)
    found = jaxkd.sweep(make, CELLS, *source, epochs=1, batch_size=32, verbose=0)
    assert sizes == [6, 3, 2, 1, 3, 2, 1]
    assert all(run.history.epoch == [0] for run in found.runs)
    sizes.clear()
    jaxkd.sweep(make, CELLS, *source, epochs=1, batch_size=32, at_once=2, verbose=0)
    assert sizes == [2, 2, 2]


@pytest.mark.parametrize("hooks", [None, lambda **cell: callbacks.TerminateOnNaN()])
def test_no_epoch_is_trained_twice_where_memory_runs_out_in_its_evaluation(source, monkeypatch, hooks):
    plain = Group._measure

    def tight(self, held_out):
        measure = plain(self, held_out)

        def measured(state):
            if len(self.members) > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return measure(state)

        return measured

    monkeypatch.setattr(Group, "_measure", tight)

    def run():
        return jaxkd.sweep(make, CELLS[:2], *source, epochs=1, batch_size=32, callbacks=hooks, verbose=0)

    if hooks is None:
        assert [int(trainer.state.step) for trainer in run().runs] == [3, 3]
    else:  # they have heard of the epoch, which cannot begin again
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            run()


def test_students_of_the_same_networks_share_a_program(source, capsys):
    def two(seed):
        distiller = jaxkd.Distiller(student=TinyNet(seed=seed), teacher=[TEACHER, OTHER])
        distiller.compile(optimizers.sgd(0.05), loss=losses.KD(4.0))
        return distiller

    jaxkd.sweep(two, jaxkd.grid(seed=(0, 1)), *source, epochs=1, batch_size=32)
    assert "2 of 2 runs in one program" in capsys.readouterr().out


def test_other_errors_are_not_swallowed(source, monkeypatch):
    def broken(self, *args):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(Group, "train", broken)
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


def fragile(temperature):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TEACHER)
    distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature=temperature))
    return distiller


FRAGILE = [{"temperature": 4.0}, {"temperature": 1e-40}]


def test_a_diverging_run_leaves_the_others_alone(source):
    with pytest.warns(UserWarning, match="the run with temperature=1e-40 diverged: its loss is nan from epoch 1 on"):
        found = jaxkd.sweep(fragile, FRAGILE, source[0], batch_size=32, verbose=0)
    finite, diverged = found.last("loss")
    assert np.isfinite(finite)
    assert not np.isfinite(diverged)


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["one seed", "two seeds"])
def test_a_run_whose_callbacks_refuse_that_it_diverged_ends_and_the_others_go_on(source, tmp_path, seeds):
    def own(temperature, seed):
        distiller = fragile(temperature)
        distiller.compile(optimizers.sgd(0.05), loss=losses.KD(temperature=temperature), seed=seed)
        return distiller

    def kept(temperature, seed):
        return [callbacks.TerminateOnNaN(), callbacks.Checkpoint(tmp_path / f"{temperature}")]

    cells = [{**cell, "seed": seed} for cell, seed in zip(FRAGILE, seeds, strict=True)]
    with pytest.warns(UserWarning, match="diverge|ends after") as seen:
        found = jaxkd.sweep(own, cells, *source, epochs=2, batch_size=32, callbacks=kept, verbose=0)
    [said] = [str(warning.message) for warning in seen]
    assert said.startswith(
        f"the run with temperature=1e-40, seed={seeds[1]} ends after this epoch, and the others go on"
    )
    assert "became nan at step 0" in said
    assert [run.history.epoch for run in found.runs] == [[0, 1], [0]]
    alone = own(**cells[0])
    history = alone.fit(*source, epochs=2, batch_size=32, verbose=0)
    np.testing.assert_allclose(found.histories[0].history["loss"], history.history["loss"], rtol=1e-4)
    assert (tmp_path / "4.0" / "2").is_dir()
    assert not list((tmp_path / "1e-40").glob("[0-9]*"))


def test_mistakes_are_named(source):
    with pytest.raises(ValueError, match="at least one cell"):
        jaxkd.sweep(make, [], *source)
    with pytest.raises(ValueError, match='cannot be called "epoch"'):
        jaxkd.sweep(make, jaxkd.grid(epoch=(1, 2)), *source)
    with pytest.raises(ValueError, match="data that can be on the device"):
        jaxkd.sweep(make, CELLS[:1], [(source[0].images, source[0].labels)], verbose=0)
    with pytest.raises(ValueError, match="at_once=-1"):
        jaxkd.sweep(make, CELLS, *source, at_once=-1)
    with pytest.raises(ValueError, match="several runs have their checkpoints in runs: name a directory for each cell"):
        jaxkd.sweep(make, CELLS, *source, callbacks=lambda **cell: [callbacks.Checkpoint("runs")])
    with pytest.raises(ValueError, match=r"several runs have a CSVLogger in log\.csv"):
        jaxkd.sweep(make, CELLS, *source, callbacks=lambda **cell: [callbacks.CSVLogger("log.csv")])
    stop, one = callbacks.EarlyStopping("loss"), make(1.0, 1.0)
    with pytest.raises(ValueError, match=r"several runs have the same EarlyStopping.*make new ones for each"):
        jaxkd.sweep(make, CELLS[:2], *source, callbacks=lambda **cell: [stop])
    with pytest.raises(TypeError, match=r"callbacks=\[EarlyStopping.*give a function that makes those of each run"):
        jaxkd.sweep(make, CELLS[:2], *source, callbacks=[stop])
    with pytest.raises(ValueError, match="several cells are one run"):
        jaxkd.sweep(lambda **cell: one, CELLS[:2], *source)
    with pytest.raises(ValueError, match='resume="auto" reads the directory of a Checkpoint'):
        jaxkd.sweep(make, CELLS, *source, resume="auto", verbose=0)
    trained = make(1.0, 1.0)
    trained.fit(source[0], epochs=1, batch_size=32, verbose=0)
    with pytest.raises(ValueError, match="compiled and not trained"):
        jaxkd.sweep(lambda **cell: trained, CELLS[:1], *source, verbose=0)


@pytest.mark.filterwarnings("ignore:TinyNet has 10 classes and the data 5")
def test_no_network_of_a_sweep_has_fewer_classes_than_the_data(source):
    """A label that a network has no logit for counts as right, and its cross-entropy is NaN."""

    def alone(classes):
        trainer = jaxkd.Trainer(TinyNet(num_classes=classes))
        trainer.compile(optimizers.sgd(0.05))
        return trainer

    train, test = source
    few = train.take(train.labels < 5).replace(class_names=train.class_names[:5])
    for given in ((train, None), (few, test)):
        with pytest.raises(ValueError, match="labels need 10 classes, but the network has 5"):
            jaxkd.sweep(alone, jaxkd.grid(classes=(10, 5)), *given, verbose=0)


@pytest.mark.parametrize("value", [4.0, "kd"])
def test_a_single_value_in_a_grid_is_refused(value):
    with pytest.raises(TypeError, match=re.escape(f"temperature={value!r}: give its values in a tuple, as in tempe")):
        jaxkd.grid(temperature=value)


def test_equal_arguments_make_equal_optimizers():
    one, other = (optimizers.sgd(optimizers.step_decay(0.1, drops=[2, 4])) for _ in range(2))
    assert one is other
    assert one is not optimizers.sgd(optimizers.step_decay(0.1, drops=[2, 5]))


def test_the_teacher_of_a_sweep_sees_its_own_images(source):
    teacher = TinyNet(seed=9, normalization=jaxkd.Normalization((0.9,) * 3, (0.7,) * 3))

    def own(temperature):
        distiller = jaxkd.Distiller(student=TinyNet(), teacher=teacher)
        distiller.compile(optimizers.sgd(0.05), losses.KD(temperature))
        return distiller

    cells = jaxkd.grid(temperature=(2.0, 4.0))
    found = jaxkd.sweep(own, cells, *source, epochs=1, batch_size=32, verbose=0)
    assert_equal_to_separate_runs(found, source, own, epochs=1)
