"""`import jaxkd` is light, and its parts do not depend on those above them."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import jaxkd

PACKAGE = pathlib.Path(jaxkd.__file__).parent
HEAVY = {
    *("PIL", "grain", "jinja2", "matplotlib", "psutil", "sklearn", "tensorboard", "tensorflow", "tensorflow_datasets"),
    *("huggingface_hub", "jax2onnx", "onnxruntime", "torch", "tqdm", "wandb"),
}


@pytest.mark.parametrize(("given", "cache"), [("", "HOME/.cache/jaxkd"), ("HOME/own", "HOME/own/jaxkd")])
def test_compiled_programs_are_kept_in_the_users_cache(tmp_path, given, cache):
    """An empty variable is as good as none, by the specification of these directories."""
    home = str(tmp_path)
    told = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    told |= {"HOME": home, "XDG_CACHE_HOME": given.replace("HOME", home), "JAX_PLATFORMS": "cpu"}
    script = "import jax, jaxkd.types; print(jax.config.jax_compilation_cache_dir)"
    found = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == cache.replace("HOME", home)


def test_import_jaxkd_loads_nothing_heavy():
    script = (
        "import sys, jaxkd\n"
        "from jaxkd import callbacks, convert, data, losses, metrics, models, optimizers\n"
        "train, test = data.load('digits')\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_names_are_those_of_the_reference():
    script = "import jaxkd; print(*dir(jaxkd)); print(*(type(getattr(jaxkd, name)).__name__ for name in dir(jaxkd)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    names, kinds = (line.split() for line in done.stdout.splitlines())
    assert names == sorted(jaxkd.__all__)
    found = dict(zip(names, kinds, strict=True))
    assert {name for name, kind in found.items() if kind == "module"} == {
        "analysis", "callbacks", "convert", "data", "losses", "metrics", "models", "optimizers", "recipes", "records",
    }  # fmt: skip
    assert found["sweep"] == found["grid"] == "function"


def imported(path):
    """The modules of jaxkd that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxkd":
            found |= {f"jaxkd.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "jaxkd"}


PROGRAMS = ("trainer", "distiller", "records", "report", "analysis", "recipes", "sweep", "export", "commands")
"""What users call; the parts below know nothing of it."""
SIBLINGS = ("losses", "models", "data", "training", "convert", "optimizers", "callbacks")
"""What `Trainer` brings together; only the engine and the converter know some of the others."""


@pytest.mark.parametrize(
    ("folder", "above"),
    [
        ("nn", (*PROGRAMS, *SIBLINGS, "formats")),
        ("formats", (*PROGRAMS, *SIBLINGS, "nn")),
        *(
            (part, (*PROGRAMS, *(s for s in SIBLINGS if s != part)))
            for part in ("losses", "models", "data", "callbacks")
        ),
        ("training", (*PROGRAMS, "callbacks", "convert", "models")),
        ("convert", (*PROGRAMS, "losses", "optimizers", "callbacks")),
        ("records", ("report", "analysis", "export", "commands")),
        ("analysis", ("report", "records", "plots", "export", "commands")),
        ("plots", (*PROGRAMS, "training", "callbacks", "convert", "losses", "models", "data")),
        (
            "recipes",
            ("trainer", "distiller", "records", "report", "analysis", "training", "callbacks", "convert", "commands"),
        ),
        *((part, ("commands",)) for part in ("report", "export")),
    ],
)
def test_nothing_points_back_up(folder, above):
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    for path in files:
        if path.name == "__main__.py":
            continue  # a program, above everything
        upward = {name for name in imported(path) if name.split(".")[1:2] and name.split(".")[1] in above}
        assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"
