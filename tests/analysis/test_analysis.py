"""What networks answer, as numbers: each on vectors that can be checked by hand, and against slow loops."""

import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import TinyNet, digits

from jaxkd import Normalization, Trainer, analysis
from jaxkd.losses.ats import asymmetric_scaling
from jaxkd.losses.functional import standardize

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 4, (60, 7))
OTHERS = LOGITS + RANDOM.normal(0, 3, (60, 7))
LABELS = RANDOM.integers(0, 7, 60)


def one(*probabilities):
    """The logits of one image, from its probabilities."""
    return np.log([probabilities])


# Derived average and deviation


def test_the_average_and_the_deviation_of_wrong_classes_by_hand():
    found = analysis.derived_statistics(one(0.7, 0.2, 0.06, 0.04), [0])
    assert found.average == pytest.approx([0.1])
    assert found.deviation == pytest.approx([math.sqrt((0.1**2 + 0.04**2 + 0.06**2) / 3)])
    assert found.inherent == pytest.approx([math.sqrt((0.1**2 + 0.04**2 + 0.06**2) / 3) / 0.3])


def test_a_temperature_is_a_root_of_the_probabilities():
    found = analysis.derived_statistics(one(16, 4, 1), [0], correct=2.0)  # 4 : 2 : 1
    assert [float(value[0]) for value in found] == pytest.approx([3 / 14, 1 / 14, 1 / 6])


def test_two_temperatures_by_hand():
    found = analysis.derived_statistics(one(16, 4, 1), [0], correct=2.0, wrong=1.0)  # 4 : 4 : 1
    assert [float(value[0]) for value in found] == pytest.approx([5 / 18, 3 / 18, 0.3])
    found = analysis.derived_statistics(one(16, 4, 1), [2], correct=1.0, wrong=2.0)  # 4 : 2 : 1, and the 1 is true
    assert [float(value[0]) for value in found] == pytest.approx([3 / 7, 1 / 7, 1 / 6])


def test_every_image_as_a_loop_computes_it():
    correct, wrong = 2.5, 1.5
    found = analysis.derived_statistics(LOGITS, LABELS, correct, wrong)
    for row, label, average, deviation in zip(LOGITS, LABELS, found.average, found.deviation, strict=True):
        weights = [math.exp(z / (correct if k == label else wrong)) for k, z in enumerate(row)]
        q = [weight / sum(weights) for k, weight in enumerate(weights) if k != label]
        assert average == pytest.approx(sum(q) / 6)
        assert deviation == pytest.approx(math.sqrt(sum((x - average) ** 2 for x in q) / 6))


