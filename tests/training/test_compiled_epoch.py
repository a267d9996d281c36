"""What accelerators do to start fewer kernels, done on the CPU: runs end where they would otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_process import furthest
from sweeps import sweep
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import data, losses, models, optimizers
from jaxkd.nn import batch_norm
from jaxkd.training import epochs
from jaxkd.training.compiled_epoch import LookAhead, _of_steps, look_ahead_of, make_resident_loop
from jaxkd.training.inputs import as_source
from jaxkd.training.sharding import Placement

STEPS, BATCH, LAST = 7, 8, 3
"""Steps of an epoch, examples of each, and of one more, smaller batch."""

SGD = optimizers.sgd(0.05, momentum=0.9, weight_decay=5e-4)


def network(seed, kind=TinyNet):
    return kind(seed=seed, normalization=digits()[0].normalization)


def images():
    train = digits()[0].subset(STEPS * BATCH + LAST)
    return train.replace(augmentation=data.Augmentation(pad=2, flip=True))


def compiled(terms, teacher=None, **options):
    distiller = jaxkd.Distiller(student=network(0), teacher=teacher or network(9))
    distiller.compile(SGD, terms, image_shape=images().image_shape, **options)
    return distiller


def apart(one, other):
    """How far the ends of two runs are apart."""
    ours, theirs = ((run.state.params, run.state.variables) for run in (one, other))
    return furthest(leaves(ours), leaves(theirs))


def trained(terms, epochs=1, **options):
    distiller = compiled(terms, **options)
    distiller.fit(images(), epochs=epochs, batch_size=BATCH, verbose=0)
    return distiller


@pytest.fixture
def looking(monkeypatch):
    """`looking(most)`: teachers see so many batches at once from then on; returns the list of what they will see."""

    def look(most):
        seen = []

        class Watched(LookAhead):
            def __call__(self, state, batches):
                found = super().__call__(state, batches)
                seen.append(None if found[1] is None else found[1].logits.shape[:2])
                return found

        height, width, _ = images().image_shape
        pixels = most * BATCH * height * width
        monkeypatch.setattr(
            epochs,
            "look_ahead_of",
            lambda program, norm, teacher_norm, place: Watched(program, norm, teacher_norm, pixels),
        )
        return seen

    return look


class OfStrongViews(losses.Loss):
    """How far apart student and teacher are on strong views."""

    strong_view = data.Augmentation(pad=3)  # compiles in a moment, as RandAugment does not

    def __call__(self, student, teacher, batch, progress, key):
        return jnp.square(student.strong.logits - teacher.strong.logits).mean()


CASES = {
    "logits": ({"kd": losses.KD(4.0)}, {}),
    "maps": ({"sp": losses.SP(position=0)}, {}),
    "the classifier": ({"srrl": losses.SRRL()}, {}),
    "a strong view": ({"own": OfStrongViews()}, {}),
    "augmented and mixed images": (
        {"kd": losses.KD(4.0)},
        {"augment": [data.RandomErasing(0.5)], "mixing": data.Mixing(0.8, 1.0)},
    ),
}


@sweep("case", CASES, core=["logits"], thorough=())
def test_a_teacher_that_looked_ahead_teaches_the_same(case, looking):
    terms, options = CASES[case]
    terms = {"ce": losses.CrossEntropy(), **terms}
    teacher = models.create("resnet8", num_classes=10, seed=9) if case == "the classifier" else None
    alone = trained(terms, teacher=teacher, **options)
    seen = looking(5)
    ahead = trained(terms, teacher=teacher, **options)
    assert set(seen) == {(5, BATCH), (2, BATCH)}  # and the last batch by itself
    assert apart(ahead, alone) < 1e-5
    ours, theirs = (run.history.history for run in (ahead, alone))
    for name in set(theirs) - {"images_per_second"}:
        # a small divergence is a difference of larger numbers
        np.testing.assert_allclose(ours[name], theirs[name], rtol=5e-5, err_msg=name)


def test_each_step_has_its_own_row_of_the_logs(looking):
    looking(5)
    distiller = compiled({"kd": losses.KD(4.0)})
    bound = distiller._bind(as_source(images(), distiller.student))
    look_ahead = epochs.look_ahead_of(bound.program, bound.normalization, bound.teacher_normalization, None)
    loops = {
        ahead: make_resident_loop(
            bound.step(), images().augmentation, look_ahead=look_ahead if ahead else None, packed=ahead
        )
        for ahead in (True, False)
    }
    arrays = jnp.asarray(images().images), jnp.asarray(images().labels)
    indices = jnp.arange(STEPS * BATCH).reshape(STEPS, BATCH)
    logs = {ahead: loop(jax.tree.map(jnp.copy, distiller.state), *arrays, indices)[1] for ahead, loop in loops.items()}
    for name, values in logs[False].items():
        assert values.shape == (STEPS,)
        np.testing.assert_allclose(logs[True][name], values, rtol=5e-5, err_msg=name)
    assert len(set(logs[False]["kd"].tolist())) == STEPS


class Telling(TinyNet):
    """Says of a batch how bright it is as a whole."""

    def __call__(self, images, train=False):
        return super().__call__(images, train)._replace(others={"brightness": images.mean()})


def like_the_brightness(student, teacher, batch, progress, key):
    return jnp.square(student.logits.mean() - teacher.others["brightness"])


@pytest.mark.thorough
def test_what_is_said_of_a_batch_as_a_whole_is_said_in_its_step(looking):
    terms = {"ce": losses.CrossEntropy(), "own": like_the_brightness}
    alone = trained(terms, teacher=network(9, Telling))
    seen = looking(5)
    ahead = trained(terms, teacher=network(9, Telling))
    assert set(seen) == {None}
    assert apart(ahead, alone) < 1e-5


@sweep("seeds", [(0, 0), (0, 1)], core=[], thorough=[(0, 1)])
def test_stacked_runs_share_what_the_teacher_saw(seeds, looking):
    teacher = network(9)

    def make(seed, temperature):
        distiller = jaxkd.Distiller(student=network(seed), teacher=teacher)
        distiller.compile(SGD, losses.KD(losses.FixedTemperature(temperature)), seed=seed)
        return distiller

    cells = [{"seed": seed, "temperature": 2.0 + number} for number, seed in enumerate(seeds)]
    ends = []
    for most in (1, 14):
        seen = looking(most)
        ends.append(jaxkd.sweep(make, cells, images(), epochs=1, batch_size=BATCH, verbose=0))
        assert any(shape[0] > 1 for shape in seen) == (most > 1)
    for ours, theirs in zip(*(end.runs for end in ends), strict=True):
        assert apart(ours, theirs) < 1e-5


def test_a_run_that_goes_on_looks_at_the_same_batches(looking, tmp_path):
    terms = {"ce": losses.CrossEntropy(), "kd": losses.KD(4.0)}
    looking(5)
    straight = trained(terms, epochs=2)
    first = compiled(terms)
    first.fit(images(), epochs=1, batch_size=BATCH, verbose=0)
    first.save(tmp_path)
    resumed = compiled(terms)
    resumed.restore(tmp_path)
    resumed.fit(images(), epochs=2, batch_size=BATCH, verbose=0)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


class OnAccelerator:
    """A placement on devices that are not there."""

    def __init__(self, count):
        self.devices = [type("Device", (), {"platform": "gpu"})] * count


def test_who_looks_ahead():
    terms, here = {"kd": losses.KD(4.0)}, Placement(jax.devices()[:1])
    program = compiled(terms)._compiled_program()
    assert look_ahead_of(program, None, None, here) is None
    assert look_ahead_of(program, None, None, OnAccelerator(1)) is not None
    in_parts = compiled(terms, gradient_accumulation_steps=2)._compiled_program()
    assert look_ahead_of(in_parts, None, None, OnAccelerator(1)) is None
    alone = jaxkd.Trainer(network(0))
    alone.compile(SGD)
    assert look_ahead_of(alone._compiled_program(), None, None, OnAccelerator(1)) is None


@pytest.mark.parametrize(
    ("devices", "shape", "side", "steps"),
    [
        (1, (781, 64), 32, 11),  # 781 = 11 · 71
        (1, (780, 64), 32, 15),
        (1, (211, 64), 32, 16),  # a prime number: the last block is smaller
        (1, (48, 1024), 32, 1),
        (8, (48, 1024), 32, 8),
        (1, (1, 64), 32, 1),
        (1, (100, 64), 224, 1),
    ],
)
def test_how_far(devices, shape, side, steps):
    program, teacher = of_teacher(network(9))
    assert look_ahead_of(program, None, None, OnAccelerator(devices)).steps(shape, (side, side, 3), teacher) == steps


def test_a_teacher_that_resizes_images_looks_less_far():
    larger = models.Ensemble([network(1), network(2)])
    larger.networks[1].resize_to = 224
    for teacher, steps in ((network(1), 16), (larger, 1)):
        program, variables = of_teacher(teacher)
        ahead = look_ahead_of(program, None, None, OnAccelerator(1))
        assert ahead.steps((160, 64), (32, 32, 3), variables) == steps


def of_teacher(teacher):
    distiller = compiled({"kd": losses.KD(4.0)}, teacher=teacher)
    return distiller._compiled_program(), distiller.state.teacher


def test_two_sums_are_the_same_together():
    one, other = (jax.random.normal(jax.random.key(seed), (4, 5, 6, 3)) for seed in (0, 1))
    for ours, theirs in zip(batch_norm.together(one, other), batch_norm.apart(one, other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_gpu_adds_them_up_in_one_array():
    small, large = jnp.ones((2, 4, 4, 3)), jax.ShapeDtypeStruct((2, 2048, 2048, 1), jnp.float32)
    for images, platform, at_once in ((small, "cuda", True), (small, "tpu", False), (large, "cuda", False)):
        traced = jax.jit(lambda images: batch_norm.batch_moments(images, jnp.zeros(images.shape[-1]))).trace(images)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.concatenate" in text) == at_once


def test_several_teachers_look_ahead():
    ensemble = models.Ensemble([network(1), network(2)])
    outputs = ensemble(jnp.zeros((10, *images().image_shape)))
    found = _of_steps(outputs, 5, 10)
    assert found.logits.shape == (5, 2, 10)
    assert [one.logits.shape for one in found.each] == [(5, 2, 10)] * 2
    np.testing.assert_array_equal(found.each[1].logits[3, 1], outputs.each[1].logits[8])


OTHER = jaxkd.Normalization((0.9,) * 3, (0.7,) * 3)


def test_a_teacher_that_looks_ahead_sees_its_own_images(looking):
    terms = {"kd": losses.KD(4.0)}
    alone = trained(terms, teacher=TinyNet(seed=9, normalization=OTHER))
    looking(5)
    assert apart(trained(terms, teacher=TinyNet(seed=9, normalization=OTHER)), alone) < 1e-5
