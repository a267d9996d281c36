"""Trainer: what an epoch consists of, what is measured, and that a seed decides everything."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from own_process import report_as_users_compile
from sweeps import sweep
from tiny import TinyNet, assert_same_bits, digits, leaves, weights

import jaxkd
from jaxkd import Normalization, callbacks, losses, models, optimizers
from jaxkd.nn.layers import Linear
from jaxkd.training.evaluation import Evaluation, comfortable_batch_size
from jaxkd.training.inputs import InMemory

SGD = optimizers.sgd(0.1, momentum=0.9, weight_decay=5e-4)  # one object: equal programs are compiled once
N, B = 96, 32


@pytest.fixture(scope="module")
def train():
    return digits()[0].subset(N)


@pytest.fixture(scope="module")
def test():
    return digits()[1].subset(N)


def trained(train, seed=0, epochs=1, net_seed=0, **options):
    trainer = jaxkd.Trainer(TinyNet(seed=net_seed))
    trainer.compile(SGD, seed=seed, **options)
    trainer.fit(train, epochs=epochs, batch_size=B, verbose=0)
    return trainer


class Witness(losses.Loss):
    """Remembers when each example came in each epoch, and how bright its image was."""

    def __init__(self, examples, epochs):
        self.times = nnx.Variable(jnp.zeros((epochs, examples), jnp.int32))
        self.position = nnx.Variable(jnp.zeros((epochs, examples), jnp.int32))
        self.brightness = nnx.Variable(jnp.zeros(examples))
        self.label = nnx.Variable(jnp.zeros(examples, jnp.int32))

    def __call__(self, student, teacher, batch, progress, key):
        row, position = progress.epoch - 1, progress.step * B + jnp.arange(len(batch.index), dtype=jnp.int32)
        self.times[...] = self.times[...].at[row, batch.index].add(1)
        self.position[...] = self.position[...].at[row, batch.index].set(position)
        self.brightness[...] = self.brightness[...].at[batch.index].set(batch.images.mean((1, 2, 3)))
        self.label[...] = self.label[...].at[batch.index].set(batch.labels)
        return jnp.float32(0.0)


def test_an_epoch_is_every_example_once_in_an_order_of_its_own():
    examples = 100  # three batches of 32 and one of 4
    train = digits()[0].subset(examples).replace(augmentation=None)
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, loss={"ce": losses.CrossEntropy(), "seen": Witness(examples, 3)})
    trainer.fit(train, epochs=3, batch_size=B, verbose=0)
    seen = trainer.state.variables["losses"]["seen"]
    np.testing.assert_array_equal(seen["times"], 1)
    orders = np.argsort(seen["position"], axis=1)
    assert (np.sort(orders, axis=1) == np.arange(examples)).all()
    for one, other in [(orders[0], orders[1]), (orders[1], orders[2]), (orders[0], np.arange(examples))]:
        assert (one == other).mean() < 0.1
    # Each image came with its own label and number, normalised.
    np.testing.assert_array_equal(seen["label"], train.labels)
    np.testing.assert_allclose(seen["brightness"], train.normalization(train.images).mean((1, 2, 3)), atol=1e-5)
    assert int(trainer.state.step) == 3 * 4
    assert int(trainer.state.epoch) == 3


def test_the_seed_decides_every_bit(train):
    one, same = trained(train), trained(train)
    assert_same_bits(leaves(one.state), leaves(same.state))
    assert one.history.history["loss"] == same.history.history["loss"]
    other = trained(train, seed=1)
    assert np.abs(weights(one.model)["['fc']['kernel']"] - weights(other.model)["['fc']['kernel']"]).max() > 1e-4


def bits_of_cut_epochs():
    """The bytes of the states that training ends in, for some numbers of steps a program; an epoch has three."""
    runs = [trained(digits()[0].subset(N), epochs=2, steps_per_execution=steps) for steps in (None, 1, 2)]
    return [b"".join(np.asarray(leaf).tobytes() for leaf in leaves(run.state)).hex() for run in runs]


@pytest.mark.thorough
def test_how_many_steps_a_program_takes_changes_no_bit():
    assert len(set(report_as_users_compile("test_trainer", "bits_of_cut_epochs"))) == 1


def test_a_program_takes_a_step_at_least(train):
    with pytest.raises(ValueError, match="steps_per_execution=0"):
        trained(train, steps_per_execution=0)


def test_fit_goes_on_where_it_was_and_compile_starts_afresh(train):
    twice, once = trained(train), trained(train, epochs=2)
    twice.fit(train, epochs=1, batch_size=B, verbose=0)
    assert_same_bits(leaves(once.state), leaves(twice.state))
    assert twice.history.epoch == once.history.epoch == [0, 1]
    learned = weights(twice.model)
    twice.compile(SGD)
    assert_same_bits(weights(twice.model), learned)  # the network keeps what it learned
    assert int(twice.state.step) == int(twice.state.epoch) == 0
    assert twice.history.epoch == []


def test_initial_epoch_says_how_many_epochs_are_done(train):
    trainer = trained(train)
    with pytest.warns(
        UserWarning, match=r"initial_epoch=2, but .* for 1 epochs since compile: it trains 1, .* epoch 2;"
    ):
        assert trainer.fit(train, epochs=3, initial_epoch=2, batch_size=B, verbose=0).epoch == [0, 1]
    assert trainer.fit(train, epochs=2, initial_epoch=2, batch_size=B, verbose=0).epoch == [0, 1]


def test_the_logs(train, test):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, metrics=["accuracy", "top5"])
    history = trainer.fit(train, validation_data=test, epochs=2, batch_size=B, validation_freq=2, verbose=0)
    names = {"crossentropy", "loss", "accuracy", "top5", "learning_rate", "images_per_second"}
    assert history.history.keys() == names | {"val_loss", "val_accuracy", "val_top5"}
    assert history is trainer.history
    assert history.history["val_loss"][0] is None
    assert history.last("val_loss") == pytest.approx(trainer.evaluate(test)["loss"], rel=1e-6)
    assert history.last("learning_rate") == pytest.approx(0.1)
    assert history.history["loss"] == history.history["crossentropy"]
    assert 0 <= history.last("accuracy") <= history.last("top5") <= 1


def test_means_over_an_epoch_weigh_examples_not_batches(train):
    def first_label(logits, labels):
        return labels.astype(jnp.float32)

    train = train.subset(40)  # a batch of 32 and one of 8
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, metrics=[first_label])
    history = trainer.fit(train, batch_size=B, verbose=0)
    assert history.last("first_label") == pytest.approx(train.labels.mean(), rel=1e-6)


def by_numpy(logits, labels):
    logits = logits.astype(np.float64)
    log_probability = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    loss = -log_probability[np.arange(len(labels)), labels].mean()
    return {"loss": loss, "accuracy": (ranks < 1).mean(), "top5": (ranks < 5).mean()}


@pytest.mark.parametrize("size", [1, 31, 96])
def test_evaluate_is_the_mean_over_predictions(train, test, size):
    some, trainer = test.subset(size), trained(train)
    trainer.compile(SGD, metrics=["accuracy", "top5"])
    before = leaves(trainer.state)
    found, expected = trainer.evaluate(some, batch_size=32), by_numpy(trainer.predict(some, batch_size=32), some.labels)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same_bits(leaves(trainer.state), before)  # measuring changes nothing


def test_evaluate_and_predict_before_compile(train, test):
    net = TinyNet(normalization=train.normalization)
    trainer = jaxkd.Trainer(net)
    logits = trainer.predict(test.images, batch_size=64)
    assert logits.shape == (N, 10)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, net(train.normalization(test.images)).logits, atol=1e-5)
    floats = np.array(train.normalization(test.images))
    np.testing.assert_allclose(trainer.predict(floats), logits, atol=1e-5)
    np.testing.assert_allclose(trainer.predict(test), logits, atol=1e-5)
    expected = by_numpy(logits, test.labels)
    arrays, batches = (test.images, test.labels), [(floats[:60], test.labels[:60]), (floats[60:], test.labels[60:])]
    for data in (test, arrays, batches):
        assert trainer.evaluate(data) == pytest.approx(expected, rel=1e-5)


def test_the_networks_own_statistics_win_over_the_datas(train, test):
    own = Normalization((0.9,) * 3, (0.7,) * 3)
    trainer = jaxkd.Trainer(TinyNet(normalization=own))
    trainer.compile(SGD, loss={"ce": losses.CrossEntropy(), "seen": Witness(N, 1)})
    trainer.fit(train.replace(augmentation=None), batch_size=B, verbose=0)
    assert trainer.model.normalization == own
    brightness = trainer.state.variables["losses"]["seen"]["brightness"]
    np.testing.assert_allclose(brightness, own(train.images).mean((1, 2, 3)), atol=1e-5)
    floats = np.array(own(test.images))
    np.testing.assert_allclose(trainer.predict(test), trainer.predict(floats), atol=1e-5)


def test_a_network_takes_over_the_statistics_it_was_trained_with(train, test):
    trainer = trained(train)
    assert trainer.model.normalization == train.normalization
    other = test.replace(normalization=Normalization((0.5,), (0.1,)))
    np.testing.assert_array_equal(trainer.predict(other), trainer.predict(test))


def test_the_callers_network_is_the_one_that_is_trained(train):
    net = TinyNet()
    before = weights(net)
    trainer = jaxkd.Trainer(net)
    trainer.compile(SGD)
    trainer.fit(train, batch_size=B, verbose=0)
    assert trainer.model is net
    after = weights(net)
    assert all(np.abs(after[key] - before[key]).max() > 0 for key in before)
    np.testing.assert_array_equal(after["['fc']['kernel']"], trainer.state.params["model"]["fc"]["kernel"])


def test_optimizers_of_optax_work_as_they_are(train):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        trainer = jaxkd.Trainer(TinyNet())
        trainer.compile(optax.adam(0.01))
        history = trainer.fit(train, epochs=4, batch_size=B, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert "learning_rate" not in history.history


def test_digits_are_learned():
    train, test = digits()
    trainer = jaxkd.Trainer(TinyNet(width=16))
    trainer.compile(optimizers.sgd(0.5, momentum=0.9))
    history = trainer.fit(train.subset(1280), test, epochs=20, batch_size=64, validation_freq=20, verbose=0)
    assert history.last("val_accuracy") > 0.4


class SpoiltAt(losses.Loss):
    def __init__(self, step):
        self.step = step

    def __call__(self, student, teacher, batch, progress, key):
        return jnp.where(progress.step == self.step, jnp.nan, 0.0)


def test_a_loss_that_is_no_number_ends_training_by_name(train):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, loss={"ce": losses.CrossEntropy(), "bad": SpoiltAt(7)})
    with pytest.raises(FloatingPointError, match=r"'bad' became nan at step 7 \(epoch 3\)"):
        trainer.fit(train, epochs=3, batch_size=B, verbose=0)


def test_the_network_keeps_its_good_weights_when_a_loss_is_no_number(train, tmp_path):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, loss={"ce": losses.CrossEntropy(), "bad": SpoiltAt(4)})
    trainer.fit(train, batch_size=B, verbose=0)
    trainer.save(tmp_path)
    good, learned = weights(trainer.model), jax.tree.map(jnp.copy, trainer.state)
    measured, logits = trainer.evaluate(train), trainer.predict(train)
    with pytest.raises(FloatingPointError, match="nan"):
        trainer.fit(train, batch_size=B, verbose=0)
    trainer.summary((8, 8, 3))
    assert_same_bits(weights(trainer.model), good)
    assert trainer.evaluate(train) == measured
    np.testing.assert_array_equal(trainer.predict(train), logits)

    trainer.state = dataclasses.replace(learned, params=jax.tree.map(jnp.zeros_like, learned.params))
    assert not weights(trainer.model)["['fc']['kernel']"].any()
    trainer.restore(tmp_path)
    assert_same_bits(weights(trainer.model), good)


def test_fit_needs_compile(train, tmp_path):
    trainer = jaxkd.Trainer(TinyNet())
    for verb in (
        lambda: trainer.fit(train),
        lambda: trainer.save(tmp_path),
        lambda: trainer.restore(tmp_path),
        lambda: trainer.step,
    ):
        with pytest.raises(RuntimeError, match="compile"):
            verb()


@pytest.mark.parametrize(
    "option", [{"batch_size": 0}, {"batch_size": -4}, {"validation_freq": 0}, {"epochs": -1}, {"initial_epoch": -1}]
)
def test_counts_that_cannot_be_are_refused_by_name(train, test, option):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        trainer.fit(train, test, verbose=0, **option)


@pytest.mark.parametrize("option", [{"epochs": 2.0}, {"batch_size": None}, {"batch_size": 32.0}])
def test_counts_are_whole_numbers(train, option):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    [(name, value)] = option.items()
    with pytest.raises(TypeError, match=f"{name}={value}: give a whole number"):
        trainer.fit(train, verbose=0, **option)


@pytest.mark.parametrize(("seed", "error"), [(None, TypeError), (1.5, TypeError), (2**32, ValueError)])
def test_a_seed_is_a_whole_number_that_is_heeded(seed, error):
    with pytest.raises(error, match=f"seed={seed}: give"):
        jaxkd.Trainer(TinyNet()).compile(SGD, seed=seed)  # JAX takes 2**32 for 0


def test_validation_data_that_are_no_batches_are_refused_before_the_first_epoch(train, test):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    with pytest.raises(TypeError, match=r"a batch is an array of shape \(96, 8, 8, 3\).*the tuple \(images, labels\)"):
        trainer.fit(train, validation_data=[test.images, test.labels], verbose=0)
    assert int(trainer.state.step) == 0


# Keras's call.


def test_callbacks_may_be_one_or_none(train):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    seen = []
    one = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    trainer.fit(train, batch_size=B, callbacks=one, verbose=0)
    trainer.fit(train, batch_size=B, callbacks=None, verbose=0)
    assert seen == [0]


def test_images_and_labels_may_come_apart(train, test):
    def fitted(*data, **options):
        trainer = jaxkd.Trainer(TinyNet())
        trainer.compile(SGD)
        trainer.fit(*data, epochs=1, batch_size=32, verbose=0, **options)
        return trainer

    apart, together = fitted(train.images, train.labels), fitted((train.images, train.labels))
    assert_same_bits(leaves(apart.state), leaves(together.state))
    assert apart.evaluate(test.images, list(test.labels)) == apart.evaluate((test.images, test.labels))
    positional, named = fitted(train, test), fitted(train, validation_data=test)
    assert positional.history.last("val_loss") == named.history.last("val_loss")
    in_pairs = fitted(train.images, train.labels, validation_data=(test.images, test.labels))
    assert "val_loss" in in_pairs.history.history


def test_labels_beside_data_that_bring_their_own_are_refused(train, test):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    with pytest.raises(TypeError, match="x=Dataset brings its labels"):
        trainer.fit(train, train.labels, validation_data=test)
    with pytest.raises(TypeError, match="x=Dataset brings its labels"):
        trainer.evaluate(train, train.labels)
    with pytest.raises(TypeError, match="validation data are named, as in fit"):
        trainer.fit(train.images, test)
    with pytest.raises(TypeError, match="positional"):
        trainer.fit(train, test, 3)


def test_names_in_place_of_losses_and_optimizers_are_refused_with_the_cure():
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(TypeError, match=r"optimizer='sgd': give one .* optimizers.sgd\(0.05, momentum=0.9\)"):
        trainer.compile("sgd")
    with pytest.raises(TypeError, match=r"loss 'kd' is 'kd': give an instance.*losses.KD\(temperature=4.0\)"):
        trainer.compile(optimizers.sgd(0.1), loss="kd")


def test_what_is_shown_of_an_object_is_a_few_lines(train):
    network = models.create("resnet8", num_classes=10)
    distiller = jaxkd.Distiller(student=network, teacher=TinyNet())
    shown = [repr(distiller)]
    distiller.compile(optimizers.sgd(0.1), loss={"ce": losses.CrossEntropy(), "kd": losses.KD()})
    history = distiller.fit(train.subset(32), batch_size=16, verbose=0)
    shown += [repr(distiller), repr(network), str(network), repr(history), repr(jaxkd.TeacherCache())]
    assert all(len(text.splitlines()) <= 4 and len(text) < 400 for text in shown), shown
    assert shown[0] == "Distiller(student=resnet8, teacher=TinyNet), not compiled"
    assert "losses ce, kd; 1 epochs, 2 steps" in shown[1]
    assert "resnet8(num_classes=10)" in shown[2]


def own_update(*names, rest=False):
    """A step of −0.01 times the gradient, by an update that takes some of what training tells by name."""
    arguments = "".join(f", {name}" for name in names) + (", **extra" if rest else "")
    scope = {"down": lambda gradients: jax.tree.map(lambda gradient: -0.01 * gradient, gradients)}
    exec(f"def update(gradients, state, params=None, *{arguments}): return down(gradients), state", scope)
    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scope["update"])


@sweep("named", [("epoch",), ("stacked",), ("epoch", "stacked")], core=[("epoch", "stacked")], thorough=())
def test_an_update_of_ones_own_is_told_what_it_names(train, named):
    weights = []
    for optimizer in (own_update(*named), own_update(*named, rest=True), optax.sgd(0.01)):
        trainer = jaxkd.Trainer(models.create("resnet14", num_classes=10))
        trainer.compile(optimizer)
        trainer.fit(train.subset(32), batch_size=16, verbose=0)
        weights.append(leaves(trainer.state.params))
    for one, other in zip(weights[0], weights[1], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(weights[0], weights[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (optax.lbfgs, "missing 3 required keyword-only arguments: 'value', 'grad', and 'value_fn'"),
        (lambda: optax.polyak_sgd(), "missing 1 required keyword-only argument: 'value'"),
        (lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), "'value'"),
        (lambda: optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5)), "'value', 'grad'"),
        (lambda: optax.chain(optax.clip(1.0), own_update("epoch")), "argument 'stacked'.* ends in \\*\\*extra"),
        (lambda: optax.GradientTransformation(lambda params: (), lambda gradients, state: 0), "2 positional arguments"),
    ],
)
def test_an_optimizer_that_needs_more_than_it_is_told_is_refused_at_compile(optimizer, said):
    with pytest.raises(TypeError, match=rf"the optimizer cannot take a step: .*{said}"):
        jaxkd.Trainer(models.create("resnet8", num_classes=10)).compile(optimizer())


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("resnet20", r"='resnet20': give a network, as jaxkd.models.create\('resnet20', num_classes=10\) returns one"),
        (
            pathlib.Path("teacher.pth"),
            r"='teacher.pth': give a network, as jaxkd.convert.from_torch\('teacher.pth'\)",
        ),
        (None, r"=NoneType: give a flax\.nnx\.Module"),
        (TinyNet, r"=TinyNet: give an instance, TinyNet\(…\), not the class"),
        (linen.Dense(3), r"=Dense: give flax\.nnx\.bridge\.ToNNX\(module"),
        (nnx.bridge.ToNNX(linen.Dense(3), rngs=nnx.Rngs(0)), r"has no parameters yet: call its \.lazy_init\(images\)"),
        ("torch", r"=Linear: give jaxkd\.convert\.from_torch\(file\)"),
    ],
)
def test_what_is_no_network_is_told_how_it_becomes_one(network, said):
    if network == "torch":
        network = pytest.importorskip("torch").nn.Linear(2, 2)
    for make in (
        lambda: jaxkd.Trainer(network),
        lambda: jaxkd.Distiller(student=network, teacher=TinyNet()),
        lambda: jaxkd.Distiller(student=TinyNet(), teacher=network),
        lambda: jaxkd.Distiller(student=TinyNet(), teacher=[TinyNet(), network]),
    ):
        with pytest.raises(TypeError, match=said):
            make()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda batch: tuple(batch), "a step takes a jaxkd.Batch"),
        (lambda batch: batch._replace(images=batch.images.transpose(0, 3, 1, 2)), "channels first"),
        (lambda batch: batch._replace(images=batch.images[0]), r"expected \[B, H, W, C\]"),
        (lambda batch: batch._replace(images=batch.images.astype(jnp.int32)), "images are int32: give uint8 pixels"),
        (
            lambda batch: batch._replace(labels=jnp.eye(10)[batch.labels]),
            r"labels are float32 of shape \(8, 10\): give 8",
        ),
        (lambda batch: batch._replace(labels=batch.labels[:3]), r"labels are int32 of shape \(3,\): give 8 class"),
    ],
)
def test_a_step_refuses_a_batch_that_cannot_be_right(train, change, said):
    trainer = jaxkd.Trainer(TinyNet(normalization=train.normalization))
    trainer.compile(SGD)
    batch = jaxkd.Batch(jnp.asarray(train.images[:8]), jnp.asarray(train.labels[:8]), jnp.arange(8))
    assert trainer.step is trainer.step  # so that jax.jit(trainer.step) is compiled once
    for step in (trainer.step, jax.jit(trainer.step)):
        step(trainer.state, batch)
        with pytest.raises((TypeError, ValueError), match=said):
            step(trainer.state, change(batch))


@pytest.mark.parametrize("verb", ["compile", "fit", "restore"])
def test_a_callback_cannot_put_another_run_in_the_place_of_its_own(train, tmp_path, verb):
    trainer = trained(train)
    trainer.save(tmp_path)
    given = {"compile": SGD, "fit": train, "restore": tmp_path}[verb]
    call = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: getattr(trainer, verb)(given))
    with pytest.raises(RuntimeError, match=f"{verb} while training is under way: set trainer.state to an earlier copy"):
        trainer.fit(train, batch_size=B, callbacks=call, verbose=0)
    back = callbacks.LambdaCallback(on_train_end=lambda logs: trainer.restore(tmp_path))
    trainer.fit(train, batch_size=B, callbacks=back, verbose=0)
    assert (int(trainer.state.epoch), trainer.history.epoch) == (1, [0])


def test_compile_starts_from_a_state_that_was_set(train):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    before = jax.tree.map(jnp.copy, trainer.state)
    trainer.fit(train, batch_size=B, verbose=0)
    trainer.state = before
    trainer.compile(SGD)
    for found, wanted in zip(leaves(trainer.state.params), leaves(before.params), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_compile_starts_from_weights_that_were_loaded_after_a_state_was_set(train):
    trainer = trained(train)
    trainer.state = jax.tree.map(jnp.copy, trainer.state)
    other = TinyNet(seed=5)
    nnx.update(trainer._networks.model, nnx.state(other))
    trainer.compile(SGD)
    np.testing.assert_array_equal(trainer.model.fc.kernel[...], other.fc.kernel[...])


def test_a_generator_cannot_evaluate_weights_and_their_average(train, test):
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD, ema=jaxkd.EMA(0.9))
    with pytest.raises(ValueError, match="generator can be gone through once"):
        trainer.fit(train, validation_data=((test.images, test.labels) for _ in range(1)), verbose=0)
    assert int(trainer.state.step) == 0


def test_what_a_user_changes_in_the_network_stays(train):
    trainer = trained(train)
    head = trainer.model.fc = Linear(8, 5, rngs=nnx.Rngs(1))
    assert trainer.model.fc is head
    assert head.kernel.shape == (8, 5)
    trainer.summary(train.image_shape)
    assert trainer.model.fc.kernel.shape == (8, 5)
    other = jaxkd.Trainer(TinyNet())
    other.compile(SGD)
    nnx.update(other.model, nnx.state(TinyNet(seed=4)))
    other.summary(train.image_shape)
    with pytest.warns(UserWarning, match="weights of TinyNet were changed after compile"):
        other.fit(train, epochs=1, batch_size=B, verbose=0)


def test_a_head_of_fewer_parameters_stays_too(train):
    trainer = jaxkd.Trainer(models.create("resnet8", num_classes=10))
    trainer.compile(SGD)
    trainer.model.fc = Linear(64, 5, bias=False, rngs=nnx.Rngs(1))
    assert trainer.model.fc.kernel.shape == (64, 5)
    assert trainer.model.fc.bias is None


def test_weights_of_other_networks_stay_where_they_are_put(train):
    trainer, other = trained(train), trained(train, seed=1)
    best = nnx.clone(trainer.model)
    trainer.fit(train, epochs=1, batch_size=B, verbose=0)
    for source in (best, other.model, trainer.model):
        expected = leaves(nnx.to_pure_dict(nnx.state(source, nnx.Param)))
        nnx.update(trainer.model, nnx.state(source))
        assert_same_bits(leaves(nnx.to_pure_dict(nnx.state(trainer.model, nnx.Param))), expected)


def test_trainers_that_share_a_network_give_it_their_own_weights(train):
    network = TinyNet()
    trainers = [jaxkd.Trainer(network), jaxkd.Trainer(network)]
    for seed, trainer in enumerate(trainers):
        trainer.compile(SGD, seed=seed)
        trainer.fit(train, epochs=1, batch_size=B, verbose=0)
    for _ in range(2):
        for trainer in trainers:
            learned = nnx.to_pure_dict(nnx.state(trainer.model, nnx.Param))
            assert_same_bits(leaves(learned), leaves(trainer.state.params["model"]))


def test_pixels_are_not_evaluated_by_their_own_statistics(train):
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(ValueError, match="uint8 images, but no mean and std to normalise them with"):
        trainer.evaluate(train.images, train.labels)
    trainer.model.normalization = train.normalization
    ours, theirs = trainer.evaluate(train.images, train.labels), trainer.evaluate(train)
    assert ours == theirs


def test_images_of_quite_another_size_are_told(train):
    trainer = trained(train)
    larger = np.repeat(np.repeat(train.images[:4], 3, axis=1), 3, axis=2)
    with pytest.warns(UserWarning, match="images of 24×24 are shown to TinyNet, which was trained on 8×8: bring them"):
        trainer.predict(larger)
    trainer.predict(larger)  # once for a shape
    with pytest.warns(UserWarning, match="images of 8×24 are shown to TinyNet"):
        trainer.evaluate(larger[:, :8], train.labels[:4])


def test_validation_takes_batches_of_any_size(train, test, monkeypatch):
    sizes = []

    class Watched(Evaluation):
        def __init__(self, source, placement, batch_size):
            sizes.append(batch_size)
            super().__init__(source, placement, batch_size)

    monkeypatch.setattr("jaxkd.trainer.Evaluation", Watched)
    found = []
    for size in (None, 5, 96):
        trainer = jaxkd.Trainer(TinyNet())
        trainer.compile(SGD)
        history = trainer.fit(
            train, validation_data=test, batch_size=B, validation_batch_size=size, epochs=1, verbose=0
        )
        found.append((history.last("val_accuracy"), history.last("val_loss")))
    assert sizes == [96, 5, 96]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] == pytest.approx(found[2], rel=1e-6)
    with pytest.raises(ValueError, match="validation_batch_size=0: must be at least 1"):
        trainer.fit(train, validation_data=test, validation_batch_size=0)
    for side, with_, size in ((1024, 2, 12), (224, 512, 512), (32, 64, 256), (32, 4096, 1000)):
        source = InMemory(np.broadcast_to(np.uint8(0), (1000, side, side, 3)), np.zeros(1000, np.int32), None, None, 10)
        assert comfortable_batch_size(source, with_) == size


class Arrays(nnx.Module):
    def __init__(self):
        self.w = nnx.data(jnp.ones((192, 10)))

    def __call__(self, images, train=False):
        return images.reshape(len(images), -1) @ self.w


class Together(nnx.Module):
    def __init__(self):
        self.params = nnx.Param({"kernel": jnp.ones((192, 10))})

    def __call__(self, images, train=False):
        return images.reshape(len(images), -1) @ self.params["kernel"]


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (Arrays, ValueError, r"Arrays has no parameters, so that nothing would be trained: .* nnx.Param\(array\)"),
        (Together, TypeError, "params is one Param of a dict: make each array one"),
    ],
)
def test_parameters_are_arrays_in_params(network, error, message):
    with pytest.raises(error, match=message):
        jaxkd.Trainer(network()).compile(SGD)


class Sowing(TinyNet):
    """Tells features as Flax's own way is."""

    def __call__(self, images, train=False):
        outputs = super().__call__(images, train)
        self.sow(nnx.Intermediate, "pooled", outputs.features[-1])
        return outputs


