"""Write and read LiteRT's files (`.tflite`), by TensorFlow and ai-edge-litert: `pip install "jaxkd[litert]"`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.export.portable import portable
from jaxkd.export.source import Classifier
from jaxkd.libraries import needed, silent

INPUT = "images"
"""The name of the file's input."""


def write(classifier: Classifier, path: Path) -> None:
    """Write a model whose input is uint8 `images`, `[batch, H, W, C]`, and whose output is logits, `[batch, K]`."""
    with silent():
        path.write_bytes(_converter(classifier).convert())


def quantize(classifier: Classifier, path: Path, images: np.ndarray) -> None:
    """Write the model with weights and activations in int8; input and output stay as they are.

    Args:
      classifier: what is written.
      path: the file.
      images: uint8 pixels `[N, H, W, C]`, from which the ranges of activations are measured.
    """

    def calibration() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[None]]

    with silent():
        converter = _converter(classifier)
        converter.optimizations = [needed("tensorflow", "litert", "LiteRT").lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        path.write_bytes(converter.convert())


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the model in a file as a function from pixels to logits, computed by LiteRT's interpreter."""
    with silent():
        interpreter = needed("ai_edge_litert.interpreter", "litert", "LiteRT").Interpreter(str(path))
        interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: np.ndarray) -> np.ndarray:
        if interpreter.get_input_details()[0]["shape"][0] != len(images):
            interpreter.resize_tensor_input(given["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        logits: np.ndarray = interpreter.get_tensor(found["index"])
        return logits

    return predict


def _converter(classifier: Classifier) -> Any:
    tensorflow = needed("tensorflow", "litert", "LiteRT")
    jax2tf = needed("jax.experimental.jax2tf", "litert", "LiteRT")
    function = tensorflow.function(
        jax2tf.convert(portable(classifier), polymorphic_shapes=["(batch, ...)"], with_gradient=False),
        autograph=False,
        input_signature=[tensorflow.TensorSpec((None, *classifier.image_shape), tensorflow.uint8, INPUT)],
    )
    return tensorflow.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function)
