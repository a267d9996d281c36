"""Ways to damage bytes, and the programs that pickles are."""

import os
import pickletools
import random
import struct

from torch_bytes import call, name, number, text

Random = random.Random

# fmt: off
STORAGES = (
    "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped", "ComplexFloat", "QInt8",
)
# fmt: on
HUGE = [2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**47, 2**63, 2**200, -1, -(2**31), 0]


# Bytes.


def flip(data: bytearray, rng: Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flips(data: bytearray, rng: Random) -> None:
    for _ in range(rng.randrange(2, 20)):
        flip(data, rng)


def flip_early(data: bytearray, rng: Random) -> None:
    """Most of a file are weights; what describes them stands at its beginning."""
    data[rng.randrange(min(len(data), 20_000))] ^= 1 << rng.randrange(8)


def flip_late(data: bytearray, rng: Random) -> None:
    """The directory of a zip archive stands at its end."""
    data[-1 - rng.randrange(min(len(data), 20_000))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 2, 7, 64, 4096])]


def insert(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.choice([1, 2, 7, 64, 4096]))


def overwrite(data: bytearray, rng: Random) -> None:
    start = rng.randrange(len(data))
    word = rng.choice([bytes(8), b"\xff" * 8, struct.pack("<q", rng.choice(HUGE[:5])), rng.randbytes(8)])
    data[start : start + 8] = word[: len(data) - start]


def exchange(data: bytearray, rng: Random) -> None:
    i, j, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, 32)
    n = min(n, len(data) - max(i, j), abs(i - j))
    data[i : i + n], data[j : j + n] = data[j : j + n], data[i : i + n]


def append(data: bytearray, rng: Random) -> None:
    data += rng.randbytes(rng.choice([1, 100, 65_536]))


BYTES = [flip, flips, flip_early, flip_late, truncate, cut, insert, overwrite, exchange, append]


def mutate_bytes(content: bytes, rng: Random) -> tuple[str, bytes]:
    data, mutate = bytearray(content), rng.choice(BYTES)
    mutate(data, rng)
    return mutate.__name__, bytes(data)


# Pickles.


def operations(code: bytes) -> list[bytes]:
    starts = [place for _, _, place in pickletools.genops(code)]
    return [code[start:stop] for start, stop in zip(starts, [*starts[1:], len(code)], strict=True)]


def drop_operation(ops: list[bytes], rng: Random) -> None:
    del ops[rng.randrange(len(ops))]


def repeat_operation(ops: list[bytes], rng: Random) -> None:
    place = rng.randrange(len(ops))
    ops[place:place] = [ops[place]] * rng.choice([1, 2, 1000])


def swap_operations(ops: list[bytes], rng: Random) -> None:
    i, j = rng.randrange(len(ops)), rng.randrange(len(ops))
    ops[i], ops[j] = ops[j], ops[i]


def any_operation(ops: list[bytes], rng: Random) -> None:
    ops[rng.randrange(len(ops))] = bytes([rng.choice(list(pickletools.code2op)).encode("latin-1")[0]]) + rng.randbytes(
        rng.randrange(9)
    )


def replace_one(ops: list[bytes], places: list[int], new: bytes, rng: Random) -> None:
    ops[rng.choice(places or range(len(ops)))] = new


def wrong_type(ops: list[bytes], rng: Random) -> None:
    places = [place for place, op in enumerate(ops) if op.startswith(b"ctorch\n") and b"Storage" in op]
    replace_one(ops, places, name("torch", rng.choice(STORAGES) + "Storage"), rng)


def huge_number(ops: list[bytes], rng: Random) -> None:
    numbers = [place for place, op in enumerate(ops) if op[:1] in b"KMJ\x8a"]
    replace_one(ops, numbers, b"\x8a\x20" + rng.choice(HUGE).to_bytes(32, "little", signed=True), rng)


def text_changed(ops: list[bytes], rng: Random) -> None:
    texts = [place for place, op in enumerate(ops) if op[:1] == b"X"]
    new = rng.choice(["", "a" * 100_000, "state_dict", "0", "9" * 4000, "\ud7ff\n\x00", "fc.bias"])
    replace_one(ops, texts, text(new), rng)


def deep(ops: list[bytes], rng: Random) -> None:
    """Nests what the pickle holds, or something beside it, as deep as a reader may follow."""
    depth = rng.choice([100, 3000, 100_000])
    ops[-1:-1] = rng.choice(
        [[b"\x85"] * depth, [b"]"] * depth + [b"a"] * (depth - 1) + [b"0"], [b"}"] * depth, [b"("] * depth]
    )


def cyclic(ops: list[bytes], rng: Random) -> None:
    key = text(rng.choice(["state_dict", "model", "self", "fc.weight"]))
    inside = rng.choice([b"h\xff", b"]r\xff\x00\x01\x00r\xfe\x00\x01\x00j\xfe\x00\x01\x00a", b"h\xff\x85"])
    ops[-1:-1] = [b"q\xff", key, inside, b"s"]


def hungry(ops: list[bytes], rng: Random) -> None:
    """Claims, copies and repeats that would fill the memory, or take for ever."""
    size = name("torch", "Size")
    ops[-1:-1] = rng.choice(
        [
            [b"Nr\xff\xff\xff\xff0"],
            [b"\x8e" + struct.pack("<Q", 2**62)],
            [b"X\xff\xff\xff\x7f"],
            [b"](" + b"N" * 100_000 + b"eq\xff0" + size + b"q\xfe0" + b"h\xfeh\xff\x85R0" * 10_000],
            [
                text("a" * 2**20)
                + b"q\xff0"
                + (name("_codecs", "encode") + b"h\xff" + text("latin1") + b"\x86R0") * 5000
            ],
            [b"}q\xff\x8b" + struct.pack("<i", 2**18) + b"\x7f" * 2**18 + b"q\xfeNs" + b"h\xfeNs" * 20_000 + b"0"],
            [b")q\xff" + b"0h\xffh\xff\x86q\xff" * 60 + b"0}h\xffNs0"],
            [b"N0" * 400_000],
        ]
    )


def attack(ops: list[bytes], rng: Random) -> None:
    canary = text(f"touch {os.environ['CANARY']}")
    module, function = rng.choice(
        [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "Popen")]
    )
    ops.insert(rng.choice([1, len(ops) - 1]), call(name(module, function), canary) + b"0")


def second_pickle(ops: list[bytes], rng: Random) -> None:
    ops.append(rng.choice([b"\x80\x02N.", b".", b"\x80\x02" + call(name("os", "system"), text("true")) + b"."]))


def wrapped(ops: list[bytes], rng: Random) -> None:
    """The same weights in containers: a harmless change."""
    ops[1:1] = [b"}", text("epoch"), number(3), b"s", text(rng.choice(["state_dict", "model", "net"]))]
    ops[-1:-1] = [b"s"]


PICKLE = [
    drop_operation, repeat_operation, swap_operations, any_operation, wrong_type, huge_number, text_changed, deep,
    cyclic, hungry, attack, second_pickle, wrapped,
]  # fmt: skip


def mutate_pickle(code: bytes, rng: Random) -> tuple[str, bytes]:
    if rng.random() < 0.2:
        label, mutated = mutate_bytes(code, rng)
        return f"pickle {label}", mutated
    ops, mutate = operations(code), rng.choice(PICKLE)
    mutate(ops, rng)
    return mutate.__name__, b"".join(ops)
