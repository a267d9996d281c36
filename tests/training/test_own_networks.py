"""Networks of the user's own: however they are told their mode and whatever they return, the same is learned."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxkd
from jaxkd import Outputs, callbacks, losses, models, optimizers
from jaxkd.nn.modes import call, mode_arguments
from jaxkd.nn.outputs import as_outputs

IMAGES = np.random.default_rng(0).standard_normal((24, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(24) % 3
SGD = optimizers.sgd(0.1)


class Layers(nnx.Module):
    """Flax's own layers; subclasses say how they are told their mode."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.conv, self.bn = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.fc = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def _logits(self, images, evaluation):
        hidden = jax.nn.relu(self.bn(self.conv(images), use_running_average=evaluation)).mean((1, 2))
        return self.fc(self.dropout(hidden, deterministic=evaluation))


class ByTrain(Layers):
    def __call__(self, images, train=False):
        return self._logits(images, not train)


class ByTraining(Layers):
    def __call__(self, images, *, training):
        return self._logits(images, not training)


class ByDeterministic(Layers):
    def __call__(self, images, deterministic=False):
        return self._logits(images, deterministic)


class ByBoth(Layers):
    def __call__(self, images, use_running_average, deterministic):
        assert use_running_average == deterministic
        return self._logits(images, deterministic)


class ByAttributes(Layers):
    def __call__(self, images):
        return self._logits(images, None)


class PassesOn(nnx.Module):
    def __init__(self, seed=0):
        self.network = ByTrain(seed)

    def __call__(self, *args, **kwargs):
        return self.network(*args, **kwargs)


MODES = (ByTraining, ByDeterministic, ByBoth, ByAttributes, PassesOn)


def trained(network):
    trainer = jaxkd.Trainer(network)
    trainer.compile(SGD)
    trainer.fit((IMAGES, LABELS), validation_data=(IMAGES, LABELS), batch_size=8, epochs=2, verbose=0)
    history = {key: values for key, values in trainer.history.history.items() if key != "images_per_second"}
    return history, trainer.predict(IMAGES)


def called(network, train):
    """What it returns, and its statistics and draws after it."""
    logits = call(network, jnp.asarray(IMAGES), train)
    network = getattr(network, "network", network)
    return np.array(logits), np.array(network.bn.mean[...]), int(network.dropout.rngs.count[...])


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("train", [True, False])
def test_every_way_to_be_told_the_mode_computes_alike(kind, train):
    for ours, theirs in zip(called(kind(), train), called(ByTrain(), train), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (called(kind(), train)[1] != 0).any() == train


def test_the_users_own_mode_is_left_alone_and_does_not_count():
    network = ByAttributes()
    network.eval()
    history, logits = trained(network)
    assert (network.bn.use_running_average, network.dropout.deterministic) == (True, True)
    expected, theirs = trained(ByTrain())
    assert history == expected
    np.testing.assert_array_equal(logits, theirs)


def test_a_sequence_of_layers_is_a_network():
    rngs = nnx.Rngs(0)
    layers = (nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs), lambda x: x.mean((1, 2)))
    network = nnx.Sequential(*layers, nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs))
    before = np.array(network.layers[1].mean[...])
    evaluated = [np.array(call(network, jnp.asarray(IMAGES), train=False)) for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)
    assert (network.layers[1].mean[...] == before).all()
    assert (np.array(call(network, jnp.asarray(IMAGES), train=True)) != evaluated[0]).any()
    assert (network.layers[1].mean[...] != before).any()


def test_arguments_that_say_the_mode():
    assert mode_arguments(ByBoth) == ("deterministic", "use_running_average")
    assert mode_arguments(PassesOn) == ("train",)
    assert mode_arguments(nnx.Sequential) is None
    assert mode_arguments(type(models.create("resnet8"))) == ("train",)


class Linen(linen.Module):
    told: str = "train"

    @linen.compact
    def __call__(self, images, train=False):
        hidden = linen.Conv(8, (3, 3))(images)
        hidden = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(hidden)).mean((1, 2))
        return linen.Dense(3)(linen.Dropout(0.2, deterministic=not train)(hidden))


