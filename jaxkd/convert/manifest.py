"""What is known of weights beside their numbers: network, classes, normalisation, and where they are from.

A saved model has it in its manifest, a safetensors file in its metadata, published files are known by their hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxkd.convert.architectures import synonyms
from jaxkd.convert.identify import named
from jaxkd.convert.weights import weights_sha256
from jaxkd.formats.files import ConversionError, brief
from jaxkd.types import IMAGENET_NORMALIZATION, Normalization

_AGAIN = "write the file again by to_torch"

MAX_SIDE = 2048
"""Pixels a side that the options in a file may ask for."""

MAX_BLOCKS = 64
"""The most blocks that a file can ask for by an option: they are made before it is known whether it fits them."""

MAX_IN_NAME = 2000
"""The largest number in the name of a network that a file can ask for, likewise: resnet1202 is one."""

MAX_WIDTH = 2**14
"""The largest number of any other option of a file."""


class Source(NamedTuple):
    """The file a model's weights came from; `from_torch` and `load` keep it as `model.source`.

    Attributes:
      file: its name.
      sha256: of its content.
      weights_sha256: of the weights as they were loaded, see `weights_sha256`: others mean that the model was trained
        since.
      matched: what was left off, renamed or replaced to load them, in words; empty where nothing was.
    """

    file: str
    sha256: str
    weights_sha256: str
    matched: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the fields; `matched` only where it says something."""
        return {field: value for field, value in self._asdict().items() if value or field != "matched"}

    @classmethod
    def from_json(cls, fields: Mapping[str, str]) -> Source:
        """Return what `to_json` described.

        Raises:
          KeyError: a field is missing.
        """
        return cls(fields["file"], fields["sha256"], fields["weights_sha256"], fields.get("matched", ""))


def describe(model: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the manifest of a model, as JSON values.

    Args:
      model: made by `models.create`, `from_torch` or `load`.
      weights: its state dict.

    Returns:
      `architecture`, `options` and `num_classes`, with which `models.create` makes the network; `normalization`, the
      `mean` and `std` its images are normalised with, or None; `resize_to`, where it is set; `weights_sha256`;
      `source`, the `file` the weights came from, its `sha256`, how it was `matched` where that is not plain, and
      whether the network was `trained_since`, or None for a network made here.

    Raises:
      ValueError: nobody could make the network again.

    Example:
      >>> from jaxkd import models
      >>> manifest = describe(models.create("resnet8", num_classes=10), {})
      >>> manifest["architecture"], manifest["num_classes"], manifest["normalization"], manifest["source"]
      ('resnet8', 10, None, None)
    """
    if not is_of_the_zoo(model):
        raise ValueError(
            f"a {type(model).__name__} that models.create did not make cannot be made again from its name: "
            "keep its weights with to_torch"
        )
    found, source, normalization = weights_sha256(weights), getattr(model, "source", None), model.normalization
    return {
        "architecture": model.name,
        "options": dict(model.options),
        "num_classes": model.num_classes,
        "normalization": normalization
        and {key: list(map(float, value)) for key, value in normalization._asdict().items()},
        **({"resize_to": side} if (side := getattr(model, "resize_to", None)) else {}),
        "weights_sha256": found,
        "source": source and {**source.to_json(), "trained_since": found != source.weights_sha256},
        "jaxkd": version("jaxkd"),
    }


def is_of_the_zoo(model: Any) -> bool:
    """Return whether `models.create` made a model, which is all that is needed to make it again."""
    return all(hasattr(model, attribute) for attribute in ("name", "num_classes", "options", "normalization"))


def to_strings(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return a manifest as the metadata of a safetensors file: text as it is, anything else in JSON.

    Example:
      >>> to_strings({"architecture": "resnet8", "num_classes": 10, "normalization": None})
      {'format': 'pt', 'architecture': 'resnet8', 'num_classes': '10'}
    """
    flat = {key: value for key, value in manifest.items() if key not in ("normalization", "weights_sha256") and value}
    flat |= manifest.get("normalization") or {}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}
    return {"format": "pt", **texts}  # what other readers look for: the layout is PyTorch's


def normalization_in(metadata: Mapping[str, str], source: str | PathLike[str]) -> Normalization | None:
    """Return the mean and standard deviation in the metadata of a safetensors file, or None if it has neither.

    Raises:
      ConversionError: they are no lists of sensible numbers.

    Example:
      >>> normalization_in({"mean": "[0.5]", "std": "[0.25]"}, "student.safetensors")
      Normalization(mean=(0.5,), std=(0.25,))
    """
    if not {"mean", "std"} & metadata.keys():
        return None
    try:
        mean, std = (json.loads(metadata[key]) for key in ("mean", "std"))
    except (KeyError, ValueError, RecursionError):
        mean = std = None
    return checked_normalization(mean, std, source)


class Stated(NamedTuple):
    """A network of the zoo as a file names it.

    Attributes:
      name: as `models.create` takes it.
      options: likewise, those that were given before the file's.
      resize_to: height and width that it resizes images to, or None.
    """

    name: str
    options: dict[str, Any]
    resize_to: int | None


