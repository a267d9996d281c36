"""Torch files that mean harm, or are damaged: each ends in one error that names it, soon, and nothing runs."""

import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from in_time import in_time
from torch_bytes import (
    WEIGHTS,
    call,
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

from jaxkd.convert import ConversionError
from jaxkd.formats import torch_writer
from jaxkd.formats.torch_reader import read
from jaxkd.formats.unpickler import MAX_OPERATIONS

# Tensors that are not in their storage, and storages that are not in the file.

BAD_TENSORS = {
    "offset": (number(4), numbers(1), numbers(1), "reaches element 4"),
    "size": (number(0), numbers(5), numbers(1), "reaches element 4"),
    "stride": (number(0), numbers(2, 2), numbers(3, 1), "reaches element 4"),
    "negative offset": (number(-1), numbers(2), numbers(1), "whole number"),
    "negative size": (number(0), numbers(-1), numbers(1), "whole number"),
    "negative stride": (number(0), numbers(2), numbers(-1), "whole number"),
    "huge size": (number(0), numbers(2**100), numbers(1), "whole number"),
    "huge product": (number(0), numbers(2**47, 2**47), numbers(0, 0), "repeats elements"),
    "repeated elements": (number(0), numbers(5), numbers(0), "repeats elements"),
    "overlapping rows": (number(0), numbers(2, 2), numbers(1, 1), "repeats elements"),
    "empty but enormous": (number(0), numbers(0, 2**47, 2**47), numbers(1, 1, 1), "not a readable"),
    "no tuple": (number(0), number(4), numbers(1), "two tuples"),
    "lengths": (number(0), numbers(2, 2), numbers(1), "two tuples"),
    "dimensions": (number(0), numbers(*[1] * 65), numbers(*[1] * 65), "small length"),
    "bool": (b"\x88", numbers(1), numbers(1), "whole number"),
    "float": (number(0), tuple_of(b"G" + struct.pack(">d", 2.0)), numbers(1), "whole number"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_views_outside_their_storage_are_refused(case, tmp_path):
    *view, reason = BAD_TENSORS[case]
    pickled = program(dict_of(a=tensor(storage(4), *view)))
    assert reason in str(refusal(write_zip(tmp_path / "x", pickled, {"data/0": bytes(16)})))
    delivered = struct.pack("<q", 4) + bytes(16)
    assert reason in str(refusal(write_legacy(tmp_path / "y", pickled, ["0"], delivered)))


def one_tensor(elements: int, **kwargs) -> bytes:
    return program(dict_of(a=tensor(storage(elements, **kwargs), number(0), numbers(elements), numbers(1))))


@pytest.mark.parametrize(
    ("claimed", "records", "reason"),
    [
        (4, {}, "data/0 is missing"),
        (4, {"data/0": bytes(12)}, "has 12 bytes instead of 16"),
        (4, {"data/0": bytes(20)}, "has 20 bytes instead of 16"),
        (2**46, {"data/0": bytes(20)}, f"has 20 bytes instead of {2**48}"),
    ],
)
def test_records_must_be_as_long_as_the_pickle_says(claimed, records, reason, tmp_path):
    assert reason in refusal(write_zip(tmp_path / "x", one_tensor(claimed), records)).reason


@pytest.mark.parametrize(
    ("claimed", "keys", "delivered", "reason"),
    [
        (2**40, ["0"], b"", "larger than the file"),
        (4, ["0"], struct.pack("<q", 4) + bytes(15), "a storage of 16 bytes has 15 in the file"),
        (4, ["0"], struct.pack("<q", 5) + bytes(20), "5 elements where 4 belong"),
        (4, [], b"", "1 storages are missing"),
        (4, ["other"], b"", "belongs to no tensor"),
        (1, ["0", "0"], (struct.pack("<q", 1) + bytes(4)) * 2, "delivered twice"),
    ],
)
def test_old_files_must_deliver_what_the_pickle_says(claimed, keys, delivered, reason, tmp_path):
    assert reason in refusal(write_legacy(tmp_path / "x", one_tensor(claimed), keys, delivered)).reason


def test_one_storage_has_one_type(tmp_path):
    kinds = [
        tensor(storage(4, kind=kind), number(0), numbers(1), numbers(1)) for kind in ("FloatStorage", "IntStorage")
    ]
    path = write_zip(tmp_path / "x", program(tuple_of(*kinds)), {"data/0": bytes(16)})
    assert "two types" in refusal(path).reason


def test_persistent_ids_other_than_storages_are_refused(tmp_path):
    module = tuple_of(text("module"), name("torch", "Size"), text("net.py"), text("import os"), b"N") + b"Q"
    assert "no storage" in refusal(write_zip(tmp_path / "x", program(module))).reason
    (tmp_path / "y").write_bytes(program(tuple_of(text("storage")) + b"Q"))
    assert "only tensors have persistent ids" in refusal(tmp_path / "y").reason


# Streams that would exhaust a reader.


def test_bombs_are_refused_at_once(tmp_path):
    path = tmp_path / "bomb"
    write_zip(path, one_tensor(2**26), {"data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    assert "zip bomb" in refusal(path).reason


NEST = b")q\x00" + b"0h\x00h\x00\x86q\x00" * 60  # a tuple of the same tuple twice, 60 times over

LONG = b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20


def again(function: bytes, *more: bytes) -> bytes:
    """A thousand calls of a function with what is memoized as 0."""
    return function + b"q\x01" + (b"h\x01(h\x00" + b"".join(more) + b"tR0") * 1000 + b"N"


EXHAUSTING = {
    "memo": (b"Nr\xff\xff\xff\xff0N", None),  # a memo of 2³² slots, were it an array
    "deep": (b"]" * 100_000 + b"a" * 99_999, None),
    "operations": (b"N0" * (MAX_OPERATIONS // 2) + b"N", "operations"),
    "key": (b"}" + NEST + b"Ns", "key of type tuple"),  # hashing it would visit 2⁶⁰ tuples
    "type": (call(name("numpy", "dtype"), NEST), "neither float"),  # and so would printing it
    "byte order": (call(name("numpy", "dtype"), text("f4")) + tuple_of(number(3), NEST) + b"b", "without a byte order"),
    "persistent id": (tuple_of(NEST) + b"Q", "no storage"),
    "bytes": (b"\x8e" + struct.pack("<Q", 2**62), "not a readable"),
    "text": (b"X\xff\xff\xff\x7fabc", "not a readable"),
    "bytearray": (b"\x96" + struct.pack("<Q", 2**62), "not a readable"),
    "integer": (b"\x8b\xff\xff\xff\x7f", "not a readable"),
    "digits": (b"I" + b"9" * 200_000 + b"\n", "not a readable"),
    "unfinished": (b"}(", "not a readable"),
    # Calls copy what they are given: a few megabytes, called upon a thousand times, fill any memory.
    "copied list": (b"](" + b"N" * 100_000 + b"eq\x00" + again(name("torch", "Size")), "elements and letters"),
    "copied text": (text("a" * 2**20) + b"q\x00" + again(name("_codecs", "encode"), text("latin1")), "and letters"),
    "copied items": (
        b"}("
        + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(50_000))
        + b"uq\x00"
        + again(name("collections", "OrderedDict")),
        "elements and letters",
    ),
    # Elements of an array are not counted, and each is an object once it is gone through.
    "copied array": (
        name("collections", "OrderedDict")
        + tuple_of(tensor(storage(1), number(0), numbers(1, 1), numbers(1, 1)))
        + b"R",
        "a dictionary of the elements of a ndarray",
    ),
    "arguments": (
        b"(" + b"N" * 200_000 + b"tq\x00" + name("torch", "device") + b"q\x01" + b"h\x01h\x00R0" * 1000,
        "elements and letters",
    ),
    # Hashing a long number takes as long as it has digits, and Python does not remember the result.
    "long keys": (b"}" + LONG + b"q\x00Ns" + b"h\x00Ns" * 10_000, "a dictionary key of 8388"),
    "long storage key": (tuple_of(text("storage"), name("torch", "FloatStorage"), LONG, b"N", b"N") + b"Q", "digits"),
    "empty stack": (b"", "not a readable"),
    "odd items": (b"}(Nu", "not a readable"),
    "call of a value": (text("x") + b")R", "not a readable"),
    "tuple key": (b"}" + tuple_of(number(1)) + b"Ns", "key of type tuple"),
    "items of a tensor": (
        tensor(storage(1), number(0), numbers(1), numbers(1)) + number(0) + number(5) + b"s",
        "needs a",
    ),
    "state of a tensor": (tensor(storage(1), number(0), numbers(1), numbers(1)) + number(0) + b"b", "takes none"),
}


def test_a_persistent_id_in_a_header_is_not_printed(tmp_path):
    (tmp_path / "x").write_bytes(program(NEST + b"Q"))
    refusal(tmp_path / "x")


@pytest.mark.parametrize("case", EXHAUSTING)
def test_streams_that_would_exhaust_a_reader(case, tmp_path):
    code, reason = EXHAUSTING[case]
    path = write_zip(tmp_path / "x", program(code), {"data/0": bytes(4)})
    if reason is not None:
        assert reason in str(refusal(path))
        return
    with in_time():
        read(path)


def test_a_dictionary_may_contain_itself(tmp_path):
    found = read(write_zip(tmp_path / "x", program(b"}q\x00" + text("self") + b"h\x00s")))
    assert found["self"] is found


# Mutations: success with tensors that can be touched, or the one error.


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    match rng.choice(["flip", "flips", "truncate", "cut", "swap", "overwrite"]):
        case "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(rng.randrange(2, 20)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "truncate":
            del data[rng.randrange(len(data)) :]
        case "cut":
            start = rng.randrange(len(data))
            del data[start : start + rng.randrange(1, 64)]
        case "swap":
            i, j, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, 32)
            data[i : i + n], data[j : j + n] = data[j : j + n], data[i : i + n]
        case "overwrite":
            start = rng.randrange(len(data))
            data[start : start + 8] = rng.choice([bytes(8), b"\xff" * 8, struct.pack("<q", 2**40)])
    return bytes(data)


def repacked(content: bytes, rng: random.Random) -> bytes:
    """Mutates the pickle inside an archive and packs it again, so that no checksum stands in the way."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = next(record for record in records if record.endswith("data.pkl"))
    records[pickled] = mutated(records[pickled], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    return packed.getvalue()


def legacy_content(tmp_path: Path) -> bytes:
    path = write_legacy_weights(tmp_path / "whole", WEIGHTS)
    assert same(read(path), WEIGHTS)
    return path.read_bytes()


def zip_content(tmp_path: Path) -> bytes:
    torch_writer.write(tmp_path / "whole", WEIGHTS)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("content", "mutate"), [(zip_content, mutated), (zip_content, repacked), (legacy_content, mutated)]
)
def test_mutated_files_end_in_tensors_or_in_one_error(content, mutate, tmp_path):
    whole, rng = content(tmp_path), random.Random(0)
    path = tmp_path / "mutated.pth"
    outcomes = {"read": 0, "refused": 0, "unnamed": 0}
    for _ in range(400):
        path.write_bytes(mutate(whole, rng))
        try:
            with in_time():
                tree = read(path)
        except ConversionError as error:
            named = str(error).startswith(f"{path}: ")
            outcomes["refused" if named else "unnamed"] += 1
        else:
            for value in tree.values() if isinstance(tree, dict) else ():
                np.array(value)  # touches every element
            outcomes["read"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["unnamed"] == 0


@pytest.mark.parametrize("content", [zip_content, legacy_content])
def test_every_truncation_is_noticed(content, tmp_path):
    whole = content(tmp_path)
    path = tmp_path / "short.pth"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("claim", [2**33, 2**46, 2**62])
def test_old_files_that_claim_long_texts_get_no_memory_for_them(claim, tmp_path):
    """They are read from the file itself, and Python would set aside what is asked for before it looks."""
    for opcode in (b"\x8e", b"\x8d"):  # BINBYTES8, BINUNICODE8
        path = write_legacy(tmp_path / "x", program(opcode + struct.pack("<Q", claim) + b"abc"), [])
        tracemalloc.start()
        reason = refusal(path).reason
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "MemoryError" not in reason
        assert peak < 2**20
