"""Loaders and data sets of other libraries in fit, evaluate and predict: taken, or refused with the cure."""

import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tiny import TinyNet, leaves

import jaxkd
from jaxkd import Normalization, data, optimizers
from jaxkd.training.inputs import as_source

HALF = Normalization((0.5,) * 3, (0.25,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
LABELS = np.arange(10) % 3
NORMAL = ((PIXELS / 255 - 0.5) / 0.25).astype(np.float32)
CUTS = (slice(0, 4), slice(4, 8), slice(8, 10))


def trainer():
    made = jaxkd.Trainer(TinyNet(num_classes=3, normalization=HALF))
    made.compile(optimizers.sgd(0.1))
    return made


class Tensor:
    """What tf.data gives: no array, but something that becomes one."""

    def __init__(self, values):
        self._values = np.asarray(values)
        self.shape, self.dtype = self._values.shape, self._values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


class TfData:
    """What a `tf.data.Dataset` shows: it is iterated anew every time, counts its items and can make batches."""

    def __init__(self, items, cardinality=None):
        self._items, self._cardinality = items, len(items) if cardinality is None else cardinality

    def __iter__(self):
        return iter(self._items)

    def cardinality(self):
        return Tensor(self._cardinality) if self._cardinality >= 0 else self._cardinality

    def batch(self, size):
        parts = [self._items[start : start + size] for start in range(0, len(self._items), size)]
        return TfData([tuple(Tensor(np.stack([np.asarray(row[k]) for row in part])) for k in (0, 1)) for part in parts])


class HuggingFace:
    """What a `datasets.Dataset` shows: rows by `[…]`, iteration over them, and the shape of a table."""

    def __init__(self, rows):
        self._rows, self.shape = rows, (len(rows), 2)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        return self._rows[number]

    def __iter__(self):
        return iter(self._rows)


def tf_rows():
    return TfData([(Tensor(image), Tensor(label)) for image, label in zip(PIXELS, LABELS, strict=True)])


def torch_loader(images=NORMAL, **options):
    torch = pytest.importorskip("torch")
    tensors = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(LABELS)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=4, **options)


def torch_loader_of_pictures():
    torch = pytest.importorskip("torch")
    rows = [(Image.fromarray(one), int(label)) for one, label in zip(PIXELS, LABELS, strict=True)]
    return torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=lambda rows: tuple(zip(*rows, strict=True)))


def torch_dicts():
    torch = pytest.importorskip("torch")
    rows = [{"pixel_values": torch.from_numpy(one), "label": int(k)} for one, k in zip(NORMAL, LABELS, strict=True)]
    return torch.utils.data.DataLoader(rows, batch_size=4)


def grain_rows(named=False):
    grain = pytest.importorskip("grain")
    pairs = zip(NORMAL, LABELS, strict=True)
    rows = [{"image": one, "label": label} for one, label in pairs] if named else list(pairs)
    return grain.MapDataset.source(rows)


def grain_batches(named=False):
    return grain_rows(named).batch(4)


def grain_loader():
    grain = pytest.importorskip("grain")
    return grain.DataLoader(
        data_source=list(zip(NORMAL, LABELS, strict=True)),
        sampler=grain.samplers.IndexSampler(10, shuffle=False, num_epochs=1),
        operations=[grain.transforms.Batch(4)],
    )


TAKEN = {
    "torch, collated by hand": torch_loader_of_pictures,
    "torch, channels first": lambda: data.channels_last(torch_loader(NORMAL.transpose(0, 3, 1, 2))),
    "torch": torch_loader,
    "torch, uint8": lambda: torch_loader(PIXELS),
    "torch, dicts": torch_dicts,
    "tf.data": lambda: tf_rows().batch(4),
    "grain": grain_batches,
    "grain, dicts": lambda: grain_batches(named=True),
    "grain, iterated": lambda: grain_batches().to_iter_dataset(),
    "grain's loader": grain_loader,
    "Hugging Face": lambda: HuggingFace(
        [{"image": [Image.fromarray(one) for one in PIXELS[cut]], "label": LABELS[cut].tolist()} for cut in CUTS]
    ),
}


