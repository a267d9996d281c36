"""Streamed data: what is delivered depends on the plan alone, whatever is broken, and mistakes are found early."""

import gc
import pickle
import sys
import threading
import types

import grain
import numpy as np
import pytest
from image_tree import image_tree
from streamed_sources import CLASSES, Fatal, Noise, Odd, plan, small

import jaxkd
from jaxkd import data
from jaxkd.data.pipeline import workers
from jaxkd.data.pipeline.decode import decode

ORDER = np.random.default_rng(0).permutation(20)


def delivered(dataset, picks, train, start=0):
    batches = list(dataset.batches(picks, train, start))
    assert all(type(batch) is jaxkd.Batch and batch.strong is None for batch in batches)
    return [(batch.images, batch.labels, batch.index) for batch in batches]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for array, expected in zip(one, other, strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_training_sees_the_random_view_that_seed_epoch_and_position_decide():
    dataset, picks = small(Noise()), plan(ORDER, batch_size=6)
    found = delivered(dataset, picks, train=True)
    assert [len(labels) for _, labels, _ in found] == [6, 6, 6, 2]
    images, labels, index = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    assert (images.dtype, labels.dtype, index.dtype) == (np.uint8, np.int32, np.int32)
    np.testing.assert_array_equal(index, ORDER)
    np.testing.assert_array_equal(labels, ORDER % 3)
    for position, number in enumerate(ORDER):
        expected = dataset.augmentation(decode(Noise()[number][0]), np.random.default_rng((5, 2, position)))
        np.testing.assert_array_equal(images[position], expected)
    (other,) = delivered(dataset, plan(ORDER, batch_size=20, epoch=3), train=True)
    assert (other[0] != images).any(axis=(1, 2, 3)).all()


def test_evaluation_sees_the_middle_and_nothing_where_nothing_is_picked():
    dataset = small(Noise())
    ((images, labels, index),) = delivered(dataset, plan([3, -1, 0, -1]), train=False)
    np.testing.assert_array_equal(index, [3, -1, 0, -1])
    np.testing.assert_array_equal(labels, [0, 0, 0, 0])
    for place, number in ((0, 3), (2, 0)):
        np.testing.assert_array_equal(images[place], dataset.view(decode(Noise()[number][0])))
    assert not images[1].any()
    assert not images[3].any()


def test_without_an_augmentation_training_sees_the_middle_too():
    dataset = small(Noise()).replace(augmentation=None)
    assert_same(delivered(dataset, plan(ORDER), train=True), delivered(dataset, plan(ORDER), train=False))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 7])
def test_a_later_start_delivers_the_same_batches(start):
    dataset, picks = small(Noise()), plan(ORDER)
    assert_same(delivered(dataset, picks, True, start), delivered(dataset, picks, True)[start:])


