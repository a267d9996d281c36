"""Write a network for elsewhere, read it back by the library that will run it, and refuse a file that differs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxkd.data import Dataset
from jaxkd.export.formats import Format, Predict, format_of
from jaxkd.export.source import Classifier, Source, classifier
from jaxkd.types import Normalization

TOLERANCE = 1e-4
"""The largest difference of logits that is let through, as a part of the largest logit."""

MAX_LOST = 0.005
"""The largest loss of accuracy that int8 is let through with: half a point."""

CHECKED = 16
"""Images that a file is checked with, at once and one of them alone."""

CALIBRATED = 256
"""Images that the ranges of activations are measured on."""


class ExportError(ValueError):
    """A file that cannot be written, or does not compute what the network does; nothing is left of it."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
      path: the file.
      format: its format.
      classifier: the network in it.
      bytes: the size of the file.
      difference: the largest difference of any logit from `predict`.
      scale: the largest logit.
      accuracy: of the network and of the file, on the test images; None where it is not in int8.
    """

    path: Path
    format: Format
    classifier: Classifier
    bytes: int
    difference: float
    scale: float
    accuracy: tuple[float, float] | None = None

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return logits `[N, K]` of uint8 pixels `[N, H, W, C]`, computed by the library the file is for."""
        return self.format.read(self.path, self.classifier)(images)


def write(
    source: Source,
    path: str | os.PathLike[str] | None = None,
    to: str | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    normalization: Normalization | None = None,
    calibration: Dataset | None = None,
    test: Dataset | None = None,
) -> Exported:
    """Write a network for use without this package, and check the file against `predict`.

    StableHLO, ONNX and LiteRT take uint8 pixels, `[batch, H, W, C]` with channels last and the size of the batch free,
    and give logits, `[batch, K]`; the normalisation is inside. The file appears when it was read back and found to
    compute the same.

    Args:
      source: the directory of a run (its network at the end of training), a folder that `convert.save` wrote, a file of
        weights, a record, a `Trainer` or `Distiller`, or a network.
      path: the file, replaced as a whole; by default beside the network, under its name.
      to: the format, one of `formats.FORMATS`; by default what the file's suffix says.
      image_shape: `(H, W, C)` of the images; by default that of the run's data, else what the network was made for.
      normalization: of the pixels; by default what the network carries.
      calibration: writes int8, with the ranges of activations measured on some of these images; for ONNX and LiteRT.
      test: the images on which int8 may lose half a point of accuracy at most.

    Raises:
      ExportError: the file computes something else, or the format cannot hold the network; nothing is left of it.
      ImportError: the format's library is not installed.
      FileNotFoundError: there is no such network.
      ValueError: the format, the normalisation or the place is not clear.

    Example:
      >>> import tempfile
      >>> from jaxkd import models
      >>> model, half = models.create("resnet8", num_classes=10), Normalization((0.5,) * 3, (0.5,) * 3)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = write(model, Path(folder) / "student.safetensors", image_shape=(8, 8, 3), normalization=half)
      ...     file.format.name, file.predict(np.zeros((5, 8, 8, 3), np.uint8)).shape
      ('safetensors', (5, 10))
    """
    target = None if path is None else Path(path).expanduser()
    chosen = format_of(to, target)
    if calibration is not None and chosen.quantize is None:
        raise ValueError(f"{chosen.name} has no int8 here: choose onnx or litert")
    if calibration is not None and test is None:
        raise ValueError("int8 is measured on test images: give test=")
    if target is None and isinstance(source, str | os.PathLike) and os.fspath(source).startswith("hf:/"):
        raise ValueError(f"{source} lies in the hub's cache once it is fetched: name the file that is to be written")
    network = classifier(source, image_shape, normalization)
    place = _beside(network, chosen, calibration is not None) if target is None else target
    if place.is_dir():
        raise IsADirectoryError(f"{place} is a folder: name a file")
    if network.path is not None and place.exists() and place.samefile(network.path):
        raise ValueError(f"{place} holds the network itself: name another file")
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.stem}.{os.getpid()}.partial{chosen.suffixes[0]}")
    try:
        if calibration is None or test is None or chosen.quantize is None:
            _by_its_library(chosen, place, lambda: chosen.write(network, partial))
            accuracy = None
            difference, scale = _compared(network, chosen.read(partial, network))
            if not difference <= TOLERANCE * scale:
                raise ExportError(
                    f"{place} was not kept: its logits differ from those of predict by up to {difference:.3g}, and "
                    f"{TOLERANCE * scale:.3g} is allowed, {TOLERANCE:g} of the largest logit"
                )
        else:
            for images in (calibration, test):
                _check_images(images, network)
            quantize, some = chosen.quantize, _some(calibration.images, CALIBRATED)
            _by_its_library(chosen, place, lambda: quantize(network, partial, some))
            predict = chosen.read(partial, network)
            difference, scale = _compared(network, predict)
            accuracy = _accuracy(network.predict, test), _accuracy(predict, test)
            if accuracy[0] - accuracy[1] > MAX_LOST:
                raise ExportError(
                    f"{place} was not kept: in int8 {accuracy[1]:.2%} of the test images are right, and "
                    f"{accuracy[0]:.2%} of the network's; {MAX_LOST:.1%} may be lost"
                )
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(place, chosen, network, place.stat().st_size, difference, scale, accuracy)


def _by_its_library(chosen: Format, place: Path, write: Callable[[], None]) -> None:
    """Write a file; what the format cannot express is an `ExportError`, whatever its library calls it."""
    try:
        write()
    except (ImportError, OSError):
        raise
    except Exception as error:
        raise ExportError(f"{place} was not written: {chosen.name} cannot hold this network ({error})") from error


def _beside(network: Classifier, chosen: Format, int8: bool) -> Path:
    if network.path is None:
        raise ValueError("give the path of a file: a network in memory has no place of its own")
    name = network.path.name if network.path.is_dir() else network.path.stem
    return network.path.with_name(f"{name}{'-int8' if int8 else ''}{chosen.suffixes[0]}")


def _compared(network: Classifier, predict: Predict) -> tuple[float, float]:
    """Return the largest difference of logits from those of the network, and the largest logit."""
    pixels = np.random.default_rng(0).integers(0, 256, (CHECKED, *network.image_shape), np.uint8)
    expected = network.predict(pixels)
    together, alone = predict(pixels), predict(pixels[:1])
    if (together.shape, alone.shape) != (expected.shape, expected[:1].shape):
        raise ExportError(f"the file gives logits {together.shape} and {alone.shape}, the network {expected.shape}")
    difference = max(np.abs(together - expected).max(), np.abs(alone - expected[:1]).max())
    return float(difference), float(np.abs(expected).max())


def _check_images(images: Dataset, network: Classifier) -> None:
    if not isinstance(images, Dataset):
        raise TypeError(f"int8 needs images in memory, a data.Dataset, and no {type(images).__name__}")
    if images.image_shape != network.image_shape:
        raise ValueError(
            f"{images.name} has images of {images.image_shape}, and the network takes {network.image_shape}"
        )


def _some(images: np.ndarray, count: int) -> np.ndarray:
    """Return some of the images, the same each time."""
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:count]]


def _accuracy(predict: Predict, test: Dataset, batch: int = 256) -> float:
    parts = range(batch, len(test), batch)
    found = np.concatenate([predict(images).argmax(1) for images in np.split(test.images, parts)])
    return float((found == test.labels).mean())
