"""The safetensors format: what is written is what is read, and nothing in a header is believed unchecked."""

import itertools
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from in_time import in_time
from seeded import same_weights, seeded
from sweeps import sweep
from torch_bytes import WEIGHTS, same

from jaxkd import Normalization, convert
from jaxkd.convert import ConversionError
from jaxkd.formats import safetensors, torch_writer
from jaxkd.formats.safetensors import MAX_HEADER_BYTES, TYPES
from jaxkd.formats.torch_reader import read, read_contents

HALF = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

arrays = st.sampled_from(list(TYPES.values())).flatmap(
    lambda dtype: npst.arrays(np.uint8, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)).map(
        lambda values: values.astype(dtype)
    )
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.dictionaries(names, arrays, max_size=5), metadata=st.dictionaries(names, names, max_size=3))
def test_round_trip(weights, metadata, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.write(path, weights, metadata)
    contents = read_contents(path)
    assert same(contents.tree, weights)
    assert contents.metadata == metadata
    assert not any(value.flags.writeable for value in contents.tree.values())


def test_special_numbers_keep_their_bits(tmp_path):
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40], np.float32).astype(dtype)
        safetensors.write(tmp_path / "x.safetensors", {"a": values})
        assert read(tmp_path / "x.safetensors")["a"].tobytes() == values.tobytes()


