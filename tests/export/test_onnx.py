"""ONNX, read by onnxruntime."""

import numpy as np
import pytest
from seeded import HALF, seeded
from sweeps import sweep
from tiny import digits

from jaxkd import export
from jaxkd.export import written

onnxruntime = pytest.importorskip("onnxruntime", reason="needs jaxkd[onnx]")
pytest.importorskip("jax2onnx", reason="needs jaxkd[onnx]")


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnxruntime_computes_what_predict_does(trainer, tmp_path):
    exported = export.write(trainer, tmp_path / "student.onnx", image_shape=(8, 8, 3))
    read = session(exported.path)
    (given,), (found,) = read.get_inputs(), read.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 8, 8, 3])
    assert (found.name, found.type, found.shape) == ("logits", "tensor(float)", ["batch", 10])
    pixels = digits()[1].images[:7]
    for count in (1, 7):
        (logits,) = read.run(None, {"images": pixels[:count]})
        expected = trainer.predict(pixels[:count])
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


SLOW = ("resnet32", "ShuffleV1", "ShuffleV2", "MobileNetV2", "mobilenet_v2", "wrn_40_2", "resnet18")


@sweep("name", ["vgg8", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)], core=[])
def test_networks_of_the_zoo(name, tmp_path):
    """Stacked blocks, grouped convolutions, shuffled channels, pooling: each is checked when it is written."""
    exported = export.write(seeded(name), tmp_path / "x.onnx", image_shape=(32, 32, 3), normalization=HALF)
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(exported.path, full_check=True)
    assert exported.difference <= 1e-4 * exported.scale


def test_exporting_leaves_the_network_as_it_was(trainer, tmp_path):
    """Its library replaces functions of JAX while it traces."""
    pixels = digits()[1].images[:5]
    before = trainer.predict(pixels)
    export.write(trainer, tmp_path / "student.onnx", image_shape=(8, 8, 3))
    np.testing.assert_array_equal(trainer.predict(pixels), before)
    export.write(trainer, tmp_path / "student.stablehlo", image_shape=(8, 8, 3))


def test_int8_keeps_the_accuracy(trainer, tmp_path):
    train, test = digits()
    exact = export.write(trainer, tmp_path / "x.onnx", image_shape=(8, 8, 3))
    int8 = export.write(trainer, tmp_path / "x8.onnx", image_shape=(8, 8, 3), calibration=train, test=test)
    before, after = int8.accuracy
    assert before == pytest.approx(trainer.evaluate(test)["accuracy"])
    assert after == (int8.predict(test.images).argmax(1) == test.labels).mean()
    assert after >= before - 0.005
    assert int8.difference > 0  # it is in int8, indeed
    assert exact.accuracy is None


def test_int8_that_loses_accuracy_is_not_kept(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(written, "MAX_LOST", -1.0)
    train, test = digits()
    with pytest.raises(
        export.ExportError, match=r"x.onnx was not kept: in int8 \d+\.\d+% of the test images are right"
    ):
        export.write(trainer, tmp_path / "x.onnx", image_shape=(8, 8, 3), calibration=train, test=test)
    assert not list(tmp_path.iterdir())
