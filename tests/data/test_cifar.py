"""CIFAR from files: small ones written here, in the layouts of the official Python files and of ATS."""

import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxkd import data
from jaxkd.data import Augmentation
from jaxkd.formats.unpickler import UnsafePickleError

NAMES = {"cifar10": ("label_names", 10), "cifar100": ("fine_label_names", 100)}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def python2_pickle(value) -> bytes:
    """Pickles as Python 2 and its NumPy did: byte strings, `numpy.core`, the array's memory as a string."""

    def dump(value) -> bytes:
        match value:
            case int():
                return b"J" + struct.pack("<i", value)
            case bytes():
                return b"T" + struct.pack("<i", len(value)) + value
            case list():
                return b"](" + b"".join(map(dump, value)) + b"e"
            case tuple():
                return b"(" + b"".join(map(dump, value)) + b"t"
            case dict():
                return b"}(" + b"".join(dump(item) for pair in value.items() for item in pair) + b"u"
            case np.ndarray():
                code = b"cnumpy\ndtype\n" + dump((b"u1", 0, 1)) + b"R(" + dump(3) + dump(b"|") + b"NNN"
                code += dump(-1) + dump(-1) + dump(0) + b"tb"
                start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + dump((0,)) + dump(b"b") + b"tR"
                return start + b"(" + dump(1) + dump(value.shape) + code + b"\x89" + dump(value.tobytes()) + b"tb"
        raise TypeError(value)

    return b"\x80\x02" + dump(value) + b"."