def test_the_content_tells_the_format_not_the_name(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", WEIGHTS)
    (tmp_path / "x.safetensors").rename(tmp_path / "x.pth")
    assert same(read(tmp_path / "x.pth"), WEIGHTS)
    torch_writer.write(tmp_path / "y.safetensors", WEIGHTS)
    assert same(read(tmp_path / "y.safetensors"), WEIGHTS)


def test_tensors_lie_at_multiples_of_their_elements_size(tmp_path):
    weights = {"a": np.ones(3, np.uint8), "b": np.ones(1, np.int64), "c": np.ones(3, np.float16), "d": np.ones(1)}
    safetensors.write(tmp_path / "x.safetensors", weights)
    header, _ = parts((tmp_path / "x.safetensors").read_bytes())
    assert list(header) == list(weights)
    for name, value in weights.items():
        assert header[name]["data_offsets"][0] % value.itemsize == 0
    length = int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0


def test_the_same_weights_give_the_same_bytes_and_no_other_file(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        safetensors.write(tmp_path / folder / "x.safetensors", WEIGHTS, {"format": "pt"})
    assert (tmp_path / "a/x.safetensors").read_bytes() == (tmp_path / "b/x.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.safetensors"]


def test_what_the_format_cannot_hold_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, WEIGHTS)
    with pytest.raises(TypeError, match="cannot hold a of type complex64"):
        safetensors.write(path, {"a": np.ones(3, np.complex64)})
    with pytest.raises(ValueError, match="__metadata__"):
        safetensors.write(path, {"__metadata__": np.ones(3)})
    assert same(read(path), WEIGHTS)


# Models.


def test_a_model_comes_back_with_its_name_and_normalization(tmp_path):
    model = seeded("ResNet14", shortcut="pad")
    model.normalization = HALF
    convert.to_torch(model, tmp_path / "x.safetensors")
    back = convert.from_torch(tmp_path / "x.safetensors")
    assert (back.name, back.num_classes, dict(back.options)) == ("ResNet14", 10, {"shortcut": "pad"})
    assert back.normalization == HALF
    assert same_weights(back, model)
    metadata = read_contents(tmp_path / "x.safetensors").metadata
    assert (metadata["format"], metadata["architecture"], metadata["num_classes"]) == ("pt", "ResNet14", "10")
    assert (json.loads(metadata["mean"]), json.loads(metadata["options"])) == ([0.5] * 3, {"shortcut": "pad"})


def test_a_network_of_ones_own_is_written_without_a_name(tmp_path):
    block = seeded("resnet8").layer1[0]
    convert.to_torch(block, tmp_path / "x.safetensors")
    contents = read_contents(tmp_path / "x.safetensors")
    assert contents.metadata == {"format": "pt"}
    assert same(contents.tree, convert.to_state_dict(block))


def with_metadata(path, model, **metadata):
    safetensors.write(path, convert.to_state_dict(model), metadata)
    return path


@pytest.mark.parametrize("architecture", ["resnet20", "vgg8", "a foreign network", ""])
def test_an_architecture_that_the_keys_contradict_is_not_believed(architecture, tmp_path):
    path = with_metadata(tmp_path / "x.safetensors", seeded("resnet8"), architecture=architecture)
    assert convert.from_torch(path).name == "resnet8"


WITH_OPTIONS = {
    "what no shape shows": ("vit_tiny_patch16_224", {"depth": 1, "heads": 6, "drop_path": 0.1}),
    "other shapes": ("vit_tiny_patch16_224", {"depth": 2, "width": 8, "heads": 1, "image_size": 32, "patch_size": 4}),
    "another's shapes": ("deit_tiny_patch16_224", {"width": 384, "heads": 2, "depth": 1}),
    "lists": ("pit_ti_224", {"widths": (8, 8, 8), "depths": (1, 1, 1), "heads": (1, 2, 2)}),
    "a scale": ("t2t_vit_7", {"width": 8, "depth": 1, "heads": 2, "token_width": 8, "scale": 256**-0.5}),
}


@sweep("case", WITH_OPTIONS, core=["what no shape shows", "lists"])
def test_a_model_comes_back_with_its_options_and_the_size_it_sees(case, tmp_path):
    name, options = WITH_OPTIONS[case]
    model = seeded(name, **options)
    model.resize_to = 64
    convert.to_torch(model, tmp_path / "x.safetensors")
    for wanted in (None, name):
        back = convert.from_torch(tmp_path / "x.safetensors", wanted)
        assert (back.name, back.options, back.resize_to) == (name, model.options, 64)
        assert same_weights(back, model)


def test_options_that_are_given_have_precedence_over_the_file(tmp_path):
    options = {"depth": 1, "width": 8, "heads": 2, "image_size": 32}
    convert.to_torch(seeded("vit_tiny_patch16_224", **options), tmp_path / "x.safetensors")
    back = convert.from_torch(tmp_path / "x.safetensors", image_size=64, heads=4)
    assert dict(back.options) == options | {"image_size": 64, "heads": 4}
    assert back.source.matched == "pos_embed was resized from 2×2 to 4×4"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("options", "{", "its options cannot be read"),
        ("options", "[" * 100_000, "its options cannot be read"),
        ("options", "[1]", "must be an object"),
        ("options", '{"depth": 8}', "make no resnet8 (resnet8 has no option depth"),
        ("options", '{"channels": {}}', "its option channels is {}, and must be plain"),
        ("options", '{"channels": [[3]]}', "must be plain"),
        ("options", '{"channels": NaN}', "must be plain"),
        ("options", '{"channels": "3"}', "its channels is 3, and must be a whole number"),
        ("options", '{"shortcut": 3}', "make no resnet8"),
        ("options", '{"depths": [60, 5]}', "more than the 64 blocks that a file can ask for: give depths= yourself"),
        ("options", '{"width": 100000}', "more than 16384: give width= yourself"),
        ("options", '{"heads": [1, 20000]}', "more than 16384: give heads= yourself"),
        ("options", '{"image_size": 1.5}', "must be a whole number"),
        ("options", '{"image_size": 30000}', "more than 2048: give image_size= yourself"),
        ("resize_to", "0", "must be a number of pixels"),
        ("resize_to", "large", "its resize_to cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused_where_they_would_be_used(key, value, reason, tmp_path):
    said = {"architecture": "resnet8", "jaxkd": "0.1.0", key: value}
    path = with_metadata(tmp_path / "x.safetensors", seeded("resnet8"), **said)
    with in_time(), pytest.raises(ConversionError) as caught:
        convert.from_torch(path)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)
    path = with_metadata(path, seeded("resnet8"), architecture="a foreign network", **{key: value})
    assert convert.from_torch(path).name == "resnet8"


@pytest.mark.parametrize("name", ["wrn_600004_1", "resnet600002x4", "resnet2000000000000000000000"])
def test_a_network_too_deep_to_be_tried_is_none_of_the_zoo(name, tmp_path):
    path = with_metadata(tmp_path / "x.safetensors", seeded("resnet8"), architecture=name, jaxkd="0.1.0")
    with in_time():
        assert convert.from_torch(path).name == "resnet8"


def test_a_normalization_that_is_given_has_precedence_over_the_file(tmp_path):
    path = with_metadata(tmp_path / "x.safetensors", seeded("resnet8"), mean="nonsense", std="[]")
    assert convert.from_torch(path, normalization=HALF).normalization == HALF


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ("0.5", "[0.5]", "no lists of numbers"),
        ("[0.5", "[0.5]", "no lists of numbers"),
        ("[0.5]", None, "no lists of numbers"),
        ("[]", "[]", "no lists of numbers"),
        ("[0.5]", "[0.5, 0.5]", "no lists of numbers"),
        ('["0.5"]', "[0.5]", "no lists of numbers"),
        ("[true]", "[0.5]", "no lists of numbers"),
        ("[NaN]", "[0.5]", "no lists of numbers"),
        ("[Infinity]", "[0.5]", "no lists of numbers"),
        ("[1" + "0" * 400 + "]", "[0.5]", "no lists of numbers"),
        ("[" * 100_000, "[0.5]", "no lists of numbers"),
        ("[0.5]", "[0.0]", "must be above 0"),
        ("[0.5]", "[-1]", "must be above 0"),
    ],
)
def test_a_normalization_that_makes_no_sense_is_refused(mean, std, reason, tmp_path):
    metadata = {"mean": mean} | ({} if std is None else {"std": std})
    path = with_metadata(tmp_path / "x.safetensors", seeded("resnet8"), **metadata)
    with pytest.raises(ConversionError, match=reason) as caught:
        convert.from_torch(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "--mean" in caught.value.reason


# The reference implementation, where it is installed.


def test_the_safetensors_package_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    supported = {key: value for key, value in WEIGHTS.items() if value.dtype != ml_dtypes.bfloat16}
    safetensors.write(tmp_path / "x.safetensors", supported, {"mean": "[0.5]"})
    found = load_file(tmp_path / "x.safetensors")
    assert same({key: found[key] for key in supported}, supported)
    with library.safe_open(tmp_path / "x.safetensors", framework="np") as file:
        assert file.metadata() == {"mean": "[0.5]"}


def test_torch_takes_our_safetensors_file_strictly(tmp_path):
    torch, load_file = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").load_file
    weights = {"weight": np.ones((2, 3, 1, 1), np.float32), "bias": np.zeros(2, np.float32)}
    safetensors.write(tmp_path / "x.safetensors", {**weights, "steps": np.array(7), "flag": np.array(True)})
    found = load_file(tmp_path / "x.safetensors")
    assert (found.pop("steps").item(), found.pop("flag").item()) == (7, True)
    torch.nn.Conv2d(3, 2, 1).load_state_dict(found, strict=True)


def test_we_read_what_the_safetensors_package_writes(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file(WEIGHTS, tmp_path / "x.safetensors", {"format": "pt"})
    contents = read_contents(tmp_path / "x.safetensors")
    assert same({key: contents.tree[key] for key in WEIGHTS}, WEIGHTS)
    assert contents.metadata == {"format": "pt"}


# Headers from strangers.


def parts(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def written(path: Path, header: bytes | str | dict, numbers: bytes = b"", length: int | None = None) -> Path:
    if isinstance(header, dict):
        header = json.dumps(header)
    header = header.encode() if isinstance(header, str) else header
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + numbers)
    return path


def refusal(path: Path) -> str:
    with in_time(), pytest.raises(ConversionError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    return caught.value.reason


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


TENSORS = {
    "no object": (7, "no dtype, shape and data_offsets"),
    "no dtype": ({"shape": [2], "data_offsets": [0, 8]}, "no dtype, shape and data_offsets"),
    "another field": (entry(strides=[1]), "or more than those"),
    "unknown type": (entry("F8_E4M3"), "is of type 'F8_E4M3'"),
    "type of another kind": (entry(["F32"]), "is of type ['F32']"),
    "type that is deep": (entry(json.loads("[" * 500 + "]" * 500)), "is of type"),
    "wrong type": (entry("F64"), "has 8 bytes in the file"),
    "wrong shape": (entry(shape=[3]), "has 8 bytes in the file"),
    "huge shape": (entry(shape=[2**47, 2**47]), "has 8 bytes in the file"),
    "huger shape": (entry(shape=[2**60]), "no sensible whole numbers"),
    "enormous shape": (entry(shape=[10**4000]), "no sensible whole numbers"),
    "negative shape": (entry(shape=[-2]), "no sensible whole numbers"),
    "fractional shape": (entry(shape=[2.0]), "no sensible whole numbers"),
    "true shape": (entry(shape=[True, 2]), "no sensible whole numbers"),
    "shape no list": (entry() | {"shape": 2}, "no list of up to 32 numbers"),
    "many dimensions": (entry(shape=[1] * 33), "no list of up to 32 numbers"),
    "very many dimensions": (entry(shape=[2**40] * 50_000), "no list of up to 32 numbers"),
    "empty but enormous": (entry(shape=[0, 2**47, 2**47], offsets=[0, 0]), "not a readable"),
    "one offset": (entry(offsets=[8]), "1 data_offsets"),
    "three offsets": (entry(offsets=[0, 4, 8]), "3 data_offsets"),
    "offsets the wrong way": (entry(offsets=[8, 0]), "has -8 bytes in the file"),
    "negative offsets": (entry(offsets=[-8, 0]), "no sensible whole numbers"),
    "offsets beyond the end": (entry(offsets=[8, 16]), "starts at byte 8 where 0 was due"),
    "more than the file": (entry(shape=[4], offsets=[0, 16]), "8 bytes of numbers where the header describes 16"),
    "less than the file": (entry(shape=[1], offsets=[0, 4]), "8 bytes of numbers where the header describes 4"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_the_file_are_refused(case, tmp_path):
    described, reason = TENSORS[case]
    path = written(tmp_path / "x.safetensors", {"a": described}, bytes(8))
    assert reason in refusal(path)


@pytest.mark.parametrize(
    ("first", "second"),
    [([0, 8], [0, 8]), ([0, 8], [4, 12]), ([0, 8], [12, 20]), ([4, 12], [12, 20]), ([0, 16], [4, 8])],
)
def test_tensors_may_neither_overlap_nor_leave_gaps(first, second, tmp_path):
    for order in itertools.permutations({"a": first, "b": second}.items()):
        header = {name: entry("U8", [stop - start], [start, stop]) for name, (start, stop) in order}
        reason = refusal(written(tmp_path / "x.safetensors", header, bytes(20)))
        assert "an overlap or a gap" in reason or "where the header describes" in reason


HEADERS = {
    "empty file": (b"", None),
    "seven bytes": (b"\x00" * 7, None),
    "no header": (bytes(8), "does not begin with {"),
    "half of it": ((9).to_bytes(8, "little") + b'{"a"', "it is truncated"),
    "huge length": ((2**63).to_bytes(8, "little") + b"{}", "it is truncated"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "does not begin with {"),
    "spaces first": ((3).to_bytes(8, "little") + b" {}", "does not begin with {"),
    "no JSON": ((4).to_bytes(8, "little") + b"{a:}", "not a readable"),
    "two objects": ((4).to_bytes(8, "little") + b"{}{}", "not a readable"),
    "no UTF-8": ((7).to_bytes(8, "little") + b'{"\xff":1}', "not a readable"),
    "bytes after": ((2).to_bytes(8, "little") + b"{}abc", "3 bytes of numbers where the header describes 0"),
    "NaN": ((9).to_bytes(8, "little") + b'{"a":NaN}', "NaN in a safetensors header"),
    "many digits": ((5006).to_bytes(8, "little") + b'{"a":' + b"9" * 5000 + b"}", "not a readable"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_none(case, tmp_path):
    content, reason = HEADERS[case]
    (tmp_path / "x.safetensors").write_bytes(content)
    assert (reason or "not a readable") in refusal(tmp_path / "x.safetensors")


def test_keys_may_not_come_twice(tmp_path):
    one = json.dumps(entry())
    assert "the same key twice" in refusal(written(tmp_path / "x.safetensors", f'{{"a":{one},"a":{one}}}', bytes(8)))
    inner = one.replace("{", '{"dtype":"I32",')
    assert "the same key twice" in refusal(written(tmp_path / "x.safetensors", f'{{"a":{inner}}}', bytes(8)))


@pytest.mark.parametrize("metadata", [7, [], "text", {"a": 1}, {"a": {"b": "c"}}, None])
def test_metadata_are_strings(metadata, tmp_path):
    path = written(tmp_path / "x.safetensors", {"__metadata__": metadata, "a": entry()}, bytes(8))
    assert "is no map of strings" in refusal(path)


def test_a_header_of_any_depth_is_refused(tmp_path):
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        deep = opening * 100_000 + "1" + closing * 100_000
        assert "recursion" in refusal(written(tmp_path / "x.safetensors", f'{{"a":{deep}}}'))


def test_a_header_has_a_largest_size(tmp_path):
    largest = b"{" + b" " * (MAX_HEADER_BYTES - 2) + b"}"
    assert read(written(tmp_path / "x.safetensors", largest)) == {}
    assert "more than the 1048576 bytes" in refusal(written(tmp_path / "x.safetensors", b"{ " + largest[1:]))


@pytest.mark.parametrize("filler", ["[],", "{},", '"a",', "1,", '{"a":[]},'])
def test_the_largest_headers_are_parsed_in_time(filler, tmp_path):
    many = (MAX_HEADER_BYTES - 20) // len(filler)
    path = written(tmp_path / "x.safetensors", '{"a":[' + filler * many + "1]}")
    assert "no dtype, shape and data_offsets" in refusal(path)


def test_every_truncation_is_noticed(tmp_path):
    safetensors.write(tmp_path / "whole", WEIGHTS)
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "x.safetensors").write_bytes(whole[:length])
        refusal(tmp_path / "x.safetensors")
