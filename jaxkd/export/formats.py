"""The formats that a network can leave in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxkd.export import litert, onnx, stablehlo, weights
from jaxkd.export.source import Classifier

Predict = Callable[[np.ndarray], np.ndarray]
"""From uint8 pixels `[N, H, W, C]` to logits `[N, K]`."""


@dataclass(frozen=True)
class Format:
    """One way to write a network, and to read it back.

    Attributes:
      name: as `--to` takes it.
      suffixes: of its files; the first one where none is given.
      contents: what a file holds, in words.
      runtime: what computes it when it is read back.
      write: called with the network and the file.
      read: called with the file and the network that is in it.
      quantize: called with the network, the file and images to calibrate with, to write int8; None where it cannot.
    """

    name: str
    suffixes: tuple[str, ...]
    contents: str
    runtime: str
    write: Callable[[Classifier, Path], None]
    read: Callable[[Path, Classifier], Predict]
    quantize: Callable[[Classifier, Path, np.ndarray], None] | None = None


_PROGRAM = "uint8 pixels to logits, normalisation inside, batch size free"

FORMATS = {
    known.name: known
    for known in (
        Format(
            "pytorch", (".pth", ".pt"), "weights alone, without the normalisation", "jaxkd", weights.write, weights.read
        ),
        Format(
            "safetensors",
            (".safetensors",),
            "weights, and the normalisation beside them",
            "jaxkd",
            weights.write,
            weights.read,
        ),
        Format("stablehlo", (".stablehlo",), _PROGRAM, "JAX", stablehlo.write, lambda path, _: stablehlo.read(path)),
        Format("onnx", (".onnx",), _PROGRAM, "onnxruntime", onnx.write, lambda path, _: onnx.read(path), onnx.quantize),
        Format(
            "litert", (".tflite",), _PROGRAM, "LiteRT", litert.write, lambda path, _: litert.read(path), litert.quantize
        ),
    )
}
"""By name."""


def format_of(to: str | None, path: Path | None) -> Format:
    """Return the format that is meant by a name, else by the suffix of a file.

    Raises:
      ValueError: neither says it.

    Example:
      >>> format_of(None, Path("student.tflite")).name
      'litert'
    """
    if to is not None:
        if to not in FORMATS:
            raise ValueError(f"to={to!r}: the formats are {', '.join(FORMATS)}")
        return FORMATS[to]
    for known in FORMATS.values():
        if path is not None and path.suffix in known.suffixes:
            return known
    suffixes = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
    raise ValueError(f"{path}: a file's suffix says its format, one of {suffixes}; or give to=, {', '.join(FORMATS)}")