@pytest.mark.thorough
@pytest.mark.parametrize(("count", "room", "start"), [(1, 0, 2), pytest.param(2, 2**40, 0, marks=pytest.mark.slow)])
def test_processes_deliver_what_threads_deliver(tmp_path, monkeypatch, count, room, start):
    """With shared memory and, where it has no room, without."""
    monkeypatch.setattr(workers, "_shared_memory", lambda: room)
    tree = image_tree(tmp_path, classes=3, train=13, val=1, broken=2)
    dataset = data.load("folder", tmp_path, split="train", image_size=160, workers=0)
    picks = plan(np.random.default_rng(0).permutation(39), batch_size=6)  # more bytes than go without shared memory
    processes = dataset.replace(workers=count)
    with pytest.warns(UserWarning, match="cannot be read"):
        expected = delivered(dataset, picks, True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert_same(delivered(processes, picks, True, start), expected[start:])
    assert not any(isinstance(one, grain.multiprocessing.SharedMemoryArray) for one in gc.get_objects())
    assert {one.what for one in dataset.unreadable} == {str(path) for path in tree.broken}
    assert set(processes.unreadable) <= set(dataset.unreadable)


def test_an_unreadable_image_is_replaced_in_training_and_left_out_in_evaluation():
    broken, picks = small(Noise(missing=(4, 5, 19))), plan([3, 4, 5, 19, 6], batch_size=5)
    with pytest.warns(UserWarning, match="cannot be read") as warned:
        ((images, labels, index),) = delivered(broken, picks, train=True)
    assert len(warned) == 3
    np.testing.assert_array_equal(index, [3, 6, 6, 0, 6])
    np.testing.assert_array_equal(labels, index % 3)
    ((expected, _, _),) = delivered(small(Noise()), plan([3, 6, 6, 0, 6], batch_size=5), train=True)
    np.testing.assert_array_equal(images, expected)
    ((images, labels, index),) = delivered(broken, picks, train=False)
    np.testing.assert_array_equal(index, [3, -1, -1, -1, 6])
    np.testing.assert_array_equal(labels, [0] * 5)
    assert not images[1:4].any()
    assert images[0].any()


def test_each_unreadable_image_is_named_once(recwarn):
    dataset = small(Noise(missing=(4, 9))).replace(name="noise")
    for _ in range(2):
        delivered(dataset, plan([4, 9, 4, 0]), train=True)
        delivered(dataset, plan([4, 9, 4, 0]), train=False)
    assert [str(warning.message) for warning in recwarn] == [
        f"example {number} of 'noise' (block {number} of the disk is bad) cannot be read: "
        f"{count} of at most 100 in 'noise'"
        for count, number in enumerate((4, 9), 1)
    ]
    assert [(one.number, one.reason) for one in dataset.unreadable] == [
        (4, "block 4 of the disk is bad"),
        (9, "block 9 of the disk is bad"),
    ]
    assert small(Noise()).unreadable == ()


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("train", [True, False])
def test_too_many_unreadable_images_stop_the_run(train):
    dataset = small(Noise(missing=(1, 3, 8))).replace(max_unreadable=2)
    batches = dataset.batches(plan([0, 1, 2, 3, 4, 5, 6, 7, 8]), train)
    assert [next(batches).index.tolist() for _ in range(2)] == [[0, 2, 2, 4] if train else [0, -1, 2, -1], [4, 5, 6, 7]]
    with pytest.raises(
        data.UnreadableImages, match=r"3 images of the data set .*max_unreadable=2:\n  example 1"
    ) as error:
        next(batches)
    assert "\n  example 8 of the data set (block 8 of the disk is bad)\nRestore them" in str(error.value)
    assert isinstance(error.value, OSError)


def test_none_may_be_tolerated():
    dataset = small(Noise(missing=(1,))).replace(max_unreadable=0)
    with pytest.raises(data.UnreadableImages, match="1 images of the data set cannot be read"):
        delivered(dataset, plan([0, 1]), train=True)


def test_nothing_readable_is_an_error_at_once():
    with pytest.raises(
        data.UnreadableImages, match=r"12 images .* and no other is left:\n(  example .*\n){5}  and 7 more\n"
    ):
        small(Noise(12, missing=tuple(range(12))))
    assert len(small(Noise(12, missing=(0, 1, 2)))) == 12


def test_a_label_that_cannot_be_read_is_named_where_all_are_needed():
    dataset = small(Odd(at=7, item=OSError("damaged")))
    with pytest.raises(data.UnreadableImages, match=r"the label of example 7 .* cannot be read \(damaged\)"):
        _ = dataset.labels


ODD = [
    ((np.zeros((9, 9), np.uint8), 3), ValueError, r"label 3 is out of range: 3 classes are numbered 0 to 2"),
    ((np.zeros((9, 9), np.uint8), -1), ValueError, r"label -1 is out of range"),
    ((np.zeros((9, 9), np.uint8), 0.5), TypeError, r"its label must be a class index; it is float 0\.5"),
    ((np.zeros((9, 9)), 0), TypeError, r"pixels must be uint8"),
    ((np.zeros((3, 9, 9), np.uint8), 0), ValueError, r"channels come last"),
    ((None, 0), TypeError, r"got NoneType"),
    (
        {"scan": 1, "label": 0},
        TypeError,
        r"a source gives \(image, label\); .* a dict of scan, label: give one of image",
    ),
    (np.zeros((2, 2)), TypeError, r"this one gave an array float64 \[2, 2\]"),
    (KeyError("x"), RuntimeError, r"the source raised KeyError: 'x'"),
]


@pytest.mark.parametrize(("item", "kind", "said"), ODD)
def test_a_mistake_in_the_first_example_is_found_when_the_data_set_is_made(item, kind, said):
    with pytest.raises(kind, match=rf"^example 0 of the data set: .*{said}"):
        small(Odd(at=0, item=item))


@pytest.mark.parametrize(("item", "kind", "said"), ODD)
def test_a_mistake_in_a_later_example_names_it(item, kind, said):
    dataset = small(Odd(at=7, item=item))
    with pytest.raises(kind, match=rf"^example 7 of the data set: .*{said}"):
        delivered(dataset, plan([1, 7]), train=True)


def failing(image):
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"augmentation": data.RandomResizedCrop(17)}, ValueError, r"\(17, 17, 3\), and elsewhere \(16, 16, 3\)"),
        ({"view": lambda image: image}, TypeError, r"must give uint8 pixels \[H, W, C\]; it gave Image"),
        ({"view": lambda image: np.zeros((4, 4, 3))}, TypeError, r"it gave an array float64 \[4, 4, 3\]"),
        ({"view": failing}, RuntimeError, r"failing .* raised ZeroDivisionError: by zero"),
        ({"normalization": data.load("digits")[0].normalization._replace(std=(0.0,))}, ValueError, r"std=\(0\.0,\)"),
        ({"class_names": ()}, ValueError, r"classes=0"),
        ({"source": []}, ValueError, r"images=0"),
        ({"workers": 1.5}, TypeError, r"'float' object cannot be interpreted as an integer"),
        ({"workers": -1}, ValueError, r"workers=-1"),
        ({"max_unreadable": -1}, ValueError, r"max_unreadable=-1"),
    ],
)
def test_a_data_set_is_checked_when_it_is_made(changes, kind, said):
    with pytest.raises(kind, match=said):
        small(Noise()).replace(**changes)


