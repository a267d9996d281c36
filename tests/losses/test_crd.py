"""CRD: the authors' values, the draws, what the memories keep, and a run that uses them."""

from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feature_cases import batch_of, built, evaluate, golden_arrays, network, normal
from flax import nnx
from sweeps import sweep
from tiny import TinyNet, assert_same_bits, digits, leaves
from values import both_precisions, precision, relative_error

import jaxkd
from jaxkd import losses, optimizers
from jaxkd.losses.crd import CRD, Classes, Side, noise_contrastive_loss, permuted

LABELS = np.arange(200) % 10
SIDES = {"student": "s", "teacher": "t"}


class Given(CRD):
    """Contrasts with the examples it is told."""

    def __init__(self, drawn, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drawn = nnx.Variable(jnp.asarray(drawn, jnp.int32))

    def draw(self, batch, key):
        return self.drawn[...]


@both_precisions
def test_the_authors_values(dtype, value_tolerance, gradient_tolerance):
    with precision(dtype):
        golden = golden_arrays("crd", dtype)
        student, teacher = (network(golden[f"{who}_feature"]) for who in SIDES)
        loss = Given(golden["contrast_index"], LABELS, negatives=50, feature_dim=32)
        graph, params, rest = built(loss, student, teacher)
        for who, short in SIDES.items():
            head = {"kernel": golden[f"embed_{short}_weight"].T, "bias": golden[f"embed_{short}_bias"]}
            assert jax.tree.map(jnp.shape, params[who]["head"]) == jax.tree.map(jnp.shape, head)
            params[who]["head"] = head
            rest[who] = {"memory": golden[f"memory_{who}_before"], "log_z": rest[who]["log_z"].astype(dtype)}
        batch = batch_of(LABELS[np.asarray(golden["index"])], golden["index"])
        value, learned, [gradient], after = evaluate(graph, params, rest, student.outputs, teacher.outputs, batch)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(gradient, golden["grad_student_feature"]) < gradient_tolerance
        for who, short in SIDES.items():
            kernel = learned[who]["head"]["kernel"]
            assert relative_error(kernel, golden[f"grad_embed_{short}_weight"].T) < gradient_tolerance
            assert relative_error(after[who]["memory"], golden[f"memory_{who}_after"]) < value_tolerance
            assert relative_error(jnp.exp(after[who]["log_z"]), golden[f"z_{who}"]) < value_tolerance


# By hand.


def test_noise_contrastive_loss_by_hand():
    # Noise frequency 2/8; the match has p = ¾ (share ¾ of 1), the others ¼ (half) and 0 (certainly noise).
    likelihood = jnp.log(jnp.array([[0.75, 0.25, 1e-30]]))
    expected = -(log(3 / 4) + log(1 / 2) + log(1))
    assert float(noise_contrastive_loss(likelihood, examples=8)) == pytest.approx(expected, rel=1e-5)
    twice = jnp.concatenate([likelihood, likelihood])
    assert float(noise_contrastive_loss(twice, examples=8)) == pytest.approx(expected, rel=1e-5)


def two_directions(index, labels=(0, 1), **options):
    """Embeddings along (1, 0) for the student and (0, 1) for the teacher, memories along these too."""
    student, teacher = network(jnp.array([[2.0, 0.0]])), network(jnp.array([[0.0, 5.0]]))
    loss = Given([[index, 1 - index]], labels, negatives=1, feature_dim=2, temperature=0.5, **options)
    loss.build(student, teacher, nnx.Rngs(0))
    for side, direction in ((loss.student, [1.0, 0.0]), (loss.teacher, [0.0, 1.0])):
        side.head.kernel[...], side.head.bias[...] = jnp.eye(2), jnp.zeros(2)
        side.memory[...] = jnp.array([direction, [-1.0, 0.0]])
    return loss, student.outputs, teacher.outputs, batch_of([labels[index]], [index])


def test_a_step_by_hand():
    loss, student, teacher, batch = two_directions(0, momentum=0.25)
    # The student's s = (1, 0) meets the teacher's memories (0, 1) and (−1, 0): e⁰ and e⁻², Z = 2 · mean of both.
    # The teacher's t = (0, 1) meets the student's, (1, 0) and (−1, 0): e⁰ twice, Z = 2.
    z, noise = 1 + exp(-2), 1 / 2
    first = -log((1 / z) / (1 / z + noise)) - log(noise / (exp(-2) / z + noise))
    second = -2 * log(1 / 2)
    found = float(loss(student, teacher, batch, None, None))
    assert found == pytest.approx(first + second, rel=1e-5)
    assert float(jnp.exp(loss.student.log_z[...])) == pytest.approx(z, rel=1e-6)
    assert float(jnp.exp(loss.teacher.log_z[...])) == pytest.approx(2, rel=1e-6)
    np.testing.assert_allclose(loss.teacher.memory[...], [[0.0, 1.0], [-1.0, 0.0]], atol=1e-6)


def test_memories_move_and_keep_length_one():
    loss, student, teacher, batch = two_directions(1, momentum=0.25)
    loss(student, teacher, batch, None, None)
    # ¼ (−1, 0) + ¾ (0, 1) has the direction (−1, 3); the student's passes through the middle to (1, 0).
    direction = np.array([-1.0, 3.0]) / np.sqrt(10)
    np.testing.assert_allclose(loss.teacher.memory[...], [[0.0, 1.0], direction], rtol=1e-6)
    np.testing.assert_allclose(loss.student.memory[...], [[1.0, 0.0], [1.0, 0.0]], atol=1e-6)


def test_of_an_example_that_comes_twice_the_last_embedding_is_remembered():
    side = Side(2, 2, 3, rngs=nnx.Rngs(0))
    side.memory[...] = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    embeddings = jnp.array([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1.0]])
    side.remember(jnp.array([2, 1, 2, 1]), embeddings, jnp.float32(0.25))
    wanted = np.array([[1.0, 0.0], [1 / 4, 3 / 4], [-1.0, 0.0]])
    np.testing.assert_allclose(side.memory[...], wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)


