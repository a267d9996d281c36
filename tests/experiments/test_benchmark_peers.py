"""The benchmark's other sides: the same networks, losses and views in PyTorch and Keras."""

import contextlib
import dataclasses
import doctest
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_scripts import on_the_path, peer, script, settings_for, work  # noqa: F401
from sweeps import sweep

from jaxkd import Batch, Outputs, Progress, convert, data, losses, models
from jaxkd.nn.tokens import resized

pytestmark = pytest.mark.thorough

DEIT = "deit_tiny_patch16_224"


@pytest.mark.parametrize("name", ["benchmarks.torch_networks", "benchmarks.torch_tuned"])
def test_examples_of_the_peers_run(name):
    assert doctest.testmod(peer(name)).failed == 0


@pytest.mark.parametrize("name", ["resnet8", "resnet44", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2"])
def test_the_numbers_moved_are_those_that_layers_take_and_give(name):
    network = peer("benchmarks.torch_networks").create(name)
    torch = sys.modules["torch"]
    moved = []

    def count(module, inputs, output):
        moved.append(inputs[0].numel() + output.numel() + module.weight.numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert script("benchmarks.network_cost").cost({name: 1}, 1).values == sum(moved)


def test_what_attention_multiplies_is_moved_for_each_image():
    tokens, width, heads, blocks = 1 + 14**2, 192, 3, 12
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    of_block = sum(tokens * (inputs + outputs) for inputs, outputs in layers)
    scores = 2 * tokens * width + heads * tokens**2  # of queries and keys, and as many with the values
    ends = 3 * 224**2 + 14**2 * width + width + 100
    found = script("benchmarks.network_cost").cost({DEIT: 1}, 10**12)
    assert found.values == pytest.approx(ends + blocks * (of_block + 2 * scores), abs=1)


OURS = ["resnet8", "resnet44", "resnet8x4", "wrn_16_1", "WRN28-1", "VGG8", "MobileNetV2", "ShuffleV2", "resnet18", DEIT]


@sweep("name", OURS, core=["resnet8"], thorough=["VGG8", "ShuffleV2", DEIT])
def test_the_networks_in_torch_are_ours(name, tmp_path):
    network = peer("benchmarks.torch_networks").create(name).eval()
    torch = sys.modules["torch"]
    ours = models.create(name, num_classes=100, seed=0)
    convert.to_torch(ours, tmp_path / "network.pth")
    network.load_state_dict(torch.load(tmp_path / "network.pth", weights_only=True))
    size = 224 if name == DEIT else 32
    images = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(theirs, np.asarray(ours(images).logits), rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_torch_enlarges_images_as_ours_are():
    side = peer("benchmarks.torch_side")
    torch = sys.modules["torch"]
    _, student = side.networks(dataclasses.replace(work("step"), student_size=224))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    theirs = student[0](torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    ours = resized(types.SimpleNamespace(resize_to=224), jnp.asarray(images))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_a_student_that_sees_the_images_larger_is_ours(tmp_path, monkeypatch):
    """DeiT-Ti at 224 pixels beside a teacher at 32, from the same weights: the weights are changed alike."""
    side, tuned = script("benchmarks.jaxkd_side"), peer("benchmarks.torch_tuned")
    torch = sys.modules["torch"]
    made = dataclasses.replace(work("step", count=2, batch_size=2, student=DEIT), student_size=224)
    student, teacher = side.networks(made)
    loop = tuned.TunedLoop(made, tuned.way_of("eager, float32"))
    theirs = {"student": loop.student[1], "teacher": loop.step.teacher}
    for name, ours in {"student": student, "teacher": teacher}.items():
        convert.to_torch(ours, tmp_path / f"{name}.pth")
        theirs[name].load_state_dict(torch.load(tmp_path / f"{name}.pth", weights_only=True))
    before = convert.to_state_dict(student)
    loop(torch.from_numpy(made.images), torch.from_numpy(made.labels.astype(np.int64)))
    monkeypatch.setattr(side, "networks", lambda work: (student, teacher))
    side.training(made, side.VARIANTS["jaxkd"]).run()
    after = convert.to_state_dict(student)
    for key, value in theirs["student"].state_dict().items():
        wanted, found = value.numpy() - before[key], after[key] - before[key]
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max() + 1e-7, rtol=0, err_msg=key)


def test_a_network_that_torch_lacks_is_named():
    with pytest.raises(ValueError, match="not MobileNetV1"):
        peer("benchmarks.torch_networks").create("MobileNetV1")


@pytest.mark.parametrize("method", ["kd", "ats"])
def test_the_loss_in_torch_is_ours(method):
    side = peer("benchmarks.torch_side")
    torch = sys.modules["torch"]
    ats = side.AtsLoss()
    ats.correct.fill_(5.0), ats.wrong.fill_(2.0)
    loss, weight, ours = {
        "kd": (side.kd_loss, 0.9, losses.KD(temperature=4.0)),
        "ats": (ats, 0.5, losses.ATS(5.0, 2.0)),
    }[method]
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 100)).astype(np.float32)
    labels = rng.integers(0, 100, 6).astype(np.int32)
    batch, progress = Batch(np.zeros((6, 1, 1, 1)), labels, labels), Progress(np.int32(0), np.int32(1))
    terms = [
        float(term(Outputs(student, ()), Outputs(teacher, ()), batch, progress, None))
        for term in (losses.CrossEntropy(), ours)
    ]
    theirs = loss(torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(labels).long())
    assert float(theirs) == pytest.approx((1 - weight) * terms[0] + weight * terms[1], rel=1e-5)


@pytest.fixture(scope="module")
def views():
    """All views of three images, `[3, 162, 32, 32, 3]`, and the images."""
    images = np.random.default_rng(0).integers(1, 256, (3, 32, 32, 3), dtype=np.uint8)
    augmentation = data.Augmentation(pad=4)
    numbers = np.arange(augmentation.views, dtype=np.int32)
    return [np.asarray(augmentation.view(np.repeat(image[None], len(numbers), 0), numbers)) for image in images], images


def test_torch_makes_the_same_views_on_the_device(views):
    tuned = peer("benchmarks.torch_tuned")
    torch = sys.modules["torch"]
    possible, images = views
    padded = torch.from_numpy(np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0))))
    seen = set()
    for _ in range(20):
        made, labels = tuned.random_views(padded, torch.arange(3))
        assert sorted(labels.tolist()) == [0, 1, 2]
        for image, label in zip(made.numpy(), labels.tolist(), strict=True):
            found = np.flatnonzero((possible[label] == image).all((1, 2, 3)))
            assert len(found) == 1
            seen.add(int(found[0]))
    assert len(seen) > 30


