"""BatchNorm that sees each device's share of a batch, beside a loop over the shares written out."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_process import furthest, report_of
from tiny import TinyNet, digits, leaves

import jaxkd
from jaxkd import Outputs, losses, models, optimizers
from jaxkd.losses import Loss, Monitor
from jaxkd.training.forward import both_views, network_input
from jaxkd.training.sharding import BATCH_NORMS, Placement, bn_mesh_of
from jaxkd.training.state import SHUFFLE, split
from jaxkd.types import Batch, Progress

RATE, MOMENTUM, DEVICES = 0.05, 0.9, 4
SGD = optimizers.sgd(RATE, momentum=MOMENTUM)


def mirrored(key, images):
    return images[:, :, ::-1]


def two_terms():
    """One that looks at examples alone, and one that compares those of the whole batch."""
    return {"kd": losses.KD(temperature=4.0), "sp": losses.SP()}


def two_views():
    return {"two": losses.TwoViewCrossEntropy(), "mlkd": losses.MLKD(strong_view=mirrored)}


def seen(images):
    return network_input(jnp.asarray(images), digits()[0].normalization)


def batches(*sizes):
    """Batches of these sizes, one after the other."""
    train, bounds = digits()[0], np.cumsum((0, *sizes))
    return [(np.asarray(seen(train.images[a:b])), train.labels[a:b]) for a, b in itertools.pairwise(bounds)]


def engine(given, terms=two_terms, student=TinyNet, devices=DEVICES, batch_norm="per_device", **options):
    distiller = jaxkd.Distiller(student=student(), teacher=TinyNet(seed=1))
    distiller.compile(SGD, loss=terms(), devices=jax.devices()[:devices], batch_norm=batch_norm, **options)
    distiller.fit(given, batch_size=32, verbose=0)
    return distiller


def share_by_share(given, terms=two_terms, parts=1, precision="float32"):
    """The parameters, statistics and mean loss of the same steps, one device's share after the other."""
    graph, params, statistics = split(TinyNet())
    teacher, progress = TinyNet(seed=1), Progress(jnp.int32(0), jnp.int32(1))

    @jax.jit
    def learn(params, statistics, batch):
        taught = both_views(teacher, batch, False, precision)
        count = 1 if len(batch.labels) % DEVICES else DEVICES
        shares = [jax.tree.map(lambda rows, i=i: jnp.split(rows, count)[i], batch) for i in range(count)]

        def loss(params):
            said, after = [], []
            for share in shares:
                model = nnx.merge(graph, params, statistics)
                said.append(both_views(model, share, True, precision))
                after.append(split(model)[2])
            student = jax.tree.map(lambda *rows: jnp.concatenate(rows), *said)
            total = sum(term(student, taught, batch, progress, jax.random.key(0)) for term in terms().values())
            return total, jax.tree.map(lambda *each: sum(each) / count, *after)

        return jax.value_and_grad(loss, has_aux=True)(params)

    buffer, values = jax.tree.map(jnp.zeros_like, params), []
    for batch in given:
        gradients = jax.tree.map(jnp.zeros_like, params)
        for rows in np.arange(len(batch.labels)).reshape(-1, parts).T:
            part = jax.tree.map(lambda whole, rows=rows: whole[rows], batch)
            (value, statistics), own = learn(params, statistics, part)
            gradients = jax.tree.map(lambda a, b: a + b / parts, gradients, own)
            values += [float(value)] * len(rows)
        buffer = jax.tree.map(lambda v, g: MOMENTUM * v + g, buffer, gradients)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, buffer)
    return leaves(params), leaves(statistics), np.mean(values)


def apart(distiller, expected):
    params, statistics, loss = expected
    return {
        "weights": furthest(leaves(distiller.state.params["model"]), params),
        "statistics": furthest(leaves(distiller.state.variables["model"]), statistics),
        "loss": abs(distiller.history.last("loss") / loss - 1),
    }


def beside_the_loop():
    """How far the engine is from the loop: at once; and two views of each image, in parts and in bfloat16."""
    given = batches(32, 32, 6)  # the last does not divide over the devices
    found = {
        "at once": apart(engine(given), share_by_share([Batch(images, labels, labels) for images, labels in given]))
    }
    train, reduced = dataclasses.replace(digits()[0].subset(32), augmentation=None), {"precision": "bfloat16"}
    distiller = engine(train, two_views, gradient_accumulation_steps=2, **reduced)
    order = jax.random.permutation(distiller.state.random(SHUFFLE, jnp.int32(0)), jnp.arange(32))
    rows, labels = train.images[order], train.labels[order]
    views = Batch(seen(rows), labels, labels, seen(mirrored(None, rows)))
    return found | {"all together": apart(distiller, share_by_share([views], two_views, parts=2, **reduced))}


