"""Training in a notebook, as far as it can be seen without one."""

import sys
import types

import pytest

from jaxkd import callbacks
from jaxkd.callbacks.progress_bar import NotebookProgress, in_notebook


class Output:
    """Stands in for what IPython shows below a cell: what was shown, as HTML, in order."""

    def __init__(self):
        self.shown = []

    def update(self, thing):
        self.shown.append(thing._repr_html_())


@pytest.fixture
def output(monkeypatch):
    """A kernel: IPython with an application behind it, and a place where the cell's output goes."""
    made = Output()

    def display(thing, display_id):
        assert display_id is True
        made.update(thing)
        return made

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return made


def width(shown):
    return int(shown.split("width:")[2].split("%")[0])


def test_a_kernel_is_a_notebook_and_a_shell_is_not(output, monkeypatch):
    assert in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace(kernel=None))
    assert not in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_the_bar_is_as_long_as_the_part_that_is_done(output, monkeypatch):
    monkeypatch.setattr("jaxkd.callbacks.progress_bar._SECONDS", -1.0)
    view = NotebookProgress(8)
    for step in (2, 8):
        view.show(step, "epoch 1/2", ["kd 1.5"], "90 images/s", "0:00:01 left")
    assert [width(shown) for shown in output.shown] == [0, 25, 100]
    assert "epoch 1/2 · 8/8 · 90 images/s · 0:00:01 left · kd 1.5" in output.shown[-1]
    assert repr(view) == "epoch 1/2 · 8/8 · 90 images/s · 0:00:01 left · kd 1.5"


def test_quick_steps_are_not_all_drawn_but_the_last_one_is(output, monkeypatch):
    monkeypatch.setattr("jaxkd.callbacks.progress_bar._SECONDS", float("inf"))
    view = NotebookProgress(100)
    for step in range(1, 101):
        view.show(step, "epoch 1/1", [], "", "")
    assert [width(shown) for shown in output.shown] == [0, 100]


def test_where_the_steps_are_not_known_there_is_no_bar(output, monkeypatch):
    monkeypatch.setattr("jaxkd.callbacks.progress_bar._SECONDS", -1.0)
    NotebookProgress(None).show(3, "epoch 1/2", [], "", "")
    assert output.shown[-1] == "<div>epoch 1/2 · step 3</div>"


def test_epochs_that_are_done_are_rows_and_only_the_latest_are_shown(output):
    view = NotebookProgress(4)
    for epoch in range(25):
        view.add(epoch, {"loss": 2.0 - epoch / 100}, f"epoch {epoch + 1}/25")
    assert output.shown[0].count("<tr>") == 0
    assert output.shown[1].count("<tr>") == 2  # names, and one epoch
    assert output.shown[-1].count("<tr>") == 21
    assert "1.7600" in output.shown[-1]
    assert ">5<" not in output.shown[-1]
    assert ">6<" in output.shown[-1]


def test_names_are_escaped(output, monkeypatch):
    monkeypatch.setattr("jaxkd.callbacks.progress_bar._SECONDS", -1.0)
    view = NotebookProgress(4)
    view.show(1, "epoch 1/1", ["<b> 1"], "", "")
    view.add(0, {"<i>": 1.0}, "done")
    assert "<b>" not in output.shown[1]
    assert "&lt;b&gt; 1" in output.shown[1]
    assert "<i>" not in output.shown[2]


def test_progress_goes_below_the_cell_and_not_to_the_error_stream(output, capsys):
    bar = callbacks.ProgressBar(clock=iter(range(100)).__next__)
    bar.set_params({"epochs": 2, "steps": 4, "batch_size": 8, "images": 32})
    bar.on_train_begin()
    for epoch in range(2):
        bar.on_epoch_begin(epoch)
        for step in (2, 4):
            bar.on_train_batch_end(step, {"kd": 1.5, "images_per_second": 100.0})
        bar.on_epoch_end(epoch, {"kd": 1.5, "images_per_second": 100.0})
    assert capsys.readouterr() == ("", "")
    assert "epoch 2/2" in output.shown[-1]
    assert output.shown[-1].count("<tr>") == 3


def test_a_stream_that_was_asked_for_is_written_to_in_a_notebook_too(output, capsys):
    bar = callbacks.ProgressBar(sys.stdout)
    bar.set_params({"epochs": 1, "steps": 4, "batch_size": 8, "images": 32})
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    bar.on_epoch_end(0, {"loss": 1.5})
    assert capsys.readouterr().out.startswith("epoch 1/1 · loss 1.5")
    assert output.shown == []
