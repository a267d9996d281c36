"""The published recipes against the papers' tables, written out here once more by hand."""

import collections

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tiny import digits

from jaxkd import models, recipes
from jaxkd.losses import Network
from jaxkd.recipes import Published
from jaxkd.schedules import warmup

PAIRS = (
    "resnet56-resnet20", "resnet110-resnet20", "resnet110-resnet32", "resnet32x4-resnet8x4", "wrn_40_2-wrn_16_2",
    "wrn_40_2-wrn_40_1", "vgg13-vgg8",
)  # fmt: skip
FOUR_PAIRS = ("resnet56-resnet20", "resnet110-resnet32", "wrn_40_2-wrn_16_2", "wrn_40_2-wrn_40_1")
ALONE = {
    "resnet56": 72.34, "resnet110": 74.31, "resnet32x4": 79.42, "wrn_40_2": 75.61, "vgg13": 74.64, "resnet20": 69.06,
    "resnet32": 71.14, "resnet8x4": 72.50, "wrn_16_2": 73.26, "wrn_40_1": 71.98, "vgg8": 70.36,
    "ResNet50": 79.34, "MobileNetV2": 64.60, "ShuffleV1": 70.50, "ShuffleV2": 71.82,
}  # fmt: skip

# Method: training, then an accuracy per pair.
BY_PAIR = {
    "kd": ("repdistiller", 70.66, 70.67, 73.08, 73.33, 74.92, 73.54, 72.98),
    "ctkd": ("repdistiller", 71.19, 70.99, 73.52, 73.39, 75.45, 73.93, 73.52),
    "kd+std": ("standardization", 71.43, 71.48, 74.17, 76.62, 76.11, 74.37, 74.36),
    "ctkd+std": ("standardization", 71.34, 71.39, 74.01, 76.67, 76.08, 74.58, 74.47),
    "dkd": ("mdistiller", 71.97, 71.06, 74.11, 76.32, 76.24, 74.81, 74.68),
    "dkd+std": ("standardization", 72.32, 71.85, 74.29, 77.01, 76.39, 74.89, 74.81),
    "mlkd": ("mlkd", 72.19, 71.89, 74.11, 77.08, 76.63, 75.35, 75.18),
    "mlkd+std": ("mlkd", 72.33, 72.27, 74.32, 78.28, 76.95, 75.56, 75.22),
    "crd": ("repdistiller", 71.16, 71.46, 73.48, 75.51, 75.48, 74.14, 73.94),
    "at": ("repdistiller", 70.55, 70.22, 72.31, 73.44, 74.08, 72.77, 71.43),
    "sp": ("repdistiller", 69.67, 70.04, 72.69, 72.94, 73.83, 72.43, 72.68),
    "cc": ("repdistiller", 69.63, 69.48, 71.48, 72.97, 73.56, 72.21, 70.71),
    "vid": ("repdistiller", 70.38, 70.16, 72.61, 73.09, 74.11, 73.30, 71.23),
    "rkd": ("repdistiller", 69.61, 69.25, 71.82, 71.90, 73.35, 72.22, 71.48),
    "pkt": ("repdistiller", 70.34, 70.25, 72.61, 73.64, 74.54, 73.45, 72.88),
    "nst": ("repdistiller", 69.60, 69.53, 71.96, 73.30, 73.68, 72.24, 71.53),
}

# Teachers and students of different styles: an accuracy per teacher and student, for methods in this order, then DKD's.
DIFFERENT_METHODS = ("kd", "at", "sp", "cc", "vid", "rkd", "pkt", "nst", "crd")
DIFFERENT = {
    "vgg13-MobileNetV2": (67.37, 59.40, 66.30, 64.86, 65.56, 64.52, 67.13, 58.16, 69.73),
    "ResNet50-MobileNetV2": (67.35, 58.58, 68.08, 65.43, 67.57, 64.43, 66.52, 64.96, 69.11),
    "ResNet50-vgg8": (73.81, 71.84, 73.34, 70.25, 70.30, 71.50, 73.01, 71.28, 74.30),
    "resnet32x4-ShuffleV1": (74.07, 71.73, 73.48, 71.14, 73.38, 72.28, 74.10, 74.12, 75.11),
    "resnet32x4-ShuffleV2": (74.45, 72.73, 74.56, 71.29, 73.40, 73.21, 74.69, 74.68, 75.65),
    "wrn_40_2-ShuffleV1": (74.83, 73.32, 74.52, 71.38, 73.61, 72.21, 73.89, 74.89, 76.05),
}
DIFFERENT_DKD = {  # accuracy and β
    "resnet32x4-ShuffleV1": (76.45, 8.0), "wrn_40_2-ShuffleV1": (76.70, 8.0), "vgg13-MobileNetV2": (69.71, 6.0),
    "ResNet50-MobileNetV2": (70.35, 8.0), "resnet32x4-ShuffleV2": (77.07, 8.0),
}  # fmt: skip

