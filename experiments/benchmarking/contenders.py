"""Who takes part in the benchmark, by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarking.work import Contender, Kind, UnavailableError, Work

TITLES = {
    "jaxkd": "jaxkd",
    "jaxkd-cache": "jaxkd, teacher cached",
    "jaxkd-alone": "jaxkd, student alone",
    "jaxkd-bf16": "jaxkd, bfloat16",
    "jaxkd-bf16-cache": "jaxkd, bfloat16, teacher cached",
    "jaxkd-bf16-alone": "jaxkd, bfloat16, student alone",
    "torch": "PyTorch, as users run it",
    "torch-tuned": "PyTorch, tuned",
    "torch-tuned-bf16": "PyTorch, tuned, bfloat16",
    "keras": "keras.distillation",
}

ON_CPU = tuple(key for key in TITLES if not key.startswith("jaxkd-bf16"))
"""XLA has no fast bfloat16 there, PyTorch has it on some."""

QUICK = ("jaxkd", "jaxkd-cache", "torch", "torch-tuned")


@dataclass
class Peers:
    """What the PyTorch side needs to know.

    Attributes:
      workers: processes of its loader.
      compiles: whether `torch.compile` may be tried.
      chosen: what was found to be the best way, for each kind of work.
    """

    workers: int = 2
    compiles: bool = True
    chosen: dict[Any, Any] = field(default_factory=dict)


def build(key: str, work: Work, peers: Peers) -> Contender:
    """A contender, ready to run.

    Raises:
      UnavailableError: it cannot take part here.
      ValueError: for a network that it does not have.
    """
    if key.startswith("jaxkd"):
        from benchmarking import jaxkd_contenders

        return jaxkd_contenders.contender(work, jaxkd_contenders.VARIANTS[key])
    if key == "keras":
        from benchmarking import keras_peer

        return keras_peer.contender(work)
    try:
        from benchmarking import torch_peer, torch_tuned
    except ImportError as error:
        raise UnavailableError(f"torch is not installed ({error})") from error
    if key == "torch":
        return torch_peer.contender(work, peers.workers)
    return torch_tuned.contender(work, key == "torch-tuned-bf16", peers.compiles, peers.chosen)


def taking_part(keys: Sequence[str], kind: Kind) -> list[str]:
    """Those of the contenders that have something to say about this kind of work.

    Example:
      >>> taking_part(list(TITLES), "evaluation")
      ['jaxkd', 'jaxkd-bf16', 'torch', 'torch-tuned', 'torch-tuned-bf16']
    """
    if kind == "evaluation":
        return [key for key in keys if key not in ("keras",) and not key.endswith(("-cache", "-alone"))]
    return [key for key in keys if key != "keras" or kind == "step"]


def resolve(keys: Sequence[str]) -> list[str]:
    """The keys, in the order of `TITLES`.

    Raises:
      ValueError: for one that is unknown.
    """
    if unknown := [key for key in keys if key not in TITLES]:
        raise ValueError(f"no contender is called {', '.join(unknown)}: choose among {', '.join(TITLES)}")
    return [key for key in TITLES if key in keys]