def test_pil_makes_the_same_views(views):
    pytest.importorskip("PIL")
    loader = peer("benchmarks.torch_usual")
    possible, images = views
    seen = set()
    for _ in range(60):
        made = np.asarray(loader.random_view(loader.Image.fromarray(images[0])))
        found = np.flatnonzero((possible[0] == made).all((1, 2, 3)))
        assert len(found) == 1
        seen.add(int(found[0]))
    assert len(seen) > 30


def test_torch_trains_and_evaluates_with_its_loader():
    pytest.importorskip("PIL")
    users = peer("benchmarks.torch_usual")
    for kind in ("epoch", "evaluation"):
        contender = users.usual(work(kind, count=12), workers=0)
        assert contender.run() > 0
        assert contender.facts["workers"] == 0


def test_workers_are_left_out_where_they_are_in_the_way(monkeypatch):
    users = peer("benchmarks.torch_usual")
    if users.device().type != "cpu":
        pytest.skip("a GPU does not share its cores with workers")
    seconds = iter([9.0, 1.0, 0.5, 2.0])  # a first pass and one that counts, without workers and with them
    monkeypatch.setattr(users, "usual_loop", lambda work, workers: workers)
    monkeypatch.setattr(users, "timed", lambda made: lambda: next(seconds))
    assert users.usual(work("epoch"), workers=3).facts["workers"] == 0


def test_a_way_that_fails_is_noted_and_the_other_taken():
    tuned = peer("benchmarks.torch_tuned")
    torch = sys.modules["torch"]
    calls = []

    def make(way):
        if way.mode != "eager":
            raise OSError("no C++ compiler\nat all")
        return lambda *batch: calls.append(len(batch[1]))

    trial = torch.zeros(6, 1), torch.zeros(6)
    _, facts = tuned.fastest(make, trial, 3, autocast=False, compiles=True)
    assert facts["way"] == "eager, float32"
    assert facts["seconds_a_step_when_tried"]["default, float32"] == "OSError: no C++ compiler"
    assert calls == [3] * 3 + [6] * tuned.TRIALS
    with pytest.raises(script("benchmarks.work").UnavailableError, match="no C"):
        tuned.fastest(lambda way: make(tuned.Way("default", False)), trial, 3, autocast=False, compiles=False)