@pytest.mark.parametrize("loader", TAKEN.values(), ids=TAKEN)
def test_batches_of_other_libraries_train_and_evaluate_as_arrays_do(loader):
    images, labels = NORMAL, LABELS
    ours, theirs = trainer(), trainer()
    ours.fit([(images[cut], labels[cut]) for cut in CUTS], epochs=2, verbose=0)
    given = loader()
    theirs.fit(given, validation_data=given, epochs=2, verbose=0)
    for one, other in zip(leaves(ours.state.params), leaves(theirs.state.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert theirs.evaluate(given) == pytest.approx(ours.evaluate((images, labels)), rel=1e-4)
    np.testing.assert_allclose(theirs.predict(given), ours.predict(images), rtol=1e-4, atol=1e-4)


VERBS = {
    "fit": lambda given: trainer().fit(given, verbose=0),
    "validation": lambda given: trainer().fit((PIXELS, LABELS), validation_data=given, verbose=0),
    "evaluate": lambda given: trainer().evaluate(given),
    "predict": lambda given: trainer().predict(given),
}
every_verb = pytest.mark.parametrize("use", VERBS.values(), ids=VERBS)


@every_verb
@pytest.mark.parametrize("images", [NORMAL, PIXELS], ids=["float32", "uint8"])
def test_a_loader_with_channels_first_is_told_how_they_are_turned(use, images):
    with pytest.raises(
        ValueError, match=r"\(4, 3, 8, 8\) look like channels first.*data.channels_last\(loader\) turns"
    ):
        use(torch_loader(images.transpose(0, 3, 1, 2)))


def torch_examples():
    torch = pytest.importorskip("torch")
    return torch.utils.data.TensorDataset(torch.from_numpy(NORMAL), torch.from_numpy(LABELS))


def grain_examples():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(NORMAL, LABELS, strict=True)))


IN_MEMORY, READ, LOADER, BATCH = "from_examples", "from_source", r"DataLoader\(\w+, batch_size=64\)", r"batch\(64\)"
EXAMPLES = {
    "torch": (torch_examples, f"TensorDataset.*{IN_MEMORY}.*{READ}.*{LOADER}"),
    "tf.data": (tf_rows, f"TfData.*{IN_MEMORY}.*{BATCH}"),
    "grain": (grain_examples, f"MapDataset.*{IN_MEMORY}.*{READ}.*{BATCH}"),
    "Hugging Face": (
        lambda: HuggingFace([{"image": Image.fromarray(one), "label": 1} for one in PIXELS]),
        f"HuggingFace.*{IN_MEMORY}.*{READ}.*{LOADER}",
    ),
}


