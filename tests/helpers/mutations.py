"""Files of weights, damaged in every way one can think of. A seed decides how, so that each can be made again."""

import io
import json
import pickle
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable

from pickle_mutations import HUGE, Random, cut, flip, flips, insert, mutate_bytes, mutate_pickle, truncate

# Zip archives.


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def packed(records: list[tuple[str, bytes]], packing: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", packing, compresslevel=1) as archive:
        for record, data in records:
            archive.writestr(record, data)
    return file.getvalue()


def mutate_zip(content: bytes, rng: Random) -> tuple[str, bytes]:
    records = unpacked(content)
    pickled = next(record for record in records if record.endswith("data.pkl"))
    storages = [record for record in records if "/data/" in record]
    one, other = rng.sample(storages, 2)
    label = rng.choice(
        ["pickle"] * 8 + ["swapped", "dropped", "twice", "resized", "bomb", "lie", "packed", "order", "top"]
    )
    match label:
        case "pickle":
            label, records[pickled] = mutate_pickle(records[pickled], rng)
        case "swapped":
            records[one], records[other] = records[other], records[one]
        case "dropped":
            del records[rng.choice(list(records))]
        case "twice":
            record = rng.choice(list(records))
            return label, packed([*records.items(), (record, rng.randbytes(len(records[record])))])
        case "resized":
            records[one] = (records[one] * 2)[: rng.choice([0, 1, len(records[one]) - 1, len(records[one]) + 4])]
        case "bomb":
            records[rng.choice([one, pickled, "archive/bomb"])] = bytes(rng.choice([2**20, 2**27, 2**28]))
            return label, packed(list(records.items()), zipfile.ZIP_DEFLATED)
        case "lie":
            data = bytearray(packed(list(records.items())))
            place = data.rindex(rng.choice([one, pickled]).encode())  # the name in the directory at the end
            field = rng.choice([20, 24, 42])  # packed size, size, position
            struct.pack_into("<I", data, place - 46 + field, rng.choice([0, 1, 2**31, 2**32 - 1]))
            return label, bytes(data)
        case "packed":
            return label, packed(list(records.items()), zipfile.ZIP_DEFLATED)
        case "order":
            return label, packed(rng.sample(list(records.items()), len(records)))
        case "top":
            top = pickled.partition("/")[0]
            records = {record.replace(top, "x/y", 1): data for record, data in records.items()}
    return label, packed(list(records.items()))


# The older format.


def sections(content: bytes) -> tuple[list[bytes], list[bytes]]:
    """The five pickles, and the storages with their lengths."""
    stream, pickles = io.BytesIO(content), []
    for _ in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        pickles.append(content[start : stream.tell()])
    storages = []
    for _ in pickle.loads(pickles[4]):
        (elements,) = struct.unpack("<q", stream.read(8))
        storages.append(struct.pack("<q", elements) + stream.read(4 * elements))
    return pickles, storages


def mutate_legacy(content: bytes, rng: Random) -> tuple[str, bytes]:
    pickles, storages = sections(content)
    label = rng.choice(["pickle"] * 6 + ["header", "keys", "keys", "swapped", "dropped", "length"])
    place = rng.randrange(len(storages))
    match label:
        case "pickle":
            label, pickles[3] = mutate_pickle(pickles[3], rng)
        case "header":
            which = rng.randrange(3)
            pickles[which] = mutate_bytes(pickles[which], rng)[1]
        case "keys":
            keys = pickle.loads(pickles[4])
            match rng.choice(["order", "fewer", "more", "other", "bytes"]):
                case "order":
                    rng.shuffle(keys)
                case "fewer":
                    del keys[place]
                case "more":
                    keys.insert(place, keys[0])
                case "other":
                    keys[place] = rng.choice([None, 3.5, ("a",), b"a", [], "x" * 10**6, 2**5000])
                case "bytes":
                    pickles[4] = mutate_pickle(pickles[4], rng)[1]
                    keys = None
            pickles[4] = pickles[4] if keys is None else pickle.dumps(keys, 2)
        case "swapped":
            other = rng.randrange(len(storages))
            storages[place], storages[other] = storages[other], storages[place]
        case "dropped":
            del storages[place]
        case "length":
            storages[place] = struct.pack("<q", rng.choice([*HUGE[:5], -1, 0])) + storages[place][8:]
    return label, b"".join([*pickles, *storages])


# Safetensors.

HEADER = (
    *("type", "shape", "offsets", "swapped", "dropped", "renamed", "extra"),  # the entry of a tensor
    *("twice", "deep", "metadata", "length", "size", "text"),
)


def mutate_safetensors(content: bytes, rng: Random) -> tuple[str, bytes]:
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors = [key for key in header if key != "__metadata__"]
    one, other = rng.sample(tensors, 2)
    entry = header[one]
    label = rng.choice(HEADER)
    match label:
        case "type":
            entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E5M2", "C64", "", 7, None, []])
        case "shape":
            places = [*entry["shape"], 1]
            places[rng.randrange(len(places))] = rng.choice([*HUGE, 1.5, True, None, "3", [3]])
            entry["shape"] = rng.choice([places, places[:-1], places[::-1], [1] * 1000, 3, {}])
        case "offsets":
            entry["data_offsets"][rng.randrange(2)] = rng.choice([*HUGE, 1.5, True, None, "3", [3]])
        case "swapped":
            header[one]["data_offsets"], header[other]["data_offsets"] = (
                header[other]["data_offsets"],
                header[one]["data_offsets"],
            )
        case "dropped":
            del header[one]
        case "renamed":
            header[rng.choice([other, "a" * 10**5, "\x00", "", "module." + one])] = header.pop(one)
        case "extra":
            header["extra"] = rng.choice([entry, {**entry, "more": 1}, {}, 3, {"dtype": "F32"}, [entry]])
        case "metadata":
            header["__metadata__"] = rng.choice(
                [
                    {"architecture": "vgg8"},
                    {"architecture": "resnet" + "9" * 10_000},
                    {"mean": "[" * 10**5, "std": "[1]"},
                    {"mean": "[1]", "std": "[0]"},
                    {"mean": 3},
                    [],
                    None,
                ]
            )
    described = json.dumps(header).encode()
    match label:
        case "twice":
            described = described[:-1] + f", {json.dumps(one)}: {json.dumps(entry)}}}".encode()
        case "deep":
            opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
            depth = rng.choice([900, 10**5])
            described = described[:-1] + b', "x": ' + opening * depth + b"1" + closing * depth + b"}"
        case "size":
            described = described[:-1] + b', "x": [' + rng.choice([b"[],", b"1,", b"{},"]) * 600_000 + b"1]}"
        case "text":
            mutated = bytearray(described)
            rng.choice([flip, flips, cut, insert, truncate])(mutated, rng)
            described = bytes(mutated)
    claimed = len(described) if label != "length" else rng.choice([0, 1, len(described) - 1, 2**31, 2**63, 2**64 - 1])
    return label, claimed.to_bytes(8, "little") + described + numbers


# One of them.

EXACT = {"packed", "order", "top", "wrapped"}
"""Changes that leave the weights as they are."""


def format_of(content: bytes) -> tuple[str, Callable[[bytes, Random], tuple[str, bytes]]]:
    if content.startswith(b"PK"):
        return "zip", mutate_zip
    return ("safetensors", mutate_safetensors) if content[8:9] == b"{" else ("legacy", mutate_legacy)


def mutant(content: bytes, seed: int) -> tuple[str, bytes, int | None]:
    """A damaged file, and how many of its numbers may differ if it can still be read; None if any may."""
    rng = random.Random(seed)
    kind, mutate = format_of(content)
    if rng.random() < 0.4:
        label, mutated = mutate_bytes(content, rng)
        # A zip archive has checksums: what can be read is what was written. The other formats have none.
        return f"{kind} bytes {label}", mutated, 0 if kind == "zip" else 64
    label, mutated = mutate(content, rng)
    return f"{kind} {label}", mutated, 0 if label in EXACT else None
