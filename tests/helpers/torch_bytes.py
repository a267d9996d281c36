"""A few words of the pickle language and of both torch formats, to write what no honest program would."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from in_time import in_time

from jaxkd.convert import ConversionError
from jaxkd.formats.torch_reader import MAGIC_NUMBER, read

WEIGHTS = {
    "conv.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3),
    "bn.running_var": np.linspace(0.5, 1.5, 7, dtype=np.float32),
    "bn.num_batches_tracked": np.array(3, np.int64),
    "fc.weight": np.ones((10, 2), np.float16),
}


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(*values: int) -> bytes:
    return tuple_of(*map(number, values))


def dict_of(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def storage(elements: int, key: str = "0", kind: str = "FloatStorage", *rest: bytes) -> bytes:
    kept = name("torch", kind)
    return tuple_of(text("storage"), kept, text(key), text("cpu"), number(elements), *rest) + b"Q"


def tensor(place: bytes, offset: bytes, size: bytes, stride: bytes) -> bytes:
    return call(name("torch._utils", "_rebuild_tensor_v2"), place, offset, size, stride, b"\x89", b"N")


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def write_zip(path: Path, pickled: bytes, records: dict[str, bytes] | None = None, packing=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for record, data in (records or {}).items():
            archive.writestr(f"archive/{record}", data)
    return path


def write_legacy(path: Path, pickled: bytes, keys: list[str], storages: bytes = b"") -> Path:
    header = [MAGIC_NUMBER, 1001, {"protocol_version": 1001, "little_endian": True}]
    parts = [*(pickle.dumps(value, 2) for value in header), pickled, pickle.dumps(keys, 2), storages]
    path.write_bytes(b"".join(parts))
    return path


def write_legacy_weights(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """A state dict as old versions of torch.save wrote it."""
    parts, delivered = {}, b""
    for key, value in weights.items():
        kind = {"f4": "FloatStorage", "i8": "LongStorage", "f2": "HalfStorage"}[value.dtype.str[1:]]
        strides = [step // value.itemsize for step in value.strides]
        parts[key] = tensor(storage(value.size, key, kind), number(0), numbers(*value.shape), numbers(*strides))
        delivered += struct.pack("<q", value.size) + value.tobytes()
    return write_legacy(path, program(dict_of(**parts)), list(weights), delivered)


def refusal(path: Path) -> ConversionError:
    """The one error that reading the file ends in; it names the file, and is quick."""
    with in_time(), pytest.raises(ConversionError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return caught.value


def same(found, expected) -> bool:
    return (
        list(found) == list(expected)
        and all(found[key].dtype == expected[key].dtype for key in expected)
        and all(np.array_equal(found[key], expected[key]) for key in expected)
    )
