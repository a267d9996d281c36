"""The user's cache, and JAX's persistent compilation cache in it, on unless the user has an opinion."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax


def user_cache() -> pathlib.Path:
    """Return the folder of the user's caches: `$XDG_CACHE_HOME`, or `~/.cache` where that is empty or not set."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def enable() -> None:
    """Keep compiled programs in `~/.cache/jaxkd`, so that a second run starts at once.

    A directory set in `jax.config` or `JAX_COMPILATION_CACHE_DIR` has precedence, and
    `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.
    """
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None and settings.jax_enable_compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "jaxkd"))
        # Initialising a network is dozens of small programs, each far under JAX's own threshold of a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
