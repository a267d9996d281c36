"""Write and read weights alone, by PyTorch's keys, for a network that the reader builds by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import nnx

from jaxkd.convert import load_state_dict, to_torch
from jaxkd.convert.state_dict import unwrap
from jaxkd.export.source import Classifier
from jaxkd.formats import torch_reader
from jaxkd.trainer import Trainer


def write(classifier: Classifier, path: Path) -> None:
    """Write a state dict, as `convert.to_torch` does: safetensors by its suffix, which keeps the normalisation."""
    to_torch(classifier.model, path)


def read(path: Path, classifier: Classifier) -> Callable[[np.ndarray], np.ndarray]:
    """Return the network with the weights in a file as a function from pixels to logits."""
    model = nnx.clone(classifier.model)
    load_state_dict(model, unwrap(torch_reader.read(path), path), path)
    return Trainer(model).predict
