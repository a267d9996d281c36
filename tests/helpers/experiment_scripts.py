"""The scripts of `experiments/`, imported as Python finds them when one of them is started."""

import contextlib
import importlib
import pathlib

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@contextlib.contextmanager
def imported(*names):
    """Yield modules by name, with the scripts' own folder on the import path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield {name: importlib.import_module(name) for name in names}
