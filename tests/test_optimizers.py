"""Optimizers against PyTorch's and by hand; schedules against the rates the authors' code produces."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyNet, digits

import jaxkd
from jaxkd import optimizers

GOLDENS = Path(__file__).parent / "goldens" / "losses"


@pytest.fixture
def lenient_promotion():
    """optax's Adam raises a float to an int32 power, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("lr_WSKDLR", optimizers.step_decay(0.05, drops=(150, 180, 210), warmup=5)),
        ("lr_WSStepLR", optimizers.step_decay(0.05, drops=(65, 125, 185), warmup=5)),
        ("lr_StepLR", optimizers.step_decay(0.05, drops=(60, 120, 180))),
        ("lr_WSCosLR", optimizers.cosine_decay(0.05, epochs=240, warmup=5)),
        ("lr_CosLR", optimizers.cosine_decay(0.05, epochs=240, final=1e-8)),
        ("lr_WSQuadLR", optimizers.quadratic_decay(0.05, epochs=240, warmup=5)),
    ],
)
def test_schedules_give_the_published_rates(name, schedule):
    expected = np.load(GOLDENS / f"{name}.npz")["lr_per_epoch"]
    compiled = jax.jit(schedule)
    rates = [compiled(jnp.int32(epoch)) for epoch in range(1, 241)]
    assert {(rate.dtype, rate.shape) for rate in rates} == {(jnp.dtype("float32"), ())}
    np.testing.assert_allclose(np.array(rates), expected, rtol=1e-6)


@given(
    base=st.floats(1e-4, 10.0),
    drops=st.sets(st.integers(10, 100), max_size=4).map(sorted),
    warmup=st.integers(0, 9),
    epoch=st.integers(1, 120),
)
@settings(deadline=None, max_examples=30)
def test_step_decay_counts_completed_epochs(base, drops, warmup, epoch):
    rate = float(optimizers.step_decay(base, drops, factor=0.5, warmup=warmup)(epoch))
    if warmup and epoch <= warmup + 1:
        expected = 1e-8 + base * (epoch - 1) / warmup
    else:
        expected = base * 0.5 ** sum(epoch > drop for drop in drops)
    assert rate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("decay", [optimizers.cosine_decay, optimizers.quadratic_decay])
def test_the_rate_stays_at_zero_past_the_last_epoch(decay):
    rates = [float(decay(0.1, epochs=10, warmup=2)(epoch)) for epoch in (10, 11, 12, 40)]
    assert rates[0] > 0
    assert rates[1:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimizers.step_decay(-0.1), r"base is -0\.1"),
        (lambda: optimizers.step_decay(0.1, factor=0), "factor is 0"),
        (lambda: optimizers.step_decay(0.1, drops=(150, 150)), r"drops=\(150, 150\)"),
        (lambda: optimizers.step_decay(0.1, drops=(0,)), r"drops=\(0,\)"),
        (lambda: optimizers.step_decay(0.1, drops=(5, 10), warmup=5), "warmup=5"),
        (lambda: optimizers.cosine_decay(0.1, epochs=5, warmup=5), "epochs=5 leaves nothing"),
        (lambda: optimizers.quadratic_decay(math.nan, epochs=5), "base is nan"),
        (lambda: optimizers.cosine_decay(0.1, epochs=5, warmup=-1), "warmup is -1"),
        (lambda: optimizers.cosine_decay(0.1, epochs=5, final=-1), "final is -1"),
        (lambda: optimizers.sgd(-0.1), r"learning_rate is -0\.1"),
        (lambda: optimizers.sgd(math.inf), "learning_rate is inf"),
        (lambda: optimizers.sgd(0.1, momentum=1.0), r"momentum is 1\.0; it must be in \[0, 1\)"),
        (lambda: optimizers.sgd(0.1, weight_decay=-5e-4), r"weight_decay is -0\.0005"),
        (lambda: optimizers.sgd(0.1, momentum=0.0, nesterov=True), "nesterov=True needs a momentum"),
        (lambda: optimizers.adam(0.1, b1=1.5), r"b1 is 1\.5"),
        (lambda: optimizers.adamw(0.1, b2=-1), "b2 is -1"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rate_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="learning_rate is 'fast'"):
        optimizers.sgd("fast")


def test_a_schedule_must_be_told_the_epoch():
    optimizer = optimizers.sgd(optimizers.step_decay(0.1))
    weight = jnp.ones(2)
    with pytest.raises(ValueError, match="epoch=epoch"):
        optimizer.update(weight, optimizer.init(weight), weight)


def test_a_constant_rate_needs_no_epoch():
    optimizer = optimizers.sgd(0.5, momentum=0.0)
    update, _ = optimizer.update(jnp.float32(2.0), optimizer.init(jnp.float32(1.0)))
    assert float(update) == -1.0


