"""Checks that keep silent mistakes out of arrays of images and labels, and what is measured of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxkd.checks import warn_caller
from jaxkd.types import Normalization

_CHANNELS = (1, 3, 4)
_MANY_CLASSES = 2**24
"""No set of images has as many classes, and no network as many logits."""


def checked_images(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the pixels `[N, H, W, C]`, or raise what `Dataset` raises."""
    if images.dtype != np.uint8:
        raise TypeError(
            f"Dataset takes uint8 pixels 0…255 and normalises them itself; these are {images.dtype}: "
            f"{pixel_cure(images)}"
        )
    if images.ndim != 4:
        cure = {
            2: "unflatten them, images.reshape(-1, height, width, channels)",
            3: "give grey images a channel axis, images[..., None], and a single image a batch axis, images[None]",
        }.get(images.ndim, "reshape them")
        raise ValueError(f"images must be [N, H, W, C]; their shape is {images.shape}: {cure}")
    if 0 in images.shape:
        raise ValueError(f"there are no images, or no pixels in them: their shape is {images.shape}")
    check_channels_last(images.shape)
    return images


def check_channels_last(shape: tuple[int, ...]) -> None:
    """Refuse images `[N, C, H, W]`: one, three or four rows that are not as long, and another number of channels.

    Raises:
      ValueError: with the cure.
    """
    if shape[1] in _CHANNELS and shape[3] not in _CHANNELS and shape[1] != shape[2]:
        raise ValueError(
            f"images of shape {shape} look like channels first (NCHW), and jaxkd takes channels last (NHWC): "
            "pass images.transpose(0, 2, 3, 1), or images.permute(0, 2, 3, 1) of PyTorch's; "
            "data.channels_last(loader) turns what a loader gives"
        )


def warn_of_missing_classes(labels: NDArray[Any], classes: int, declared: bool) -> None:
    """Warn once where labels leave classes empty in a way that is seldom meant.

    Args:
      labels: `[N]`, from 0 to K-1.
      classes: K.
      declared: whether somebody said K, so that some of the classes may be absent; else it is the last label plus one.
    """
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    many = len(labels) >= 10 * classes
    if empty.tolist() == [0] and (many or classes > 2):
        warn_caller(
            f"class 0 has no images, and the labels run from 1 to {classes - 1}: if they count from 1, pass labels - "
            f"1; as they are, a network needs {classes} classes"
        )
    elif many and 2 * (classes - len(empty)) < classes:
        warn_caller(
            f"{len(labels)} labels use only {classes - len(empty)} of {classes} classes: check that they are not "
            "coarser than meant"
        )
    elif many and len(empty) and not declared:
        some = ", ".join(map(str, empty[:5])) + (" and more" if len(empty) > 5 else "")
        warn_caller(
            f"no images in class {some}, of {classes} that the labels need: number the classes without gaps, or say "
            f"that they are meant with num_classes={classes} in data.from_arrays"
        )


def pixel_cure(images: NDArray[Any]) -> str:
    """Return how pixels of another type become uint8, as errors say it.

    Example:
      >>> pixel_cure(np.array([0, 255]))
      'pass images.astype(np.uint8)'
    """
    if images.dtype.kind not in "biuf" or images.size == 0:
        return "pass an array of pixels"
    low, high = images.min(), images.max()
    if images.dtype == np.uint16 and high > 255:
        bits = int(high).bit_length()
        return f"they have {bits} bits, so pass the upper 8, (images >> {bits - 8}).astype(np.uint8)"
    if low < 0 or high > 255 or not np.isfinite([low, high]).all():
        return (
            f"they run from {low:.4g} to {high:.4g}, so undo their normalisation or load the pixels as they were stored"
        )
    if high <= 1:
        return "they run from 0 to 1, so pass np.rint(images * 255.0).astype(np.uint8)"
    return "pass np.rint(images).astype(np.uint8)" if images.dtype.kind == "f" else "pass images.astype(np.uint8)"


