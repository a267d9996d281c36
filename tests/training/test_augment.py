"""Policies and erasing in training: both networks see the same, whatever the data and however a batch is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_cases import QUICK
from tiny import TinyNet, assert_same_bits, digits, leaves

import jaxkd
from jaxkd import Batch, data, losses, optimizers
from jaxkd.data.sampling import Share, TrainingPlan
from jaxkd.data.transforms.resized_crop import ResizedCentreCrop
from jaxkd.training.compiled_epoch import view_key
from jaxkd.training.epochs import seed_of
from jaxkd.training.state import POLICY, random_key

AUGMENT = (data.TrivialAugment(), data.RandomErasing(0.5, fill="mean"))
OF_DEIT = (data.policy("rand-m9-mstd0.5-inc1"), data.RandomErasing(0.25, fill="mean"))
MIXING = data.Mixing(0.8, 1.0)
BATCH, STEPS = 16, 3


def flipped(key, images):
    """An augmentation of one's own: half of the images are inverted."""
    return jnp.where(jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1)), 255 - images, images)


def compiled(seed=0, loss=None, augment=AUGMENT, **options):
    student, teacher = TinyNet(seed=seed), TinyNet(seed=9)
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    terms = loss or {"ce": losses.CrossEntropy(), "kd": losses.KD(4.0)}
    distiller.compile(optimizers.sgd(0.05, momentum=0.9), terms, seed=seed, augment=augment, **options)
    return distiller


def images(examples=STEPS * BATCH):
    return digits()[0].subset(examples).replace(augmentation=data.Augmentation(pad=1))


