"""Typical mistakes with what is printed, for a table of the pages; run this file to write it anew."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shlex
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

import jaxkd
from jaxkd import __main__ as jaxkd_command
from jaxkd import convert, losses, models, optimizers

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "mistakes.md"
BEGIN, END = "<!-- mistakes: begin -->", "<!-- mistakes: end -->"


class Mistake(NamedTuple):
    """What is meant by it, and the line that makes it: of Python, or of a shell."""

    title: str
    line: str


MISTAKES = (
    Mistake("channels first", "trainer.fit(images.transpose(0, 3, 1, 2), labels)"),
    Mistake("pixels as floats up to 255", 'trainer.fit(images.astype("float32"), labels)'),
    Mistake("pixels divided by 255, where they are normalised", "trainer.evaluate(images / f255, labels)"),
    Mistake("a single image", "trainer.predict(images[0])"),
    Mistake("labels that count from one", "trainer.fit(images, labels + 1)"),
    Mistake("one-hot labels", "trainer.fit(images, np.eye(10)[labels])"),
    Mistake("sample weights in the place of the index", "trainer.fit([(images, labels, np.ones(60))])"),
    Mistake("sample weights by Keras's keyword", "trainer.fit(images, labels, class_weight={0: 2.0})"),
    Mistake("a misspelt keyword", "trainer.fit(images, labels, epoch=3)"),
    Mistake("no `compile`", "jaxkd.Trainer(network).fit(images, labels)"),
    Mistake("a rate in the place of an optimizer", "trainer.compile(0.05)"),
    Mistake("the class of a loss", 'trainer.compile(sgd, loss={"ce": losses.CrossEntropy})'),
    Mistake("a weight for a loss that is not there", 'trainer.compile(sgd, loss_weights={"kd": 0.9})'),
    Mistake("a layer that is not there", 'trainer.compile(sgd, trainable="classifier")'),
    Mistake("one network as both", "jaxkd.Distiller(student=network, teacher=network)"),
    Mistake("a teacher of other classes", "jaxkd.Distiller(network, hundred).compile(sgd, losses.KD(4.0))"),
    Mistake("a feature loss for a network without features", "jaxkd.Distiller(own, network).compile(sgd, losses.AT())"),
    Mistake("a mode that is not passed on", "jaxkd.Trainer(forgetful).evaluate(images, labels)"),
    Mistake("a name with a dash", 'models.create("resnet-20")'),
    Mistake("a file of another library", 'convert.from_torch("weights.h5")'),
    Mistake("another network than the file's", 'convert.from_torch("resnet8.pth", "resnet20")'),
    Mistake("a misspelt option", "jaxkd distill --studnet resnet20"),
    Mistake("words for a number", "jaxkd train --model resnet20 --epochs ten"),
    Mistake("no teacher", "jaxkd distill --data digits --student resnet8"),
    Mistake("a teacher that is not there", "jaxkd distill --data digits --student resnet8 --teacher resnet56.pth"),
    Mistake("a recipe that nobody published", "jaxkd distill --recipe=kd/resnet56-resnet21"),
    Mistake("a misspelt function of your own", "jaxkd distill --student resnet8 --method my_loss.py:biuld"),
    Mistake("freezing what was never trained", "jaxkd train --data digits --model resnet8 --freeze"),
    Mistake("a folder with a run in it", "jaxkd train --data digits --model resnet8 --output runs/done"),
)


class Own(nnx.Module):
    """Logits alone."""

    def __init__(self) -> None:
        self.fc = nnx.Linear(192, 10, rngs=nnx.Rngs(0))

    def __call__(self, images: Any) -> Any:
        return self.fc(images.reshape(len(images), -1))


class Forgetful(nnx.Module):
    """Takes a mode and does not pass it on."""

    def __init__(self) -> None:
        self.fc, self.bn = nnx.Linear(192, 10, rngs=nnx.Rngs(0)), nnx.BatchNorm(10, rngs=nnx.Rngs(0))

    def __call__(self, images: Any, train: bool = False) -> Any:
        return self.bn(self.fc(images.reshape(len(images), -1)))


def names() -> dict[str, Any]:
    """What the lines of Python use."""
    rng = np.random.default_rng(0)
    network: Any = models.create("resnet8", num_classes=10)
    network.normalization = jaxkd.Normalization((0.5,) * 3, (0.25,) * 3)
    trainer, sgd = jaxkd.Trainer(network), optimizers.sgd(0.05)
    trainer.compile(sgd)
    own, forgetful = Own(), Forgetful()
    for one in (own, forgetful):
        one.normalization = network.normalization  # type: ignore[attr-defined]
        one.image_shape = (8, 8, 3)  # type: ignore[attr-defined]
    return {
        "np": np,
        "jaxkd": jaxkd,
        "models": models,
        "losses": losses,
        "convert": convert,
        "f255": np.float32(255),
        "images": rng.integers(0, 256, (60, 8, 8, 3), np.uint8),
        "labels": np.arange(60) % 10,
        "network": network,
        "trainer": trainer,
        "sgd": sgd,
        "own": own,
        "forgetful": forgetful,
        "hundred": models.create("resnet8", num_classes=100),
    }


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """Run in a folder with the files that the lines speak of."""
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            pathlib.Path("weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
            convert.to_torch(models.create("resnet8", num_classes=10), "resnet8.pth")
            pathlib.Path("my_loss.py").write_text("from jaxkd import losses\ndef build():\n    return losses.KD(4.0)\n")
            pathlib.Path("runs/done").mkdir(parents=True)
            pathlib.Path("runs/done/config.json").write_text('{"settings": {}}')
            yield
        finally:
            os.chdir(before)


def printed(mistake: Mistake, known: dict[str, Any]) -> str:
    """What is said of a mistake: the last line of the error, or the warning; within `folder`."""
    if mistake.line.startswith("jaxkd "):
        return of_command(shlex.split(mistake.line)[1:])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            exec(mistake.line, known)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "; ".join(f"{one.category.__name__}: {one.message}" for one in seen)


def of_command(words: list[str]) -> str:
    """What a command prints to standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        jaxkd_command.module(words[0]).main(words[1:])
    return said.getvalue().strip()


def table() -> str:
    """The table, in Markdown."""
    known = names()
    with folder():
        rows = [(mistake, " ".join(printed(mistake, known).split())) for mistake in MISTAKES]
    lines = [f"| {mistake.title} | {cell(mistake.line)} | {cell(message)} |" for mistake, message in rows]
    return "\n".join(["| mistake | as in | what is printed |", "|---|---|---|", *lines])


def cell(text: str) -> str:
    """A text as code in a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def updated(page: str) -> str:
    """A page with its table as it is now."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
