"""Mean and deviation over runs, as one value and epoch by epoch."""

import math

import pytest

from jaxkd import History
from jaxkd.spread import Spread, mean_curve


def history(**quantities):
    epochs = len(next(iter(quantities.values())))
    return History.from_dict({"epoch": list(range(epochs)), "history": quantities})


def test_the_deviation_is_that_of_a_sample_and_a_single_value_has_none():
    assert Spread((1.0, 2.0, 4.0)).mean == pytest.approx(7 / 3)
    assert Spread((1.0, 2.0, 4.0)).deviation == pytest.approx(math.sqrt(7 / 3))
    assert Spread((1.0,)).deviation is None


@pytest.mark.parametrize(
    ("values", "form", "text"),
    [
        ((70.125,), ".2f", "70.12"),
        ((70.0, 71.0), ".2f", "70.50 ± 0.71"),
        ((0.7, 0.9), "6.2f", "  0.80 ± 0.14"),
    ],
)
def test_a_width_is_that_of_the_mean(values, form, text):
    assert f"{Spread(values):{form}}" == text


def test_a_curve_has_the_epochs_that_all_runs_measured():
    runs = [
        history(loss=[4.0, 3.0, 1.0], val_loss=[None, 2.0, None]),
        history(loss=[2.0, 1.0], val_loss=[1.0, 1.0]),
        history(accuracy=[0.5]),  # which did not measure it
    ]
    loss = mean_curve(runs, "loss")
    assert (loss.epochs.tolist(), loss.mean.tolist()) == ([1, 2], [3.0, 2.0])
    assert loss.deviation == pytest.approx([math.sqrt(2)] * 2)
    assert mean_curve(runs, "val_loss").epochs.tolist() == [2]
    assert mean_curve(runs, "accuracy").deviation is None
    assert len(mean_curve(runs, "kd").epochs) == 0


def test_a_curve_is_cut_at_an_epoch():
    curve = mean_curve([history(loss=[4.0, 3.0, 1.0]), history(loss=[2.0, 1.0, 1.0])], "loss")
    assert curve.until(2).epochs.tolist() == [1, 2]
    assert curve.after(2).mean.tolist() == [1.0]
    assert curve.after(2).deviation.tolist() == [0.0]
