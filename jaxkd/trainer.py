"""Trainer: Keras's verbs over the compiled engine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxkd.base import Normalization, check_at_least
from jaxkd.callbacks import Callback, CallbackList, ProgressBar, StopOnNaN
from jaxkd.data import Dataset
from jaxkd.engine import checkpoints
from jaxkd.engine.bounds import BoundWatch
from jaxkd.engine.chunks import Chunk, Epoch, one_behind
from jaxkd.engine.epoch import end_epoch
from jaxkd.engine.evaluation import evaluate, make_predict
from jaxkd.engine.feed import Resident, Stream, checked_images, feed
from jaxkd.engine.kept_teacher import KeptTeacher, requested
from jaxkd.engine.meter import EpochMeter
from jaxkd.engine.program import Program, assemble, metrics_of
from jaxkd.engine.setup import Setup
from jaxkd.engine.sharding import Placement
from jaxkd.engine.state import TrainState, Tree, create_state, split
from jaxkd.engine.step import Logs, Step, make_step
from jaxkd.engine.teacher_cache import TeacherCache
from jaxkd.engine.terms import Losses, Weight
from jaxkd.history import History
from jaxkd.losses import cross_entropy
from jaxkd.metrics import Metric

Data = Dataset | tuple | Iterable


class Trainer:
    """Trains one network on labels: a teacher, or a student alone.

    Args:
      model: an `nnx.Module` called as `model(images, train=…) -> Outputs`. Training changes its weights in place.

    Attributes:
      state: all that training changes, a pytree; None before `compile`. The next compiled chunk takes its buffers:
        copy what is to outlive a `fit`.
      history: what was measured so far.
      stop_training: callbacks set it to end after the running epoch.
      last_steps: the value of every loss at each step of the last compiled chunk.
      last_steps_start: the number of steps taken before that chunk.

    Example:
      >>> from jaxkd import data, models, optimizers
      >>> train, test = data.load("digits")
      >>> trainer = Trainer(models.create("resnet8", num_classes=10, seed=0))
      >>> trainer.compile(optimizer=optimizers.sgd(0.1, momentum=0.9))
      >>> history = trainer.fit(train.subset(128), epochs=1, batch_size=32, verbose=0)
      >>> sorted(history.history)
      ['accuracy', 'crossentropy', 'images_per_second', 'learning_rate', 'loss']
    """

    def __init__(self, model: nnx.Module):
        self._model = model
        self._teacher: nnx.Module | None = None
        self._program: Program | None = None
        self._kept: KeptTeacher | None = None
        self._restored_epochs = 0
        self.state: TrainState | None = None
        self.history = History()
        self.stop_training = False
        self.last_steps: dict[str, np.ndarray] = {}
        self.last_steps_start = 0

    @property
    def model(self) -> nnx.Module:
        """The network with the weights of `state`."""
        if self.state is not None:
            own = (self.state.params["model"], self.state.variables["model"])
            # Copies: the next compiled chunk takes the state's own buffers.
            nnx.update(self._model, *(nnx.State(jax.tree.map(jnp.copy, tree)) for tree in own))
        return self._model

    def compile(
        self,
        optimizer: optax.GradientTransformation,
        loss: Losses | None = None,
        loss_weights: Mapping[str, float | Weight] | None = None,
        metrics: Sequence[str | Metric] = ("accuracy",),
        seed: int = 0,
        steps_per_execution: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        precision: str = "float32",
        cache_teacher: bool | str | TeacherCache = False,
    ) -> None:
        """Says how to train, and starts afresh from the network's present weights.

        Args:
          optimizer: from `jaxkd.optimizers`, or any optax optimizer. It also trains what the losses learn.
          loss: a loss, or several by name; the names are the keys of the logs. Without a teacher the default is
            cross-entropy.
          loss_weights: a number or a function of the epoch (counted from 1) for each name; 1 where none is given.
          metrics: names or functions, see `jaxkd.metrics`.
          seed: of the order of examples, the augmentation and the losses' own draws.
          steps_per_execution: how many steps one compiled program takes before the host hears of it. By default a whole
            epoch, and about a hundred on the CPU.
          devices: those to train on; all by default. The batch is split over them.
          image_shape: `(H, W, C)`, for losses that measure the networks' features before training; by default what the
            network was published for.
          precision: "bfloat16" runs the networks in it, in training and in evaluation; parameters, statistics, logits
            and losses stay float32. It is made for GPUs and TPUs; a CPU has no fast bfloat16.
          cache_teacher: True keeps the teacher's outputs for every view of every image, so that none is paid for twice;
            "auto" does so where it can. A `jaxkd.TeacherCache` says where, and can be shared between runs.

        Raises:
          ValueError, TypeError: for losses, weights or metrics that cannot be right, and for a teacher with another
            number of classes than the student.
        """
        if steps_per_execution is not None:
            check_at_least(1, steps_per_execution=steps_per_execution)
        self._program, losses = assemble(
            self._model, self._teacher, optimizer, loss, loss_weights, metrics, seed, image_shape, precision
        )
        self.cache = requested(cache_teacher, self._teacher is not None)
        self._placement = Placement(devices)
        self._steps_per_execution = steps_per_execution
        state = create_state(self._model, losses, self._teacher, self._program.optimizer, seed)
        self.state = self._placement.everywhere(state)
        self.history, self._restored_epochs = History(), 0

    def fit(
        self,
        data: Data,
        validation_data: Data | None = None,
        epochs: int = 1,
        batch_size: int = 64,
        callbacks: Sequence[Callback] = (),
        validation_freq: int = 1,
        initial_epoch: int | None = None,
        verbose: int | bool = 1,
    ) -> History:
        """Trains.

        Every example is seen once an epoch, in an order drawn from the seed, the last smaller batch included.

        Args:
          data: a `data.Dataset`, a tuple of arrays `(images, labels)`, or an iterable of such batches. uint8 pixels are
            normalised on the device, with the network's own statistics or else the data set's; float images are taken
            as normalised already. A Dataset brings its augmentation.
          validation_data: likewise; evaluated after each epoch as `val_…`.
          epochs: how many in all: it trains `epochs - initial_epoch`.
          batch_size: over all devices; iterables bring their own.
          callbacks: see `jaxkd.callbacks`.
          validation_freq: evaluate every so many epochs, and after the last.
          initial_epoch: how many of the epochs are done; by default those of the run just restored, otherwise 0.
          verbose: 1 shows progress, 0 does not.

        Returns:
          The history of all epochs so far.

        Raises:
          RuntimeError: before `compile`.
          ValueError, TypeError: for data that cannot be right.
          FloatingPointError: when a loss term is no longer finite; it names the step and the term.
        """
        first = int(self._compiled_state().epoch)
        done = self._restored_epochs if initial_epoch is None else initial_epoch
        check_at_least(0, epochs=epochs, initial_epoch=done)
        check_at_least(1, validation_freq=validation_freq, batch_size=batch_size)
        last = first + max(epochs - done, 0)
        source = feed(data, self._model, passes=last - first)
        held_out = None if validation_data is None else feed(validation_data, self._model, passes=last - first)
        setup = self.setup(source)
        step = make_step(setup.program, setup.normalization, setup.teacher_normalization)
        start_epoch, self._kept = setup.begin(
            step, self._compiled_state(), source, batch_size, self.cache, bool(verbose)
        )
        images = len(source.images) if isinstance(source, Resident) else None

        hooks = CallbackList([*([ProgressBar()] if verbose else []), StopOnNaN(), *callbacks])
        hooks.set_trainer(self)
        steps = None if images is None else math.ceil(images / batch_size)
        hooks.set_params({"epochs": last, "steps": steps, "batch_size": batch_size, "images": images})
        self.stop_training, self._restored_epochs = False, 0
        logs: dict[str, float] = {}
        hooks.on_train_begin()
        for number in range(first, last):
            if self.stop_training:
                break
            hooks.on_epoch_begin(number)
            logs = self._train_epoch(start_epoch, hooks)
            if held_out is not None and ((number + 1) % validation_freq == 0 or number + 1 == last):
                hooks.on_test_begin()
                measured = {f"val_{name}": value for name, value in self._evaluate(held_out).items()}
                hooks.on_test_end(measured)
                logs |= measured
            self.history.append(number, logs)
            hooks.on_epoch_end(number, logs)
        hooks.on_train_end(logs)
        _ = self.model  # the caller's network gets the trained weights
        return self.history

    def evaluate(self, data: Data, batch_size: int = 256) -> dict[str, float]:
        """Means over all examples, with the network in evaluation mode; works before `compile` too.

        Returns:
          `loss`, the cross-entropy with the labels (distillation terms are about training examples), and each metric:
          those of `compile`, or accuracy and top-5.
        """
        return self._evaluate(feed(data, self._model), batch_size)

    def predict(self, images: np.ndarray | Dataset, batch_size: int = 256) -> np.ndarray:
        """Logits `[N, K]` of images `[N, H, W, C]`: uint8 pixels, or float32 already normalised."""
        check_at_least(1, batch_size=batch_size)
        given = images.normalization if isinstance(images, Dataset) else None
        pixels = checked_images(images.images if isinstance(images, Dataset) else images)
        graph, weights = self._network()
        predict = make_predict(graph, normalization_of(self._model, given), self._precision())
        starts = range(0, len(pixels), batch_size)
        return np.concatenate([np.asarray(predict(*weights, pixels[i : i + batch_size])) for i in starts])

    def save(self, directory: str | os.PathLike[str], *, keep: int = 1) -> None:
        """Writes the run as `directory/<epochs completed>`, atomically, and keeps the newest `keep` of them."""
        own = getattr(self._model, "normalization", None)
        record = {"history": self.history.to_dict(), "normalization": own and [list(values) for values in own]}
        checkpoints.save(directory, self._compiled_state(), record, keep)

    def restore(self, directory: str | os.PathLike[str]) -> None:
        """Takes up the newest run of a directory; `fit` then goes on with its next epoch, as if it had never stopped.

        Raises:
          RuntimeError: before `compile`.
          FileNotFoundError: where there is none.
          ValueError: if it was compiled differently.
        """
        self.state, record = checkpoints.restore(directory, self._compiled_state())
        self.history = History.from_dict(record["history"])
        if record["normalization"]:
            mean, std = record["normalization"]
            self._model.normalization = Normalization(tuple(mean), tuple(std))  # type: ignore[attr-defined]
        self._restored_epochs = int(self.state.epoch)
        _ = self.model

    @property
    def step(self) -> Step:
        """The pure `step(state, batch) -> (state, logs)` under `fit`, to be jitted in a loop of one's own."""
        teacher = None if self._teacher is None else normalization_of(self._teacher, None)
        return make_step(self._compiled_program(), normalization_of(self._model, None), teacher)

    # What follows joins the verbs to the engine.

    def _train_epoch(self, start_epoch: Epoch, hooks: CallbackList) -> dict[str, float]:
        state, program = self._compiled_state(), self._compiled_program()
        terms = ["loss", *(name for name, _ in program.weights)]
        meter = EpochMeter(program.averaged)
        watch = BoundWatch(dict(program.bounds))
        steps_before = int(state.step)
        for values, batch_size in one_behind(start_epoch(state), self._take):
            self.last_steps = {name: values[name] for name in terms}
            self.last_steps_start = steps_before + meter.steps
            meter.add(values, batch_size)
            watch.add(values)
            hooks.on_train_batch_end(meter.steps, meter.logs())
        watch.warn(int(self._compiled_state().epoch) + 1)
        self.state = end_epoch(self._compiled_state())
        recalled = {} if self._kept is None else {"teacher_cache_hits": self._kept.hit_rate()}
        return meter.logs() | recalled

    def _take(self, chunk: Chunk) -> Logs:
        self.state, logs = chunk.run(self._compiled_state())
        return logs

    def setup(self, source: Resident | Stream) -> Setup:
        """How the run as compiled goes over data; a network without a normalisation takes up that of the data."""
        given = source.normalization if isinstance(source, Resident) else None
        if given is not None and getattr(self._model, "normalization", None) is None:
            self._model.normalization = given  # type: ignore[attr-defined]
        return Setup(
            self._compiled_program(),
            normalization_of(self._model, given),
            None if self._teacher is None else normalization_of(self._teacher, given),
            self._placement,
            self._steps_per_execution,
        )

    def _evaluate(self, source: Resident | Stream, batch_size: int = 256) -> dict[str, float]:
        check_at_least(1, batch_size=batch_size)
        given = source.normalization if isinstance(source, Resident) else None
        metrics = metrics_of(("accuracy", "top5")) if self._program is None else self._program.metrics
        graph, weights = self._network()
        measured = (("loss", cross_entropy), *metrics)
        normalization, precision = normalization_of(self._model, given), self._precision()
        return evaluate(graph, weights, normalization, precision, measured, source, batch_size)

    def _network(self) -> tuple[nnx.GraphDef, tuple[Tree, Tree]]:
        if self.state is None:
            graph, *weights = split(self._model)
            return graph, tuple(weights)
        return self._compiled_program().model, (self.state.params["model"], self.state.variables["model"])

    def _precision(self) -> str:
        return "float32" if self._program is None else self._program.precision

    def _compiled_state(self) -> TrainState:
        if self.state is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self.state

    def _compiled_program(self) -> Program:
        if self._program is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self._program


def normalization_of(model: nnx.Module, given: Normalization | None) -> Normalization | None:
    """What a network's inputs are normalised with: its own statistics if it carries any, else the data's."""
    return getattr(model, "normalization", None) or given
