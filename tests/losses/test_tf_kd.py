"""The virtual teacher against PyTorch's divergence, and the command that needs no other."""

import numpy as np
import pytest

from jaxkd import Batch, Outputs, losses


@pytest.mark.parametrize("options", [{}, {"correct": 0.9, "temperature": 2.0}])
def test_it_is_pytorchs_divergence_from_the_virtual_teacher(options):
    """As the authors write it: the mean over all numbers, times as many as there are classes."""
    torch = pytest.importorskip("torch")
    logits, labels = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32), np.arange(6) % 5
    correct, temperature = options.get("correct", 0.99), options.get("temperature", 20.0)
    virtual = torch.full((6, 5), (1 - correct) / 4).scatter(1, torch.tensor(labels)[:, None], correct)
    student, teacher = torch.log_softmax(torch.tensor(logits), 1), torch.softmax(virtual / temperature, 1)
    expected = 5 * torch.nn.functional.kl_div(student, teacher, reduction="none").mean()
    found = losses.TfKD(**options)(Outputs(logits), None, Batch(None, labels, None), None, None)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correct": 1.0}, r"correct is 1\.0; it must be in \[0, 1\)"),
        ({"temperature": 0.0}, r"temperature=0\.0: give a positive number"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        losses.TfKD(**options)
