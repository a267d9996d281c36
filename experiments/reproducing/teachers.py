"""The file of weights of a network, found among those of a folder."""

from __future__ import annotations

import pathlib

from jaxkd.convert import ConversionError
from jaxkd.convert.checkpoint import read_manifest

_WAYS = ("{name}/model", "{name}", "{name}.pth", "cifar100_{name}.pth", "{name}.safetensors", "{name}_vanilla/*.pth")


def teacher_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the weights of a teacher are: a folder that jaxkd wrote, or a file, called after the network.

    Args:
      folder: to look in.
      name: of the network.

    Raises:
      FileNotFoundError: there is none; the error says under which names it was looked for.
    """
    for way in _WAYS:
        found = sorted(folder.glob(way.format(name=name)))
        found = [path for path in found if path.is_file() or _holds_weights(path)]
        if found:
            return found[0]
    ways = ", ".join(way.format(name=name) for way in _WAYS)
    raise FileNotFoundError(
        f"--teachers {folder} has no {name} (looked for {ways}): train it by train_teacher.py --model {name} "
        f"--output {folder / name}, or copy its published weights there"
    )


def _holds_weights(folder: pathlib.Path) -> bool:
    try:
        read_manifest(folder)
    except ConversionError:
        return False
    return True
