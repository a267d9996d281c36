"""Features by the names of layers: what a hook would see, in every kind of network, and nothing left behind."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from tiny import TinyNet

import jaxkd
from jaxkd import losses, models, optimizers
from jaxkd.training.forward import forward

IMAGES = np.random.default_rng(0).standard_normal((12, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(12) % 3


class Block(nnx.Module):
    def __init__(self, inputs, outputs, rngs):
        self.conv, self.bn = nnx.Conv(inputs, outputs, (3, 3), 2, rngs=rngs), nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, images):
        return nnx.relu(self.bn(self.conv(images)))


class Own(nnx.Module):
    """A network that knows nothing of features; told its mode by Flax's attributes."""

    def __init__(self, widths=(4, 8, 8), seed=0):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, widths[0], (3, 3), rngs=rngs)
        pairs = itertools.pairwise(widths)
        self.blocks = nnx.List([Block(*pair, rngs) for pair in pairs])
        self.fc, self.unused = nnx.Linear(widths[-1], 3, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, images):
        hidden = self.stem(images)
        for block in self.blocks:
            hidden = block(hidden)
        return self.fc(hidden.mean((1, 2)))


LAYERS = ["stem", "blocks.0", "blocks.1"]


def featured(seed=0, widths=(4, 8, 8)):
    names = ["blocks.0.bn", "blocks.1.bn"]
    return models.with_features(Own(widths, seed), LAYERS, preactivations=names, classifier="fc")


def stages(own):
    stem = own.stem(IMAGES)
    first = own.blocks[0](stem)
    return stem, first, own.blocks[1](first)


def test_the_features_are_what_the_layers_return():
    structure, weights = nnx.split(featured())
    outputs = jax.jit(lambda weights: nnx.merge(structure, weights)(jnp.asarray(IMAGES), train=True))(weights)
    graph, state = nnx.split(Own())
    stem, first, second = jax.jit(lambda state: stages(nnx.merge(graph, state)))(state)
    for feature, expected in zip(outputs.features, (stem, first, second, second.mean((1, 2))), strict=True):
        np.testing.assert_allclose(feature, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(nnx.relu(outputs.preactivations[1]), second, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(outputs.classify(outputs.features[-1]), outputs.logits, rtol=1e-5, atol=1e-6)


def test_the_classifier_of_a_loss_computes_in_float32_whatever_the_network_does():
    network = featured()
    outputs = forward(network, jnp.asarray(IMAGES), train=False, precision="bfloat16")
    exact = network.network.fc(outputs.features[-1])
    np.testing.assert_allclose(outputs.classify(outputs.features[-1]), exact, rtol=1e-6, atol=1e-7)
    assert network.network.fc.dtype is None


class Tokens(nnx.Module):
    """Patches as tokens, whose mean is classified."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, 6, (2, 2), 2, rngs=rngs)
        self.norm, self.fc = nnx.LayerNorm(6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, images):
        tokens = self.patches(images).reshape(len(images), -1, 6)
        return self.fc(self.norm(tokens).mean(1))


def test_the_embedding_of_tokens_is_their_mean():
    network = models.with_features(Tokens(), ["patches", "norm"], classifier="fc")
    outputs = network(jnp.asarray(IMAGES))
    assert [feature.shape for feature in outputs.features] == [(12, 4, 4, 6), (12, 16, 6), (12, 6)]
    np.testing.assert_allclose(outputs.classify(outputs.features[-1]), outputs.logits, rtol=1e-5, atol=1e-6)


def test_recording_leaves_nothing_behind():
    plain, network = Own(), featured()
    before = nnx.graphdef(network)
    jax.make_jaxpr(lambda images: network(images, train=False).features)(IMAGES)  # closed over, and in training mode
    for train in (True, False):
        with pytest.raises(ValueError, match=r"shape|dimension"):
            network(jnp.zeros((1, 8, 8, 5)), train=train)
    assert [type(layer) for _, layer in nnx.iter_modules(network.network)] == [
        type(layer) for _, layer in nnx.iter_modules(plain)
    ]
    assert nnx.graphdef(network) == before


def test_under_jit_vmap_and_grad():
    graph, params, rest = nnx.split(featured(), nnx.Param, ...)

    def means(params, images):
        outputs = nnx.merge(graph, params, rest)(images)
        return jnp.stack([jnp.square(feature).mean() for feature in outputs.features])

    plain = means(params, jnp.asarray(IMAGES))
    np.testing.assert_allclose(jax.jit(means)(params, IMAGES), plain, rtol=1e-5)
    halves = jax.vmap(means, (None, 0))(params, IMAGES.reshape(2, 6, 8, 8, 3))
    np.testing.assert_allclose(halves.mean(0), plain, rtol=1e-5)
    gradients = jax.grad(lambda params: means(params, IMAGES)[1])(params)
    moved = {path[0] for path, leaf in nnx.to_flat_state(gradients) if np.asarray(leaf[...]).any()}
    assert moved == {"network"}
    stem = nnx.to_pure_dict(gradients)["network"]["stem"]["kernel"]
    assert np.asarray(stem).any()


TERMS = {
    "hint": lambda: losses.FitNet(1),
    "at": losses.AT,
    "vid": losses.VID,
    "crd": lambda: losses.CRD(LABELS, negatives=2, feature_dim=4),
    "srrl": losses.SRRL,
    "rkd": losses.RKD,
}


def test_feature_losses_work_without_touching_the_network():
    distiller = jaxkd.Distiller(student=featured(), teacher=featured(1, (4, 6, 6)))
    terms = {name: make() for name, make in TERMS.items()}
    distiller.compile(optimizers.sgd(0.01), loss=terms, image_shape=(8, 8, 3))
    history = distiller.fit((IMAGES, LABELS), batch_size=6, epochs=2, verbose=0)
    assert all(np.isfinite(history.history[name]).all() for name in TERMS)
    assert isinstance(distiller.student.network, Own)
    assert (distiller.student.network.stem.kernel[...] != Own().stem.kernel[...]).any()


def test_a_layer_inside_is_frozen_by_its_name():
    network = featured()
    before = np.array(network.network.blocks[0].bn.mean[...]), np.array(network.network.stem.kernel[...])
    trainer = jaxkd.Trainer(network)
    trainer.compile(optimizers.sgd(0.1), trainable=("network.blocks.1", "network.fc"))
    trainer.fit((IMAGES, LABELS), batch_size=6, verbose=0)
    np.testing.assert_array_equal(network.network.blocks[0].bn.mean[...], before[0])
    np.testing.assert_array_equal(network.network.stem.kernel[...], before[1])
    assert (network.network.blocks[1].bn.mean[...] != 0).any()
    with pytest.raises(ValueError, match=r"trainable='fc'.*did you mean network.fc"):
        trainer.compile(optimizers.sgd(0.1), trainable="fc")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stem", "block.0"], r"'block.0' is none of its layers, Own: did you mean blocks.0.* at its top are"),
        (["blocks"], "'blocks' is no layer that can be called"),
        ([], r"layers=\[\]: name the layers in a list"),
        ("stem", "layers='stem': name the layers in a list"),
    ],
)
def test_layers_that_do_not_exist_are_named_with_those_that_do(layers, message):
    with pytest.raises(ValueError, match=message):
        models.with_features(Own(), layers)


class Shared(nnx.Module):
    """One layer twice, one inside a transformation, one that returns a pair."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.twice, self.inside, self.fc = (nnx.Linear(3, 3, rngs=rngs) for _ in range(3))
        self.pair = Pair()

    def __call__(self, images):
        hidden = self.twice(self.twice(images.mean((1, 2))))
        hidden = nnx.jit(lambda layer, hidden: layer(hidden))(self.inside, hidden)
        return self.fc(self.pair(hidden)[0])


class Pair(nnx.Module):
    def __call__(self, hidden):
        return hidden, hidden


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "'twice' of Shared was called 2 times, and which output is meant cannot be told"),
        ("inside", "'inside' of Shared was not called: .*not within nnx.scan, nnx.remat or nnx.jit"),
        ("pair", "'pair' of Shared returned "),
    ],
)
def test_what_cannot_be_recorded_is_said(layer, message):
    network = models.with_features(Shared(), [layer])
    with pytest.raises(ValueError, match=message):
        network(jnp.asarray(IMAGES))
    with pytest.raises(ValueError, match="'unused' of Own was not called"):
        models.with_features(Own(), ["unused"])(jnp.asarray(IMAGES))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, images, train=False):
        hidden = linen.Conv(4, (3, 3), name="stem")(images)
        hidden = linen.BatchNorm(use_running_average=not train)(linen.Conv(8, (3, 3))(hidden))
        return linen.Dense(3)(linen.relu(hidden).mean((1, 2)))


