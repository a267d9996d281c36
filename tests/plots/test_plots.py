import sys

import numpy as np
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


def test_many_curves_are_told_apart_and_their_names_stand_beside_them():
    figure, (axes,) = plots.canvas()
    plots.learning_curves({str(number): history(loss=[2.0, 1.0]) for number in range(12)}, axes, "loss")
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()]
    assert looks[0][0] == looks[7][0]
    assert len({*looks[:4], *looks[7:11]}) == 8
    figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 >= axes.get_window_extent().x1
    assert legend.x1 <= figure.bbox.x1


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


def test_the_name_of_a_reference_is_on_the_side_with_room():
    _, (axes,) = plots.canvas()
    plots.comparison({"alone": [0.5], "KD": [0.7]}, axes, {"teacher": 0.9, "chance": 0.1})
    sides = {text.get_text(): text.get_va() for text in axes.texts if text.get_text()[0].isalpha()}
    assert sides == {"teacher 90.0": "top", "chance 10.0": "bottom"}


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


def test_curves_differ_in_colour_and_in_style_or_marker():
    for style, mark in (("lines", "get_linestyle"), ("points", "get_marker"), ("both", "get_marker")):
        _, (axes,) = plots.canvas()
        plots.curves({name: ([1, 2], [3, 4]) for name in "abc"}, axes, style=style)
        assert len({line.get_color() for line in axes.get_lines()}) == 3
        assert len({getattr(line, mark)() for line in axes.get_lines()}) == 3


def test_curves_have_gaps_and_deviations():
    _, (axes,) = plots.canvas()
    plots.curves(
        {"KD": ([1, 2, 4], [70.0, np.nan, 72.0])}, axes, ("temperature", "accuracy"),
        deviations={"KD": [0.5, 0.0, 0.25]}, logarithmic=True,
    )  # fmt: skip
    curve, *_ = axes.get_lines()
    assert np.isnan(curve.get_ydata()).tolist() == [False, True, False]
    (bars,) = axes.collections
    assert bars.get_paths()[2].vertices[:, 1] == pytest.approx([71.75, 72.25])
    axes.figure.canvas.draw()
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert {"1", "2", "5"} <= set(shown)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("temperature", "accuracy")


def test_a_scatter_has_a_diagonal_and_names():
    _, (axes,) = plots.canvas()
    plots.scatter({"KD": ([1.0, 2.0], [1.5, 2.5]), "alone": ([1.0], [3.0])}, axes, ("teacher", "student"))
    assert axes.collections[0].get_offsets().tolist() == [[1.0, 1.5], [2.0, 2.5]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["KD", "alone", "equal"]
    (diagonal,) = axes.get_lines()
    assert diagonal.get_slope() == 1
    assert axes.get_xlim()[1] < 2.5  # a line without an end does not stretch the axes


def test_classes_have_their_names_in_their_midst():
    _, (axes,) = plots.canvas()
    points = np.array([[0.0, 0.0], [2.0, 2.0], [1.0, 0.0], [9.0, 9.0]])
    plots.clusters(points, np.array([1, 1, 1, 3]), ("ant", "bee", "cat", "dog"), axes)
    assert {text.get_text(): text.xy for text in axes.texts} == {"bee": (1.0, 0.0), "dog": (9.0, 9.0)}


def test_more_classes_than_colours_differ_in_markers():
    _, (axes,) = plots.canvas()
    plots.clusters(np.arange(20.0).reshape(10, 2), np.arange(10), "abcdefghij", axes)
    seen = {
        (tuple(drawn.get_facecolor()[0]), tuple(map(tuple, drawn.get_paths()[0].vertices)))
        for drawn in axes.collections
    }
    assert len(seen) == 10


def test_matrices_share_their_colours(monkeypatch):
    drawn = []
    monkeypatch.setattr(sys.modules["jaxkd.plots.maps"], "save", lambda made, path: drawn.append(made))
    plots.matrices({"KD": np.array([[0.0, 1.0]]), "alone": np.array([[np.nan, 4.0]])}, "m.png", ("a", "b", "c"))
    *maps, scale = drawn[0].axes
    assert [axes.images[0].get_clim() for axes in maps] == [(0.0, 4.0)] * 2
    assert [axes.get_title() for axes in maps] == ["KD", "alone"]
    assert scale.get_ylabel() == "c"


def test_stacked_bars_begin_where_the_last_ended():
    _, (axes,) = plots.canvas()
    plots.stacked_bars({"KD": {"right": 0.7, "wrong": 0.3}, "alone": {"right": 0.98, "wrong": 0.02}}, axes, "images")
    assert [patch.get_x() for patch in axes.patches] == pytest.approx([0.0, 0.0, 70.0, 98.0])
    assert [text.get_text() for text in axes.texts] == ["70.0", "98.0", "30.0"]  # no room for 2.0
    assert axes.get_xlabel() == "images (%)"


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda file: plots.learning_curves({}, file), ValueError, "nothing to draw"),
        (lambda file: plots.learning_curves({"KD": []}, file), ValueError, "without runs"),
        (lambda file: plots.comparison({"KD": []}, file), ValueError, "'KD' has no runs"),
        (lambda file: plots.curves({}, file), ValueError, "nothing to draw"),
        (lambda file: plots.scatter({}, file), ValueError, "nothing to draw"),
        (lambda file: plots.matrices({}, file), ValueError, "nothing to draw"),
        (lambda file: plots.stacked_bars({}, file), ValueError, "nothing to draw"),
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


def test_ticks_are_round_and_whole_where_asked():
    _, (axes,) = plots.canvas()
    plots.curves({"KD": ([1, 2, 3], [69.2, 71.0, 73.1])}, axes)
    axes.set_ylim(69.2, 73.1)
    assert axes.get_yticks().tolist() == [70.0, 71.0, 72.0, 73.0]
    assert 1.5 in axes.get_xticks()
    axes.locator_params(axis="x", integer=True)
    assert axes.get_xticks().tolist() == [1.0, 2.0, 3.0]
