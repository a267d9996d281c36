"""SVHN, STL-10, Tiny ImageNet and Imagenette from small files in their official formats."""

import shutil

import numpy as np
import pytest
from image_tree import encoded, picture
from PIL import Image
from scipy import io

from jaxkd import data
from jaxkd.data.readers import imagenette, stl10
from jaxkd.data.transforms.pad_crop_flip import Augmentation

RNG = np.random.default_rng(0)


def svhn(folder, train=12, test=10):
    """Files like the official ones, which are compressed; returns their images `[N, 32, 32, 3]`."""
    made = {}
    for split, count in (("train", train), ("test", test)):
        made[split] = RNG.integers(0, 256, (count, 32, 32, 3), np.uint8)
        columns = {"X": np.moveaxis(made[split], 0, -1), "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]}
        io.savemat(folder / f"{split}_32x32.mat", columns, do_compression=True)
    return made


@pytest.mark.parametrize("place", [".", "svhn"])
def test_svhn_is_read_and_its_label_10_is_the_digit_0(tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    made = svhn(tmp_path / place)
    train, test = data.load("svhn", tmp_path)
    for split, found in (("train", train), ("test", test)):
        np.testing.assert_array_equal(found.images, made[split])
        assert found.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
        assert (found.class_names, found.name) == (tuple("0123456789"), "svhn")
    assert (train.augmentation, test.augmentation) == (Augmentation(pad=4, flip=False), None)
    assert train.mean == test.mean == (0.4377, 0.4438, 0.4728)


def test_damaged_files_of_svhn_are_named(tmp_path):
    svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no matlab at all" * 20):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"test_32x32.mat is truncated or corrupt .*download it again"):
            data.load("svhn", tmp_path, split="test")
    io.savemat(path, {"data": np.zeros(3)})
    with pytest.raises(ValueError, match="has no X: it is not an official file"):
        data.load("svhn", tmp_path, split="test")
    images = np.zeros((32, 32, 3, 2), np.uint8)
    io.savemat(path, {"X": images, "y": np.array([[0], [9]])})
    with pytest.raises(ValueError, match="labels must be 1 to 10; they run from 0 to 9"):
        data.load("svhn", tmp_path, split="test")
    io.savemat(path, {"X": images[:16], "y": np.array([[1], [9]])})
    with pytest.raises(ValueError, match=r"X must be \[32, 32, 3, N\] uint8; it is \[16, 32, 3, 2\]"):
        data.load("svhn", tmp_path, split="test")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks test_32x32.mat: .*load\('svhn', split='test'\)"):
        data.load("svhn", tmp_path)
    assert len(data.load("svhn", tmp_path, split="train")) == 12


def stl10_files(folder, split, images, labels):
    """Writes images `[N, 96, 96, 3]` byte by byte, column after column of each channel."""
    with (folder / f"{split}_X.bin").open("wb") as file:
        for image in images:
            for channel in range(3):
                for column in range(96):
                    file.write(image[:, column, channel].tobytes())
    (folder / f"{split}_y.bin").write_bytes(bytes(labels))


@pytest.mark.parametrize("place", [".", "stl10_binary"])
def test_stl10_is_read_column_by_column_and_its_labels_from_1(tmp_path, place):
    (tmp_path / place).mkdir(exist_ok=True)
    images = RNG.integers(0, 256, (11, 96, 96, 3), np.uint8)
    labels = [*range(1, 11), 3]
    for split in ("train", "test"):
        stl10_files(tmp_path / place, split, images, labels)
    train, test = data.load("stl10", tmp_path)
    for found in (train, test):
        np.testing.assert_array_equal(found.images, images)
        assert found.labels.tolist() == [*range(10), 2]
        assert found.class_names == stl10.CLASS_NAMES
    assert (train.augmentation, test.augmentation) == (Augmentation(pad=12, flip=True), None)


def test_damaged_files_of_stl10_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'stl10' was not found[^$]*stl10_binary \(train_X.bin[^$]*acoates/stl10"
    ):
        data.load("stl10", tmp_path)
    stl10_files(tmp_path, "test", RNG.integers(0, 256, (2, 96, 96, 3), np.uint8), [1, 10])
    with pytest.raises(FileNotFoundError, match=r"lacks train_X.bin, train_y.bin"):
        data.load("stl10", tmp_path)
    (tmp_path / "test_y.bin").write_bytes(bytes([1, 11]))
    with pytest.raises(ValueError, match="labels must be 1 to 10; they reach 11"):
        data.load("stl10", tmp_path, split="test")
    (tmp_path / "test_y.bin").write_bytes(bytes([1, 2, 3]))
    with pytest.raises(ValueError, match=r"test_X.bin has 55,296 bytes, and 3 labels need 82,944: download"):
        data.load("stl10", tmp_path, split="test")


WNIDS = [f"n{1443537 + 7 * number:08d}" for number in range(200)]


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory):
    """The official folder with an image of each class, grey ones among them, and five to evaluate."""
    root = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    for number, name in enumerate(WNIDS):
        (root / "train" / name / "images").mkdir(parents=True)
        image = Image.new("L" if number % 50 == 3 else "RGB", (64, 64), number)
        image.save(root / "train" / name / "images" / f"{name}_0.JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, label in enumerate((7, 199, 0, 7, 100)):
        (root / "val" / "images" / f"val_{number}.JPEG").write_bytes(
            encoded(picture(np.random.default_rng(number), 64, 64, 0.3), "JPEG")
        )
        lines.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    shuffled = np.random.default_rng(0).permutation(WNIDS)
    (root / "wnids.txt").write_text("\n".join(shuffled) + "\n")  # in no order, as the official one
    return root


def test_tiny_imagenet_is_read(tiny_imagenet):
    for place in (tiny_imagenet, tiny_imagenet.parent):
        train, test = data.load("tiny-imagenet", place)
        assert (train.images.shape, test.images.shape) == ((200, 64, 64, 3), (5, 64, 64, 3))
        assert train.labels.tolist() == list(range(200))
        assert test.labels.tolist() == [7, 199, 0, 7, 100]
        assert train.class_names == test.class_names == tuple(WNIDS)
    assert train.images[3, 0, 0].tolist() == [3, 3, 3]  # grey becomes RGB
    with Image.open(tiny_imagenet / "val" / "images" / "val_4.JPEG") as image:
        np.testing.assert_array_equal(test.images[4], np.asarray(image))
    assert (train.augmentation, test.augmentation) == (Augmentation(pad=4, flip=True), None)
    assert train.std == (0.2302, 0.2265, 0.2262)


def test_tiny_imagenet_may_have_been_sorted_into_folders(tiny_imagenet, tmp_path):
    for name in WNIDS:
        (tmp_path / "val" / name).mkdir(parents=True)
        shutil.copy(tiny_imagenet / "val" / "images" / "val_0.JPEG", tmp_path / "val" / name)
    (tmp_path / "train").symlink_to(tiny_imagenet / "train")
    test = data.load("tiny-imagenet", tmp_path, split="test")
    assert test.labels.tolist() == list(range(200))


def test_what_is_wrong_with_tiny_imagenet_is_said(tiny_imagenet, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'tiny-imagenet' was not found[^$]*val_annotations[^$]*tiny-imagenet-200.z"
    ):
        data.load("tiny-imagenet", tmp_path)
    (tmp_path / "train" / "n01443537").mkdir(parents=True)
    with pytest.raises(ValueError, match="has 1 classes, and Tiny ImageNet 200"):
        data.load("tiny-imagenet", tmp_path)
    shutil.copy(tiny_imagenet / "wnids.txt", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"val has neither val_annotations.txt with images/, nor"):
        data.load("tiny-imagenet", tmp_path, split="test")
    shutil.copytree(tiny_imagenet / "val", tmp_path / "val")
    (tmp_path / "val" / "images" / "val_1.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"val_1.JPEG cannot be read \(empty\): unpack it again"):
        data.load("tiny-imagenet", tmp_path, split="test")
    Image.new("RGB", (60, 64)).save(tmp_path / "val" / "images" / "val_1.JPEG")
    with pytest.raises(ValueError, match=r"val_1.JPEG has 60×64 pixels, and Tiny ImageNet 64×64"):
        data.load("tiny-imagenet", tmp_path, split="test")
    with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_5.JPEG\tn99999999\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"'val_5.JPEG n99999999 0 0 1 1' names none of the 200 classes"):
        data.load("tiny-imagenet", tmp_path, split="test")


def imagenette_tree(root, classes=tuple(imagenette.CLASSES)):
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 30), (number, 0, 0)).save(root / split / name / f"{name}_{number}.JPEG")


