"""What a teacher said before is never computed again, and training ends where it would have but for rounding.

Not with the same bits: XLA chooses its kernels by the size of the batch, so the last bits of what a teacher says of an
image differ between a full batch, in which a kept teacher is always asked, and the smaller one that ends an epoch here;
and it may sum a loss of outputs that it is given in another order than one of outputs that it computes.
"""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from own_process import furthest
from tiny import DroppingNet, TinyNet, leaves

import jaxkd
from jaxkd import data, losses, models, optimizers
from jaxkd.training import teacher_cache

TEACHER = TinyNet(seed=1)
ROUNDING = 2e-6
"""Of float32, over the few steps of these runs: six times what was measured, a quarter of what float16 does."""


def kd():
    return {"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=losses.CurriculumTemperature())}


@pytest.fixture(scope="module")
def digits():
    train, _ = data.load("digits")
    return dataclasses.replace(train.subset(72), augmentation=data.Augmentation(pad=1, flip=True))


def train(dataset, cache, loss=kd, epochs=3, networks=None, **compiled):
    student, teacher = networks() if networks else (TinyNet(), TEACHER)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(optimizers.sgd(0.05, momentum=0.9), loss=loss(), cache_teacher=cache, **compiled)
    history = distiller.fit(dataset, epochs=epochs, batch_size=32, verbose=0)
    return leaves(distiller.state.params), history.history


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_same_but_for_rounding(ours, theirs):
    """Two pairs of weights and history."""
    (weights, history), (others, other) = ours, theirs
    assert furthest(weights, others) < ROUNDING
    np.testing.assert_allclose(history["loss"], other["loss"], rtol=ROUNDING)


def srrl():
    return {"ce": losses.CrossEntropy(), "srrl": losses.SRRL()}


def resnets():
    return [models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize(("loss", "networks"), [(kd, None), pytest.param(srrl, resnets, marks=pytest.mark.slow)])
def test_weights_are_those_of_recomputing(digits, loss, networks):
    recomputed = train(digits, False, loss, networks=networks)
    kept = train(digits, True, loss, networks=networks)
    assert_same_but_for_rounding(kept, recomputed)
    hits = kept[1]["teacher_cache_hits"]
    assert hits[0] == 0.0
    assert 0.0 < hits[1] < 0.5  # 18 views of an image
    assert "teacher_cache_hits" not in recomputed[1]


def test_without_augmentation_every_later_epoch_is_known(digits):
    plain = dataclasses.replace(digits, augmentation=None)
    kept = train(plain, True)
    assert_same_but_for_rounding(kept, train(plain, False))
    assert kept[1]["teacher_cache_hits"] == [0.0, 1.0, 1.0]


def test_one_cache_serves_several_students_and_processes(digits, tmp_path):
    cache = jaxkd.TeacherCache(tmp_path / "outputs")
    first, history = train(digits, cache)
    assert history["teacher_cache_hits"][0] == 0.0
    again, history = train(digits, cache)
    assert history["teacher_cache_hits"] == [1.0] * 3
    reopened, history = train(digits, jaxkd.TeacherCache(tmp_path / "outputs"))
    assert history["teacher_cache_hits"] == [1.0] * 3
    assert_same(first, again)
    assert_same(first, reopened)
    _, history = train(digits, cache, seed=1)  # other views
    assert 0.0 < history["teacher_cache_hits"][0] < 0.9


def test_half_precision_is_close_and_half_as_large(digits):
    exact, rounded = jaxkd.TeacherCache(), jaxkd.TeacherCache(dtype="float16")
    ours, _ = train(digits, rounded, epochs=1)
    theirs, _ = train(digits, exact, epochs=1)
    assert rounded.bytes * 2 == exact.bytes == 72 * 18 * 10 * 4
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert furthest(ours, theirs) > ROUNDING


def test_a_cache_of_something_else_is_refused(digits, tmp_path):
    cache = jaxkd.TeacherCache(tmp_path)
    train(digits, cache, epochs=1)
    with pytest.raises(ValueError, match=r"another images, slots: use a new one"):
        train(digits.subset(40), jaxkd.TeacherCache(tmp_path), epochs=1)
    with pytest.raises(ValueError, match=r"another augmentation, slots"):
        train(dataclasses.replace(digits, augmentation=None), cache, epochs=1)
    with pytest.raises(ValueError, match=r"another width"):
        train(digits, cache, lambda: {"pkt": losses.PKT()}, epochs=1)
    with pytest.raises(ValueError, match=r"another dtype"):
        train(digits, jaxkd.TeacherCache(tmp_path, dtype="float16"), epochs=1)
    assert json.loads((tmp_path / "contents.json").read_text())["slots"] == 72 * 18


def test_a_cache_of_the_same_weights_in_another_network_is_refused(digits):
    """A size to resize images to, and an attribute of a network of one's own, are no weights."""

    class Sharper(TinyNet):
        def __init__(self, factor):
            super().__init__(seed=7)
            self.factor = factor

        def __call__(self, images, train=False):
            outputs = super().__call__(images, train)
            return outputs._replace(logits=self.factor * outputs.logits)

    def opened(teacher, cache):
        distiller = jaxkd.Distiller(student=TinyNet(), teacher=teacher)
        distiller.compile(optimizers.sgd(0.05), loss=losses.KD(), cache_teacher=cache)
        distiller.fit(digits, epochs=0, batch_size=32, verbose=0)

    of_the_zoo, sharper = models.create("resnet8", num_classes=10, seed=7), Sharper(1.0)
    larger = nnx.clone(of_the_zoo)
    larger.resize_to = 12
    for one, other in ((of_the_zoo, larger), (sharper, Sharper(2.0))):
        cache = jaxkd.TeacherCache()
        opened(one, cache)
        with pytest.raises(ValueError, match="another options of the teacher"):
            opened(other, cache)


def test_a_teacher_with_random_keys_is_kept(digits):
    def networks():
        return TinyNet(), DroppingNet(seed=1)

    cached, history = train(digits, True, epochs=1, networks=networks)
    asked, _ = train(digits, False, epochs=1, networks=networks)
    assert furthest(cached, asked) < ROUNDING
    assert "teacher_cache_hits" in history


def stream(dataset):
    return [(dataset.images[:32], dataset.labels[:32])]


@pytest.mark.parametrize(
    ("loss", "prepare", "reason"),
    [
        pytest.param(
            lambda: {"at": losses.AT()},
            lambda dataset: dataset,
            "a loss reads the teacher's feature maps",
            marks=pytest.mark.thorough,
        ),
        pytest.param(losses.MLKD, lambda dataset: dataset, "cannot be numbered", marks=pytest.mark.thorough),
        (kd, stream, "a stream of batches does not say"),
    ],
)
def test_what_cannot_be_kept(digits, loss, prepare, reason, capsys):
    source = prepare(digits)
    distillers = {}
    for option in (True, "auto"):
        networks = [models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1)]
        for network in networks:
            network.normalization = jaxkd.Normalization((0.5,) * 3, (0.5,) * 3)
        distillers[option] = jaxkd.Distiller(*networks)
        distillers[option].compile(optimizers.sgd(0.05), loss=loss(), cache_teacher=option)
    with pytest.raises(ValueError, match=f"cache_teacher: .*{reason}"):
        distillers[True].fit(source, epochs=1, batch_size=32, verbose=0)
    distillers["auto"].fit(source, epochs=0, batch_size=36, verbose=1)
    told = capsys.readouterr().out
    assert "teacher cache: off, because" in told
    assert reason in told


def test_bad_options_are_named(digits):
    with pytest.raises(ValueError, match=r"cache_teacher='yes': give True, False, 'auto'"):
        train(digits, "yes")
    with pytest.raises(ValueError, match="there is no teacher"):
        jaxkd.Trainer(TEACHER).compile(optimizers.sgd(0.05), cache_teacher=True)
    with pytest.raises(ValueError, match="dtype='int8'"):
        jaxkd.TeacherCache(dtype="int8")


def test_a_cache_that_does_not_fit_says_so():
    with pytest.raises(
        MemoryError, match=r"may grow to .* GB, and .* of memory are free: use TeacherCache\(directory="
    ):
        jaxkd.TeacherCache().open({}, slots=10**9, width=10**6)


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    whole = teacher_cache.free_memory(tmp_path)
    assert whole > 2**20
    written = {"max": f"{2**20}\n", "current": "700000\n", "stat": "anon 5\ninactive_file 200000\nslab 7\n"}
    for name, text in written.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert teacher_cache.free_memory(tmp_path) == 2**20 - 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert teacher_cache.free_memory(tmp_path) > 2**20


def test_a_folder_with_too_little_room_says_so(digits, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MemoryError, match=r"may grow to .* kB, and 1.0 kB of disk are free for .*cache: use another"):
        train(digits, jaxkd.TeacherCache(tmp_path / "cache"), epochs=1)


def test_room_and_progress_are_told(digits, capsys):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TEACHER)
    distiller.compile(optimizers.sgd(0.05), loss=kd(), cache_teacher=True)
    distiller.fit(digits, epochs=1, batch_size=32)
    told = capsys.readouterr().out
    assert "teacher cache in memory: up to 51.8 kB (18 views an image, 10 numbers each in float32), 0.0% filled" in told


