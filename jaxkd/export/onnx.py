"""Write and read ONNX, by jax2onnx, onnx and onnxruntime: `pip install "jaxkd[onnx]"`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from jaxkd.export.portable import portable
from jaxkd.export.source import Classifier
from jaxkd.libraries import needed, quiet

INPUT, OUTPUT = "images", "logits"
"""The names of the file's input and output."""


def write(classifier: Classifier, path: Path) -> None:
    """Write a model whose input is uint8 `images`, `[batch, H, W, C]`, and whose output is `logits`, `[batch, K]`."""
    jax2onnx = needed("jax2onnx", "onnx", "ONNX")
    with quiet():
        model = jax2onnx.to_onnx(
            portable(classifier),
            [jax.ShapeDtypeStruct(("batch", *classifier.image_shape), np.uint8)],
            model_name=classifier.name,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    path.write_bytes(model.SerializeToString())


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the model in a file as a function from pixels to logits, computed by onnxruntime."""
    runtime = needed("onnxruntime", "onnx", "ONNX")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def quantize(classifier: Classifier, path: Path, images: np.ndarray) -> None:
    """Write the model with weights and activations in int8; input and output stay as they are.

    Args:
      classifier: what is written.
      path: the file.
      images: uint8 pixels `[N, H, W, C]`, from which the ranges of activations are measured.
    """
    quantization = needed("onnxruntime.quantization", "onnx", "ONNX in int8")
    prepare = needed("onnxruntime.quantization.shape_inference", "onnx", "ONNX in int8").quant_pre_process
    with tempfile.TemporaryDirectory() as folder, quiet():
        exact, prepared = Path(folder) / "exact.onnx", Path(folder) / "prepared.onnx"
        write(classifier, exact)
        _drop_empty_biases(exact)
        prepare(exact, prepared, skip_symbolic_shape=True)  # folds biases into convolutions, so that they are quantised
        quantization.quantize_static(
            prepared,
            path,
            _Batches(images),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QInt8,
        )


def _drop_empty_biases(path: Path) -> None:
    """Take the bias from matrix products whose bias is the number zero: onnxruntime expects one for each channel."""
    onnx = needed("onnx", "onnx", "ONNX in int8")
    model = onnx.load(path)
    empty = {
        constant.name
        for constant in model.graph.initializer
        if not constant.dims and not onnx.numpy_helper.to_array(constant)
    }
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in empty:
            del node.input[2]
    onnx.save(model, path)


class _Batches:
    """Images as onnxruntime asks for them: batch after batch, then None."""

    def __init__(self, images: np.ndarray, batch: int = 32):
        self._left: Iterator[np.ndarray] = iter(np.split(images, range(batch, len(images), batch)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self._left, None)
        return None if part is None else {INPUT: part}
