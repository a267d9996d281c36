"""Reading what `torch.save` wrote, without torch, and without running anything the file asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxkd.convert.errors import ConversionError
from jaxkd.convert.legacy_file import read_legacy
from jaxkd.convert.zip_file import read_zip
from jaxkd.safe_pickle import UnsafePickleError


def read(path: str | os.PathLike[str]) -> Any:
    """Reads a `.pth`, `.pt`, `.th` or `.tar` file, in either of PyTorch's formats.

    Args:
      path: the file.

    Returns:
      What was saved: dictionaries, lists, tuples and plain values, with a read-only NumPy array for each tensor
      (bfloat16 ones in JAX's bfloat16). Tensors that shared memory still do. What carries no weights (options, devices)
      is an inert object.

    Raises:
      ConversionError: the file is missing, truncated, corrupt, of another kind, or names a global that is not on the
        list of harmless ones.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from jaxkd.convert import torch_write
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     torch_write.write(Path(folder) / "ones.pth", {"weight": np.ones((2, 3), np.float32)})
      ...     read(Path(folder) / "ones.pth")["weight"].tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    try:
        with Path(path).open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return read_zip(file, file_bytes) if is_zip else read_legacy(file, file_bytes)
    except UnsafePickleError as error:
        raise ConversionError(path, _brief(error)) from error
    except OSError as error:
        raise ConversionError(path, f"cannot be read ({error.strerror or error})") from error
    # A file from a stranger can make any part of the reading fail in any way (struct, zlib, zipfile, NumPy, memory …);
    # whatever it was, the answer to the caller is the same, and the cause stays attached.
    except Exception as error:
        raise ConversionError(path, f"not a readable torch file: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """One line of a message that may quote the file at any length."""
    return " ".join(str(error).split())[:300] or type(error).__name__