@every_verb
@pytest.mark.parametrize(("examples", "said"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_one_by_one_are_refused_with_what_makes_batches_of_them(use, examples, said):
    with pytest.raises(TypeError, match=said):
        use(examples())


def test_examples_in_memory_train_as_arrays_do():
    rows = HuggingFace([{"img": Image.fromarray(one), "label": k} for one, k in zip(PIXELS, LABELS, strict=True)])
    ours, theirs = trainer(), trainer()
    ours.fit(data.from_arrays(PIXELS, LABELS), verbose=0)
    theirs.fit(data.from_examples(rows), verbose=0)
    for one, other in zip(leaves(ours.state.params), leaves(theirs.state.params), strict=True):
        np.testing.assert_array_equal(one, other)


class Endless(HuggingFace):
    def __len__(self):
        return sys.maxsize  # what Grain's repeat() has


@every_verb
@pytest.mark.parametrize("given", [TfData([(NORMAL, LABELS)], cardinality=-1), Endless([(NORMAL, LABELS)])])
def test_data_that_never_end_are_refused(use, given):
    with pytest.raises(ValueError, match=r"never ends, .*: leave its repeat\(\) out"):
        use(given)


class Unknown(HuggingFace):
    def __len__(self):
        raise NotImplementedError("of a stream")


def test_a_length_that_nobody_knows_is_not_asked_for():
    cuts = [(PIXELS[cut], LABELS[cut]) for cut in CUTS]
    assert trainer().evaluate(Unknown(cuts)) == trainer().evaluate(cuts)


def test_grain_that_repeats_is_refused():
    for endless in (grain_batches().repeat(), grain_rows().repeat().batch(4), grain_rows().repeat().batch(512)):
        with pytest.raises(ValueError, match="never ends"):
            as_source(endless)


@pytest.mark.parametrize("use", [VERBS["fit"], VERBS["evaluate"]])
def test_the_arrays_of_a_file_are_asked_for_by_two(use, tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=PIXELS, y_train=LABELS)
    with np.load(tmp_path / "mine.npz") as file:
        for given in (file, dict(file)):
            with pytest.raises(
                TypeError,
                match=r"of x_train, y_train: give .* its arrays as a tuple \(images, labels\); data.load\('npz'",
            ):
                use(given)


def test_a_list_of_pictures_is_images_without_labels():
    pictures, labels = [Image.fromarray(one) for one in PIXELS], LABELS.tolist()
    ours, theirs = trainer(), trainer()
    ours.fit(PIXELS, LABELS, validation_data=(PIXELS, LABELS), verbose=0)
    theirs.fit(pictures, labels, validation_data=(pictures, LABELS), verbose=0)
    for one, other in zip(leaves(ours.state.params), leaves(theirs.state.params), strict=True):
        np.testing.assert_array_equal(one, other)
    assert theirs.evaluate(pictures, labels) == ours.evaluate(PIXELS, LABELS) == ours.evaluate((list(PIXELS), LABELS))
    np.testing.assert_array_equal(data.from_arrays(pictures, labels).images, PIXELS)
    for use in (trainer().fit, trainer().evaluate, data.from_arrays):
        with pytest.raises(ValueError, match="images of several sizes, such as"):
            use([*pictures[:9], pictures[9].resize((4, 4))], LABELS)


def test_predict_takes_pictures_and_images_alone():
    run = trainer()
    expected = run.predict(PIXELS)
    pictures = [Image.fromarray(one) for one in PIXELS]
    loaders = (
        pictures,
        list(PIXELS),
        [(PIXELS[cut], LABELS[cut]) for cut in CUTS],
        [(pictures[cut], LABELS[cut]) for cut in CUTS],
        [{"image": PIXELS[cut], "label": LABELS[cut]} for cut in CUTS],
        (PIXELS[cut] for cut in CUTS),
        [PIXELS[cut] for cut in CUTS],
        [(PIXELS[cut],) for cut in CUTS],
        [{"img": PIXELS[cut], "file": "one"} for cut in CUTS],
        [pictures[cut] for cut in CUTS],
        HuggingFace([PIXELS[cut] for cut in CUTS]),
        data.from_arrays(PIXELS, LABELS),
    )
    for given in loaders:
        np.testing.assert_allclose(run.predict(given), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="no Image: of one image, give a list of it"):
        run.predict(pictures[0])
    with pytest.raises(ValueError, match="images of several sizes"):
        run.predict([pictures[0], pictures[1].resize((4, 4))])
    with pytest.raises(ValueError, match="images of several sizes"):
        run.predict([([pictures[0], pictures[1].resize((4, 4))], [0, 1])])
    with pytest.raises(ValueError, match="nothing to predict"):
        run.predict(iter([]))
    for given, said in (
        ({"image": PIXELS, "label": LABELS}, "no dict: of image, label, give the images alone"),
        ("photo.jpg", "open 'photo.jpg' with Pillow, and give a list of images"),
        (list(zip(pictures, LABELS, strict=True)), "list gives examples one by one"),
        (list(zip(PIXELS, LABELS, strict=True)), "list gives examples one by one"),
    ):
        with pytest.raises(TypeError, match=said):
            run.predict(given)


@pytest.mark.parametrize("use", [VERBS["fit"], VERBS["evaluate"]])
@pytest.mark.parametrize("made", [Image.fromarray, np.asarray], ids=["pictures", "arrays"])
def test_a_list_of_examples_is_no_list_of_batches(use, made):
    with pytest.raises(TypeError, match=r"list gives examples one by one: data.from_examples\(list\)"):
        use([(made(one), int(label)) for one, label in zip(PIXELS, LABELS, strict=True)])


def first_use(given):
    run = trainer()
    try:
        run.fit(PIXELS, LABELS, validation_data=given, epochs=2, verbose=0)
    finally:
        assert int(run.state.step) == 0


@pytest.mark.parametrize("made", [list, HuggingFace], ids=["list", "loader"])
@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "gave none: give at least one"),
        ([(NORMAL.transpose(0, 3, 1, 2), LABELS)], "channels first"),
        ([(NORMAL, LABELS + 5)], "label 5 at position 0 is out of range"),
        ([(NORMAL, LABELS[:3])], "10 images, but 3 labels"),
    ],
)
def test_validation_data_are_looked_at_before_the_first_step(made, batches, said):
    with pytest.raises(ValueError, match=said):
        first_use(made(batches))


