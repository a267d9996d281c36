"""The scripts of `experiments/`, imported as Python finds them when one of them is started."""

import contextlib
import importlib
import pathlib

import pytest

from jaxkd import callbacks, records

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@contextlib.contextmanager
def imported(*names):
    """Yield modules by name, with the scripts' own folder on the import path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        yield {name: importlib.import_module(name) for name in names}


def broken_off(main, arguments):
    """Run a script that is interrupted after its first epoch."""

    def die(epoch, logs):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        usual = records.RunDirectory.callbacks
        deadly = callbacks.LambdaCallback(on_epoch_end=die)
        patch.setattr(records.RunDirectory, "callbacks", lambda self, **options: [*usual(self, **options), deadly])
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