def checked_labels(labels: NDArray[Any], images: int, classes: int) -> NDArray[np.int32]:
    """Return `[N]` labels as int32, one class index per image, or raise what `Dataset` raises."""
    if classes < 1:
        raise ValueError(f"there are {classes} classes; give at least one name")
    if labels.ndim != 1:
        cure = "flatten them"
        if labels.ndim == 2:
            one_hot = labels.dtype.kind in "biuf" and ((labels == 0) | (labels == 1)).all()
            seen = "one-hot" if one_hot else "scores or probabilities"
            cure = f"take labels.argmax(axis=1), {labels.shape[1]} columns being {seen}, one for each class"
            if labels.shape[1] == 1:
                cure = "pass labels[:, 0]"
            elif one_hot and (labels.sum(axis=1) != 1).any():
                cure = "an image has one class here, and some of these have several or none"
        raise ValueError(f"labels must be [N] class indices; their shape is {labels.shape}: {cure}")
    if len(labels) != images:
        raise ValueError(f"{images} images, but {len(labels)} labels: each image needs one")
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be integers; these are {labels.dtype}, such as {labels[:1].tolist()[0]!r}: "
            f"{_label_cure(labels)}"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        first = int(outside[0])
        hint = "do they count from 1, or is the number of classes wrong?"
        if labels[first] < 0:
            hint = "leave such images out, if it marks those that nobody labelled"
        raise ValueError(
            f"label {labels[first]} at position {first} is out of range: {classes} classes are numbered 0 to "
            f"{classes - 1} ({outside.size} such labels; {hint})"
        )
    return labels.astype(np.int32)


def _label_cure(labels: NDArray[Any]) -> str:
    kinds = {type(label) for label in labels.tolist()}
    if kinds <= {str} or kinds <= {bytes}:
        return (
            "number them by names, labels = np.unique(labels, return_inverse=True), and give the names as class_names "
            "to data.from_arrays"
        )
    whole = kinds <= {int, bool} or (labels.dtype.kind == "f" and (labels == np.rint(labels)).all())
    return "pass labels.astype(np.int32)" if whole else "they are no class indices"


def classes_needed(labels: NDArray[Any]) -> int:
    """Return the least number of classes that labels need: the largest plus one, and 1 for what is no number.

    Raises:
      ValueError: for labels that are no class indices, but identifiers.

    Example:
      >>> classes_needed(np.array([0, 2, 1])), classes_needed(np.array(["oak", "ash"]))
      (3, 1)
    """
    if not labels.size or labels.dtype.kind not in "iu":
        return 1
    largest = int(labels.max())
    if largest >= _MANY_CLASSES:
        raise ValueError(
            f"the labels reach {largest}, and are identifiers rather than class indices: number the classes from 0, "
            "names, labels = np.unique(labels, return_inverse=True)"
        )
    return max(largest + 1, 1)


def check_same_classes(trained: Sequence[str], held_out: Sequence[str]) -> None:
    """Refuse held-out images of which a class has another number than in training: each would count as wrong.

    Classes of other names may be the same ones, and are not compared; nor are those that only have their numbers.

    Raises:
      ValueError: with the first such class.

    Example:
      >>> check_same_classes(("ash", "elm", "oak"), ("ash", "elm"))
      >>> check_same_classes(("ash", "elm", "oak"), ("elm", "oak"))
      Traceback (most recent call last):
      ValueError: class 'elm' is number 1 of the training images and number 0 of the held-out ones: ...
    """
    if any(list(names) == [str(number) for number in range(len(names))] for names in (trained, held_out)):
        return
    for number, name in enumerate(held_out):
        if name in trained and trained[number : number + 1] != held_out[number : number + 1]:
            raise ValueError(
                f"class {name!r} is number {trained.index(name)} of the training images and number {number} of the "
                "held-out ones: read both with the same class names, as data.load does with both splits in one folder"
            )


def checked_normalization(normalization: Normalization, channels: int) -> Normalization:
    """Return the statistics as plain numbers, or raise what `Dataset` raises for images of so many channels."""
    mean, std = (tuple(float(value) for value in np.atleast_1d(values)) for values in normalization)
    for title, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"{title} has {len(values)} values, but the images have {channels} channels: "
                f"give {channels}, or one for all"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{title}={values} is not finite")
    if min(std) <= 0:
        raise ValueError(
            f"std={std} must be positive in every channel: give one, such as std=(0.25,), where pixels are constant"
        )
    if max(abs(value) for value in mean) > 1:
        raise ValueError(f"mean={mean} belongs to the scale where pixels run from 0 to 1: divide mean and std by 255")
    return Normalization(mean, std)


def pixel_statistics(images: NDArray[np.uint8]) -> Normalization:
    """Return mean and standard deviation of each channel of `[N, H, W, C]`, rounded to four digits."""
    # Whole-number histograms: exact, and no floating-point copy of the images.
    grey = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ grey)
        means.append(round(mean, 4))
        stds.append(round(float(np.sqrt(share @ (grey - mean) ** 2)), 4))
    return Normalization(tuple(means), tuple(stds))