def test_what_a_data_set_says_of_itself():
    dataset = small(Noise(), mean=(0.5,), std=(0.25,), name="noise")
    assert repr(dataset) == "<StreamedDataset 'noise': 20 images of 16×16×3, 3 classes>"
    assert (len(dataset), dataset.num_classes, dataset.class_names) == (20, 3, CLASSES)
    assert (dataset.image_shape, dataset.mean, dataset.std) == ((16, 16, 3), (0.5,), (0.25,))


def test_a_subset_is_the_first_examples():
    part = small(Noise(missing=(4,))).subset(5)
    assert len(part) == 5
    with pytest.warns(UserWarning, match="example 4"):
        ((_, _, index),) = delivered(part, plan([3, 4]), train=True)
    np.testing.assert_array_equal(index, [3, 0])  # not 5, which the subset does not have
    for count in (0, 6):
        with pytest.raises(ValueError, match=rf"subset\({count}\) of 5 images"):
            part.subset(count)


def test_what_the_source_does_not_have_cannot_be_picked():
    with pytest.raises(IndexError, match="example 20 was picked, and the data set has 20, numbered from 0"):
        delivered(small(Noise()), plan([1, 20]), train=True)


def test_a_negative_start_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="start=-1"):
        small(Noise()).batches(plan([0]), True, start=-1)


def test_what_is_missing_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"grain and pillow: pip install 'jaxkd\[stream\]'"):
        small(Noise())


@pytest.mark.thorough
def test_a_script_without_a_guard_gets_threads(tmp_path, monkeypatch):
    script = types.ModuleType("__main__")
    script.__file__ = str(tmp_path / "train.py")
    monkeypatch.setitem(sys.modules, "__main__", script)
    (tmp_path / "train.py").write_text("print('trains')\n")
    assert workers.processes(None) == 0
    with pytest.raises(ValueError, match=r"workers=2: every decoding process imports \S+train\.py, .*`if __name__ =="):
        small(Noise()).replace(workers=2).batches(plan([0]), True)
    (tmp_path / "train.py").write_text("if __name__ == '__main__':\n    print('trains')\n")
    assert workers.processes(2) == 2


@pytest.mark.parametrize(("cores", "started"), [(1, 0), (3, 0), (4, 4), (16, 16), (200, 32)])
def test_processes_follow_the_processors(monkeypatch, cores, started):
    monkeypatch.setattr(workers, "_cores", lambda: cores)
    assert workers.processes(None) == started
    assert workers.processes(0) == 0


def test_what_cannot_be_sent_is_refused():
    dataset = small(Odd(item=threading.Lock()), workers=1)
    with pytest.raises(TypeError, match=r"^the data set cannot be sent to decoding processes: .*lock.* Let its source"):
        delivered(dataset, plan([0]), train=True)


@pytest.mark.thorough
def test_errors_of_another_process_arrive():
    dataset = small(Odd(missing=(2, 3, 4), item=(None, 0))).replace(max_unreadable=1, workers=2)
    with pytest.raises(data.UnreadableImages, match=r"2 images .*\n  example 2 .*\n  example 3"):
        delivered(dataset, plan([0, 1, 2, 5, 6, 7], batch_size=3), train=True)


@pytest.mark.thorough
def test_a_process_that_dies_is_explained():
    dataset = small(Fatal(), workers=1)
    with pytest.raises(RuntimeError, match=r"exit code -9: the system may have run out of memory: choose fewer"):
        delivered(dataset, plan([0, 19]), train=True)


def test_unreadable_images_can_be_sent_to_another_process():
    error = data.UnreadableImages("some")
    assert str(pickle.loads(pickle.dumps(error))) == "some"
