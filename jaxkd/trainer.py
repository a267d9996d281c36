"""Trainer: Keras's verbs over the compiled engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax

from jaxkd.callbacks import Callback, ProgressBar, TerminateOnNaN
from jaxkd.data import Dataset
from jaxkd.history import History
from jaxkd.metrics import Metric
from jaxkd.resuming import check_same_batches, take_up
from jaxkd.run import Run, normalization_of
from jaxkd.training.cached_teacher import requested
from jaxkd.training.evaluation import predicted
from jaxkd.training.forward import warn_of_slow_types
from jaxkd.training.inputs import Data, checked_images, feed
from jaxkd.training.loop import Fitting, follow
from jaxkd.training.program import Losses, Weight, assemble
from jaxkd.training.sharding import Placement, devices_apart
from jaxkd.training.state import create_state
from jaxkd.training.step import Step, make_step
from jaxkd.training.teacher_cache import TeacherCache
from jaxkd.types import check_at_least


class Trainer(Run):
    """Trains one network on labels: a teacher, or a student alone.

    Args:
      model: an `nnx.Module` called as `model(images, train=…) -> Outputs`. Training changes its weights in place.

    Attributes:
      state: all that training changes, a pytree; None before `compile`. The next compiled chunk takes its buffers:
        copy what is to outlive a `fit`.
      history: what was measured so far.
      stop_training: set it to end after the running epoch.

    Example:
      >>> from jaxkd import data, models, optimizers
      >>> train, test = data.load("digits")
      >>> trainer = Trainer(models.create("resnet8", num_classes=10, seed=0))
      >>> trainer.compile(optimizer=optimizers.sgd(0.1, momentum=0.9))
      >>> history = trainer.fit(train.subset(128), epochs=1, batch_size=32, verbose=0)
      >>> sorted(history.history)
      ['accuracy', 'crossentropy', 'images_per_second', 'learning_rate', 'loss']
    """

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
        gradient_accumulation_steps: int = 1,
        batch_norm: str = "global",
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
            epoch, and on the CPU about a hundred, or one where the network's own convolutions would be slow in a loop.
          devices: those to train on; all by default. The batch is split over them.
          image_shape: `(H, W, C)`, for losses that measure the networks' features before training; by default what the
            network was published for.
          precision: "bfloat16" runs the networks in it, in training and in evaluation; parameters, statistics, logits
            and losses stay float32. On a CPU it gains only where the processor has bfloat16 units and the CPU kernels
            are there to use them (`python -m jaxkd.nn.cpu_kernels` says so); elsewhere it is slower, and you are told.
          cache_teacher: True keeps the teacher's outputs for every view of every image, so that none is paid for twice;
            "auto" does so where it can. A `jaxkd.TeacherCache` says where, and can be shared between runs. Training
            ends with the weights of asking the teacher every time, but for rounding.
          gradient_accumulation_steps: computes each batch in so many parts, one after the other, for batches that do
            not fit into memory. Gradients and logs are averaged over the examples, and the optimizer takes one step, as
            for the whole batch. Only what looks beyond one example sees just its part: BatchNorm, whose running
            statistics move with every part (also the one in SRRL, OFD and ReviewKD); losses that compare the examples
            of a batch (SP, PKT, RKD, CC, DIST, MLKD); CRD, whose Z is set by the first part and whose memories move
            from part to part. Fastest where the batch size is a multiple of the parts times the devices.
          batch_norm: which examples BatchNorm sees in training. "global": the whole batch, so that any number of
            devices gives the result of one. "per_device": each device its own share, as in PyTorch's
            DistributedDataParallel; running statistics are averaged over the devices, and losses still see the whole
            batch. A last batch that does not divide over the devices is seen whole by each.

        Raises:
          ValueError, TypeError: for losses, weights or metrics that cannot be right, and for a teacher with another
            number of classes than the student.
        """
        if steps_per_execution is not None:
            check_at_least(1, steps_per_execution=steps_per_execution)
        check_at_least(1, gradient_accumulation_steps=gradient_accumulation_steps)
        placement = Placement(devices)
        program, losses = assemble(
            self._model,
            self._teacher,
            optimizer,
            loss,
            loss_weights,
            metrics,
            seed,
            image_shape,
            precision,
            gradient_accumulation_steps,
            devices_apart(batch_norm, placement),
        )
        if placement.devices[0].platform == "cpu":
            warn_of_slow_types(precision)
        cache = requested(cache_teacher, self._teacher is not None)
        state = create_state(self._model, losses, self._teacher, program.optimizer, seed)
        self.begin_afresh(program, state, placement, steps_per_execution, cache)

    def fit(
        self,
        data: Data,
        validation_data: Data | None = None,
        epochs: int = 1,
        batch_size: int = 64,
        callbacks: Sequence[Callback] = (),
        validation_freq: int = 1,
        initial_epoch: int | None = None,
        resume: str | None = None,
        verbose: int | bool = 1,
    ) -> History:
        """Trains.

        Every example is seen once an epoch, in an order drawn from the seed, the last smaller batch included.

        Args:
          data: a `data.Dataset` or `data.StreamedDataset`, a tuple of arrays `(images, labels)`, or an iterable of such
            batches. uint8 pixels are normalised on the device, with the network's own statistics or else the data
            set's; float images are taken as normalised already. A data set brings its augmentation.
          validation_data: likewise; evaluated after each epoch as `val_…`.
          epochs: how many in all: it trains `epochs - initial_epoch`.
          batch_size: over all devices; iterables bring their own.
          callbacks: see `jaxkd.callbacks`.
          validation_freq: evaluate every so many epochs, and after the last.
          initial_epoch: how many of the epochs are done; by default those of the run just restored, otherwise 0.
          resume: "auto" goes on from the newest good checkpoint of the `Checkpoint` among the callbacks, at its next
            step, or begins where there is none. The same command then starts a run and continues one that died.
          verbose: 1 shows progress, 0 does not.

        Returns:
          The history of all epochs so far.

        Raises:
          RuntimeError: before `compile`.
          ValueError, TypeError: for data that cannot be right.
          FloatingPointError: when a loss term is no longer finite; it names the step and the term.
        """
        take_up(self, resume, callbacks, bool(verbose))
        first = int(self.compiled_state().epoch)
        done = self.restored_epochs if initial_epoch is None else initial_epoch
        check_at_least(0, epochs=epochs, initial_epoch=done)
        check_at_least(1, validation_freq=validation_freq, batch_size=batch_size)
        last = first + max(epochs - done, 0)
        source = feed(data, self._model, passes=last - first)
        held_out = None if validation_data is None else feed(validation_data, self._model, passes=last - first)
        check_same_batches(self.resumed, source.examples, batch_size)
        setup = self.setup(source)
        step = make_step(setup.program, setup.normalization, setup.teacher_normalization)
        start_epoch, kept = setup.begin(
            step, self.compiled_state(), source, batch_size, last, self.cache, bool(verbose)
        )
        evaluate = None if held_out is None else self.evaluation(held_out)

        shown = [ProgressBar()] if verbose else []
        hooks = follow(self, [*shown, TerminateOnNaN(), *callbacks], last, batch_size, source.examples)
        Fitting(self, start_epoch, kept, hooks, evaluate, validation_freq).train(first, last)
        _ = self.model  # the caller's network gets the trained weights
        return self.history

    def evaluate(self, data: Data, batch_size: int = 256) -> dict[str, float]:
        """Means over all examples, with the network in evaluation mode; works before `compile` too.

        Returns:
          `loss`, the cross-entropy with the labels (distillation terms are about training examples), and each metric:
          those of `compile`, or accuracy and top-5.
        """
        return self.evaluation(feed(data, self._model), batch_size)()

    def predict(self, images: np.ndarray | Dataset, batch_size: int = 256) -> np.ndarray:
        """Logits `[N, K]` of images `[N, H, W, C]`: uint8 pixels, or float32 already normalised."""
        check_at_least(1, batch_size=batch_size)
        given = images.normalization if isinstance(images, Dataset) else None
        pixels = checked_images(images.images if isinstance(images, Dataset) else images)
        graph, weights = self.network()
        normalization = normalization_of(self._model, given)
        return predicted(graph, weights, normalization, self.precision, pixels, self._placement, batch_size)

    @property
    def step(self) -> Step:
        """The pure `step(state, batch) -> (state, logs)` under `fit`, to be jitted in a loop of one's own."""
        teacher = None if self._teacher is None else normalization_of(self._teacher, None)
        return make_step(self.compiled_program(), normalization_of(self._model, None), teacher)
