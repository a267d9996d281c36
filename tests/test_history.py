"""What a history shows of itself; what it keeps is in tests/callbacks and in its own examples."""

import io

import pytest

from jaxkd import History


def history(**quantities):
    epochs = len(next(iter(quantities.values())))
    return History.from_dict({"epoch": list(range(epochs)), "history": quantities})


def test_in_a_notebook_it_is_a_table_of_its_epochs():
    shown = history(loss=[2.0, 1.5], val_accuracy=[None, 0.5], **{"a<b": [1.0, 2.0]})._repr_html_()
    assert shown.startswith("<table>")
    assert shown.count("<tr>") == 3
    for cell in (">epoch<", ">val_accuracy<", ">2<", ">1.5000<", ">0.5000<", "><", ">a&lt;b<"):
        assert cell in shown
    assert "a<b" not in shown


def test_before_training_it_says_so():
    assert History()._repr_html_() == "History: nothing yet"


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


def test_its_picture_has_loss_and_accuracy_with_validation_in_the_same_axes(matplotlib):
    figure = history(loss=[2.0, 1.0], accuracy=[0.25, 0.5], val_loss=[2.0, 1.5], kd=[3.0, 2.0]).plot()
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "accuracy (%)")
    assert [line.get_label() for line in left.get_lines()] == ["training", "validation"]
    assert [line.get_label() for line in right.get_lines()] == ["training"]
    assert left.get_lines()[1].get_ydata().tolist() == [2.0, 1.5]
    assert right.get_lines()[0].get_ydata().tolist() == [25.0, 50.0]


def test_a_quantity_is_drawn_by_its_name(matplotlib):
    figure = history(loss=[2.0, 1.0], kd_temperature=[4.0, 3.0]).plot("kd_temperature")
    (axes,) = figure.axes
    assert axes.get_ylabel() == "kd temperature"
    assert axes.get_lines()[0].get_ydata().tolist() == [4.0, 3.0]


def test_what_was_not_measured_cannot_be_drawn(matplotlib):
    with pytest.raises(KeyError, match="'dkd' was never measured; give one of loss"):
        history(loss=[2.0]).plot(["dkd"])
    with pytest.raises(KeyError, match="nothing to draw; there are: kd"):
        history(kd=[2.0]).plot()


def test_a_notebook_gets_the_picture_as_a_png_of_its_size(matplotlib):
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    figure = history(loss=[2.0, 1.0], accuracy=[0.25, 0.5]).plot()
    assert isinstance(figure, Figure)
    picture = imread(io.BytesIO(figure._repr_png_()), format="png")
    assert picture.shape[:2] == (300, 800)  # 3 by 8 inches, at 100 dots an inch
    assert picture.min() < 0.5  # not an empty page


def test_the_picture_can_be_saved(matplotlib, tmp_path):
    figure = history(loss=[2.0, 1.0]).plot()
    figure.savefig(tmp_path / "loss.svg")
    assert "<svg" in (tmp_path / "loss.svg").read_text()
