"""The published accuracies, each with the method, the networks and the training that reach it.

Tables are given as far as the networks exist here.

For some pairs standardised KD, DKD and MLKD were run at other temperatures and weights than the usual 2 and 9. The
authors' logs state both in their names; for DKD the weight is taken as α, and 2·α as β. That of VGG-13 to VGG-8 by MLKD
has another rate as well.

Transformers learn with cross-entropy of weight ½, as the authors' code has it and the losses in their logs confirm,
and standardised KD. Its temperature and weight are 3 and 10 for DeiT and 3 and 6 for T2T-ViT, by the names of the
logs, and 2 and 9 for PiT and PVT, by their configurations.

On ImageNet-2012 CTKD's runs weigh cross-entropy and distillation alike and learn the temperature within five epochs;
DKD's authors use temperature 1 there and almost no warm-up; α is their code's 1, where their numbers had ½, which they
say makes almost no difference. Standardised KD has the temperature 2 and the weight 9 of its authors' command. Their
configuration weighs cross-entropy by 1, which the losses in their log exclude: CIFAR-100's 0.1 is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from jaxkd.keywords import did_you_mean
from jaxkd.recipes.method import Method
from jaxkd.recipes.methods import CONTRASTIVE, CURRICULUM, DECOUPLED, STANDARDIZATION, get_method
from jaxkd.recipes.training import Training, get_training
from jaxkd.schedules import warmup


class Published(NamedTuple):
    """A published accuracy, in percent.

    Attributes:
      accuracy: top-1 accuracy, the mean over runs.
      deviation: its standard deviation over runs, where the table states one.
      top5: top-5 accuracy, where the table states it.
    """

    accuracy: float
    deviation: float | None = None
    top5: float | None = None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.accuracy:.2f}{deviation}" + ("" if self.top5 is None else f", top-5 {self.top5:.2f}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published accuracy, and the method and training that reach it.

    Attributes:
      name: `method/teacher-student`, or `ce/network`.
      method: what the student minimises, with the weights and settings of this pair.
      teacher: the teacher's name; None for a network trained on labels alone.
      student: the trained network's name.
      training: the schedule, with the rate for this student.
      published: the accuracy on the test images.
      paper: the paper that states it.
      table: the title of its table.
      data: the name of the data set.
    """

    name: str
    method: Method
    teacher: str | None
    student: str
    training: Training
    published: Published
    paper: str
    table: str
    data: str

    @property
    def reported(self) -> Literal["last", "best"]:
        """The epoch whose accuracy the paper states."""
        return self.training.reported


def names() -> list[str]:
    """Return the names of all recipes, table by table.

    Example:
      >>> [name for name in names() if name.endswith("resnet56-resnet20")][:2]
      ['kd/resnet56-resnet20', 'at/resnet56-resnet20']
    """
    return list(_PLACES)


