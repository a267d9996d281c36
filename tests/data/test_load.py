"""Loading by name: the embedded digits, real CIFAR files where they are, tensorflow-datasets, and what load refuses."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxkd import data
from jaxkd.data import Augmentation

OTHERS = ("npz", "stl10", "svhn", "tiny-imagenet")
SHARED = Path(__file__).parents[3] / "shared"


def unpack(archive: str, destination: Path) -> Path:
    pytest.importorskip("PIL", reason="Pillow unpacks the shared images")
    path = SHARED / "data" / archive
    if not path.exists():
        pytest.skip(f"no {path}")
    subprocess.run([sys.executable, path.with_name("unpack.py"), path, destination], check=True, capture_output=True)
    return destination


@pytest.fixture(scope="session")
def cifar100_dir(tmp_path_factory):
    return unpack("cifar-100.zip", tmp_path_factory.mktemp("cifar100"))


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory):
    return unpack("cifar-10-test.zip", tmp_path_factory.mktemp("cifar10"))


@pytest.mark.thorough
def test_the_real_cifar100(cifar100_dir):
    train, test = data.load("cifar100", str(cifar100_dir))
    assert (train.images.shape, test.images.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    for dataset, count in ((train, 500), (test, 100)):
        assert set(np.bincount(dataset.labels, minlength=100)) == {count}
    assert train.class_names[train.labels[0]] == "cattle"  # bos_taurus_s_000507.png
    assert test.class_names[test.labels[0]] == "mountain"  # volcano_s_000012.png
    # The published statistics are those of these pixels, if channels are where they belong.
    own = data.from_arrays(train.images, train.labels)
    np.testing.assert_allclose(own.mean, train.mean, atol=5e-4)
    np.testing.assert_allclose(own.std, train.std, atol=5e-4)
    # Neighbouring pixels of photographs resemble each other in both directions; misread rows would not.
    grey = test.images.astype(np.float32).mean(-1)
    assert np.abs(np.diff(grey, axis=1)).mean() < 15
    assert np.abs(np.diff(grey, axis=2)).mean() < 15


def test_the_real_cifar10_test_batch(cifar10_dir):
    test = data.load("cifar10", cifar10_dir, split="test")
    assert test.images.shape == (10_000, 32, 32, 3)
    assert set(np.bincount(test.labels)) == {1000}
    assert test.class_names[test.labels[0]] == "cat"  # domestic_cat_s_000907.png
    with pytest.raises(FileNotFoundError, match="holds test_batch but not data_batch_1"):
        data.load("cifar10", cifar10_dir)


def test_digits_are_scikit_learns():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    source = sklearn_datasets.load_digits()
    scaled = np.floor(source.images * 255 / 16 + 0.5).astype(np.uint8)
    expected = sorted((image.tobytes(), label) for image, label in zip(scaled, source.target, strict=True))
    train, test = data.load("digits")
    ours = [
        (image[..., 0].tobytes(), label)
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(ours) == expected


def test_digits_are_split_evenly_and_look_as_documented():
    train, test = data.load("digits")
    assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 3), (360, 8, 8, 3))
    for part in (train, test):
        assert (part.images == part.images[..., :1]).all()
        assert part.images.max() == 255
        assert part.class_names == tuple("0123456789")
        assert part.normalization == train.normalization
    share = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_allclose(share, 0.2, atol=0.005)
    np.testing.assert_allclose(train.mean, (train.images / 255).mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(train.std, (train.images / 255).std(axis=(0, 1, 2)), atol=1e-4)
    assert (train.augmentation, test.augmentation) == (Augmentation(pad=1, flip=False), None)


def test_digits_come_one_split_at_a_time_too():
    both = data.load("digits")
    for whole, split in zip(both, ("train", "test"), strict=True):
        part = data.load("digits", split=split)
        np.testing.assert_array_equal(part.images, whole.images)
        assert part.normalization == whole.normalization


def test_statistics_can_be_chosen():
    train, test = data.load("digits", mean=(0.5,), std=[0.25, 0.25, 0.25])
    assert train.normalization == test.normalization == ((0.5,), (0.25, 0.25, 0.25))


def test_unknown_names_are_refused_with_the_nearest():
    assert data.names() == ("cifar10", "cifar100", "digits", "folder", "imagenet2012", "imagenette", *OTHERS)
    with pytest.raises(ValueError, match=r"'CIFAR-100': did you mean cifar100\? .* cifar10, cifar100, digits"):
        data.load("CIFAR-100")
    with pytest.raises(ValueError, match="'xyz': the names are"):
        data.load("xyz")


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split='validation': the splits are 'train' and 'test'"):
        data.load("digits", split="validation")


def test_where_nothing_is_found_the_error_tells_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar100", tmp_path)
    for part in (
        tmp_path / "cifar-100-python",
        tmp_path / "cifar-100-python.tar.gz",
        f"{tmp_path} itself",
        "cifar100-train-part1.pkl",
        tmp_path / "prepared" / "cifar100",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ):
        assert str(part) in str(caught.value)


def test_the_folder_defaults_to_the_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXKD_DATA", raising=False)
    for argument, place in ((None, tmp_path / "data"), ("~/else", tmp_path / "else")):
        with pytest.raises(FileNotFoundError, match=str(place / "cifar-10-python.tar.gz")):
            data.load("cifar10", argument)
    monkeypatch.setenv("JAXKD_DATA", "~/mine")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "mine" / "cifar-10-python.tar.gz")):
        data.load("cifar10")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").touch()
    with pytest.raises(NotADirectoryError, match="pass the folder it lies in"):
        data.load("cifar100", tmp_path / "cifar-100-python.tar.gz")


def test_importing_and_looking_pull_in_neither_tensorflow_datasets_nor_scikit_learn():
    code = """
