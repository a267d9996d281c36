"""Read untrusted pickles: only the globals on an allow-list exist, everything else is refused by name.

`load` is for files of weights, which may mean harm in many ways: it runs the program itself, bounds time and memory,
and sets no attribute of any object. `load_arrays` is for files of data sets: Python's own unpickler, which is fast,
behind the same list.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np

Allowed = Mapping[tuple[str, str], Any]
"""The meaning of each permitted `(module, name)`. The values are ours: nothing is imported."""


class UnsafePickleError(ValueError):
    """A pickle asked for a global that is not on the allow-list; nothing of it was run."""


def _look_up(allowed: Allowed, module: str, name: str) -> Any:
    try:
        return allowed[module, name]
    except KeyError:
        raise UnsafePickleError(
            f"refused to load {module}.{name}: it is not on the list of harmless globals, and a pickle that asks for "
            "it could run code"
        ) from None


def _refuse(pid: Any) -> Any:
    raise UnsafePickleError(f"refused a persistent id ({type(pid).__name__}): only tensors have persistent ids")


MAX_OPERATIONS = 500_000
"""Longest program that is run: about 15,000 tensors, and about a second."""

MAX_ARGUMENTS = 2**20
"""The most that a program may hand to functions, in elements and letters: each call copies its arguments."""

MAX_KEY_BITS = 64
"""Longest number that may be a key. Hashing one takes as long as it has digits, and anew each time."""

# fmt: off
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
})
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = frozenset({"PROTO", "FRAME"})


def load(stream: IO[bytes], allowed: Allowed, persistent_load: Callable[[Any], Any] = _refuse) -> Any:
    """Run the pickle at the position of `stream` and leave the stream behind it.

    Args:
      stream: binary file that gives what it has when it is asked for more, without setting aside memory for it: Python
        asks for as many bytes as the pickle claims.
      allowed: see `Allowed`. Objects with a `set_pickle_state(state)` method may be given state; no attribute of any
        object is ever set.
      persistent_load: resolves persistent ids; by default they are refused.

    Raises:
      UnsafePickleError: for any other global or persistent id.
      ValueError, TypeError, IndexError, KeyError, UnicodeDecodeError: the stream is malformed.

    Example:
      >>> import io, pickle
      >>> load(io.BytesIO(pickle.dumps({"epoch": 3, "lr": [0.1, (1, 2)]}, protocol=2)), allowed={})
      {'epoch': 3, 'lr': [0.1, (1, 2)]}
    """
    return _Machine(allowed, persistent_load).run(stream)


class PlainDict(dict[Any, Any]):
    """Stand in for `dict`, `OrderedDict` and `Counter`: a dictionary with simple keys only.

    Example:
      >>> PlainDict([("epoch", 3)])
      {'epoch': 3}
      >>> PlainDict([((1, 2), 3)])
      Traceback (most recent call last):
      ...
      ValueError: a dictionary key of type tuple
    """

    def __init__(self, items: Iterable[tuple[Any, Any]] | Mapping[Any, Any] = ()):
        super().__init__()
        if not isinstance(items, Mapping | list | tuple | zip):  # the length of others is not counted, see `_call`
            raise ValueError(f"a dictionary of the elements of a {type(items).__name__}")
        for key, value in items.items() if isinstance(items, Mapping) else items:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | bytes | int | float | None):
            raise ValueError(f"a dictionary key of type {type(key).__name__}")
        if isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise ValueError(f"a dictionary key of {key.bit_length()} bits")
        super().__setitem__(key, value)

    def set_pickle_state(self, state: Any) -> None:
        """Drop instance attributes: PyTorch hangs `_metadata` (module versions) on a state dict."""


class _Machine:
    """Executes the operations of one pickle."""

    def __init__(self, allowed: Allowed, persistent_load: Callable[[Any], Any]):
        self._allowed = allowed
        self._persistent_load = persistent_load
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each open mark
        self._memo: dict[int, Any] = {}
        self._arguments_left = MAX_ARGUMENTS

    def run(self, stream: IO[bytes]) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if count >= MAX_OPERATIONS:
                raise ValueError(f"a pickle of more than {MAX_OPERATIONS} operations")
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name == "STOP":
                return self._stack.pop()
            elif name not in _IGNORED:
                self._execute(name, argument)
        raise ValueError("the pickle does not end")

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                self._outer.append(stack)
                self._stack = []
            case "TUPLE" | "LIST" | "DICT":
                items = self._close_mark()
                self._stack.append(_container(name, items))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_container(name.removeprefix("EMPTY_"), []))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise ValueError("a tuple of more values than the pickle holds")
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS":
                items = self._close_mark()
                _expect(self._stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(stack[-1], PlainDict)[key] = value
            case "SETITEMS":
                items = self._close_mark()
                target = _expect(self._stack[-1], PlainDict)
                for key, value in _pairs(items):
                    target[key] = value
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                stack.append(_look_up(self._allowed, module, attribute))
            case "INST":  # by which the oldest pickles name what they make; none of torch.save's does
                _look_up(self._allowed, *argument.split(" ", 1))
                raise ValueError(f"the pickle operation {name}, which no checkpoint needs")
            case "STACK_GLOBAL":
                attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(_look_up(self._allowed, module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments = _expect(stack.pop(), tuple)
                stack.append(self._call(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                if not hasattr(stack[-1], "set_pickle_state"):
                    raise ValueError(f"state for a {type(stack[-1]).__name__}, which takes none")
                stack[-1].set_pickle_state(state)
            case "BINPERSID":
                stack.append(self._persistent_load(stack.pop()))
            case "PERSID":
                stack.append(self._persistent_load(argument))
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._close_mark()
            case _:
                raise ValueError(f"the pickle operation {name}, which no checkpoint needs")

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        copied = [value for value in arguments if isinstance(value, str | bytes | list | tuple | dict)]
        self._arguments_left -= len(arguments) + sum(map(len, copied))
        if self._arguments_left < 0:
            raise ValueError(f"calls with more than {MAX_ARGUMENTS} elements and letters in all")
        return function(*arguments)

    def _close_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._outer.pop()
        return items


def _container(kind: str, items: list[Any]) -> Any:
    match kind:
        case "TUPLE":
            return tuple(items)
        case "LIST":
            return items
        case _:
            return PlainDict(_pairs(items))


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where the pickle needs a {kind.__name__}")
    return value


def load_arrays(file: IO[bytes], title: str) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, lists, numbers and strings, written by Python 2 or 3.

    Args:
      file: binary file.
      title: what errors call it.

    Returns:
      The dictionary with `str` keys; arrays as read-only NumPy arrays of booleans, integers or floats. Strings that
      Python 2 wrote stay `bytes`.

    Raises:
      UnsafePickleError: the file asks for anything but an array; nothing of it was run.
      ValueError: the file is truncated, corrupt, or holds something other than a dictionary.
    """
    try:
        content = SafeUnpickler(file, _allowed_globals(), encoding="bytes").load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{title}: {error}") from None
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise ValueError(
            f"{title} is truncated or corrupt ({type(error).__name__}: {error}): get it again from where it came"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{title} holds a {type(content).__name__}, and a dictionary was expected: is it another file?"
        )
    return {_text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()}


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves `module.name` through `allowed` and nothing else.

    Args:
      file: binary file to read from.
      allowed: see `Allowed`.
      persistent_load: resolves persistent ids; without it they are refused.
      encoding: how Python 2 strings are decoded.

    Raises:
      UnsafePickleError: from `load`, for any other global or persistent id.
    """

    def __init__(
        self,
        file: IO[bytes],
        allowed: Allowed,
        persistent_load: Callable[[Any], Any] | None = None,
        encoding: str = "ASCII",
    ):
        super().__init__(file, encoding=encoding)
        self._allowed = allowed
        self._resolve = persistent_load or _refuse

    def find_class(self, module: str, name: str) -> Any:
        return _look_up(self._allowed, module, name)

    def persistent_load(self, pid: Any) -> Any:
        return self._resolve(pid)


class PickledDType:
    r"""Stand in for `numpy.dtype` in a pickle: booleans, integers and floats in either byte order.

    Attributes:
      numpy: the dtype.

    Example:
      >>> read_scalar(PickledDType("f4"), b"\x00\x00\xc0\x3f")
      1.5
      >>> read_scalar(PickledDType("f8"), b"\x00\x00\xc0\x3f")
      Traceback (most recent call last):
      ...
      ValueError: numbers of shape (1,) and dtype float64 come with 4 bytes
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        text = _text(code) if isinstance(code, str | bytes) else type(code).__name__
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
            raise ValueError(f"arrays of dtype {text[:40]!r} are not read: it is neither float, integer nor bool")
        self.numpy = np.dtype(f"<{text}")

    def set_pickle_state(self, state: Any) -> None:
        """Take the byte order, the one part of a dtype's state that matters for numbers."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
            raise ValueError("a NumPy type without a byte order")
        self.numpy = self.numpy.newbyteorder(">" if order in (">", b">") else "<")

    __setstate__ = set_pickle_state  # by which Python's own unpickler calls it


def read_scalar(dtype: Any, raw: Any) -> int | float | bool:
    """Stand in for `numpy.core.multiarray.scalar`: return the number in `raw`."""
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return _from_bytes(raw, dtype, (1,), "C")[0].item()


def encode(text: Any, encoding: Any) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes for protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes that are not spelled as latin-1 text")
    return text.encode("latin-1")


class _Array:
    """Stand in for `numpy.ndarray` in a pickle: what `numpy.core.multiarray._reconstruct` makes."""

    def __init__(self, subtype: None, shape: tuple[int, ...], code: bytes):
        self.array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, PickledDType) or not isinstance(raw, bytes | bytearray):
        raise ValueError("an array is not stored as plain bytes of a known type")
    if len(raw) != math.prod(shape) * dtype.numpy.itemsize:
        raise ValueError(f"numbers of shape {shape} and dtype {dtype.numpy} come with {len(raw)} bytes")
    array = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if order == "F" else "C")
    array.flags.writeable = False
    return array


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _allowed_globals() -> dict[tuple[str, str], Any]:
    """Return what an array's pickle may name. Made anew for each file: a pickle can set attributes of a function."""

    def own(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*arguments)

    def from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array(None, (0,), b"b")
        made.array = _from_bytes(buffer, dtype, shape, order)
        return made

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): PickledDType,
        ("_codecs", "encode"): own(encode),
    }
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        allowed[f"{core}.multiarray", "_reconstruct"] = _Array
        allowed[f"{core}.multiarray", "scalar"] = own(read_scalar)
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    return allowed
