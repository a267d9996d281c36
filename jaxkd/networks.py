"""The networks of a run: what images are normalised with, whether they fit the data, whether their weights stayed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxkd.checks import warn_caller
from jaxkd.data import StreamedDataset
from jaxkd.data.array_checks import checked_normalization
from jaxkd.models.ensemble import Ensemble
from jaxkd.models.features import WithFeatures
from jaxkd.training.expectations import Expectations, check_logits
from jaxkd.training.forward import output_shapes
from jaxkd.training.inputs import Data, InMemory, Source, Stream, as_source
from jaxkd.training.program import Program, name_of
from jaxkd.training.state import TrainState, copied
from jaxkd.training.trials import Trials, check_batch_parts, check_frozen, refuse_single, smallest_seen
from jaxkd.types import Normalization, Normalizer

_WRITTEN: weakref.WeakValueDictionary[tuple[int, int], jax.Array] = weakref.WeakValueDictionary()
"""The arrays that trainers wrote into variables last, by the ids of both: what else one has, its user put there."""


class Networks:
    """The network that is trained, and the teacher it learns from.

    Attributes:
      model: the network that is trained.
      teacher: None without one.
    """

    def __init__(self, model: nnx.Module, teacher: nnx.Module | None = None):
        self.model, self.teacher = model, teacher
        self._trials = Trials()
        self._trained_on: tuple[int, ...] | None = None  # (H, W, C)
        self._told_of: set[tuple[int, ...]] = set()  # shapes of images that were compared with it
        self._state: weakref.ref[TrainState] | None = None  # whose weights the model was given last
        self._own: dict[tuple[int, int], jax.Array] = {}  # and these, by variable
        self._known: list[list[jax.Array]] = []  # parameters of model and teacher, as far as the state knows them

    def __repr__(self) -> str:
        name = name_of(self.model)
        return name if self.teacher is None else f"student={name}, teacher={name_of(self.teacher)}"

    def normalization(self, given: Normalization | None = None) -> Normalization | None:
        """Return what images are normalised with, for any of the networks; None where that is not known."""
        own, *teachers = (carried(network) for network in self._all)
        return own or given or next(iter(teachers), None)

    def normalizers(self, given: Normalization | None) -> tuple[Normalizer | None, Normalizer | None]:
        """Return what model and teacher normalise with: each its own statistics if it carries any, else those given."""
        return _normalizer(self.model, given), None if self.teacher is None else _normalizer(self.teacher, given)

    def carry(self, normalization: Normalization) -> None:
        """Let a model, and those within it, which go their own ways once trained, carry what they have not got."""
        for network in _with_inner(self.model):
            if carried(network) is None:
                network.normalization = normalization

    def source(self, data: Data, passes: int = 1, given: Normalization | None = None, training: bool = False) -> Source:
        """Bring data into a form that the model can go through, as `as_source` does.

        Args:
          data: as `fit` takes them.
          passes: how often they will be gone through.
          given: the normalisation of the data that it trains on, where these are others.
          training: whether it is trained on these.
        """
        return as_source(data, self.model, passes, self.normalization(given), training)

    def for_training(self, source: Source, batch_size: int, program: Program, devices: int) -> Source:
        """Check that the networks and the losses can be trained on some data, now or with the first batch.

        Args:
          source: the data.
          batch_size: over all devices.
          program: that is to train.
          devices: over how many a batch is split.

        Returns:
          The data, which check their first batch where they come as batches.

        Raises:
          ValueError: BatchNorm would see a single value for each channel, or is frozen and moves.
        """
        model, checks = self.model, [self._learn_shape, self._trials.trained(self.model)]
        if (teacher := self.teacher) is not None:
            expected = Expectations.of(teacher)
            checks += [lambda shape: expected.check_shape((1, *shape)), self._trials.evaluated(teacher)]
        if (trainable := program.trainable) is not None:
            checks.append(lambda shape: check_frozen(model, shape, trainable))
        if isinstance(source, Stream):
            return replace(
                source,
                index_readers=program.index_readers,
                at_first=(*source.at_first, *checks),
                at_single=lambda shape: refuse_single(model, shape, *_OF_A_STREAM),
                smallest_part=lambda count: smallest_seen(count, program),
            )
        for check in checks:
            check(source.image_shape)
        check_logits(model, source.image_shape, source.num_classes, _labels_at_hand(source))
        check_batch_parts(model, source.image_shape, source.examples, batch_size, program, devices)
        return source

    def for_evaluation(self, source: Source) -> Source:
        """Check that the model can be evaluated on some data, now or with the first batch.

        Raises:
          ValueError: for more classes than the network has, or other channels than it takes.
        """
        return self._for_evaluation(source, self.try_evaluated)

    def _for_evaluation(self, source: Source, check: Callable[[tuple[int, ...]], None]) -> Source:
        if isinstance(source, Stream):
            return replace(source, at_first=(*source.at_first, check))
        labels, expected = _labels_at_hand(source), Expectations.of(self.model)
        expected.check_shape((1, *source.image_shape))
        expected.check_classes(source.num_classes, labels)
        check(source.image_shape)
        check_logits(self.model, source.image_shape, source.num_classes, labels)
        return source

    def for_validation(self, source: Source, trained: Source) -> Source:
        """Check that the model can be evaluated on some data between the epochs of training on others.

        Raises:
          ValueError, TypeError: as `for_evaluation`, and what the model raises for images of another size.
        """
        source = self._for_evaluation(source, self._trials.evaluated(self.model))
        pixels = isinstance(source, InMemory) and source.images.dtype == np.uint8
        if pixels and self.normalizers(trained.normalization or source.normalization)[0] is None:
            one_form = "give floats as in training, or " if isinstance(trained, InMemory) else ""
            raise ValueError(
                "the validation images are uint8 pixels, and no mean and std of the training images are known: "
                f"{one_form}set model.normalization = jaxkd.Normalization(mean, std)"
            )

        def trace(image_shape: tuple[int, ...]) -> None:
            output_shapes(self.model, image_shape)

        if isinstance(source, Stream):
            return replace(source, at_first=(*source.at_first, trace))
        if isinstance(trained, Stream) or source.image_shape != trained.image_shape:
            trace(source.image_shape)
        return source

    def try_evaluated(self, image_shape: tuple[int, ...]) -> None:
        """Try the model, which is to be evaluated on images `(H, W, C)`, once for a shape, and warn."""
        self._warn_of_other_size(image_shape)
        self._trials.evaluated(self.model)(image_shape)

    def _learn_shape(self, image_shape: tuple[int, ...]) -> None:
        self._trained_on, self._told_of = image_shape, set()

    def _warn_of_other_size(self, image_shape: tuple[int, ...]) -> None:
        """Warn of images at least twice or half as large as those that the model was trained on."""
        resized = getattr(self.model, "resize_to", None) is not None
        if self._trained_on is None or resized or image_shape in self._told_of:
            return
        self._told_of.add(image_shape)
        (ours, own_width, _), (theirs, width, _) = self._trained_on, image_shape
        if max(ours, theirs) >= 2 * min(ours, theirs) or max(own_width, width) >= 2 * min(own_width, width):
            warn_caller(
                f"images of {theirs}×{width} are shown to {name_of(self.model)}, which was trained on {ours}×"
                f"{own_width}: bring them to that size as its data did; [test.view(image) for image in images] does "
                "it as a data.StreamedDataset `test` did"
            )

    def remember(self, state: TrainState) -> None:
        """Note that the state of training has the networks' present weights."""
        self._known = [_parameters(network) for network in self._all]
        self._note(state)

    def update(self, state: TrainState) -> None:
        """Write the weights of a state into the model, unless they are there: the user may have changed it since."""
        if self._has(state):
            return
        own = (state.params["model"], state.variables["model"])
        # Copies: the next compiled chunk takes the state's own buffers.
        nnx.update(self.model, *(nnx.State(tree) for tree in copied(own)))
        self._known[0] = _parameters(self.model)
        self._note(state)

    def _note(self, state: TrainState) -> None:
        """Remember that the model has the weights of a state."""
        for key in self._own:
            _WRITTEN.pop(key, None)
        self._state, self._own = weakref.ref(state), _by_variable(self.model)
        _WRITTEN.update(self._own)

    def _has(self, state: TrainState) -> bool:
        """Tell whether the model was given the weights of a state, and since then none of another trainer.

        Networks may share layers with others that are trained.
        """
        if self._state is None or self._state() is not state:
            return False
        return all(key in self._own or key not in _WRITTEN for key in _by_variable(self.model))

    def forget(self) -> None:
        """Let the next `update` write the weights of its state, whichever the model has."""
        self._state = None

    def changed(self) -> bool:
        """Tell whether the model was given weights that the state does not know of."""
        return bool(self._known) and _differ(self._known[0], _parameters(self.model))

    def warn_of_new_weights(self) -> None:
        """Warn of weights that a network was given after `compile`, which the state does not know of."""
        for position, (network, known) in enumerate(zip(self._all, self._known, strict=False)):
            self._known[position] = now = _parameters(network)
            if _differ(known, now):
                cure = "start from them" if position == 0 else "learn from them"
                warn_caller(
                    f"the weights of {name_of(network)} were changed after compile, which had copied them, and are "
                    f"left aside: call compile again to {cure}"
                )

    @property
    def _all(self) -> list[nnx.Module]:
        return [self.model, *([] if self.teacher is None else [self.teacher])]


