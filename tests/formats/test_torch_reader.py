"""Reading and writing torch files: both formats, their corners, and what PyTorch says to them."""

import gzip
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch_bytes import (
    WEIGHTS,
    dict_of,
    name,
    number,
    numbers,
    program,
    refusal,
    same,
    storage,
    tensor,
    text,
    tuple_of,
    write_legacy,
    write_legacy_weights,
    write_zip,
)

from jaxkd.formats import torch_writer
from jaxkd.formats.torch_reader import MAGIC_NUMBER, read

# What is written is what is read.

shapes = npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
dtypes = st.sampled_from(
    [np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
)
arrays = dtypes.flatmap(
    lambda dtype: npst.arrays(
        dtype, shapes, elements={"allow_nan": False} if dtype in (np.float32, np.float64, np.float16) else None
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), arrays, max_size=5))
def test_round_trip(weights, tmp_path):
    torch_writer.write(tmp_path / "weights.pth", weights)
    assert same(read(tmp_path / "weights.pth"), weights)


def test_bfloat16_round_trip(tmp_path):
    weights = {"a": np.array([[1, -2.5, 3]], ml_dtypes.bfloat16)}
    torch_writer.write(tmp_path / "weights.pth", weights)
    assert same(read(tmp_path / "weights.pth"), weights)


def test_arrays_in_any_memory_layout_are_written_by_value(tmp_path):
    weights = {
        "transposed": WEIGHTS["fc.weight"].T,
        "every second": np.arange(10.0)[::2],
        "big": np.arange(3, dtype=">f4"),
    }
    torch_writer.write(tmp_path / "weights.pth", {key: weights[key] for key in ("transposed", "every second")})
    found = read(tmp_path / "weights.pth")
    assert np.array_equal(found["transposed"], weights["transposed"])
    assert np.array_equal(found["every second"], weights["every second"])
    with pytest.raises(TypeError, match="cannot hold an array of type >f4"):
        torch_writer.write(tmp_path / "weights.pth", weights)
    assert same(read(tmp_path / "weights.pth"), found), "a failed write must leave the old file"


def test_the_same_weights_give_the_same_bytes_and_no_other_file(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch_writer.write(tmp_path / folder / f"{folder}.pth", WEIGHTS)
    assert (tmp_path / "a/a.pth").read_bytes() == (tmp_path / "b/b.pth").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["a.pth"]


def test_storages_lie_at_multiples_of_64(tmp_path):
    torch_writer.write(tmp_path / "weights.pth", WEIGHTS)
    content = (tmp_path / "weights.pth").read_bytes()
    assert content.index(WEIGHTS["conv.weight"].tobytes()) % 64 == 0
    assert content.index(WEIGHTS["bn.running_var"].tobytes()) % 64 == 0


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="complex64"):
        torch_writer.write(tmp_path / "weights.pth", {"a": np.ones(3, np.complex64)})
    assert list(tmp_path.iterdir()) == []


# PyTorch agrees.


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_torch_reads_what_we_write(torch, tmp_path):
    torch_writer.write(tmp_path / "weights.pth", WEIGHTS)
    for mapped in (False, True):
        found = torch.load(tmp_path / "weights.pth", weights_only=True, mmap=mapped)
        assert isinstance(found, OrderedDict)
        assert same({key: value.numpy() for key, value in found.items()}, WEIGHTS)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_we_read_what_torch_writes(torch, tmp_path, new_format, protocol):
    rows = torch.arange(12.0).reshape(3, 4)
    saved = {
        "epoch": 7,
        "best_acc": np.float64(71.25),
        "best_epoch": np.int64(-3),
        "accuracy": torch.tensor(71.25),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "rates": [0.1, 0.01],
        "weights": OrderedDict(
            whole=rows,
            transposed=rows.t(),
            part=rows[1:, 2:],
            column=rows[:, 1:2],
            parameter=torch.nn.Parameter(torch.ones(2, 3)),
            half=torch.full((3,), 1.5, dtype=torch.float16),
            brain=torch.full((3,), 1.5, dtype=torch.bfloat16),
            long=torch.tensor([-(2**40), 5]),
            mask=torch.tensor([True, False]),
            empty=torch.empty(0, 5),
            scalar=torch.tensor(2.0),
        ),
    }
    torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=new_format, pickle_protocol=protocol)
    found = read(tmp_path / "x.pth")
    kept = ("epoch", "best_acc", "best_epoch", "size", "rates")
    assert {key: found[key] for key in kept} == {key: saved[key] for key in kept}
    assert found["accuracy"] == 71.25
    expected = {key: value.detach() for key, value in saved["weights"].items()}
    assert found["weights"].pop("brain").astype(np.float32).tolist() == expected.pop("brain").tolist()
    assert same(found["weights"], {key: value.numpy() for key, value in expected.items()})
    assert np.shares_memory(found["weights"]["whole"], found["weights"]["part"])
    assert not found["weights"]["whole"].flags.writeable


# The formats' corners.


def test_big_endian_records_are_swapped(tmp_path):
    pickled = program(dict_of(a=tensor(storage(3), number(0), numbers(3), numbers(1))))
    path = write_zip(tmp_path / "x", pickled, {"data/0": np.array([1, 2, 3], ">f4").tobytes(), "byteorder": b"big"})
    assert read(path)["a"].tolist() == [1, 2, 3]
    path = write_zip(tmp_path / "x", pickled, {"data/0": bytes(12), "byteorder": b"middle"})
    assert "unknown byte order" in refusal(path).reason