def test_they_are_of_the_labels_that_the_loss_teaches():
    softened = np.array(asymmetric_scaling(jnp.array(LOGITS), jnp.array(LABELS), 4.0, 2.0), float)
    taught, direct = analysis.derived_statistics(softened, LABELS), analysis.derived_statistics(LOGITS, LABELS, 4, 2)
    for ours, theirs in zip(taught, direct, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(("correct", "wrong"), [(1.0, 1.0), (4.0, 2.0), (0.3, 5.0)])
def test_the_deviation_is_a_product_of_the_average_and_the_inherent_one(correct, wrong):
    found = analysis.derived_statistics(LOGITS, LABELS, correct, wrong)
    np.testing.assert_allclose(found.deviation, 6 * found.average * found.inherent, rtol=1e-10)


def test_being_surer_of_the_true_class_hides_how_the_others_differ():
    surer = LOGITS + 3.0 * np.eye(7)[LABELS]
    before, after = (analysis.derived_statistics(logits, LABELS) for logits in (LOGITS, surer))
    assert (after.average < before.average).all()
    assert (after.deviation < before.deviation).all()
    np.testing.assert_allclose(after.inherent, before.inherent)


def test_a_very_sure_teacher_still_has_wrong_classes():
    found = analysis.derived_statistics([[100.0, 0.0, -50.0]], [0])
    assert found.average[0] == pytest.approx(math.exp(-100) / 2, rel=1e-9)
    assert found.deviation[0] == pytest.approx(math.exp(-100) / 2, rel=1e-9)


def test_over_temperatures_are_means_over_the_images():
    found = analysis.over_temperatures(LOGITS, LABELS, [0.05, 2.0], correct=1.25, wrong=0.75)
    for place, tau in enumerate((0.05, 2.0)):
        each = analysis.derived_statistics(LOGITS, LABELS, 1.25 * tau, 0.75 * tau)
        assert [values[place] for values in found] == [pytest.approx(values.mean()) for values in each]


# Logits and classes


def test_mean_and_deviation_are_what_standardisation_removes():
    mean, deviation = analysis.logit_statistics(LOGITS)
    standard = np.array(standardize(jnp.array(LOGITS)))
    np.testing.assert_allclose(standard, (LOGITS - mean[:, None]) / deviation[:, None], atol=1e-6)


def test_correlations_do_not_see_shift_and_scale_of_a_class():
    found = analysis.logit_correlation(LOGITS)
    np.testing.assert_allclose(np.diag(found), 1.0)
    np.testing.assert_allclose(analysis.logit_correlation(3 * LOGITS + np.arange(7)), found)
    assert found[2, 5] == pytest.approx(stats.pearsonr(LOGITS[:, 2], LOGITS[:, 5]).statistic)


def test_profiles_are_mean_standardised_logits_of_each_class():
    logits = [[1.0, 2.0, 3.0], [30.0, 20.0, 10.0], [5.0, 7.0, 9.0]]
    found = analysis.class_profiles(logits, [2, 0, 2])
    np.testing.assert_allclose(found[2], [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(found[0], [1.0, 0.0, -1.0])
    assert np.isnan(found[1]).all()


def test_a_difference_leaves_out_the_diagonal_and_classes_without_images():
    teacher = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [np.nan] * 3])
    apart, mean = analysis.difference(teacher, np.ones((3, 3)))
    np.testing.assert_allclose(apart, [[0.0, 0.5, 1.0], [0.5, 0.0, 0.8], [np.nan, np.nan, 0.0]])
    assert mean == pytest.approx((0.5 + 1.0 + 0.5 + 0.8) / 4)


# Agreement


def answers(*classes):
    """Logits that say these classes."""
    return 5.0 * np.eye(4)[list(classes)]


def test_the_five_ways_to_answer():
    labels = [0, 0, 0, 0, 0]
    found = analysis.agreement(answers(0, 1, 0, 1, 1), answers(0, 0, 2, 1, 2), labels)
    assert found[:5] == pytest.approx([0.2] * 5)
    assert found.same_answer == pytest.approx(0.4)


def test_the_divergence_is_from_teacher_to_student():
    found = analysis.agreement(one(0.5, 0.5), one(0.9, 0.1), [0])
    assert found.divergence == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_disagreements_begin_where_both_are_surest():
    teacher, student = answers(0, 1, 2, 3), answers(0, 2, 3, 0)
    teacher[1] *= 2
    teacher[3], student[3] = 3 * teacher[3], 3 * student[3]
    assert analysis.disagreements(teacher, student).tolist() == [3, 1, 2]


# Calibration


def test_bins_and_error_by_hand():
    logits = np.log([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2], [0.95, 0.05]])
    found = analysis.reliability(logits, [0, 1, 0, 0], bins=2)
    assert found.images.tolist() == [1, 3]  # one half belongs to the lower bin
    assert found.confidence == pytest.approx([0.5, (0.6 + 0.8 + 0.95) / 3])
    assert found.accuracy == pytest.approx([1.0, 2 / 3])
    assert found.ece == pytest.approx((0.5 + 3 * abs((0.6 + 0.8 + 0.95) / 3 - 2 / 3)) / 4)
    assert found.over_confidence == pytest.approx((0.5 + 0.6 + 0.8 + 0.95) / 4 - 0.75)


def test_the_error_as_a_loop_computes_it():
    found = analysis.reliability(LOGITS, LABELS, bins=10)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == LABELS
    error = 0.0
    for m in range(1, 11):
        inside = (confidence > (m - 1) / 10) & (confidence <= m / 10)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert found.ece == pytest.approx(error)
    assert found.images.sum() == 60
    assert np.isnan(found.accuracy[found.images == 0]).all()


def test_a_temperature_takes_away_over_confidence():
    hot, cold = (analysis.reliability(LOGITS, LABELS, temperature=temperature) for temperature in (4.0, 1.0))
    assert hot.over_confidence < cold.over_confidence
    assert cold.over_confidence > 0  # the labels are random
    assert np.average(hot.accuracy[hot.images > 0], weights=hot.images[hot.images > 0]) == pytest.approx(
        (LOGITS.argmax(1) == LABELS).mean()
    )


# Classes


def test_the_gain_of_classes_is_the_gain_of_the_whole():
    labels = np.arange(60) % 6  # the seventh class has no images
    gain = analysis.class_gain(OTHERS, LOGITS, labels)
    assert np.isnan(gain[6])
    whole = (OTHERS.argmax(1) == labels).mean() - (LOGITS.argmax(1) == labels).mean()
    assert np.nanmean(gain) == pytest.approx(whole)


# Wrong classes


def test_a_copy_of_the_teacher_agrees_entirely():
    found = analysis.wrong_classes(LOGITS, LOGITS, LABELS)
    assert found.rank_correlation == pytest.approx(np.ones(60))
    assert found.overlap.tolist() == [1.0] * 6
    assert found.divergence == pytest.approx(np.zeros(60), abs=1e-12)


def test_overlap_and_order_by_hand():
    teacher, student = [[9.0, 4.0, 3.0, 2.0, 1.0]], [[0.0, 1.0, 3.0, 4.0, 2.0]]
    found = analysis.wrong_classes(teacher, student, [0], top=3)
    assert found.overlap == pytest.approx([0.0, 1 / 2, 2 / 3])
    assert found.rank_correlation == pytest.approx([1 - 6 * (3**2 + 0 + 2**2 + 1) / (4 * 15)])


