"""Files are written, read back and checked; those that differ are not kept."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from seeded import HALF, filled, same_weights, seeded
from sweeps import sweep
from tiny import TinyNet, digits

import jaxkd
from jaxkd import convert, data, export
from jaxkd.convert import manifest
from jaxkd.export import formats
from jaxkd.formats import torch_reader

SHAPE = (8, 8, 3)


@pytest.fixture
def stablehlo():
    pytest.importorskip("flatbuffers", reason="needs jaxkd[stablehlo]")


@pytest.fixture
def pixels():
    return digits()[1].images[:7]


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.usefixtures("stablehlo")
def test_stablehlo_takes_any_batch(trainer, tmp_path, pixels):
    exported = export.write(trainer, tmp_path / "student.stablehlo", image_shape=SHAPE)
    assert exported.format.name == "stablehlo"
    assert exported.difference <= 1e-4 * exported.scale
    assert exported.bytes == (tmp_path / "student.stablehlo").stat().st_size
    read = jax.export.deserialize(bytearray(exported.path.read_bytes()))
    assert str(read.in_avals[0]) == "uint8[batch,8,8,3]"
    assert set(read.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    for count in (1, 3, 7):
        close(np.asarray(read.call(jnp.asarray(pixels[:count]))), trainer.predict(pixels[:count]))
    close(exported.predict(pixels), trainer.predict(pixels))


@pytest.mark.slow
@pytest.mark.usefixtures("stablehlo")
def test_stablehlo_needs_jax_alone(trainer, tmp_path, pixels):
    export.write(trainer, tmp_path / "student.stablehlo", image_shape=SHAPE)
    np.save(tmp_path / "pixels.npy", pixels)
    script = (
        "import sys, numpy as np, jax.export\n"
        "read = jax.export.deserialize(bytearray(open('student.stablehlo', 'rb').read()))\n"
        "np.save('logits.npy', read.call(np.load('pixels.npy')))\n"
        "assert not {'flax', 'jaxkd'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    close(np.load(tmp_path / "logits.npy"), trainer.predict(pixels))


def test_safetensors_keep_the_normalisation(tmp_path):
    model = seeded("resnet8")
    exported = export.write(model, tmp_path / "student.safetensors", image_shape=SHAPE, normalization=HALF)
    back = convert.from_torch(exported.path)
    assert back.normalization == HALF
    assert same_weights(back, model)
    assert model.normalization is None  # what was given is not changed


def test_safetensors_keep_all_that_the_network_computes_with(tmp_path, monkeypatch):
    model = seeded("vit_tiny_patch16_224", depth=1, width=8, heads=2, image_size=32)
    model.resize_to = 32
    export.write(model, tmp_path / "x.safetensors", image_shape=SHAPE, normalization=HALF)
    options = {**dict(model.options), "heads": 1}
    said = {
        "architecture": model.name,
        "options": options,
        "normalization": HALF._asdict(),
        "resize_to": 32,
        "jaxkd": "0",
    }
    monkeypatch.setattr(manifest, "describe", lambda *_: said)
    with pytest.raises(export.ExportError, match=r"y.safetensors was not kept: its logits differ"):
        export.write(model, tmp_path / "y.safetensors", image_shape=SHAPE, normalization=HALF)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_a_file_lacks_is_not_taken_from_the_network(name, trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "load_state_dict", lambda *_: None)
    with pytest.raises(export.ExportError, match="was not kept: its logits differ"):
        export.write(trainer, tmp_path / name, image_shape=SHAPE)
    assert not list(tmp_path.iterdir())


def test_pytorch_files_are_those_of_convert(trainer, tmp_path):
    export.write(trainer, tmp_path / "student.pth", image_shape=SHAPE)
    (tmp_path / "other").mkdir()
    convert.to_torch(trainer.model, tmp_path / "other" / "student.pth")
    ours, theirs = (torch_reader.read(folder / "student.pth") for folder in (tmp_path, tmp_path / "other"))
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_pytorch_computes_what_predict_does(tmp_path, pixels):
    torch = pytest.importorskip("torch", reason="needs PyTorch")

    class TheSame(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)
            self.bn, self.fc = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 10)

        def forward(self, images):
            return self.fc(torch.relu(self.bn(self.conv(images))).mean((2, 3)))

    exported = export.write(filled(TinyNet()), tmp_path / "x.pth", image_shape=SHAPE, normalization=HALF)
    network = TheSame().eval()
    network.load_state_dict(torch.load(exported.path, weights_only=True), strict=True)
    images = np.asarray(HALF(jnp.asarray(pixels))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        close(network(torch.from_numpy(images.copy())).numpy(), exported.classifier.predict(pixels))


@pytest.mark.usefixtures("stablehlo")
def test_a_run_is_exported_beside_its_network(run, pixels):
    exported = export.write(run, to="stablehlo")
    assert exported.path == run / "student.stablehlo"
    assert exported.classifier.image_shape == SHAPE  # of digits, not the 32×32 that resnet8 was published for
    student = jaxkd.records.read(run).student()
    close(exported.predict(pixels), jaxkd.Trainer(student).predict(pixels))


@sweep("source", ["folder", "file", "record", "distiller", "network"], core=["file", "record"])
def test_whatever_holds_a_network_is_taken(source, run, tmp_path):
    model = convert.load(run / "student")
    sources = {
        "folder": lambda: run / "student",
        "file": lambda: export.write(model, tmp_path / "x.safetensors").path,
        "record": lambda: jaxkd.records.read(run),
        "distiller": lambda: jaxkd.Distiller(student=model, teacher=convert.load(run.parent / "teacher")),
        "network": lambda: model,
    }
    exported = export.write(sources[source](), tmp_path / "again.safetensors", image_shape=SHAPE)
    assert same_weights(exported.classifier.model, model)


@pytest.mark.usefixtures("stablehlo")
def test_a_file_that_differs_is_not_kept(trainer, tmp_path, monkeypatch):
    def wrong(network, path):
        other = dataclasses.replace(network, normalization=HALF)
        formats.write_stablehlo(other, path)

    path = tmp_path / "student.stablehlo"
    path.write_text("before")
    broken = dataclasses.replace(formats.FORMATS["stablehlo"], write=wrong)
    monkeypatch.setitem(formats.FORMATS, "stablehlo", broken)
    with pytest.raises(export.ExportError, match=r"student.stablehlo was not kept: its logits differ .* up to \d"):
        export.write(trainer, path, image_shape=SHAPE)
    assert [file.name for file in tmp_path.iterdir()] == ["student.stablehlo"]
    assert path.read_text() == "before"


@pytest.mark.usefixtures("stablehlo")
def test_logits_that_are_no_numbers_are_refused(tmp_path):
    model = TinyNet(normalization=HALF)
    model.fc.bias[...] = jnp.full(10, jnp.nan)
    with pytest.raises(export.ExportError, match="nan"):
        export.write(model, tmp_path / "student.stablehlo", image_shape=SHAPE)
    assert not list(tmp_path.iterdir())


def test_what_a_format_cannot_hold_is_told(trainer, tmp_path, monkeypatch):
    def unable(network, path):
        path.write_text("half")
        raise NotImplementedError("no plugin for primitive 'sort'")

    monkeypatch.setitem(formats.FORMATS, "onnx", dataclasses.replace(formats.FORMATS["onnx"], write=unable))
    with pytest.raises(export.ExportError, match=r"onnx cannot hold this network \(no plugin for primitive 'sort'\)"):
        export.write(trainer, tmp_path / "x.onnx", image_shape=SHAPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "x.bin"}, ValueError, r"x.bin: a file's suffix says its format, one of \.pth"),
        ({"path": "x.onnx", "to": "onx"}, ValueError, "to='onx': the formats are pytorch"),
        ({"to": "stablehlo"}, ValueError, "give the path of a file"),
        ({"path": ".", "to": "stablehlo"}, IsADirectoryError, "is a folder"),
        ({"path": "x.stablehlo", "image_shape": (8, 8)}, ValueError, "give .height, width, channels."),
        ({"path": "x.stablehlo", "calibration": "train"}, ValueError, "stablehlo has no int8 here"),
        ({"path": "x.onnx", "calibration": "train"}, ValueError, "give test="),
    ],
    ids=str,
)
def test_mistakes_are_told(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"image_shape": SHAPE, "normalization": HALF, **options}
    with pytest.raises(error, match=message):
        export.write(TinyNet(), **given)
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_normalisation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the normalisation of its images is not known"):
        export.write(TinyNet(), tmp_path / "x.stablehlo", image_shape=SHAPE)


def test_a_network_without_a_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give image_shape="):
        export.write(TinyNet(normalization=HALF), tmp_path / "x.stablehlo")


def test_the_network_itself_is_not_overwritten(tmp_path):
    convert.to_torch(seeded("resnet8"), tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    with pytest.raises(ValueError, match="holds the network itself"):
        export.write(tmp_path / "x.pth", to="pytorch", image_shape=SHAPE, normalization=HALF)
    assert (tmp_path / "x.pth").read_bytes() == before


def test_an_unfinished_run_is_told(tmp_path):
    directory = jaxkd.records.RunDirectory(tmp_path / "run")
    directory.start({"student": "resnet8", "seed": 0}, {})
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        export.write(tmp_path / "run", to="stablehlo")


def test_what_holds_no_network_is_told(tmp_path):
    with pytest.raises(TypeError, match="a dict cannot be exported"):
        export.write({}, tmp_path / "x.pth")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        export.write(tmp_path / "absent", tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("images", "facts", "shape"),
    [
        ({"name": "folder", "image_size": 16}, {}, (16, 16, 3)),
        ({"name": "imagenette"}, {}, (224, 224, 3)),
        ({"name": "cifar100"}, {}, (32, 32, 3)),
        ({"name": "stl10"}, {}, (96, 96, 3)),
        ({"name": "tiny-imagenet"}, {}, (64, 64, 3)),
        ({"name": "npz"}, {"image_shape": (28, 40, 3)}, (28, 40, 3)),
        ({"name": "my own"}, {}, (32, 32, 3)),  # for which resnet8 was made
    ],
    ids=str,
)
def test_the_size_of_images_is_that_of_the_run_s_data(tmp_path, images, facts, shape):
    recorded.with_student(tmp_path / "run", data=images, facts=facts)
    assert export.classifier(tmp_path / "run").image_shape == shape


def test_images_whose_size_was_not_recorded_are_not_guessed(tmp_path):
    run, _ = recorded.with_student(tmp_path / "run", data={"name": "npz"})
    with pytest.raises(ValueError, match=r"does not say how large its images are, .*: give --image-size N, or"):
        export.classifier(run)
    assert export.classifier(run, (16, 16, 3)).image_shape == (16, 16, 3)


def test_data_of_another_shape_are_refused_for_int8(trainer, tmp_path):
    pytest.importorskip("onnxruntime", reason="int8 needs jaxkd[onnx]")
    _, test = digits()
    large = data.from_arrays(np.zeros((20, 16, 16, 3), np.uint8), np.arange(20) % 10, std=(1.0,))
    with pytest.raises(ValueError, match="and the network takes"):
        export.write(trainer, tmp_path / "x.onnx", image_shape=SHAPE, calibration=large, test=test)


@pytest.mark.thorough
@pytest.mark.usefixtures("stablehlo")
def test_weights_on_several_devices_make_a_program_for_one(tmp_path):
    script = (
        "import sys, numpy as np, jax\n"
        "from tiny import TinyNet\n"
        "import jaxkd\n"
        "from jaxkd import export, optimizers\n"
        "trainer = jaxkd.Trainer(TinyNet(normalization=jaxkd.Normalization((0.5,) * 3, (0.5,) * 3)))\n"
        "trainer.compile(optimizers.sgd(0.1))\n"
        "assert len(trainer.state.params['model']['fc']['kernel'].devices()) == 2\n"
        "file = export.write(trainer, 'x.stablehlo', image_shape=(8, 8, 3))\n"
        "assert jax.export.deserialize(bytearray(file.path.read_bytes())).nr_devices == 1"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment)
