"""JAX's persistent compilation cache, on unless the user has an opinion."""

from __future__ import annotations

import os
import pathlib

import jax


def enable() -> None:
    """Keeps compiled programs in `~/.cache/jaxkd`, so that a second run starts at once.

    `JAX_COMPILATION_CACHE_DIR`, or any value set in `jax.config`, has precedence; `JAX_ENABLE_COMPILATION_CACHE=0` turns
    it off.
    """
    if jax.config.jax_compilation_cache_dir is None and jax.config.jax_enable_compilation_cache:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jaxkd"
        jax.config.update("jax_compilation_cache_dir", str(cache))