def from_linen(seed=0, module=None):
    return nnx.bridge.ToNNX(module or Linen(), rngs=nnx.Rngs(seed)).lazy_init(jnp.zeros((1, 8, 8, 3)))


def test_a_linen_module_trains_moves_its_statistics_and_is_evaluated_without_drawing():
    network = from_linen()
    before = {path: np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(statistics(network))}
    history, logits = trained(network)
    assert history["loss"][-1] < history["loss"][0]
    after = {path: np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(statistics(network))}
    assert before.keys() == after.keys()
    assert all((before[path] != after[path]).any() for path in before)
    variables = {"params": pure(network, nnx.Param), "batch_stats": pure(network, nnx.BatchStat)}
    np.testing.assert_allclose(Linen().apply(variables, IMAGES), logits, rtol=1e-5, atol=1e-5)


def test_a_linen_module_may_say_what_its_images_are():
    network = from_linen()
    network.normalization = jaxkd.Normalization((0.5,) * 3, (0.25,) * 3)
    network.num_classes, network.made_in = 3, ("2026",)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    trainer = jaxkd.Trainer(network)
    trainer.compile(SGD)
    trainer.fit((pixels, LABELS), validation_data=(pixels, LABELS), batch_size=8, verbose=0)
    floats = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    np.testing.assert_allclose(trainer.predict(pixels), trainer.predict(floats), rtol=1e-5, atol=1e-5)
    assert (network.num_classes, network.made_in) == (3, ("2026",))


SEEN = []
"""The types in which layers of the next two computed."""


class Sees(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv, self.bn, self.norm = (
            nnx.Conv(3, 8, (3, 3), rngs=rngs),
            nnx.BatchNorm(8, rngs=rngs),
            nnx.LayerNorm(8, rngs=rngs),
        )
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.own, self.fc = nnx.Linear(8, 8, dtype=jnp.float32, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        steps = (self.conv, self.bn, lambda x: x.reshape(len(x), -1, 8)[:, :4], self.norm, self.attention, self.fc)
        hidden = images
        for step in steps:
            hidden = step(hidden)
            SEEN.append(str(hidden.dtype))
        assert self.own(hidden @ jnp.ones((3, 8), hidden.dtype)).dtype == jnp.float32  # as its author said
        return hidden.mean(1)


class LinenSees(linen.Module):
    @linen.compact
    def __call__(self, images, train=False):
        hidden = linen.BatchNorm(use_running_average=not train)(linen.Conv(8, (3, 3))(images))
        logits = linen.Dense(3)(linen.LayerNorm()(hidden.mean((1, 2))))
        SEEN.extend(map(str, (hidden.dtype, logits.dtype)))
        return logits


@pytest.mark.filterwarnings("ignore:precision='bfloat16' is slower")
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_layers_of_flax_compute_in_bfloat16_and_keep_their_parameters(kind):
    with jax.numpy_dtype_promotion("standard"):  # which Flax's norms need
        network = Sees() if kind == "nnx" else from_linen(module=LinenSees())
        trainer = jaxkd.Trainer(network)
        trainer.compile(SGD, precision="bfloat16")
        SEEN.clear()
        trainer.fit((IMAGES, LABELS), batch_size=8, epochs=3, verbose=0)
        assert set(SEEN[-2:]) == {"bfloat16"}
        assert trainer.history.history["loss"][-1] < trainer.history.history["loss"][0]
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(trainer.model, (nnx.Param, nnx.BatchStat)))} == {
            jnp.dtype("float32")
        }
        reduced = trainer.predict(IMAGES)
        full = jaxkd.Trainer(trainer.model).predict(IMAGES)
        assert 0 < np.abs(reduced - full).max() < 0.05 * np.abs(full).max()
        assert set(SEEN[-2:]) == {"float32"}
        assert getattr(network, "conv", None) is None or network.conv.dtype is None


def statistics(network):
    return nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def pure(network, kind):
    return nnx.to_pure_dict(nnx.state(network, kind))


class Named(NamedTuple):
    logits: jax.Array
    aux: jax.Array | None = None


@dataclasses.dataclass
class Classes:
    logits: jax.Array
    features: dict


