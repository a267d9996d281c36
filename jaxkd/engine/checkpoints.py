"""Saving and restoring a run with orbax: one atomically written folder per checkpoint, numbered by completed epochs."""

from __future__ import annotations

import os
import pathlib
from dataclasses import replace
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jaxkd.engine.state import TrainState


def save(directory: str | os.PathLike[str], state: TrainState, record: dict[str, Any], keep: int = 1) -> pathlib.Path:
    """Writes `directory/<epochs completed>` and removes all but the newest `keep` checkpoints.

    Args:
      directory: made if it does not exist.
      state: everything but the teacher is saved.
      record: JSON-able facts that travel with it (the history, the normalisation).
      keep: how many checkpoints stay, at least 1.

    Returns:
      The folder that was written.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least one checkpoint has to stay")
    root = pathlib.Path(directory).expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    epoch = int(state.epoch)
    newest = ocp.training.preservation_policies.LatestN(keep)
    with ocp.training.Checkpointer(root, preservation_policy=newest, cleanup_tmp_directories=True) as checkpointer:
        checkpointer.save(epoch, state.without_teacher(), force=True, overwrite=True, custom_metadata=record)
    return root / str(epoch)


def restore(directory: str | os.PathLike[str], like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads the newest checkpoint of a directory into the shapes and places of `like`, whose teacher is kept.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: if it belongs to another network, loss or optimizer.
    """
    root = pathlib.Path(directory).expanduser().resolve()
    if latest(root) is None:
        raise FileNotFoundError(f"no checkpoint in {root}: give a directory that Checkpoint or save() wrote to")
    with ocp.training.Checkpointer(root) as checkpointer:
        number = checkpointer.latest.step
        try:
            state = checkpointer.load(number, jax.tree.map(_abstract, like.without_teacher()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{root / str(number)} does not fit: compile with the network, losses and optimizer it was saved "
                f"with.\n{error}"
            ) from error
        record = checkpointer.metadata(number).custom_metadata
    return replace(state, teacher=like.teacher), dict(record or {})


def latest(directory: str | os.PathLike[str]) -> int | None:
    """The number of epochs of the newest complete checkpoint in a directory, None where there is none."""
    root = pathlib.Path(directory).expanduser()
    numbers = [int(entry.name) for entry in root.iterdir() if entry.name.isdigit()] if root.is_dir() else []
    return max(numbers, default=None)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
