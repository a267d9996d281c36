"""The same mistakes in every form of data and every verb: each is told with its cure, before anything is trained."""

import warnings

import numpy as np
import pytest
from flax import nnx
from tiny import TinyNet

import jaxkd
from jaxkd import Batch, Normalization, data, losses, models, optimizers
from jaxkd.models import registry
from jaxkd.training.expectations import Expectations
from jaxkd.training.inputs import as_source, entries

SGD = optimizers.sgd(0.1)
HALF = Normalization((0.5,) * 3, (0.25,) * 3)
RNG = np.random.default_rng(0)
PIXELS, LABELS = RNG.integers(0, 256, (6, 8, 8, 3), np.uint8), np.arange(6) % 3
UNIT = (PIXELS / 255).astype(np.float32)
NORMAL = (UNIT - 0.5) / 0.25

FORMS = {
    "tuple": lambda images, labels: (images, labels),
    "list of labels": lambda images, labels: (images, labels.tolist()),
    "batches": lambda images, labels: [(images, labels)],
    "lists": lambda images, labels: [[images, labels]],
    "indexed": lambda images, labels: [(images, labels, np.arange(len(images)))],
    "Batch": lambda images, labels: [Batch(images, labels, np.arange(len(images)))],
    "tfds": lambda images, labels: [{"image": images, "label": labels, "id": "x"}],
    "Hugging Face": lambda images, labels: [{"pixel_values": images, "labels": labels}],
    "CIFAR": lambda images, labels: [{"img": images, "label": labels}],
    "torch": lambda images, labels: [_torch(images, labels)],
}


def _torch(images, labels):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)


def trainer(normalization=HALF, **options):
    made = jaxkd.Trainer(TinyNet(num_classes=3, normalization=normalization, **options))
    made.compile(SGD)
    return made


def swept(given, validation_data=None):
    jaxkd.sweep(lambda seed: trainer(), [{"seed": 0}], given, validation_data, verbose=0)


VERBS = {
    "fit": lambda given: trainer().fit(given, verbose=0),
    "validation": lambda given: trainer().fit((PIXELS, LABELS), validation_data=given, verbose=0),
    "evaluate": lambda given: trainer().evaluate(given),
}
IN_MEMORY = {
    "predict": lambda given: trainer().predict(given[0]),
    "apart": lambda given: trainer().fit(*given, verbose=0),
    "evaluate apart": lambda given: trainer().evaluate(*given),
    "sweep": swept,
    "sweep's validation": lambda given: swept((PIXELS, LABELS), given),
}
EVERYWHERE = [
    *((VERBS["evaluate"], FORMS[form]) for form in FORMS),
    *((VERBS[verb], FORMS[form]) for verb in ("fit", "validation") for form in ("tuple", "batches")),
    *((use, FORMS["tuple"]) for use in IN_MEMORY.values()),
]
everywhere = pytest.mark.parametrize(("use", "form"), EVERYWHERE)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_says_the_same(form):
    trained = trainer()
    expected = trained.evaluate((NORMAL, LABELS))
    assert trained.evaluate(form(NORMAL, LABELS)) == pytest.approx(expected, rel=1e-6)
    assert trained.evaluate(form(PIXELS, LABELS)) == pytest.approx(expected, rel=1e-4)


@everywhere
def test_pixels_divided_by_255_are_warned_about_where_images_are_normalised(use, form):
    with pytest.warns(UserWarning, match=r"run from 0 to 1, .*mean=\(0.5, .*uint8 pixels, or \(images - mean\) / std"):
        use(form(UNIT, LABELS))


@everywhere
@pytest.mark.parametrize("images", [PIXELS, NORMAL], ids=["uint8", "float32"])
def test_channels_first_are_refused_with_the_cure(use, form, images):
    with pytest.raises(ValueError, match=r"\(6, 3, 8, 8\) look like channels first .*transpose\(0, 2, 3, 1\)"):
        use(form(images.transpose(0, 3, 1, 2), LABELS))


