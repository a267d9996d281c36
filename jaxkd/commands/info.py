"""Prints what a bug report needs: versions, devices, what computes convolutions, where data and caches are."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxkd import data
from jaxkd.command_line import CommandLine, Help, program
from jaxkd.compilation_cache import user_cache
from jaxkd.nn import cpu_kernels
from jaxkd.records import environment

EXAMPLES = """examples:
  jaxkd info
  for a program to read:
    jaxkd info --json
"""

_INSTALLING = ("test", "docs", "dev", "benchmark", "compilers", "cuda", "tpu")
"""Extras that are for developers or that JAX itself speaks of, by the devices that it finds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes the process's own command line."""
    options = command_line().parse_args(arguments)
    facts = found()
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    for name, value in facts.items():
        print(name, *(f"  {key:16s} {entry}" for key, entry in value.items()), sep="\n")
    return 0


def found() -> dict[str, dict[str, Any]]:
    """Return what there is, by topics."""
    around = environment()
    device = around["device"]
    return {
        "versions": around["versions"],
        "devices": {device["platform"]: f"{device['count']} × {device['kind']}", **_memory()},
        "machine": around["machine"],
        "convolutions": {"by": around["convolutions"]},
        "precision": {"default": "float32", "bfloat16": _bfloat16()},
        "data": {"folder": _data_folder(), "read from there": ", ".join(_from_files()), "without a file": "digits"},
        "caches": caches(),
        "extras": extras(),
    }


def caches() -> dict[str, str]:
    """Return where compiled programs, compiled kernels and files of the hub are kept."""
    cache = user_cache()
    settings: Any = jax.config
    compiled = settings.jax_compilation_cache_dir if settings.jax_enable_compilation_cache else None
    hub = pathlib.Path(os.environ.get("HF_HOME") or cache / "huggingface")
    places = {"kernels": cache / "jaxkd" / "kernels", "hf:// files": hub}
    return {"programs": _place(pathlib.Path(compiled)) if compiled else "off"} | {
        name: _place(path) for name, path in places.items()
    }


def extras() -> dict[str, str]:
    """Return for each extra of the package whether its libraries are installed, and which are not.

    Example:
      >>> extras()["stream"]
      'installed'
    """
    needed: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("jaxkd") or ():
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and extra and extra[1] not in _INSTALLING and name[0] != "jaxkd":
            needed.setdefault(extra[1], []).append(name[0])
    missing = {extra: [name for name in names if not _installed(name)] for extra, names in needed.items()}
    return {
        extra: f'without {", ".join(names)} (pip install "jaxkd[{extra}]")' if names else "installed"
        for extra, names in missing.items()
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _place(path: pathlib.Path) -> str:
    if not path.is_dir():
        return f"{path} (not there yet)"
    files = [file for file in path.rglob("*") if file.is_file()]
    return f"{path} ({len(files):,} files, {sum(file.stat().st_size for file in files) / 2**20:,.0f} MiB)"


def _memory() -> dict[str, str]:
    stats = jax.devices()[0].memory_stats() or {}
    return {"memory": f"{stats['bytes_limit'] / 2**30:.1f} GiB each"} if "bytes_limit" in stats else {}


def _bfloat16() -> str:
    if jax.default_backend() != "cpu":
        return "by --precision bfloat16"
    return "by --precision bfloat16" if cpu_kernels.usable("bfloat16") else "slower than float32 on this CPU"


def _data_folder() -> str:
    given = os.environ.get("JAXKD_DATA")
    folder = pathlib.Path(given or "~/data").expanduser()
    why = "from JAXKD_DATA" if given else "the default; JAXKD_DATA names another"
    return f"{folder} ({why}{'' if folder.is_dir() else '; it is not there yet'})"


def _from_files() -> list[str]:
    return [name for name in data.names() if name != "digits"]


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = CommandLine(prog=program("info"), description=__doc__, epilog=EXAMPLES, formatter_class=Help)
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser
