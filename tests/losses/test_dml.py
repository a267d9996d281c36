"""Networks that teach each other: a step of all of them beside its gradients worked out on paper."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet, digits, weights

import jaxkd
from jaxkd import losses, models, optimizers


class Linear(nnx.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, seed):
        self.kernel = nnx.Param(jnp.asarray(np.random.default_rng(seed).standard_normal((12, 3)), jnp.float32))
        self.num_classes = 3

    def __call__(self, images, train=False):
        return jaxkd.Outputs(images.reshape(len(images), -1) @ self.kernel[...])


def softmax(logits):
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


@pytest.mark.parametrize("count", [2, 3])
def test_each_learns_from_the_labels_and_the_mean_of_the_others(count):
    rng = np.random.default_rng(7)
    images, labels = rng.standard_normal((5, 2, 2, 3)).astype(np.float32), np.array([0, 1, 2, 1, 0], np.int32)
    networks = [Linear(seed) for seed in range(count)]
    before = [np.asarray(network.kernel[...], float) for network in networks]
    trainer = jaxkd.Trainer(models.Ensemble(networks))
    trainer.compile(optimizers.sgd(0.5, momentum=0.0), losses.DML(), image_shape=(2, 2, 3))
    trainer.fit([(images, labels)], epochs=1, verbose=0)

    pixels = images.reshape(5, -1).astype(float)
    said = [softmax(pixels @ kernel) for kernel in before]
    for place, (network, kernel, own) in enumerate(zip(networks, before, said, strict=True)):
        others = said[:place] + said[place + 1 :]
        slope = (own - np.eye(3)[labels]) + sum(own - other for other in others) / len(others)
        np.testing.assert_allclose(network.kernel[...], kernel - 0.5 * pixels.T @ slope / 5, rtol=1e-4, atol=1e-5)

    ce = -sum(np.log(own[np.arange(5), labels]).mean() for own in said)
    pairs = [(other, own) for i, own in enumerate(said) for j, other in enumerate(said) if i != j]
    kl = sum((other * np.log(other / own)).sum(-1).mean() for other, own in pairs) / (count - 1)
    found = [trainer.history.last(name) for name in ("dml_ce", "dml_kl", "dml")]
    np.testing.assert_allclose(found, [ce, kl, ce + kl], rtol=1e-4)


def test_networks_of_two_kinds_are_trained_evaluated_together_and_each_goes_its_way():
    train = digits()[0].subset(64)
    first, second = TinyNet(seed=0), TinyNet(seed=1, width=4)
    before = weights(first), weights(second)
    trainer = jaxkd.Trainer(models.Ensemble([first, second]))
    trainer.compile(optimizers.sgd(0.05), losses.DML())
    trainer.fit(train, validation_data=train, epochs=2, batch_size=32, verbose=0)
    for network, old in zip((first, second), before, strict=True):
        now = weights(network)
        assert all((now[path] != old[path]).any() for path in old)  # parameters and running statistics
        assert network.normalization == train.normalization  # as in a network that was trained alone
    mean = (jaxkd.Trainer(first).predict(train) + jaxkd.Trainer(second).predict(train)) / 2
    np.testing.assert_allclose(trainer.predict(train), mean, rtol=1e-4, atol=1e-5)
    accuracy = (mean.argmax(-1) == train.labels).mean()
    assert trainer.history.last("val_accuracy") == pytest.approx(accuracy)


@pytest.mark.parametrize("model", [TinyNet(), models.Ensemble([TinyNet()])], ids=["network", "ensemble"])
def test_one_network_has_nobody_to_teach_it(model):
    with pytest.raises(ValueError, match=r"DML trains two or more networks that teach each other: give jaxkd"):
        jaxkd.Trainer(model).compile(optimizers.sgd(0.05), losses.DML(), image_shape=(8, 8, 3))