class Saved(jaxkd.callbacks.Callback):
    """Saves in the middle of the second epoch, and breaks off."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory

    def on_train_batch_end(self, step, logs=None):
        if int(self.trainer.state.step) > STEPS:
            self.trainer.save(self.directory)
            raise KeyboardInterrupt


def fit(distiller, train=None, *callbacks, epochs=2):
    distiller.fit(train or images(), epochs=epochs, batch_size=BATCH, callbacks=callbacks, verbose=0)
    return distiller


@pytest.mark.slow
def test_it_resumes_within_an_epoch_bit_for_bit_with_a_strong_view_and_mixing(tmp_path):
    options = {"loss": {"mlkd": losses.MLKD()}, "mixing": MIXING, "steps_per_execution": 1}
    straight, broken, resumed = fit(compiled(**options)), compiled(**options), compiled(**options)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, None, Saved(tmp_path))
    resumed.restore(tmp_path)
    assert STEPS < int(resumed.state.step) < 2 * STEPS
    fit(resumed)
    assert_same_bits(leaves(resumed.state), leaves(straight.state))


class Seen(losses.Loss):
    """The sums of the pixels that losses are shown, in both views."""

    def __init__(self, strong_view=None):
        self.strong_view = strong_view

    def __call__(self, student, teacher, batch, progress, key):
        strong = 0.0 if batch.strong is None else batch.strong.sum()
        return batch.images.sum() + 1e3 * strong


def shown(augment, strong=False, images=None, mixing=None, **options):
    """What `Seen` logs of one step, and that both networks say the same where they are the same."""
    train = digits()[0].subset(BATCH)
    student, teacher = (TinyNet(normalization=train.normalization) for _ in range(2))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    view = (lambda key, images: 255 - images) if strong else None
    distiller.compile(optimizers.sgd(0.0), {"seen": Seen(view)}, augment=augment, mixing=mixing, seed=4, **options)
    batch = Batch(train.images if images is None else images, train.labels, np.arange(BATCH, dtype=np.int32))
    if strong:
        batch = batch._replace(strong=255 - batch.images)
    _, logs = jax.jit(distiller.step, compiler_options=QUICK)(distiller.state, batch)
    return float(logs["seen"])


def by_hand(augment):
    """The sum of the images of the first step of `shown`, made as the documentation says they are."""

    def made(images):
        for position, one in enumerate(augment):
            key = random_key(jax.random.key(4), POLICY, jnp.int32(0))
            images = one(jax.random.fold_in(key, position), images)
        return digits()[0].normalization(images).sum()

    return float(jax.jit(made, compiler_options=QUICK)(digits()[0].subset(BATCH).images))


def test_pieces_follow_each_other_with_the_statistics_of_the_images():
    told = [dataclasses.replace(one, normalization=digits()[0].normalization) for one in OF_DEIT]
    assert shown(OF_DEIT) == pytest.approx(by_hand(told), rel=1e-4)
    assert shown(OF_DEIT) != pytest.approx(shown(None), rel=1e-3)


def test_a_strong_view_is_left_as_its_loss_wants_it():
    def inverted(key, images):
        return 255 - images

    plain, weak = shown(None, strong=True), shown([inverted], strong=True)
    own, strong = shown(None), shown([inverted])
    assert weak - plain == pytest.approx(strong - own, rel=1e-2)  # what changed is the first view alone


def test_parts_of_a_batch_are_augmented_as_the_whole():
    class Mean(losses.Loss):
        def __call__(self, student, teacher, batch, progress, key):
            return (batch.images**2).mean()

    ends = []
    for parts in (1, 2):
        trainer = compiled(loss={"mean": Mean()}, augment=flipped, gradient_accumulation_steps=parts)
        ends.append(fit(trainer, epochs=1).history.last("mean"))
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


@pytest.mark.thorough
def test_stacked_runs_are_augmented_as_each_would_be_alone():
    def compiled_one(seed):
        return compiled(seed, augment=flipped)

    alone = [fit(compiled_one(seed), epochs=1) for seed in (0, 0, 1)]
    for cells, runs in (([{"seed": 0}] * 2, alone[:2]), ([{"seed": 0}, {"seed": 1}], alone[1:])):
        found = jaxkd.sweep(compiled_one, cells, images(), epochs=1, batch_size=BATCH, verbose=0)
        for run, one in zip(found.runs, runs, strict=True):
            for ours, theirs in zip(leaves(run.state.params), leaves(one.state.params), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_images_from_files_and_batches_of_ones_own_are_augmented_after_decoding():
    pytest.importorskip("grain")
    train, whole = digits()[0].subset(2 * BATCH), ResizedCentreCrop(8, 8)
    source = list(zip(train.images, train.labels, strict=True))
    read = data.StreamedDataset(source, train.class_names, train.normalization, None, whole, workers=0)
    from_files, own = fit(compiled(augment=flipped), read, epochs=1), compiled(augment=flipped)
    plan = TrainingPlan(2 * BATCH, BATCH, seed_of(own.state), 0, 1, Share(1, 1, 0))
    batches = [(train.images[part.index], train.labels[part.index], part.index.astype(np.int32)) for part in plan]
    for trainer in (own, plain := compiled(augment=None)):
        trainer.student.normalization = trainer.teacher.normalization = train.normalization
        fit(trainer, batches, epochs=1)
    assert_same_bits(leaves(from_files.state), leaves(own.state))
    assert own.history.last("ce") != pytest.approx(plain.history.last("ce"), rel=1e-3)


def test_normalised_batches_are_refused_by_policies_and_erased():
    floats = digits()[0].normalization(digits()[0].subset(BATCH).images)
    labels = digits()[0].subset(BATCH).labels
    with pytest.raises(TypeError, match="TimmRandAugment changes uint8 pixels; these are float32"):
        compiled(augment=OF_DEIT).fit([(floats, labels)], verbose=0)
    assert shown([data.RandomErasing(1.0)], images=floats) != pytest.approx(shown(None, images=floats), rel=1e-3)


def test_the_teacher_cache_is_refused_with_the_reason(capsys):
    with pytest.raises(
        ValueError, match=r"RandomErasing\(.*\) makes new views in every step, in too many ways to keep"
    ):
        fit(compiled(cache_teacher=True))
    compiled(cache_teacher="auto", augment=flipped).fit(images(BATCH), batch_size=BATCH)
    assert "teacher cache: off, because <function flipped" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("trivial", r"augment='trivial': give data\.policy\('trivial'\)"),
        (data.TrivialAugment, "give data.TrivialAugment"),
        ([0.25], r"augment=0\.25"),
        (data.Augmentation(), r"set dataset\.replace\(augmentation=…\)"),
        (type("Own", (), {"__call__": lambda self, key, images: images, "__hash__": None})(), "has no hash"),
    ],
)
def test_what_is_no_augmentation_is_refused(augment, message):
    with pytest.raises(TypeError, match=message):
        compiled(augment=augment)


def brighter(key, images):
    return jnp.clip(images.astype(jnp.float32) * 1.2, 0, 255)


@dataclasses.dataclass(frozen=True)
class Noise:
    sigma: float = 0.1

    def __call__(self, key, images):
        return images + self.sigma * jax.random.normal(key, images.shape, images.dtype)


class Views(losses.Loss):
    strong_view = staticmethod(brighter)

    def __call__(self, student, teacher, batch, progress, key):
        return jnp.float32(0)


@pytest.mark.parametrize("loss", [None, Views()])
def test_floats_made_of_pixels_are_refused_since_they_would_pass_for_normalised_images(loss):
    distiller = compiled(loss=loss, augment=None if loss else brighter)
    with pytest.raises(TypeError, match=r"brighter.* returned float32 of uint8 pixels.*astype\(jnp.uint8\)"):
        fit(distiller)


def test_an_augmentation_of_ones_own_needs_no_normalisation():
    train = images()
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizers.sgd(0.05), augment=Noise())
    trainer.fit((np.asarray(train.normalization(train.images)), train.labels), batch_size=BATCH, verbose=0)
    assert trainer.model.normalization is None


class Squares(losses.Loss):
    """Tells images apart, mixed ones too, whose plain sum stays."""

    def __call__(self, student, teacher, batch, progress, key):
        return (batch.images**2).mean()


@pytest.mark.parametrize(
    "options", [{"augment": flipped}, {"augment": None, "mixing": MIXING}], ids=["augment", "mixing"]
)
def test_every_step_draws_anew(options):
    train = digits()[0].subset(BATCH)
    batch = Batch(train.normalization(train.images), jnp.asarray(train.labels), jnp.arange(BATCH, dtype=jnp.int32))
    if options["augment"]:
        batch = batch._replace(images=jnp.asarray(train.images))
    distiller, seen = compiled(loss={"squares": Squares()}, **options), []
    for network in (distiller.student, distiller.teacher):
        network.normalization = train.normalization
    step, state = jax.jit(distiller.step, compiler_options=QUICK), distiller.state
    for _ in range(3):
        state, logs = step(state, batch)
        seen.append(float(logs["squares"]))
    assert len(set(seen)) == 3


def test_every_step_draws_its_own_views():
    one, other = (data.Augmentation().draw(view_key(jax.random.key(0), jnp.int32(step)), 64) for step in (0, 1))
    assert (one != other).mean() > 0.9
