"""Read pickles from strangers: only the globals on an allow-list exist, everything else is refused by name.

`SafeUnpickler` is Python's own unpickler behind that list, fast enough for data sets. `load` is for files of weights,
which may mean harm in more ways: it bounds time and memory, and sets no attribute of any object.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

Allowed = Mapping[tuple[str, str], Any]
"""The meaning of each permitted `(module, name)`. The values are ours: nothing is imported."""


class UnsafePickleError(ValueError):
    """A pickle asked for a global that is not on the allow-list; nothing of it was run."""


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
