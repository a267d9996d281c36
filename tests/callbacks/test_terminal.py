"""Training on a terminal: real terminal devices of several widths, and what is seen on them."""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import warnings

import pytest
import tiny
from pseudo_terminal import PseudoTerminal

import jaxkd
from jaxkd import callbacks
from jaxkd.callbacks.terminal import EpochTable, wants_colour, warnings_apart

GREEN = "\033[1;32m"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing that the terminal of whoever runs the tests has set."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def terminal():
    made = []

    def make(columns):
        made.append(PseudoTerminal(columns))
        return made[-1]

    yield make
    for each in made:
        if not each.stream.closed:
            each.close()


def ticking():
    now = iter(range(0, 10**9, 1800))
    return lambda: next(now)


def rehearse(bar, epochs=3, validated=(0, 1, 2), terms=("ce", "kd", "kd_temperature")):
    """Goes through the hooks of training like the engine, two chunks an epoch."""
    bar.set_params({"epochs": 240, "steps": 391, "batch_size": 128, "images": 50000})
    bar.on_train_begin()
    for epoch in range(epochs):
        bar.on_epoch_begin(epoch)
        logs = {"loss": 4.5 / (epoch + 1), "accuracy": 0.25} | dict.fromkeys(terms, 1.25)
        for step in (200, 391):
            bar.on_train_batch_end(step, {**logs, "images_per_second": 12345.6})
        measured = {"val_loss": 3.0, "val_accuracy": (0.5, 0.25, 0.75)[epoch % 3]} if epoch in validated else {}
        bar.on_epoch_end(epoch, {**logs, "images_per_second": 12345.6, **measured})


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (60, "epoch loss val_accuracy accuracy images/s left"),
        (80, "epoch loss val_accuracy accuracy val_loss ce images/s left"),
        (120, "epoch loss val_accuracy accuracy val_loss ce kd kd_temperature images/s left"),
    ],
)
def test_every_line_fits_and_speed_and_time_stay(terminal, columns, names):
    screen = terminal(columns)
    rehearse(callbacks.ProgressBar(screen.stream, clock=ticking()))
    screen.close()
    header, *rows = screen.screen
    assert header.split() == names.split()
    assert [row.split()[0] for row in rows] == ["1/240", "2/240", "3/240"]
    assert {len(line) for line in (header, *rows)} == {len(header)}  # aligned
    assert len(header) < columns
    assert all(re.search(r" 12346 +\d+:\d\d:\d\d$", row) for row in rows)
    bars = [part for part in re.split(r"[\r\n]", screen.text) if "200/391" in part]
    assert len(bars) == 3
    for bar in bars:
        assert re.search(r"200/391 · 12346 images/s · \d+:\d\d:\d\d left", bar)
        assert len(bar) < columns
    assert ("ce 1.25" in bars[0]) == (columns == 120)


def test_names_come_again_where_the_width_changes_and_when_they_left_the_screen(terminal):
    screen = terminal(120)
    table = EpochTable(screen.stream)
    table.add("1/9", [{"loss": 2.0, "ce": 1.0, "kd": 3.0}], "9 images/s", "0:00:20 left")
    screen.resize(40)
    table.add("2/9", [{"loss": 2.0, "ce": 1.0, "kd": 3.0}], "9 images/s", "0:00:20 left")
    table.add("3/9", [{"loss": 12345678.0, "ce": 1.0, "kd": 3.0}], "9 images/s", "0:00:20 left")
    for epoch in range(4, 30):
        table.add(f"{epoch}/9", [{"loss": 2.0, "ce": 1.0, "kd": 3.0}], "9 images/s", "0:00:20 left")
    screen.close()
    headers = [number for number, line in enumerate(screen.screen) if line.lstrip().startswith("epoch")]
    assert headers[:3] == [0, 2, 4]
    assert len(headers) == 4
    assert screen.screen[0].split() == ["epoch", "loss", "ce", "kd", "images/s", "left"]
    assert screen.screen[2].split() == ["epoch", "loss", "images/s", "left"]
    assert max(map(len, screen.screen[2:])) < 40


def test_what_is_measured_now_and_then_keeps_its_column(terminal):
    screen = terminal(100)
    rehearse(callbacks.ProgressBar(screen.stream, clock=ticking()), epochs=4, validated=(1, 3), terms=())
    screen.close()
    first, one, header, *rows = screen.screen
    assert "val_accuracy" not in first
    assert one.split()[:3] == ["1/240", "4.5000", "0.2500"]
    place = header.index("val_accuracy"), header.index("val_accuracy") + len("val_accuracy")
    assert [row[slice(*place)].strip() for row in rows] == ["0.2500", "", "0.5000"]


def test_the_best_so_far_is_green(terminal):
    screen = terminal(100)
    rehearse(callbacks.ProgressBar(screen.stream, clock=ticking()))
    screen.close()
    assert re.findall(re.escape(GREEN) + r" *([\d.]+)", screen.text) == ["0.5000", "0.7500"]