def test_compressed_records_are_read(tmp_path):
    pickled = program(dict_of(a=tensor(storage(3), number(0), numbers(3), numbers(1))))
    values = np.array([1, 2, 3], "<f4")
    path = write_zip(tmp_path / "x", pickled, {"data/0": values.tobytes()}, zipfile.ZIP_DEFLATED)
    assert read(path)["a"].tolist() == [1, 2, 3]
    path = write_zip(tmp_path / "x", pickled, {"data/0": values.tobytes()}, zipfile.ZIP_BZIP2)
    assert "packed in a way" in refusal(path).reason


def test_bytes_other_than_0_and_1_are_no_invalid_bools(tmp_path):
    pickled = program(dict_of(a=tensor(storage(3, kind="BoolStorage"), number(0), numbers(3), numbers(1))))
    found = read(write_zip(tmp_path / "x", pickled, {"data/0": bytes([0, 1, 255])}))["a"]
    assert found.view(np.uint8).tolist() == [0, 1, 1]


def test_the_oldest_files_name_parts_of_storages(tmp_path):
    view = tuple_of(text("view"), number(2), number(3))
    pickled = program(dict_of(a=tensor(storage(6, "k", "FloatStorage", view), number(1), numbers(2), numbers(1))))
    delivered = struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    assert read(write_legacy(tmp_path / "x", pickled, ["k"], delivered))["a"].tolist() == [3, 4]
    beyond = tuple_of(text("view"), number(5), number(3))
    pickled = program(dict_of(a=tensor(storage(6, "k", "FloatStorage", beyond), number(0), numbers(2), numbers(1))))
    assert (
        "elements 5 to 8 of a storage of 6" in refusal(write_legacy(tmp_path / "x", pickled, ["k"], delivered)).reason
    )


def test_command_line_options_are_dropped_not_refused(tmp_path):
    options = name("argparse", "Namespace") + b")\x81" + dict_of(lr=number(1)) + b"b"
    found = read(write_zip(tmp_path / "x", program(dict_of(opt=options, epoch=number(3)))))
    assert found["epoch"] == 3
    assert vars(found["opt"]) == {}


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
@pytest.mark.parametrize("kind", ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])
def test_paths_among_hyper_parameters_are_dropped_not_refused(tmp_path, module, kind):
    path = name(module, kind) + tuple_of(text("/"), text("data")) + b"R"
    found = read(write_zip(tmp_path / "x", program(dict_of(hyper_parameters=dict_of(root=path), epoch=number(3)))))
    assert found["epoch"] == 3
    assert vars(found["hyper_parameters"]["root"]) == {}


# Files that are something else.


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "x"
    assert "cannot be read" in refusal(path).reason
    assert "cannot be read" in refusal(tmp_path).reason
    path.write_bytes(b"")
    assert "is empty" in refusal(path).reason
    path.write_bytes(b"<!DOCTYPE html><title>404</title>")
    assert "a web page" in refusal(path).reason
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "a pointer of Git LFS" in refusal(path).reason
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("resnet56_vanilla/ckpt_epoch_240.pth"))
    assert "an archive of files: unpack it" in refusal(path).reason
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "compressed: unpack it" in refusal(path).reason
    torch_writer.write(path, {"a": np.ones(100, np.float32)})
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut short" in refusal(path).reason
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refusal(path)
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    assert "magic number" in refusal(path).reason
    path.write_bytes(pickle.dumps(MAGIC_NUMBER, 2) + pickle.dumps(1000, 2))
    assert "not 1001" in refusal(path).reason
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "0 data.pkl records" in refusal(path).reason
    write_zip(path, program(b"N"), {"constants.pkl": program(b"N")})
    assert "TorchScript" in refusal(path).reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, of Keras perhaps"),
        ("x.npy", b"\x93NUMPY\x01\x00" + bytes(64), "a NumPy array"),
        ("x.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(64), "a TensorFlow Lite model"),
        ("x.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + bytes(64), "an ONNX model, by its name"),
        ("model", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + bytes(64), "begins like an ONNX model"),
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-7"\n', "the index of TensorFlow checkpoints"),
        ("model.ckpt-7.index", bytes(64) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "the index of a TensorFlow checkpoint"),
        ("model.ckpt-7.data-00000-of-00001", bytes(64), "part of a TensorFlow checkpoint"),
        ("saved_model.pb", b"\x08\x01\x12\xff" + bytes(64), "a TensorFlow graph"),
        ("flax_model.msgpack", b"\x82" + bytes(64), "a Flax file"),
    ],
)
def test_files_of_other_libraries_are_named_and_the_cure_with_them(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name).reason
    assert reason in found
    assert "load it with what wrote it" in found


def test_archives_of_numpy_and_keras_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "a NumPy archive (.npz)" in refusal(tmp_path / "x.npz").reason
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF")
    assert "a Keras model (.keras)" in refusal(tmp_path / "x.keras").reason


def test_a_torch_file_may_be_called_anything(tmp_path):
    for called in ("x.onnx", "x.pb", "x.data-00000-of-00001", "x.h5"):
        torch_writer.write(tmp_path / called, {"a": np.ones(3, np.float32)})
        assert read(tmp_path / called)["a"].tolist() == [1, 1, 1]
        write_legacy_weights(tmp_path / called, {"a": np.ones(3, np.float32)})
        assert read(tmp_path / called)["a"].tolist() == [1, 1, 1]