def test_z_is_that_of_the_first_batch_and_memories_change_only_where_the_batch_is():
    student, teacher = network(normal(0, 4, 6)), network(normal(1, 4, 8))
    graph, params, rest = built(CRD(LABELS, negatives=20, feature_dim=16), student, teacher)
    seen, before = [7, 100, 3, 58], rest
    for step in range(2):
        batch = batch_of(LABELS[seen], seen)
        _, _, _, after = evaluate(graph, params, before, student.outputs, teacher.outputs, batch, jax.random.key(step))
        for who in SIDES:
            changed = np.flatnonzero((before[who]["memory"] != after[who]["memory"]).any(1))
            assert changed.tolist() == sorted(seen)
            np.testing.assert_allclose(jnp.square(after[who]["memory"][jnp.array(seen)]).sum(1), 1.0, rtol=1e-5)
            if step:
                assert float(after[who]["log_z"]) == float(before[who]["log_z"])
            else:
                assert float(before[who]["log_z"]) == -np.inf
        before, seen = after, [8, 9, 10, 11]


def test_memories_start_about_at_length_one():
    networks = network(normal(0, 2, 6)), network(normal(1, 2, 8))
    _, _, rest = built(CRD(LABELS, negatives=20), *networks)
    for who in SIDES:
        memory = np.asarray(rest[who]["memory"])
        assert memory.shape == (200, 128)
        assert 0.99 < np.abs(memory).max() * np.sqrt(128 / 3) <= 1
        assert np.linalg.norm(memory, axis=1).mean() == pytest.approx(1, rel=0.02)


# The draws, which are compiled: one by one their steps take several times as long.


def draw(crd, batch, key):
    return jax.jit(crd.draw)(batch, key)


def test_negatives_are_of_other_classes_and_drawn_once():
    crd, index = CRD(LABELS, negatives=150), np.array([0, 11, 199, 12, 0])
    drawn = np.asarray(draw(crd, batch_of(LABELS[index], index), jax.random.key(0)))
    assert drawn.shape == (5, 151)
    assert drawn[:, 0].tolist() == index.tolist()
    assert (LABELS[drawn[:, 1:]] != LABELS[index][:, None]).all()
    assert all(len(set(row)) == 151 for row in drawn)
    assert set(drawn[0]) != set(drawn[4])  # each example has draws of its own
    again = np.asarray(draw(crd, batch_of(LABELS[index], index), jax.random.key(1)))
    assert (again[:, 1:] != drawn[:, 1:]).mean() > 0.9


def test_a_relaxed_match_is_any_of_the_class():
    crd = CRD(LABELS, negatives=5, mode="relaxed")
    index = np.full(2000, 13)
    drawn = np.asarray(draw(crd, batch_of(LABELS[index], index), jax.random.key(0)))
    found, counts = np.unique(drawn[:, 0], return_counts=True)
    assert found.tolist() == np.flatnonzero(LABELS == 3).tolist()
    assert counts.min() > 60  # of 100 expected
    assert (LABELS[drawn[:, 1:]] != 3).all()


def test_where_others_are_few_each_is_drawn_as_often():
    classes = Classes(np.array([0, 1, 1, 2, 1]))
    drawn = np.asarray(jax.jit(classes.others, static_argnums=1)(jnp.array([0, 1, 2]), 9, jax.random.key(0)))
    counts = [np.bincount(row, minlength=5) for row in drawn]
    assert sorted(counts[0].tolist()) == [0, 2, 2, 2, 3]
    assert counts[0][0] == 0
    assert sorted(counts[1].tolist()) == [0, 0, 0, 4, 5]
    assert counts[1][[1, 2, 4]].tolist() == [0, 0, 0]
    assert counts[2][3] == 0