def test_layers_of_a_linen_module():
    bridged = nnx.bridge.ToNNX(Linen(), rngs=nnx.Rngs(0)).lazy_init(jnp.zeros((1, 8, 8, 3)))
    network = models.with_features(bridged, ["stem", "BatchNorm_0"])
    assert [feature.shape for feature in network(jnp.asarray(IMAGES)).features] == [
        (12, 8, 8, 4),
        (12, 8, 8, 8),
        (12, 8),
    ]
    distiller = jaxkd.Distiller(student=network, teacher=featured(1))
    distiller.compile(optimizers.sgd(0.1), loss={"at": losses.AT(positions=(1,))}, image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"'Conv_9' of ToNNX was not called: did you mean Conv_0\? at its top"):
        models.with_features(bridged, ["Conv_9"])(jnp.asarray(IMAGES))
    with pytest.raises(ValueError, match="classifier='Dense_0': the layers of a linen module"):
        models.with_features(bridged, ["stem"], classifier="Dense_0")


def test_what_is_known_of_a_network_is_known_of_it_with_features():
    network = models.with_features(TinyNet(3), ["conv", "bn"])
    assert (network.num_classes, network.normalization) == (3, None)
    assert [feature.ndim for feature in network(jnp.asarray(IMAGES)).features] == [4, 4, 2]


def test_the_network_inside_learns_what_its_images_are_normalised_with():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    network = models.with_features(TinyNet(3), ["conv", "bn"])
    trainer = jaxkd.Trainer(network)
    trainer.compile(optimizers.sgd(0.1))
    trainer.fit((pixels, LABELS), verbose=0)
    assert network.network.normalization == network.normalization is not None
    np.testing.assert_allclose(jaxkd.Trainer(network.network).predict(pixels), trainer.predict(pixels), rtol=1e-5)
