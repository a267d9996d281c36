"""Callbacks around training. Subclass `Callback` and override the hooks of interest."""

from jaxkd.callbacks.base import Callback, CallbackList, LambdaCallback
from jaxkd.callbacks.checkpoint import Checkpoint
from jaxkd.callbacks.improvement import EarlyStopping, ReduceLROnPlateau
from jaxkd.callbacks.loggers import CSVLogger, TensorBoard, WandB
from jaxkd.callbacks.progress_bar import ProgressBar
from jaxkd.callbacks.terminate_on_nan import TerminateOnNaN

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
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
    "WandB",
]
