import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TinyNet, digits

import jaxkd
from jaxkd import data, losses, models, optimizers, recipes
from jaxkd.schedules import warmup
from jaxkd.types import Normalization

PUBLISHED_TRAININGS = {
    "repdistiller": (240, 64, 0.05, (150, 180, 210), 0, 0.9, 5e-4, 0.01, "last"),
    "mdistiller": (240, 64, 0.05, (150, 180, 210), 0, 0.9, 5e-4, 0.01, "best"),
    "standardization": (240, 64, 0.05, (150, 180, 210), 0, 0.9, 5e-4, 0.01, "best"),
    "mlkd": (480, 64, 0.025, (150, 180, 210), 0, 0.9, 5e-4, None, "best"),
    "ats": (240, 128, 0.05, (150, 180, 210), 5, 0.9, 5e-4, None, "last"),
    "imagenet-ctkd": (120, 256, 0.1, (30, 60, 90), 0, 0.9, 1e-4, None, "last"),
    "imagenet-teacher": (100, 256, 0.1, (30, 60, 90), 0, 0.9, 1e-4, None, "last"),
    "imagenet-mdistiller": (100, 512, 0.2, (30, 60, 90), 0, 0.9, 1e-4, None, "best"),
    "transformers": (300, 128, 5e-4, (), 20, 0.9, 0.05, None, "best"),
    "deit": (300, 1024, 1e-3, (), 5, 0.9, 0.05, None, "last"),
}

CURRICULUM = {"t_start": 1.0, "t_end": 20.0, "curriculum_epochs": 10}
STANDARD_CURRICULUM = {"t_start": 2.0, "t_end": 40.0, "curriculum_epochs": 10}
KD = {"ce": 0.1, "kd": 0.9}
NEGATIVES = {"negatives": 16384}
PLUGINS = {"pkt": 30000.0, "sp": 3000.0, "vid": 1.0, "crd": 0.8, "srrl": 1.0}

PUBLISHED_METHODS = {
    "ce": ({"ce": 1.0}, {}),
    "kd": (KD, {"temperature": 4.0}),
    "ats": ({"ce": 0.5, "ats": 0.5}, {"correct": 4.0, "wrong": 2.0, "student": 1.0}),
    "ctkd": (KD, CURRICULUM),
    "ctkd-instance": (KD, {"hidden": 128, **CURRICULUM}),
    "kd+std": ({"ce": 0.1, "kd": 9.0}, {"temperature": 2.0}),
    "ctkd+std": ({"ce": 0.1, "kd": 9.0}, STANDARD_CURRICULUM),
    "ats+std": ({"ce": 0.5, "ats": 0.5}, {"correct": 4.0, "wrong": 2.0, "student": 1.0}),
    "dkd": ({"ce": 1.0, "dkd": warmup(20)}, {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}),
    "dkd+std": ({"ce": 1.0, "dkd": warmup(20)}, {"alpha": 9.0, "beta": 18.0, "temperature": 2.0}),
    "dkd-constant": ({"ce": 1.0, "dkd": 1.0}, {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}),
    "ctkd+dkd": ({"ce": 1.0, "dkd": 1.0}, {"alpha": 1.0, "beta": 2.0, **CURRICULUM}),
    "mlkd": ({"ce": 0.1, "mlkd": 0.9}, {"temperature": 4.0}),
    "mlkd+std": ({"ce": 0.1, "mlkd": 9.0}, {"temperature": 2.0}),
    **{name: ({"ce": 1.0, name: weight}, {}) for name, weight in PLUGINS.items()},
    **{f"kd+{name}": ({**KD, name: weight}, {"temperature": 4.0}) for name, weight in PLUGINS.items()},
    **{f"ctkd+{name}": ({**KD, name: weight}, CURRICULUM) for name, weight in PLUGINS.items()},
    "crd": ({"ce": 1.0, "crd": 0.8}, {**NEGATIVES, "feature_dim": 128, "temperature": 0.07, "momentum": 0.5}),
    "kd+crd": ({**KD, "crd": 0.8}, {"temperature": 4.0, **NEGATIVES}),
    "ctkd+crd": ({**KD, "crd": 0.8}, {**CURRICULUM, **NEGATIVES}),
    "fitnet": ({"ce": 1.0, "fitnet": 100.0}, {}),
    "at": ({"ce": 1.0, "at": 1000.0}, {}),
    "rkd": ({"ce": 1.0, "rkd": 1.0}, {"distance": 25.0, "angle": 50.0}),
    "nst": ({"ce": 1.0, "nst": 50.0}, {}),
    "cc": ({"ce": 1.0, "cc": 0.02}, {"width": 128}),
    "ofd": ({"ce": 1.0, "ofd": 0.001}, {}),
    "reviewkd": ({"ce": 1.0, "reviewkd": warmup(20, 5.0)}, {}),
    "deit": ({"ce": 0.5, "deit": 0.5}, {}),
    "tf-kd": ({"ce": 0.9, "tfkd": 0.1}, {"correct": 0.99, "temperature": 20.0}),
    "dist": ({"ce": 1.0, "dist": 1.0}, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}),
}


