"""The pages: every example runs, every command is one its script takes, every link leads somewhere."""

import importlib
import inspect
import pathlib
import re
import shlex
import subprocess
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mistakes
import pytest
from flax import nnx
from image_tree import image_tree
from tiny import TinyNet, digits

import jaxkd
from jaxkd import __main__ as jaxkd_command
from jaxkd import convert, data, models, recipes
from jaxkd.commands.figures import FIGURES
from jaxkd.convert.architectures import abstract_model

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
FRONT = (ROOT / "README.md", ROOT / "experiments" / "README.md")
PAGES = sorted(page for page in DOCS.rglob("*.md") if "build" not in page.relative_to(DOCS).parts)
FENCE = re.compile(r"^(`{3,})(\S*)[^\n]*\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(
    r"(?:<!-- (?:needs (?P<needs>[^\n]*)|file (?P<file>[^\n]*)) -->\n)?^```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
ON_THE_FRONT_PAGES = ("ats_grid", "distill", "quickstart", "train_teacher")  # see tests/experiments/test_scripts.py


class Example(NamedTuple):
    """A fenced block of a page: the line it begins on, what it needs that nobody else has, the file it is, its code."""

    line: int
    needs: str | None
    file: str | None
    code: str


def name_of(page):
    return str(page.relative_to(ROOT))


def text_of(page):
    return page.read_text(encoding="utf-8")


def examples(page):
    text = text_of(page)
    return [
        Example(text.count("\n", 0, found.start("code")), found["needs"], found["file"], found["code"])
        for found in EXAMPLE.finditer(text)
    ]


def flowers(folder):
    from PIL import Image

    for split in ("train", "val"):
        for number, name in enumerate(("daisy", "rose")):
            (folder / "flowers" / split / name).mkdir(parents=True, exist_ok=True)
            for picture in ("1.png", "2.png"):
                Image.new("RGB", (80, 60), (90 * number, 120, 40)).save(folder / "flowers" / split / name / picture)


def weights(folder):
    if (folder / "cifar100_resnet20.pth").exists():
        return
    graph, state = nnx.split(abstract_model("resnet20", 100))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    convert.to_torch(nnx.merge(graph, zeros), folder / "cifar100_resnet20.pth")


def photographs(folder):
    """Two classes of photographs, and torchvision's ResNet-18 for the pages that are run with their networks."""
    if (folder / "photographs").exists():
        return
    image_tree(folder / "photographs", classes=2, train=16, val=4)
    if jaxkd.models is models:
        convert.to_torch(models.create("resnet18", num_classes=1000), folder / "resnet18.pth")


def logs(folder):
    place = folder / "experiments" / "results"
    place.mkdir(parents=True)
    (place / "authors").symlink_to(ROOT / "experiments" / "results" / "authors", target_is_directory=True)


AT_HAND = {
    "the folder flowers": flowers,
    "the file cifar100_resnet20.pth": weights,
    "the folder experiments/results/authors": logs,
    "the folder photographs and the file resnet18.pth": photographs,
}


def little(name, num_classes=100, seed=0, **options):
    """What a page creates, in a moment: a network of the zoo in all but its layers."""
    model = TinyNet(num_classes, seed)
    model.name, model.options, model.image_shape = name, (), (8, 8, 3)
    return model


def from_torch(path, *args, num_classes=None, **options):
    """What a page loads of ImageNet's networks, likewise."""
    if path != "resnet18.pth":
        return convert.from_torch(path, *args, num_classes=num_classes, **options)
    model = little("resnet18", num_classes)
    model.source = convert.manifest.Source(path, "", "", "the classifier was replaced")
    return model


def few_digits(name, *places, **options):
    """What a page loads, likewise: whole batches of 32 and 64."""
    if name != "digits":
        return data.load(name, *places, **options)
    train, test = digits()
    return train.subset(128), test.subset(32)


def stand_in(module, **changes):
    """A module with some names changed, for pages alone: what the library itself imported stays."""
    made = types.ModuleType(module.__name__)
    vars(made).update(vars(module) | changes)
    return made


def run(page, folder, monkeypatch):
    """Runs the examples of a page one after the other, with one epoch each; what they need is put into the folder."""
    monkeypatch.chdir(folder)
    names = {"__name__": "__main__"}
    for example in examples(page):
        if example.file is not None:
            (folder / example.file).write_text(example.code, encoding="utf-8")
        if example.needs is not None:
            if example.needs not in AT_HAND:
                continue
            AT_HAND[example.needs](folder)
        code = re.sub(r"\bepochs=\d+", "epochs=1", re.sub(r"\bbatch_size=\d+", "batch_size=32", example.code))
        exec(compile("\n" * example.line + code, name_of(page), "exec"), names)


WITH_EXAMPLES = [page for page in PAGES if examples(page)]
LONG = ("own-data",)
"""Pages whose examples are left to CI."""

ELSEWHERE = [(page, example) for page in WITH_EXAMPLES for example in examples(page) if example.needs]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.thorough] * (page.stem in LONG)) for page in WITH_EXAMPLES],
    ids=map(name_of, WITH_EXAMPLES),
)
def test_examples_run(page, tmp_path, monkeypatch):
    """As they stand, but for one epoch of a few digits and a small network in place of each."""
    monkeypatch.setattr(jaxkd, "models", stand_in(models, create=little))
    monkeypatch.setattr(jaxkd, "data", stand_in(data, load=few_digits))
    monkeypatch.setattr(jaxkd, "convert", stand_in(convert, from_torch=from_torch))
    monkeypatch.setattr("jaxkd.export.formats.is_of_the_zoo", lambda model: not isinstance(model, TinyNet))
    run(page, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples_run_with_their_networks(page, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize(("page", "example"), ELSEWHERE, ids=lambda value: str(getattr(value, "line", "")) or None)
def test_examples_that_need_files(page, example):
    compile(example.code, name_of(page), "exec")
    if example.needs not in AT_HAND:
        pytest.skip(f"{name_of(page)}:{example.line}: needs {example.needs}")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module


def commands(page, pattern):
    text = text_of(page).replace("\\\n", " ")
    text = text.partition(mistakes.BEGIN)[0] + text.partition(mistakes.END)[2]  # those are meant to be refused
    return [(name, shlex.split(rest, comments=True)) for name, rest in re.findall(pattern + r"([^\n`|&]*)", text)]


def takes(parse, page, arguments):
    try:
        parse(arguments)
    except SystemExit:
        pytest.fail(f"{name_of(page)}: {shlex.join(arguments)} is refused")


@pytest.mark.parametrize("page", [*PAGES, *FRONT], ids=name_of)
def test_commands_are_taken(scripts, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in examples(page):
        if example.file is not None:
            (tmp_path / example.file).write_text(example.code, encoding="utf-8")
    for name, arguments in commands(page, r"python experiments/(\w+)\.py"):
        if page in FRONT and name in ON_THE_FRONT_PAGES:
            continue
        script = scripts(name)
        own = arguments[: arguments.index("--")] if name == "reproduce" and "--" in arguments else arguments
        takes(script.command_line().parse_args, page, own)
        if name == "distill":
            script.config_of(script.command_line().parse_args(own))
    names = "|".join(name for group in jaxkd_command.COMMANDS.values() for name in group)
    for name, arguments in filter(lambda command: command[1], commands(page, rf"(?<![\w.-])jaxkd ({names})\b")):
        module = jaxkd_command.module(name)
        parser = module.command_line()
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        takes(
            parser.parse_intermixed_args if name in ("convert", "predict", "report") else parser.parse_args, page, own
        )
        if name == "distill" and "--config" not in own:
            module.config_of(parser.parse_args(own))
    for name, arguments in filter(lambda command: command[1], commands(page, r"python -m jaxkd\.([\w.]+)")):
        takes(scripts(f"jaxkd.{name}.__main__").command_line().parse_intermixed_args, page, arguments)


def test_recipes_on_the_pages_exist():
    names = {name for page in [*PAGES, *FRONT] for name in re.findall(r"--recipe ([\w+-]+(?:/[\w-]+)?)", text_of(page))}
    assert len(names) > 10
    assert names - {"METHOD/TEACHER-STUDENT"} <= {*recipes.list(), *recipes.trainings(), "NAME/TEACHER-STUDENT"}


def prose(page):
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "code", FENCE.sub("", text_of(page)))


def anchors(page):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*PAGES, FRONT[0]], ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def test_names_beside_kerass_exist():
    table = text_of(DOCS / "own-data.md").split("## Coming from Keras")[1].split("## ")[0]
    cells = "".join(re.findall(r"^\|[^|]*\|(.*)\|$", table, re.MULTILINE))
    found = set(re.findall(r"\b(callbacks|optimizers|convert|models|data)\.(\w+)", cells))
    assert len(found) > 6
    for module, name in found:
        assert hasattr(getattr(jaxkd, module), name), f"{module}.{name}"
    for name in ("CSVLogger", "EarlyStopping", "TerminateOnNaN", "LambdaCallback"):
        assert name in table
        assert hasattr(jaxkd.callbacks, name)
    arguments = {name for call in re.findall(r"compile\(([^`]*)\)`", cells) for name in re.findall(r"(\w+)=", call)}
    assert len(arguments) > 4
    assert arguments <= inspect.signature(jaxkd.Trainer.compile).parameters.keys()


def test_options_beside_mdistillers_exist(scripts):
    table = text_of(DOCS / "own-data.md").split("## Coming from mdistiller")[1]
    rows = re.findall(r"^\| `[^|]*\|(.*)\|$", table, re.MULTILINE)
    options = [option for row in rows for text in re.findall(r"`(--[^`]*)`", row) for option in shlex.split(text)]
    assert len(options) > 20
    parsed = scripts("distill").command_line().parse_args(options)
    assert (parsed.method, parsed.epochs, dict(parsed.setting)) == ("dkd", 240, {"alpha": 1, "beta": 8})


def test_pictures_are_described():
    for page in [*PAGES, FRONT[0]]:
        assert all(re.findall(r"!\[([^]]*)\]\(", text_of(page))), name_of(page)


def test_every_page_is_in_the_contents():
    found = {"index"}
    for page in (DOCS / "index.md", DOCS / "api" / "index.md"):
        (entries,) = re.findall(r"\{toctree\}\n:hidden:\n\n(.*?)```", text_of(page), re.DOTALL)
        found |= {str((page.parent / entry).relative_to(DOCS)) for entry in entries.split()}
    assert found == {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}


def test_included_parts_are_there():
    pattern = r"```\{include\} (\S+)\n(?::start-after: \"(.*)\"\n:end-before: \"(.*)\"|:start-line: 0)\n```"
    found = [(page, *parts) for page in PAGES for parts in re.findall(pattern, text_of(page))]
    assert len(found) == sum(text_of(page).count("{include}") for page in PAGES) > 1
    for page, path, start, end in found:
        text = text_of((page.parent / path).resolve())
        part = text.split(start)[1].split(end)[0] if start else text
        assert "\n|" in part, f"{name_of(page)}: {path}"


def public(module):
    """The names a module offers, other modules left out."""
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    defined = {name: getattr(module, name) for name in names}
    own = {name for name, value in defined.items() if getattr(value, "__module__", module.__name__) == module.__name__}
    shown = names if hasattr(module, "__all__") else own
    return {name for name in shown if not inspect.ismodule(defined[name]) and not name.startswith("_")}


def test_the_reference_has_every_public_name():
    sections = re.split(r"^## \[", text_of(DOCS / "api" / "index.md"), flags=re.MULTILINE)[1:]
    pages = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index", "distributed"}
    assert {re.search(r"\]\((\w+)\.md\)", section)[1] for section in sections} == pages
    for section in sections:
        module = importlib.import_module(re.search(r"currentmodule:: (\S+)", section)[1])
        assert f"automodule:: {module.__name__}\n" in text_of(DOCS / "api" / f"{module.__name__.split('.')[-1]}.md")
        listed = re.findall(r"^   ([\w.]+)$", section, re.MULTILINE)
        assert len(listed) == len(set(listed))
        assert {name for name in listed if "." not in name} == public(module), module.__name__


def test_every_method_is_on_its_page_with_its_class():
    text = text_of(DOCS / "methods.md")
    assert [name for name in recipes.methods() if f"`{name}`" not in text] == []
    links = re.findall(r"\[`(\w+)`\]\(\.\./(\S+\.py)\)", text)
    assert len(links) > 20
    for name, path in links:
        assert re.search(rf"^(class|def) {name}\(", text_of(ROOT / path), re.MULTILINE), f"{name} is not in {path}"


def test_every_figure_is_on_its_page():
    section = text_of(DOCS / "records.md").split("## Figures")[1]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)))
    assert set(named) == set(FIGURES)


def test_how_papers_train_is_what_the_recipes_say():
    rows = dict(
        re.findall(r"^\| `([\w-]+)`(?:, `[\w-]+`)*[^|]*\| (.*) \|$", text_of(DOCS / "reproducing.md"), re.MULTILINE)
    )
    assert recipes.get_training("standardization").epochs == recipes.get_training("repdistiller").epochs
    for name in set(recipes.trainings()) - {"mdistiller", "standardization"}:
        training = recipes.get_training(name)
        epochs, batch, rate, schedule, decay, _, reported = rows[name].split(" | ")
        assert (int(epochs), int(batch)) == (training.epochs, training.batch_size)
        assert (float(rate.split(";")[0]), float(decay)) == (training.learning_rate, training.weight_decay)
        assert tuple(map(int, re.findall(r"\d+", schedule.partition("after")[2]))) == training.drops
        assert ("cosine" in schedule) == (training.schedule == "cosine")
        assert reported == f"{training.reported} epoch"


@pytest.mark.slow
def test_the_pages_build(tmp_path):
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path / "pages")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "pages" / "api" / "losses.html").exists()
