"""Networks of the zoo with reproducible weights, and whether two hold the same."""

import numpy as np
from reference import reference_weights

from jaxkd import Normalization, convert
from jaxkd.convert.architectures import abstract_model, entries

HALF = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def seeded(name: str, num_classes: int = 10, **options):
    """A network of the zoo with the reference weights."""
    return filled(abstract_model(name, num_classes, **options))


def filled(model):
    """The reference weights put into any module."""
    shapes = [(entry.name, entry.torch_shape) for entry in entries(model)]
    convert.load_state_dict(model, reference_weights(shapes), "reference")
    return model


def same_weights(model, other) -> bool:
    ours, theirs = convert.to_state_dict(model), convert.to_state_dict(other)
    return list(ours) == list(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in ours)