def rate(training, epoch):
    """The learning rate that the recipe's optimizer really uses in an epoch, counted from 1."""
    optimizer, weight = training.optimizer(), jnp.zeros(())
    _, state = optimizer.update(jnp.ones(()), optimizer.init(weight), weight, epoch=epoch)
    return float(optax.tree_utils.tree_get(state, "learning_rate"))


def test_deit_is_trained_on_what_its_authors_augment():
    """Their code's --aa rand-m9-mstd0.5-inc1 --reprob 0.25, with noise in each pixel."""
    assert recipes.get_training("deit").augmentations == (
        data.TimmRandAugment(operations=2, magnitude=9, deviation=0.5, prob=0.5),
        data.RandomErasing(0.25, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), fill="noise"),
    )
    plain = dataclasses.replace(recipes.get_training("deit"), augment="none", random_erasing=0.0)
    assert plain.augmentations == recipes.get_training("repdistiller").augmentations == ()


@pytest.mark.parametrize("name", PUBLISHED_TRAININGS)
def test_trainings_have_the_published_numbers(name):
    made = recipes.get_training(name)
    numbers = (made.epochs, made.batch_size, made.learning_rate, made.drops, made.warmup, made.momentum)
    assert (*numbers, made.weight_decay, made.light_learning_rate, made.reported) == PUBLISHED_TRAININGS[name]


def test_ats_normalises_as_imagenet_and_the_others_as_the_data():
    assert recipes.get_training("ats").normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert recipes.get_training("repdistiller").normalization is None


@pytest.mark.parametrize("name", PUBLISHED_METHODS)
def test_methods_have_the_published_numbers(name):
    method = recipes.get_method(name)
    assert (dict(method.weights), dict(method.settings)) == PUBLISHED_METHODS[name]
    assert method.losses(digits()[0]).keys() == method.weights.keys()
    assert method.title
    assert method.paper


def test_every_method_is_in_the_table_of_this_test():
    assert set(recipes.methods()) == set(PUBLISHED_METHODS)
    assert set(recipes.trainings()) == {*PUBLISHED_TRAININGS, "digits"}


def test_the_terms_are_the_losses_of_their_names():
    for name in recipes.methods():
        made = {
            term: type(loss).__name__.lower() for term, loss in recipes.get_method(name).losses(digits()[0]).items()
        }
        first = "twoviewcrossentropy" if "mlkd" in made else "crossentropy"
        assert made == {term: first if term == "ce" else term for term in made}, name


