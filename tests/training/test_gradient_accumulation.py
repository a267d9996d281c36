"""A batch computed in parts teaches what it teaches at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_process import furthest
from tiny import TinyNet, digits, leaves

import jaxkd
from jaxkd import Outputs, data, losses, optimizers
from jaxkd.losses import HyperParameter, Loss, Monitor
from jaxkd.nn.layers import Conv, Linear, global_average_pool
from jaxkd.training.compiled_epoch import make_stream_loop
from jaxkd.training.forward import network_input
from jaxkd.training.state import split

RATE, MOMENTUM = 0.05, 0.9
SGD = optimizers.sgd(RATE, momentum=MOMENTUM)
TEACHER = TinyNet(seed=1)


class Plain(nnx.Module):
    """A network in which no example sees another."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv, self.fc = Conv(3, 8, 3, 2, rngs=rngs), Linear(8, 10, rngs=rngs)
        self.num_classes = 10

    def __call__(self, images, train=False):
        features = jax.nn.relu(self.conv(images))
        pooled = global_average_pool(features)
        return Outputs(self.fc(pooled), (features, pooled))


def kd():
    return {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=losses.CurriculumTemperature())}


def compiled(parts, student=Plain, loss=kd, **options):
    distiller = jaxkd.Distiller(student=student(), teacher=TEACHER)
    distiller.compile(SGD, loss=loss(), gradient_accumulation_steps=parts, **options)
    return distiller


def ends(distiller, train, epochs=2, batch_size=32):
    history = distiller.fit(train, epochs=epochs, batch_size=batch_size, verbose=0).history
    return leaves(distiller.state), [values for name, values in history.items() if name != "images_per_second"]


@pytest.fixture(scope="module")
def train():
    return dataclasses.replace(digits()[0].subset(64), augmentation=data.Augmentation(pad=1, flip=True))


@pytest.fixture(scope="module")
def whole(train):
    return ends(compiled(1), train)


@pytest.mark.parametrize(
    ("parts", "kept"), [(5, True), *(pytest.param(parts, False, marks=pytest.mark.slow) for parts in (4, 32))]
)
def test_parts_end_where_the_whole_batch_does(train, whole, parts, kept):
    """Parts that leave a remainder (with the teacher's outputs kept, and cut likewise), equal ones, and single ones."""
    state, logs = ends(compiled(parts, cache_teacher=kept), train)
    if kept:
        hits = logs.pop()
        assert hits[0] == 0.0
        assert hits[1] > 0.0
    assert furthest(state, whole[0]) < 1e-6
    assert furthest(logs, whole[1]) < 1e-4  # a small divergence is a difference of larger numbers


def test_statistics_move_with_every_part():
    """A network with BatchNorm beside a loop over the parts written out."""
    images, labels, normalization = digits()[0].images[:33], digits()[0].labels[:33], digits()[0].normalization
    trainer = jaxkd.Trainer(TinyNet(normalization=normalization))
    trainer.compile(SGD, gradient_accumulation_steps=3)
    graph, params, statistics = split(TinyNet())
    trainer.fit([(images, labels)] * 2, epochs=1, verbose=0)

    @jax.jit
    def learn(params, statistics, rows):
        def loss(params):
            model = nnx.merge(graph, params, statistics)
            scores = jax.nn.log_softmax(model(network_input(images, normalization)[rows], train=True).logits)
            return -jnp.mean(scores[jnp.arange(11), jnp.asarray(labels)[rows]]), split(model)[2]

        return jax.value_and_grad(loss, has_aux=True)(params)

    buffer, values = jax.tree.map(jnp.zeros_like, params), []
    for _ in range(2):
        parts = []
        for rows in np.arange(33).reshape(11, 3).T:  # every third example
            (value, statistics), gradients = learn(params, statistics, rows)
            values.append(float(value))
            parts.append(gradients)
        buffer = jax.tree.map(lambda v, *each: MOMENTUM * v + sum(each) / 3, buffer, *parts)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, buffer)

    assert furthest(leaves(trainer.state.params["model"]), leaves(params)) < 1e-6
    assert furthest(leaves(trainer.state.variables["model"]), leaves(statistics)) < 1e-6
    assert trainer.history.last("loss") == pytest.approx(np.mean(values), rel=1e-6)
    assert int(trainer.state.step) == 2