@pytest.mark.parametrize("use", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("form", ["tuple", "batches", "tfds"])
def test_one_hot_labels_are_refused_with_the_cure(use, form):
    with pytest.raises(ValueError, match=r"\(6, 4\): take labels.argmax\(axis=1\), 4 columns being one-hot"):
        use(FORMS[form](NORMAL, np.eye(4)[LABELS]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_range_of_floats_is_judged_by_what_is_known(dtype):
    unit = UNIT.astype(dtype)
    known = Expectations(normalization=HALF)
    with pytest.warns(UserWarning, match="run from 0 to 1"):
        known.checked_images(unit)
    for fine in (Expectations(), Expectations(normalization=Normalization((0.0,), (1.0,)))):
        assert fine.checked_images(unit).dtype == np.float32
    known.checked_images(((unit - 0.5) / 0.25).astype(dtype))
    known.checked_images(np.zeros_like(unit))  # nothing is known of a single value
    with pytest.raises(ValueError, match="reach 255"):
        known.checked_images(PIXELS.astype(dtype))


def test_images_that_are_normalised_twice_are_refused():
    known = Expectations(normalization=HALF)
    once = (UNIT - 0.5) / 0.25
    with pytest.raises(ValueError, match=r"reach -10, as images do that are normalised twice with mean=\(0.5,"):
        known.checked_images((once - 0.5) / 0.25)
    noise = np.random.default_rng(0).normal(size=once.shape).astype(np.float32)
    known.checked_images(np.concatenate([once.astype(np.float32), noise]))
    Expectations().checked_images((once - 0.5) / 0.25)  # by whatever they were normalised
    small = Expectations(normalization=Normalization((0.1,), (0.2,)))  # whose images are not far from 0 even then
    small.checked_images(np.full_like(once, -2.9))


def test_the_normalisation_of_a_teacher_or_of_the_training_set_counts_as_well():
    distiller = jaxkd.Distiller(student=TinyNet(3), teacher=TinyNet(3, seed=1, normalization=HALF))
    distiller.compile(SGD, loss=losses.KD(4.0))
    with pytest.warns(UserWarning, match="run from 0 to 1"):
        distiller.fit((UNIT, LABELS), verbose=0)
    plain = trainer(normalization=None)
    plain.evaluate((UNIT, LABELS))
    with pytest.warns(UserWarning, match="run from 0 to 1"):
        plain.fit((PIXELS, LABELS), validation_data=(UNIT, LABELS), verbose=0)


def test_a_network_for_other_channels_is_named_in_every_form():
    grey = PIXELS[..., :1]
    network = jaxkd.Trainer(models.create("resnet8", num_classes=3))
    network.model.normalization = HALF
    uses = (
        lambda: network.predict(grey),
        *(lambda f=form: network.evaluate(f(grey, LABELS)) for form in FORMS.values()),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"1 channels, but resnet8 takes 3: create it with channels=1"):
            use()


def test_square_images_with_many_channels_are_no_channels_first():
    Expectations().check_shape((6, 1, 1, 64))
    Expectations().check_shape((6, 3, 3, 8))
    Expectations(image_shape=(3, 8, 8)).check_shape((6, 3, 8, 8))


@pytest.mark.parametrize(
    ("entry", "seen"),
    [
        (np.linspace(0, 1, 6, dtype=np.float32), r"float32 of shape \(6,\)"),
        (np.ones(6), r"float64 of shape \(6,\)"),
        (np.ones(6, bool), r"bool of shape \(6,\)"),
        (np.eye(3, dtype=int)[LABELS], r"int64 of shape \(6, 3\)"),
        (np.arange(5), r"int64 of shape \(5,\)"),
        (3, r"int64 of shape \(\)"),
    ],
)
def test_a_third_entry_that_is_no_index_is_refused(entry, seen):
    for batch in (
        (NORMAL, LABELS, entry),
        Batch(NORMAL, LABELS, entry),
        {"image": NORMAL, "label": LABELS, "index": entry},
    ):
        with pytest.raises(TypeError, match=rf"the index of its examples.*6 integers.*{seen}: leave it out.*weights"):
            list(as_source([batch]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((NORMAL, LABELS, np.ones(6)), r"a tuple of 3 arrays: give \(images, labels\).*weights"),
        (Batch(NORMAL, LABELS, np.arange(6)), r"\[batch\]"),
        ([NORMAL, LABELS], r"a batch is an array of shape \(6, 8, 8, 3\).*the tuple \(images, labels\)"),
        ([[{"image": PIXELS[0], "label": 1}] * 4], "a list of 4 examples, each a dict: stack them"),
        ([((PIXELS[0], 1), (PIXELS[1], 2))], "a tuple of 2 examples, each a tuple: stack them"),
        ([(NORMAL,)], r"a batch has 1 entries: give \(images, labels\)"),
        ([(NORMAL, LABELS, LABELS, LABELS)], "a batch has 4 entries"),
        ([{"picture": NORMAL, "label": LABELS}], "a dict of picture, label: give one of image, images"),
        ([{"image": NORMAL, "images": NORMAL, "label": LABELS}], "a dict of image, images, label"),
        ([{"image": NORMAL, "label": LABELS, "sample_weight": LABELS}], "'sample_weight': leave it out"),
        (["ab"], "a batch is a str"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(given, message):
    with pytest.raises(TypeError, match=message):
        trainer().evaluate(given)


def test_a_single_image_is_told_from_a_batch():
    with pytest.raises(ValueError, match=r"\(8, 8, 3\): expected \[N, H, W, C\].*images\[None\]"):
        trainer().evaluate([(PIXELS[0], 1)])
    with pytest.raises(TypeError, match="predict takes images"):
        trainer().predict((PIXELS, LABELS))


def test_the_index_of_a_batch_is_kept_whatever_its_form():
    index = [5, 3, 1, 0, 2, 4]
    for item in (
        (NORMAL, LABELS, index),
        Batch(NORMAL, LABELS, index),
        {"img": NORMAL, "label": LABELS, "index": index},
    ):
        assert entries(item)[2] == index
        [batch] = as_source([item])
        assert batch.index.tolist() == index


def crd(batches):
    distiller = jaxkd.Distiller(student=TinyNet(3), teacher=TinyNet(3, seed=1))
    distiller.compile(SGD, loss=losses.CRD(LABELS, negatives=2, feature_dim=4))
    return distiller.fit(batches, verbose=0).history["crd"]


def test_a_loss_that_remembers_examples_needs_their_index():
    for unindexed in ([(NORMAL, LABELS)], [Batch(NORMAL, LABELS, None)], [{"image": NORMAL, "label": LABELS}]):
        with pytest.raises(ValueError, match=r"CRD remembers every example .*give \(images, labels, index\)"):
            crd(unindexed)
    order = np.array([3, 1, 0, 5, 4, 2])
    assert np.isfinite(crd([(NORMAL[order], LABELS[order], order)])).all()


# Doubts are told once.


def said(run):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    assert all(one.filename == __file__ for one in seen)
    return [str(one.message) for one in seen]


def ten_of_each(first):
    labels = np.repeat(np.arange(first, first + 3), 12)
    return np.zeros((len(labels), 8, 8, 3), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None], labels


@pytest.mark.parametrize("kind", ["uint8", "float", "Dataset"])
def test_labels_from_one_are_told_when_training_and_only_then(kind):
    pixels, labels = ten_of_each(first=1)
    given = (pixels, labels) if kind == "uint8" else (pixels / np.float32(8) - 0.2, labels)
    if kind == "Dataset":
        given = data.Dataset(pixels, labels, tuple("abcd"), HALF)
    network = TinyNet(num_classes=4)
    [message] = said(lambda: as_source(given, network, training=True))
    assert "class 0 has no images" in message
    assert said(lambda: as_source(given, network)) == []
    with pytest.raises(ValueError, match=r"need 4 classes, but the network has 3: pass labels - 1.*num_classes=4"):
        as_source(given, TinyNet(num_classes=3))


def test_more_classes_than_the_data_have_are_told():
    pixels, labels = ten_of_each(first=0)
    for given in ((pixels, labels), data.from_arrays(pixels, labels)):
        assert said(lambda given=given: as_source(given, TinyNet(num_classes=3), training=True)) == []
    [message] = said(lambda: as_source(data.from_arrays(pixels, labels), TinyNet(num_classes=10), training=True))
    assert "TinyNet has 10 classes and the data 3" in message
    assert said(lambda: as_source((pixels, labels), TinyNet(num_classes=10), training=True)) == []  # too few to tell
    assert said(lambda: list(as_source([(pixels, labels)], TinyNet(num_classes=10), training=True))) == []
    batches = as_source([(pixels, labels)] * 4, TinyNet(num_classes=10), training=True)
    [message] = said(lambda: (list(batches), list(batches)))  # after the first pass, and once
    assert "TinyNet has 10 classes and the data 3" in message
    assert said(lambda: list(as_source([(pixels, labels)] * 4, TinyNet(num_classes=10)))) == []


@pytest.mark.parametrize(
    ("name", "size", "cure"),
    [
        ("resnet18", 32, "of the zoo, ResNet18_cifar is the one for 32×32"),
        ("mobilenet_v2", 32, "MobileNetV2 is the one"),
        ("MobileNetV1", 8, "resnet20 and wrn_40_2 are for 32×32"),
        ("resnet20", 224, "resnet18 is for 224×224"),
        ("resnet18", 64, None),
        ("resnet8", 8, None),
        ("resnet20", 64, None),
    ],
)
def test_networks_for_images_of_another_size_are_named(name, size, cure):
    network = nnx.eval_shape(lambda: models.create(name, num_classes=3))
    images, labels = np.zeros((3, size, size, 3), np.float32), np.arange(3)
    forms = ((images, labels), [(images, labels), (images, labels)])

    def consumed(form):
        source = as_source(form, network, training=True)
        if isinstance(form, list):
            assert len(list(source)) + len(list(source)) == 4

    for form in forms:
        messages = said(lambda form=form: consumed(form))
        assert len(messages) == (cure is not None)
        assert cure is None or (cure in messages[0] and f"trained on {size}×{size}" in messages[0])
        assert said(lambda form=form: as_source(form, network)) == []


def test_every_network_that_is_recommended_exists():
    recommended = {name: registry.small_counterpart(name) for name in models.list()}
    assert recommended["shufflenet_v2_x1_0"] == "ShuffleV2"
    assert {name for name, small in recommended.items() if small} > {"resnet50", "vgg11_imagenet", "resnext50_32x4d"}
    for name in filter(None, recommended.values()):
        assert nnx.eval_shape(lambda name=name: models.create(name, num_classes=3)).image_shape == (32, 32, 3)
