"""Published files: fetch them from the Hugging Face Hub by `hf://user/repo/file`, and know them by their hash.

What a file's network was normalised with is written nowhere inside it.
"""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from jaxkd.formats.files import ConversionError, brief
from jaxkd.libraries import needed
from jaxkd.types import IMAGENET_NORMALIZATION, Normalization

CIFAR100 = Normalization(mean=(0.507, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))


class KnownFile(NamedTuple):
    """A published checkpoint that is recognised by its hash.

    Attributes:
      name: its architecture, as `models.create` knows it.
      source: the repository that published it.
      normalization: what its images were normalised with.
    """

    name: str
    source: str
    normalization: Normalization


_AKAMASTER = "akamaster/pytorch_resnet_cifar10"
_CHENYAOFO = "chenyaofo/pytorch-cifar-models"

_IMAGENET = IMAGENET_NORMALIZATION

PUBLISHED = {
    "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8": KnownFile("resnet20", _AKAMASTER, _IMAGENET),
    "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850": KnownFile("resnet32", _AKAMASTER, _IMAGENET),
    "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367": KnownFile("resnet56", _AKAMASTER, _IMAGENET),
    "0d7818eb35f95925455f13e548a72cfd79faf9174e293faefba0dd56cef1e164": KnownFile("resnet20", _CHENYAOFO, CIFAR100),
    "e36a0629e178095b7747a0ae937c1ca19a2a1adf4a74f3a93eb7c18a4a3e9c90": KnownFile("resnet32", _CHENYAOFO, CIFAR100),
    "f7e590a0e2fe80795aaeb7c5c75f53bd1050a2161c8e53e523ce2835fffd52e2": KnownFile("resnet56", _CHENYAOFO, CIFAR100),
}
"""By the SHA-256 of the file."""


_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
"""An address, also as pathlib writes it: it drops the second slash."""


def is_address(path: str | PathLike[str]) -> bool:
    """Return whether a path means the hub.

    Example:
      >>> is_address("hf://user/repo/student.safetensors"), is_address("student.safetensors")
      (True, False)
    """
    return os.fspath(path).startswith("hf:/")


def fetched(path: str | PathLike[str]) -> str | PathLike[str]:
    """Return where a file is: an address is fetched into the library's cache, unless it is there; any other path stays.

    Args:
      path: `hf://user/repo/file`, or `hf://user/repo@revision/file` for a branch, a tag or a commit.

    Raises:
      ConversionError: the address names no file, or it cannot be fetched.
      ImportError: the library is not installed.

    Example:
      >>> fetched("student.safetensors")
      'student.safetensors'
      >>> fetched("hf://student.safetensors")
      Traceback (most recent call last):
      jaxkd.formats.files.ConversionError: hf://student.safetensors: give hf://user/repo/file, or ...
    """
    if not is_address(path):
        return path
    found = _ADDRESS.fullmatch(os.fspath(path))
    if found is None:
        raise ConversionError(path, "give hf://user/repo/file, or hf://user/repo@revision/file")
    library = needed("huggingface_hub", "hub", "hf://")
    try:
        return Path(
            library.hf_hub_download(found["repo"], found["file"], revision=found["revision"], endpoint=endpoint())
        )
    except Exception as error:  # of the hub, the connection, the disk: each fails in ways of its own
        raise ConversionError(path, f"cannot be fetched from the hub ({brief(str(error))})") from error


def endpoint() -> str | None:
    """Return the address of the hub, `$HF_ENDPOINT`; None means the library's own.

    The library reads it once, when it is imported; here it holds from when it is set.
    """
    return os.environ.get("HF_ENDPOINT")
