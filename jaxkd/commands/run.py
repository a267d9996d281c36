"""From a `RunConfig` to a trained network in its run directory.

In the order in which a command calls them: `read`, `prepare`, then of each `Experiment` `check`, and `fit` or
`fit_together`, which start its directory. Of several processes the first one writes and prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxkd
from jaxkd import convert, data, losses, models, recipes
from jaxkd.callbacks.terminal import fitted
from jaxkd.commands.beginning import Beginning
from jaxkd.commands.options import published
from jaxkd.config import RunConfig
from jaxkd.formats.files import sha256
from jaxkd.nn.modes import Trainable
from jaxkd.optimizers import by_layer, clipped
from jaxkd.records import RunDirectory
from jaxkd.training.gradient_accumulation import check_microbatches
from jaxkd.training.sharding import Placement
from jaxkd.types import tree_size

Images = data.Dataset | data.StreamedDataset


def load_teacher(config: RunConfig) -> Any:
    """Return the teacher, from a torch file or a saved model; None where none is given and the method needs none.

    Several are one, `models.Ensemble`.

    Raises:
      ValueError, OSError: for a method without its teacher, another network than is named, a file that cannot be read.
    """
    wanted = config.teacher
    if wanted is None or wanted.path is None:
        require_no_teacher(config)
        return None
    paths = (wanted.path, *wanted.others)
    names = (wanted.name or "").split("+")
    if len(names) == 1:
        names *= len(paths)
    if len(names) != len(paths):
        raise ValueError(f"--teacher-name {wanted.name}: number of names {len(names)}, of teachers {len(paths)}")
    found = [_load(path, name or None, config.recipe) for path, name in zip(paths, names, strict=True)]
    return models.Ensemble(found) if wanted.others else found[0]


def _load(path: pathlib.Path, name: str | None, recipe: str | None) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"--teacher {path}: there is no such file or folder")
    try:
        return convert.load_pretrained(path, name).model
    except ValueError as error:
        if name is None:
            raise
        by_recipe = recipe is not None and recipes.get(recipe).teacher == name
        whose = f"--recipe {recipe} has a {name}" if by_recipe else f"--teacher-name {name}"
        raise ValueError(f"{whose}, but {error}") from error


def members(teacher: Any) -> list[Any]:
    """Return the networks that a teacher is made of: itself, or those of an ensemble."""
    return list(teacher.networks) if isinstance(teacher, models.Ensemble) else [teacher]


def name_of(teacher: Any) -> str:
    """Return the name of a teacher in records: its network, or those of an ensemble with + between them."""
    return "+".join(network.name for network in members(teacher))


def require_no_teacher(config: RunConfig) -> None:
    """Refuse a method that needs a teacher."""
    if config.method is not None and config.method.needs_teacher:
        which = f", a {config.teacher.name}" if config.teacher and config.teacher.name else ""
        raise ValueError(f"--method {config.method.name} needs a --teacher{which}")


def load_data(config: RunConfig) -> tuple[Images, Images]:
    """Return training and test images, normalised as the recipe says.

    Raises:
      FileNotFoundError, ValueError: as `data.load`.
    """
    mean, std = config.training.normalization or (None, None)
    wanted = ("image_size", "workers", "validation_split")
    read: dict[str, Any] = {name: getattr(config.data, name) for name in wanted}
    train, test = data.load(config.data.name, config.data.data_dir, mean=mean, std=std, **read)
    if crops_on_device(config, train):  # mirrored as before, and not shifted
        train = train.replace(augmentation=train.augmentation and dataclasses.replace(train.augmentation, pad=0))
    if config.limited:
        limit = min(
            config.limit_examples or len(train), (config.limit_steps or len(train)) * config.training.batch_size
        )
        train, test = some_of(train, limit), some_of(test, limit)
    return (train.replace(balanced=True) if config.data.balanced else train), test


def crops_on_device(config: RunConfig, train: Images) -> bool:
    """Tell whether training crops and resizes images that are in memory; others are when they are read."""
    return config.training.resized_crop and isinstance(train, data.Dataset)


def some_of(images: Images, count: int) -> Images:
    """Return so many of the images, or all where there are no more, from all over the set: many are sorted by class."""
    return images.take(spread_over(len(images), count)) if count < len(images) else images


def spread_over(total: int, count: int) -> np.ndarray:
    """Return `count` of the numbers below `total`, as far from each other as can be.

    Example:
      >>> spread_over(7, 3).tolist()
      [0, 3, 6]
    """
    return np.linspace(0, total - 1, min(count, total)).astype(int)


def check_classes(network: Any, images: Images, whose: str = "the teacher") -> None:
    """Refuse images of other classes than a network was trained for."""
    if network.num_classes != images.num_classes:
        raise ValueError(
            f"{whose} has {network.num_classes} classes, but {images.name} has {images.num_classes}: "
            "choose the --data it was trained on"
        )


def resolve(config: RunConfig, train: Images, teacher: Any = None) -> RunConfig:
    """Return the configuration with what only the files say: statistics of the images, name and hashes of weights."""
    images = dataclasses.replace(config.data, images=len(train), normalization=train.normalization)
    if config.init is not None and config.init.path is not None:
        config = dataclasses.replace(config, init=dataclasses.replace(config.init, sha256=sha256(config.init.path)))
    if teacher is None or config.teacher is None or config.teacher.path is None:
        return dataclasses.replace(config, data=images, teacher=None)
    paths = (config.teacher.path, *config.teacher.others)
    digests = [convert.Pretrained(one, path).sha256 for one, path in zip(members(teacher), paths, strict=True)]
    found = dataclasses.replace(config.teacher, name=name_of(teacher), sha256=digest_of(digests))
    return dataclasses.replace(config, data=images, teacher=found)


def digest_of(digests: Sequence[str]) -> str:
    """Return one digest of those of several files: of a single one its own."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read(config: RunConfig) -> tuple[RunConfig, Any, Images, Images]:
    """Return the resolved configuration, the teacher, and training and test images.

    Raises:
      ValueError, OSError: as `load_teacher` and `load_data`, and for a teacher of other classes.
    """
    teacher = load_teacher(config)
    train, test = load_data(config)
    if teacher is not None:
        check_classes(teacher, train)
    return resolve(config, train, teacher), teacher, train, test