def test_a_cache_that_refused_takes_what_is_right(digits, tmp_path):
    train(digits, jaxkd.TeacherCache(tmp_path), epochs=1)
    cache = jaxkd.TeacherCache(tmp_path)
    with pytest.raises(ValueError, match="was filled with another images, slots"):
        train(digits.subset(36), cache, epochs=1)
    _, history = train(digits, cache, epochs=1)
    assert history["teacher_cache_hits"] == [1]


@pytest.mark.parametrize("option", [True, "auto"])
def test_a_cache_of_ones_own_begins_anew_for_other_data(digits, option):
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=TEACHER)
    distiller.compile(optimizers.sgd(0.05), loss=kd(), cache_teacher=option)
    plain = dataclasses.replace(digits, augmentation=None)
    distiller.fit(plain.subset(36), batch_size=32, verbose=0)
    distiller.fit(plain, epochs=2, batch_size=32, verbose=0)
    assert distiller.history.history["teacher_cache_hits"] == [0, 0, 1]


def test_a_cache_of_a_teacher_that_resizes_images_is_not_one_that_does_not(digits, tmp_path):
    resizing = TinyNet(seed=7)
    resizing.resize_to = 12
    train(digits, jaxkd.TeacherCache(tmp_path), epochs=1, networks=lambda: (TinyNet(), resizing))
    with pytest.raises(ValueError, match="another options of the teacher"):
        train(digits, jaxkd.TeacherCache(tmp_path), epochs=1, networks=lambda: (TinyNet(), TinyNet(seed=7)))


def test_views_are_numbered_as_they_are_drawn_whichever_generator_jax_has(digits):
    with jax.default_prng_impl("rbg"):
        _, cached = train(digits, True, epochs=2, steps_per_execution=3)
        _, asked = train(digits, False, epochs=2, steps_per_execution=3)
    np.testing.assert_allclose(cached["kd"], asked["kd"], rtol=1e-5)


def test_a_kept_teacher_sees_its_own_images(digits):
    other = jaxkd.Normalization((0.9,) * 3, (0.7,) * 3)

    def networks():
        return TinyNet(), TinyNet(seed=1, normalization=other)

    assert_same_but_for_rounding(train(digits, True, networks=networks), train(digits, False, networks=networks))
