"""Import the libraries of an extra when they are needed, and keep what they say of themselves out of the way."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any


def needed(module: str, extra: str, purpose: str) -> Any:
    """Return a module of an optional library.

    Args:
      module: as it is imported.
      extra: of this package, which installs it.
      purpose: what it is needed for, as an error begins.

    Raises:
      ImportError: it is not installed, with the command that installs it.

    Example:
      >>> needed("no_such_library", "onnx", "ONNX")
      Traceback (most recent call last):
      ImportError: ONNX needs no_such_library: pip install "jaxkd[onnx]"
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{purpose} needs {error.name}: pip install "jaxkd[{extra}]"') from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back warnings and log lines: exporters tell of parts of themselves that nobody here uses.

    What they write is checked afterwards, so that nothing of consequence is lost with them.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_LINES, _COLUMNS = 3, 300
"""So much of what they said is told after an error: a compiler of theirs says where, in hundreds of long lines."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep back what libraries in C++ write to the standard error of the process; if the block fails, its end is told.

    TensorFlow tells of missing GPUs and instruction sets there, whatever its variables say.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            with quiet():
                yield
        except BaseException:
            said.seek(0)
            for line in said.read().splitlines()[-_LINES:]:
                os.write(before, line[:_COLUMNS] + b"\n")
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