class Witness(Loss):
    """Writes down what it is shown, and learns nothing."""

    strong_view = staticmethod(lambda key, images: images[:, :, ::-1])

    def __init__(self, examples, calls):
        self.seen = HyperParameter(jnp.zeros(examples, jnp.int32))
        self.draws, self.sizes = HyperParameter(jnp.zeros(calls)), HyperParameter(jnp.zeros(calls, jnp.int32))
        self.calls, self.mirrored = Monitor(jnp.int32(0)), Monitor(jnp.float32(0.0))

    def __call__(self, student, teacher, batch, progress, key):
        calls = self.calls[...]
        self.seen[...] = self.seen[...].at[batch.index].add(1)
        self.draws[...] = self.draws[...].at[calls].set(jax.random.uniform(key))
        self.sizes[...] = self.sizes[...].at[calls].set(len(batch.labels))
        self.calls[...] = calls + 1
        self.mirrored[...] = jnp.mean(jnp.abs(batch.strong - batch.images[:, :, ::-1]))
        return jnp.mean(student.logits) * 0.0 + jnp.mean(jnp.abs(teacher.strong.logits))


def test_each_part_has_its_own_examples_views_and_draws(train):
    plain = dataclasses.replace(digits()[0].subset(34), augmentation=None)  # the last batch has fewer than three
    distiller = compiled(3, loss=lambda: {"witness": Witness(34, calls=5)})
    history = distiller.fit(plain, epochs=1, batch_size=32, verbose=0).history
    witness = distiller.state.variables["losses"]["witness"]
    assert set(np.asarray(witness["seen"]).tolist()) == {1}
    assert len(set(np.asarray(witness["draws"]).tolist())) == 5
    assert witness["sizes"].tolist() == [11, 11, 10, 1, 1]
    assert int(witness["calls"]) == 5
    assert history["witness_mirrored"][0] < 1e-6
    logits = TEACHER(network_input(jnp.asarray(plain.images[:, :, ::-1]), plain.normalization)).logits
    assert history["witness"] == pytest.approx([float(jnp.mean(jnp.abs(logits)))], rel=1e-5)


@pytest.mark.thorough
def test_memory_falls_with_the_parts(train):
    """Student and teacher, whose maps a loss reads, hold one part at a time."""
    images, labels = (np.resize(rows, (1, 256, *rows.shape[1:])) for rows in (train.images, train.labels))
    batch = jaxkd.Batch(images, labels, labels)
    needed = {}
    for parts in (1, 8):
        student, teacher = (TinyNet(seed=seed, normalization=train.normalization) for seed in (0, 1))
        distiller = jaxkd.Distiller(student=student, teacher=teacher)
        distiller.compile(SGD, loss=losses.SP(), gradient_accumulation_steps=parts)
        lowered = make_stream_loop(distiller.step).lower(distiller.state, batch)
        needed[parts] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert needed[8] < needed[1] / 3


@pytest.mark.thorough
def test_a_sweep_in_parts_ends_where_its_runs_do(train):
    def make(temperature):
        return compiled(4, loss=lambda: losses.KD(temperature))

    found = jaxkd.sweep(make, jaxkd.grid(temperature=(1.0, 4.0)), train, epochs=1, batch_size=32, verbose=0)
    for cell, run in zip(found.cells, found.runs, strict=True):
        state, logs = ends(make(**cell), train, epochs=1)
        assert furthest(leaves(run.state), state) < 1e-6
        own = [values for name, values in run.history.history.items() if name != "images_per_second"]
        assert furthest(own, logs) < 1e-5


def test_what_cannot_be_cut_is_refused(train):
    for parts in (0, -2):
        with pytest.raises(ValueError, match=f"gradient_accumulation_steps={parts}: must be at least 1"):
            compiled(parts)
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps=33, but a batch has 32 examples"):
        ends(compiled(33), train)
