"""Callbacks around training. Subclass `Callback` and override the hooks of interest."""

from jaxkd.callbacks.base import Callback, CallbackList, LambdaCallback
from jaxkd.callbacks.checkpoint import Checkpoint
from jaxkd.callbacks.csv_logger import CSVLogger
from jaxkd.callbacks.early_stopping import EarlyStopping
from jaxkd.callbacks.progress_bar import ProgressBar
from jaxkd.callbacks.tensorboard import TensorBoard
from jaxkd.callbacks.terminate_on_nan import TerminateOnNaN
from jaxkd.callbacks.wandb import WandB

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
