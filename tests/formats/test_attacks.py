"""Known pickle attacks: each is refused by the name of what it asks for, however it is spelled, and nothing runs."""

import io
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
from pickle_attacks import ATTACKS
from torch_bytes import (
    WEIGHTS,
    call,
    dict_of,
    name,
    number,
    program,
    refusal,
    same,
    text,
    tuple_of,
    write_legacy,
    write_zip,
)

from jaxkd.formats import torch_writer
from jaxkd.formats.torch_reader import MAGIC_NUMBER, read
from jaxkd.formats.unpickler import load


def stacked(module: str, attribute: str) -> bytes:
    """The global as protocol 4 spells it, dots in its name included."""
    return text(module) + text(attribute) + b"\x93"


def instance(module: str, attribute: str, arguments: bytes) -> bytes:
    """The call as protocol 0 spells it."""
    return b"(" + arguments + b"i" + f"{module}\n{attribute}\n".encode()


SPELLINGS = {
    "GLOBAL, REDUCE": lambda module, attribute, arguments: call(name(module, attribute), arguments),
    "STACK_GLOBAL, REDUCE": lambda module, attribute, arguments: call(stacked(module, attribute), arguments),
    "GLOBAL, NEWOBJ": lambda module, attribute, arguments: name(module, attribute) + tuple_of(arguments) + b"\x81",
    "GLOBAL, NEWOBJ_EX": lambda module, attribute, arguments: (
        name(module, attribute) + tuple_of(arguments) + b"}\x92"
    ),
    "GLOBAL, OBJ": lambda module, attribute, arguments: b"(" + name(module, attribute) + arguments + b"o",
    "INST": instance,
    "memoized text": lambda module, attribute, arguments: call(
        text(module) + b"\x94" + text(attribute) + b"\x9400h\x00h\x01\x93", arguments
    ),
    "only named": lambda module, attribute, _: name(module, attribute),
    "named and dropped": lambda module, attribute, _: name(module, attribute) + b"0N",
    "in the state of an object": lambda module, attribute, arguments: (
        call(name("collections", "OrderedDict")) + call(name(module, attribute), arguments) + b"b"
    ),
    "in a persistent id": lambda module, attribute, arguments: call(name(module, attribute), arguments) + b"Q",
    "in a key": lambda module, attribute, arguments: b"}" + call(name(module, attribute), arguments) + b"Ns",
}  # fmt: skip


def test_the_table_is_long_and_names_nothing_twice():
    assert len(ATTACKS) == len(set(ATTACKS))
    assert len(ATTACKS) > 400


@pytest.mark.parametrize(("module", "attribute"), ATTACKS, ids=[".".join(attack) for attack in ATTACKS])
def test_attacks_are_refused_by_name_and_do_not_run(module, attribute, tmp_path):
    canary = tmp_path / "canary"
    arguments = text(f"touch {canary}")
    before = set(sys.modules)
    for number_of_file, spelling in enumerate(SPELLINGS):
        pickled = program(dict_of(state_dict=SPELLINGS[spelling](module, attribute, arguments)))
        path = tmp_path / f"{number_of_file}.pth"
        write_zip(path, pickled) if number_of_file % 2 else write_legacy(path, pickled, [])
        assert f"refused to load {module}.{attribute}:" in refusal(path).reason, spelling
    assert not canary.exists()
    imported = {module for module in set(sys.modules) - before if not module.startswith("encodings")}
    assert not imported, "nothing is imported, not even to look at it"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("new_format", [True, False])
def test_every_spelling_is_refused_in_both_formats(spelling, new_format, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    pickled = program(SPELLINGS[spelling]("os", "system", text(f"touch {canary}")))
    write_zip(path, pickled) if new_format else write_legacy(path, pickled, [])
    assert "refused to load os.system:" in refusal(path).reason
    assert not canary.exists()


def test_a_real_pickle_with_a_reducer_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = write_zip(tmp_path / "x.pth", pickle.dumps({"state_dict": Evil()}, protocol))
        module = "__builtin__" if protocol < 3 else "builtins"
        assert f"refused to load {module}.exec:" in refusal(path).reason
    assert not (tmp_path / "canary").exists()


# Other ways in.


@pytest.mark.parametrize("attribute", ["__reduce__", "__class__", "fromkeys.__self__", "__init__.__globals__"])
def test_attributes_of_harmless_names_are_out_of_reach(attribute, tmp_path):
    """Protocol 4 allows dots in a name; `OrderedDict` is on the list of harmless ones, its attributes are not."""
    for spelled in (
        stacked("collections", f"OrderedDict.{attribute}"),
        name("collections", f"OrderedDict.{attribute}"),
    ):
        path = write_zip(tmp_path / "x", program(spelled + b")R"))
        assert f"refused to load collections.OrderedDict.{attribute}:" in refusal(path).reason
    path = write_zip(tmp_path / "x", program(stacked("torch._utils", "os.system") + tuple_of(text("true")) + b"R"))
    assert "refused to load torch._utils.os.system:" in refusal(path).reason


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_registered_extensions_are_refused(code, tmp_path):
    """EXT1, EXT2 and EXT4 name a global by a number that `copyreg` knows."""
    assert "the pickle operation EXT" in refusal(write_zip(tmp_path / "x", program(code))).reason


def test_names_with_line_breaks_blanks_and_other_letters_are_no_way_around(tmp_path):
    for module, attribute in (("os\x0b", "system"), ("os ", "system"), (" os", "system"), ("ｏｓ", "system")):
        assert "refused to load" in refusal(write_zip(tmp_path / "x", program(stacked(module, attribute)))).reason
    assert "refused to load" in refusal(write_zip(tmp_path / "x", program(b"cos\r\nsystem\n"))).reason


def test_a_second_pickle_after_the_first_is_refused(tmp_path):
    """Some readers go on after STOP, some scanners do not."""
    evil = program(call(name("os", "system"), text(f"touch {tmp_path / 'canary'}")))
    harmless = program(dict_of(epoch=number(3)))
    assert "bytes after the end of the pickle" in refusal(write_zip(tmp_path / "x", harmless + evil)).reason
    path = write_legacy(tmp_path / "y", harmless + evil, [])
    assert "refused to load os.system" in refusal(path).reason
    assert not (tmp_path / "canary").exists()


def test_attacks_in_the_headers_of_old_files_are_refused(tmp_path):
    path = tmp_path / "evil.pth"
    for position in range(5):
        parts = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, 1001, {}, {}, [])]
        parts[position] = program(call(name("os", "system"), text(f"touch {tmp_path / 'canary'}")))
        path.write_bytes(b"".join(parts))
        assert "refused to load os.system:" in refusal(path).reason
    assert not (tmp_path / "canary").exists()


