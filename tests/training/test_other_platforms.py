"""Programs of GPUs and TPUs, lowered where there is none: nothing in them belongs to the CPU alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps import sweep

import jaxkd
from jaxkd import data, models, optimizers, recipes
from jaxkd.metrics import accuracy
from jaxkd.training import stacked_runs
from jaxkd.training.compiled_epoch import make_resident_loop
from jaxkd.training.evaluation import make_evaluate
from jaxkd.training.inputs import as_source
from jaxkd.training.step import make_step

METHODS = ("kd", "ats", "ctkd-instance", "dkd+std", "mlkd", "ctkd+crd", "kd+srrl", "vid", "ofd", "reviewkd", "dist")
STEPS, BATCH = 2, 8


@pytest.fixture(scope="module")
def train():
    return data.load("digits", split="train").subset(4 * BATCH)


@pytest.fixture(scope="module")
def teacher():
    return models.create("resnet8", num_classes=10)


def compiled(method, train, teacher, seed=0, **options):
    chosen = recipes.get_method(method)
    distiller = jaxkd.Distiller(student=models.create("resnet8", num_classes=10, seed=seed), teacher=teacher)
    distiller.compile(
        optimizers.sgd(0.05, momentum=0.9),
        chosen.losses(train),
        chosen.weights,
        seed=seed,
        image_shape=train.image_shape,
        **options,
    )
    return distiller


def lowered(function, platform, *arguments):
    """The program for a platform, as text."""
    return function.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def resident(source, *shape):
    images, labels = jnp.asarray(source.images), jnp.asarray(source.labels)
    return images, labels, jnp.zeros((*shape, STEPS, BATCH), jnp.int32)


@sweep("method", METHODS, core=["kd"], thorough=["ctkd-instance", "mlkd", "ctkd+crd", "reviewkd"])
def test_a_method_can_be_lowered(method, train, teacher):
    distiller = compiled(method, train, teacher)
    source = as_source(train, distiller.student)
    setup = distiller._bind(source)
    step = make_step(setup.program, setup.normalization, setup.teacher_normalization)
    loop = make_resident_loop(step, data.Augmentation(), setup.program.strong_view)
    for platform in ("cuda", "tpu"):
        text = lowered(loop, platform, distiller.state, *resident(source))
        assert "stablehlo.while" in text  # one loop over the steps
        assert "custom_call" not in text  # a kernel of one kind of device


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolutions_are_left_to_the_compiler_there(precision, train, teacher):
    """On the CPU the gradient of a kernel is a product of matrices."""
    distiller = compiled("kd", train, teacher, precision=precision)
    source = as_source(train, distiller.student)
    setup = distiller._bind(source)
    loop = make_resident_loop(make_step(setup.program, setup.normalization, setup.normalization), None)
    counted = {
        platform: lowered(loop, platform, distiller.state, *resident(source)).count("stablehlo.convolution")
        for platform in ("cuda", "tpu", "cpu")
    }
    assert counted["cuda"] == counted["tpu"] > counted["cpu"]


@sweep("seeds", [(0, 0), (0, 1)], core=[], thorough=[(0, 1)])
def test_several_runs_are_batched_there(seeds, train, teacher, monkeypatch):
    """On the CPU they follow one another, in a loop that is not there when they are batched."""
    runs = [compiled("ctkd", train, teacher, seed) for seed in seeds]
    source = as_source(train, runs[0].student)
    setup = runs[0]._bind(source)
    state = stacked_runs.stack([run.state for run in runs])

    def program(platform):
        if len(set(seeds)) == 1:
            build = stacked_runs.make_stacked_step.__wrapped__  # not what is kept for the CPU
            step = build(setup.program, setup.normalization, setup.teacher_normalization, setup.placement)
            loop, shape = make_resident_loop(step, data.Augmentation()), ()
        else:
            step = make_step(setup.program, setup.normalization, setup.teacher_normalization)
            build = stacked_runs.make_per_seed_loop.__wrapped__
            loop, shape = build(step, data.Augmentation(), None, setup.placement), (len(seeds),)
        return lowered(loop, platform, state, *resident(source, *shape))

    one_by_one = program("cpu")
    monkeypatch.setattr(stacked_runs, "mapped_over_runs", lambda placement: lambda run, given: jax.vmap(run)(given))
    for platform in ("cuda", "tpu"):
        text = program(platform)
        assert text.count("stablehlo.while") < one_by_one.count("stablehlo.while")
        assert "custom_call" not in text


@pytest.mark.thorough
def test_evaluation_can_be_lowered(train, teacher):
    trainer = jaxkd.Trainer(teacher)
    trainer.compile(optimizers.sgd(0.1))
    setup = trainer._bind(as_source(train, teacher))
    evaluate = make_evaluate(setup.program.model, setup.normalization, "float32", (("accuracy", accuracy),))
    indices = jnp.asarray(np.arange(2 * BATCH).reshape(2, BATCH))
    weights = trainer.state.params["model"], trainer.state.variables["model"]
    for platform in ("cuda", "tpu"):
        assert "custom_call" not in lowered(
            evaluate, platform, *weights, jnp.asarray(train.images), jnp.asarray(train.labels), indices
        )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_augmentations_can_be_lowered(platform, train):
    pieces = (
        data.TimmRandAugment(normalization=train.normalization),
        data.RandomErasing(normalization=train.normalization),
    )
    for piece in pieces:
        assert lowered(jax.jit(piece), platform, jax.random.key(0), jnp.asarray(train.images))
