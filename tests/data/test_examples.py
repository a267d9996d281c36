"""Examples one by one, as data sets of other libraries hand them out: brought into memory, or streamed."""

import io
import types

import numpy as np
import pytest
from image_tree import encoded, picture
from PIL import Image

from jaxkd import data
from jaxkd.data.interop import class_names_of, stacked

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), np.uint8)
LABELS = np.arange(12) % 3
NAMES = ("cat", "dog", "eel")


class MapStyle:
    """What PyTorch's map-style data sets are: a length and items."""

    def __init__(self, rows, **attributes):
        self.rows = rows
        vars(self).update(attributes)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def hugging_face(column, rows, names=NAMES):
    """What Hugging Face's data sets are: rows that are dictionaries, and features that know the classes."""
    features = {column: object(), "label": types.SimpleNamespace(names=list(names))}
    return MapStyle([{column: image, "label": int(label)} for image, label in rows], features=features)


STORED = {
    "pixels": lambda pixels: pixels,
    "Pillow's": Image.fromarray,
    "bytes": lambda pixels: encoded(Image.fromarray(pixels), "PNG"),
    "undecoded": lambda pixels: {"bytes": encoded(Image.fromarray(pixels), "PNG"), "path": None},
}
ROWS = {
    "tuples": lambda rows: [(image, int(label)) for image, label in rows],
    "iterator": lambda rows: iter([[image, label] for image, label in rows]),
    "torch": lambda rows: MapStyle([(image, label) for image, label in rows], classes=list(NAMES)),
    "Hugging Face": lambda rows: hugging_face("image", rows),
    "CIFAR of Hugging Face": lambda rows: hugging_face("img", rows),
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
@pytest.mark.parametrize("form", ROWS)
def test_every_form_gives_the_same_data_set(form, stored):
    rows = ROWS[form]([(stored(pixels), label) for pixels, label in zip(PIXELS, LABELS, strict=True)])
    made = data.from_examples(rows, augmentation=data.Augmentation(1))
    expected = data.from_arrays(PIXELS, LABELS)
    np.testing.assert_array_equal(made.images, PIXELS)
    np.testing.assert_array_equal(made.labels, LABELS)
    assert (made.normalization, made.augmentation) == (expected.normalization, data.Augmentation(1))
    carried = form not in ("tuples", "iterator")
    assert made.class_names == (NAMES if carried else ("0", "1", "2"))
    assert class_names_of(rows) == (NAMES if carried else None)


def test_pytorchs_own_data_sets_are_read():
    torch = pytest.importorskip("torch")
    pixels, labels = torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
    made = data.from_examples(torch.utils.data.TensorDataset(pixels, labels), class_names=NAMES)
    np.testing.assert_array_equal(made.images, PIXELS)
    part = torch.utils.data.Subset(MapStyle([(Image.fromarray(one), 0) for one in PIXELS]), [5, 2])
    np.testing.assert_array_equal(data.from_examples(part).images, PIXELS[[5, 2]])
    first = torch.utils.data.TensorDataset(pixels.permute(0, 3, 1, 2), labels)
    with pytest.raises(ValueError, match=r"example 0: .*shape is \(3, 8, 10\).*transpose\(1, 2, 0\), or .* ToTensor"):
        data.from_examples(first)
    floats = torch.utils.data.TensorDataset(first.tensors[0] / 255, labels)
    for read in (data.from_examples, lambda given: data.from_source(given, NAMES, 8, workers=0)):
        with pytest.raises(TypeError, match=r"0.*must be uint8.*float32: leave out .* ToTensor .*DataLoader"):
            read(floats)


def test_grey_and_palette_images_become_rgb():
    grey = Image.fromarray(PIXELS[0]).convert("L")
    palette = Image.fromarray(PIXELS[1]).quantize()
    made = data.from_examples([(grey, 0), (palette, 1), (np.asarray(grey), 2), (np.asarray(grey)[..., None], 2)])
    for number, expected in enumerate((grey, palette, grey, grey)):
        np.testing.assert_array_equal(made.images[number], np.asarray(expected.convert("RGB")))


def broken():
    return encoded(picture(np.random.default_rng(0), 40, 30, 0.1), "JPEG")[:300]


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        (
            [(PIXELS[0], 0), (PIXELS[0, :4], 1)],
            ValueError,
            "example 1 has 4×10 pixels, .* 8×10: data.from_source takes",
        ),
        ([(PIXELS[0], 0), (broken(), 1)], ValueError, "example 1 cannot be read: OSError"),
        ([(PIXELS[0], 0), PIXELS[1]], TypeError, r"example 1: an array uint8 \[8, 10, 3\]: give \(image, label\)"),
        (
            [{"image": PIXELS[0], "fine_label": 3}],
            TypeError,
            r"image, fine_label: .*rename_column\('fine_label', 'label",
        ),
        ([(PIXELS[0], 0.5)], TypeError, "labels must be integers"),
        ([(PIXELS[0], np.eye(3)[0])], ValueError, "argmax"),
        ([], ValueError, "has no examples"),
        ({"image": PIXELS, "label": LABELS}, TypeError, r"give what has \(image, label\) one by one"),
        (7, TypeError, "examples=int 7"),
    ],
)
def test_examples_that_are_none_are_named(rows, kind, said):
    with pytest.raises(kind, match=said):
        data.from_examples(rows)


