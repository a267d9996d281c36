"""Options from a file: YAML or JSON with the names of a command's options, or the `config.json` of a run.

The file stands before what is typed, which therefore has the last word; where neither says anything, the recipe
decides, and then the defaults.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from jaxkd import recipes
from jaxkd.command_line import CommandLine, at_home, no_option
from jaxkd.commands import method
from jaxkd.commands.around_the_loss import OPTIONS as AROUND
from jaxkd.commands.options import usual_training
from jaxkd.config import RunConfig
from jaxkd.formats.files import write_text
from jaxkd.records.directory import ABSENT, changes

NEVER = ("config", "save_config", "dry_run", "help", "list_recipes", "resume")
"""Options that belong to one call and not to a run."""

_READ_LATER = ("data.images", "data.normalization", "teacher.sha256", "init.sha256", "method.sha256")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for files of options to a command line."""
    group = parser.add_argument_group("file of options")
    group.add_argument(
        "--config",
        type=pathlib.Path,
        metavar="FILE",
        help="YAML or JSON with options by their names, as in 'epochs: 30', or the config.json of a run; what is typed "
        "has the last word",
    )
    group.add_argument(
        "--save-config",
        type=pathlib.Path,
        metavar="FILE",
        help="write the options, of the file and typed, as a file for --config, and end",
    )


def parse(
    parser: CommandLine, arguments: Sequence[str] | None, config_of: Callable[[argparse.Namespace], RunConfig]
) -> argparse.Namespace:
    """Return the options of a command line and of the file that it names.

    Args:
      parser: of the command, with the options of `add_options`.
      arguments: what was typed; None takes the process's own.
      config_of: makes a run of options; what it refuses is told as a mistake in the file.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", type=at_home)
    try:
        file = first.parse_known_args(given)[0].config
    except argparse.ArgumentError:
        file = None  # said in full below
    if file is None:
        options = parser.parse_args(given)
        if options.config is not None:
            parser.error(f"write --config {options.config} in full")
        return options
    parser.source = f"{file}: "
    try:
        content = read(file)
        if "settings" in content:
            run = RunConfig.from_dict(content)
            tokens = tokens_of(parser, options_of(run, parser))
            _check_same(run, config_of(parser.parse_args(tokens)))
        else:
            tokens = tokens_of(parser, content)
            parser.parse_args(tokens)
    except (ValueError, OSError) as error:
        parser.error(str(error).removeprefix(f"{file}: "))
    parser.source = ""
    options = parser.parse_args([*tokens, *given])
    if "--method" in parser._option_string_actions:
        try:
            method.prefer(options, parser.parse_args(tokens), parser.parse_args(given))
        except ValueError as error:
            parser.error(str(error))
    return options


def read(file: pathlib.Path) -> dict[str, Any]:
    """Return what a file of options says.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no YAML or JSON, or no mapping.
    """
    if file.is_dir():
        file = file / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: there is no such file; --config takes a YAML or JSON file, or the folder of a run"
        )
    try:
        content = _parsed(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"not valid YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError("options are expected by name, as in 'epochs: 30'")
    return content


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)  # YAML takes JSON too, but a number such as 1e-05 for text
    except ValueError:
        return yaml.safe_load(text)


def tokens_of(parser: CommandLine, content: Mapping[str, Any]) -> list[str]:
    """Return options of a file as they would be typed.

    Raises:
      ValueError: for a name that is no option, with the closest that is, or a value that an option cannot have.

    Example:
      >>> parser = CommandLine(prog="x")
      >>> _ = parser.add_argument("--epochs", type=int)
      >>> _ = parser.add_argument("--setting", action="append")
      >>> tokens_of(parser, {"epochs": 3, "setting": {"beta": 8}})
      ['--epochs=3', '--setting=beta=8']
    """
    known = {name.lstrip("-").replace("-", "_"): name for name in parser._option_string_actions if name[:2] == "--"}
    known = {name: option for name, option in known.items() if name not in NEVER and not name.startswith("no_")}
    tokens = []
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ValueError(no_option(key, known))
        tokens += _tokens(key, known[name], parser._option_string_actions[known[name]], value)
    return tokens


def _tokens(key: str, option: str, action: argparse.Action, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        if action.nargs == 0 or action.nargs == "?":
            off = [f"--no-{option[2:]}"] if isinstance(action, argparse.BooleanOptionalAction) else []
            return [option] if value else off
        raise ValueError(f"{key} is {str(value).lower()}, and {option} takes {action.metavar or 'a value'}")
    if action.nargs == 0:
        raise ValueError(f"{key} is {value!r}: give true or false")
    if isinstance(value, dict | list):
        if action.nargs == "+" and isinstance(value, list):
            return [option, *map(str, value)] if value else []
        if not isinstance(action, argparse._AppendAction):
            raise ValueError(f"{key} is {value!r}: give one value")
        entries = [f"{name}={number}" for name, number in value.items()] if isinstance(value, dict) else value
        return [f"{option}={entry}" for entry in entries]
    return [f"{option}={value}"]


def options_of(run: RunConfig, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the options that make a run again; where it goes, and what else belongs to one call, is left open.

    Raises:
      ValueError: a run of another command.
    """
    takes = parser._option_string_actions
    if (run.method is None) is not ("--model" in takes):
        command = "train" if run.method is None else "distill"
        raise ValueError(f"this is a run of jaxkd {command}: use it with jaxkd {command} --config")
    init, teacher, training = run.init, run.teacher, run.training
    options: dict[str, Any] = {
        "model" if run.method is None else "student": run.network,
        "data": run.data.name,
        "data_dir": run.data.data_dir,
        "image_size": run.data.image_size,
        "workers": run.data.workers,
        "validation_split": run.data.validation_split,
        "balanced": run.data.balanced,
        "recipe": run.recipe or training.name,
        **_numbers(run),
        "seed": run.seed,
        "precision": run.precision,
        "batch_norm": run.batch_norm,
        "gradient_accumulation_steps": run.gradient_accumulation_steps,
        "limit_examples": run.limit_examples,
        "limit_steps": run.limit_steps,
        "init" if run.method is None else "student_init": init and init.path,
        "head_learning_rate": init and init.head_learning_rate,
        "freeze": bool(init and init.freeze),
        **_around_the_loss(run),
    }
    if run.method is None:
        return options
    return options | {
        **_of_the_method(run, run.method),
        "teacher": teacher and ([teacher.path, *teacher.others] if teacher.others else teacher.path),
        "teacher_name": teacher and teacher.name,
        "evaluate_teacher": teacher.evaluate if teacher else None,
        "cache_teacher": teacher and (True if teacher.cache == "auto" else teacher.cache),
    }