# Without and with a learned temperature: mean and deviation per pair.
PLUGGED = {
    ("kd+pkt", "ctkd+pkt"): (
        ((70.85, 0.22), (71.16, 0.08)),
        ((73.36, 0.15), (73.53, 0.05)),
        ((74.82, 0.19), (75.32, 0.11)),
        ((74.01, 0.23), (74.11, 0.20)),
    ),
    ("kd+sp", "ctkd+sp"): (
        ((70.84, 0.25), (71.27, 0.10)),
        ((73.09, 0.18), (73.39, 0.11)),
        ((74.88, 0.28), (75.33, 0.14)),
        ((73.77, 0.20), (74.00, 0.15)),
    ),
    ("kd+vid", "ctkd+vid"): (
        ((70.62, 0.08), (70.75, 0.11)),
        ((73.02, 0.10), (73.38, 0.24)),
        ((74.89, 0.16), (75.22, 0.20)),
        ((73.60, 0.26), (73.81, 0.24)),
    ),
    ("kd+crd", "ctkd+crd"): (
        ((71.69, 0.15), (72.11, 0.15)),
        ((73.63, 0.19), (74.10, 0.20)),
        ((75.53, 0.10), (75.75, 0.27)),
        ((74.36, 0.10), (74.69, 0.05)),
    ),
    ("kd+srrl", "ctkd+srrl"): (
        ((71.13, 0.18), (71.45, 0.15)),
        ((73.48, 0.16), (73.75, 0.30)),
        ((75.69, 0.19), (75.96, 0.06)),
        ((74.18, 0.03), (74.40, 0.13)),
    ),
    ("dkd-constant", "ctkd+dkd"): (
        ((71.43, 0.13), (71.65, 0.24)),
        ((73.66, 0.15), (74.02, 0.29)),
        ((75.70, 0.06), (75.81, 0.14)),
        ((74.54, 0.12), (74.59, 0.08)),
    ),
}


IMAGENET = {
    "kd/resnet34-resnet18": (70.83, None, "imagenet-ctkd"),
    "ctkd/resnet34-resnet18": (71.32, None, "imagenet-ctkd"),
    "dkd-constant/resnet34-resnet18": (71.13, None, "imagenet-ctkd"),
    "ctkd+dkd/resnet34-resnet18": (71.51, None, "imagenet-ctkd"),
    "dkd/resnet34-resnet18": (71.70, None, "imagenet-mdistiller"),
    "kd+std/resnet34-resnet18": (71.42, None, "imagenet-mdistiller"),
    "kd/resnet50-MobileNetV1": (70.50, None, "imagenet-mdistiller"),
    "dkd/resnet50-MobileNetV1": (72.05, None, "imagenet-mdistiller"),
}
TRANSFORMERS = {
    "deit_tiny_patch16_224": (65.08, 78.55, 3, 10),
    "t2t_vit_7": (69.37, 78.43, 3, 6),
    "pit_ti_224": (73.58, 78.76, 2, 9),
    "pvt_tiny": (69.22, 78.43, 2, 9),
}
"""Accuracy alone and with standardised KD from a ResNet-56, the temperature and the weight of that."""

AS_ON_CIFAR = {"dkd-constant/resnet34-resnet18", "kd+std/resnet34-resnet18"}
"""Their settings on ImageNet are those of the catalogue."""