import sys, jaxkd.data as d
d.load("digits")
for name in ("cifar100", "imagenet2012"):
    try:
        d.load(name, "/nowhere")
    except FileNotFoundError:
        print({"tensorflow_datasets", "sklearn"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["set()"] * 2


PREPARED = {"train": 150, "test": 120}


def pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(PREPARED[split])
    images = rng.integers(0, 256, (PREPARED[split], 32, 32, 3), dtype=np.uint8)
    return images, rng.permutation(PREPARED[split]) % 100


def prepare(folder: Path, file_format: str) -> None:
    """Prepares a small "cifar100" the way tensorflow-datasets prepares the real one."""
    tfds = pytest.importorskip("tensorflow_datasets")
    image_module = pytest.importorskip("PIL.Image")

    def png(image: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        image_module.fromarray(image).save(file, "png")
        file.seek(0)
        return file

    class Cifar100(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.2")
        code_path = None  # there are no checksums of downloads beside this class

        def _info(self):
            image, label = tfds.features.Image(shape=(32, 32, 3)), tfds.features.ClassLabel(num_classes=100)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download):
            return {split: self._generate_examples(split) for split in PREPARED}

        def _generate_examples(self, split):
            for key, (image, label) in enumerate(zip(*pictures(split), strict=True)):
                yield key, {"image": png(image), "label": int(label)}

    Cifar100(data_dir=folder, file_format=file_format).download_and_prepare()


@pytest.mark.filterwarnings("default")  # tensorflow-datasets has warnings of its own
def test_a_prepared_tensorflow_dataset_is_read_without_tensorflow(tmp_path, monkeypatch):
    loaded_before = "tensorflow" in sys.modules
    prepare(tmp_path / "prepared", "array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    for folder in (tmp_path / "prepared", tmp_path):
        for split, dataset in zip(PREPARED, data.load("cifar100", folder), strict=True):
            ours = sorted(
                (image.tobytes(), int(label)) for image, label in zip(dataset.images, dataset.labels, strict=True)
            )
            theirs = sorted((image.tobytes(), int(label)) for image, label in zip(*pictures(split), strict=True))
            assert ours == theirs
            assert dataset.mean == (0.5071, 0.4867, 0.4408)
            assert (dataset.augmentation is None) == (split == "test")
    assert ("tensorflow" in sys.modules) == loaded_before


def test_a_format_that_needs_tensorflow_is_named(tmp_path):
    version = tmp_path / "cifar100" / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "cifar100"}')
    with pytest.raises(
        FileNotFoundError, match=r"cifar100/3\.0\.2 \(prepared as tfrecord: prepare it with file_format"
    ):
        data.load("cifar100", tmp_path)
