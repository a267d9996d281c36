"""Callbacks: what happens around training. Subclass `Callback` and override the hooks of interest."""

from jaxkd.callbacks.base import Callback, CallbackList
from jaxkd.callbacks.checkpoint import Checkpoint
from jaxkd.callbacks.csv_logger import CSVLogger
from jaxkd.callbacks.early_stopping import EarlyStopping
from jaxkd.callbacks.function import LambdaCallback
from jaxkd.callbacks.progress_bar import ProgressBar
from jaxkd.callbacks.stop_on_nan import StopOnNaN
from jaxkd.callbacks.tensorboard import TensorBoard
from jaxkd.callbacks.wandb import WandB

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "Checkpoint",
    "EarlyStopping",
    "LambdaCallback",
    "ProgressBar",
    "StopOnNaN",
    "TensorBoard",
    "WandB",
]
