"""The docs' loss of one's own, on logits alone: trained, remembered, logged and resumed like those of the library."""

import pathlib
import re

import numpy as np
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import losses, optimizers

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "own-loss.md"


@pytest.fixture
def own_loss():
    section = PAGE.read_text(encoding="utf-8").split("## On logits alone")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) < 25
    names = {}
    exec(compile(code, PAGE.name, "exec"), names)
    return names["CentredLogits"]


def distiller(loss):
    made = jaxkd.Distiller(student=TinyNet(seed=0), teacher=TinyNet(seed=1, width=12))
    made.compile(optimizers.sgd(0.05), loss={"ce": losses.CrossEntropy(), "match": loss})
    return made


def test_it_learns_remembers_and_is_logged(own_loss, tmp_path):
    train, _ = digits()
    run = distiller(own_loss())
    history = run.fit(train.subset(96), epochs=2, batch_size=32, verbose=0).history
    assert {"match", "match_spread"} <= history.keys()
    gain, mean = run.state.params["losses"]["match"]["gain"], run.state.variables["losses"]["match"]["mean"]
    assert gain != 1.0
    assert np.abs(mean).min() > 0.0

    run.save(tmp_path)
    again = distiller(own_loss())
    again.restore(tmp_path)
    np.testing.assert_array_equal(again.state.variables["losses"]["match"]["mean"], mean)
    np.testing.assert_array_equal(again.state.params["losses"]["match"]["gain"], gain)
