"""Summaries of runs."""

import dataclasses

import jax.numpy as jnp
import pytest
from tiny import TinyNet

import jaxkd
from jaxkd import losses, models, optimizers

SHAPE = (8, 8, 3)


def distiller(**options):
    made = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=16))
    terms = {
        "ce": losses.CrossEntropy(),
        "kd": losses.KD(losses.CurriculumTemperature()),
        "plain": losses.KD(4.0),
        "own": lambda *given: jnp.float32(0),
    }
    weights = {"ce": 0.1, "kd": lambda epoch: epoch / 20}
    optimizer = optimizers.sgd(optimizers.step_decay(0.05, drops=(18, 26)), momentum=0.9)
    made.compile(optimizer, loss=terms, loss_weights=weights, image_shape=SHAPE, **options)
    return made


def test_student_and_teacher_stand_side_by_side_with_their_losses():
    found = distiller().summary(SHAPE)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    lines = [line.split() for line in text.splitlines()]
    assert ["teacher", "student"] in lines
    assert ["total", "634", "7.07", "k", "total", "322", "3.54", "k"] in lines
    assert {term.name: (term.weight, term.parameters) for term in found.losses} == {
        "ce": ("0.1", 0),
        "kd": ("0.05 in epoch 1", 1),
        "plain": ("1", 0),
        "own": ("1", 0),
    }
    kinds = {term.name: term.loss for term in found.losses}
    assert kinds["ce"] == "CrossEntropy(label_smoothing=0.0)"
    assert "CurriculumTemperature" in kinds["kd"]
    assert "4" in kinds["plain"]
    assert found.optimizer == "sgd(step_decay(0.05, drops=(18, 26)), momentum=0.9)"
    assert found.trained == "all 322 parameters of TinyNet, and 1 of the losses"


def test_what_is_frozen_is_said():
    assert distiller(trainable="fc").summary(SHAPE).trained == (
        "90 of 322 parameters of TinyNet: fc, and 1 of the losses"
    )


def test_weights_are_those_of_the_coming_epoch():
    made = distiller()
    made.state = dataclasses.replace(made.state, epoch=jnp.int32(1))
    (term,) = (term for term in made.summary(SHAPE).losses if term.name == "kd")
    assert term.weight == "0.1 in epoch 2"


def test_before_compile_there_are_networks_alone():
    trainer = jaxkd.Trainer(models.create("resnet8", 10))
    found = trainer.summary()
    assert str(found) == f"{jaxkd.summary(trainer.model)}\n\nnot compiled"
    assert "not compiled" in found._repr_html_()
    assert jaxkd.summary(trainer) == found


def test_networks_too_wide_for_one_line_stand_below_each_other():
    wide = TinyNet()
    wide.name = "a network with a very long name, " * 2
    text = str(jaxkd.Distiller(student=TinyNet(), teacher=wide).summary(SHAPE))
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines().index("student") > text.splitlines().index("teacher")


def test_an_optimizer_of_somebody_else_is_not_guessed():
    import optax

    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optax.adam(0.1))
    assert trainer.summary(SHAPE).optimizer == "a transformation of optax"


def test_in_a_notebook_they_are_tables():
    shown = distiller().summary(SHAPE)._repr_html_()
    assert shown.count("<table>") == 5  # layers and features of each, and the losses
    assert "optimizer: sgd(" in shown


def test_images_have_to_be_known():
    with pytest.raises(ValueError, match="give image_shape"):
        distiller().summary()
