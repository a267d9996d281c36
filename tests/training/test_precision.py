"""bfloat16 networks with float32 parameters, statistics and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps import sweep

import jaxkd
from jaxkd import data, losses, models, optimizers
from jaxkd.nn import cpu_kernels
from jaxkd.training.forward import forward

NAMES = ["resnet8", "wrn_10_1", "vgg8", "resnet32"]


@sweep("name", NAMES, core=["resnet8"], thorough=["wrn_10_1", "resnet32"])
def test_outputs_are_float32_and_close(name):
    model = models.create(name, num_classes=10)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 32, 32, 3)), jnp.float32)
    exact, reduced = (forward(model, images, False, precision) for precision in ("float32", "bfloat16"))
    for one, other in zip(jax.tree.leaves(reduced), jax.tree.leaves(exact), strict=True):
        assert one.dtype == jnp.float32
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, atol=0.06 * scale)
    assert np.any(reduced.logits != exact.logits)


@sweep("name", NAMES, core=["resnet8"])
def test_the_networks_convolutions_are_bfloat16(name):
    model = models.create(name, num_classes=10)
    jaxpr = jax.make_jaxpr(lambda images: forward(model, images, False, "bfloat16").logits)(jnp.zeros((1, 32, 32, 3)))
    text = str(jaxpr)
    assert "conv_general_dilated" in text
    assert not [line for line in text.splitlines() if "conv_general_dilated" in line and "f32[" in line.split("=")[0]]


@pytest.mark.thorough
def test_training_keeps_everything_else_in_float32():
    train, test = data.load("digits")
    ends = {}
    for precision in ("float32", "bfloat16"):
        student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
        distiller = jaxkd.Distiller(student=student, teacher=teacher)
        distiller.compile(
            optimizers.sgd(0.05, momentum=0.9),
            loss={"ce": losses.CrossEntropy(), "kd": losses.KD(temperature=4.0), "srrl": losses.SRRL()},
            precision=precision,
        )
        history = distiller.fit(train.subset(96), test.subset(50), epochs=1, batch_size=32, verbose=0)
        floating = [leaf for leaf in jax.tree.leaves(distiller.state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert {leaf.dtype for leaf in floating} == {jnp.dtype("float32")}
        ends[precision] = history.history["loss"][0]
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.05)
    assert ends["bfloat16"] != ends["float32"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vgg8", "vit_tiny_patch16_224"])
def test_parameters_are_float32_whatever_jax_makes_of_numbers_without_a_type(name):
    with jax.enable_x64(True):
        options = {"depth": 1, "image_size": 32} if name.startswith("vit") else {}
        trainer = jaxkd.Trainer(models.create(name, num_classes=10, **options))
        trainer.compile(optimizers.sgd(0.01))
        pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
        trainer.fit(pixels, np.arange(4), batch_size=4, verbose=0)
        assert trainer.predict(pixels).dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("precision", ["float32", "highest"])
def test_every_product_of_a_step_is_in_full_where_that_is_asked_for(precision):
    student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(optimizers.sgd(0.05), losses.KD(4.0), image_shape=(8, 8, 3), precision=precision)
    batch = jaxkd.Batch(jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))
    text = jax.jit(distiller.step).trace(distiller.state, batch).lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line or "dot_general" in line]
    assert len(products) > 30  # of both networks and of the gradients
    assert all(("HIGHEST" in line) == (precision == "highest") for line in products)


def test_other_precisions_are_refused():
    trainer = jaxkd.Trainer(models.create("resnet8", num_classes=10))
    with pytest.raises(ValueError, match=r"precision='float16': choose one of 'float32', 'bfloat16'"):
        trainer.compile(optimizers.sgd(0.1), precision="float16")


def test_a_cpu_that_is_slower_in_it_is_warned_of(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "usable", lambda dtype: False)
    trainer = jaxkd.Trainer(models.create("resnet8", num_classes=10))
    with pytest.warns(UserWarning, match="precision='bfloat16' is slower than float32 on this CPU"):
        trainer.compile(optimizers.sgd(0.1), precision="bfloat16")