def test_the_settings_reach_the_losses():
    for name, standardize in (("dkd", False), ("dkd+std", True), ("dkd-constant", False)):
        method = recipes.get_method(name, alpha=3.0, beta=5.0, temperature=7.0)
        dkd = method.losses()["dkd"]
        assert (float(dkd.alpha[...]), float(dkd.beta[...]), float(dkd.temperature.value[...])) == (3.0, 5.0, 7.0)
        assert dkd.standardize is standardize
    dkd = recipes.get_method("ctkd+dkd", t_end=9.0, beta=4.0).losses()["dkd"]
    assert (float(dkd.beta[...]), dkd.temperature.t_end) == (4.0, 9.0)
    for name, standardize in (("mlkd", False), ("mlkd+std", True)):
        mlkd = recipes.get_method(name, temperature=3.5).losses()["mlkd"]
        assert (float(mlkd.temperature.value[...]), mlkd.standardize) == (3.5, standardize)
    instance = recipes.get_method("ctkd-instance", hidden=5, t_start=2.0).losses()["kd"].temperature
    assert (instance.hidden, instance.t_start) == (5, 2.0)
    rkd = recipes.get_method("rkd", distance=1.0).losses()["rkd"]
    assert (float(rkd.distance[...]), float(rkd.angle[...])) == (1.0, 50.0)


@pytest.mark.parametrize("name", ["crd", "kd+crd", "ctkd+crd"])
def test_crd_is_given_the_training_labels(name):
    method, train = recipes.get_method(name, negatives=7), digits()[0].subset(64)
    crd = method.losses(train)["crd"]
    assert (crd.negatives, len(crd.classes)) == (7, 64)
    with pytest.raises(
        ValueError, match=rf"{re.escape(repr(name))} remembers every training image: give losses\(train"
    ):
        method.losses()


def test_a_number_takes_the_place_of_a_warm_up():
    method = recipes.get_method("dkd")
    assert [float(method.weights["dkd"](epoch)) for epoch in (1, 10, 20, 240)] == pytest.approx([0.05, 0.5, 1, 1])
    assert method.adapted({"dkd": 2.0}).weights["dkd"] == 2.0
    assert method.adapted({"ce": 0.5}).weights["dkd"] == warmup(20)
    assert recipes.get_method("kd", weights={"kd": warmup(5, 0.9)}).weights["kd"] == warmup(5, 0.9)


def test_a_method_describes_itself_in_json():
    described = json.loads(json.dumps(recipes.get_method("ctkd+dkd", weights={"dkd": warmup(20, 3.0)}).describe()))
    assert described == {
        "name": "ctkd+dkd",
        "weights": {"ce": 1.0, "dkd": {"function": "Warmup", "epochs": 20, "weight": 3.0}},
        "settings": {"alpha": 1.0, "beta": 2.0, "t_start": 1.0, "t_end": 20.0, "curriculum_epochs": 10},
    }


def test_the_losses_are_built_as_their_names_say():
    kd, standardized = (recipes.get_method(name).losses()["kd"] for name in ("kd", "kd+std"))
    assert (float(kd.temperature.value[...]), kd.standardize) == (4.0, False)
    assert (float(standardized.temperature.value[...]), standardized.standardize) == (2.0, True)
    ats = recipes.get_method("ats+std").losses()["ats"]
    assert (float(ats.correct[...]), float(ats.wrong[...]), float(ats.student[...])) == (4.0, 2.0, 1.0)
    assert ats.standardize
    assert not recipes.get_method("ats").losses()["ats"].standardize
    for name, standardize, start in (("ctkd", False, 15.6212), ("ctkd+std", True, 31.2423)):
        ctkd = recipes.get_method(name).losses()["kd"]
        assert isinstance(ctkd.temperature, losses.CurriculumTemperature)
        assert float(ctkd.temperature.temperature[...]) == pytest.approx(start, abs=1e-4)
        assert ctkd.standardize is standardize


def test_losses_are_new_objects_every_time():
    method = recipes.get_method("ctkd")
    first, second = method.losses()["kd"], method.losses()["kd"]
    first.temperature.raw[...] = jnp.float32(7.0)
    assert float(second.temperature.raw[...]) == 1.0


