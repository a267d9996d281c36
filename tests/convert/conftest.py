"""A small network with reproducible weights, and its state dict."""

import pytest
from seeded import seeded

from jaxkd import convert


@pytest.fixture(scope="module")
def resnet8():
    return seeded("resnet8")


@pytest.fixture(scope="module")
def weights(resnet8):
    return convert.to_state_dict(resnet8)