class Flat(nnx.Module):
    """Takes images of one size."""

    def __init__(self):
        self.num_classes, self.fc = 5, nnx.Linear(NORMAL[0].size, 5, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.fc(images.reshape(len(images), -1))


@pytest.mark.parametrize("made", [tuple, lambda pair: [pair]], ids=["arrays", "batches"])
def test_validation_images_of_another_size_are_refused_before_the_first_step(made):
    trainer = jaxkd.Trainer(Flat())
    trainer.compile(optimizers.sgd(0.1))
    with pytest.raises(TypeError, match="dot_general"):
        trainer.fit(NORMAL, LABELS, validation_data=made((NORMAL.repeat(2, 1).repeat(2, 2), LABELS)), verbose=0)
    assert int(trainer.state.step) == 0


class Recorded(HuggingFace):
    """Batches of a loader, whose labels are written down."""

    def __iter__(self):
        for images, labels in self._rows:
            self.order = [*getattr(self, "order", []), *labels.tolist()]
            yield images, labels


def test_looking_at_validation_data_leaves_what_a_shuffling_loader_draws():
    torch = pytest.importorskip("torch")
    orders = []
    for held_out in (None, torch_loader()):
        torch.manual_seed(0)
        given = Recorded(torch_loader(shuffle=True))
        trainer().fit(given, validation_data=held_out, verbose=0)
        orders.append(given.order)
    assert orders[0] == orders[1] != LABELS.tolist()


def test_a_loader_that_leaves_examples_out_is_told_in_evaluation_and_no_batch_at_all_everywhere():
    loader, whole = torch_loader(drop_last=True), torch_loader(drop_last=False)
    for given in (loader, data.channels_last(torch_loader(NORMAL.transpose(0, 3, 1, 2), drop_last=True))):
        for use in (trainer().evaluate, trainer().predict):
            with pytest.warns(
                UserWarning, match="DataLoader leaves out the last 2 of 10 images, since it has drop_las"
            ):
                use(given)
    assert len(trainer().predict(whole)) == 10
    trainer().fit(loader, verbose=0)  # meant, and not told: a small batch is left out of training
    torch = sys.modules["torch"]
    none = torch.utils.data.DataLoader(loader.dataset, batch_size=64, drop_last=True)
    for use in (trainer().fit, trainer().evaluate):
        with pytest.raises(ValueError, match="no batches: its data set is smaller than batch_size=64, and drop_last"):
            use(none)


def test_a_loader_without_batches_is_told_to_make_some():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(torch_loader().dataset, batch_size=None)
    with pytest.raises(TypeError, match=r"DataLoader gives examples one by one: give it a batch_size, as in"):
        trainer().evaluate(loader)


def test_predict_reads_streamed_images_in_their_order_and_marks_unreadable_ones():
    rows = [(one, label) for one, label in zip(PIXELS, LABELS, strict=True)]
    view = data.ResizedCentreCrop(8, 8)
    options = {"class_names": ("a", "b", "c"), "augmentation": None, "view": view, "normalization": HALF, "workers": 0}
    run = trainer()
    expected = run.predict(PIXELS)
    np.testing.assert_allclose(
        run.predict(data.StreamedDataset(rows, **options), batch_size=4), expected, rtol=1e-5, atol=1e-6
    )
    rows[3] = (b"no image", 0)
    with pytest.warns(UserWarning, match="example 3 .* cannot be read"):
        found = run.predict(data.StreamedDataset(rows, **options), batch_size=4)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3]
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(expected, 3, 0), rtol=1e-5, atol=1e-6)


MISTAKEN = {
    "from 0 to 1": (lambda: ((PIXELS / 255).astype(np.float32), LABELS), UserWarning, "run from 0 to 1"),
    "up to 255": (lambda: (PIXELS.astype(np.float32), LABELS), ValueError, "float images reach 25"),
    "one-hot": (lambda: (NORMAL, np.eye(3)[LABELS]), ValueError, r"argmax\(axis=1\), 3 columns being one-hot"),
    "a column": (lambda: (NORMAL, LABELS[:, None]), ValueError, r"pass labels\[:, 0\]"),
    "from 1": (lambda: (NORMAL, LABELS + 1), ValueError, "label 3 at position . is out of range.*count from 1"),
    "floats": (lambda: (NORMAL, LABELS / 2), TypeError, "labels must be integers; these are float"),
    "weights": (lambda: (NORMAL, LABELS, np.linspace(0, 1, 10)), TypeError, "sample weights are not supported"),
}


def of_torch(*arrays):
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=4)


def of_grain(*arrays):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(*arrays, strict=True))).batch(4)


def of_tf(*arrays):
    return TfData([tuple(Tensor(array[cut]) for array in arrays) for cut in CUTS])


@pytest.mark.parametrize("loader", [of_torch, of_grain, of_tf])
@pytest.mark.parametrize("use", [VERBS[verb] for verb in ("fit", "validation", "evaluate")])
@pytest.mark.parametrize(("arrays", "kind", "said"), MISTAKEN.values(), ids=MISTAKEN)
def test_mistakes_in_a_loader_are_those_of_arrays(loader, use, arrays, kind, said):
    given = loader(*arrays())
    with pytest.warns(kind, match=said) if kind is UserWarning else pytest.raises(kind, match=said):
        use(given)