def test_rankings_as_scipy_correlates_them():
    found = analysis.wrong_classes(LOGITS, OTHERS, LABELS)
    for row, other, label, correlation in zip(LOGITS, OTHERS, LABELS, found.rank_correlation, strict=True):
        wrong = np.arange(7) != label
        assert correlation == pytest.approx(stats.spearmanr(row[wrong], other[wrong]).statistic)


def test_the_true_class_does_not_matter():
    surer = OTHERS + 9.0 * np.eye(7)[LABELS]
    for ours, theirs in zip(
        analysis.wrong_classes(LOGITS, surer, LABELS), analysis.wrong_classes(LOGITS, OTHERS, LABELS), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)


def test_the_divergence_of_wrong_classes_by_hand():
    found = analysis.wrong_classes(one(0.8, 0.1, 0.1), one(0.5, 0.4, 0.1), [0])
    assert found.divergence == pytest.approx([0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)])


# Networks


def test_logits_and_embeddings_are_the_networks_own():
    test = digits()[1].subset(20)
    model = TinyNet(seed=1, normalization=Normalization((0.2,) * 3, (0.5,) * 3))
    outputs = model(model.normalization(test.images), train=False)
    np.testing.assert_allclose(analysis.predict(model, test, batch_size=8), outputs.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(analysis.embeddings(model, test, batch_size=8), outputs.features[-1], rtol=1e-4)


def test_embeddings_take_the_datas_normalisation_where_the_network_has_none():
    test = digits()[1].subset(4)
    model = TinyNet(seed=1)
    by_hand = analysis.embeddings(model, np.asarray(test.normalization(test.images)))
    np.testing.assert_allclose(analysis.embeddings(model, test), by_hand, rtol=1e-5)
    np.testing.assert_array_equal(analysis.predict(model, test), Trainer(model).predict(test))


# Embeddings in the plane


def test_classes_that_lie_apart_stay_apart_in_the_plane():
    pytest.importorskip("sklearn")
    labels = np.arange(60) % 3
    near = RANDOM.normal(0, 0.1, (60, 5)) + 5.0 * np.eye(5)[labels]
    points = analysis.embed(near, seed=0)
    assert points.shape == (60, 2)
    centres = np.array([points[labels == label].mean(0) for label in range(3)])
    distances = np.linalg.norm(points[:, None] - centres[None], axis=-1)
    assert (distances.argmin(1) == labels).all()
    np.testing.assert_array_equal(analysis.embed(near, seed=0), points)
    assert analysis.separation(near, labels) > 0.9 > 0.1 > analysis.separation(RANDOM.normal(size=(60, 5)), labels)


@pytest.mark.parametrize(
    "use", [lambda: analysis.embed(LOGITS), lambda: analysis.separation(LOGITS, LABELS), analysis.check_scikit_learn]
)
def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch, use):
    for part in ("sklearn", "sklearn.manifold", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(ImportError, match=r'pip install "jaxkd\[analysis\]"'):
        use()


# All of them


@pytest.mark.parametrize(
    "measure",
    [
        lambda logits: analysis.derived_statistics(logits, LABELS),
        lambda logits: analysis.agreement(logits, OTHERS, LABELS),
        lambda logits: analysis.reliability(logits, LABELS),
        lambda logits: analysis.wrong_classes(logits, OTHERS, LABELS),
    ],
)
def test_what_a_softmax_says_does_not_change_with_a_shift(measure):
    for ours, theirs in zip(measure(LOGITS + 7.0), measure(LOGITS), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: analysis.derived_statistics(LOGITS[0], LABELS), r"their shape is \(7,\)"),
        (lambda: analysis.logit_statistics(LOGITS[:, :1]), "two classes or more"),
        (lambda: analysis.logit_statistics(LOGITS[:0]), "two classes or more"),
        (lambda: analysis.logit_correlation(np.where(np.arange(60)[:, None] == 3, np.inf, LOGITS)), "image 3 are not"),
        (lambda: analysis.class_accuracy(LOGITS, LABELS[:-1]), "60 images, but 59 labels"),
        (lambda: analysis.class_accuracy(LOGITS, LABELS + 1), "out of range"),
        (lambda: analysis.agreement(LOGITS, OTHERS[:, :5], LABELS), r"\(60, 7\) and the student's \(60, 5\)"),
        (lambda: analysis.logit_correlation(LOGITS * (np.arange(7) != 2)), "the logit of class 2 is the same"),
        (lambda: analysis.class_profiles(np.ones((60, 7)), LABELS), "image 0 are all equal"),
        (lambda: analysis.derived_statistics(LOGITS, LABELS, correct=0.0), "correct is 0"),
        (lambda: analysis.derived_statistics(LOGITS, LABELS, 1.0, wrong=-1.0), "wrong is -1"),
        (lambda: analysis.reliability(LOGITS, LABELS, bins=0), "bins=0"),
        (lambda: analysis.reliability(LOGITS, LABELS, temperature=0.0), "temperature is 0"),
        (lambda: analysis.wrong_classes(LOGITS, OTHERS, LABELS, top=0), "top=0"),
        (lambda: analysis.wrong_classes(LOGITS[:, :2], OTHERS[:, :2], LABELS % 2), "only one is wrong"),
    ],
)
def test_what_cannot_be_measured_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