@pytest.mark.parametrize("place", [".", "imagenette2", "imagenette2-160"])
def test_imagenette_is_read_with_the_names_of_its_classes(tmp_path, place):
    imagenette_tree(tmp_path / place)
    train, val = data.load("imagenette", tmp_path, image_size=16, workers=0)
    assert repr(train) == "<StreamedDataset 'imagenette': 10 images of 16×16×3, 10 classes>"
    assert val.class_names[:3] == ("tench", "English springer", "cassette player")
    assert val.labels.tolist() == list(range(10))
    assert train.mean == (0.485, 0.456, 0.406)


def test_imagenette_is_found_beside_other_images(tmp_path):
    imagenette_tree(tmp_path / "imagenette2")
    imagenette_tree(tmp_path, classes=("cats", "dogs"))
    assert len(data.load("imagenette", tmp_path, "test", image_size=16, workers=0)) == 10


def test_the_largest_of_its_folders_is_read_and_other_classes_are_refused(tmp_path):
    imagenette_tree(tmp_path / "imagenette2-160")
    imagenette_tree(tmp_path / "imagenette2-320")
    found = data.load("imagenette", tmp_path, "test", image_size=16, workers=0)
    assert "imagenette2-320" in found.source[0][0]
    imagenette_tree(tmp_path / "woof" / "imagenette2", classes=("n02086240", *list(imagenette.CLASSES)[1:]))
    with pytest.raises(ValueError, match=r"Imagenette has 10 others \(they differ in n01440764, n02086240\)"):
        data.load("imagenette", tmp_path / "woof")
    with pytest.raises(FileNotFoundError, match=r"'imagenette' was not found[^$]*imagenette2-160 \(train/n01440764"):
        data.load("imagenette", tmp_path / "nowhere")
