"""The formats of exported networks: what each writes, and how its library reads that back.

Weights alone go to PyTorch and safetensors files. StableHLO, ONNX and LiteRT files hold the whole computation, from
uint8 pixels `[batch, H, W, C]` to logits `[batch, K]`, with the size of the batch free. Libraries are imported when
they are needed: `pip install "jaxkd[stablehlo]"`, `"jaxkd[onnx]"`, `"jaxkd[litert]"`.
"""

from __future__ import annotations

import contextlib
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from jaxkd.convert import from_torch, load_state_dict, to_torch
from jaxkd.convert.architectures import is_weight
from jaxkd.convert.manifest import is_of_the_zoo
from jaxkd.convert.state_dict import unwrap
from jaxkd.export.portable import portable
from jaxkd.export.source import Classifier
from jaxkd.formats import torch_reader
from jaxkd.libraries import needed, quiet, silent
from jaxkd.trainer import Trainer

Predict = Callable[[np.ndarray], np.ndarray]
"""From uint8 pixels `[N, H, W, C]` to logits `[N, K]`."""

INPUT, OUTPUT = "images", "logits"
"""What ONNX and LiteRT files call their input and output."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The platforms that a StableHLO file runs on."""


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
      quantize: called with the network, the file and uint8 pixels `[N, H, W, C]`, on which the ranges of activations
        are measured, to write weights and activations in int8; input and output stay as they are. None where it cannot.
    """

    name: str
    suffixes: tuple[str, ...]
    contents: str
    runtime: str
    write: Callable[[Classifier, Path], None]
    read: Callable[[Path, Classifier], Predict]
    quantize: Callable[[Classifier, Path, np.ndarray], None] | None = None


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


def write_weights(classifier: Classifier, path: Path) -> None:
    """Write a state dict, as `convert.to_torch` does: safetensors by its suffix, which keeps the normalisation."""
    to_torch(classifier.model, path)


def read_weights(path: Path, classifier: Classifier) -> Predict:
    """Return the network with the weights in a file, and none but these, as a function from pixels to logits."""
    model = nnx.clone(classifier.model)
    nnx.update(model, jax.tree.map(jax.numpy.zeros_like, nnx.state(model, is_weight)))
    load_state_dict(model, unwrap(torch_reader.read(path), path), path)
    return Trainer(model).predict


def read_safetensors(path: Path, classifier: Classifier) -> Predict:
    """Return the network that a file names, or that was written if it names none, as `read_weights` does."""
    return Trainer(from_torch(path)).predict if is_of_the_zoo(classifier.model) else read_weights(path, classifier)


def write_stablehlo(classifier: Classifier, path: Path) -> None:
    """Write a program that `jax.export.deserialize` reads: whoever does needs JAX and flatbuffers, not this package."""
    needed("flatbuffers", "stablehlo", "StableHLO")  # what jax.export writes by
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(portable(classifier)), platforms=PLATFORMS)(classifier.pixels(batch))
    path.write_bytes(exported.serialize())


def read_stablehlo(path: Path, _: Classifier) -> Predict:
    """Return the program in a file as a function from pixels to logits."""
    needed("flatbuffers", "stablehlo", "StableHLO")
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def write_onnx(classifier: Classifier, path: Path) -> None:
    """Write an ONNX model, by jax2onnx."""
    jax2onnx = needed("jax2onnx", "onnx", "ONNX")
    with quiet(), _restored(jax.numpy, jax.lax, jax.nn, nnx):
        model = jax2onnx.to_onnx(
            portable(classifier),
            [jax.ShapeDtypeStruct(("batch", *classifier.image_shape), np.uint8)],
            model_name=classifier.name,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def _restored(*modules: types.ModuleType) -> Iterator[None]:
    """Put back the functions of modules that the block replaced: jax2onnx leaves a cumsum of its own in jax.numpy."""
    before = [(module, name, value) for module in modules for name, value in vars(module).items() if callable(value)]
    try:
        yield
    finally:
        for module, name, value in before:
            if getattr(module, name, None) is not value:
                setattr(module, name, value)


def read_onnx(path: Path, _: Classifier) -> Predict:
    """Return the model in a file as a function from pixels to logits, computed by onnxruntime."""
    runtime = needed("onnxruntime", "onnx", "ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of how it simplifies what it reads
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def quantize_onnx(classifier: Classifier, path: Path, images: np.ndarray) -> None:
    """Write an ONNX model in int8, by onnxruntime."""
    quantization = needed("onnxruntime.quantization", "onnx", "ONNX in int8")
    prepare = needed("onnxruntime.quantization.shape_inference", "onnx", "ONNX in int8").quant_pre_process
    with tempfile.TemporaryDirectory() as folder, silent():
        exact, prepared = Path(folder) / "exact.onnx", Path(folder) / "prepared.onnx"
        write_onnx(classifier, exact)
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


def write_litert(classifier: Classifier, path: Path) -> None:
    """Write a LiteRT model, by TensorFlow."""
    with silent():
        path.write_bytes(_litert_converter(classifier).convert())


def read_litert(path: Path, _: Classifier) -> Predict:
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


def quantize_litert(classifier: Classifier, path: Path, images: np.ndarray) -> None:
    """Write a LiteRT model in int8, by TensorFlow."""

    def calibration() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[None]]

    with silent():
        converter = _litert_converter(classifier)
        converter.optimizations = [needed("tensorflow", "litert", "LiteRT").lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        path.write_bytes(converter.convert())


def _litert_converter(classifier: Classifier) -> Any:
    tensorflow = needed("tensorflow", "litert", "LiteRT")
    jax2tf = needed("jax.experimental.jax2tf", "litert", "LiteRT")
    function = tensorflow.function(
        jax2tf.convert(portable(classifier), polymorphic_shapes=["(batch, ...)"], with_gradient=False),
        autograph=False,
        input_signature=[tensorflow.TensorSpec((None, *classifier.image_shape), tensorflow.uint8, INPUT)],
    )
    return tensorflow.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function)


_PROGRAM = "uint8 pixels to logits, normalisation inside, batch size free"
_PYTORCH = "weights alone, without the normalisation"
_SAFETENSORS = "weights, and beside them the normalisation and which network they are for"

FORMATS = {
    known.name: known
    for known in (
        Format("pytorch", (".pth", ".pt"), _PYTORCH, "jaxkd", write_weights, read_weights),
        Format("safetensors", (".safetensors",), _SAFETENSORS, "jaxkd", write_weights, read_safetensors),
        Format("stablehlo", (".stablehlo",), _PROGRAM, "JAX", write_stablehlo, read_stablehlo),
        Format("onnx", (".onnx",), _PROGRAM, "onnxruntime", write_onnx, read_onnx, quantize_onnx),
        Format("litert", (".tflite",), _PROGRAM, "LiteRT", write_litert, read_litert, quantize_litert),
    )
}
"""By name."""