def expected():
    """Name: accuracy, deviation, training."""
    rows = {f"ce/{network}": (accuracy, None, "repdistiller") for network, accuracy in ALONE.items()}
    for method, (training, *accuracies) in BY_PAIR.items():
        for pair, accuracy in zip(PAIRS, accuracies, strict=True):
            rows[f"{method}/{pair}"] = accuracy, None, training
    for pair, accuracies in DIFFERENT.items():
        for method, accuracy in zip(DIFFERENT_METHODS, accuracies, strict=True):
            rows[f"{method}/{pair}"] = accuracy, None, "repdistiller"
    for pair, (accuracy, _) in DIFFERENT_DKD.items():
        rows[f"dkd/{pair}"] = accuracy, None, "mdistiller"
    for methods, numbers in PLUGGED.items():
        for pair, both in zip(FOUR_PAIRS, numbers, strict=True):
            for method, number in zip(methods, both, strict=True):
                rows[f"{method}/{pair}"] = *number, "repdistiller"
    for student, (alone, distilled, *_) in TRANSFORMERS.items():
        rows[f"ce/{student}"] = alone, None, "transformers"
        rows[f"kd+std/resnet56-{student}"] = distilled, None, "transformers"
    return rows


def test_the_recipes_are_those_of_the_tables():
    made = {}
    for name in recipes.list():
        recipe = recipes.get(name)
        made[name] = recipe.published.accuracy, recipe.published.deviation, recipe.training.name
        assert name == "/".join([recipe.method.name, "-".join(filter(None, [recipe.teacher, recipe.student]))])
    assert made == expected() | IMAGENET
    assert len(recipes.list()) == len(set(recipes.list())) == 15 + 16 * 7 + 9 * 6 + 5 + 12 * 4 + 8 + 2 * 4


def test_a_recipe_says_where_it_is_from():
    recipe = recipes.get("ctkd+dkd/wrn_40_2-wrn_40_1")
    assert (recipe.teacher, recipe.student, recipe.data) == ("wrn_40_2", "wrn_40_1", "cifar100")
    assert recipe.paper == "Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023"
    assert recipe.table == "CIFAR-100, other methods without and with a learned temperature"
    assert (str(recipe.published), recipe.reported) == ("74.59 ± 0.08", "last")
    assert (str(Published(71.0)), recipes.get("dkd/vgg13-vgg8").reported) == ("71.00", "best")
    papers = {name: recipes.get(name).paper.split(",")[-1].strip() for name in recipes.list()}
    assert papers["kd/vgg13-vgg8"] == papers["ce/vgg8"] == papers["nst/vgg13-vgg8"] == "ICLR 2020"
    assert papers["ctkd/vgg13-vgg8"] == "AAAI 2023"
    assert papers["dkd/vgg13-vgg8"] == "CVPR 2022"
    assert {papers[f"{method}/vgg13-vgg8"] for method in ("kd+std", "dkd+std", "mlkd", "mlkd+std")} == {"CVPR 2024"}
    assert papers["dkd/resnet110-resnet20"] == "CVPR 2024"  # DKD's own table does not have this pair


def test_settings_by_pair():
    betas = [recipes.get(f"dkd/{pair}").method.settings["beta"] for pair in PAIRS]
    assert betas == [2.0, 2.0, 2.0, 8.0, 6.0, 6.0, 6.0]
    for pair, (_, beta) in DIFFERENT_DKD.items():
        assert recipes.get(f"dkd/{pair}").method.settings["beta"] == beta
    standardized = [recipes.get(f"kd+std/{pair}").method for pair in PAIRS]
    assert [method.settings["temperature"] for method in standardized] == [2, 4, 2, 2, 2, 2, 3]
    assert [method.weights["kd"] for method in standardized] == [9, 12, 9, 9, 9, 9, 9]
    standardized = [recipes.get(f"dkd+std/{pair}").method.settings for pair in PAIRS]
    assert [tuple(settings.values()) for settings in standardized] == [
        (18, 36, 3), (15, 30, 2), (15, 30, 2), (9, 18, 2), (12, 24, 2), (12, 24, 2), (15, 30, 2),
    ]  # fmt: skip
    standardized = [recipes.get(f"mlkd+std/{pair}") for pair in PAIRS]
    assert [recipe.method.weights["mlkd"] for recipe in standardized] == [9, 9, 9, 9, 9, 9, 6]
    assert [recipe.training.learning_rate for recipe in standardized] == [0.025] * 6 + [0.01]
    for pair in FOUR_PAIRS:
        method = recipes.get(f"ctkd+dkd/{pair}").method
        assert (method.settings["alpha"], method.settings["beta"]) == (1.0, 2.0)
        assert dict(method.weights) == {"ce": 1.0, "dkd": 1.0}
    assert recipes.get("dkd/vgg13-vgg8").method.weights["dkd"] == warmup(20)