def test_settings_and_weights_can_be_overridden():
    method = recipes.get_method("kd", temperature=2.0, weights={"kd": 9.0})
    assert float(method.losses()["kd"].temperature.value[...]) == 2.0
    assert dict(method.weights) == {"ce": 0.1, "kd": 9.0}
    assert recipes.get_method("kd").weights["kd"] == 0.9


def test_a_shorter_curriculum_ends_earlier():
    curriculum = recipes.get_method("ctkd", curriculum_epochs=5).losses()["kd"].temperature.curriculum
    assert float(curriculum(5)) == -1.0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: recipes.get_method("kdd"), r"no method is called 'kdd'; there are ce, kd, ats, ctkd"),
        (lambda: recipes.get_training("crd"), r"no training recipe is called 'crd'; there are repdistiller"),
        (
            lambda: recipes.get_method("ats", temperature=4.0),
            r"'temperature'; it has correct, wrong, student",
        ),
        (lambda: recipes.get_method("ce", temperature=4.0), r"'ce' has no setting 'temperature'; it has none"),
        (lambda: recipes.get_method("ats", weights={"kd": 1.0}), r"'ats' has no term 'kd'; it has ce, ats"),
        (lambda: recipes.get_method("kd", temperature=-1.0), r"temperature=-1.0"),
        (lambda: recipes.get_method("kd", weights={"kd": float("nan")}), r"weight of 'kd' is nan"),
        (lambda: recipes.get_method("crd", negatives=0), r"negatives=0"),
        (lambda: recipes.get_method("dkd", temperature=0.0), r"temperature=0.0"),
        (lambda: recipes.get_method("kd+pkt", weights={"sp": 1.0}), r"'kd\+pkt' has no term 'sp'; it has ce, kd, pkt"),
        (lambda: recipes.get_training("ats").adapted(epochs=0), r"epochs=0"),
        (lambda: recipes.get_training("ats").adapted(learning_rate=-0.1), r"learning_rate=-0.1"),
        (lambda: recipes.get_training("ats").adapted(batch_size=0), r"batch_size=0"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_weight_that_cannot_be_written_down_is_refused():
    with pytest.raises(TypeError, match=r"weight of 'kd' is <function.*a dataclass that is called with the epoch"):
        recipes.get_method("kd", weights={"kd": lambda epoch: epoch})


def test_the_schedule_of_the_paper_stays_exact():
    training = recipes.get_training("repdistiller").adapted(epochs=240)
    assert training == recipes.get_training("repdistiller")
    rates = [rate(training, epoch) for epoch in (1, 150, 151, 180, 181, 210, 211, 240)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5], rtol=1e-6)


def test_the_warm_up_of_ats_is_in_its_optimizer():
    training = recipes.get_training("ats")
    np.testing.assert_allclose([rate(training, epoch) for epoch in (1, 3, 6)], [1e-8, 0.02, 0.05], rtol=1e-6)


def test_the_optimizer_of_transformers_is_what_their_recipe_says():
    training = recipes.get_training("transformers")
    np.testing.assert_allclose([rate(training, epoch) for epoch in (1, 21, 300)], [5e-7, 4.95e-4, 5e-6], rtol=0.02)
    schedule = optimizers.timm_cosine(5e-4, 300, 20, final=5e-6, start=5e-7)
    made = optimizers.adamw(schedule, weight_decay=0.05)
    assert dataclasses.replace(training, decays_kernels_only=False).optimizer() is made
    made = optimizers.adamw(schedule, weight_decay=0.05, mask=optimizers.kernels)
    assert dataclasses.replace(training, decays_kernels_only=True).optimizer() is made
    clipping = dataclasses.replace(training, decays_kernels_only=True, clip_norm=2.0)
    assert clipping.optimizer() is optimizers.clipped(made, 2.0)
    others = dataclasses.replace(training, optimizer_name="lamb", decays_kernels_only=False)
    assert others.optimizer() is optimizers.lamb(schedule, weight_decay=0.05)