_OF_A_STREAM = "a batch or a part of it", "leave it out, or make batches larger"
"""What has one image, and the cure."""


def carried(network: Any) -> Normalization | None:
    """Return the statistics that a network carries, and let it carry them as plain numbers.

    Raises:
      TypeError, ValueError: for what are none.
    """
    given = getattr(network, "normalization", None)
    if given is None:
        return None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(
            f"{name_of(network)}.normalization is a {type(given).__name__}, and pixels are normalised with it: make it "
            "jaxkd.Normalization(mean, std), or give a layer another name"
        )
    try:
        found = checked_normalization(Normalization(*given), max(np.size(values) for values in given))
    except ValueError as error:
        raise ValueError(f"{name_of(network)}.normalization: {error}") from None
    if repr(given) != repr(found):  # lists, or NumPy's numbers
        network.normalization = found
    return found


def _with_inner(network: Any) -> Iterator[Any]:
    """Yield a network, and those that it consists of."""
    yield network
    if isinstance(network, WithFeatures):
        yield from _with_inner(network.network)
    elif isinstance(network, Ensemble):
        for one in network.networks:
            yield from _with_inner(one)


def _normalizer(network: nnx.Module, given: Normalization | None) -> Normalizer | None:
    if isinstance(network, Ensemble):
        for one in network.networks:
            carried(one)
        return network.normalizer(given)
    return carried(network) or given


def _labels_at_hand(source: InMemory | StreamedDataset) -> np.ndarray | None:
    """Return labels for an error to look at; None where every example of a source would have to be read for them."""
    return source.labels if isinstance(source, InMemory) else None


def _differ(known: list[jax.Array], now: list[jax.Array]) -> bool:
    """Tell whether weights are others; a network that two trainers have is given equal copies."""
    return len(now) != len(known) or any(
        one is not other and not np.array_equal(one, other, equal_nan=True)
        for one, other in zip(known, now, strict=True)
    )


def _parameters(network: nnx.Module) -> list[jax.Array]:
    return jax.tree.leaves(nnx.state(network, nnx.Param))


def _by_variable(network: nnx.Module) -> dict[tuple[int, int], jax.Array]:
    """Return the arrays of all parameters, by the ids of variable and array."""
    variables = (value for _, value in nnx.iter_graph(network) if isinstance(value, nnx.Param))
    return {(id(one), id(array)): array for one in variables for array in jax.tree.leaves(one.get_raw_value())}
