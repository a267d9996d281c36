"""From the command line to a `RunConfig`: the options that the scripts share, and what they decide."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxkd import convert, data, recipes
from jaxkd.command_line import at_home
from jaxkd.commands.around_the_loss import add_options_around_the_loss, changed_training
from jaxkd.commands.recipes import listed
from jaxkd.config import DataConfig, InitConfig, RunConfig, TeacherConfig
from jaxkd.convert.checkpoint import locate


def add_options(parser: argparse.ArgumentParser, rows: Sequence[str]) -> None:
    """Add the options that all scripts share to a command line.

    Args:
      parser: gets them.
      rows: the names of the published recipes that the command can run, for `--list-recipes`.
    """
    images = parser.add_argument_group("data")
    images.add_argument(
        "--data", choices=data.names(), help="default: the recipe's, else cifar100; digits needs no file"
    )
    images.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="where its files are, or the file of npz; default: $JAXKD_DATA, else ~/data",
    )
    images.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="of imagenet2012, imagenette and folder: pixels a side; default: 224",
    )
    images.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="of imagenet2012, imagenette and folder: how many processes decode; 0 decodes in threads; default: one a "
        "core, at most 32, and threads on fewer than four",
    )
    images.add_argument(
        "--validation-split",
        type=float,
        metavar="X",
        help="of folder and npz without a split: the part to hold out as test images, the same ones in every run",
    )
    images.add_argument(
        "--balanced",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="draw every class equally often in training, however rare its images are",
    )
    training = parser.add_argument_group("training", "what is not given comes from the recipe")
    training.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"one number of a paper's table with all that leads to it, as in {rows[0]}; or only how a paper trains: "
        f"{', '.join(recipes.trainings())}; default: repdistiller, and digits for digits",
    )
    training.add_argument(
        "--list-recipes", action=ListRecipes, nargs=0, const=rows, help="print the published recipes with their numbers"
    )
    training.add_argument(
        "--epochs", type=int, metavar="N", help="another length; the drops of the learning rate move in proportion"
    )
    training.add_argument("--batch-size", type=int, metavar="N", help="examples per step, over all devices")
    training.add_argument("--learning-rate", type=float, metavar="X", help="the first one, before it drops")
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of initial weights, order and augmentation; default: 0"
    )
    training.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "highest"),
        default="float32",
        help="what the networks compute in: bfloat16 also on CPUs with units for it, highest for GPUs and TPUs; "
        "default: float32",
    )
    add_options_around_the_loss(parser)
    devices = parser.add_argument_group("devices", "all that there are share each batch")
    devices.add_argument(
        "--batch-norm",
        choices=("global", "per_device"),
        default="global",
        help="which images BatchNorm sees: the whole batch, or each device its own, as with DistributedDataParallel",
    )
    devices.add_argument(
        "--gradient-accumulation-steps",
        type=int,
        default=1,
        metavar="N",
        help="compute each batch in so many parts, where it does not fit into memory",
    )
    devices.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes: of SLURM, Open MPI, torchrun or a TPU pod, or told by JAX_COORDINATOR_ADDRESS, "
        "JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    )
    run = parser.add_argument_group("run directory")
    run.add_argument("--output", type=pathlib.Path, metavar="DIR", help="default: a telling name under runs/")
    run.add_argument("--resume", action="store_true", help="go on with the run in this directory, if one has begun")
    run.add_argument(
        "--checkpoint-minutes", type=float, metavar="N", help="save within epochs too; SIGTERM saves in any case"
    )
    run.add_argument(
        "--quiet", action=argparse.BooleanOptionalAction, default=False, help="no progress while it trains"
    )
    first = parser.add_argument_group("first try", "its record says that it is one")
    first.add_argument(
        "--limit-examples", type=int, metavar="N", help="so many training images and test images at most"
    )
    first.add_argument("--limit-steps", type=int, metavar="N", help="so many steps an epoch at most")


def add_init_options(parser: argparse.ArgumentParser, option: str) -> None:
    """Add the options that start a network from weights to a command line.

    Args:
      parser: gets them.
      option: the name of the one that takes the file; the others begin where its network is called.
    """
    group = parser.add_argument_group("fine-tuning", "start from weights instead of drawing them")
    group.add_argument(
        option,
        dest="init",
        type=teacher_path,
        metavar="FILE",
        help="a file of weights or a folder, as --teacher of jaxkd distill takes them. Where it has another number of "
        "classes than the data, the classifier is a fresh one",
    )
    group.add_argument(
        "--head-learning-rate", type=float, metavar="X", help="the first one of the classifier; default: as the rest"
    )
    group.add_argument(
        "--freeze",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train the classifier alone: all other layers stay as they are, and BatchNorm keeps and uses its running "
        "statistics",
    )


def init_of(options: argparse.Namespace, option: str) -> InitConfig | None:
    """Return what the options of `add_init_options` say; None where the network starts from drawn weights.

    Raises:
      ValueError: for options that need a file and have none.
    """
    if options.init is not None:
        return InitConfig(options.init, None, options.head_learning_rate, options.freeze)
    for given, name in ((options.head_learning_rate, "--head-learning-rate"), (options.freeze, "--freeze")):
        if given:
            raise ValueError(f"{name} is for a network that was trained before: name its weights by {option} FILE")
    return None


def network_of(init: InitConfig | None) -> str | None:
    """Return the name of the network in the weights to start from; None without any.

    Raises:
      FileNotFoundError, ValueError: as `convert.load_pretrained`.
    """
    return None if init is None or init.path is None else convert.load_pretrained(init.path).model.name


class ListRecipes(argparse.Action):
    """Print the recipes named in `const`, table by table, and end the program, as `--help` does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None
    ) -> None:
        print(listed(self.const))
        parser.exit()


