"""What is special about the mobile networks: shuffles, depthwise gradients, traced channels, MobileNetV1."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import reference_weights
from sweeps import sweep
from values import relative_error

from jaxkd import convert, models
from jaxkd.convert.architectures import abstract_model, entries
from jaxkd.nn import layers
from jaxkd.nn.convolution import _by_xla
from jaxkd.nn.layers import channel_shuffle

ALL = [
    *("MobileNetV1", "MobileNetV2", "MobileNetV2_Imagenet", "mobilenet_v2", "ShuffleV1", "ShuffleNetV1", "ShuffleV2"),
    *("ShuffleV2_Imagenet", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
]


def images_of(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def filled(name, num_classes=10, change=lambda key, value: value):
    """A network with seeded weights, each replaced by `change(key, value)`, and these weights."""
    model = abstract_model(name, num_classes)
    weights = reference_weights([(entry.name, entry.torch_shape) for entry in entries(model)])
    weights = {key: change(key, value) for key, value in weights.items()}
    convert.load_state_dict(model, weights, name)
    return model, weights


def apart(model):
    """Structure, parameters and running statistics."""
    graph, parameters, statistics = nnx.split(model, nnx.Param, ...)
    return graph, nnx.to_pure_dict(parameters), nnx.to_pure_dict(statistics)


def compiled(model, images):
    """Outputs, and the shifts of the norms before the preactivations."""
    graph, *weights = apart(model)

    @jax.jit
    def run(weights, images):
        model = nnx.merge(graph, *weights)
        return model(images), [norm.bias[...] for norm in model.preactivation_norms()]

    return run(weights, images)


def test_channel_shuffle_is_the_permutation_written_out():
    assert channel_shuffle(jnp.arange(6), 2).tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(jnp.arange(6), 3).tolist() == [0, 2, 4, 1, 3, 5]
    assert channel_shuffle(jnp.arange(6), 1).tolist() == [0, 1, 2, 3, 4, 5]
    maps = images_of(2, 3, 4, 6)
    np.testing.assert_array_equal(channel_shuffle(maps, 3), maps[..., jnp.array([0, 2, 4, 1, 3, 5])])


def parameters(name, num_classes):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract_model(name, num_classes), nnx.Param)))


def test_mobilenet_v1_has_the_parameters_counted_by_hand():
    widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    units = sum(9 * i + 2 * i + i * o + 2 * o for i, o in itertools.pairwise(widths))
    assert parameters("MobileNetV1", 1000) == 3 * 9 * 32 + 2 * 32 + units + 1024 * 1000 + 1000 == 4_231_976


@sweep(
    ("name", "published"),
    [
        ("mobilenet_v2", 3_504_872),
        ("shufflenet_v2_x0_5", 1_366_792),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("shufflenet_v2_x1_5", 3_503_624),
        ("shufflenet_v2_x2_0", 7_393_996),
    ],
    core=[("mobilenet_v2", 3_504_872)],
)
def test_torchvisions_networks_have_the_published_parameters(name, published):
    assert parameters(name, 1000) == published


@sweep("name", ALL, core=["MobileNetV1", "ShuffleV1"], thorough=())
def test_small_grey_images_of_odd_sizes(name):
    def look(images):
        model = models.create(name, num_classes=7, channels=1)
        return model(images), [norm.scale[...] for norm in model.preactivation_norms()]

    for height, width in [(8, 8), (33, 18)]:
        outputs, scales = jax.eval_shape(look, jnp.zeros((2, height, width, 1)))
        assert outputs.logits.shape == (2, 7)
        assert [out.shape for out in outputs.preactivations] == [out.shape for out in outputs.features[:-1]]
        assert [scale.shape for scale in scales] == [out.shape[-1:] for out in outputs.preactivations]
        assert isinstance(outputs.classify, jax.tree_util.Partial)


# Where a network has no shuffle, the norms are some of its own, under these keys.
NORMS = {
    "MobileNetV1": "model.0.1 model.3.4 model.5.4 model.11.4 model.13.4",
    "MobileNetV2": "conv1.1 blocks.1.1.conv.7 blocks.2.2.conv.7 blocks.4.2.conv.7 blocks.6.0.conv.7",
    "mobilenet_v2": "features.0.1 features.3.conv.3 features.6.conv.3 features.13.conv.3 features.17.conv.3",
    "ShuffleV1": "bn1 layer1.3.bn3 layer2.7.bn3 layer3.3.bn3",
}


@pytest.mark.parametrize("name", NORMS)
def test_the_norm_before_each_preactivation_is_the_last_one_of_its_stage(name):
    model, weights = filled(name)
    for norm, key in zip(model.preactivation_norms(), NORMS[name].split(), strict=True):
        np.testing.assert_array_equal(norm.scale[...], weights[f"{key}.weight"])
        np.testing.assert_array_equal(norm.var[...], weights[f"{key}.running_var"])


@sweep("name", ["MobileNetV1", "ShuffleV2", "shufflenet_v2_x0_5"], core=["MobileNetV1"])
def test_each_channel_of_a_preactivation_comes_from_the_norm_that_is_told(name):
    # Without scale a BatchNorm's output is its shift, which then marks the channel on its way through the shuffles.
    def only_shift(key, value):
        return np.zeros_like(value) if value.ndim == 1 and key.endswith("weight") else value

    model, _ = filled(name, change=only_shift)
    outputs, shifts = compiled(model, images_of(1, 32, 32, 3))
    for before, shift in zip(outputs.preactivations, shifts, strict=True):
        assert len(np.unique(shift)) > shift.size * 0.99
        np.testing.assert_allclose(before, jnp.broadcast_to(shift, before.shape), atol=1e-6)


def test_a_linear_bottlenecks_preactivation_is_its_feature():
    model, _ = filled("mobilenet_v2")
    outputs, _ = compiled(model, images_of(2, 32, 32, 3) * 10)
    np.testing.assert_array_equal(outputs.features[0], np.clip(outputs.preactivations[0], 0, 6))
    assert float(outputs.features[0].max()) == 6
    for feature, before in zip(outputs.features[1:-1], outputs.preactivations[1:], strict=True):
        np.testing.assert_array_equal(feature, before)
        assert float(before.min()) < 0


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_through_the_depthwise_convolution_is_autodiffs(monkeypatch, stride):
    graph, *weights = apart(filled("MobileNetV2")[0].blocks[2][2 - stride])
    images = images_of(3, 7, 6, 12 if stride == 2 else 16)

    def gradients():
        def loss(parameters, images):
            return jnp.sum(jnp.sin(nnx.merge(graph, parameters, weights[1])(images, train=True)))

        return jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(weights[0], images))

    ours = gradients()
    monkeypatch.setattr(layers, "convolve", _by_xla)
    for one, other in zip(ours, gradients(), strict=True):
        assert relative_error(one, np.asarray(other)) < 1e-4


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MobileNetV2", 8),
        pytest.param("shufflenet_v2_x0_5", 32, marks=pytest.mark.slow),
        pytest.param("MobileNetV1", 32, marks=pytest.mark.slow),
        pytest.param("ShuffleV1", 8, marks=pytest.mark.slow),
    ],
)
def test_steps_of_sgd_lower_the_loss_as_the_gradient_says_and_move_every_statistic(name, size):
    model, before = filled(name)
    graph, parameters, statistics = apart(model)
    images, labels = images_of(8, size, size, 3), jnp.arange(8)
    drop = 0.003  # short enough for the loss to be straight

    @jax.jit
    def step(parameters, statistics, images):
        def loss(parameters):
            model = nnx.merge(graph, parameters, statistics)
            logits = model(images, train=True).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[labels, labels]), apart(model)[2]

        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        rate = drop / sum(jnp.sum(jnp.square(slope)) for slope in jax.tree.leaves(gradient))
        return jax.tree.map(lambda weight, slope: weight - rate * slope, parameters, gradient), moved, value

    losses = []
    for _ in range(4):
        parameters, statistics, value = step(parameters, statistics, images)
        losses.append(float(value))
    np.testing.assert_allclose(np.diff(losses), -drop, rtol=0.2)
    after = convert.to_state_dict(nnx.merge(graph, parameters, statistics))
    assert [key for key, value in before.items() if "running" in key and np.array_equal(value, after[key])] == []


@pytest.mark.thorough
def test_initial_weights_are_those_of_the_published_code():
    half = models.create("MobileNetV2")
    depthwise = half.blocks[5][1].conv["3"].kernel[...]
    assert abs(depthwise.std() / (2 / (9 * 480)) ** 0.5 - 1) < 0.05  # kaiming, fan-out
    assert abs(half.classifier[0].kernel[...].std() / 0.01 - 1) < 0.02
    assert not half.classifier[0].bias[...].any()
    shuffled = models.create("ShuffleV2")
    depthwise, pointwise = shuffled.layer3[0].conv4.kernel[...], shuffled.conv2.kernel[...]
    for kernel, fan_in in ((depthwise, 9), (pointwise, 464)):  # PyTorch's default
        bound = fan_in**-0.5
        assert 0.99 * bound < abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / 3**0.5) - 1) < 0.05


def torch_mobilenet_v1(torch, num_classes):
    """MobileNetV1 as one sequence of layers in PyTorch, and where its features are."""

    def layer(inputs, outputs, window, stride, groups=1):
        convolution = torch.nn.Conv2d(inputs, outputs, window, stride, window // 2, groups=groups, bias=False)
        return convolution, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()

    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    parts = [torch.nn.Sequential(*layer(3, 32, 3, 2))]
    for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        parts.append(torch.nn.Sequential(*layer(inputs, inputs, 3, stride, inputs), *layer(inputs, outputs, 1, 1)))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Sequential(*parts, torch.nn.AvgPool2d(2))
            self.fc = torch.nn.Linear(1024, num_classes)

        def forward(self, images):
            maps = [images]
            for part in self.model:
                maps.append(part(maps[-1]))
            pooled = maps[-1].flatten(1)
            return self.fc(pooled), [maps[i] for i in (1, 4, 6, 12, 14)], pooled

    return Network()


def both_mobilenets():
    """PyTorch's and ours with the same weights."""
    torch = pytest.importorskip("torch")
    theirs = torch_mobilenet_v1(torch, 10)
    ours, weights = filled("MobileNetV1")
    tensors = {key: torch.tensor(value) for key, value in weights.items()}
    assert not theirs.load_state_dict(tensors, strict=False).unexpected_keys
    return torch, theirs, ours


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def test_mobilenet_v1_is_pytorchs():
    torch, theirs, ours = both_mobilenets()
    assert list(convert.to_state_dict(ours)) == list(theirs.state_dict())
    images = images_of(2, 64, 64, 3)
    logits, features, pooled = theirs.eval()(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2)))
    outputs, _ = compiled(ours, images)
    assert relative_error(outputs.logits, logits.detach().numpy()) < 1e-4
    assert relative_error(outputs.features[-1], pooled.detach().numpy()) < 1e-4
    for one, other in zip(outputs.features[:-1], features, strict=True):
        assert relative_error(one, channels_last(other)) < 1e-4