def compiled(config: RunConfig, train: Images, teacher: Any = None) -> jaxkd.Trainer:
    """Return a new network with its losses and optimizer, ready to `fit`.

    Raises:
      ValueError: for an unknown network, or one that a loss cannot work with; for crops that a loss would not see.
    """
    network, terms = initial_network(config, train.num_classes), losses_of(config, train)
    cropped = [data.CropAndResize()] if crops_on_device(config, train) else []
    if cropped and isinstance(terms, dict) and any(hasattr(term, "strong_view") for term in terms.values()):
        raise ValueError(
            "--resized-crop: a loss has a strong view of its own, which would be of whole images: leave it out"
        )
    trainer = jaxkd.Trainer(network) if teacher is None else jaxkd.Distiller(student=network, teacher=teacher)
    trainer.compile(
        optimizer_of(config, network),
        loss=terms,
        loss_weights=config.method.weights if config.method else None,
        metrics=("accuracy", "top5"),
        seed=config.seed,
        image_shape=train.image_shape,
        precision=config.precision,
        cache_teacher=teacher_cache(config.teacher.cache if config.teacher else None),
        batch_norm=config.batch_norm,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        trainable=models.head(network) if config.init is not None and config.init.freeze else None,
        augment=[*cropped, *config.training.augmentations],
        mixing=config.training.mixing,
        ema=None if config.training.ema_decay is None else jaxkd.EMA(config.training.ema_decay),
    )
    return trainer


def losses_of(config: RunConfig, train: Images) -> Any:
    """Return the losses of a run, with the label smoothing of its schedule.

    Raises:
      ValueError: for smoothing without a cross-entropy.
    """
    smoothing = config.training.label_smoothing
    return losses.CrossEntropy(smoothing) if config.method is None else config.method.losses(train, smoothing)


def initial_network(config: RunConfig, num_classes: int) -> Any:
    """Return the network before training: drawn from the seed, or with the weights that it starts from.

    Raises:
      FileNotFoundError, ValueError: for an unknown network, or weights that are missing or not for it.
    """
    options = config.training.network_options
    if config.init is None or config.init.path is None:
        network: Any = models.create(config.network, num_classes=num_classes, seed=config.seed, **options)
    else:
        if options:
            raise ValueError(f"{' and '.join(options)} are for a network whose weights are drawn: give 0 for each")
        where = config.init.path
        network = convert.load_pretrained(where, config.network, num_classes=num_classes, seed=config.seed).model
    if config.training.resize_to is not None:
        network.resize_to = config.training.resize_to
    return network