def run_config(
    options: argparse.Namespace,
    network: str,
    recipe: recipes.Recipe | None = None,
    method: recipes.Method | None = None,
    teacher: TeacherConfig | None = None,
    init: InitConfig | None = None,
) -> RunConfig:
    """Return the run that the shared options describe; a recipe decides what the command line leaves open.

    Args:
      options: the parsed command line.
      network: to train.
      recipe: the published number that `--recipe` names, see `recipe_of`.
      method: None for a network trained on labels alone.
      teacher: None without one.
      init: the weights to start from; None without any.

    Raises:
      ValueError: for numbers that are not positive, or an unknown training.
    """
    dataset = options.data or (recipe.data if recipe else "cifar100")
    default = "digits" if dataset == "digits" else "repdistiller"
    training = usual_training(recipe, options.recipe or default, network)
    return RunConfig(
        network=network,
        data=DataConfig(
            dataset,
            options.data_dir,
            options.image_size,
            options.workers,
            validation_split=options.validation_split,
            balanced=options.balanced,
        ),
        training=changed_training(
            options,
            training.adapted(
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
            ),
        ),
        method=method,
        teacher=teacher,
        init=init,
        recipe=recipe.name if recipe else None,
        seed=options.seed,
        precision=options.precision,
        batch_norm=options.batch_norm,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        limit_examples=options.limit_examples,
        limit_steps=options.limit_steps,
        distributed=options.distributed,
        output=options.output,
        resume=options.resume,
        checkpoint_minutes=options.checkpoint_minutes,
        quiet=options.quiet,
    )


def usual_training(recipe: recipes.Recipe | None, name: str, network: str) -> recipes.Training:
    """Return how a recipe trains a network, or a training where there is no recipe: both have slower rates for some.

    Raises:
      ValueError: there is no training of that name.
    """
    if recipe is None or recipe.student != network:
        return recipes.get_training(name if recipe is None else recipe.training.name).adapted(network=network)
    return recipe.training


def recipe_of(options: argparse.Namespace) -> recipes.Recipe | None:
    """Return the published recipe that `--recipe` names; None where it names a training, or nothing.

    Raises:
      ValueError: for a name that is neither, with the closest that exist.
    """
    if options.recipe is None or options.recipe in recipes.trainings():
        return None
    try:
        return recipes.get(options.recipe)
    except ValueError as error:
        raise ValueError(f"--recipe: {error}; names of trainings are {', '.join(recipes.trainings())}") from None


def method_name(text: str) -> str:
    """Return the name of a method that exists, or of one in a file."""
    try:
        recipes.get_method(text)
    except ValueError as error:
        what = "" if ".py" in text else f"invalid choice: {text!r}; "
        raise argparse.ArgumentTypeError(f"{what}{error}") from None
    return text


def teacher_path(text: str) -> pathlib.Path:
    """Return where weights are that an option names; an address `hf://user/repo/file` is fetched, and `~` expanded.

    It is the file or folder itself, or the network in the directory of a run.
    """
    at_home(text)  # refuses other addresses
    try:
        return locate(text)
    except (ValueError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def published(config: RunConfig) -> dict[str, Any]:
    """Return what a paper states for a run, as JSON values for its result; nothing where the run follows no recipe.

    Accuracies are fractions of 1, as the run's own. `as_published` says whether the run keeps to the recipe, so that
    the two numbers mean the same.
    """
    if config.recipe is None:
        return {}
    recipe = recipes.get(config.recipe)
    method, teacher = config.method or recipes.get_method("ce"), config.teacher and config.teacher.name
    ours = (method, teacher, config.network, config.training, config.data.name, config.data.balanced)
    theirs = (recipe.method, recipe.teacher, recipe.student, recipe.training, recipe.data, False)
    image_size = config.data.image_size in (None, 224)
    whole_batches = config.gradient_accumulation_steps == 1  # BatchNorm sees each part alone
    percent = recipe.published._asdict()
    return {
        "recipe": {
            "name": recipe.name,
            **{name: None if value is None else round(value / 100, 6) for name, value in percent.items()},
            "reported": recipe.reported,
            "paper": recipe.paper,
            "table": recipe.table,
            "as_published": ours == theirs and image_size and whole_batches and not (config.init or config.limited),
        }
    }