def test_depthwise_separable_units_train_as_pytorchs():
    torch, theirs, ours = both_mobilenets()
    theirs = torch.nn.Sequential(*theirs.model[1:4]).double().train()
    graph, *weights = apart(nnx.List(ours.model[1:4]))
    images = images_of(4, 12, 12, 32)

    @jax.jit
    def run(weights, images):
        def loss(parameters):
            units = nnx.merge(graph, parameters, weights[1])
            before = layers.Preactivation.of(images)
            for unit in units:
                before = unit(before, train=True)
            out = before.relu()
            return jnp.sum(jnp.sin(out)), (out, apart(units)[2])

        return jax.grad(loss, has_aux=True)(weights[0])

    gradient, (maps, moved) = run(weights, images)
    # A unit of ours expects what comes before a ReLU, one of PyTorch's what comes after it.
    expected = theirs(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2)).double().relu())
    expected.sin().sum().backward()
    assert relative_error(maps, channels_last(expected)) < 1e-4
    state = theirs.state_dict()
    for key, value in convert.to_state_dict(nnx.merge(graph, weights[0], moved)).items():
        if "running" in key:
            assert relative_error(value, state[key].numpy()) < 1e-4, key
    slopes = convert.to_state_dict(nnx.merge(graph, gradient, moved))
    for key, parameter in theirs.named_parameters():
        assert relative_error(slopes[key], parameter.grad.numpy()) < 1e-3, key
