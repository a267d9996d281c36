"""Check data and network against each other before training: images and labels, evaluation mode, BatchNorm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxkd.checks import warn_caller
from jaxkd.data.dataset import check_channels_last, checked_labels, classes_needed, pixel_cure
from jaxkd.data.interop import stacked
from jaxkd.nn.modes import Trainable
from jaxkd.nn.outputs import layer_name
from jaxkd.training.forward import called, output_shapes
from jaxkd.training.program import Program, name_of
from jaxkd.training.state import TrainState, Tree, split
from jaxkd.types import Batch, Normalization

PLAUSIBLE = 30.0
"""No normalised pixel is further from zero than this; raw pixels are."""

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
        if not max(-low, high) < PLAUSIBLE:
            raise ValueError(
                f"float images reach {max(-low, high):g}, which no normalised image does: give the pixels as uint8, "
                "and they are normalised once, on the device"
            )
        if self.normalization is None or not 0 <= low < high <= 1:
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


def warn_of_short_parameters(name: str, params: Tree) -> None:
    """Warn where parameters that are trained have 16 bits, which round away steps of less than some thousandths."""
    dtypes = {path: value.dtype for path, value in _by_path(params).items()}
    if short := [path for path, dtype in dtypes.items() if dtype in (jnp.bfloat16, jnp.float16)]:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        warn_caller(
            f"{short[0]}{more} of {name} are {dtypes[short[0]]}, in which small steps are rounded away: "
            "keep parameters in float32, as Flax's param_dtype does by default, and compute in fewer bits with "
            'compile(precision="bfloat16")'
        )


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


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


Paths = dict[str, Any]
"""Arrays, or what stands for them while tracing, by the path of their variable, such as `bn.mean`."""


class EvaluationWatch:
    """Warn of networks that evaluation changes, once for each shape of images."""

    def __init__(self) -> None:
        self._tried: set[tuple[int, tuple[int, ...]]] = set()

    def __call__(self, network: nnx.Module) -> Callable[[tuple[int, ...]], None]:
        """Return what tries a network on images of a shape `(H, W, C)`."""

        def check(image_shape: tuple[int, ...]) -> None:
            if (id(network), image_shape) not in self._tried:
                self._tried.add((id(network), image_shape))
                warn_of_changes(network, image_shape)

        return check


def warn_of_changes(network: nnx.Module, image_shape: tuple[int, ...]) -> None:
    """Warn where evaluation changes variables of a network: it then computes as in training.

    Networks of the zoo are not tried.
    """
    if getattr(network, "heeds_mode", False):
        return
    changed = changed_by_evaluation(network, image_shape)
    if changed:
        modules = ", ".join(dict.fromkeys(path.rpartition(".")[0] or path for path in changed))
        warn_caller(
            f"{type(network).__name__} changes {', '.join(changed)} in evaluation, so that it is evaluated as in "
            f"training, with each batch's own statistics and dropout: pass train on to {modules}, as in "
            "self.bn(x, use_running_average=not train) and self.dropout(x, deterministic=not train)"
        )


def changed_by_evaluation(network: nnx.Module, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of the variables, parameters apart, that a network changes in evaluation mode."""
    return _changed(network, image_shape, train=False)


def check_frozen(network: nnx.Module, image_shape: tuple[int, ...], trainable: Trainable) -> None:
    """Refuse a network that moves running statistics of frozen layers in training.

    Networks of the zoo are not tried.

    Raises:
      ValueError: with the first of them, and how the layer is left to decide.
    """
    if getattr(network, "heeds_mode", False):
        return
    statistics = _statistics(network)
    changed = _changed(network, image_shape, True, trainable)
    moved = [path for path in changed if path in statistics and not trainable.covers(path.split("."))]
    if moved:
        layer = moved[0].rpartition(".")[0] or moved[0]
        raise ValueError(
            f"{layer} is frozen, and {type(network).__name__} tells it in its call to use and move the statistics of "
            "each batch: leave use_running_average to the layer, which knows, as in self.bn(x, "
            f"use_running_average=None if train else True), or add {layer!r} to trainable"
        )


def _changed(
    network: nnx.Module, image_shape: tuple[int, ...], train: bool, trainable: Trainable | None = None
) -> list[str]:
    """Return the paths of the variables, parameters apart, that a network changes.

    It is only traced. What tracing leaves open, since a transformation hands every variable back, is computed.
    """
    call, variables = _call_of(network, train, trainable)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    traced, found = jax.make_jaxpr(call, return_shape=True)(variables, images)
    before = dict(zip(_by_path(variables), traced.jaxpr.invars, strict=False))  # the last one is the images
    after = dict(zip(_by_path(found), traced.jaxpr.outvars, strict=True))
    if all(after.get(path) is variable for path, variable in before.items()):
        return []
    given, left = _by_path(variables), _by_path(jax.jit(call)(variables, _noise(2, image_shape, seed=0)))
    return [path for path, value in given.items() if path in left and (_plain(left[path]) != _plain(value)).any()]