def stated_in(
    metadata: Mapping[str, str],
    source: str | PathLike[str],
    name: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Stated | None:
    """Return the network that the metadata of a safetensors file names; None where that is none of the zoo.

    Args:
      metadata: of the file.
      source: the file, for errors.
      name: the network that is wanted. None takes any; another than the file's leaves aside what the file says.
      given: options that come before the file's.

    Raises:
      ConversionError: its options are no JSON object of plain values and lists of these, no network of its name can be
        made with them, or `resize_to` is no number of pixels.

    Example:
      >>> metadata = {"architecture": "resnet8", "options": '{"channels": 1}', "jaxkd": "0.1.0"}
      >>> stated_in(metadata, "student.safetensors")
      Stated(name='resnet8', options={'channels': 1}, resize_to=None)
    """
    stated = metadata.get("architecture")
    if stated is None or name not in (None, stated, *synonyms(stated)) or not _is_known(stated):
        return None
    if "jaxkd" not in metadata:  # another program's, whose options are not ours
        return Stated(stated, dict(given), None)
    found = _json_in(metadata, "options", {}, source)
    if not isinstance(found, dict):
        raise ConversionError(source, f"its options are {brief(str(found))}, and must be an object: {_AGAIN}")
    own = {option: _checked_option(option, value, source) for option, value in found.items() if option not in given}
    options = {**own, **given}
    try:
        named(stated, options)
    # Options from an untrusted file can make any part of a network fail in any way.
    except Exception as error:
        if not own:
            raise
        raise ConversionError(
            source, f"its options {brief(str(own))} make no {stated} ({brief(str(error))}): {_AGAIN}"
        ) from error
    return Stated(stated, options, checked_side(_json_in(metadata, "resize_to", None, source), source))


def _is_known(name: str) -> bool:
    if any(len(number) > 4 or int(number) > MAX_IN_NAME for number in re.findall(r"\d+", name)):
        return False  # its blocks would be built before any weight is compared
    try:
        named(name)
    except Exception:  # another zoo's, or anything a stranger wrote
        return False
    return True


def _checked_option(name: str, value: Any, source: str | PathLike[str]) -> Any:
    """Check an option from a file, and return it as `models.create` takes it."""
    values = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, bool | str) or _is_number(one) for one in values):
        raise ConversionError(source, f"its option {brief(name)} is {brief(str(value))}, and must be plain: {_AGAIN}")
    if name in ("image_size", "channels") and not _is_side(value):
        raise ConversionError(source, f"its {name} is {brief(str(value))}, and must be a whole number: {_AGAIN}")
    if name == "image_size" and value > MAX_SIDE:  # positions may be computed for it before any weight is compared
        raise ConversionError(source, f"its image_size is {value}, more than {MAX_SIDE}: give image_size= yourself")
    if any(_is_number(one) and one > MAX_WIDTH for one in values):  # likewise
        reason = f"its {name} is {brief(str(value))}, more than {MAX_WIDTH}: give {name}= yourself"
        raise ConversionError(source, reason)
    if name in ("depth", "depths") and not sum(filter(_is_number, values)) <= MAX_BLOCKS:
        raise ConversionError(
            source,
            f"its {name} is {brief(str(value))}, more than the {MAX_BLOCKS} blocks that a file can ask for: give "
            f"{name}= yourself",
        )
    return tuple(values) if isinstance(value, list) else value


def _json_in(metadata: Mapping[str, str], key: str, default: Any, source: str | PathLike[str]) -> Any:
    try:
        return json.loads(metadata[key]) if key in metadata else default
    except (ValueError, RecursionError) as error:
        raise ConversionError(source, f"its {key} cannot be read ({brief(str(error))}): {_AGAIN}") from error


def checked_normalization(mean: Any, std: Any, source: str | PathLike[str]) -> Normalization:
    """Check mean and standard deviation from a file.

    Raises:
      ConversionError: they are no lists of as many finite numbers, or a deviation is not positive.
    """
    cure = "say what images are normalised with, by normalization=Normalization(mean, std) or --mean and --std"
    lists = isinstance(mean, list) and isinstance(std, list) and 1 <= len(mean) == len(std) <= 4096
    if not lists or not all(_is_number(value) for value in [*mean, *std]):
        raise ConversionError(source, f"its mean and std are no lists of numbers, one per channel; {cure}")
    if min(std) <= 0:
        raise ConversionError(source, f"its std is {brief(str(std))}, and must be above 0; {cure}")
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))


def checked_side(side: Any, source: str | PathLike[str]) -> int | None:
    """Return the height and width that images are resized to, or None; raise a ConversionError for anything else."""
    if side is not None and not _is_side(side):
        raise ConversionError(source, f"its resize_to is {brief(str(side))}, and must be a number of pixels")
    return side


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**15


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # false for NaN, too


_CIFAR100 = Normalization(mean=(0.507, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))

PUBLISHED = {
    # akamaster/pytorch_resnet_cifar10: resnet20, resnet32, resnet56
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8": IMAGENET_NORMALIZATION,
    "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850": IMAGENET_NORMALIZATION,
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367": IMAGENET_NORMALIZATION,
    # chenyaofo/pytorch-cifar-models, CIFAR-100: resnet20, resnet32, resnet56
    "0d7818eb35f95925455f13e548a72cfd79faf9174e293faefba0dd56cef1e164": _CIFAR100,
    "e36a0629e178095b7747a0ae937c1ca19a2a1adf4a74f3a93eb7c18a4a3e9c90": _CIFAR100,
    "f7e590a0e2fe80795aaeb7c5c75f53bd1050a2161c8e53e523ce2835fffd52e2": _CIFAR100,
}
"""What the images of published files were normalised with, by the SHA-256 of the file; inside it is written nowhere."""
