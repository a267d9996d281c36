"""Callbacks around training. Subclass `Callback` and override the hooks of interest."""

from jaxkd.callbacks.base import Callback, CallbackList, LambdaCallback
from jaxkd.callbacks.checkpoint import Checkpoint
from jaxkd.callbacks.early_stopping import EarlyStopping, TerminateOnNaN
from jaxkd.callbacks.loggers import CSVLogger, TensorBoard, WandB
from jaxkd.callbacks.progress_bar import ProgressBar

StopOnNaN = TerminateOnNaN
"""Its earlier name."""

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "Checkpoint",
    "EarlyStopping",
    "LambdaCallback",
    "ProgressBar",
    "TensorBoard",
    "TerminateOnNaN",
    "WandB",
]
