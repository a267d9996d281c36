"""`data.load("folder")` and `data.load("imagenet2012")`: which images are found and how they are numbered."""

import io
import pickle
import shutil
import sys

import numpy as np
import pytest
from image_tree import DAMAGES, KINDS, image_tree, picture
from image_tree import encoded as encoded_as
from PIL import Image

from jaxkd import data
from jaxkd.data.pipeline.decode import decode
from jaxkd.data.readers import image_folder
from jaxkd.data.readers.image_folder import FolderImages, class_folders
from jaxkd.data.readers.tfds import PreparedImages
from jaxkd.data.transforms.resized_crop import RandomResizedCrop, ResizedCentreCrop


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return image_tree(tmp_path_factory.mktemp("images"), classes=3, train=4, val=2)


def test_both_splits_of_a_tree_are_found(tree):
    train, val = data.load("folder", tree.root, image_size=32, workers=0)
    assert repr(train) == "<StreamedDataset 'folder': 12 images of 32×32×3, 3 classes>"
    assert (len(val), val.class_names, val.image_shape) == (6, tree.classes, (32, 32, 3))
    assert (train.mean, train.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (train.augmentation, val.view) == (RandomResizedCrop(32), ResizedCentreCrop(37, 32))
    assert [label for _, label in train.source] == [0] * 4 + [1] * 4 + [2] * 4
    assert {path for path, _ in train.source} == {str(path) for path in (tree.root / "train").rglob("*.*")}


def test_the_size_is_224_unless_another_is_asked_for(tree):
    test = data.load("folder", tree.root, split="test")
    assert (test.image_shape, test.view) == ((224, 224, 3), ResizedCentreCrop(256, 224))
    assert data.load("folder", tree.root, split="test", mean=(0.5,), std=(0.25,)).mean == (0.5,)


def test_images_are_numbered_by_class_folder_and_name(tmp_path):
    ignored = ("a/notes.txt", "a/.hidden.png", ".git/x.png", "a/.@__thumb/z.jpeg", "a/deeper/.copies/x/1.png")
    expected = [("a/Z.tif", 0), ("a/z.jpeg", 0), ("a/deeper/1.png", 0), ("b/10.png", 1), ("b/2.PNG", 1)]
    expected.append(("c é/1.webp", 2))
    for name in [*ignored, *(name for name, _ in reversed(expected))]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert class_folders(tmp_path) == ["a", "b", "c é"]
    source = FolderImages(tmp_path, ["a", "b", "c é"])
    for images in (source, pickle.loads(pickle.dumps(source))):
        assert [images[i] for i in range(len(images))] == [(str(tmp_path / name), label) for name, label in expected]
        for outside in (-1, 6):
            with pytest.raises(IndexError, match=r"there is no image -?\d, only 0 to 5"):
                images[outside]


def test_the_first_picture_of_a_gif_is_read(tmp_path):
    (tmp_path / "a").mkdir()
    first, second = (picture(np.random.default_rng(seed), 40, 30, seed / 3).quantize() for seed in (1, 2))
    first.save(tmp_path / "a" / "1.GIF", save_all=True, append_images=[second])
    path, _ = FolderImages(tmp_path, ["a"])[0]
    np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(first.convert("RGB")))