FORMS = {
    "array": lambda logits, hidden: logits,
    "Outputs": lambda logits, hidden: Outputs(logits, (hidden,)),
    "dict": lambda logits, hidden: {"features": [hidden], "logits": logits, "aux": hidden * 2},
    "dict of features": lambda logits, hidden: {"logits": logits, "features": {"pooled": hidden}},
    "tuple": lambda logits, hidden: (logits, hidden * 2),
    "tuple with features": lambda logits, hidden: (logits, [hidden], hidden * 2),
    "mdistiller's": lambda logits, hidden: (logits, {"pooled": hidden}),
    "named tuple": lambda logits, hidden: Named(logits),
    "dataclass": lambda logits, hidden: Classes(logits, {"pooled": hidden}),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_network_may_return(form):
    logits, hidden = jnp.ones((2, 3)), jnp.full((2, 8), 5.0)
    found = as_outputs(FORMS[form](logits, hidden), None)
    assert found.logits is logits
    assert [feature.shape for feature in found.features] in ([], [(2, 8)])
    assert bool(found.features) == (form not in ("array", "tuple", "named tuple"))
    names = {"dict": ["aux"], "tuple": ["1"], "tuple with features": ["2"]}.get(form)
    assert (None if found.others is None else list(found.others)) == names
    assert names is None or (found.others[names[0]] == 10.0).all()


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ({"output": jnp.ones((2, 3))}, TypeError, "entries output and no logits: return logits"),
        ({}, TypeError, "entries without a name and no logits"),
        ((), TypeError, "returned a tuple of nothing: return logits"),
        ([jnp.ones, 3], TypeError, "a list of function, int|a list of .*, int"),
        (None, TypeError, "returned a NoneType"),
        (jnp.ones(3), ValueError, r"float32 of shape \(3,\)"),
        (jnp.ones((2, 3), int), ValueError, r"int32 of shape \(2, 3\)"),
        ((jnp.ones((2, 4, 4, 3)), jnp.ones((2, 3))), ValueError, r"\(2, 4, 4, 3\): return logits"),
        ({"logits": jnp.ones((2, 3)), "features": 3}, TypeError, "the features of .* are a int: give arrays"),
    ],
)
def test_what_is_no_output_is_refused(returned, error, message):
    with pytest.raises(error, match=message):
        as_outputs(returned, None)


class Several(nnx.Module):
    """Two heads and a feature, in a dictionary."""

    def __init__(self, seed=0, mistaken=False):
        rngs = nnx.Rngs(seed)
        self.conv, self.fc = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.early, self.mistaken = nnx.Linear(3, 3, rngs=rngs), mistaken

    def __call__(self, images):
        hidden = self.conv(images)
        pooled = hidden.mean((1, 2))
        entries = {"logits": self.fc(pooled), "features": (hidden, pooled), "early": self.early(images.mean((1, 2)))}
        if self.mistaken:
            entries["scores"] = entries.pop("logits")
        return entries


def early(student, teacher, batch, progress, key):
    """The second head learns what the first one of the teacher says."""
    return jnp.square(student.others["early"] - teacher.logits).mean()


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_losses_read_what_else_a_network_returns(options):
    distiller = jaxkd.Distiller(student=Several(), teacher=Several(seed=1))
    terms = {"ce": losses.CrossEntropy(), "early": early, "hint": losses.FitNet(0)}
    distiller.compile(SGD, loss=terms, image_shape=(8, 8, 3), **options)
    before = np.array(distiller.student.early.kernel[...])
    history = distiller.fit((IMAGES, LABELS), batch_size=8, epochs=3, verbose=0)
    assert history.history["early"][-1] < history.history["early"][0]
    assert (distiller.student.early.kernel[...] != before).any()


def test_a_teacher_and_a_student_of_quite_other_kinds(tmp_path):
    distiller = jaxkd.Distiller(student=from_linen(), teacher=ByAttributes(seed=1))
    distiller.compile(SGD, loss={"ce": losses.CrossEntropy(), "kd": losses.KD(4.0)})
    kept = [callbacks.Checkpoint(tmp_path)]
    distiller.fit((IMAGES, LABELS), batch_size=8, epochs=1, callbacks=kept, verbose=0)
    again = jaxkd.Distiller(student=from_linen(seed=3), teacher=ByAttributes(seed=1))
    again.compile(SGD, loss={"ce": losses.CrossEntropy(), "kd": losses.KD(4.0)})
    again.restore(tmp_path)
    np.testing.assert_array_equal(again.predict(IMAGES), distiller.predict(IMAGES))


