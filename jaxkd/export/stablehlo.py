"""Write and read StableHLO, a program of `jax.export` for CPU, GPU and TPU: `pip install "jaxkd[stablehlo]"`.

Whoever reads it needs JAX and flatbuffers, and neither Flax nor this package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from jaxkd.export.portable import portable
from jaxkd.export.source import Classifier
from jaxkd.libraries import needed

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The platforms that the file runs on."""


def write(classifier: Classifier, path: Path) -> None:
    """Write a file that `jax.export.deserialize` reads; its size of batch is free."""
    needed("flatbuffers", "stablehlo", "StableHLO")  # what jax.export writes by
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(portable(classifier)), platforms=PLATFORMS)(classifier.pixels(batch))
    path.write_bytes(exported.serialize())


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the program in a file as a function from pixels to logits."""
    needed("flatbuffers", "stablehlo", "StableHLO")
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))