def test_sgd_by_hand():
    """Decay joins the gradient before the momentum buffer, and the rate, changing here, comes after it."""
    optimizer = optimizers.sgd(optimizers.step_decay(0.5, drops=(1,)), momentum=0.5, weight_decay=0.25)
    weight = jnp.float32(2.0)
    state = optimizer.init(weight)

    update, state = optimizer.update(jnp.float32(1.0), state, weight, epoch=jnp.int32(1))
    assert float(update) == pytest.approx(-0.5 * 1.5)  # v = 1 + 0.25·2
    weight += update

    update, state = optimizer.update(jnp.float32(1.0), state, weight, epoch=jnp.int32(2))
    assert float(update) == pytest.approx(-0.05 * (0.5 * 1.5 + 1.0 + 0.25 * 1.25))


@pytest.mark.usefixtures("lenient_promotion")
def test_the_rate_last_used_is_in_the_state():
    optimizer = optimizers.adamw(optimizers.step_decay(0.5, drops=(1,)))
    params = {"scale": jnp.ones(3), "bias": jnp.zeros(())}
    state = optimizer.init(params)
    assert float(optax.tree_utils.tree_get(state, "learning_rate")) == 0.5
    _, state = jax.jit(optimizer.update)(params, state, params, epoch=jnp.int32(2))
    rate = optax.tree_utils.tree_get(state, "learning_rate")
    assert (rate.dtype, rate.shape) == (jnp.float32, ())
    assert float(rate) == pytest.approx(0.05)


@pytest.mark.usefixtures("lenient_promotion")
@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.sgd(optimizers.cosine_decay(0.1, epochs=9, warmup=2), weight_decay=1e-3, nesterov=True),
        optimizers.adam(0.1),
        optimizers.adamw(lambda epoch: 0.1),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_state_and_updates_keep_their_types(optimizer):
    """What a compiled loop demands: the state comes back with the shapes and dtypes it went in with."""
    params = {"half": jnp.ones((2, 3), jnp.bfloat16), "full": jnp.ones(3)}
    state = optimizer.init(params)
    updates, after = optimizer.update(params, state, params, epoch=jnp.int32(3))

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    assert types(updates) == types(params)
    assert types(after) == types(state)


@pytest.mark.usefixtures("lenient_promotion")
@pytest.mark.parametrize(
    ("name", "ours", "options"),
    [
        ("SGD", lambda rate: optimizers.sgd(rate, momentum=0.0), {}),
        ("SGD", lambda rate: optimizers.sgd(rate, weight_decay=5e-2), {"momentum": 0.9, "weight_decay": 5e-2}),
        (
            "SGD",
            lambda rate: optimizers.sgd(rate, momentum=0.8, weight_decay=5e-2, nesterov=True),
            {"momentum": 0.8, "weight_decay": 5e-2, "nesterov": True},
        ),
        ("Adam", lambda rate: optimizers.adam(rate), {}),
        (
            "Adam",
            lambda rate: optimizers.adam(rate, b1=0.8, b2=0.9, eps=1e-2),
            {"betas": (0.8, 0.9), "eps": 1e-2},
        ),
        ("AdamW", lambda rate: optimizers.adamw(rate, weight_decay=0.1), {"weight_decay": 0.1}),
    ],
    ids=["sgd", "sgd-momentum-decay", "sgd-nesterov", "adam", "adam-slow", "adamw"],
)
def test_steps_are_pytorchs(name, ours, options):
    """Twelve steps over four epochs in which the rate warms up and drops."""
    torch = pytest.importorskip("torch")
    schedule = optimizers.step_decay(0.2, drops=(3,), warmup=2)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.standard_normal((4, 3), np.float32), "bias": rng.standard_normal(3, np.float32)}
    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in params.items()}
    reference = getattr(torch.optim, name)(theirs.values(), lr=1.0, **options)
    optimizer = ours(schedule)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for step in range(12):
        epoch = step // 3 + 1
        grads = {key: rng.standard_normal(value.shape, np.float32) for key, value in params.items()}
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params, epoch=jnp.int32(epoch))
        params = optax.apply_updates(params, updates)
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[key])
        reference.param_groups[0]["lr"] = float(schedule(epoch))
        reference.step()
    # PyTorch corrects Adam's bias in double precision; here 1 - b2**step is a float32.
    accuracy = {"rtol": 1e-5, "atol": 1e-6} if name == "SGD" else {"rtol": 1e-4, "atol": 1e-5}
    for key, parameter in theirs.items():
        np.testing.assert_allclose(params[key], parameter.detach().numpy(), **accuracy)


# Schedules of optax, which count steps.