def optimizer_of(config: RunConfig, network: Any) -> Any:
    """Return the optimizer of the schedule, with a rate of its own for the classifier where one is given."""
    training, init = config.training, config.init
    if init is None or init.head_learning_rate is None:
        return training.optimizer()
    for_head = training.adapted(learning_rate=init.head_learning_rate)
    if init.freeze:
        return for_head.optimizer()
    rest, head = (dataclasses.replace(one, clip_norm=None).optimizer() for one in (training, for_head))
    both = by_layer(rest, dict.fromkeys(models.head(network), head))
    return both if training.clip_norm is None else clipped(both, training.clip_norm)


def teacher_cache(option: str | None) -> bool | str | jaxkd.TeacherCache:
    """Return what `--cache-teacher` says, as `compile` takes it: nothing, "auto", or a folder."""
    if option is None:
        return False
    return option if option == "auto" else jaxkd.TeacherCache(option)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run that is about to be trained.

    Attributes:
      config: what it is, resolved.
      trainer: compiled.
      train: the images it learns from.
      test: the images that are evaluated after every epoch.
      directory: of the run.
      facts: what else belongs to the result.
    """

    config: RunConfig
    trainer: jaxkd.Trainer
    train: Images
    test: Images
    directory: RunDirectory
    facts: Mapping[str, Any]

    @property
    def can_share_a_program(self) -> bool:
        """Tell whether it can be one of several runs of `jaxkd.sweep`."""
        alone = self.config.batch_norm == "per_device"
        return isinstance(self.train, data.Dataset) and jax.process_count() == 1 and not alone

    def check(self) -> None:
        """Refuse what would damage a run, see `RunDirectory.check`, and batches that cannot be cut."""
        check_batches(self.config)
        if is_first():
            self.directory.check(self.config.settings(), self.config.resume)

    @property
    def is_finished(self) -> bool:
        """Tell whether it is resumed, and has its result; several processes need not see each other's files."""
        return self.config.resume and jax.process_count() == 1 and self.directory.result_file.exists()

    def start(self) -> None:
        """Make the run directory and write `config.json`, unless another process has made it since `check`."""
        if is_first():
            self.directory.check(self.config.settings(), self.config.resume)
            self.directory.start(self.config.settings(), self.config.arguments())
            self.directory.hold()

    def finish(self, **facts: Any) -> None:
        """Write and print the result; `facts` are those that were not known before."""
        rates = self.trainer.history.history["images_per_second"]
        seconds = sum(len(self.train) / rate for rate in rates if rate)
        training = self.config.training
        first = {"seed": self.config.seed, "epochs": training.epochs, "training_seconds": round(seconds, 2)}
        if is_first():
            everything = {**first, **facts, **self.facts}
            result = self.directory.finish(self.trainer, self.config.role, training.reported, everything)
            print_result(result, self.directory)


def prepare(config: RunConfig, train: Images, test: Images, teacher: Any = None) -> Experiment:
    """Return the run of a resolved configuration, compiled.

    Raises:
      ValueError: as `compiled`.
    """
    trainer = compiled(config, train, teacher)
    network = {"name": config.network, "parameters": parameters(trainer.model), **start_of(config, trainer.model)}
    limits = {"limited": {"train": len(train), "test": len(test)}} if config.limited else {}
    facts = {config.role: network, "image_shape": train.image_shape, **published(config), **limits}
    return Experiment(config, trainer, train, test, RunDirectory(config.folder), facts)


def start_of(config: RunConfig, network: Any) -> dict[str, Any]:
    """Return what a network starts from, as JSON values for the result; nothing where its weights are drawn."""
    if config.init is None or config.init.path is None:
        return {}
    source = getattr(network, "source", None)
    known = {"normalization": network.normalization} if network.normalization else {}
    return {
        "init": str(config.init.path),
        "matched": (source and source.matched) or "all weights were taken",
        **known,
        **({"trained": list(models.head(network))} if config.init.freeze else {}),
    }


NO_RESULT = "a first try on a part of the images: these numbers are no result"
"""The last word of a limited run."""


def say_limits(config: RunConfig, train: Images, test: Images) -> None:
    """Print what of the images a limited run sees; nothing of any other."""
    if config.limited:
        say(f"a first try, on {len(train):,} training and {len(test):,} test images: its numbers are no result")


def say_start(run: Experiment) -> None:
    """Print what the network of a run starts from, and what of it is trained."""
    start, config = run.facts[run.config.role], run.config
    say_limits(config, run.train, run.test)
    if config.init is None:
        return
    say(f"{config.network} starts from {start['init']}: {start['matched']}")
    if "trained" in start:
        trained = Trainable(tuple(start["trained"]))
        own = tree_size(nnx.state(run.trainer.model, trained))
        say(
            f"{', '.join(start['trained'])} alone is trained, {own:,} of {start['parameters']:,} parameters; the rest "
            "is frozen, and BatchNorm keeps its running statistics"
        )


