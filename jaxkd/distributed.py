"""Joining several processes, on one machine or many, into one run."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping
from typing import Any

import jax

HEARTBEAT_SECONDS = 30
"""The seconds that a process may be silent before the others end with an error."""

_OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TORCHRUN = ("MASTER_ADDR", "WORLD_SIZE", "RANK")


def initialize() -> None:
    """Join the processes of a run; call it in each of them, before anything else of JAX.

    Who belongs to it is found out: from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; from what
    `torchrun` sets; or by JAX itself on Cloud TPUs, under SLURM, Open MPI and Kubernetes. Every process then runs the
    same program on its part of each batch, the first one writes the records, and the run has one state.

    If one of the processes dies, the others end with an error within a minute.

    Raises:
      ValueError: for variables that contradict each other.
      RuntimeError: nothing says which processes belong to the run, JAX has been used already, or CPUs are to work
        together on a machine that does not find itself by its name.
    """
    _check_own_name()
    found = _from_variables(os.environ)
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        raise RuntimeError(
            "no group of processes was found: start them under SLURM, Open MPI, on a TPU pod or by torchrun, or set "
            f"{', '.join(_OWN)} in each of them ({error})"
        ) from error


def _check_own_name() -> None:
    """Refuse to begin where the processes' network library would end the program, and warn where it might."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        message = (
            f"this machine's own name, {name!r}, does not resolve, by which CPUs find each other: add the line "
            f"'127.0.0.1 {name}' to /etc/hosts, with the machine's address instead where there are several machines"
        )
        if getattr(jax.config, "jax_platforms", None) == "cpu":
            raise RuntimeError(message) from None
        warnings.warn(message, stacklevel=3)


def _from_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize`; none where JAX finds it out itself.

    Example:
      >>> _from_variables({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"})
      {'coordinator_address': 'a:1', 'num_processes': 2, 'process_id': 0}
    """
    for names in (_OWN, _TORCHRUN):
        values = [environment.get(name) for name in names]
        if not any(values[1:]):
            continue
        if missing := [name for name, value in zip(names, values, strict=True) if not value]:
            raise ValueError(f"{', '.join(missing)} is not set: set {', '.join(names)} together")
        address, count, number = (value or "" for value in values)
        if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
            raise ValueError(f"{names[1]}={count!r} and {names[2]}={number!r}: give a count, and a number below it")
        found = {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}
        if names is _TORCHRUN:
            found["coordinator_address"] = f"{address}:{_free_port(environment)}"
            found |= _own_gpu(environment)
        return found
    return {}


def _free_port(environment: Mapping[str, str]) -> int:
    """Return a port for JAX: the one that torchrun names, or the next where torchrun itself listens on that.

    Example:
      >>> _free_port({"MASTER_PORT": "29500"})
      29500
      >>> _free_port({"MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"})
      29501
    """
    port = int(environment.get("MASTER_PORT", "29500"))
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return port
    return port + 1 if port < 65535 else port - 1


def _own_gpu(environment: Mapping[str, str]) -> dict[str, list[int]]:
    """Return which GPU a process that torchrun started is to take, where it is one of several on a machine.

    Example:
      >>> _own_gpu({"LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3"}), _own_gpu({"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"})
      ({'local_device_ids': [3]}, {})
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    sees_one = bool(visible) and "," not in visible
    if environment.get("LOCAL_WORLD_SIZE", "1") == "1" or "LOCAL_RANK" not in environment or sees_one:
        return {}
    return {"local_device_ids": [int(environment["LOCAL_RANK"])]}
