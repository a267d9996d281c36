"""Logs for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxkd.callbacks.base import Callback, Logs


class WandB(Callback):
    """Send the logs of each epoch to Weights & Biases, as `train/…` and `validation/…` at the epoch counted from 1.

    A run is begun when training begins and finished when it ends; one that an error ended is marked as failed when the
    next begins, or by wandb when the process ends. To resume the run of a killed process, name it the same both
    times: `WandB("project", id="ctkd-seed0", resume="allow")`; epochs that are trained again change nothing there.

    Args:
      project: where the run belongs.
      config: what to record of the configuration, such as `records.read(path).settings`.
      run: a run that was begun already, which then is yours to finish; the other arguments are not for it.
      **init: anything else that `wandb.init` takes: `name`, `group`, `mode="offline"`, ….

    Raises:
      ImportError: when training begins, if wandb is not installed.
      ValueError: for a `run` together with what would begin another.

    Example:
      >>> logger = WandB("distillation", config={"method": "ctkd"}, name="ctkd-seed0", mode="offline")
    """

    every_process = False

    def __init__(
        self, project: str | None = None, config: Mapping[str, Any] | None = None, *, run: Any = None, **init: Any
    ):
        given = {"project": project, "config": None if config is None else dict(config), **init}
        self._init = {name: value for name, value in given.items() if value is not None}
        if run is not None and self._init:
            raise ValueError(f"WandB was given a run and {', '.join(self._init)}: these belong to wandb.init(…)")
        self.project = project
        self._given = run
        self._run: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._given is not None:
            self._run = self._given
            return
        try:
            import wandb
        except ImportError as error:
            raise ImportError('callbacks.WandB needs wandb: pip install "jaxkd[wandb]"') from error
        if self._run is not None:
            self._run.finish(exit_code=1)
        self._run = wandb.init(**self._init)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values = {}
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            values[f"{part}/{name.removeprefix('val_')}"] = float(value)
        self._run.log(values, step=epoch + 1)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._given is None:
            self._run.finish()
        self._run = None