@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, decay_steps=9),
        optax.join_schedules([optax.linear_schedule(0.0, 0.1, 3), optax.exponential_decay(0.1, 2, 0.5)], [3]),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 9),
        optax.piecewise_constant_schedule(0.1, {4: 0.1}),
    ],
)
@pytest.mark.parametrize("make", [optimizers.sgd, optimizers.adamw])
def test_optax_schedules_count_steps(make, schedule, lenient_promotion):
    optimizer = make(schedule)
    weight, state = jnp.float32(1.0), optimizer.init(jnp.float32(1.0))
    for step in range(8):
        assert optax.tree_utils.tree_get(state, "learning_rate") == pytest.approx(float(schedule(max(step - 1, 0))))
        _, state = optimizer.update(jnp.float32(1.0), state, weight, epoch=1 + step // 4)


def test_optax_schedules_count_the_steps_of_a_fit():
    train, _ = digits()
    schedule = optax.cosine_decay_schedule(0.1, decay_steps=9)
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizers.sgd(schedule))
    history = trainer.fit(train.subset(72), epochs=3, batch_size=24, verbose=0)
    assert history.history["learning_rate"] == pytest.approx([float(schedule(step)) for step in (2, 5, 8)])


def test_layers_are_updated_by_optimizers_of_their_own():
    """Each as if it stood alone: decay, momentum and drops are those of its group."""
    rate = optimizers.step_decay(0.1, drops=(1,))
    slow, fast = optimizers.sgd(0.01, weight_decay=0.1), optimizers.sgd(rate, momentum=0.5)
    both = optimizers.by_layer(slow, {"fc": fast, "layer4.0": fast})
    params = {
        "losses": {"t": jnp.array(1.0)},
        "model": {"fc": {"bias": jnp.array(2.0)}, "layer4": {0: jnp.array(3.0), 1: jnp.array(4.0)}},
    }
    grouped, alone = params, {"slow": (1.0, 4.0), "fast": (2.0, 3.0)}
    state, states = both.init(params), {"slow": slow.init((1.0, 4.0)), "fast": fast.init((2.0, 3.0))}
    for epoch in (1, 2, 3):
        updates, state = both.update(grouped, state, grouped, epoch=epoch)  # the gradients of squares
        grouped = optax.apply_updates(grouped, updates)
        for name, optimizer in (("slow", slow), ("fast", fast)):
            given = jax.tree.map(jnp.asarray, alone[name])
            updates, states[name] = optimizer.update(given, states[name], given, epoch=epoch)
            alone[name] = optax.apply_updates(given, updates)
    assert grouped["losses"]["t"] == alone["slow"][0]
    assert (grouped["model"]["fc"]["bias"], grouped["model"]["layer4"][0]) == alone["fast"]
    assert grouped["model"]["layer4"][1] == alone["slow"][1]
    assert optimizers.by_layer(slow, {"fc": fast}) is optimizers.by_layer(slow, {"fc": fast})


def test_layers_that_no_optimizer_can_find_are_refused():
    sgd = optimizers.sgd(0.1)
    with pytest.raises(ValueError, match=r"'fc.bias' is a part of 'fc': name one of them"):
        optimizers.by_layer(sgd, {"fc.bias": sgd, "fc": sgd})
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(ValueError, match=r"no layer 'head' is trained; at the network's top are bn, conv, fc"):
        trainer.compile(optimizers.by_layer(sgd, {"head": sgd}))
    with pytest.raises(ValueError, match="no layer 'conv' is trained; at the network's top are fc"):
        trainer.compile(optimizers.by_layer(sgd, {"conv": sgd}), trainable="fc")


def test_the_log_shows_the_rate_of_the_rest():
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizers.by_layer(optimizers.sgd(0.25), {"fc": optimizers.sgd(0.5)}))
    train, _ = digits()
    assert trainer.fit(train.subset(64), batch_size=32, verbose=0).last("learning_rate") == 0.25


def test_a_fit_counts_its_epochs_from_one():
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizers.sgd(optimizers.step_decay(0.1, drops=(2,), warmup=1)))
    history = trainer.fit(digits()[0].subset(32), epochs=3, batch_size=32, verbose=0)
    assert history.history["learning_rate"] == pytest.approx([1e-8, 0.1, 0.01])


def test_a_cosine_ends_where_it_is_told():
    torch = pytest.importorskip("torch")
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, theirs = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=12, eta_min=0.01), []
    for _ in range(12):
        theirs.append(scheduler.get_last_lr()[0])
        reference.step()
        scheduler.step()
    schedule = optimizers.cosine_decay(0.1, epochs=12, final=0.01)
    found = {shift: [float(schedule(epoch + shift)) for epoch in range(1, 13)] for shift in (0, -1)}
    assert any(np.allclose(rates, theirs, rtol=1e-5) for rates in found.values()), (found, theirs)
