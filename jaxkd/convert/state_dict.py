"""Find the state dict in what a file holds, and match its names with a model's."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np

from jaxkd.formats.files import ConversionError, listed

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts put the weights, beside the epoch, the accuracy and the optimizer."""

SYNONYMS = {"linear": "fc", "classifier": "fc", "shortcut": "downsample"}
"""What networks call their classifier or shortcut: each spelling maps to the one they are compared by."""

MAX_KEY_LETTERS = 1000
"""Keys are taken apart and compared with those of every network; no network has any that long."""


def unwrap(tree: Any, source: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Return the weights in what a torch file holds, in the file's order.

    It looks inside `CONTAINERS` (twice), strips the `module.` that `DataParallel` puts before every name and drops
    BatchNorm's step counters, which nothing here counts.

    Args:
      tree: what `torch_reader.read` returned.
      source: the file, for the error.

    Raises:
      ConversionError: there is no state dict.

    Example:
      >>> checkpoint = {"epoch": 3, "state_dict": {"module.fc.bias": np.zeros(10)}}
      >>> list(unwrap(checkpoint, "last.pth"))
      ['fc.bias']
    """
    for _ in range(2):
        inner = next((tree[name] for name in CONTAINERS if _is_dict(tree) and _is_dict(tree.get(name))), None)
        tree = tree if inner is None else inner
    if not _is_dict(tree) or not tree or not all(isinstance(name, str) for name in tree):
        raise ConversionError(source, f"holds no state dict, neither by itself nor under {', '.join(CONTAINERS)}")
    check_key_lengths(tree, source)
    if strange := [name for name, value in tree.items() if not isinstance(value, np.ndarray)]:
        raise ConversionError(source, f"holds no state dict; {'; '.join(listed({'no tensors': strange}))}")
    parallel = all(name.startswith("module.") for name in tree)
    names = {name.removeprefix("module.") if parallel else name: value for name, value in tree.items()}
    return {name: value for name, value in names.items() if not has_counter_name(name)}


def check_key_lengths(names: Iterable[str], source: str | PathLike[str]) -> None:
    """Refuse keys that no network has.

    Raises:
      ConversionError: one is longer than `MAX_KEY_LETTERS`.
    """
    if (longest := max(map(len, names), default=0)) > MAX_KEY_LETTERS:
        raise ConversionError(source, f"holds no state dict: a key has {longest} letters")


def has_counter_name(name: str) -> bool:
    """Return whether a key is that of BatchNorm's step counter, or of what Swin transformers can compute themselves."""
    return name.rpartition(".")[2] in ("num_batches_tracked", "relative_position_index", "attn_mask")


def match_names(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Map the names of a file to those of a model: equal ones, then those equal but for `SYNONYMS`.

    Args:
      names: of the file.
      expected: of the model.

    Returns:
      File name to model name; names without a partner are left out.

    Example:
      >>> match_names(["conv1.weight", "linear.weight", "extra"], ["conv1.weight", "fc.weight"])
      {'conv1.weight': 'conv1.weight', 'linear.weight': 'fc.weight'}
    """
    names, open_names = list(names), dict.fromkeys(expected)
    matched = {name: name for name in names if name in open_names}
    by_canonical = {canonical(name): name for name in open_names if name not in matched}
    for name in names:
        if name not in matched and (partner := by_canonical.pop(canonical(name), None)):
            matched[name] = partner
    return matched


@functools.lru_cache(maxsize=2**14)  # more than all networks have keys
def canonical(name: str) -> str:
    """Return the name with every synonym replaced.

    Example:
      >>> canonical("layer2.0.shortcut.0.weight")
      'layer2.0.downsample.0.weight'
    """
    return ".".join(SYNONYMS.get(part, part) for part in name.split("."))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
