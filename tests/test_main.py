"""All commands by their names."""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

from jaxkd import __main__ as command

NAMES = [name for group in command.COMMANDS.values() for name in group]


def test_help_lists_every_command_and_nothing_says_it_too(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    helped = capsys.readouterr().out
    assert command.main([]) == 0
    assert capsys.readouterr().out == helped
    assert all(f"\n  {name} " in helped for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_under_its_name(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: jaxkd {name} ")
    assert f"  jaxkd {name}" in printed
    assert ".py --" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "invalid choice: 'distil'; did you mean distill? there are quickstart, info,"),
        (["models", "--publised"], "there is no option --publised: did you mean --published?"),
        (["--verson"], "there is no option --verson: did you mean --version?"),
    ],
)
def test_mistakes_are_one_line_with_the_closest(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_options_and_names(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        command.main([f"--print-completion={shell}"])
    script = capsys.readouterr().out
    assert all(word in script for word in (*NAMES, "--learning-rate", "--no-balanced", "ctkd+std", "resnet32x4"))


def test_help_needs_no_jax():
    script = "import sys; from jaxkd.__main__ import command_line; command_line().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"jax", "numpy", "flax", "optax"} & set(done.stdout.split())


def test_the_package_s_names_are_there_whatever_was_imported_first():
    script = (
        "from jaxkd.sweep import Sweep\nimport jaxkd, json\n"
        "names = type(jaxkd.sweep).__name__, jaxkd.types.__name__, jaxkd.History.__name__\n"
        "print(json.dumps([*names, jaxkd.grid(a=[1])]))\n"
        "print(hasattr(jaxkd, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, other = done.stdout.splitlines()
    assert json.loads(names) == ["function", "jaxkd.types", "History", [{"a": 1}]]
    assert other == "False"


def test_the_entry_point_runs(tmp_path):
    project = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["jaxkd"].partition(":")
    as_script = f"import sys; from {module} import {function}; sys.argv[0] = 'bin/jaxkd'; {function}()"
    for called in (["-c", as_script], ["-m", "jaxkd"]):
        done = subprocess.run([sys.executable, *called, "recipes", "kdd"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "'kdd' is not a recipe" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["models"], []])
def test_a_terminal_that_has_ascii_alone_is_written_to_as_well(arguments, tmp_path):
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "jaxkd", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=ascii_alone, capture_output=True, check=True)
    assert done.stderr == b""
    assert done.stdout.isascii()
    assert b"\\u" not in done.stdout