def get(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
      ValueError: for an unknown name; the error lists the closest ones.

    Example:
      >>> recipe = get("dkd/wrn_40_2-wrn_16_2")
      >>> recipe.teacher, recipe.method.settings["beta"], str(recipe.published), recipe.reported
      ('wrn_40_2', 6.0, '76.24', 'best')
    """
    if name not in _PLACES:
        same_method = [known for known in _PLACES if known.startswith(f"{name}/")]
        hint = f"did you mean {', '.join(same_method[:3])}? " if same_method else did_you_mean(name, _PLACES, most=3)
        raise ValueError(f"no recipe is called {name!r}; {hint}jaxkd.recipes.list() gives all {len(_PLACES)}")
    place, published = _PLACES[name]
    method, _, column = name.partition("/")
    teacher, _, student = column.rpartition("-")
    return Recipe(
        name=name,
        method=get_method(method, **_BY_PAIR.get(name, {})),
        teacher=teacher or None,
        student=student,
        training=get_training(place.training).adapted(learning_rate=_RATES.get(name), network=student),
        published=published,
        paper=place.paper,
        table=place.title,
        data=place.data,
    )


def tables() -> tuple[Table, ...]:
    """Return the tables that the recipes come from.

    Example:
      >>> sorted(tables()[0].rows)
      ['ce']
    """
    return _TABLES


@dataclasses.dataclass(frozen=True)
class Table:
    """A paper's table, or the part of one whose rows were trained alike.

    Attributes:
      paper: the paper that states it.
      title: the table's title.
      training: the name of the training recipe.
      columns: `teacher-student`, or a network that is trained alone.
      rows: the numbers of each method in the order of the columns.
      data: the name of the data set.
    """

    paper: str
    title: str
    training: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Published, ...]]
    data: str


def table(
    paper: str, title: str, training: str, columns: str, rows: Mapping[str, str], data: str = "cifar100"
) -> Table:
    """Return a table given as text.

    Columns and numbers are separated by spaces; `71.16±.08` is a mean with its deviation, `71.70/90.41` are top-1 and
    top-5.

    Example:
      >>> [str(number) for number in table("", "", "", "a-b c-d", {"kd": "71.16±.08 71.70/90.41"}).rows["kd"]]
      ['71.16 ± 0.08', '71.70, top-5 90.41']
    """
    numbers = {method: tuple(map(_published, row.split())) for method, row in rows.items()}
    return Table(paper, title, training, tuple(columns.split()), MappingProxyType(numbers), data)


def _published(text: str) -> Published:
    first, _, top5 = text.partition("/")
    accuracy, _, deviation = first.partition("±")
    return Published(float(accuracy), float(deviation) if deviation else None, float(top5) if top5 else None)


_LARGE, _LIGHT = "resnet34-resnet18", "resnet50-MobileNetV1"
_CIFAR_RESNETS = "resnet56-resnet20 resnet110-resnet20 resnet110-resnet32"
_OTHERS = "resnet32x4-resnet8x4 wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1 vgg13-vgg8"
_PAIRS = f"{_CIFAR_RESNETS} {_OTHERS}"
_TRANSFORMERS = "deit_tiny_patch16_224 t2t_vit_7 pit_ti_224 pvt_tiny"

_TABLES = (
    table(
        CONTRASTIVE, "CIFAR-100, networks trained on labels alone", "repdistiller",
        "resnet56 resnet110 resnet32x4 wrn_40_2 vgg13 ResNet50 resnet20 resnet32 resnet8x4 wrn_16_2 wrn_40_1 vgg8 "
        "MobileNetV2 ShuffleV1 ShuffleV2",
        {
            "ce": "72.34 74.31 79.42 75.61 74.64 79.34 69.06 71.14 72.50 73.26 71.98 70.36 64.60 70.50 71.82",
        },
    ),
    table(
        CONTRASTIVE, "CIFAR-100, teacher and student of one style", "repdistiller",
        _PAIRS,
        {
            "kd": "70.66 70.67 73.08 73.33 74.92 73.54 72.98",
            "at": "70.55 70.22 72.31 73.44 74.08 72.77 71.43",
            "sp": "69.67 70.04 72.69 72.94 73.83 72.43 72.68",
            "cc": "69.63 69.48 71.48 72.97 73.56 72.21 70.71",
            "vid": "70.38 70.16 72.61 73.09 74.11 73.30 71.23",
            "rkd": "69.61 69.25 71.82 71.90 73.35 72.22 71.48",
            "pkt": "70.34 70.25 72.61 73.64 74.54 73.45 72.88",
            "nst": "69.60 69.53 71.96 73.30 73.68 72.24 71.53",
            "crd": "71.16 71.46 73.48 75.51 75.48 74.14 73.94",
        },
    ),
    table(
        CONTRASTIVE, "CIFAR-100, teacher and student of different styles", "repdistiller",
        "vgg13-MobileNetV2 ResNet50-MobileNetV2 ResNet50-vgg8 resnet32x4-ShuffleV1 resnet32x4-ShuffleV2 "
        "wrn_40_2-ShuffleV1",
        {
            "kd": "67.37 67.35 73.81 74.07 74.45 74.83",
            "at": "59.40 58.58 71.84 71.73 72.73 73.32",
            "sp": "66.30 68.08 73.34 73.48 74.56 74.52",
            "cc": "64.86 65.43 70.25 71.14 71.29 71.38",
            "vid": "65.56 67.57 70.30 73.38 73.40 73.61",
            "rkd": "64.52 64.43 71.50 72.28 73.21 72.21",
            "pkt": "67.13 66.52 73.01 74.10 74.69 73.89",
            "nst": "58.16 64.96 71.28 74.12 74.68 74.89",
            "crd": "69.73 69.11 74.30 75.11 75.65 76.05",
        },
    ),
    table(
        CURRICULUM, "CIFAR-100, KD with a learned temperature", "repdistiller",
        _PAIRS,
        {
            "ctkd": "71.19 70.99 73.52 73.39 75.45 73.93 73.52",
        },
    ),
    table(
        CURRICULUM, "CIFAR-100, other methods without and with a learned temperature", "repdistiller",
        "resnet56-resnet20 resnet110-resnet32 wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1",
        {
            "kd+pkt": "70.85±.22 73.36±.15 74.82±.19 74.01±.23",
            "ctkd+pkt": "71.16±.08 73.53±.05 75.32±.11 74.11±.20",
            "kd+sp": "70.84±.25 73.09±.18 74.88±.28 73.77±.20",
            "ctkd+sp": "71.27±.10 73.39±.11 75.33±.14 74.00±.15",
            "kd+vid": "70.62±.08 73.02±.10 74.89±.16 73.60±.26",
            "ctkd+vid": "70.75±.11 73.38±.24 75.22±.20 73.81±.24",
            "kd+crd": "71.69±.15 73.63±.19 75.53±.10 74.36±.10",
            "ctkd+crd": "72.11±.15 74.10±.20 75.75±.27 74.69±.05",
            "kd+srrl": "71.13±.18 73.48±.16 75.69±.19 74.18±.03",
            "ctkd+srrl": "71.45±.15 73.75±.30 75.96±.06 74.40±.13",
            "dkd-constant": "71.43±.13 73.66±.15 75.70±.06 74.54±.12",
            "ctkd+dkd": "71.65±.24 74.02±.29 75.81±.14 74.59±.08",
        },
    ),
    table(
        DECOUPLED, "CIFAR-100, teacher and student of one style", "mdistiller",
        f"resnet56-resnet20 resnet110-resnet32 {_OTHERS}",
        {
            "dkd": "71.97 74.11 76.32 76.24 74.81 74.68",
        },
    ),
    table(
        DECOUPLED, "CIFAR-100, teacher and student of different styles", "mdistiller",
        "resnet32x4-ShuffleV1 wrn_40_2-ShuffleV1 vgg13-MobileNetV2 ResNet50-MobileNetV2 resnet32x4-ShuffleV2",
        {
            "dkd": "76.45 76.70 69.71 70.35 77.07",
        },
    ),
    table(
        STANDARDIZATION, "CIFAR-100, teacher and student of one style, also DKD", "mdistiller",
        "resnet110-resnet20",
        {
            "dkd": "71.06",
        },
    ),
    table(
        STANDARDIZATION, "CIFAR-100, teacher and student of one style", "standardization",
        _PAIRS,
        {
            "kd+std": "71.43 71.48 74.17 76.62 76.11 74.37 74.36",
            "ctkd+std": "71.34 71.39 74.01 76.67 76.08 74.58 74.47",
            "dkd+std": "72.32 71.85 74.29 77.01 76.39 74.89 74.81",
        },
    ),
    table(
        STANDARDIZATION, "CIFAR-100, teacher and student of one style, 480 epochs", "mlkd",
        _PAIRS,
        {
            "mlkd": "72.19 71.89 74.11 77.08 76.63 75.35 75.18",
            "mlkd+std": "72.33 72.27 74.32 78.28 76.95 75.56 75.22",
        },
    ),
    table(
        CURRICULUM, "ImageNet, ResNet-34 to ResNet-18", "imagenet-ctkd", _LARGE,
        {
            "kd": "70.83/90.31",
            "ctkd": "71.32/90.27",
            "dkd-constant": "71.13/90.31",
            "ctkd+dkd": "71.51/90.47",
        },
        data="imagenet2012",
    ),
    table(
        DECOUPLED, "ImageNet, ResNet-34 to ResNet-18", "imagenet-mdistiller", _LARGE,
        {
            "dkd": "71.70",
        },
        data="imagenet2012",
    ),
    table(
        DECOUPLED, "ImageNet, ResNet-50 to MobileNetV1", "imagenet-mdistiller", _LIGHT,
        {
            "kd": "70.50",
            "dkd": "72.05",
        },
        data="imagenet2012",
    ),
    table(
        STANDARDIZATION, "ImageNet, ResNet-34 to ResNet-18", "imagenet-mdistiller", _LARGE,
        {
            "kd+std": "71.42",
        },
        data="imagenet2012",
    ),
    table(
        STANDARDIZATION, "CIFAR-100, transformers trained on labels alone", "transformers",
        _TRANSFORMERS,
        {
            "ce": "65.08 69.37 73.58 69.22",
        },
    ),
    table(
        STANDARDIZATION, "CIFAR-100, ResNet-56 to transformers", "transformers",
        " ".join(f"resnet56-{student}" for student in _TRANSFORMERS.split()),
        {
            "kd+std": "78.55 78.43 78.76 78.43",
        },
    ),
)  # fmt: skip

_PLACES: Mapping[str, tuple[Table, Published]] = {
    f"{method}/{column}": (place, published)
    for place in _TABLES
    for method, row in place.rows.items()
    for column, published in zip(place.columns, row, strict=True)
}

_EQUAL = {"ce": 1.0, "kd": 1.0}
_DECOUPLED = {"temperature": 1.0, "weights": {"dkd": warmup(1)}}
_FOR_TRANSFORMERS = {"deit_tiny_patch16_224": (3.0, 10.0), "t2t_vit_7": (3.0, 6.0)}

_ON_IMAGENET: dict[str, dict[str, Any]] = {
    f"kd/{_LARGE}": {"weights": _EQUAL},
    f"ctkd/{_LARGE}": {"weights": _EQUAL, "curriculum_epochs": 5},
    f"ctkd+dkd/{_LARGE}": {"curriculum_epochs": 5},
    f"dkd/{_LARGE}": {"beta": 0.5, **_DECOUPLED},
    f"dkd/{_LIGHT}": {"beta": 2.0, **_DECOUPLED},
    f"kd/{_LIGHT}": {"temperature": 1.0, "weights": {"ce": 0.5, "kd": 0.5}},
}


def _on_cifar() -> dict[str, dict[str, Any]]:
    """Return what `get_method` is given for the recipes whose pair has settings of its own, by the recipe's name."""
    betas = {**dict.fromkeys(_CIFAR_RESNETS.split(), 2.0), **dict.fromkeys(_OTHERS.split(), 6.0)}
    betas |= dict.fromkeys(("resnet32x4-resnet8x4", "resnet32x4-ShuffleV1", "resnet32x4-ShuffleV2"), 8.0)
    betas |= {"wrn_40_2-ShuffleV1": 8.0, "ResNet50-MobileNetV2": 8.0, "vgg13-MobileNetV2": 6.0}
    found: dict[str, dict[str, Any]] = {f"dkd/{pair}": {"beta": beta} for pair, beta in betas.items()}
    for student in _TRANSFORMERS.split():
        temperature, weight = _FOR_TRANSFORMERS.get(student, (2.0, 9.0))
        found[f"kd+std/resnet56-{student}"] = {"temperature": temperature, "weights": {"ce": 0.5, "kd": weight}}
    found["kd+std/resnet110-resnet20"] = {"temperature": 4.0, "weights": {"kd": 12.0}}
    found["kd+std/vgg13-vgg8"] = {"temperature": 3.0}
    found["mlkd+std/vgg13-vgg8"] = {"weights": {"mlkd": 6.0}}
    for pair, temperature, weight in (
        ("resnet56-resnet20", 3.0, 18.0),
        ("resnet110-resnet20", 2.0, 15.0),
        ("resnet110-resnet32", 2.0, 15.0),
        ("wrn_40_2-wrn_16_2", 2.0, 12.0),
        ("wrn_40_2-wrn_40_1", 2.0, 12.0),
        ("vgg13-vgg8", 2.0, 15.0),
    ):
        found[f"dkd+std/{pair}"] = {"temperature": temperature, "alpha": weight, "beta": 2 * weight}
    return found


_BY_PAIR = _on_cifar() | _ON_IMAGENET
"""By the name of a recipe, what `get_method` is given beside the method's name."""

_RATES = {"mlkd+std/vgg13-vgg8": 0.01}
"""By the name of a recipe, its first learning rate where that is another than its training's."""