def _numbers(run: RunConfig) -> dict[str, Any]:
    """Return length, batches and rate of a run, where its recipe has others: so that another recipe has its own."""
    ours, usual = run.training, _usual_training(run)
    names = ("epochs", "batch_size", "learning_rate")
    return {name: value for name in names if (value := getattr(ours, name)) != getattr(usual, name)}


def _usual_training(run: RunConfig) -> recipes.Training:
    """Return how a run would train without options that say otherwise."""
    return usual_training(recipes.get(run.recipe) if run.recipe else None, run.training.name, run.network)


def _of_the_method(run: RunConfig, ours: recipes.Method) -> dict[str, Any]:
    """Return which method a run has, where its recipe has another, and numbers that are not the published ones."""
    name = ours.name if ours.file is None else f"{ours.file.path}:{ours.file.function}"
    usual, by_recipe = recipes.get_method(name), recipes.get(run.recipe).method if run.recipe else None
    if by_recipe is not None and by_recipe.name == ours.name:
        usual = usual if _functions(_changed(ours.weights, by_recipe.weights)) else by_recipe
    weights = _changed(ours.weights, usual.weights)
    return {
        "method": None if usual is by_recipe else name,
        "weight": {term: weights[term] for term in weights.keys() - _functions(weights)},
        "setting": _changed(ours.settings, usual.settings),
    }


def _changed(ours: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in ours.items() if value != usual[name]}


def _functions(weights: Mapping[str, recipes.Weight]) -> set[str]:
    """Return the terms whose weights are functions of the epoch, which no option says."""
    return {term for term, weight in weights.items() if callable(weight)}


def _around_the_loss(run: RunConfig) -> dict[str, Any]:
    """Return what a run has around its loss where its recipe has something else."""
    usual = _usual_training(run).adapted(epochs=run.training.epochs)  # which scales its warm-up
    changed = {name: value for name in AROUND if (value := getattr(run.training, name)) != getattr(usual, name)}
    return {AROUND[name].get("flag", name).lstrip("-"): value for name, value in changed.items()}


def _check_same(run: RunConfig, again: RunConfig) -> None:
    """Refuse a run that options cannot make again.

    Raises:
      ValueError: with the settings that would differ.
    """
    lost = [
        f"{name} was {before!r} and would be {after!r}"
        for name, (before, after) in changes(run.settings(), again.settings()).items()
        if not name.startswith(_READ_LATER) and not (before in (None, ABSENT) and after in (None, ABSENT))
    ]
    if lost:
        raise ValueError(f"the run has settings that no option says: {'; '.join(lost)}")


def save(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Write the options that differ from the defaults to the file that `--save-config` names; return exit code 0.

    Raises:
      ValueError: for a file of another suffix than .yaml, .yml and .json.
    """
    file = options.save_config
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"--save-config {file}: give a name that ends in .yaml or .json")
    content = {}
    for action in parser._actions:
        value: Any = getattr(options, action.dest, None)
        if action.dest in NEVER or not action.option_strings or value == action.default:
            continue
        name = max(action.option_strings, key=lambda option: (option[:5] != "--no-", len(option)))
        plain = str(value) if isinstance(value, pathlib.Path) else value
        if isinstance(value, list):
            plain = list(map(str, value)) if action.nargs == "+" else dict(value)
        content[name.lstrip("-").replace("-", "_")] = True if plain == action.const == "auto" else plain
    text = json.dumps(content, indent=2) if file.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text.rstrip("\n") + "\n")
    print(f"{file} has the options: {parser.prog} --config {shlex.quote(str(file))}")
    return 0