def constant_variances(network: nnx.Module, image_shape: tuple[int, ...]) -> list[str]:
    """Return the paths of running statistics that training on a single image moves in the same way, whatever it shows.

    They are variances of one value for each channel, which are zero: PyTorch refuses such a batch.
    """
    statistics = _statistics(network)
    if not statistics:
        return []
    call, variables = _call_of(network, train=True)
    compiled = jax.jit(call)
    before, one, other = (
        _by_path(tree) for tree in (variables, *(compiled(variables, _noise(1, image_shape, seed)) for seed in (0, 1)))
    )
    return [
        path
        for path in before
        if path in statistics
        and np.ndim(one[path])
        and (_plain(one[path]) != _plain(before[path])).any()
        and np.array_equal(_plain(one[path]), _plain(other[path]), equal_nan=True)
    ]


def refuse_single(network: nnx.Module, image_shape: tuple[int, ...], what: str, cure: str) -> None:
    """Refuse to train a network on one image at a time where its BatchNorm has a single value for each channel.

    Args:
      network: it is tried only if it has running statistics.
      image_shape: `(H, W, C)`.
      what: that has one image, as an error begins.
      cure: as it ends.

    Raises:
      ValueError: with the first such variable.
    """
    if found := constant_variances(network, image_shape):
        module = found[0].rpartition(".")[0] or found[0]
        raise ValueError(
            f"{what} has one image, and BatchNorm at {module} then sees one value for each channel, which has no "
            f"variance: {cure}"
        )


def check_batch_parts(
    network: nnx.Module, image_shape: tuple[int, ...], examples: int, batch_size: int, program: Program, devices: int
) -> None:
    """Refuse batches of which BatchNorm would see a part with a single value for each channel.

    Args:
      network: that is trained.
      image_shape: `(H, W, C)`.
      examples: of the data.
      batch_size: over all devices.
      program: says how a batch is cut.
      devices: over how many a batch is split.

    Raises:
      ValueError: with the nearest batch size that fits.
    """
    apart = 1 if program.bn_mesh is None else program.bn_mesh.size

    def smallest(size: int) -> int:
        sizes = {min(size, examples), examples % size or size}
        return min(smallest_part(size, program.microbatches, apart) for size in sizes)

    if smallest(batch_size) == 1:
        divides = program.microbatches * devices
        near = fitting_batch_size(batch_size, lambda size: smallest(size) > 1 and not size % divides)
        cure = "give more examples" if near is None else f"choose another batch_size, such as {near}"
        what = f"with {examples} examples and batch_size={batch_size}, a batch or a part of it"
        refuse_single(network, image_shape, what, cure)


def smallest_part(size: int, microbatches: int, devices: int) -> int:
    """Return the number of examples in the smallest part of a batch that BatchNorm sees.

    Example:
      >>> smallest_part(13, microbatches=4, devices=1), smallest_part(8, microbatches=2, devices=4)
      (1, 1)
    """
    each = -(-size // microbatches)
    parts = {each, size % each or each}
    return min(part // devices if part % devices == 0 else part for part in parts)


def fitting_batch_size(batch_size: int, fits: Callable[[int], bool]) -> int | None:
    """Return the batch size nearest to this one that fits; None where none is near."""
    near = sorted(range(2, 2 * batch_size + 3), key=lambda size: abs(size - batch_size))
    return next((size for size in near if fits(size)), None)


def _call_of(
    network: nnx.Module, train: bool, trainable: Trainable | None = None
) -> tuple[Callable[[Tree, jax.Array], Tree], Tree]:
    """Return `call(variables, images) -> variables` and the variables; parameters are constants."""
    graph, params, variables = split(network)

    def call(variables: Tree, images: jax.Array) -> Tree:
        merged = nnx.merge(graph, params, variables)
        called(merged, images, train, trainable)
        return split(merged)[2]

    return call, variables


def _statistics(network: nnx.Module) -> set[str]:
    return {layer_name(path) for path, _ in nnx.to_flat_state(nnx.state(network, nnx.BatchStat))}


def _by_path(tree: Tree) -> Paths:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): leaf for path, leaf in leaves}


def _noise(count: int, image_shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *image_shape), np.float32)


def _plain(value: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value)
