"""The environment of a run: versions, devices, machine, code."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

from jaxkd.nn import cpu_kernels

_PARTS = ("written", "command", "versions", "device", "convolutions", "machine", "git")
_PACKAGES = ("jaxkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """Return moment, command line, versions, devices, what computes convolutions, machine, and the user's commit.

    Example:
      >>> sorted(environment())
      ['command', 'convolutions', 'device', 'git', 'machine', 'versions', 'written']
    """
    devices = jax.devices()
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "convolutions": cpu_kernels.describe(),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processors": os.cpu_count()},
        "git": _git(pathlib.Path.cwd()),
    }


def _git(folder: pathlib.Path) -> dict[str, Any] | None:
    """Return the commit of a folder and whether it was changed since; None outside of a git repository."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def environment_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `environment` wrote into a record; in old ones the moment is called `started`.

    Example:
      >>> environment_in({"started": "2026-11-22", "settings": {}})
      {'written': '2026-11-22'}
    """
    found = {name: record.get(name) for name in _PARTS}
    found["written"] = found["written"] or record.get("started")
    return {name: value for name, value in found.items() if value}
