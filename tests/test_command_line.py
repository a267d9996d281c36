"""Mistakes on a command line: one line with the cure, and no usage before it; Ctrl-C."""

import subprocess
import sys

import pytest
from experiment_scripts import imported

from jaxkd.commands import distill, figures, quickstart, reproduce, sweep, train
from jaxkd.convert import __main__ as convert_command
from jaxkd.report import __main__ as report_command

COMMANDS = {
    "train": train,
    "distill": distill,
    "sweep": sweep,
    "quickstart": quickstart,
    "reproduce": reproduce,
    "figures": figures,
}
SCRIPTS = ("train_teacher", "ats_grid", "benchmark", "decoding")


@pytest.fixture(scope="module")
def parsers():
    with imported(*SCRIPTS) as modules:
        found = {name: module.command_line() for name, module in [*COMMANDS.items(), *modules.items()]}
    return found | {"convert": convert_command.command_line(), "report": report_command.command_line()}


def said(parser, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    name, _, message = line.partition(": error: ")
    assert name == parser.prog
    return message


@pytest.mark.parametrize("name", [*COMMANDS, *SCRIPTS, "convert", "report"])
def test_a_mistake_is_one_line_in_every_command(parsers, name, capsys):
    extra = {"reproduce": ["x"], "figures": ["temperature", "x"], "convert": ["a", "b"], "report": ["a"]}.get(name, [])
    parser = parsers[name]
    own = parser._subparsers and next(iter(parser._subparsers._group_actions)).choices["temperature"]
    with pytest.raises(SystemExit):
        parser.parse_args([*extra, "--no-such-option"])
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert own is None or type(own) is type(parser)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "distill",
            ["--studnet", "resnet20"],
            "there is no option --studnet: did you mean --student? --help shows",
        ),
        (
            "distill",
            ["--temprature=4"],
            "there is no option --temprature: did you mean --temperature? --help",
        ),
        ("distill", ["--zzz"], "there is no option --zzz: --help shows all"),
        ("distill", ["--epochs", "ten"], "argument --epochs: 'ten' is not a whole number: give one, as in 30"),
        ("distill", ["--epochs", "2.5"], "argument --epochs: '2.5' is not a whole number: give one, as in 30"),
        ("distill", ["--kd-weight", "0,9"], "argument --kd-weight: '0,9' is not a number: give one, as in 0.05"),
        ("distill", ["--student"], "argument --student: it needs a value behind it; --help shows which"),
        ("distill", ["kd"], "'kd' belongs to no option: put it behind one, or in quotes if it is part of a name"),
        ("distill", ["--setting", "beta"], "argument --setting: 'beta': write NAME=NUMBER, as in kd=0.9"),
    ],
)
def test_what_is_printed(parsers, name, arguments, message, capsys):
    assert said(parsers[name], arguments, capsys).startswith(message)


def test_a_choice_that_does_not_exist_is_told_with_the_closest(parsers, capsys):
    message = said(parsers["train"], ["--data", "cifar-100"], capsys)
    assert message.startswith("argument --data: invalid choice: 'cifar-100'; did you mean cifar100? there are cifar10")
    message = said(parsers["distill"], ["--precision", "half"], capsys)
    assert message == "argument --precision: invalid choice: 'half'; there are float32, bfloat16, highest"


def test_the_home_is_known_where_shells_leave_its_sign(parsers, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parsers["distill"].parse_args(["--output=~/runs"]).output) == "/home/me/runs"
    assert str(parsers["figures"].parse_args(["temperature", "~/runs"]).runs[0]) == "/home/me/runs"


def test_a_missing_package_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert convert_command.main(["hf://someone/thing/x.safetensors", "out"]) == 2
    assert "huggingface_hub" in capsys.readouterr().err


HIDDEN = {
    "by a callback of the garbage collector": """
    gc.callbacks.append(lambda phase, info: signal.raise_signal(signal.SIGINT) if phase == "stop" else None)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(20)
""",
    "by a library's own error": """
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")
""",
}
PROGRAM = """
import gc, signal, time
from jaxkd.command_line import end
signal.signal(signal.SIGINT, signal.default_int_handler)
def main():
{}
end(main, resumable=True)
"""


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_hidden_ctrl_c_ends_a_command(hidden):
    """Libraries swallow it, or turn it into errors of theirs."""
    command = [sys.executable, "-c", PROGRAM.format(HIDDEN[hidden])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted; to resume: python -c --resume\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    "option", ["--output=gs://bucket/run", "--data-dir=s3://bucket", "--teacher=https://a.b/c.pth"]
)
def test_an_address_is_no_folder_of_this_machine(parsers, option, capsys):
    name, _, address = option.partition("=")
    assert said(parsers["distill"], [option], capsys) == (
        f"argument {name}: {address} is an address, and a path on this machine is needed: copy it here"
    )


NO_MEMORY = 'raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\\nAnd so on")'
ENDS = {
    'raise OSError(28, "No space left")': "[Errno 28] No space left; to resume: python -c --resume",
    'raise FloatingPointError("the loss is NaN")': "the loss is NaN. A run keeps its numbers to its end: with others "
    "it is another run, with an --output of its own",
    NO_MEMORY: "out of memory: give a smaller --batch-size, or --gradient-accumulation-steps 2 or --precision "
    "bfloat16; if no epoch was done, remove the run's folder first "
    "(RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)",
}


@pytest.mark.parametrize(("what", "message"), ENDS.items())
def test_what_ends_a_command_is_said_in_a_line(what, message):
    command = [sys.executable, "-c", PROGRAM.format(f"    {what}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")


def test_names_of_files_that_are_no_text_are_printed():
    program = PROGRAM.format("    print(b'\\xff.jpg'.decode('utf-8', 'surrogateescape')); return 0")
    command = [sys.executable, "-X", "utf8", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\\udcff.jpg\n")