def test_the_other_recipes_have_the_settings_of_their_method():
    changed = {name for name in recipes.list() if recipes.get(name).method != recipes.get_method(name.split("/")[0])}
    own = {f"dkd/{pair}" for pair in PAIRS if pair != "resnet32x4-resnet8x4"}
    own |= {f"dkd+std/{pair}" for pair in PAIRS if pair != "resnet32x4-resnet8x4"}
    assert changed == own | (IMAGENET.keys() - AS_ON_CIFAR) | {
        "dkd/vgg13-MobileNetV2",
        "kd+std/resnet110-resnet20",
        "kd+std/vgg13-vgg8",
        "mlkd+std/vgg13-vgg8",
        *(f"kd+std/resnet56-{student}" for student in TRANSFORMERS),
    }


@pytest.mark.parametrize("student", TRANSFORMERS)
def test_transformers_learn_at_224_pixels_by_adamw(student):
    recipe = recipes.get(f"kd+std/resnet56-{student}")
    *_, temperature, weight = TRANSFORMERS[student]
    assert dict(recipe.method.weights) == {"ce": 0.5, "kd": weight}
    assert dict(recipe.method.settings) == {"temperature": temperature}
    training = recipe.training
    assert (training.resize_to, training.network_options, training.optimizer_name) == (224, {"drop_path": 0.1}, "adamw")
    ends = training.learning_rate, training.warmup_learning_rate, training.final_learning_rate
    assert ends == (5e-4, 5e-7, 5e-6)
    assert training.decays_kernels_only
    assert training.resized_crop
    assert training.augmentations == recipes.get_training("deit").augmentations
    network = nnx.eval_shape(lambda: models.create(student, num_classes=100, **training.network_options))
    assert network.image_shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kd/resnet56-resnet21", r"'kd/resnet56-resnet21'; did you mean kd/resnet56-resnet20"),
        ("ctkd", r"'ctkd'; did you mean ctkd/resnet56-resnet20, ctkd/resnet110-resnet20, "),
        ("ctdk/vgg13-vgg8", r"did you mean ctkd/vgg13-vgg8"),
        ("repdistiller", r"'repdistiller'; jaxkd.recipes.list\(\) gives all 250"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_closest(name, message):
    with pytest.raises(ValueError, match=message):
        recipes.get(name)


def abstract_network(name, num_classes=100, size=32):
    """A network with shapes in the place of its weights: ResNet-110 would take long to initialise."""
    model = nnx.eval_shape(lambda: models.create(name, num_classes=num_classes))
    graph, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return Network(model, jax.eval_shape(lambda state, images: nnx.merge(graph, state)(images), state, images))


@pytest.mark.slow
def test_every_recipe_can_be_built():
    """The networks exist and have the features that the losses ask for."""
    networks = {name: abstract_network(name) for name in ALONE}
    for name in ("resnet18", "resnet34", "resnet50", "MobileNetV1"):
        networks[name] = abstract_network(name, num_classes=1000, size=224)
    for name in TRANSFORMERS:
        networks[name] = abstract_network(name, size=224)
    assert all(name in models.list() or name == "resnet110" for name in networks)
    built = collections.Counter()
    for name in recipes.list():
        recipe = recipes.get(name)
        student, teacher = networks[recipe.student], networks.get(recipe.teacher)
        assert (teacher is not None) == recipe.method.needs_teacher
        losses = nnx.Dict(recipe.method.losses(digits()[0]))
        for part in [part for _, part in nnx.iter_modules(losses) if hasattr(part, "build")]:
            part.build(student, teacher, nnx.Rngs(0))
            built[recipe.method.name] += 1
    assert {"at": 13, "crd": 13, "ctkd+crd": 4, "kd+srrl": 4, "vid": 13}.items() <= built.items()