@pytest.mark.parametrize(
    ("epochs", "drops", "warmup"),
    [(120, (75, 90, 105), 2), (24, (15, 18, 21), 0), (480, (300, 360, 420), 10), (2, (1,), 0), (1, (), 0)],
)
def test_drops_and_warm_up_move_with_the_length(epochs, drops, warmup):
    training = recipes.get_training("ats").adapted(epochs=epochs)
    assert (training.epochs, training.drops, training.warmup) == (epochs, drops, warmup)
    assert rate(training, epochs) == pytest.approx(0.05 * 0.1 ** len(drops))


@pytest.mark.parametrize("network", ["MobileNetV2", "ShuffleV1", "shufflenet_v2"])
def test_light_networks_begin_at_a_lower_rate(network):
    training = recipes.get_training("repdistiller")
    assert training.adapted(network=network).learning_rate == 0.01
    assert training.adapted(network=network, learning_rate=0.02).learning_rate == 0.02
    assert training.adapted(network="resnet20").learning_rate == 0.05
    assert recipes.get_training("ats").adapted(network=network).learning_rate == 0.05


def test_recipes_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.get_training("ats").epochs = 1
    with pytest.raises(TypeError):
        recipes.get_method("kd").weights["kd"] = 2.0


def test_methods_of_logits_train_and_report_their_terms():
    few = digits()[0].subset(64)
    for name in ("ce", "kd", "ats", "ctkd", "kd+std", "ctkd+std", "ats+std"):
        method = recipes.get_method(name)
        distiller = jaxkd.Distiller(student=TinyNet(10, seed=0), teacher=TinyNet(10, seed=1))
        distiller.compile(recipes.get_training("digits").optimizer(), loss=method.losses(), loss_weights=method.weights)
        history = distiller.fit(few, epochs=1, batch_size=32, verbose=0)
        assert all(np.isfinite(history.last(term)) for term in method.weights), name
        total = sum(weight * history.last(term) for term, weight in method.weights.items())
        assert history.last("loss") == pytest.approx(total, rel=1e-5), name


@pytest.mark.thorough
def test_every_method_can_be_compiled():
    """A ResNet-14 and a ResNet-8 have all that any method asks of networks."""
    train, optimizer = digits()[0], recipes.get_training("digits").optimizer()
    teacher, student = (models.create(name, num_classes=10) for name in ("resnet14", "resnet8"))
    for name in recipes.methods():
        method = recipes.get_method(name)
        distiller = jaxkd.Distiller(student=student, teacher=teacher)
        distiller.compile(optimizer, loss=method.losses(train), loss_weights=method.weights)
        assert set(distiller.state.params["losses"]) <= set(method.weights), name


def test_imagenet_has_settings_of_its_own():
    made = {name: recipes.get(name) for name in recipes.list() if recipes.get(name).data == "imagenet2012"}
    assert len(made) == 8
    kd, ctkd = made["kd/resnet34-resnet18"], made["ctkd/resnet34-resnet18"]
    assert (kd.training.name, kd.training.epochs, kd.published.top5) == ("imagenet-ctkd", 120, 90.31)
    assert dict(kd.method.weights) == dict(ctkd.method.weights) == {"ce": 1.0, "kd": 1.0}
    curriculum = ctkd.method.losses()["kd"].temperature.curriculum
    assert [float(curriculum(epoch)) for epoch in (5, 120)] == pytest.approx([-1.0, -1.0])
    assert float(curriculum(3)) > -1.0
    dkd = made["dkd/resnet34-resnet18"]
    assert (dkd.training.batch_size, dkd.method.settings["beta"], dkd.method.settings["temperature"]) == (512, 0.5, 1.0)
    assert float(dkd.method.weights["dkd"](1)) == 1.0
    assert str(dkd.published) == "71.70"
    assert str(kd.published) == "70.83, top-5 90.31"
