"""`data.load("npz")`: arrays of one's own by their usual names."""

import numpy as np
import pytest

from jaxkd import data

RNG = np.random.default_rng(0)
PIXELS, TEST = RNG.integers(0, 256, (20, 6, 6, 3), np.uint8), RNG.integers(0, 256, (9, 6, 6, 3), np.uint8)
LABELS, TEST_LABELS = np.arange(20) % 3, np.arange(9) % 3

NAMES = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "capitals": ("X_train", "Y_train", "X_val", "Y_val"),
    "words": ("images-train", "targets-train", "images-validation", "targets-validation"),
}


def written(tmp_path, name="mine.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_usual_names_are_known(tmp_path, names):
    path = written(tmp_path, **dict(zip(names, (PIXELS, LABELS, TEST, TEST_LABELS), strict=True)), notes=np.zeros(3))
    for place in (path, tmp_path):
        train, test = data.load("npz", place)
        np.testing.assert_array_equal(train.images, PIXELS)
        np.testing.assert_array_equal(test.labels, TEST_LABELS)
        assert (train.name, train.class_names, train.augmentation) == ("npz", ("0", "1", "2"), None)
        assert train.normalization == test.normalization == data.from_arrays(PIXELS, LABELS).normalization
    assert data.load("npz", path, split="test").normalization == train.normalization


def test_grey_images_become_rgb_and_labels_may_stand_in_a_column(tmp_path):
    grey = PIXELS[..., 0]
    for images in (grey, grey[..., None]):
        path = written(tmp_path, x_train=images, y_train=LABELS[:, None], x_test=TEST, y_test=TEST_LABELS)
        train = data.load("npz", path, split="train")
        np.testing.assert_array_equal(train.images, grey[..., None].repeat(3, -1))
        np.testing.assert_array_equal(train.labels, LABELS)


def test_names_of_classes_come_along(tmp_path):
    names = np.array(["cat", "dog", "eel", "fox"])
    path = written(tmp_path, x=PIXELS, y=LABELS, class_names=names)
    train, test = data.load("npz", path, validation_split=0.25)
    assert train.class_names == test.class_names == tuple(names)


def test_the_first_of_several_held_out_sets_is_read_as_of_folders(tmp_path):
    arrays = {"test_images": TEST[:2], "test_labels": TEST_LABELS[:2], "val_images": TEST, "val_labels": TEST_LABELS}
    path = written(tmp_path, train_images=PIXELS, train_labels=LABELS, **arrays)
    assert len(data.load("npz", path, split="test")) == 9


@pytest.mark.parametrize("unknown", [{}, {"wnids_val": TEST_LABELS[::-1]}])
def test_images_are_never_paired_with_labels_of_another_set(tmp_path, unknown):
    held_out = {"x_val": TEST[::-1], **unknown, "x_test": TEST, "y_test": TEST_LABELS}
    test = data.load("npz", written(tmp_path, x_train=PIXELS, y_train=LABELS, **held_out), split="test")
    np.testing.assert_array_equal(test.images, TEST)
    np.testing.assert_array_equal(test.labels, TEST_LABELS)
    del held_out["x_test"]
    with pytest.raises(FileNotFoundError, match="has images of train alone, and no test"):
        data.load("npz", written(tmp_path, x_train=PIXELS, y_train=LABELS, **held_out))


def test_words_that_mean_the_same_are_paired(tmp_path):
    held_out = {"x_val": TEST, "y_validation": TEST_LABELS}
    train, test = data.load("npz", written(tmp_path, x_train=PIXELS, training_labels=LABELS, **held_out))
    assert (train.labels.tolist(), test.labels.tolist()) == (LABELS.tolist(), TEST_LABELS.tolist())
    more = held_out | {"x_validation": TEST[::-1]}
    test = data.load("npz", written(tmp_path, x_train=PIXELS, y_train=LABELS, **more), split="test")
    np.testing.assert_array_equal(test.images, TEST[::-1])


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x_train", "y_train")])
def test_a_file_without_a_split_is_divided(tmp_path, names):
    path = written(tmp_path, **dict(zip(names, (PIXELS, LABELS), strict=True)))
    train, test = data.load("npz", path, validation_split=0.2)
    assert (len(train), len(test), test.name) == (17, 3, "npz")
    np.testing.assert_array_equal(data.load("npz", path, split="test", validation_split=0.2).images, test.images)
    other = data.load("npz", path, split="test", validation_split=0.2, seed=1)
    assert len(other) == 3
    assert not np.array_equal(other.images, test.images)
    with pytest.raises(FileNotFoundError, match=r"alone, and no \w+: hold a part .*\(--validation-split 0.1\)"):
        data.load("npz", path)


def test_the_classes_of_both_splits_count(tmp_path):
    path = written(tmp_path, x_train=PIXELS, y_train=LABELS, x_test=TEST, y_test=TEST_LABELS + 1)
    assert [part.num_classes for part in data.load("npz", path)] == [4, 4]


FLOATS = (PIXELS / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "kind", "said"),
    [
        (
            {"a": PIXELS, "b": LABELS},
            ValueError,
            r"holds a \[20, 6, 6, 3\], b \[20\]: name the arrays x_train, y_train",
        ),
        ({"x_train": PIXELS}, ValueError, r"holds x_train .*: name the arrays"),
        ({"x": FLOATS, "y": LABELS}, TypeError, r"mine.npz: .*float32: .*np.rint\(images \* 255.0\)"),
        ({"x": PIXELS, "y": np.eye(3)[LABELS]}, ValueError, "labels of all are float64: give integers"),
        ({"x": PIXELS, "y": LABELS[:5]}, ValueError, "mine.npz: 20 images, but 5 labels"),
        (
            {"x": PIXELS, "y": LABELS + 20240131},
            ValueError,
            r"mine.npz: the labels reach 2024013\d, and are identifiers",
        ),
        ({"x": PIXELS.transpose(0, 3, 1, 2)[..., :5], "y": LABELS}, ValueError, "mine.npz: .*channels first"),
        ({"x": PIXELS, "y": np.array([{}] * 20)}, ValueError, "is not an .npz file of plain arrays: Object arrays"),
        ({"x": PIXELS, "y": LABELS, "x_train": PIXELS, "y_train": LABELS}, ValueError, "name the arrays"),
    ],
)
def test_what_cannot_be_right_is_named_with_the_file(tmp_path, arrays, kind, said):
    path = written(tmp_path, **arrays)
    with pytest.raises(kind, match=said):
        data.load("npz", path, validation_split=0.2)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'npz' was not found[^$]*an .npz file, or a folder with one"):
        data.load("npz", tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"a.npz is not an .npz file"):
        data.load("npz", tmp_path)
    np.savez_compressed(tmp_path / "a.npz", x=PIXELS, y=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    begin = content.index(b"x.npy") + len("x.npy")
    content[begin + 40 : begin + 60] = bytes(20)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz is not an .npz file"):
        data.load("npz", tmp_path, validation_split=0.2)
    np.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(ValueError, match=r"images.npy is not an .npz file .*one array: write all with numpy.savez\("):
        data.load("npz", tmp_path / "images.npy")
    (tmp_path / "images.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"images.npy is not an .npz file"):
        data.load("npz", tmp_path / "images.npy")
    written(tmp_path, x=PIXELS, y=LABELS)
    with pytest.raises(ValueError, match=r"holds a.npz, mine.npz: pass one of them as data_dir"):
        data.load("npz", tmp_path)


def test_held_out_images_alone_are_read_as_such(tmp_path):
    path = written(tmp_path, x_test=TEST, y_test=TEST_LABELS)
    with pytest.raises(FileNotFoundError, match="has images of test alone, and no train: split='test' reads these"):
        data.load("npz", path)
    assert len(data.load("npz", path, split="test")) == len(TEST)


def test_a_split_of_its_own_is_not_replaced(tmp_path):
    path = written(tmp_path, x_train=PIXELS, y_train=LABELS, x_test=TEST, y_test=TEST_LABELS)
    with pytest.raises(ValueError, match="has held-out images of its own: leave validation_split out"):
        data.load("npz", path, validation_split=0.2)
    with pytest.raises(ValueError, match=r"own \(folder, npz\), and digits has one: .*train.split\(0.1\)"):
        data.load("digits", validation_split=0.2)
