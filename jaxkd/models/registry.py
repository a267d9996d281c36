"""Networks by name: each family registers the pattern of its names and the names that were published."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from jaxkd.keywords import did_you_mean
from jaxkd.types import Normalization, tree_size


class Classifier(nnx.Module):
    """A network of the zoo, called as `model(images, train=False) -> Outputs`.

    Attributes:
      name: as `create` takes it.
      num_classes: K, the width of the logits.
      image_shape: `(H, W, C)` of the images it was published for; most networks take others too.
      normalization: of its images; None until weights or data say it.
      resize_to: height and width at which it sees all images, which are resized on the device; None, as they come.
      options: of its family, as `(name, value)`.
      heeds_mode: it is known to compute as it is told by `train`, so that nobody has to try.
    """

    heeds_mode: ClassVar[bool] = True

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    normalization: Normalization | None
    resize_to: int | None
    options: tuple[tuple[str, Any], ...]

    def torch_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """Return what the keys of this network, `blocks.0.attn.qkv.weight`, are called in its library, in its order."""
        return {key: key for key in keys}

    def buffers_after(self, key: str) -> dict[str, np.ndarray]:
        """Return what files of its library list behind a key, though it can be computed; nothing reads it here."""
        return {}

    def image_size_of(self, side: int) -> int:
        """Return the size of the images for which its first position embedding has so many rows and columns.

        Raises:
          ValueError: a network without any, or one that several sizes share.
        """
        raise ValueError(f"{self.name}: say which images its weights are for, as in image_size=224")

    @property
    def small_counterpart(self) -> str | None:
        """The network for images of 32×32 that is most like this one for large images; None where none is known."""
        return small_counterpart(self.name)

    def __repr__(self) -> str:
        if not hasattr(self, "name"):
            return object.__repr__(self)
        size = tree_size(nnx.state(self, nnx.Param))
        given = "".join(f", {name}={value!r}" for name, value in self.options)
        shape = "×".join(map(str, self.image_shape))
        mean = "no normalization" if self.normalization is None else f"{self.normalization}"
        return f"{self.name}(num_classes={self.num_classes}{given})\n  {size:,} parameters; images {shape}; {mean}"

    __str__ = __repr__


_Builder = Callable[..., Classifier]
Builder = TypeVar("Builder", bound=_Builder)


class _Family(NamedTuple):
    pattern: re.Pattern[str]
    published: tuple[str, ...]
    build: _Builder
    size: int
    small: str | Mapping[str, str] | None


_FAMILIES: list[_Family] = []

DROPOUT = 2**31
"""Sets the random keys of dropout apart from those of initial weights, which are counted from 0."""


def family(
    pattern: str, published: tuple[str, ...], size: int = 32, small: str | Mapping[str, str] | None = None
) -> Callable[[Builder], Builder]:
    """Register a builder: the pattern's named groups become its arguments, integers where they can be.

    Args:
      pattern: a regular expression for the whole name.
      published: the names that papers and repositories use.
      size: height and width of the images it was published for.
      small: of a family for large images, the network for 32×32 that is most like it: a name in which the pattern's
        groups may stand in braces, or names by name.
    """

    def register(build: Builder) -> Builder:
        _FAMILIES.append(_Family(re.compile(pattern), published, build, size, small))
        return build

    return register


def variants(build: type[Classifier], published: Mapping[str, Mapping[str, Any]], size: int = 32) -> None:
    """Register a builder under several names, each with its own values of some options, which `create` can override.

    Args:
      build: a class of networks.
      published: the options by name.
      size: height and width of the images they were published for.
    """
    for name, options in published.items():
        _FAMILIES.append(_Family(re.compile(re.escape(name)), (name,), functools.partial(build, **options), size, None))


def renamed(key: str, rules: Sequence[tuple[str, str]]) -> str:
    """Return a key after regular expressions were replaced in it, one after the other.

    Example:
      >>> renamed("blocks.0.norm1.weight", [(r"blocks", "layers"), (r"norm(\\d)", r"ln_\\1")])
      'layers.0.ln_1.weight'
    """
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def names() -> list[str]:
    """Return the published names, sorted; widths and depths in between (`wrn_22_3`) can be created too.

    Example:
      >>> "resnet20" in names()
      True
    """
    return sorted(name for family in _FAMILIES for name in family.published)


def create(name: str, num_classes: int = 100, seed: int = 0, **options: Any) -> Classifier:
    """Create a freshly initialised network.

    Args:
      name: a published name (see `list`), or one of the same form.
      num_classes: K, the width of the logits.
      seed: seed of the initial weights.
      **options: options of the family: `channels` of the input images (3), `shortcut` of CIFAR ResNets; `image_size`,
        `patch_size`, `drop`, `drop_path` and sizes of transformers.

    Returns:
      A Flax module called as `model(images, train=False) -> Outputs`.

    Raises:
      ValueError: for an unknown name or option, or a depth that the family does not have.

    Example:
      >>> import jax.numpy as jnp
      >>> model = create("resnet8", num_classes=10)
      >>> model(jnp.zeros((1, 8, 8, 3))).logits.shape
      (1, 10)
    """
    if not hasattr(num_classes, "__index__"):
        raise TypeError(f"num_classes={num_classes!r}: give a whole number")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a classifier needs at least two classes")
    for known in sorted(_FAMILIES, key=lambda family: name not in family.published):  # a name before a pattern
        if match := known.pattern.fullmatch(name):
            sizes = {key: _argument(value) for key, value in match.groupdict().items() if value is not None}
            _check_options(name, known.build, options, sizes)
            model = known.build(num_classes=num_classes, rngs=_rngs(seed), **sizes, **options)
            model.name, model.num_classes, model.normalization, model.resize_to = name, num_classes, None, None
            size = options.get("image_size", known.size)
            model.image_shape = (size, size, options.get("channels", 3))
            model.options = hashable(options)
            return model
    hint = did_you_mean(name, names(), most=3, cutoff=0.4)
    raise ValueError(f"unknown model {name!r}: {hint}jaxkd.models.list() gives all published names")


def image_size(name: str) -> int:
    """Return height and width of the images that a network was published for, without making it.

    Args:
      name: one of `names()`.

    Example:
      >>> image_size("resnet20"), image_size("resnet18")
      (32, 224)
    """
    return next(known.size for known in _FAMILIES if name in known.published)


def small_counterpart(name: str) -> str | None:
    """Return the network for images of 32×32 that is most like one for large images; None where none is known.

    Example:
      >>> small_counterpart("resnet18"), small_counterpart("vgg13_bn"), small_counterpart("resnet20")
      ('ResNet18_cifar', 'vgg13', None)
    """
    for known in _FAMILIES:
        if (match := known.pattern.fullmatch(name)) and known.small is not None:
            return known.small.format(**match.groupdict()) if isinstance(known.small, str) else known.small.get(name)
    return None


def hashable(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return options as `(name, value)`, sorted and hashable: JSON makes lists of tuples.

    Example:
      >>> hashable({"heads": [2, 4], "drop": 0.1})
      (('drop', 0.1), ('heads', (2, 4)))
    """
    return tuple(sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in options.items()))


def _rngs(seed: int) -> nnx.Rngs:
    """Return the keys of initial weights and of dropout, of which the one is the same whatever the other is asked."""
    key = jax.random.key(seed)
    return nnx.Rngs(key, dropout=jax.random.fold_in(key, DROPOUT))


def _argument(value: str) -> int | str:
    try:
        return int(value)
    except ValueError:
        return value


def _check_options(name: str, build: _Builder, options: dict[str, Any], sizes: dict[str, Any]) -> None:
    made = build.func.__init__ if isinstance(build, functools.partial) else build  # of a class, Flax hides it
    offered = set(inspect.signature(made).parameters) - {"self", "num_classes", "rngs", *sizes}
    if unknown := set(options) - offered:
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(offered))}")