@sweep("size", [1, 2, 3, 16, 17, 1000], core=[17])
def test_every_row_is_a_permutation(size):
    positions = jnp.broadcast_to(jnp.arange(size), (3, size))
    found = jax.jit(permuted)(jax.random.key(0), positions, jnp.full(3, size))
    np.testing.assert_array_equal(np.sort(found, axis=1), positions)


def test_no_entry_and_no_pair_of_entries_is_preferred():
    rows, size = 40_000, 30
    positions = jnp.broadcast_to(jnp.array([0, 17]), (rows, 2))
    one, other = np.asarray(jax.jit(permuted)(jax.random.key(1), positions, jnp.full(rows, size))).T
    assert (one != other).all()
    for found, kinds in ((one, size), (other, size), ((one - other) % size - 1, size - 1)):
        fair = rows / kinds
        assert np.abs(np.bincount(found, minlength=kinds) - fair).max() < 5 * np.sqrt(fair)


@pytest.mark.parametrize("count", [1, 7, 12])
def test_a_tpu_draws_the_same_in_parts(count, monkeypatch):
    positions, sizes = jnp.broadcast_to(jnp.arange(count), (3, count)), jnp.array([12, 100, 4999])
    at_once = jax.jit(permuted)(jax.random.key(0), positions, sizes)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, tpu, default: tpu(*arrays))
    in_parts = jax.jit(lambda *arguments: permuted(*arguments))(jax.random.key(0), positions, sizes)
    np.testing.assert_array_equal(in_parts, at_once)


# Through the engine.

SGD = optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4)
N = 96


def compiled(labels, mode="exact"):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=4))
    crd = CRD(labels, negatives=32, feature_dim=8, mode=mode)
    distiller.compile(SGD, loss={"ce": losses.CrossEntropy(), "crd": crd}, loss_weights={"ce": 1.0, "crd": 0.8})
    return distiller


def fit(distiller, train, epochs):
    return distiller.fit(train, epochs=epochs, batch_size=32, verbose=0).history


@pytest.fixture(scope="module")
def train():
    return digits()[0].subset(N)


def test_a_run_learns_remembers_and_resumes_bit_for_bit(train, tmp_path):
    straight = compiled(train.labels)
    start = leaves(straight.state.variables["losses"]["crd"]["student"])
    heads = leaves(straight.state.params["losses"])
    history = fit(straight, train, 8)
    assert history["crd"][-1] < 0.9 * history["crd"][0]
    learned = leaves(straight.state.params["losses"])
    assert all(np.abs(new - old).max() > 1e-3 for new, old in zip(learned, heads, strict=True))
    kept = leaves(straight.state.variables["losses"]["crd"]["student"])
    assert all((new != old).any() for new, old in zip(kept, start, strict=True))

    half = compiled(train.labels)
    fit(half, train, 3)
    half.save(tmp_path)
    resumed = compiled(train.labels)
    resumed.restore(tmp_path)
    assert_same_bits(leaves(resumed.state), leaves(half.state))
    fit(resumed, train, 8)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


def test_labels_of_another_data_set_stop_training(train):
    with pytest.raises(FloatingPointError, match="crd"):
        fit(compiled(np.roll(train.labels, 1)), train, 1)
    classes = Classes(LABELS)
    assert classes.knows(batch_of(LABELS[[3, 199]], [3, 199]))
    for labels, index in (([4], [3]), ([0], [200]), ([9], [-201])):  # another label; beyond the end of either side
        assert not classes.knows(batch_of(labels, index))


# Errors.


def test_what_cannot_be_right_is_refused():
    for labels in (LABELS[:, None], LABELS * 1.0, LABELS - 1):
        with pytest.raises(ValueError, match=r"labels of shape .*train\.labels"):
            CRD(labels)
    with pytest.raises(ValueError, match=r"4 labels of 1 class"):
        CRD(np.ones(4, int))
    for message, options in (
        ("mode='relax'", {"mode": "relax"}),
        ("negatives=0", {"negatives": 0}),
        ("feature_dim=0", {"feature_dim": 0}),
        ("temperature=0", {"temperature": 0}),
        ("momentum=1", {"momentum": 1}),
    ):
        with pytest.raises(ValueError, match=message):
            CRD(LABELS, **options)
    whole = network(normal(0, 2, 3))
    with pytest.raises(ValueError, match=r"CRD .*Distiller"):
        CRD(LABELS).build(whole, None, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"CRD .*teacher's feature -1 .*\[4, 4, 3\]"):
        CRD(LABELS).build(whole, network(normal(0, 2, 4, 4, 3)), nnx.Rngs(0))
