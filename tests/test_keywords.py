"""What Keras's methods take and ours do not: each is told what to do instead, before any work is done."""

import inspect

import numpy as np
import pytest
from tiny import TinyNet

import jaxkd
from jaxkd import optimizers
from jaxkd.keywords import OF_COMPILE, OF_DATA

IMAGES, LABELS = np.zeros((8, 8, 8, 3), np.float32), np.arange(8) % 3
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.fixture
def trainer():
    made = jaxkd.Trainer(TinyNet())
    made.compile(optimizers.sgd(0.1))
    return made


@pytest.mark.parametrize("keyword", OF_DATA)
def test_keywords_of_keras_are_told_what_stands_in_for_them(trainer, keyword):
    for method in (trainer.fit, trainer.evaluate, trainer.predict):
        with pytest.raises(TypeError, match=rf"{method.__name__} has no {keyword}=: \w"):
            method(IMAGES, **{keyword: 1})
    assert trainer.history.epoch == []


@pytest.mark.parametrize("keyword", OF_COMPILE)
def test_so_are_those_of_compile(keyword):
    trainer = jaxkd.Trainer(TinyNet())
    with pytest.raises(TypeError, match=rf"compile has no {keyword}=: \w"):
        trainer.compile(optimizers.sgd(0.1), **{keyword: True})
    assert trainer.state is None


def test_a_misspelt_keyword_is_told_the_nearest_and_any_other_all(trainer):
    with pytest.raises(TypeError, match=r"fit has no batchsize=: did you mean batch_size=\?"):
        trainer.fit(IMAGES, LABELS, batchsize=4)
    with pytest.raises(TypeError, match=r"predict has no quietly=: it takes x, batch_size$"):
        trainer.predict(IMAGES, quietly=True)


def test_no_keyword_that_is_named_is_one_of_ours():
    for method in (jaxkd.Trainer.fit, jaxkd.Trainer.evaluate, jaxkd.Trainer.predict):
        assert not OF_DATA.keys() & inspect.signature(method).parameters.keys()
    assert not OF_COMPILE.keys() & inspect.signature(jaxkd.Trainer.compile).parameters.keys()


def test_what_is_named_instead_is_there():
    train, held_out = jaxkd.data.from_arrays(PIXELS, np.arange(20) % 2).split(0.1)
    assert (len(train.replace(balanced=True)), len(held_out), len(train.subset(5))) == (18, 2, 5)
