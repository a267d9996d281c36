"""A run that is interrupted."""

import pytest

from jaxkd import callbacks, records


def broken_off(main, arguments):
    """Run a command that is interrupted after its first epoch."""

    def die(epoch, logs):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        usual = records.RunDirectory.callbacks
        deadly = callbacks.LambdaCallback(on_epoch_end=die)
        patch.setattr(records.RunDirectory, "callbacks", lambda self, **options: [*usual(self, **options), deadly])
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