def test_a_network_without_logits_is_refused_before_training():
    with pytest.raises(ValueError, match=r"Several cannot take images.*entries features, early, scores and no logits"):
        jaxkd.Distiller(student=Several(), teacher=Several(1, mistaken=True)).compile(SGD, loss=losses.FitNet(0))
    trainer = jaxkd.Trainer(Several(mistaken=True))
    trainer.compile(SGD)
    with pytest.raises(TypeError, match="no logits: return logits"):
        trainer.fit((IMAGES, LABELS), batch_size=8, verbose=0)
    with pytest.raises(TypeError, match="no logits: return logits"):
        trainer.predict(IMAGES)


def test_classes_are_those_of_the_logits_where_nothing_says_how_many():
    four = np.arange(24) % 4
    trainer = jaxkd.Trainer(ByAttributes())
    trainer.compile(SGD)
    for use in (
        lambda: trainer.fit((IMAGES, four), batch_size=8, verbose=0),
        lambda: trainer.evaluate((IMAGES, four)),
        lambda: trainer.fit((IMAGES, LABELS), validation_data=(IMAGES, four), batch_size=8, verbose=0),
    ):
        with pytest.raises(ValueError, match="the labels need 4 classes, but the network has 3: create it with"):
            use()
    batches = [(IMAGES[:12], four[:12]), (IMAGES[12:], four[12:])]
    for use in (
        lambda: trainer.fit(batches, verbose=0),
        lambda: trainer.evaluate(batches),
        lambda: trainer.fit((IMAGES, LABELS), validation_data=batches, batch_size=8, verbose=0),
    ):
        with pytest.raises(ValueError, match="label 3 at position 3 is out of range: 3 classes are numbered 0 to 2"):
            use()


def test_logits_of_other_classes_are_told_and_features_of_them_may_teach():
    student, teacher = Several(), Several(seed=1)
    teacher.fc = nnx.Linear(8, 5, rngs=nnx.Rngs(0))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(SGD, loss={"kd": losses.KD(4.0)})
    with pytest.raises(ValueError, match="loss 'kd' compares logits, but the student has 3 classes and the teacher 5"):
        distiller.fit((IMAGES, LABELS), batch_size=8, verbose=0)
    distiller.compile(SGD, loss={"ce": losses.CrossEntropy(), "hint": losses.FitNet(0)}, image_shape=(8, 8, 3))
    assert np.isfinite(distiller.fit((IMAGES, LABELS), batch_size=8, verbose=0).last("hint"))


def test_the_mode_is_said_in_the_network_that_is_merged_and_nowhere_else():
    network = ByAttributes()
    call(nnx.merge(*nnx.split(network)), jnp.asarray(IMAGES), train=False)
    assert network.bn.use_running_average is False


class Mistaken(Layers):
    """Whose call does something wrong."""

    def __init__(self, does, num_classes=None):
        super().__init__()
        self.does, self.num_classes = does, num_classes

    def __call__(self, images):
        return self.does(self, images)


def _means(network, images):
    return network.conv(images).mean((1, 2))


WRONG = {
    "one row": (
        lambda net, x: net.fc(_means(net, x).mean(0, keepdims=True)),
        r"Mistaken returned 1 rows of logits for",
    ),
    "features": (
        lambda net, x: (_means(net, x), net.fc(_means(net, x))),
        "num_classes is 3, but its logits have 8 col",
    ),
    "channels": (
        lambda net, x: net.fc(_means(net, x.transpose(0, 3, 1, 2))),
        r"fails on images \[B, 8, 8, 3\], with ch",
    ),
    "another size": (
        lambda net, x: net.fc(x.reshape(len(x), -1)),
        r"fails on images \[B, 8, 8, 3\], .*: TypeError: dot",
    ),
    "values": (
        lambda net, x: net.fc(_means(net, x)) * (2 if x.sum() > 0 else 1),
        "TracerBoolCon.*and jnp.where for `if",
    ),
    "NumPy": (
        lambda net, x: net.fc(np.asarray(_means(net, x))),
        "TracerArrayConversionError: .* use jax.numpy for NumP",
    ),
    "an argument": (lambda net, x: net.fc(), "TypeError: Linear.__call__.. missing 1 required"),
}


