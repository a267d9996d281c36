"""ONNX, read by onnxruntime, and LiteRT, read by its interpreter."""

import jax
import numpy as np
import pytest
from seeded import HALF, seeded
from sweeps import sweep
from tiny import digits

from jaxkd import export, models
from jaxkd.export import written


@pytest.fixture
def onnxruntime():
    pytest.importorskip("jax2onnx", reason="needs jaxkd[onnx]")
    return pytest.importorskip("onnxruntime", reason="needs jaxkd[onnx]")


@pytest.fixture
def interpreters():
    pytest.importorskip("tensorflow", reason="needs jaxkd[litert]")
    return pytest.importorskip("ai_edge_litert.interpreter", reason="needs jaxkd[litert]")


def test_onnxruntime_computes_what_predict_does(trainer, tmp_path, onnxruntime):
    exported = export.write(trainer, tmp_path / "student.onnx", image_shape=(8, 8, 3))
    read = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (given,), (found,) = read.get_inputs(), read.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 8, 8, 3])
    assert (found.name, found.type, found.shape) == ("logits", "tensor(float)", ["batch", 10])
    pixels = digits()[1].images[:7]
    for count in (1, 7):
        (logits,) = read.run(None, {"images": pixels[:count]})
        expected = trainer.predict(pixels[:count])
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_the_interpreter_computes_what_predict_does(trainer, tmp_path, interpreters):
    exported = export.write(trainer, tmp_path / "student.tflite", image_shape=(8, 8, 3))
    interpreter = interpreters.Interpreter(str(exported.path))
    (given,) = interpreter.get_input_details()
    assert (given["dtype"], list(given["shape_signature"])) == (np.uint8, [-1, 8, 8, 3])
    pixels = digits()[1].images[:7]
    for count in (1, 7):
        interpreter.resize_tensor_input(given["index"], (count, 8, 8, 3))
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], pixels[:count])
        interpreter.invoke()
        logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        expected = trainer.predict(pixels[:count])
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


SLOW = ("resnet32", "ShuffleV1", "ShuffleV2", "MobileNetV2", "mobilenet_v2", "wrn_40_2", "resnet18")
NAMES = ["vgg8", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@sweep("name", NAMES, core=[])
@pytest.mark.usefixtures("onnxruntime")
def test_networks_of_the_zoo_in_onnx(name, tmp_path):
    """Stacked blocks, grouped convolutions, shuffled channels, pooling: each is checked when it is written."""
    exported = export.write(seeded(name), tmp_path / "x.onnx", image_shape=(32, 32, 3), normalization=HALF)
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(exported.path, full_check=True)
    assert exported.difference <= 1e-4 * exported.scale


@sweep("name", NAMES, core=[])
@pytest.mark.usefixtures("interpreters")
def test_networks_of_the_zoo_in_litert(name, tmp_path):
    exported = export.write(seeded(name), tmp_path / "x.tflite", image_shape=(32, 32, 3), normalization=HALF)
    assert exported.difference <= 1e-4 * exported.scale


@pytest.mark.usefixtures("interpreters")
def test_a_transformer_in_litert(tmp_path):
    """The class token, and queries, keys and values, are taken from a batch of any size."""
    model = models.create(
        "deit_tiny_patch16_224", num_classes=10, width=24, depth=2, heads=3, patch_size=8, image_size=32
    )
    exported = export.write(model, tmp_path / "x.tflite", image_shape=(32, 32, 3), normalization=HALF)
    assert exported.difference <= 1e-4 * exported.scale


@pytest.mark.usefixtures("onnxruntime")
def test_exporting_leaves_the_network_as_it_was(trainer, tmp_path):
    """And JAX: its library replaces functions of JAX while it traces, and leaves jax.numpy.cumsum replaced."""
    functions = {name: value for name, value in vars(jax.numpy).items() if callable(value)}
    pixels = digits()[1].images[:5]
    before = trainer.predict(pixels)
    export.write(trainer, tmp_path / "student.onnx", image_shape=(8, 8, 3))
    np.testing.assert_array_equal(trainer.predict(pixels), before)
    assert [name for name, value in functions.items() if getattr(jax.numpy, name) is not value] == []
    export.write(trainer, tmp_path / "student.stablehlo", image_shape=(8, 8, 3))


@pytest.mark.usefixtures("onnxruntime")
def test_onnx_in_int8_keeps_the_accuracy(trainer, tmp_path, capfd):
    train, test = digits()
    exact = export.write(trainer, tmp_path / "x.onnx", image_shape=(8, 8, 3))
    int8 = export.write(trainer, tmp_path / "x8.onnx", image_shape=(8, 8, 3), calibration=train, test=test)
    before, after = int8.accuracy
    assert before == pytest.approx(trainer.evaluate(test)["accuracy"])
    assert after == (int8.predict(test.images).argmax(1) == test.labels).mean()
    assert after >= before - 0.005
    assert int8.difference > 0  # it is in int8, indeed
    assert capfd.readouterr().err == ""
    assert exact.accuracy is None


@pytest.mark.usefixtures("interpreters")
def test_litert_in_int8_keeps_the_accuracy(trainer, tmp_path):
    train, test = digits()
    int8 = export.write(trainer, tmp_path / "x8.tflite", image_shape=(8, 8, 3), calibration=train, test=test)
    before, after = int8.accuracy
    assert after >= before - 0.005
    assert after == (int8.predict(test.images).argmax(1) == test.labels).mean()
    assert int8.difference > 0


@pytest.mark.usefixtures("onnxruntime")
def test_int8_that_loses_accuracy_is_not_kept(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(written, "MAX_LOST", -1.0)
    train, test = digits()
    with pytest.raises(
        export.ExportError, match=r"x.onnx was not kept: in int8 \d+\.\d+% of the test images are right"
    ):
        export.write(trainer, tmp_path / "x.onnx", image_shape=(8, 8, 3), calibration=train, test=test)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("interpreters")
def test_nothing_but_the_outcome_is_said(trainer, tmp_path, capfd):
    """TensorFlow writes of GPUs that are not there, and of its own conversion."""
    export.write(trainer, tmp_path / "student.tflite", image_shape=(8, 8, 3))
    assert capfd.readouterr().err == ""
