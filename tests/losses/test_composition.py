"""Every divergence with every temperature rule, raw or standardised, beside every feature method: all of it trains."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import digits

import jaxkd
from jaxkd import Batch, Outputs, losses, optimizers
from jaxkd.data import Augmentation
from jaxkd.nn.layers import BatchNorm, Conv, Linear, global_average_pool

# A strong view that compiles in a moment; RandAugment has tests of its own.
DIVERGENCES = {
    "kd": losses.KD,
    "dkd": losses.DKD,
    "mlkd": functools.partial(losses.MLKD, strong_view=Augmentation(pad=2, flip=True)),
}
RULES = {
    "fixed": lambda: 4.0,
    "ats": lambda: losses.ATS(correct=4.0, wrong=2.0),
    "global": losses.CurriculumTemperature,
    "instance": lambda: losses.InstanceTemperature(hidden=8),
}
STANDARDIZE = {"raw": False, "standardized": True}
FEATURES = {
    "alone": None,
    "pkt": lambda labels: losses.PKT(),
    "sp": lambda labels: losses.SP(),
    "vid": lambda labels: losses.VID(),
    "crd": lambda labels: losses.CRD(labels, negatives=16, feature_dim=8),
    "srrl": lambda labels: losses.SRRL(),
}
COMBINATIONS = list(itertools.product(range(3), range(4), range(2), range(6)))
SGD = optimizers.sgd(0.02, momentum=0.9)


CORE = (  # every divergence, every rule, raw and standardised logits, every feature method
    "kd-fixed-raw-alone",
    "kd-instance-standardized-vid",
    "dkd-ats-raw-srrl",
    "mlkd-global-raw-crd",
    "kd-ats-standardized-pkt",
    "dkd-fixed-standardized-sp",
)


def cases():
    tables = (DIVERGENCES, RULES, STANDARDIZE, FEATURES)
    for combination in COMBINATIONS:
        names = [list(table)[place] for table, place in zip(tables, combination, strict=True)]
        case = "-".join(names)
        yield pytest.param(*names, id=case, marks=() if case in CORE else pytest.mark.slow)


class Staged(nnx.Module):
    """The smallest network with a stem, two stages and a classifier that losses may ask."""

    def __init__(self, width, seed):
        rngs = nnx.Rngs(seed)
        sizes = (3, width, width, 2 * width)
        self.convolutions = nnx.List([Conv(a, b, 3, 2, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.norms = nnx.List([BatchNorm(b) for b in sizes[1:]])
        self.fc = Linear(2 * width, 10, rngs=rngs)
        self.num_classes = 10

    def __call__(self, images, train=False):
        features = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            images = jax.nn.relu(norm(convolution(images), train))
            features.append(images)
        features.append(global_average_pool(images))
        return Outputs(self.fc(features[-1]), tuple(features), classify=self.fc.function())


@pytest.mark.parametrize(("divergence", "rule", "standardize", "feature"), list(cases()))
def test_it_trains_and_is_logged(divergence, rule, standardize, feature):
    train = digits()[0].subset(64)
    terms = {
        "ce": losses.CrossEntropy(),
        divergence: DIVERGENCES[divergence](temperature=RULES[rule](), standardize=STANDARDIZE[standardize]),
    }
    if FEATURES[feature]:
        terms[feature] = FEATURES[feature](train.labels)
    distiller = jaxkd.Distiller(student=Staged(4, seed=0), teacher=Staged(6, seed=1))
    distiller.compile(SGD, loss=terms, loss_weights={"ce": 0.1}, image_shape=train.images.shape[1:])
    history = distiller.fit(train, epochs=2, batch_size=32, verbose=0).history

    learned = {f"{divergence}_temperature", f"{divergence}_lambda"} if rule in ("global", "instance") else set()
    assert {"loss", *terms, *learned} <= history.keys()
    assert np.isfinite([history[name] for name in ("loss", *terms, *learned)]).all()
    total = 0.1 * np.array(history["ce"]) + sum(np.array(history[name]) for name in terms if name != "ce")
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


def test_the_core_meets_every_choice():
    chosen = [case.split("-") for case in CORE]
    for place, table in enumerate((DIVERGENCES, RULES, STANDARDIZE, FEATURES)):
        assert {names[place] for names in chosen} == set(table)


def test_two_standardised_logits_teach_nothing_and_it_is_said():
    student, teacher = Outputs(jnp.array([[-1.0, 2.0]])), Outputs(jnp.array([[5.0, -3.0]]))
    batch = Batch(images=None, labels=jnp.array([0]), index=None)
    with pytest.warns(UserWarning, match="leave standardize out where there are two classes"):
        losses.KD(2.0, standardize=True)(student, teacher, batch, None, None)
