"""Who takes part in the benchmark, by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.work import Contender, Kind, UnavailableError, Work

TITLES = {
    "jaxkd": "jaxkd",
    "jaxkd-cache": "jaxkd, teacher cached",
    "jaxkd-alone": "jaxkd, student alone",
    "jaxkd-sweep": "jaxkd, as one sweep",
    "jaxkd-bf16": "jaxkd, bfloat16",
    "jaxkd-bf16-cache": "jaxkd, bfloat16, teacher cached",
    "jaxkd-bf16-alone": "jaxkd, bfloat16, student alone",
    "torch": "PyTorch, as users run it",
    "torch-tuned": "PyTorch, tuned",
    "torch-tuned-bf16": "PyTorch, tuned, bfloat16",
    "keras": "keras.distillation",
}

ON_CPU = tuple(key for key in TITLES if key != "jaxkd-bf16-alone")
QUICK = ("jaxkd", "jaxkd-cache", "jaxkd-sweep", "torch", "torch-tuned")

TUNED = {"float32": "torch-tuned", "bfloat16": "torch-tuned-bf16"}
"""Whom the others are compared with, by precision."""


@dataclass(frozen=True)
class Peers:
    """Settings of the PyTorch side.

    Attributes:
      workers: processes of its loader.
      compiles: whether `torch.compile` may be tried.
      way: how the tuned one is to run, if it was found out before; its text.
    """

    workers: int = 2
    compiles: bool = True
    way: str | None = None


def build(key: str, work: Work, peers: Peers) -> Contender:
    """Return a contender, ready to run; its library is imported here and not before.

    Raises:
      UnavailableError: it cannot take part here.
      ValueError: for a network that it does not have.
    """
    if key.startswith("jaxkd"):
        from benchmarks import jaxkd_side

        return jaxkd_side.contender(work, jaxkd_side.VARIANTS[key])
    if key == "keras":
        from benchmarks import keras_side

        return keras_side.contender(work)
    try:
        from benchmarks import torch_tuned, torch_usual
    except ImportError as error:
        raise UnavailableError(f"torch is not installed ({error})") from error
    if key == "torch":
        return torch_usual.usual(work, peers.workers)
    return torch_tuned.tuned(work, key == "torch-tuned-bf16", peers.compiles, peers.way)


def device_peak(key: str) -> int | None:
    """Return the most bytes that a contender of this process had in use on the accelerator; None without one."""
    if key.startswith("torch"):
        from benchmarks import torch_side

        return torch_side.device_peak()
    from benchmarks import jaxkd_side

    return jaxkd_side.device_peak()


def taking_part(keys: Sequence[str], kind: Kind) -> list[str]:
    """Return those of the contenders that can do this kind of work.

    Example:
      >>> taking_part(list(TITLES), "evaluation")
      ['jaxkd', 'jaxkd-bf16', 'torch', 'torch-tuned', 'torch-tuned-bf16']
      >>> taking_part(list(TITLES), "grid")
      ['jaxkd', 'jaxkd-sweep', 'torch-tuned']
    """
    if kind == "grid":
        return [key for key in keys if key in ("jaxkd", "jaxkd-sweep", "torch-tuned")]
    if kind == "evaluation":
        return [key for key in keys if key != "keras" and not key.endswith(("-cache", "-alone", "-sweep"))]
    return [key for key in keys if key != "jaxkd-sweep" and (key != "keras" or kind == "step")]


def resolve(keys: Sequence[str]) -> list[str]:
    """Return the keys, in the order of `TITLES`.

    Raises:
      ValueError: for one that is unknown.
    """
    if unknown := [key for key in keys if key not in TITLES]:
        raise ValueError(f"no contender is called {', '.join(unknown)}: choose among {', '.join(TITLES)}")
    return [key for key in TITLES if key in keys]
