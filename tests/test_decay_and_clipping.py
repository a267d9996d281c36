"""Which parameters decay, clipped gradients, LAMB and timm's cosine: against PyTorch, by hand, and real logs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import TinyNet, digits

import jaxkd
from jaxkd import Outputs, models, optimizers
from jaxkd.nn.stack import Stack

FINE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def lenient_promotion():
    """optax's Adam raises a float to an int32 power, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def drawn(rng):
    return {"kernel": rng.standard_normal((4, 3), np.float32), "bias": rng.standard_normal(3, np.float32)}


def walked(optimizer, params, gradients):
    """The parameters after a step with each of the gradients, in epoch 1."""
    params, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    for one in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, one), state, params, epoch=jnp.int32(1))
        params = optax.apply_updates(params, updates)
    return params


def walked_by_pytorch(make, params, gradients, clip=None):
    torch = pytest.importorskip("torch")
    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    reference = make(torch.optim, theirs)
    for one in gradients:
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(one[key])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        reference.step()
    return {key: parameter.detach().numpy() for key, parameter in theirs.items()}


def groups(theirs, decay):
    return [{"params": [theirs["kernel"]], "weight_decay": decay}, {"params": [theirs["bias"]], "weight_decay": 0.0}]


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (
            optimizers.adamw(0.1, weight_decay=0.3, mask=optimizers.kernels),
            lambda optim, theirs: optim.AdamW(groups(theirs, 0.3), lr=0.1),
        ),
        (
            optimizers.sgd(0.1, weight_decay=0.3, mask=optimizers.kernels),
            lambda optim, theirs: optim.SGD(groups(theirs, 0.3), lr=0.1, momentum=0.9),
        ),
    ],
    ids=["adamw", "sgd"],
)
def test_a_mask_is_pytorchs_groups(ours, make):
    rng = np.random.default_rng(0)
    params, gradients = drawn(rng), [drawn(rng) for _ in range(6)]
    found, wanted = walked(ours, params, gradients), walked_by_pytorch(make, params, gradients)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, **FINE)


def test_clipping_is_pytorchs():
    rng = np.random.default_rng(1)
    params = drawn(rng)
    gradients = [jax.tree.map(lambda value, by=by: by * value, drawn(rng)) for by in (0.01, 1.0, 100.0, 0.1)]
    found = walked(optimizers.clipped(optimizers.sgd(0.1), norm=1.5), params, gradients)
    wanted = walked_by_pytorch(
        lambda optim, theirs: optim.SGD(theirs.values(), lr=0.1, momentum=0.9), params, gradients, clip=1.5
    )
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6)


def test_lamb_by_hand():
    """Adam's direction with the decay, as long as the weights; what does not decay takes Adam's step."""
    rng = np.random.default_rng(2)
    params, gradients = drawn(rng), [drawn(rng) for _ in range(4)]
    found = walked(optimizers.lamb(0.1, weight_decay=0.3, mask=optimizers.kernels), params, gradients)
    for key, value in params.items():
        weight, mean, square = value.astype(float), 0.0, 0.0
        for step, one in enumerate(gradients, 1):
            gradient = one[key].astype(float)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            update = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-6)
            if key == "kernel":
                update = update + 0.3 * weight
                update *= np.linalg.norm(weight) / np.linalg.norm(update)
            weight = weight - 0.1 * update
        np.testing.assert_allclose(found[key], weight, **FINE)


