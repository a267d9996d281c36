"""LiteRT, read by its interpreter."""

import numpy as np
import pytest
from seeded import HALF, seeded
from sweeps import sweep
from tiny import digits

from jaxkd import export

interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs jaxkd[litert]")
pytest.importorskip("tensorflow", reason="needs jaxkd[litert]")


def test_the_interpreter_computes_what_predict_does(trainer, tmp_path):
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


@sweep("name", ["vgg8", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)], core=[])
def test_networks_of_the_zoo(name, tmp_path):
    exported = export.write(seeded(name), tmp_path / "x.tflite", image_shape=(32, 32, 3), normalization=HALF)
    assert exported.difference <= 1e-4 * exported.scale


def test_int8_keeps_the_accuracy(trainer, tmp_path):
    train, test = digits()
    int8 = export.write(trainer, tmp_path / "x8.tflite", image_shape=(8, 8, 3), calibration=train, test=test)
    before, after = int8.accuracy
    assert after >= before - 0.005
    assert after == (int8.predict(test.images).argmax(1) == test.labels).mean()
    assert int8.difference > 0


def test_nothing_but_the_outcome_is_said(trainer, tmp_path, capfd):
    """TensorFlow writes of GPUs that are not there, and of its own conversion."""
    export.write(trainer, tmp_path / "student.tflite", image_shape=(8, 8, 3))
    assert capfd.readouterr().err == ""