@pytest.mark.parametrize("name", ["1.heic", "deeper/2.AVIF", "3.svg"])
def test_images_that_cannot_be_read_are_named(tmp_path, name):
    for file in ("a/1.png", f"a/{name}", "a/notes.txt", "a/.hidden.heic"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.warns(UserWarning, match=f"1 images left out.*a/{name}; convert") as seen:
        assert len(FolderImages(tmp_path, ["a"])) == 1
    assert len(seen) == 1


def test_class_folders_of_folders_are_named(tmp_path):
    for file in ("animals/cats/1.png", "animals/dogs/1.png", "plants/images/1.png", "tools/1.png", "tools/saws/1.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.warns(UserWarning, match=r"in animals/cats, animals/dogs, and count as .* such as animals: if the"):
        assert len(FolderImages(tmp_path, ["animals", "plants", "tools"])) == 5
    FolderImages(tmp_path, ["plants", "tools"])  # as Tiny ImageNet has them, and as somebody sorted them


@pytest.mark.parametrize("name", ["test", "validation"])
def test_the_second_split_may_have_other_names(tree, tmp_path, name):
    (tmp_path / name).symlink_to(tree.root / "val")
    assert len(data.load("folder", tmp_path, split="test")) == 6
    with pytest.raises(FileNotFoundError, match=r"there is no folder \S+/train: .*load\('folder', split='test'\)"):
        data.load("folder", tmp_path)


@pytest.mark.parametrize("layout", [".", "train"])
def test_a_tree_without_a_split_is_divided(tree, tmp_path, layout):
    shutil.copytree(tree.root / "train", tmp_path / layout, dirs_exist_ok=True)
    train, test = data.load("folder", tmp_path, validation_split=0.25, image_size=16, workers=0)
    assert (len(train), len(test), test.class_names, test.image_shape) == (9, 3, tree.classes, (16, 16, 3))
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    paths = [{path for path, _ in (part.source[i] for i in range(len(part)))} for part in (train, test)]
    assert not paths[0] & paths[1]
    assert paths[0] | paths[1] == {str(path) for path in (tmp_path / layout).rglob("*.*") if path.is_file()}
    # The same ones wherever the folder lies.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tree.root / "train")
    again = data.load("folder", tmp_path / "elsewhere" / "link", "test", validation_split=0.25, image_size=16)
    assert {path.rpartition("/")[2] for path, _ in again.source} == {path.rpartition("/")[2] for path in paths[1]}
    other = data.load("folder", tmp_path, "test", validation_split=0.25, seed=1, image_size=16)
    assert [one for one, _ in other.source] != sorted(paths[1])


def test_a_tree_without_a_split_is_named_with_the_cure(tree, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"images in n01440764, .* no folders train and val: .*split=0.1 \(--val"
    ):
        data.load("folder", tree.root / "train")
    (tmp_path / "train").symlink_to(tree.root / "train")
    with pytest.raises(
        FileNotFoundError, match=r"no folder \S+/val or .*, or hold a part of it out with validation_spl"
    ):
        data.load("folder", tmp_path)
    with pytest.raises(ValueError, match=r"\S+/val has held-out images: leave validation_split out"):
        data.load("folder", tree.root, validation_split=0.1)
    with pytest.raises(FileNotFoundError, match=r"'folder' was not found[^$]*There is no folder"):
        data.load("folder", tmp_path / "nowhere", validation_split=0.1)


def test_photographs_of_every_kind_are_read_and_broken_ones_named(tmp_path):
    """EXIF orientation, CMYK, grey, 16 bits, palette, transparency, GIF: pixels as Pillow has them in RGB."""
    shown = picture(np.random.default_rng(0), 40, 30, 0.2)
    files = {f"{kind}.{suffix}": encode(shown) for kind, (suffix, encode) in KINDS.items()}
    files["first.GIF"] = encoded_as(shown.quantize(), "GIF")
    for name, damage in DAMAGES.items():
        files[f"z {name}.jpeg"] = damage(KINDS["jpeg"][1](shown))
    (tmp_path / "cat").mkdir()
    for name, content in files.items():
        (tmp_path / "cat" / name).write_bytes(content)
    whole = image_folder.whole("folder", tmp_path).replace(augmentation=None, view=ResizedCentreCrop(30, 30), workers=0)
    plan = [data.BatchIndices(np.arange(len(files)), np.arange(len(files)), 0, 0)]
    with pytest.warns(UserWarning, match=r"cat/z .*\.jpeg .* cannot be read") as seen:
        [batch] = whole.batches(plan, train=False)
    assert len(seen) == len(whole.unreadable) == len(DAMAGES)
    assert {one.what.rpartition("/")[2] for one in whole.unreadable} == {name for name in files if name[:2] == "z "}
    for number, pixels in zip(batch.index, batch.images, strict=True):
        if number >= 0:
            path, _ = whole.source[int(number)]
            with Image.open(path) as image:
                rgb = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
                if "16-bit" in path:
                    rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            np.testing.assert_array_equal(pixels, np.asarray(rgb)[:, 5:35], err_msg=path)


def test_what_is_wrong_with_a_tree_is_said(tree, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"'folder' was not found[^$]*train/CLASS/\*\.JPEG[^$]*Put the images of"
    ):
        data.load("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train holds no folders: put the images of each class into a folder"):
        data.load("folder", tmp_path, split="train")
    (tmp_path / "train" / "ILSVRC2012_1.JPEG").touch()
    with pytest.raises(ValueError, match=r"train holds 1 images, such as ILSVRC2012_1\.JPEG, but no folders"):
        data.load("folder", tmp_path, split="train")
    (tmp_path / "train" / "n01440764").mkdir()
    with pytest.raises(ValueError, match=r"train: no images in n01440764: fill what is empty, or remove it"):
        data.load("folder", tmp_path, split="train")
    (tmp_path / "val").symlink_to(tree.root / "val")
    with pytest.raises(ValueError, match=r"have other classes: only \S+/val has n01440765, n01440766; give both"):
        data.load("folder", tmp_path, split="train")


def images_in(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        picture(np.random.default_rng(0), 20, 20, 0.5).save(root / folder / "1.png")
        picture(np.random.default_rng(1), 20, 20, 0.5).save(root / folder / "2.png")


@pytest.mark.parametrize("folder", [None, "val/ash"], ids=["no folder", "an empty one"])
def test_held_out_images_may_lack_classes(tmp_path, folder):
    images_in(tmp_path, "train/ash", "train/elm", "train/oak", "val/elm", "val/oak")
    if folder:
        (tmp_path / folder).mkdir()
    with pytest.warns(UserWarning, match=r"/val: no images in ash: what is measured here says nothing") as seen:
        train, val = data.load("folder", tmp_path, image_size=16, workers=0)
    assert len(seen) == 1
    assert train.class_names == val.class_names == ("ash", "elm", "oak")
    assert val.labels.tolist() == [1, 1, 2, 2]
    data.load("folder", tmp_path, split="train")
    shutil.rmtree(tmp_path / "train" / "oak")
    with pytest.raises(ValueError, match=r"only \S+/val has oak; give both these folders, or move them out of val"):
        data.load("folder", tmp_path, split="test")


def test_held_out_images_of_no_class_are_refused(tmp_path):
    images_in(tmp_path, "train/ash")
    (tmp_path / "val" / "ash").mkdir(parents=True)
    with pytest.raises(ValueError, match="/val: no images in ash: fill what is empty"):
        data.load("folder", tmp_path)
    shutil.rmtree(tmp_path / "val" / "ash")
    with pytest.raises(ValueError, match="/val holds no folders: put the images of each class into a folder"):
        data.load("folder", tmp_path)
    train, test = data.load("folder", tmp_path, validation_split=0.5, image_size=16, workers=0)
    assert (len(train), len(test)) == (1, 1)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_class_may_be_called_as_a_split_is(tmp_path, name):
    images_in(tmp_path, "bus", "car", name)
    with pytest.raises(FileNotFoundError, match=f"holds images in bus, car, {name}, which are classes"):
        data.load("folder", tmp_path)
    train, test = data.load("folder", tmp_path, validation_split=0.5, image_size=16, workers=0)
    assert train.class_names == test.class_names == ("bus", "car", name)
    assert train.labels.tolist() == test.labels.tolist() == [0, 1, 2]


def test_what_may_be_a_split_or_a_class_is_refused(tmp_path):
    images_in(tmp_path, "train", "train/ash", "train/elm")
    train, _ = data.load("folder", tmp_path, validation_split=0.5, image_size=16, workers=0)
    assert train.class_names == ("ash", "elm")  # there are no other classes
    images_in(tmp_path, "bus")
    with pytest.raises(ValueError, match=r"/train holds images as well as folders, beside images in bus: if it is a s"):
        data.load("folder", tmp_path, validation_split=0.5)


@pytest.mark.parametrize("validation_split", [None, 0.5])
def test_splits_without_class_folders_are_no_classes(tmp_path, validation_split):
    images_in(tmp_path, "train", "val")
    with pytest.raises(
        ValueError, match=r"train holds 2 images, such as 1.png, but no folders: put the images of each"
    ):
        data.load("folder", tmp_path, validation_split=validation_split)


def test_resident_data_have_no_image_size_and_no_workers():
    for option in ({"image_size": 32}, {"workers": 0}):
        with pytest.raises(ValueError, match=r"digits is held in memory as 8×8 pixels: leave them out"):
            data.load("digits", **option)


def encoded(label):
    file = io.BytesIO()
    picture(np.random.default_rng(label), 40, 30, label / 1000).save(file, "JPEG")
    return file.getvalue()


CLASSES = [f"n{1440764 + label:08d}" for label in range(1000)]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A tree of ImageNet's size in classes, with one tiny image in each."""
    root = tmp_path_factory.mktemp("thousand")
    content = encoded(0)
    for split in ("train", "val"):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            (root / split / name / "1.JPEG").write_bytes(content)
    return root


def test_imagenet_may_be_a_tree(thousand, tmp_path):
    (tmp_path / "imagenet2012").symlink_to(thousand)
    for root in (thousand, tmp_path):
        train, val = data.load("imagenet2012", root)
        assert (len(train), len(val), train.num_classes, val.name) == (1000, 1000, 1000, "imagenet2012")
        assert val.source[998][1] == 998


@pytest.mark.parametrize("beside", ["train/cats", "photographs"])
def test_imagenet_is_found_beside_other_images(thousand, tmp_path, beside):
    images_in(tmp_path, beside)
    (tmp_path / "imagenet2012").symlink_to(thousand)
    assert data.load("imagenet2012", tmp_path, "test").num_classes == 1000


def test_other_classes_are_not_taken_for_imagenet(tree, tmp_path):
    with pytest.raises(ValueError, match=r"has 3 classes, and ImageNet-2012 has 1000 .*load\('folder', …\)"):
        data.load("imagenet2012", tree.root)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "tench").symlink_to(tree.root / split / tree.classes[0])
    with pytest.raises(ValueError, match=r"has 1 classes, such as 'tench', and"):
        data.load("imagenet2012", tmp_path)


def test_where_imagenet_was_looked_for_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"elsewhere/imagenet2012 \(tensorflow-datasets[^$]*image-net\.org"):
        data.load("imagenet2012", tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A few images, prepared the way tensorflow-datasets prepares ImageNet."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")
        code_path = None  # there are no checksums of downloads beside this class

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download):
            return {"train": self._generate_examples(range(0, 900, 100)), "validation": self._generate_examples([7, 8])}

        def _generate_examples(self, labels):
            for label in labels:
                yield label, {"image": io.BytesIO(encoded(label)), "label": label}

    root = tmp_path_factory.mktemp("prepared")
    Imagenet2012(data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.mark.filterwarnings("default")  # tensorflow-datasets has warnings of its own
def test_prepared_imagenet_is_read_still_encoded_and_without_tensorflow(prepared):
    loaded_before = "tensorflow" in sys.modules
    train, val = data.load("imagenet2012", prepared, image_size=32, workers=0)
    assert (len(train), len(val), train.class_names) == (9, 2, tuple(CLASSES))
    for source in (train.source, pickle.loads(pickle.dumps(train.source))):
        found = sorted((label, image) for image, label in (source[i] for i in range(len(source))))
        assert found == [(label, encoded(label)) for label in range(0, 900, 100)]
    plan = [data.BatchIndices(np.array([0, 1]), np.array([0, 1]), 0, 0)]
    (loaded,) = val.batches(plan, train=False)
    for pixels, label in zip(loaded.images, loaded.labels, strict=True):
        np.testing.assert_array_equal(pixels, ResizedCentreCrop(37, 32)(Image.open(io.BytesIO(encoded(label)))))
    assert ("tensorflow" in sys.modules) == loaded_before


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:2000] + bytes(100) + content[2100:], "hash mismatch"),
        (lambda content: content[: len(content) // 2], "the record is empty, as in a truncated file"),
    ],
)
def test_damaged_prepared_files_hold_unreadable_images(prepared, tmp_path, damage, said):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*train*array_record*")
    file.write_bytes(damage(file.read_bytes()))
    source = PreparedImages(next(tmp_path.glob("imagenet2012/*")), "train")
    with pytest.raises(OSError, match=said):
        [source[number] for number in range(len(source))]