class Block(nnx.Module):
    """Adds what a linear layer says of the pixels; its weights are as large as one likes."""

    def __init__(self, seed, size):
        rng = np.random.default_rng(seed)
        self.kernel = nnx.Param(jnp.asarray(size * rng.standard_normal((12, 12)), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((1, 12)))

    def __call__(self, values, train):
        return values + jnp.tanh(values @ self.kernel[...] + self.bias[...])


class Deep(nnx.Module):
    """Three blocks of very different weights, stacked or not, and a block before them called as a stack's are."""

    def __init__(self, stacked):
        blocks = [Block(seed, size) for seed, size in enumerate((0.01, 0.1, 1.0))]
        self.first = nnx.Dict({"block": Block(9, 0.3)})
        self.blocks = nnx.List([Stack(blocks)] if stacked else blocks)
        self.num_classes = 12

    def __call__(self, images, train=False):
        values = self.first["block"](images.reshape(len(images), -1), train)
        for block in self.blocks:
            values = block(values, train)
        return Outputs(values)


def stepped(optimizer, stacked):
    """The blocks of the network after three steps, in order."""
    rng = np.random.default_rng(4)
    batches = [(rng.standard_normal((8, 2, 2, 3)).astype(np.float32), rng.integers(0, 12, 8)) for _ in range(3)]
    trainer = jaxkd.Trainer(Deep(stacked))
    trainer.compile(optimizer)
    trainer.fit(batches, epochs=1, verbose=0)
    later = [block for one in trainer.model.blocks for block in (one if stacked else [one])]
    return [nnx.to_pure_dict(nnx.state(block)) for block in (trainer.model.first["block"], *later)]


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.lamb(0.05, weight_decay=0.1, mask=optimizers.kernels),
        optimizers.lamb(0.05),
        optimizers.clipped(optimizers.lamb(0.05, mask=optimizers.kernels), 0.5),
        optimizers.by_layer(optimizers.lamb(0.05), {"first": optimizers.sgd(0.1)}),
    ],
    ids=["masked", "all", "clipped", "by layer"],
)
def test_lamb_scales_stacked_blocks_one_by_one(optimizer):
    for ours, theirs in zip(stepped(optimizer, stacked=True), stepped(optimizer, stacked=False), strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_stacked_block_of_zeros_takes_adams_step():
    """Where the ratio has no value: one block's weights are 0, another's gradient."""
    params, gradients = (
        jnp.stack([jnp.zeros(3), jnp.full(3, 2.0), jnp.ones(3)]),
        jnp.stack([jnp.ones(3)] * 2 + [jnp.zeros(3)]),
    )
    optimizer = optimizers.lamb(0.1, weight_decay=0.0)
    tree = {"model": {"block": params}}
    changes, _ = optimizer.update(
        {"model": {"block": gradients}}, optimizer.init(tree), tree, epoch=1, stacked=(("model", "block"),)
    )
    np.testing.assert_allclose(changes["model"]["block"], [[-0.1] * 3, [-0.2] * 3, [0.0] * 3], rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", "pvt_tiny", "t2t_vit_7", "pit_ti_224", "resnet20", "convnext_atto"]
)
def test_kernels_alone_decay_whether_stacked_or_not(name):
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: models.create(name, num_classes=10)), nnx.Param))
    decays = {
        jax.tree_util.keystr(path, simple=True, separator="."): value
        for path, value in jax.tree_util.tree_leaves_with_path(optimizers.kernels(params))
    }
    assert {path for path, value in decays.items() if value} == {path for path in decays if path.endswith("kernel")}
    assert any(not value for value in decays.values())


def test_what_others_call_their_kernels_decays_too():
    params = {"dense": {"weight": jnp.zeros((2, 2)), "scale": jnp.zeros((2, 2))}, "query": jnp.zeros((2, 2, 2))}
    assert optimizers.kernels(params) == {"dense": {"weight": True, "scale": False}, "query": True}


def test_the_warm_up_and_cosine_are_those_of_the_authors_logs():
    """The rates that the transformers of Sun et al. (CVPR 2024) logged, to four digits: where they change."""
    rate = jax.jit(optimizers.timm_cosine(5e-4, epochs=300, warmup=20, final=5e-6, start=5e-7))
    rates = [round(float(rate(jnp.int32(epoch))), 4) for epoch in range(1, 301)]
    changes = {
        epoch: now for epoch, (before, now) in enumerate(zip([None, *rates], rates, strict=False), 1) if before != now
    }
    assert changes == {
        1: 0.0, 3: 1e-4, 7: 2e-4, 11: 3e-4, 15: 4e-4, 19: 5e-4, 63: 4e-4, 113: 3e-4, 152: 2e-4, 192: 1e-4, 243: 0.0
    }  # fmt: skip
    assert float(rate(1)) == pytest.approx(5e-7)
    assert float(rate(301)) == float(rate(1000)) == pytest.approx(5e-6)


def test_without_a_warm_up_the_cosine_is_pytorchs():
    torch = pytest.importorskip("torch")
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=12, eta_min=0.01)
    ours, theirs = optimizers.timm_cosine(0.1, epochs=12, final=0.01), []
    for _ in range(12):
        theirs.append(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()
    for schedule in (ours, optimizers.cosine_decay(0.1, epochs=12, final=0.01)):
        np.testing.assert_allclose([float(schedule(epoch)) for epoch in range(1, 13)], theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.clipped(optimizers.sgd(0.1), 0.0), r"norm is 0\.0"),
        (lambda: optimizers.lamb(0.1, b2=1.0), r"b2 is 1\.0"),
        (lambda: optimizers.timm_cosine(0.1, epochs=5, warmup=5), "epochs=5 leaves nothing"),
        (lambda: optimizers.timm_cosine(0.1, epochs=5, start=-1), "start is -1"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_equal_ones_are_one_program_and_log_their_rate():
    def made():
        return optimizers.clipped(optimizers.adamw(0.01, weight_decay=0.05, mask=optimizers.kernels), 1.0)

    assert made() is made()
    train = digits()[0].subset(32)
    trainer = jaxkd.Trainer(TinyNet(normalization=train.normalization))
    trainer.compile(made())
    history = trainer.fit(train, epochs=1, batch_size=32, verbose=0)
    assert history.last("learning_rate") == pytest.approx(0.01)
