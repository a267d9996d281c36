"""Saving and restoring a run with orbax: one folder per checkpoint, which appears when it is complete.

    directory/12/          after twelve epochs
    directory/partial/9800/  in the middle of an epoch, after 9800 steps; it goes when the epoch is complete
    directory/15.damaged/  what could not be read when a run went on from one before; nothing reads it any more

A checkpoint says what it holds, with a checksum for each array, so that a damaged one is noticed.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxkd.checks import warn_caller
from jaxkd.training.state import TrainState

PARTIAL = "partial"
"""The folder of checkpoints from the middle of an epoch."""

ASIDE = ".damaged"
"""The end of the names of damaged checkpoints that a run has gone on without."""


class DamagedError(OSError):
    """A checkpoint is not what was written."""


def save(directory: str | os.PathLike[str], state: TrainState, record: dict[str, Any], keep: int = 1) -> epath.Path:
    """Write a checkpoint, and then remove those it supersedes.

    All processes of a run call it together.

    Args:
      directory: made if it does not exist.
      state: everything but the teacher is saved.
      record: JSON-able facts that travel with it. `running` is that of the epoch under way, None between epochs.
      keep: how many checkpoints of complete epochs stay, at least 1.

    Returns:
      The folder that was written.

    Raises:
      FloatingPointError: a parameter is not finite: nothing is written, and the last good checkpoint stays.
      OSError: it cannot be written.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: must be at least 1")
    root = _root(directory)
    between = record["running"] is None
    number = int(state.epoch) if between else int(state.step)
    _check_finite(state, root)
    arrays = {name: [*_kind(leaf), _crc(leaf)] for name, leaf in _leaves(state)}
    content = {**record, "epoch": int(state.epoch), "arrays": arrays}
    folder = root if between else root / PARTIAL
    # All have to do the same; a network's file system may show one of them what is not there yet for another, and
    # their histories have speeds of their own.
    held = _of_the_first((folder / str(number)).exists()) and _of_the_first(_holds(folder / str(number), content))
    if held:  # replacing it would be a moment without it
        if between:
            _remove_later(root, number)
        return folder / str(number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        later = sum(int(one.name) > number for one in _numbered(folder))  # which are removed below
        newest = ocp.training.preservation_policies.LatestN(keep + later if between else 1)
        with ocp.training.Checkpointer(
            folder, preservation_policy=newest, cleanup_tmp_directories=True
        ) as checkpointer:
            metadata = {"content": content, "checksum": _checksum(content)}
            checkpointer.save(number, state.without_teacher(), force=True, overwrite=True, custom_metadata=metadata)
        if between:
            if jax.process_index() == 0:
                (root / PARTIAL).rmtree(missing_ok=True)
            _remove_later(root, number)
    except Exception as error:  # the layers below wrap what the system said in errors of many types
        raise _write_error(root, error) from error
    return folder / str(number)


def restore(directory: str | os.PathLike[str], like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Read the newest good checkpoint of a directory into the shapes and places of `like`, whose teacher is kept.

    Warns:
      UserWarning: of damaged ones, which are passed over.

    Raises:
      FileNotFoundError: where there is none.
      DamagedError: where none is good.
      ValueError: if it belongs to another network, loss or optimizer.
    """
    root = _root(directory)
    found = _newest_first(root)
    if not found:
        raise FileNotFoundError(f"no checkpoint in {root}: give a directory that Checkpoint or save() wrote to")
    for folder in found:
        try:
            return _read(folder, like)
        except DamagedError as error:
            warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
    raise DamagedError(f"no checkpoint in {root} can be read: start again in another directory")


def warn_of_other_settings(
    directory: str | os.PathLike[str],
    given: TrainState,
    there: TrainState,
    constants: Callable[[TrainState], Mapping[str, np.ndarray]],
) -> None:
    """Warn of what a run was compiled with, and does not heed once it goes on from a checkpoint.

    Args:
      directory: of the checkpoint.
      given: the state of the run as it was compiled.
      there: the state in the checkpoint.
      constants: returns the constants of the losses in a state, by name.
    """
    if _crc(given.key) != _crc(there.key):
        own, kept = _seed(given.key), _seed(there.key)
        warn_caller(
            f"the run in {directory} has {kept}, and compile was given {own}: {kept} stays, and what comes out is that "
            f"run's. Give a run with {own} another directory, or compile once more after restore to start from its "
            "weights"
        )
    compiled = constants(given)
    for name, value in constants(there).items():
        if not np.array_equal(value, compiled[name], equal_nan=True):
            warn_caller(
                f"{name} is {value} in the checkpoint, and {compiled[name]} in the losses that compile was given: "
                f"{value} stays. Compile with that, or once more after restore, to start from its weights"
            )


def check_behind(directory: str | os.PathLike[str], state: TrainState) -> None:
    """Refuse a directory with checkpoints from further on than a state: its own would be taken for older ones.

    Damaged ones, which no run can go on from, are renamed.

    Warns:
      UserWarning: of each that is renamed.

    Raises:
      ValueError: with the cure.
    """
    root = _root(directory)
    ahead = [folder for folder in _numbered(root) if int(folder.name) > int(state.epoch)]
    ahead += [folder for folder in _numbered(root / PARTIAL) if int(folder.name) > int(state.step)]
    good = [folder for folder in ahead if not _is_damaged(folder, state)]
    if good:
        raise ValueError(
            f'{good[0]} is from further on than this run: go on from there with resume="auto", or give Checkpoint '
            "another directory"
        )
    if ahead and jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxkd: damaged checkpoints were read")
    for folder in ahead if jax.process_index() == 0 else []:
        aside = folder.with_name(folder.name + ASIDE)
        aside.rmtree(missing_ok=True)
        folder.rename(aside)
        warn_caller(
            f"the checkpoint {folder} is damaged, and from further on than this run: it is now {aside}, which nothing "
            "reads; delete it at will"
        )


def latest(directory: str | os.PathLike[str]) -> epath.Path | None:
    """Return the newest complete checkpoint in a directory, None where there is none."""
    return next(iter(_newest_first(_root(directory))), None)


def is_begun(directory: str | os.PathLike[str]) -> bool:
    """Return whether a directory has a checkpoint to go on from, which all processes of a run have to see.

    Raises:
      OSError: they see different ones.
    """
    found = latest(directory)
    if jax.process_count() > 1:
        own = np.array([zlib.crc32(str(found and found.relative_to(_root(directory))).encode())], np.uint32)
        seen = multihost_utils.process_allgather(own)
        if (seen != seen[0]).any():
            raise OSError(
                f"the processes of this run see different checkpoints in {directory}, this one "
                f"{'none' if found is None else found.name}: give a folder that all of them share"
            )
    return found is not None


def _of_the_first(answer: bool) -> bool:
    """Return what the first of several processes answers."""
    return answer if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def _is_damaged(folder: epath.Path, like: TrainState) -> bool:
    try:
        _read(folder, like)
    except DamagedError as error:  # or this process could not read what may be good
        return not isinstance(error.__cause__, PermissionError | MemoryError | jax.errors.JaxRuntimeError)
    except ValueError:  # another run's
        return False
    return False


def _holds(folder: epath.Path, content: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is of the very same state."""
    try:
        there = _metadata(folder)
    except DamagedError:
        return False
    # As text, since NaN is no NaN's equal.
    return all(_text(there.get(name)) == _text(content.get(name)) for name in ("arrays", "epoch", "running", "history"))


def _remove_later(root: epath.Path, epoch: int) -> None:
    """Remove checkpoints of later epochs than the one that was saved last, which is what `restore` is to read."""
    for folder in _numbered(root) if jax.process_index() == 0 else []:
        if int(folder.name) > epoch:
            folder.rmtree()
    if jax.process_count() > 1:  # none may read what another is about to remove
        multihost_utils.sync_global_devices("jaxkd: later checkpoints are removed")


def _root(directory: str | os.PathLike[str]) -> epath.Path:
    place = epath.Path(directory)
    return place if "://" in os.fspath(directory) else place.expanduser().resolve()


def _newest_first(root: epath.Path) -> list[epath.Path]:
    """Return all checkpoints; one within an epoch comes after those of later epochs, of which it may be left over."""
    whole = _numbered(root)
    completed = int(whole[0].name) if whole else 0
    within = [(_epoch_of(folder, completed), folder) for folder in _numbered(root / PARTIAL)]
    found = [*within, *((int(folder.name), folder) for folder in whole)]
    return [folder for _, folder in sorted(found, key=lambda one: one[0], reverse=True)]  # stable: then what came after


def _epoch_of(folder: epath.Path, otherwise: int) -> int:
    try:
        return _metadata(folder)["epoch"]
    except DamagedError:  # reading it will say so
        return otherwise


def _numbered(root: epath.Path) -> list[epath.Path]:
    entries = [entry for entry in root.iterdir() if entry.name.isdigit()] if root.is_dir() else []
    return sorted(entries, key=lambda entry: int(entry.name), reverse=True)


def _metadata(folder: epath.Path) -> dict[str, Any]:
    """Return the record of a checkpoint, checked."""
    try:
        with ocp.training.Checkpointer(folder.parent) as checkpointer:
            metadata = dict(checkpointer.metadata(int(folder.name)).custom_metadata)
        content = metadata["content"]
        if metadata["checksum"] != _checksum(content):
            raise ValueError("its record is not what was written")
    except Exception as error:  # whatever a damaged file leads to
        raise DamagedError(f"the checkpoint {folder} is damaged ({_first_line(error)})") from error
    return content


def _read(folder: epath.Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    record = _metadata(folder)
    written = record.pop("arrays")
    _check_fit(folder, written, {name: _kind(leaf) for name, leaf in _leaves(like)})
    try:
        with ocp.training.Checkpointer(folder.parent) as checkpointer:
            state = checkpointer.load(int(folder.name), jax.tree.map(_abstract, like.without_teacher()))
        changed = [name for name, leaf in _leaves(state) if _crc(leaf) != written[name][2]]
        if changed:
            raise ValueError(f"{changed[0]} is not what was written")
    except Exception as error:
        raise DamagedError(f"the checkpoint {folder} is damaged ({_first_line(error)})") from error
    return replace(state, teacher=like.teacher), record


def _check_fit(folder: epath.Path, written: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]) -> None:
    """Raise a ValueError that names what differs between a checkpoint and the run that is to be restored."""
    differences = [
        *(f"{name} is {written[name][:2]} there and {kind} here" for name, kind in wanted.items()
          if name in written and written[name][:2] != kind),
        *(f"{name} is not in it" for name in wanted if name not in written),
        *(f"{name} is only in it" for name in written if name not in wanted),
    ]  # fmt: skip
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        earlier = all(one.endswith(".rate_factor is not in it") for one in differences)
        cure = "compile with the network, losses and optimizer it was saved with"
        cure = "it was saved by an earlier version, which can go on with it" if earlier else cure
        raise ValueError(f"{folder} does not fit: {cure}. {shown}")


def _check_finite(state: TrainState, root: epath.Path) -> None:
    diverged = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if not np.isfinite(np.asarray(leaf)).all()
    ]
    if diverged:
        others = f" and {len(diverged) - 1} other parameters are" if len(diverged) > 1 else " is"
        raise FloatingPointError(
            f"{diverged[0]}{others} no longer finite after step {int(state.step)}: nothing is saved, so that the "
            f"checkpoints in {root} stay good. Lower the learning rate or begin with a warm-up, then go on from there"
        )


def _leaves(state: TrainState) -> list[tuple[str, jax.Array]]:
    """Return all arrays that are saved, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(state.without_teacher())
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _kind(leaf: jax.Array) -> list[Any]:
    return [str(leaf.dtype), list(leaf.shape)]


def _crc(leaf: jax.Array) -> int:
    bits = jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return zlib.crc32(np.ascontiguousarray(bits).view(np.uint8).data)


def _seed(key: jax.Array) -> str:
    """Return what a key is in words: its seed, below 2³², where it was made from one."""
    seed = int(np.asarray(jax.random.key_data(key)).flat[-1])
    same = jax.random.key(seed, impl=jax.random.key_impl(key))
    return f"seed={seed}" if _crc(same) == _crc(key) else "a random key of its own"


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(_text(content).encode())


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _write_error(root: epath.Path, error: Exception) -> OSError:
    """Return an error that says what went wrong when writing, what is left and what to do."""
    before = latest(root)
    kept = f"the last complete one is {before}" if before else "there is no earlier one"
    full = "No space left" in str(error) or "disk quota" in str(error).lower()
    cure = "free some space" if full else "give a directory that can be written to"
    code = errno.ENOSPC if full else getattr(error, "errno", None) or errno.EIO
    return OSError(
        code,
        f"the checkpoint could not be written ({_first_line(error)}); {kept}: {cure}, then go on from it",
        str(root),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
