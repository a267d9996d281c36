"""Find weights on the Hugging Face Hub: `hf://user/repo/file`, fetched by its library when such an address is named."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path

from jaxkd.formats.files import ConversionError, brief
from jaxkd.libraries import needed

_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
"""Of what pathlib makes of an address, too: it drops the second slash."""


def is_address(path: str | PathLike[str]) -> bool:
    """Return whether a path means the hub.

    Example:
      >>> is_address("hf://user/repo/student.safetensors"), is_address("student.safetensors")
      (True, False)
    """
    return os.fspath(path).startswith("hf:/")


def local(path: str | PathLike[str]) -> str | PathLike[str]:
    """Return where a file is: an address is fetched into the library's cache, unless it is there; any other path stays.

    Args:
      path: `hf://user/repo/file`, or `hf://user/repo@revision/file` for a branch, a tag or a commit.

    Raises:
      ConversionError: the address names no file, or it cannot be fetched.
      ImportError: the library is not installed.

    Example:
      >>> local("student.safetensors")
      'student.safetensors'
      >>> local("hf://student.safetensors")
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