def test_ways_are_tried_in_turns_and_compared_by_their_medians(monkeypatch):
    tuned = peer("benchmarks.torch_tuned")
    torch = sys.modules["torch"]
    eager, compiled = iter([1.0, *[3.0] * tuned.TRIALS]), iter([2.0] * tuned.TRIALS)
    monkeypatch.setattr(tuned, "timed", lambda run: lambda: next(run.func.seconds))

    class Loop:
        def __init__(self, way):
            self.seconds = eager if way.mode == "eager" else compiled

        def __call__(self, *batch):
            pass

    trial = torch.zeros(6, 1), torch.zeros(6)
    _, facts = tuned.fastest(Loop, trial, 3, autocast=False, compiles=True)
    assert facts["way"] == "default, float32"
    assert facts["seconds_a_step_when_tried"] == {"eager, float32": 1.5, "default, float32": 1.0}


def test_a_way_serves_other_batch_sizes(monkeypatch):
    rounds = script("benchmarks.measures").Rounds
    assert rounds.shape("torch-tuned", work("step", batch_size=4)) == rounds.shape("torch-tuned", work("epoch"))
    assert rounds.shape("torch-tuned", work("step")) != rounds.shape("torch-tuned-bf16", work("step"))
    tuned = peer("benchmarks.torch_tuned")
    monkeypatch.setattr(tuned, "fastest", None)
    assert tuned.tuned(work("step"), False, True, "eager, float32").facts["way"] == "eager, float32"


def test_torch_trains_the_grid_one_student_after_another():
    tuned = peer("benchmarks.torch_tuned")
    made = dataclasses.replace(work("grid"), epochs=2, students=3)
    loop = tuned.TunedLoop(made, tuned.way_of("eager, float32"))
    before = {name: value.clone() for name, value in loop.student.state_dict().items()}
    loop.over_cells(*map(sys.modules["torch"].from_numpy, (made.images, made.labels.astype(np.int64))))
    after = loop.student.state_dict()
    assert int(after["bn1.num_batches_tracked"]) == 2 * 3  # of the last student alone
    assert not (before["fc.weight"] == after["fc.weight"]).all()
    assert [float(value) for value in (loop.ats.correct, loop.ats.wrong)] == [1.0, 3.0]


def test_keras_has_the_same_networks():
    keras_peer = script("benchmarks.keras_side")
    try:
        keras = keras_peer.installed()
    except script("benchmarks.work").UnavailableError as reason:
        pytest.skip(str(reason))
    network = keras_peer.create(keras, "resnet8")
    assert sum(np.prod(weight.shape) for weight in network.trainable_weights) == models.describe("resnet8").parameters


def test_who_cannot_take_part_is_left_out_with_a_reason(monkeypatch):
    for name in ("torch", "benchmarks.torch_tuned", "benchmarks.torch_usual"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delattr(script("benchmarks"), name.rpartition(".")[2], raising=False)
    monkeypatch.setattr(script("benchmarks.keras_side").importlib.util, "find_spec", lambda name: None)
    measures = script("benchmarks.measures")
    monkeypatch.setattr(measures, "Worker", InThisProcess)
    rounds = measures.Rounds(settings_for("--contenders", "torch", "torch-tuned", "keras"), None, {})
    with contextlib.ExitStack() as open_ones:
        ready, skipped = rounds.prepared(work("step"), open_ones)
    assert not ready
    assert "torch is not installed" in skipped["torch"]
    assert "keras is not installed" in skipped["keras"]
    with pytest.raises(script("benchmarks.work").UnavailableError, match="not vgg8"):
        script("benchmarks.keras_side").create(None, "vgg8")


class InThisProcess(contextlib.nullcontext):
    """A worker without a process, which so finds what a test has taken away."""

    def __enter__(self):
        return self

    def build(self, key, path, peers):
        script("benchmarks.contenders").build(key, script("benchmarks.work").Work.load(path), peers)

    def close(self):
        pass
