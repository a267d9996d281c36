"""Pickles from strangers: arrays are read, everything else is refused by name and nothing runs."""

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxkd.formats.unpickler import SafeUnpickler, UnsafePickleError, load_arrays


class Attack:
    """Pickles as the call `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def load(content: bytes):
    return load_arrays(io.BytesIO(content), "the file")


def test_the_allow_list_decides_what_a_name_means():
    content = pickle.dumps(collections.OrderedDict(a=1))
    allowed = {("collections", "OrderedDict"): dict}
    assert type(SafeUnpickler(io.BytesIO(content), allowed).load()) is dict
    with pytest.raises(UnsafePickleError, match=r"refused to load collections\.OrderedDict"):
        SafeUnpickler(io.BytesIO(content), {}).load()


def test_persistent_ids_are_refused_unless_resolved():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "storage 7" if value is Ellipsis else None

    file = io.BytesIO()
    Pickler(file).dump([...])
    with pytest.raises(UnsafePickleError, match="refused a persistent id"):
        SafeUnpickler(io.BytesIO(file.getvalue()), {}).load()
    assert SafeUnpickler(io.BytesIO(file.getvalue()), {}, persistent_load=str.upper).load() == ["STORAGE 7"]


def attacks(marker: Path) -> dict[str, tuple[object, str]]:
    """Objects whose plain unpickling creates the marker, and the name by which each must be refused."""
    shell, python = Attack(os.system, f"touch {marker}"), Attack(eval, f"open({str(marker)!r}, 'w')")
    return {
        "os.system": (shell, r"(posix|nt)\.system"),
        "eval": (python, r"(builtins|__builtin__)\.eval"),
        "among the arrays": ({"images": np.zeros(2), "labels": [1, {"deep": (shell,)}]}, r"(posix|nt)\.system"),
        "as a key": ({python: 1}, r"(builtins|__builtin__)\.eval"),
        "in the arguments of a harmless call": (Attack(np.dtype, shell), r"(posix|nt)\.system"),
        "in the arguments of a harmful call": (Attack(eval, shell), r"(builtins|__builtin__)\.eval"),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", attacks(Path()))
def test_attacks_are_refused_by_name_and_nothing_runs(kind, protocol, tmp_path):
    marker = tmp_path / "ran"
    attack, name = attacks(marker)[kind]
    content = pickle.dumps(attack, protocol)
    with pytest.raises(UnsafePickleError, match=f"the file: refused to load {name}"):
        load(content)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(attacks(marker)["os.system"][0]))
    assert marker.exists()


@pytest.mark.parametrize("name", ["core.multiarray.os", "load", "fromfile", "ndarray.tofile"])
def test_other_names_of_numpy_are_refused(name):
    with pytest.raises(UnsafePickleError, match=f"numpy.{name}"):
        load(b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93.")


def test_a_file_cannot_change_how_the_next_one_is_read():
    # BUILD with a pair sets attributes on whatever lies below it: here the defaults of the function it named.
    tampering = b"\x80\x02c_codecs\nencode\n(N}X\x0c\x00\x00\x00__defaults__(X\x01\x00\x00\x00aX\x01\x00\x00\x00btstb."
    with pytest.raises(ValueError, match="holds a function"):
        load(tampering)
    with pytest.raises(ValueError, match="corrupt"):
        load(b"\x80\x02c_codecs\nencode\n)R.")  # no arguments, so defaults left behind would make it succeed
    with pytest.raises(ValueError, match="corrupt"):
        load(b"\x80\x02cnumpy\ndtype\n(N}X\x05\x00\x00\x00numpyK\x01stb.")


ARRAYS = npst.arrays(
    npst.boolean_dtypes() | npst.integer_dtypes(endianness="?") | npst.floating_dtypes(sizes=(32, 64), endianness="?"),
    npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4),
)


@given(ARRAYS, st.integers(2, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_arrays_survive_every_protocol(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    content = load(pickle.dumps({"a": array, "list": [array.flat[0], 3]}, protocol))
    assert content["a"].dtype == array.dtype
    np.testing.assert_array_equal(content["a"], array)
    np.testing.assert_array_equal(content["list"][0], array.flat[0])
    assert content["list"][1] == 3


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["text"]), np.array(["2026"], "M8[Y]"), np.zeros(2, "i4,f4")]
)
def test_other_dtypes_are_refused(array):
    with pytest.raises(ValueError, match=r"dtype .* are not read"):
        load(pickle.dumps({"a": array}))


@given(st.data())
def test_truncated_files_are_reported(data):
    content = pickle.dumps({"images": np.arange(100, dtype=np.uint8), "labels": [1, 2]}, data.draw(st.integers(2, 4)))
    with pytest.raises(ValueError, match="the file is truncated or corrupt"):
        load(content[: data.draw(st.integers(0, len(content) - 1))])


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04", b"<html>404</html>", b"\x80\x02."])
def test_other_kinds_of_files_are_reported(content):
    with pytest.raises(ValueError, match="the file is truncated or corrupt"):
        load(content)


def test_something_other_than_a_dictionary_is_reported():
    with pytest.raises(ValueError, match="the file holds a list, and a dictionary was expected"):
        load(pickle.dumps([1, 2]))
