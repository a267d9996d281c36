"""MLKD against the authors' values, by hand, at extremes, and in a run with its strong view."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import GOLDENS
from tiny import TinyNet, digits
from values import both_precisions, precision, relative_error

import jaxkd
from jaxkd import Batch, Outputs, Progress, models, optimizers
from jaxkd.data import RandAugment
from jaxkd.losses.kd import KD
from jaxkd.losses.mlkd import MLKD, TwoViewCrossEntropy, batch_correlation_loss, class_correlation_loss, unsure_shares
from jaxkd.losses.temperature import CurriculumTemperature, InstanceTemperature
from jaxkd.training.program import strong_view_of

FOLDER = GOLDENS / "losses"
CASES = {case["name"]: case["params"] for case in json.loads((FOLDER / "index.json").read_text())}
MLKD_CASES = [name for name in CASES if name.startswith("mlkd")]
B, K = 6, 10
PARTS = ("kd", "class_correlation", "batch_correlation")


def logits(seed, shape=(B, K), scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def value_of(loss, student, teacher, labels):
    """The loss of (weak, strong) logits."""
    batch = Batch(images=None, labels=jnp.asarray(labels, jnp.int32), index=None)
    student, teacher = (Outputs(jnp.asarray(weak), strong=Outputs(jnp.asarray(s))) for weak, s in (student, teacher))
    return loss(student, teacher, batch, Progress(jnp.int32(0), jnp.int32(1)), None)


def test_every_case_is_used():
    assert len(MLKD_CASES) == 2


@both_precisions
@pytest.mark.parametrize("name", MLKD_CASES)
def test_the_authors_values(name, dtype, value_tolerance, gradient_tolerance):
    params = CASES[name]
    with precision(dtype):
        golden = np.load(FOLDER / f"{name}.npz")
        student, teacher = (
            tuple(jnp.asarray(golden[f"{who}_logits_{view}"], dtype) for view in ("weak", "strong"))
            for who in ("student", "teacher")
        )

        def total(student):
            mlkd = MLKD(params["temperature"], standardize=params["standardize"])
            cross_entropy = params["ce_weight"] * value_of(TwoViewCrossEntropy(), student, teacher, golden["labels"])
            value = cross_entropy + params["kd_weight"] * value_of(mlkd, student, teacher, golden["labels"])
            parts = [getattr(mlkd, part)[...] for part in PARTS]
            return value, (cross_entropy, parts)

        (value, (cross_entropy, parts)), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(student)
        assert value.dtype == dtype
        assert relative_error(value, golden["loss"]) < value_tolerance
        assert relative_error(cross_entropy, golden["loss_ce"]) < value_tolerance
        for part, key in zip(parts, ("loss_kd", "loss_cc", "loss_bc"), strict=True):
            assert part.dtype == jnp.float32  # for the logs
            assert relative_error(params["kd_weight"] * part, golden[key]) < 1e-5
        for gradient, view in zip(gradients, ("weak", "strong"), strict=True):
            assert relative_error(gradient, golden[f"grad_student_logits_{view}"]) < gradient_tolerance


def test_correlations_by_hand():
    # Teacher sure of classes 0 and 1, student undecided. Examples: identity against all halves: 4 · (1/2)² / B.
    sure, undecided = jnp.array([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]]), jnp.array([[1.0, 1.0, -1e4]] * 2)
    assert float(batch_correlation_loss(sure, undecided)) == pytest.approx(4 / 4 / 2)
    # Classes: diag(1, 1, 0) against halves in the upper left block: the same four differences / K.
    assert float(class_correlation_loss(sure, undecided)) == pytest.approx(4 / 4 / 3)


def test_unsure_shares_count_ties_and_middles():
    # Confidences 0.9, 0.6 and 0.6: the median is 0.6, two of three are at most that. Classes 2.1, 0.9: one of two.
    third = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    assert [float(share) for share in unsure_shares(third)] == pytest.approx([2 / 3, 1 / 2])
    assert [float(share) for share in unsure_shares(third[:1])] == pytest.approx([1.0, 1 / 2])
    assert [float(share) for share in unsure_shares(jnp.zeros((4, 6)))] == [1.0, 1.0]


def test_kd_part_from_kd():
    # The weak view at all five temperatures times the share, the strong at T, 3 and 5, the weak again at 2 and 6.
    student, teacher, labels = (logits(0), logits(1)), (logits(2), logits(3)), np.arange(B)
    loss = MLKD(temperature=4.0, standardize=True)
    value_of(loss, student, teacher, labels)

    def kd(view, *temperatures):
        kds = [KD(temperature, standardize=True) for temperature in temperatures]
        return sum(
            float(each(Outputs(student[view]), Outputs(teacher[view]), Batch(None, labels, None), None, None))
            for each in kds
        )

    share = float(np.mean(jax.nn.softmax(teacher[0]).max(1) <= np.median(jax.nn.softmax(teacher[0]).max(1))))
    expected = share * kd(0, 4.0, 3.0, 5.0, 2.0, 6.0) + kd(1, 4.0, 3.0, 5.0) + kd(0, 2.0, 6.0)
    assert float(loss.kd[...]) == pytest.approx(expected, rel=1e-5)


def test_a_single_view_is_refused():
    batch, one = Batch(None, jnp.arange(B), None), Outputs(jnp.asarray(logits(0)))
    for loss in (MLKD(), TwoViewCrossEntropy()):
        with pytest.raises(ValueError, match=r"two views.*strong_view"):
            loss(one, one, batch, None, None)
    with pytest.raises(ValueError, match="Distiller"):
        MLKD()(one._replace(strong=one), None, batch, None, None)


def fitted(student, teacher, mlkd, epochs=1):
    distiller = jaxkd.Distiller(student=student, teacher=teacher)
    distiller.compile(
        optimizers.sgd(0.01, momentum=0.9, weight_decay=5e-4),
        loss={"ce": TwoViewCrossEntropy(), "mlkd": mlkd},
        loss_weights={"ce": 0.1, "mlkd": 0.9},
        image_shape=(8, 8, 3),
    )
    # One step an epoch: the logs tell what the last step saw.
    return distiller.fit(digits()[0].subset(32), epochs=epochs, batch_size=32, verbose=0).history


def test_it_distils_from_two_views():
    student, teacher = (models.create("resnet8", num_classes=10, seed=seed) for seed in (0, 1))
    logs = fitted(student, teacher, MLKD(temperature=2.0, standardize=True), epochs=2)
    for epoch in range(2):
        assert logs["loss"][epoch] == pytest.approx(0.1 * logs["ce"][epoch] + 0.9 * logs["mlkd"][epoch], rel=1e-4)
        parts = sum(logs[f"mlkd_{part}"][epoch] for part in PARTS)
        assert logs["mlkd"][epoch] == pytest.approx(parts, rel=1e-4)


@pytest.mark.parametrize(
    "rule", [CurriculumTemperature(), pytest.param(InstanceTemperature(hidden=4), marks=pytest.mark.slow)]
)
def test_it_takes_a_learned_temperature(rule):
    logs = fitted(TinyNet(), TinyNet(seed=5), MLKD(rule), epochs=2)
    assert np.isfinite(logs["mlkd"]).all()
    assert logs["mlkd"][0] != logs["mlkd"][1]
    assert 1.0 < logs["mlkd_temperature"][0] < 21.0


@pytest.mark.thorough
def test_the_strong_view_is_the_one_given():
    def weak_again(key, images):
        return images

    def black(key, images):
        return jnp.zeros_like(images)

    student, teacher = TinyNet(), TinyNet(seed=5)
    one, other = (fitted(nnx.clone(student), teacher, MLKD(strong_view=view)) for view in (weak_again, black))
    assert one["mlkd_class_correlation"] == pytest.approx(other["mlkd_class_correlation"], rel=1e-5)  # weak alone
    assert one["mlkd_kd"] != pytest.approx(other["mlkd_kd"], rel=1e-2)


def test_the_strong_view_by_name_is_rand_augment():
    def strong_view(**arguments):
        return strong_view_of(nnx.Dict({"ce": TwoViewCrossEntropy(), "mlkd": MLKD(**arguments)}))

    assert strong_view() == strong_view(strong_view=RandAugment()) == RandAugment()
    with pytest.raises(ValueError, match="no strong view is called 'blur'; there is rand_augment"):
        strong_view(strong_view="blur")


class Darkest(jaxkd.losses.Loss):
    strong_view = staticmethod(lambda key, images: images)

    def __call__(self, student, teacher, batch, progress, key):
        return batch.strong.min()


def test_a_strong_view_is_made_of_cropped_images():
    train = digits()[0].subset(32)
    white = train.replace(
        images=np.full_like(train.images, 255), augmentation=jaxkd.data.Augmentation(pad=3, flip=False)
    )
    trainer = jaxkd.Trainer(TinyNet())
    trainer.compile(optimizers.sgd(0.0), {"darkest": Darkest()})
    found = trainer.fit(white, batch_size=32, verbose=0).last("darkest")
    black = train.normalization(np.zeros((1, 1, 1, 3), np.uint8))
    assert found == pytest.approx(float(black.min()), rel=1e-5)


def test_both_views_labels_are_smoothed():
    weak, strong, labels = logits(0), logits(1), np.arange(B) % K
    batch = Batch(images=None, labels=jnp.asarray(labels, jnp.int32), index=None)
    alone = jaxkd.losses.CrossEntropy(0.1)
    apart = [float(alone(Outputs(jnp.asarray(one)), None, batch, None, None)) for one in (weak, strong)]
    student = Outputs(jnp.asarray(weak), strong=Outputs(jnp.asarray(strong)))
    assert float(TwoViewCrossEntropy(0.1)(student, None, batch, None, None)) == pytest.approx(sum(apart), rel=1e-6)
