"""Check images, labels and batches against what a network takes, before training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxkd.checks import warn_caller
from jaxkd.data.array_checks import check_channels_last, checked_labels, classes_needed, pixel_cure
from jaxkd.data.interop import stacked
from jaxkd.training.forward import output_shapes
from jaxkd.training.program import name_of
from jaxkd.training.state import TrainState
from jaxkd.types import Batch, Normalization

PLAUSIBLE = 30.0
"""No normalised pixel is further from zero than this; raw pixels are."""

NOISE = 6.0
"""Normal noise in the place of pixels, as random erasing has it, is not further from zero than this."""

LARGE = 128
"""Networks for images of at least this height begin by shrinking them."""


@dataclass(frozen=True)
class Expectations:
    """The data that a network expects; None where it is not known.

    Attributes:
      name: of the network, for errors.
      num_classes: K of the network.
      image_shape: `(H, W, C)` that it was made for.
      normalization: what uint8 pixels are normalised with, so that float images have to be too.
      small_counterpart: the network of the zoo for 32×32 that is most like it.
      resize_to: height and width that it resizes all images to.
    """

    name: str = "the network"
    num_classes: int | None = None
    image_shape: tuple[int, ...] | None = None
    normalization: Normalization | None = None
    small_counterpart: str | None = None
    resize_to: int | None = None

    @classmethod
    def of(cls, network: nnx.Module | None, normalization: Normalization | None = None) -> Expectations:
        """Return what a network says of itself; its own normalisation comes before the one given."""
        names = ("num_classes", "image_shape", "normalization", "small_counterpart", "resize_to")
        found = [getattr(network, name, None) for name in names]
        name = "the network" if network is None else name_of(network)
        return cls(name, found[0], found[1], found[2] or normalization, *found[3:])

    def checked_images(self, images: Any) -> NDArray[Any]:
        """Return uint8 pixels or already normalised float32 images, `[N, H, W, C]`.

        Raises:
          ValueError: for another type or shape, for channels first or another number of them than the network takes,
            and for float images that are raw pixels.

        Warns:
          UserWarning: of float images from 0 to 1 where the network's are normalised.
        """
        pixels = stacked(images)
        if pixels.dtype.kind in "US":
            raise TypeError(
                f"these are names, such as {pixels.ravel()[0]!r}: give [Image.open(path) for path in paths], or "
                "data.from_source(list(zip(paths, labels)), class_names), which reads them while training"
            )
        if pixels.ndim != 4 or not pixels.size:
            cure = ", as images[None] makes one image or images[..., None] grey ones" if pixels.ndim == 3 else ""
            raise ValueError(f"images have shape {pixels.shape}: expected [N, H, W, C], at least one{cure}")
        self.check_shape(pixels.shape)
        if pixels.dtype == np.uint8:
            return pixels
        if not jnp.issubdtype(pixels.dtype, np.floating):
            raise ValueError(
                f"images are {pixels.dtype}: give uint8 pixels, or float32 images that are already normalised; "
                f"{pixel_cure(pixels)}"
            )
        pixels = pixels.astype(np.float32)
        self._check_range(float(pixels.min()), float(pixels.max()))
        return pixels

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse images `[N, H, W, C]` with channels that the network does not take, or that come first."""
        wanted = None if self.image_shape is None else self.image_shape[-1]
        if shape[3] == wanted:
            return
        check_channels_last(shape)
        if wanted is None and self.normalization is not None and len(self.normalization.mean) not in (1, shape[3]):
            raise ValueError(
                f"the images have {shape[3]} channels, but {self.name} sees images normalised with "
                f"{len(self.normalization.mean)}, mean={_rounded(self.normalization.mean)}: give images of as many, or "
                "set another network.normalization"
            )
        if wanted is not None:
            raise ValueError(
                f"the images have {shape[3]} channels, but {self.name} takes {wanted}: create it with "
                f"channels={shape[3]}"
            )

    def _check_range(self, low: float, high: float) -> None:
        if not np.isfinite([low, high]).all():
            raise ValueError(
                f"float images run from {low:g} to {high:g}: leave out, or mend, those that are not finite"
            )
        # Bright spots of dark images are far above zero in units of the deviation, while no pixel is far below.
        if not max(-low, high if low >= 0 else 0) < PLAUSIBLE:
            raise ValueError(
                f"float images reach {max(-low, high):g}, which no normalised image does: give the pixels as uint8, "
                "and they are normalised once, on the device; a network that rescales pixels itself gets 0 to 255 with "
                "network.normalization = jaxkd.Normalization((0.0,), (1 / 255,))"
            )
        if self.normalization is None:
            return
        if low <= _normalised_twice(self.normalization) < -NOISE:
            mean, std = self.normalization
            raise ValueError(
                f"float images reach {low:.3g}, as images do that are normalised twice with mean={_rounded(mean)} and "
                f"std={_rounded(std)}: normalise them once, or give the pixels as uint8"
            )
        if not 0 <= low < high <= 1:
            return
        mean, std = self.normalization
        if any(mean):  # else normalised images are not below 0 either
            warn_caller(
                f"float images run from {low:.4g} to {high:.4g}, as pixels divided by 255 do, but {self.name} sees "
                f"images normalised with mean={_rounded(mean)} and std={_rounded(std)}: give the uint8 pixels, or "
                "(images - mean) / std"
            )

    def checked_labels(self, labels: Any, images: int) -> NDArray[np.int32]:
        """Return `[N]` int32 class indices, one for each image; raise what `data.Dataset` raises."""
        labels = np.asarray(labels)
        return checked_labels(labels, images, classes_needed(labels) if self.num_classes is None else self.num_classes)

    def check_classes(self, classes: int, labels: NDArray[Any] | None) -> None:
        """Refuse data of more classes than the network has; `labels` tell whether they count from 1."""
        if self.num_classes is None or classes <= self.num_classes:
            return
        from_one = labels is not None and classes == self.num_classes + 1 and not (labels == 0).any()
        cure = "pass labels - 1 if they count from 1, since none is 0; else " if from_one else ""
        raise ValueError(
            f"the labels need {classes} classes, but the network has {self.num_classes}: {cure}create it with "
            f"num_classes={classes}"
        )

    def warn_of_spare_classes(self, classes: int) -> None:
        """Warn where the network has more classes than the data."""
        if self.num_classes is not None and classes < self.num_classes:
            warn_caller(
                f"{self.name} has {self.num_classes} classes and the data {classes}, so that some are never right: "
                f"create it with num_classes={classes}"
            )

    def warn_of_size(self, image_shape: tuple[int, ...]) -> None:
        """Warn where a network made for photographs is trained on icons, or the other way round."""
        if self.image_shape is None or self.resize_to is not None:
            return
        made_for, size = self.image_shape[0], image_shape[0]
        if max(made_for, size) < LARGE or max(made_for, size) < 4 * min(made_for, size):
            return
        small = self.small_counterpart
        if size < made_for:
            cure = f"{small} is the one for 32×32" if small else "resnet20 and wrn_40_2 are for 32×32"
            cure = (
                f"it shrinks them to almost nothing before it looks; of the zoo, {cure}, and with "
                f"network.resize_to = {made_for} it sees them larger"
            )
        else:
            cure = f"it computes {(size // made_for) ** 2} times as much for each; of the zoo, resnet18 is for 224×224"
        warn_caller(
            f"{self.name} was made for images of {made_for}×{self.image_shape[1]} and is trained on {size}×"
            f"{image_shape[1]}: {cure}"
        )