@pytest.mark.filterwarnings("ignore:Using .Module.sow")
@pytest.mark.parametrize("called_before", [False, True])
def test_what_layers_sow_does_not_grow(train, called_before):
    network = Sowing()
    if called_before:
        network(jnp.zeros((2, 8, 8, 3)))
    trainer = jaxkd.Trainer(network)
    trainer.compile(SGD, steps_per_execution=1)
    trainer.fit(train, epochs=2, batch_size=B, verbose=0)
    assert_same_bits(leaves(trainer.state.params), leaves(trained(train, epochs=2).state.params))
    assert trainer.evaluate(train)["accuracy"] > 0.1


@nnx.dataclass
class Plain(nnx.Module):
    """A network that compares by value, and so has no hash."""

    fc: Linear

    def __call__(self, images, train=False):
        return self.fc(images.reshape(len(images), -1))


def test_a_network_without_a_hash_is_trained(train):
    trainer = jaxkd.Trainer(Plain(Linear(192, 10, rngs=nnx.Rngs(0))))
    trainer.compile(SGD)
    trainer.fit(train, epochs=1, batch_size=B, verbose=0)
    assert trainer.evaluate(train)["accuracy"] > 0.1


def test_trainers_that_share_layers_give_them_their_own_weights(train):
    network = TinyNet()
    wrapped = models.with_features(network, ("conv",))
    ours, theirs = jaxkd.Trainer(network), jaxkd.Trainer(wrapped)
    for seed, trainer in enumerate((ours, theirs)):
        trainer.compile(SGD, seed=seed)
        trainer.fit(train, epochs=1, batch_size=B, verbose=0)
    for _ in range(2):
        assert_same_bits(leaves(nnx.to_pure_dict(nnx.state(ours.model, nnx.Param))), leaves(ours.state.params["model"]))
        found = nnx.to_pure_dict(nnx.state(theirs.model, nnx.Param))
        assert_same_bits(leaves(found), leaves(theirs.state.params["model"]))
    state = ours.state
    nnx.update(ours.model, nnx.state(TinyNet(seed=5)))
    ours.state = state
    assert_same_bits(leaves(nnx.to_pure_dict(nnx.state(ours.model, nnx.Param))), leaves(state.params["model"]))


def test_floats_to_train_on_and_pixels_to_validate_on_are_refused_first(train):
    floats = np.asarray(train.normalization(train.images))
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(SGD)
    with pytest.raises(
        ValueError, match="validation images are uint8 pixels, and no mean and std of the training images"
    ):
        trainer.fit(floats, train.labels, validation_data=(train.images, train.labels), verbose=0)
    assert int(trainer.state.step) == 0


@pytest.mark.filterwarnings("ignore:Using .Module.sow")
def test_a_teacher_that_was_looked_at_teaches(train):
    teacher = Sowing(seed=1)
    teacher(jnp.zeros((2, 8, 8, 3)))
    distiller = jaxkd.Distiller(student=TinyNet(), teacher=teacher)
    distiller.compile(SGD, losses.KD(4.0))
    distiller.fit(train, epochs=1, batch_size=B, verbose=0)