def check_batches(config: RunConfig) -> None:
    """Refuse batches that do not divide over the devices, or into the parts asked for.

    Raises:
      ValueError: with the nearest number that does.
    """
    placement, batch_size = Placement(), config.training.batch_size
    placement.check_batch_size(batch_size)
    apart = len(placement.devices) if config.batch_norm == "per_device" else 1
    check_microbatches(batch_size, config.gradient_accumulation_steps, apart)


def fit(run: Experiment) -> None:
    """Train, or resume training, and leave everything in the run directory.

    Raises:
      RefusedError: for what cannot be trained, before anything is written.
    """
    with Beginning(run.start) as beginning:
        try:
            run.trainer.fit(
                run.train,
                validation_data=run.test,
                epochs=run.config.training.epochs,
                batch_size=run.config.training.batch_size,
                callbacks=[beginning, *run.directory.callbacks(every_minutes=run.config.checkpoint_minutes)],
                resume="auto" if run.config.resume else None,
                verbose=not run.config.quiet,
            )
        except (KeyboardInterrupt, SystemExit):
            if beginning.ended:  # asked for when all was done: the result is not lost
                run.finish()
            raise
        finally:
            run.directory.release()
    run.finish()


def fit_together(runs: Sequence[Experiment], at_once: int | None) -> None:
    """Train runs that differ in their seeds, in one program where memory allows.

    Args:
      runs: of the same command.
      at_once: the most runs in one program; None takes all.

    Raises:
      RefusedError: as `fit`.
      FloatingPointError: of runs that diverged, once the others are finished.
    """
    config = runs[0].config
    with Beginning(*(run.start for run in runs)) as beginning, contextlib.ExitStack() as held:
        for run in runs:
            held.callback(run.directory.release)
        try:
            jaxkd.sweep(
                lambda number: runs[number].trainer,
                jaxkd.grid(number=range(len(runs))),
                runs[0].train,
                runs[0].test,
                epochs=config.training.epochs,
                batch_size=config.training.batch_size,
                at_once=at_once,
                callbacks=lambda number: [
                    beginning,
                    *runs[number].directory.callbacks(every_minutes=config.checkpoint_minutes),
                ],
                resume="auto" if config.resume else None,
                verbose=not config.quiet,
            )
        except (KeyboardInterrupt, SystemExit):
            states = [run.trainer.state for run in runs]
            if all(state is not None and int(state.epoch) >= config.training.epochs for state in states):
                _finish_together(runs)
            raise
    _finish_together(runs)


def _finish_together(runs: Sequence[Experiment]) -> None:
    diverged: list[str] = []
    for run in runs:
        if np.isfinite(run.trainer.history.last("loss")):
            run.finish(trained_with=len(runs) - 1)
        else:
            diverged.append(str(run.directory.path))
    if diverged:
        folders = ", ".join(diverged)
        raise FloatingPointError(f"diverged, without a result: {folders}; the other runs are finished")


def say(text: str) -> None:
    """Print, in the first of several processes; a line that is too long for a terminal goes on below, indented."""
    if is_first():
        print(fitted(text, sys.stdout), flush=True)


def is_first() -> bool:
    """Return whether this process writes and shows what the run does."""
    return jax.process_index() == 0


def print_result(result: Mapping[str, Any], directory: RunDirectory) -> None:
    """Print how a run ended, the reported epoch marked."""
    for which in ("last", "best"):
        row, mark = result[which], "  (the one this recipe reports)" if which == result["reported"] else ""
        averaged = f", averaged weights {row['val_ema_accuracy']:.2%}" if "val_ema_accuracy" in row else ""
        say(
            f"{which} epoch {row['epoch']:4d}: test top-1 {row['val_accuracy']:.2%}, top-5 {row['val_top5']:.2%}"
            f"{averaged}{mark}"
        )
    if (row := result.get("best_ema")) is not None:
        say(f"averaged weights were best in epoch {row['epoch']}: test top-1 {row['val_ema_accuracy']:.2%}")
    if "recipe" in result:
        recipe = result["recipe"]
        kept = "" if recipe["as_published"] else ", by a run that differs from this one"
        say(f"published: test top-1 {recipe['accuracy']:.2%}, {recipe['reported']} epoch{kept}; {recipe['paper']}")
    if "limited" in result:
        say(NO_RESULT)
    say(f"everything is in {directory.path}")


def parameters(model: nnx.Module) -> int:
    """Return how many numbers a network trains."""
    return tree_size(nnx.state(model, nnx.Param))