@pytest.mark.parametrize(("does", "said"), WRONG.values(), ids=WRONG)
def test_a_network_that_cannot_be_right_is_named_with_the_images_it_was_given(does, said):
    trainer = jaxkd.Trainer(Mistaken(does, num_classes=3))
    trainer.compile(SGD)
    for use in (
        lambda: trainer.fit((IMAGES, LABELS), batch_size=8, verbose=0),
        lambda: trainer.fit([(IMAGES, LABELS)], verbose=0),
        lambda: trainer.evaluate((IMAGES, LABELS)),
        lambda: trainer.predict(IMAGES),
    ):
        with pytest.raises((TypeError, ValueError), match=said) as raised:
            use()
        assert "jaxkd" in raised.traceback[-1].path.parts


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:precision='bfloat16' is slower")
def test_what_a_network_computes_in_16_bits_reaches_losses_and_metrics_in_32(dtype, precision):
    network = ByAttributes()
    for layer in (network.conv, network.bn, network.fc):
        layer.dtype = dtype
    seen = []

    def loss(student, teacher, batch, progress, key):
        seen.append(student.logits.dtype)
        return losses.CrossEntropy()(student, teacher, batch, progress, key)

    with jax.numpy_dtype_promotion("standard"):  # Flax adds its float32 parameters to what it computed
        trainer = jaxkd.Trainer(network)
        trainer.compile(SGD, loss={"own": loss}, precision=precision)
        trainer.fit((IMAGES, LABELS), batch_size=8, verbose=0)
        logits, measured = trainer.predict(IMAGES), trainer.evaluate((IMAGES, LABELS))
    assert {*seen} == {jnp.dtype("float32")} == {logits.dtype}
    expected = float(np.mean(-jax.nn.log_softmax(logits)[np.arange(24), LABELS]))
    assert abs(measured["loss"] - expected) < 1e-5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_in_16_bits_are_told(dtype):
    network = ByAttributes()
    network.fc = nnx.Linear(8, 3, param_dtype=dtype, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match=rf"fc.bias and 1 more of ByAttributes are {jnp.dtype(dtype)}, in which small"):
        jaxkd.Trainer(network).compile(SGD)
    jaxkd.Trainer(network).compile(SGD, trainable=("conv", "bn"))  # what is frozen is not rounded


class Squashed(ByTrain):
    """A network that ends as Keras's often do."""

    def __init__(self, squash, dtype=jnp.float32):
        super().__init__()
        self.squash, self.dtype = squash, dtype

    def __call__(self, images, train=False):
        return self.squash(super().__call__(images, train).astype(self.dtype))


@pytest.mark.parametrize(
    ("squash", "name"),
    [(nnx.softmax, "softmax"), (jax.nn.sigmoid, "sigmoid"), (jax.jit(jax.nn.softmax), "softmax")],
)
def test_probabilities_in_the_place_of_logits_are_told(squash, name):
    said = f"Squashed ends in {name}, and losses"
    for verb in ("fit", "evaluate", "predict"):
        trainer = jaxkd.Trainer(Squashed(squash))
        trainer.compile(SGD)
        given = (IMAGES,) if verb == "predict" else (IMAGES, LABELS)
        with pytest.warns(UserWarning, match=said):
            getattr(trainer, verb)(*given, **({"verbose": 0} if verb == "fit" else {}))
    half = jaxkd.Distiller(student=ByTrain(), teacher=Squashed(squash, jnp.bfloat16))
    half.compile(SGD, losses.KD(4.0))
    with pytest.warns(UserWarning, match=said):
        half.fit([(IMAGES, LABELS)], verbose=0)


@pytest.mark.parametrize("squash", [nnx.log_softmax, lambda logits: logits / 4.0, jnp.tanh])
def test_other_ends_of_a_network_are_not_told(squash):
    trainer = jaxkd.Trainer(Squashed(squash))
    trainer.compile(SGD)
    trainer.fit(IMAGES, LABELS, verbose=0)