def test_a_zip_with_two_pickles_is_refused(tmp_path):
    """Which of two records of one name is read differs from reader to reader."""
    harmless, evil = program(dict_of(epoch=number(3))), program(name("os", "system"))
    for first, second in (("data.pkl", "data.pkl"), ("a/data.pkl", "a/data.pkl"), ("a/data.pkl", "b/data.pkl")):
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr(first, harmless)
            archive.writestr(second, evil)
        reason = refusal(tmp_path / "x.pth").reason
        assert "two records of the same name" in reason or "2 data.pkl records instead of one" in reason


def test_two_storages_of_one_name_are_refused(tmp_path):
    torch_writer.write(tmp_path / "x.pth", WEIGHTS)
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", bytes(54 * 4))
    assert "two records of the same name" in refusal(tmp_path / "x.pth").reason


def test_a_record_whose_own_header_has_another_name_is_refused(tmp_path):
    """The directory at the end of an archive and the records themselves each say what a record is called."""
    torch_writer.write(tmp_path / "x.pth", WEIGHTS)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content.replace(b"archive/data.pkl", b"another/data.pkl", 1))
    assert "differ" in refusal(tmp_path / "x.pth").reason


@pytest.mark.parametrize("record", ["version", "byteorder", ".data/serialization_id", "code/__torch__.py", "data/evil"])
def test_pickles_in_other_records_are_never_run(record, tmp_path):
    evil = program(call(name("os", "system"), text(f"touch {tmp_path / 'canary'}")))
    path = write_zip(tmp_path / "x", program(dict_of(epoch=number(3))), {record: evil})
    if record == "byteorder":
        assert "instead of at most 16" in refusal(path).reason
    else:
        assert read(path) == {"epoch": 3}
    assert not (tmp_path / "canary").exists()


def test_torchscript_archives_are_named_for_what_they_are(tmp_path):
    path = write_zip(tmp_path / "x", program(b"N"), {"constants.pkl": program(b"N"), "code/__torch__.py": b"import os"})
    assert "a TorchScript archive, which holds a program; save the model's state_dict() instead" in refusal(path).reason
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / "y"))
    assert "a TorchScript archive" in refusal(tmp_path / "y").reason


def test_whole_modules_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for new_format in (True, False):
        torch.save(torch.nn.Linear(2, 3), tmp_path / "x", _use_new_zipfile_serialization=new_format)
        assert "refused to load torch.nn.modules.linear.Linear:" in refusal(tmp_path / "x").reason


def test_pickled_arrays_are_refused(tmp_path):
    path = write_zip(tmp_path / "x", pickle.dumps({"a": np.ones(3)}, 2))
    assert "_reconstruct:" in refusal(path).reason


# Harmless names stay harmless.


def test_harmless_globals_cannot_be_changed(tmp_path):
    """BUILD sets attributes in the standard unpickler; here it would outlive the file."""
    for target in (
        name("collections", "OrderedDict"),
        name("torch._utils", "_rebuild_tensor_v2"),
        name("torch", "Size"),
    ):
        state = tuple_of(b"N", dict_of(__defaults__=tuple_of(number(1)), __doc__=text("changed")))
        refusal(write_zip(tmp_path / "x", program(target + state + b"b")))
    torch_writer.write(tmp_path / "weights.pth", WEIGHTS)
    assert same(read(tmp_path / "weights.pth"), WEIGHTS)


def test_attributes_of_a_state_dict_are_dropped(tmp_path):
    pickled = program(call(name("collections", "OrderedDict")) + dict_of(_metadata=number(1), items=number(2)) + b"b")
    found = read(write_zip(tmp_path / "x", pickled))
    assert vars(found) == {}


def test_nothing_is_allowed_by_default():
    with pytest.raises(ValueError, match=r"refused to load collections\.OrderedDict"):
        load(io.BytesIO(program(name("collections", "OrderedDict"))), {})
