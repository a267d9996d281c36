import sys

import pytest

from jaxkd import History, plots


def history(**quantities):
    epochs = len(next(iter(quantities.values())))
    return History.from_dict({"epoch": list(range(epochs)), "history": quantities})


def test_the_curve_is_the_mean_over_runs_in_percent_with_epochs_from_1():
    _, (axes,) = plots.canvas()
    plots.learning_curves({"KD": [history(val_accuracy=[0.2, 0.4]), history(val_accuracy=[0.4, 0.8])]}, axes)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata() == pytest.approx([30.0, 60.0])
    assert axes.get_legend().get_texts()[0].get_text() == "KD"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "test accuracy (%)")
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((30 - 14.142, 60 + 28.284), abs=1e-3)


def test_a_single_run_has_no_band_and_losses_no_percent():
    _, (axes,) = plots.canvas()
    plots.learning_curves({"alone": history(loss=[2.0, 1.0])}, axes, "loss")
    assert axes.get_lines()[0].get_ydata().tolist() == [2.0, 1.0]
    assert not axes.collections
    assert axes.get_ylabel() == "loss"


def test_epochs_without_validation_are_left_out():
    _, (axes,) = plots.canvas()
    plots.learning_curves({"KD": history(val_accuracy=[None, 0.5, None, 0.75])}, axes)
    assert axes.get_lines()[0].get_xdata().tolist() == [2, 4]


def test_curves_in_the_same_axes_differ_in_colour_and_style():
    _, (axes,) = plots.canvas()
    for quantity in ("accuracy", "val_accuracy"):
        plots.learning_curves({quantity: history(**{quantity: [0.5]})}, axes, quantity)
    first, second = axes.get_lines()
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()


def test_temperatures_are_drawn_as_they_are():
    _, (axes,) = plots.canvas()
    plots.temperatures({"CTKD": history(kd_temperature=[15.6, 14.0])}, axes)
    assert axes.get_lines()[0].get_ydata().tolist() == [15.6, 14.0]
    assert axes.get_ylabel() == "learned temperature"


def test_a_comparison_shows_every_run_and_the_teacher():
    _, (axes,) = plots.canvas()
    plots.comparison({"student alone": [0.84, 0.86], "KD": [0.93]}, axes, {"teacher": 0.98})
    dots = [line.get_ydata().tolist() for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots == [pytest.approx([84.0, 86.0]), pytest.approx([93.0])]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["student\nalone", "KD"]
    assert {"85.0", "93.0", "teacher 98.0"} <= {text.get_text() for text in axes.texts}


def test_nothing_is_cut_off_in_the_file(tmp_path):
    made, (axes, _) = plots.canvas(columns=2)
    plots.comparison({"a rather long name of a method": [0.84], "KD": [0.9]}, axes, title="a title above")
    plots.save(made, tmp_path / "new" / "comparison.png")
    assert (tmp_path / "new" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["comparison.png"]
    inner, outer = axes.get_tightbbox(), made.bbox
    assert outer.x0 <= inner.x0
    assert outer.y0 <= inner.y0
    assert inner.y1 <= outer.y1


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda file: plots.learning_curves({}, file), ValueError, "nothing to draw"),
        (lambda file: plots.learning_curves({"KD": []}, file), ValueError, "without runs"),
        (lambda file: plots.comparison({"KD": []}, file), ValueError, "'KD' has no runs"),
        (lambda file: plots.learning_curves({"KD": history(loss=[1.0])}, file), KeyError, "'val_accuracy' was never"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(draw, error, message, tmp_path):
    with pytest.raises(error, match=message):
        draw(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not plots.available()
    with pytest.raises(ImportError, match=r'pip install "jaxkd\[demo\]"'):
        plots.learning_curves({"KD": history(val_accuracy=[0.5])}, tmp_path / "curves.png")
