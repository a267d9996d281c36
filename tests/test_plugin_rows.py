"""What every one of PKT, SP, VID, SRRL and CRD must be able to take, and all of them in one run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import batch_of, built, evaluate, finite, network, normal
from tiny import assert_same_bits, digits, leaves, weights

import jaxkd
from jaxkd import losses, models, optimizers
from jaxkd.losses.crd import CRD
from jaxkd.losses.pkt import PKT
from jaxkd.losses.sp import SP
from jaxkd.losses.srrl import SRRL
from jaxkd.losses.vid import VID

B = 6
LABELS = np.arange(20) % 4
LOSSES = {
    "pkt": PKT,
    "sp": SP,
    "vid": VID,
    "srrl": SRRL,
    "crd": lambda: CRD(LABELS, negatives=8, feature_dim=5),
}
READS = {"pkt": {2}, "sp": {1}, "vid": {1}, "srrl": {2}, "crd": {2}}  # of stem, stage and embedding
LEARNS = {"pkt": 0, "sp": 0, "vid": 4, "srrl": 3, "crd": 4}  # arrays
WEIGHTS = {"pkt": 30000.0, "sp": 3000.0, "vid": 1.0, "srrl": 1.0, "crd": 0.8}

every_loss = pytest.mark.parametrize("name", LOSSES)


def classify(embedding):
    """A teacher's classifier of four classes."""
    return embedding[:, :4] + 1.0


def pair(scale=1.0, examples=B, dtype=jnp.float32):
    """Student and teacher of other widths and map sizes, with features of a given size."""

    def features(seed, side, width):
        shapes = (4, 4, 3), (side, side, width), (width,)
        made = (scale * normal(seed + i, examples, *shape) for i, shape in enumerate(shapes))
        return [feature.astype(dtype) for feature in made]

    student = network(*features(0, 4, 5))
    theirs = features(10, 3, 7)
    return student, network(*theirs, logits=classify(theirs[-1].astype(jnp.float32)), classify=classify)


def run(name, student, teacher):
    examples = len(student.outputs.features[-1])
    batch = batch_of(LABELS[:examples])
    return evaluate(
        *built(LOSSES[name](), student, teacher), student.outputs, teacher.outputs, batch, jax.random.key(0)
    )


@every_loss
def test_the_gradient_reaches_what_it_learns_and_the_features_it_reads(name):
    value, learned, gradient, after = run(name, *pair())
    assert value.shape == ()
    assert value.dtype == jnp.float32
    assert finite((value, learned, gradient, after))
    assert {i for i, part in enumerate(gradient) if np.abs(part).max() > 0} == READS[name]
    assert len(jax.tree.leaves(learned)) == LEARNS[name]
    assert all(np.abs(leaf).max() > 1e-7 for leaf in jax.tree.leaves(learned))


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e4])
def test_features_of_any_size_give_finite_values_and_gradients(name, scale):
    assert finite(run(name, *pair(scale)))


@every_loss
def test_one_example_is_a_batch(name):
    assert finite(run(name, *pair(examples=1)))


@every_loss
def test_bfloat16_features_are_compared_in_float32(name):
    value, _, gradient, _ = run(name, *pair(dtype=jnp.bfloat16))
    wide, _, _, _ = run(name, *pair())
    assert value.dtype == jnp.float32
    assert all(part.dtype == jnp.bfloat16 for part in gradient)
    np.testing.assert_allclose(value, wide, rtol=0.05)


@pytest.mark.parametrize("name", ["pkt", "sp"])
def test_a_student_that_equals_its_teacher_is_at_the_minimum(name):
    _, teacher = pair()
    value, _, gradient, _ = run(name, teacher, teacher)
    assert abs(float(value)) < 1e-8
    assert max(np.abs(part).max() for part in gradient) < 1e-7


@pytest.mark.parametrize(("name", "rate"), [("vid", 1.0), ("srrl", 0.05), ("crd", 0.01)])
def test_descending_along_the_gradient_of_what_it_learns_lowers_it(name, rate):
    student, teacher = pair()
    graph, params, rest = built(LOSSES[name](), student, teacher)
    batch, values = batch_of(LABELS[:B]), []
    for _ in range(30):
        value, gradient, _, after = evaluate(
            graph, params, rest, student.outputs, teacher.outputs, batch, jax.random.key(0)
        )
        rest = after if not values else rest  # Z is set; then the memories are held still
        params = jax.tree.map(lambda leaf, slope: leaf - rate * slope, params, gradient)
        values.append(float(value))
    assert np.diff(values[1:]).max() < 0
    assert values[-1] < 0.97 * values[1]


def test_all_of_them_train_one_student(tmp_path):
    train = digits()[0].subset(64)
    sgd = optimizers.sgd(0.02, momentum=0.9, weight_decay=5e-4)

    def compiled():
        distiller = jaxkd.Distiller(
            student=models.create("resnet8", num_classes=10), teacher=models.create("wrn_10_2", num_classes=10, seed=1)
        )
        terms = {name: make() for name, make in LOSSES.items()} | {"crd": CRD(train.labels, negatives=40)}
        distiller.compile(
            sgd,
            loss={"ce": losses.CrossEntropy(), **terms},
            loss_weights={"ce": 1.0} | {name: 0.1 * weight for name, weight in WEIGHTS.items()},
            image_shape=(8, 8, 3),
        )
        return distiller

    distiller = compiled()
    start, teacher = leaves(distiller.state.params["losses"]), weights(distiller.teacher)
    assert len(start) == sum(LEARNS.values()) + 8  # VID has three stages here
    distiller.fit(train, epochs=6, batch_size=32, verbose=0)
    logs = distiller.history.history
    assert finite([logs[name] for name in LOSSES])
    for name in ("ce", "pkt", "sp"):
        assert logs[name][-1] < 0.97 * logs[name][0], name
    learned = leaves(distiller.state.params["losses"])
    assert all((new != old).any() for new, old in zip(learned, start, strict=True))
    assert_same_bits(weights(distiller.teacher), teacher)

    distiller.save(tmp_path)
    restored = compiled()
    restored.restore(tmp_path)
    assert_same_bits(leaves(restored.state), leaves(distiller.state))
