"""The reference numbers, and networks with the weights they were computed with."""

import json
import os
import pathlib
import zlib

import numpy as np
import pytest

from jaxkd import models
from jaxkd.convert import load_state_dict, to_state_dict

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
SHARED = pathlib.Path(__file__).parents[3] / "shared"


def golden(name):
    """Reference arrays: small files are in the repository, all are in the folder beside a developer's checkout."""
    return np.load(_found(f"{name}.npz"))


def listing(name):
    """The keys, shapes and sizes of a reference network."""
    return json.loads(_found(f"{name}.json").read_text())


def _found(name):
    for folder in (GOLDENS, SHARED / "goldens"):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not in the repository, and there is no folder of reference numbers beside it")


def reference_weights(names_and_shapes, salt="", logits_factor=1.0):
    """The seeded weights with which the reference numbers were computed: one generator per state-dict key."""
    weights = {}
    for name, shape in names_and_shapes:
        noise = np.random.default_rng(zlib.crc32((salt + name).encode())).standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            value = 1 + 0.1 * abs(noise)
        elif name.endswith("running_mean"):
            value = 0.1 * noise
        elif len(shape) == 1:
            value = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
        else:
            value = 0.5 * noise * np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = (value * (logits_factor if name == "fc.weight" else 1.0)).astype(np.float32)
    return weights


def reference_model(name, salt, logits_factor=1.0):
    model = models.create(name, num_classes=100)
    shapes = [(key, value.shape) for key, value in to_state_dict(model).items()]
    load_state_dict(model, reference_weights(shapes, salt, logits_factor), source=name)
    return model


def python_path(test):
    """The path on which another process finds a test's module and what tests share."""
    return os.pathsep.join([str(pathlib.Path(test).parent), str(pathlib.Path(__file__).parent)])