def batch(name: str, count: int, seed: int) -> dict[bytes, object]:
    """A batch as official files hold it: rows of red, green and blue planes."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = rng.integers(0, NAMES[name][1], count).tolist()
    if name == "cifar10":
        return {b"batch_label": b"a batch", b"labels": labels, b"data": rows}
    return {b"fine_labels": labels, b"coarse_labels": [label % 20 for label in labels], b"data": rows}


def official(name: str) -> dict[str, dict[bytes, object]]:
    key, classes = NAMES[name]
    meta = {key.encode(): [b"class %d" % label for label in range(classes)]}
    if name == "cifar10":
        files = {f"data_batch_{i}": batch(name, 7 + i, seed=i) for i in range(1, 6)}
        return {"batches.meta": meta, **files, "test_batch": batch(name, 6, seed=0)}
    return {"meta": meta, "test": batch(name, 130, seed=0), "train": batch(name, 150, seed=1)}


def write(folder: Path, files: dict[str, dict[bytes, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(python2_pickle(content))
    return folder


def write_archive(root: Path, name: str) -> Path:
    folder = write(root / "unpacked" / FOLDERS[name], official(name))
    with tarfile.open(root / ARCHIVES[name], "w:gz") as archive:
        archive.add(folder, FOLDERS[name])
    return root / ARCHIVES[name]


def check(name: str, dataset: data.Dataset, batches: list[dict[bytes, object]]) -> None:
    """Compares pixel by pixel: channel c of row y, column x is number 1024·c + 32·y + x of the row."""
    rows = np.concatenate([np.asarray(content[b"data"]) for content in batches])
    key = b"labels" if name == "cifar10" else b"fine_labels"
    np.testing.assert_array_equal(dataset.labels, np.concatenate([content[key] for content in batches]))
    y, x, c = np.indices((32, 32, 3))
    np.testing.assert_array_equal(dataset.images, rows[:, 1024 * c + 32 * y + x])


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no tensorflow-datasets"))


@pytest.mark.parametrize("place", ["folder", "itself", "archive"])
@pytest.mark.parametrize("name", NAMES)
def test_official_files_are_read_wherever_they_lie(name, place, tmp_path):
    files = official(name)
    if place == "archive":
        write_archive(tmp_path, name)
    else:
        write(tmp_path / FOLDERS[name] if place == "folder" else tmp_path, files)
    train, test = data.load(name, tmp_path)
    train_files = [file for file in sorted(files) if file.startswith(("data_batch", "train"))]
    check(name, train, [files[file] for file in train_files])
    check(name, test, [files["test_batch" if name == "cifar10" else "test"]])
    assert train.class_names == test.class_names == tuple(f"class {label}" for label in range(NAMES[name][1]))
    assert train.augmentation == Augmentation(pad=4, flip=True)
    assert test.augmentation is None
    assert train.name == test.name == name


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ],
)
def test_statistics_are_the_published_ones_unless_given(name, mean, std, tmp_path):
    write(tmp_path, official(name))
    test = data.load(name, tmp_path, split="test")
    assert (test.mean, test.std) == (mean, std)
    changed = data.load(name, tmp_path, split="test", mean=(0.485, 0.456, 0.406))
    assert (changed.mean, changed.std) == ((0.485, 0.456, 0.406), std)


def test_without_meta_the_names_are_built_in(tmp_path):
    files = official("cifar10")
    del files["batches.meta"]
    train, _ = data.load("cifar10", write(tmp_path, files))
    assert train.class_names[:2] == ("airplane", "automobile")


def test_the_test_files_suffice_for_the_test_split(tmp_path):
    folder = write(tmp_path / FOLDERS["cifar10"], {"test_batch": official("cifar10")["test_batch"]})
    check("cifar10", data.load("cifar10", tmp_path, split="test"), [official("cifar10")["test_batch"]])
    with pytest.raises(FileNotFoundError, match=r"holds test_batch but not data_batch_1, .*data_batch_5.*split='test'"):
        data.load("cifar10", tmp_path)
    with pytest.raises(FileNotFoundError, match="was not found"):
        data.load("cifar10", folder, split="train")


def test_a_complete_archive_is_preferred_to_an_incomplete_folder(tmp_path):
    write_archive(tmp_path, "cifar10")
    write(tmp_path / FOLDERS["cifar10"], {"test_batch": batch("cifar10", 3, seed=9)})
    train, test = data.load("cifar10", tmp_path)
    assert (len(train), len(test)) == (50, 6)


def test_folders_called_train_and_test_are_not_taken_for_files(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'cifar100' was not found[^$]* holds test, train$"):
        data.load("cifar100", tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "1.JPG").touch()
    said = r"holds images in folders, such as train/cat/1\.JPG: its data set is 'folder', --data folder on a command"
    with pytest.raises(FileNotFoundError, match=said):
        data.load("cifar100", tmp_path)


def damaged(content: dict[bytes, object], how: str) -> dict[bytes, object]:
    rows, labels = content[b"data"], list(content[b"fine_labels"])
    return {
        "no data": {b"fine_labels": labels},
        "coarse only": {b"data": rows, b"coarse_labels": content[b"coarse_labels"]},
        "coarse as labels": {b"data": rows, b"labels": content[b"coarse_labels"]},
        "coarse as fine": {b"data": rows, b"fine_labels": content[b"coarse_labels"]},
        "fewer labels": {b"data": rows, b"fine_labels": labels[:-1]},
        "label 100": {b"data": rows, b"fine_labels": [*labels[:-1], 100]},
        "narrow rows": {b"data": rows[:, :-1], b"fine_labels": labels},
        "no labels": {b"data": rows},
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no data", "test has no 'data', only fine_labels"),
        ("coarse only", "test has no fine_labels, only coarse_labels, data: the 20 coarse labels"),
        ("coarse as labels", "test has no fine_labels, only data, labels: the 20 coarse labels"),
        ("coarse as fine", "all 130 labels are below 20, so they are the 20 coarse labels"),
        ("fewer labels", "130 images, but labels of shape (129,)"),
        ("label 100", "label 100 at position 129 is out of range"),
        ("narrow rows", "data must be [N, 3072] uint8; it is (130, 3071) uint8"),
        ("no labels", "test has no 'fine_labels', only data"),
    ],
)
def test_damaged_official_files_are_refused(how, message, tmp_path):
    write(tmp_path, {"test": damaged(official("cifar100")["test"], how)})
    with pytest.raises(ValueError, match=r".*") as caught:
        data.load("cifar100", tmp_path, split="test")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_truncated_files_are_reported(keep, tmp_path):
    path = write(tmp_path, official("cifar100")) / "test"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="test is truncated or corrupt"):
        data.load("cifar100", tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.9])
def test_truncated_archives_are_reported(keep, tmp_path):
    archive = write_archive(tmp_path, "cifar100")
    archive.write_bytes(archive.read_bytes()[: int(keep * archive.stat().st_size)])
    with pytest.raises(ValueError, match=r"cifar-100-python\.tar\.gz.* is truncated or corrupt"):
        data.load("cifar100", tmp_path)


class Attack:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("file", ["test", "meta", "cifar100-test.pkl"])
def test_a_malicious_file_is_refused_by_name_and_nothing_runs(file, tmp_path):
    if file == "meta":
        write(tmp_path, official("cifar100"))
    (tmp_path / file).write_bytes(pickle.dumps({"data": Attack(tmp_path / "ran")}))
    with pytest.raises(UnsafePickleError, match=rf"{file}: refused to load (posix|nt)\.system"):
        data.load("cifar100", tmp_path, split="test")
    assert not (tmp_path / "ran").exists()


def ats_part(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
        "labels": rng.integers(0, 100, count),
    }


def write_ats(folder: Path, keys=str, protocol: int = 4) -> dict[str, dict[str, np.ndarray]]:
    parts = {"train-part1": ats_part(70, 1), "train-part2": ats_part(60, 2), "test": ats_part(110, 3)}
    for part, content in parts.items():
        pickled = pickle.dumps({keys(key): value for key, value in content.items()}, protocol)
        (folder / f"cifar100-{part}.pkl").write_bytes(pickled)
    return parts


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("keys", [str, str.encode])
def test_the_files_of_ats_are_found(keys, protocol, tmp_path):
    parts = write_ats(tmp_path, keys, protocol)
    train, test = data.load("cifar100", tmp_path)
    for dataset, names in ((train, ("train-part1", "train-part2")), (test, ("test",))):
        images = np.concatenate([parts[part]["images"] for part in names])
        np.testing.assert_array_equal(dataset.images, np.moveaxis(images, 1, -1))
        np.testing.assert_array_equal(dataset.labels, np.concatenate([parts[part]["labels"] for part in names]))
    assert (train.augmentation, test.augmentation) == (Augmentation(pad=4, flip=True), None)
    assert train.class_names[:2] == ("apple", "aquarium_fish")
    assert train.mean == (0.5071, 0.4867, 0.4408)


def test_missing_files_of_ats_are_named(tmp_path):
    write_ats(tmp_path)
    (tmp_path / "cifar100-train-part2.pkl").unlink()
    assert len(data.load("cifar100", tmp_path, split="test")) == 110
    with pytest.raises(FileNotFoundError, match=r"lacks cifar100-train-part2\.pkl"):
        data.load("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.arange(110) % 20}, "all 110 labels are below 20, so they are the 20 coarse labels"),
        ({"labels": np.arange(110)}, "label 100 at position 100 is out of range"),
        ({"labels": np.arange(109) % 100}, "110 images, but labels of shape (109,)"),
        (
            {"images": np.zeros((110, 32, 32, 3), np.uint8)},
            "images must be [N, 3, 32, 32] uint8; they are (110, 32, 32, 3)",
        ),
        ({"images": np.zeros((110, 3, 32, 32), np.float32)}, "images must be [N, 3, 32, 32] uint8"),
    ],
)
def test_damaged_files_of_ats_are_refused(change, message, tmp_path):
    (tmp_path / "cifar100-test.pkl").write_bytes(pickle.dumps(ats_part(110, 3) | change))
    with pytest.raises(ValueError, match=r"cifar100-test\.pkl") as caught:
        data.load("cifar100", tmp_path, split="test")
    assert message in str(caught.value)