def check_logits(network: nnx.Module, image_shape: tuple[int, ...], classes: int, labels: NDArray[Any] | None) -> None:
    """Refuse data of more classes than a network has logits, where it does not say how many it has.

    Args:
      network: it is only traced.
      image_shape: `(H, W, C)`.
      classes: that the data need.
      labels: `[N]`, where they are at hand.
    """
    if getattr(network, "num_classes", None) is None:
        Expectations(name_of(network), logits_of(network, image_shape)).check_classes(classes, labels)


def logits_of(network: nnx.Module, image_shape: tuple[int, ...]) -> int:
    """Return how many logits a network has for images `(H, W, C)`; it is only traced."""
    return int(output_shapes(network, image_shape).logits.shape[1])


@functools.lru_cache(maxsize=32)
def checking_step(step: Callable[..., Any], expected: Expectations) -> Callable[..., Any]:
    """Return a step that refuses a batch which cannot be right, as far as its shapes and types tell.

    Raises:
      TypeError, ValueError: from the step, while it is traced.
    """

    @functools.wraps(step)
    def checked(state: TrainState, batch: Batch, known: Any = None) -> Any:
        if not isinstance(batch, Batch):
            raise TypeError(f"a step takes a jaxkd.Batch(images, labels, index), and no {type(batch).__name__}")
        images, labels = batch.images, batch.labels
        if len(np.shape(images)) != 4:
            raise ValueError(f"images have shape {np.shape(images)}: expected [B, H, W, C]")
        expected.check_shape(np.shape(images))
        if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}: give uint8 pixels, or float32 images that are already normalised"
            )
        if not jnp.issubdtype(labels.dtype, jnp.integer) or np.shape(labels) != np.shape(images)[:1]:
            raise ValueError(
                f"labels are {labels.dtype} of shape {np.shape(labels)}: give {np.shape(images)[0]} class indices, one "
                "for each image"
            )
        return step(state, batch, known)

    return checked


def _normalised_twice(normalization: Normalization) -> float:
    """Return the least value of images that are normalised twice, if a fifth of it is left to those without black."""
    mean, std = np.asarray(normalization.mean), np.asarray(normalization.std)
    return 0.8 * float(np.min((-mean / std - mean) / std))


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