def test_no_color_is_heeded(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal(100)
    rehearse(callbacks.ProgressBar(screen.stream, clock=ticking()))
    screen.close()
    assert "\033[" not in screen.text.replace("\033[A", "")
    assert "0.7500" in screen.text


@pytest.mark.parametrize(
    ("changes", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
    ],
)
def test_when_there_are_colours(monkeypatch, changes, is_terminal, expected):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    assert wants_colour(stream) is expected


def test_a_log_file_has_plain_lines(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        rehearse(callbacks.ProgressBar(stream, clock=ticking()))
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/240 · loss 4.5 · accuracy 0.25 · ce 1.25 · kd 1.25 · kd_temperature 1.25 · ")
    assert not set("\r\033") & set("".join(lines))


def test_colours_can_be_had_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    rehearse(callbacks.ProgressBar(stream, clock=ticking()))
    assert stream.getvalue().count(f"{GREEN}val_accuracy") == 2


def test_runs_of_a_sweep_are_ranges_in_the_same_table(terminal):
    screen = terminal(60)
    table = EpochTable(screen.stream)
    table.add("1/2", [{"loss": 2.5, "val_accuracy": 0.25}, {"loss": 2.0, "val_accuracy": 0.25}])
    screen.close()
    header, row = screen.screen
    assert header.split() == ["epoch", "loss", "val_accuracy"]
    assert row.split() == ["1/2", "2.0000…2.5000", "0.2500"]


# Warnings

WARNS = """
import jaxkd, signal, sys, warnings
from jaxkd import callbacks, losses, optimizers
from tiny import TinyNet, digits

class WarnWithinAnEpoch(callbacks.Callback):
    def on_train_batch_end(self, step, logs=None):
        if step == 1:
            warnings.warn("something within the epoch")

own = warnings.formatwarning
rule = losses.CurriculumTemperature(curriculum=losses.cosine_curriculum(1))
rule.raw[...] = -12.0  # at its bound from the first step
distiller = jaxkd.Distiller(student=TinyNet(), teacher=TinyNet(seed=1, width=4))
distiller.compile(optimizers.sgd(0.01), loss={"kd": losses.KD(rule)}, steps_per_execution=1)
distiller.fit(digits()[0].subset(64), batch_size=32, epochs=3, callbacks=[WarnWithinAnEpoch()])
print("as before:", warnings.formatwarning is own)

signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is ignored

class CtrlC(callbacks.Callback):
    def on_train_batch_end(self, step, logs=None):
        signal.raise_signal(signal.SIGINT)

try:
    distiller.fit(digits()[0].subset(64), batch_size=32, callbacks=[CtrlC(), callbacks.Checkpoint("saved")])
except KeyboardInterrupt:
    print("stopped")
distiller.fit(digits()[0].subset(64), batch_size=32, callbacks=[callbacks.LambdaCallback(on_train_batch_end=1)])
"""


def test_warnings_stand_above_the_bar_once_and_without_source(terminal, tmp_path):
    screen = terminal(60)
    folders = [str(pathlib.Path(jaxkd.__file__).parents[1]), str(pathlib.Path(tiny.__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", WARNS]
    output = {"stdout": screen.stream, "stderr": screen.stream}
    ran = subprocess.run(command, **output, env=environment, cwd=tmp_path, timeout=120)
    screen.close()
    lines = screen.screen
    trained = lines[: lines.index("as before: True")]
    text = " ".join(trained)
    assert trained[0] == "warning: something within the epoch"
    assert text.count("something within the epoch") == text.count("stayed at its lower bound") == 1
    assert ".py" not in text
    assert "UserWarning" not in text
    assert max(map(len, trained)) < 60
    assert [line.split()[0] for line in trained if re.match(r" +\d/3 ", line)] == ["1/3", "2/3", "3/3"]
    assert "|" not in text  # no rest of a bar
    # Ctrl-C within an epoch: what is said of it has a line of its own.
    heard, *then = lines[len(trained) + 1 : len(trained) + 4]
    assert heard == "saving, then ending; Ctrl-C again ends at once"
    assert then == ["Ctrl-C: saved in saved, to resume from", "stopped"]
    # The last one fails within its first epoch, and its bar is gone when the traceback comes.
    assert ran.returncode == 1
    assert lines[len(trained) + 4] == "Traceback (most recent call last):"


def test_ones_own_form_of_warnings_is_taken(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", lambda message, *rest, **named: f"OWN {message}")
    with warnings_apart():
        assert warnings.formatwarning("hot", UserWarning, "a.py", 1) == "OWN hot"


def test_python_s_own_is_put_back_after_an_error():
    own = warnings.formatwarning
    told = []
    with contextlib.suppress(ValueError), warnings_apart():
        told.append(warnings.formatwarning("hot", UserWarning, "a.py", 1, "line = 1"))
        raise ValueError
    assert told == ["warning: hot\n"]
    assert warnings.formatwarning is own


def test_a_form_that_is_set_within_stays(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    with warnings_apart():
        theirs = warnings.formatwarning = lambda *given, **named: ""
    assert warnings.formatwarning is theirs
