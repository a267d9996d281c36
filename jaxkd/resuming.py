"""Going on with a run that ended early: from which checkpoints, and with which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxkd.callbacks import Callback, Checkpoint
from jaxkd.run import Run


def take_up(run: Run, resume: str | None, callbacks: Sequence[Callback], verbose: bool) -> None:
    """Takes up what the run's own checkpoints hold, if it is asked to and there are any.

    Args:
      run: compiled.
      resume: as `fit` takes it.
      callbacks: of the run.
      verbose: whether to say where it goes on.

    Raises:
      ValueError: for an unknown `resume`; where it is not clear which checkpoints are meant; where those in the run's
        directory are from further on than the run, so that its own would be taken for older ones.
    """
    places = [callback.directory for callback in callbacks if isinstance(callback, Checkpoint)]
    if resume not in (None, "auto"):
        raise ValueError(f'resume={resume!r}: give "auto", or None to train from the present state')
    if resume and len(places) != 1:
        raise ValueError(f'resume="auto" goes on from a Checkpoint\'s directory, and there are {len(places)} of them')
    if not places:
        return
    from jaxkd.training import checkpoint  # orbax is slow to import, and many runs save nothing

    if resume and checkpoint.latest(places[0]) is not None:
        run.restore(places[0])
        if verbose and jax.process_index() == 0:
            state = run.compiled_state()
            print(f"going on after epoch {int(state.epoch)} and step {int(state.step)}, from {places[0]}", flush=True)
    for place in places:
        checkpoint.check_behind(place, run.compiled_state())


def check_same_batches(resumed: Mapping[str, Any] | None, examples: int | None, batch_size: int) -> None:
    """Refuses to go on within an epoch that was cut into other batches.

    Args:
      resumed: the record of the epoch, if there is one.
      examples: of the data; None where that is not known.
      batch_size: over all devices.

    Raises:
      ValueError: it says what the batches were.
    """
    if resumed is None or examples is None:
        return
    steps, images = (resumed["meter"][name] for name in ("steps", "images"))
    if images != min(steps * batch_size, examples):
        raise ValueError(
            f"batch_size={batch_size} of {examples} examples, but the restored epoch was broken off after {images} in "
            f"{steps} steps: go on with the same batch size and data"
        )