class Flax(nnx.Module):
    """Flax's own layers, one of which draws random numbers."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.fc, self.bn = nnx.Linear(8 * 8 * 3, 10, rngs=rngs), nnx.BatchNorm(10, rngs=rngs)
        self.dropout, self.num_classes = nnx.Dropout(0.5, rngs=rngs), 10

    def __call__(self, images, train=False):
        logits = self.bn(self.fc(images.reshape(len(images), -1)), use_running_average=not train)
        return Outputs(self.dropout(logits, deterministic=not train))


class Halves(Loss):
    """Whether the halves of a batch are told the same."""

    def __init__(self):
        self.apart = Monitor(jnp.float32(0.0))

    def __call__(self, student, teacher, batch, progress, key):
        half = len(student.logits) // 2
        self.apart[...] = jax.lax.stop_gradient(jnp.mean(jnp.abs(student.logits[:half] - student.logits[half:])))
        return jnp.mean(jnp.square(student.logits))


def draws():
    """Two devices that see the same images: how far apart their dropout leaves them, and how the keys went on."""
    images, labels = batches(8)[0]
    twice = (np.concatenate([images, images]), np.concatenate([labels, labels]))
    distiller = engine([twice, twice], Halves, Flax, devices=2)
    (key, count), (first, _) = (
        (model.dropout.rngs.key[...], model.dropout.rngs.count[...]) for model in (distiller.student, Flax())
    )
    return {
        "apart": distiller.history.last("halves_apart"),
        "keys": [np.asarray(jax.random.key_data(value)).tolist() for value in (key, first)],
        "count": int(count),
    }


def networks_in_one():
    """How far two networks in one, which see the same images on two devices, are from seeing them once."""
    images, labels = batches(8)[0]
    twice = [(np.concatenate([images, images]), np.concatenate([labels, labels]))]

    def student():
        return models.Ensemble([TinyNet(), TinyNet(seed=2, width=4)])

    ends = [engine(twice, losses.CrossEntropy, student, 2, option) for option in BATCH_NORMS]
    return furthest(*(leaves(end.state.params) for end in ends))


def work():
    ends = [engine(batches(32), batch_norm=option) for option in BATCH_NORMS]
    report = {
        "beside the loop": beside_the_loop(),
        "from global": furthest(*(leaves(end.state.params) for end in ends)),
        "equal": all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(ends[1].state)),
        "draws": draws(),
        "networks in one": networks_in_one(),
        "errors": [],
    }
    train = digits()[0].subset(64)

    def make():
        distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1))
        distiller.compile(SGD, loss=losses.KD(4.0), batch_norm="per_device", gradient_accumulation_steps=3)
        return distiller

    for mistake in (
        lambda: make().fit(train, batch_size=64, verbose=0),
        lambda: jaxkd.sweep(make, [{}], train, batch_size=48, verbose=0),
    ):
        try:
            mistake()
        except ValueError as error:
            report["errors"].append(str(error))
    return report


@pytest.fixture(scope="module")
def report():
    return report_of("test_batch_norm_per_device", "work")


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["at once", "all together"])
def test_it_is_the_loop_over_shares(report, case):
    found = report["beside the loop"][case]
    assert found["weights"] < 1e-6
    assert found["statistics"] < 1e-6
    assert found["loss"] < 1e-5


@pytest.mark.thorough
def test_it_is_another_training_than_the_global_one_but_on_one_device(report):
    assert report["from global"] > 1e-3
    assert report["equal"]
    assert bn_mesh_of("per_device", Placement(jax.devices()[:1])) is None


@pytest.mark.thorough
def test_networks_in_one_are_cut_over_devices_like_one(report):
    assert report["networks in one"] < 1e-5


@pytest.mark.thorough
def test_devices_draw_for_themselves_and_the_keys_stay(report):
    assert report["draws"]["apart"] > 0.1
    assert report["draws"]["keys"][0] == report["draws"]["keys"][1]
    assert report["draws"]["count"] == 2


@pytest.mark.thorough
def test_what_cannot_be_done_is_refused(report):
    cut, sweep = report["errors"]
    assert "batch_size=64 does not divide into 3 parts over 8 devices" in cut
    assert cut.endswith("is 72")
    assert "batch_norm='per_device' on 8 devices, but a sweep gives each device whole runs" in sweep
    with pytest.raises(ValueError, match=r"batch_norm='sync': choose one of 'global', 'per_device'"):
        engine([], batch_norm="sync")


def zoo():
    """Networks of several kinds that see the same images on two devices: as if one device had seen them once."""
    images, labels = batches(8)[0]
    twice = [(np.concatenate([images, images]), np.concatenate([labels, labels]))]
    found = {}
    for name in ("resnet32", "MobileNetV2", "ShuffleV2", "vgg8"):

        def student(name=name):
            return models.create(name, num_classes=10, seed=0)

        ends = [engine(twice, losses.CrossEntropy, student, 2, option) for option in BATCH_NORMS]
        found[name] = furthest(*(leaves(end.state.params) for end in ends))
    return found


@pytest.mark.slow
def test_any_network_goes():
    for name, distance in report_of("test_batch_norm_per_device", "zoo").items():
        assert distance < 1e-4, name