@pytest.mark.parametrize("form", ["tuples", "torch", "Hugging Face"])
def test_every_form_can_be_streamed(form):
    sizes = [(20, 16), (16, 30), (25, 25)]
    pictures = [picture(np.random.default_rng(number), *size, 0.2) for number, size in enumerate(sizes)]
    rows = ROWS[form](list(zip(pictures, range(3), strict=True)))
    made = data.from_source(rows, NAMES if form == "tuples" else None, image_size=8, workers=0)
    assert (len(made), made.class_names, made.labels.tolist()) == (3, NAMES, [0, 1, 2])
    [batch] = made.batches([data.BatchIndices(np.arange(3), np.arange(3), 0, 0)], train=False)
    for pixels, given in zip(batch.images, pictures, strict=True):
        np.testing.assert_array_equal(pixels, made.view(given))


def test_batches_are_no_examples_and_no_source():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(list(zip(PIXELS, LABELS, strict=True)), batch_size=4)
    with pytest.raises(TypeError, match=r"DataLoader gives batches, such as one of 4 images: give .*loader.dataset"):
        data.from_examples(loader)
    np.testing.assert_array_equal(data.from_examples(loader.dataset).images, PIXELS)
    for given in (loader, (row for row in loader.dataset)):
        with pytest.raises(TypeError, match=r"has no examples by number, .*loader.dataset.*data.from_examples"):
            data.from_source(given, NAMES)
        with pytest.raises(TypeError, match=r"images=\w+: give an array of pixels .*data.from_examples"):
            data.from_arrays(given, LABELS)


def test_a_source_without_names_is_asked_for_them():
    with pytest.raises(ValueError, match="MapStyle says no names of classes: give class_names"):
        data.from_source(MapStyle([(PIXELS[0], 0)]), image_size=8)


def test_images_one_by_one_become_an_array_if_they_have_one_size():
    grey = [Image.fromarray(one).convert("L") for one in PIXELS]
    np.testing.assert_array_equal(stacked(grey), np.stack([np.asarray(one.convert("RGB")) for one in grey]))
    np.testing.assert_array_equal(stacked(list(PIXELS)), PIXELS)
    with pytest.raises(ValueError, match=r"several sizes, such as \(8, 10, 3\) and \(4, 10, 3\).*resize\(\(64, 64\)\)"):
        stacked([PIXELS[0], PIXELS[1, :4]])


def test_the_picture_of_a_stored_file_is_not_kept_open():
    content = io.BytesIO(encoded(Image.fromarray(PIXELS[0]), "PNG"))
    made = data.from_examples([(Image.open(content), 0)])
    np.testing.assert_array_equal(made.images[0], PIXELS[0])
