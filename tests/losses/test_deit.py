"""DeiT's losses against PyTorch's cross-entropy, and which of two tokens they read."""

import numpy as np
import pytest

from jaxkd import Batch, Outputs, losses

BATCH = Batch(images=None, labels=np.arange(6) % 5, index=None)


def logits(seed):
    return np.random.default_rng(seed).standard_normal((6, 5)).astype(np.float32)


def test_the_teachers_answer_is_the_label():
    torch = pytest.importorskip("torch")
    answers = torch.tensor(logits(1)).argmax(-1)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits(0)), answers)
    found = losses.HardLabel()(Outputs(logits(0)), Outputs(logits(1)), None, None, None)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [None, losses.KD(3.0)], ids=["hard", "soft"])
def test_the_distillation_token_is_held_to_the_teacher(loss):
    teacher, with_token = Outputs(logits(1)), Outputs(logits(0), distillation_logits=logits(2))
    on_token = (loss or losses.HardLabel())(Outputs(logits(2)), teacher, BATCH, None, None)
    assert float(losses.DeiT(loss)(with_token, teacher, BATCH, None, None)) == float(on_token)
    without = losses.DeiT(loss)(Outputs(logits(2)), teacher, BATCH, None, None)
    assert float(without) == float(on_token)


def test_the_token_of_the_strong_view_is_read_as_well():
    seen = []

    class Look(losses.Loss):
        def __call__(self, student, teacher, batch, progress, key):
            seen.append((student.logits, student.strong.logits))
            return np.float32(0)

    strong = Outputs(logits(3), distillation_logits=logits(4))
    losses.DeiT(Look())(Outputs(logits(0), distillation_logits=logits(2), strong=strong), None, None, None, None)
    np.testing.assert_array_equal(seen[0], (logits(2), logits(4)))


@pytest.mark.parametrize(
    ("teacher", "said"),
    [(None, "use jaxkd.Distiller"), (Outputs(np.zeros((6, 7))), "give networks of the same classes")],
)
def test_a_teacher_of_other_classes_is_refused(teacher, said):
    with pytest.raises(ValueError, match=said):
        losses.DeiT()(Outputs(logits(0)), teacher, BATCH, None, None)
