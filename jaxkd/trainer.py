"""Trainer: Keras's verbs over the compiled engine."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxkd.callbacks import Callback, CallbackList, Checkpoint, ProgressBar, TerminateOnNaN
from jaxkd.callbacks.base import in_a_list
from jaxkd.callbacks.terminal import with_warnings_apart
from jaxkd.checks import check_at_least, check_network, warn_caller
from jaxkd.data import Dataset, Mixing, StreamedDataset
from jaxkd.data.interop import one_by_one, with_labels
from jaxkd.history import History
from jaxkd.keywords import OF_COMPILE, OF_DATA, names_cures
from jaxkd.losses import cross_entropy
from jaxkd.metrics import Metric
from jaxkd.networks import Networks, carried
from jaxkd.summary import RunSummary, run_summary
from jaxkd.training.cached_teacher import CacheRequest, parse_cache_option
from jaxkd.training.ema import EMA, average_of, init_average, own_and_average
from jaxkd.training.epochs import BoundProgram, check_same_batches
from jaxkd.training.evaluation import Evaluation, comfortable_batch_size, predicted
from jaxkd.training.expectations import Expectations, checking_step
from jaxkd.training.forward import warn_of_slow_types
from jaxkd.training.inputs import Data, Source, Stream, check_names, images_of
from jaxkd.training.loop import Run, Runs, train, under_way
from jaxkd.training.optimizer_calls import check_update
from jaxkd.training.preemption import Termination
from jaxkd.training.program import Augment, Losses, Program, Weight, build_program, metrics_of, name_of
from jaxkd.training.sharding import Placement, bn_mesh_of
from jaxkd.training.state import TrainState, Tree, copied, create_state, fingerprint, split
from jaxkd.training.step import Step, make_step
from jaxkd.training.teacher_cache import TeacherCache
from jaxkd.training.trials import check_parameters
from jaxkd.types import Normalization, is_array


class Trainer:
    """Train one network on labels: a teacher, or a student alone.

    Args:
      model: a network of the zoo, or any `nnx.Module` of your own: see "A network of your own" in the docs. Training
        changes its weights in place.

    Raises:
      TypeError: for what is no network, such as its name.

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

    def __init__(self, model: nnx.Module):
        check_network("model", model)
        self._networks = Networks(model)
        self._program: Program | None = None
        self._placement = Placement()
        self._steps_per_execution: int | None = None
        self._cache = CacheRequest(None, False)
        self._run = Run()
        self._assigned = False  # whether `state` was set, and the network does not have its weights
        self._restored_epochs = 0  # done when the run was restored, until `fit`

    def __repr__(self) -> str:
        made_of = f"{type(self).__name__}({self._networks})"
        if self._program is None or self._run.state is None:
            return f"{made_of}, not compiled"
        terms = ", ".join(name for name, _ in self._program.weights)
        state = self._run.state
        return f"{made_of}\n  losses {terms}; {int(state.epoch)} epochs, {int(state.step)} steps"

    @names_cures(OF_COMPILE)
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
        trainable: str | Sequence[str] | None = None,
        augment: Augment | Sequence[Augment] | None = None,
        mixing: Mixing | None = None,
        ema: EMA | None = None,
    ) -> None:
        """Set up training, which starts from the network's present weights, or from a `state` that was set since.

        Args:
          optimizer: from `jaxkd.optimizers`, or any optax optimizer. It also trains what the losses learn: parameters
            are `{"model": {"conv": …, "fc": …}, "losses": {…}}`, which masks and labels have to follow. Equal blocks of
            deep networks share arrays, along a first axis; optax's optimizers see them one by one, in tuples (not
            within `optimizers.clipped` and `by_layer`).
          loss: a loss, or several by name; the names are the keys of the logs. Without a teacher the default is
            cross-entropy.
          loss_weights: a number or a function of the epoch (counted from 1) for each name; 1 where none is given.
          metrics: names or functions, see `jaxkd.metrics`.
          seed: of the order of examples, the augmentation and the losses' own draws; below 2³².
          steps_per_execution: how many steps one compiled program takes before the host hears of it. By default a whole
            epoch, and on the CPU about a hundred, or one where the network's own convolutions would be slow in a loop.
            Batches that are read while training take one step each.
          devices: those to train on; all by default. The batch is split over them.
          image_shape: `(H, W, C)`, for losses that measure the networks' features before training; by default what the
            network was published for.
          precision: "bfloat16" runs the networks in it, in training and in evaluation; parameters, statistics, logits
            and losses stay float32. On a CPU it gains only where the processor has bfloat16 units and the CPU kernels
            are there to use them (`python -m jaxkd.nn.cpu_kernels` says so); elsewhere it is slower, and a warning says
            so. "highest" is float32 with its products in full, which TPUs round to bfloat16 by default and GPUs may to
            TensorFloat-32.
          cache_teacher: True keeps the teacher's outputs for every view of every image, so that each is computed once;
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
            batch. In a last batch that does not divide over the devices, BatchNorm sees all examples.
          trainable: the names of the layers that are trained, as in "fc" or ("layer4", "fc"), or `models.head(model)`;
            all by default. The others are frozen: their weights stay as they are, no optimizer has a state for them,
            and they compute as in evaluation, so that BatchNorm uses its running statistics and leaves them alone.
          augment: what is applied to the images of each batch, or several one after the other: `data.TrivialAugment()`,
            `data.AutoAugment("imagenet")`, `data.RandAugment()`, `data.RandomErasing(0.25)`, or a function of yours,
            called as `(key, images)`. It comes after the data set's own augmentation, or after decoding where images
            are read from files, on the device, before images are normalised and mixed. Student and teacher see the
            same; a strong view that a loss asks for is left as the loss wants it. `cache_teacher` is refused.
          mixing: mixup and CutMix, as in `data.Mixing(mixup_alpha=0.8, cutmix_alpha=1.0)`. Student and teacher see the
            same mixed images; losses and training metrics are the means over both labels, weighted by their shares.
            Losses that remember single examples (CRD) are refused, and so is `cache_teacher`.
          ema: keeps averaged weights beside those that are trained, as in `EMA(decay=0.9999)`. They are evaluated as
            `val_ema_…` as well, saved with the run, and are the weights of `ema_model`.

        Raises:
          ValueError, TypeError: for losses, weights or metrics that cannot be right, for a teacher with another number
            of classes than the student, for a layer that the network does not have, and for an optimizer that needs
            more than gradients, parameters and the epoch.
          RuntimeError: from a callback.
        """
        self._check_idle("compile")
        if steps_per_execution is not None:
            check_at_least(1, steps_per_execution=steps_per_execution)
        check_at_least(1, gradient_accumulation_steps=gradient_accumulation_steps)
        check_at_least(-(2**31), seed=seed)
        if seed >= 2**32:
            raise ValueError(f"seed={seed}: give one below 2**32; JAX leaves the rest of a larger one aside")
        placement = Placement(devices)
        if self._assigned and self._run.is_whole and not self._networks.changed():
            self._update_model()
        model, teacher = self._networks.model, self._networks.teacher
        self._networks.normalization()  # statistics that cannot be right are refused now
        for network in (model, *([] if teacher is None else [teacher])):
            nnx.pop(network, nnx.Intermediate)  # left from a call; a step leaves none
        program, losses = build_program(
            model,
            teacher,
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            seed=seed,
            image_shape=image_shape,
            precision=precision,
            microbatches=gradient_accumulation_steps,
            bn_mesh=bn_mesh_of(batch_norm, placement),
            trainable=trainable,
            augment=augment,
            mixing=mixing,
            ema=ema,
        )
        if placement.devices[0].platform == "cpu":
            warn_of_slow_types(precision)
        cache = parse_cache_option(cache_teacher, teacher is not None)
        state = create_state(model, losses, teacher, program.optimizer, seed, program.trainable)
        check_update(program.optimizer, state.params, state.opt_state, program.stacked)
        check_parameters(name_of(model), state.params["model"])
        placement.check_same("weights", state.params)
        placement.check_same("teachers", state.teacher)
        placement.check_same("variables or seeds", (state.variables, state.key))
        state = init_average(program.ema, state)
        self._program, self._placement, self._steps_per_execution = program, placement, steps_per_execution
        self._cache, self._run, self._restored_epochs = cache, Run(placement.replicate(state)), 0
        self._networks.remember(self._run.compiled_state())
        self.__dict__.pop("_teacher_fingerprint", None)  # of the teacher that was copied before

    @names_cures(OF_DATA)
    @with_warnings_apart
    def fit(
        self,
        x: Data,
        y: Any = None,
        *,
        validation_data: Data | None = None,
        epochs: int = 1,
        batch_size: int = 64,
        validation_batch_size: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = (),
        validation_freq: int = 1,
        initial_epoch: int | None = None,
        resume: str | None = None,
        verbose: int | bool = 1,
    ) -> History:
        """Train until `epochs` epochs are done, and return what was measured.

        Every example is seen once an epoch, in an order drawn from the seed, the last smaller batch included.

        Args:
          x: images `[N, H, W, C]`, or a list of them, with labels `y`; or both in one: a `data.Dataset` or
            `data.StreamedDataset`, a tuple of arrays `(images, labels)`, or an iterable of batches: these,
            `(images, labels, index)`, a `Batch` or a dict of image and label. uint8 pixels are normalised on the
            device, with the network's own statistics or else the data set's; float images are taken as normalised
            already. A data set brings its augmentation.
          y: labels `[N]`, where `x` is images alone; else the validation data, as in `fit(train, test)`.
          validation_data: in one, as `x` can be; evaluated after each epoch as `val_…`.
          epochs: how many in all: it trains `epochs - initial_epoch`.
          batch_size: over all devices; iterables bring their own.
          validation_batch_size: likewise, in the evaluation of `validation_data`. No result depends on it. By default
            256, fewer of images that are larger than 224×224, and at least what a step computes at once.
          callbacks: one, or several in a list; see `jaxkd.callbacks`.
          validation_freq: evaluate every so many epochs, and after the last.
          initial_epoch: how many of the epochs are done; by default those of the run just restored, otherwise 0. It
            says how many are left, and moves no schedule: these count the epochs since `compile`.
          resume: "auto" resumes from the newest good checkpoint of the `Checkpoint` among the callbacks, at its next
            step, or begins where there is none. The same command then starts a run and resumes it.
          verbose: 1 shows progress, 0 does not.

        Returns:
          The history of all epochs so far.

        Raises:
          RuntimeError: before `compile`, or from a callback.
          ValueError, TypeError: for data that cannot be right, or that the network cannot be trained on.
          FloatingPointError: when a loss term is no longer finite; it names the step and the term.
          KeyboardInterrupt: after Ctrl-C. The network has the weights of the last steps, and `save` writes them down.
        """
        self._check_idle("fit")
        if y is not None and not (is_array(x) or one_by_one(x)) and validation_data is None:
            y, validation_data = None, y
        data = with_labels(x, y)
        self._networks.warn_of_new_weights()
        callbacks = in_a_list(callbacks)
        self._resume(resume, callbacks, bool(verbose))
        first = int(self._run.compiled_state().epoch)
        done = self._restored_epochs if initial_epoch is None else initial_epoch
        check_at_least(0, epochs=epochs, initial_epoch=done)
        if initial_epoch and initial_epoch != first and epochs > initial_epoch:
            warn_caller(
                f"initial_epoch={initial_epoch}, but these weights were trained for {first} epochs since compile: it "
                f"trains {epochs - initial_epoch}, and schedules, curricula and the history count them from epoch "
                f'{first + 1}; restore(…) or resume="auto" goes on where a run was'
            )
        check_at_least(1, validation_freq=validation_freq, batch_size=batch_size)
        if validation_batch_size is not None:
            check_at_least(1, validation_batch_size=validation_batch_size)
        last = first + max(epochs - done, 0)
        networks = self._networks
        source = networks.source(data, last - first, training=True)
        held_out = None
        if validation_data is not None:
            passes = (last - first) * (2 if self.keeps_average else 1)
            held_out = networks.source(validation_data, passes, source.normalization)
            check_names(data, validation_data)
        self._run.resume_where_it_is()
        check_same_batches(self._run.resumed, source.examples, batch_size)
        source = networks.for_training(source, batch_size, self._compiled_program(), len(self._placement.devices))
        if held_out is not None:
            held_out = networks.for_validation(held_out, source)
            if isinstance(held_out, Stream):
                held_out.check_first()
        bound = self._bind(source)
        start_epoch, cached_teacher = bound.epochs(
            bound.step(), self._run.compiled_state(), source, batch_size, last, self._cache, bool(verbose)
        )
        measure = None
        if held_out is not None:
            part = -(-batch_size // self._compiled_program().microbatches)
            measure = self._measure(held_out, validation_batch_size or comfortable_batch_size(held_out, part))

        shown = [ProgressBar()] if verbose else []
        hooks = self._follow([*shown, TerminateOnNaN(), *callbacks], last, batch_size, source.examples, done > 0)
        try:
            with Termination(wanted=hooks.listens_to("on_termination")) as termination:
                with under_way([self._run]):
                    hooks.on_train_begin()
                    logs = train(
                        Runs([(self._run, hooks)]),
                        range(first, last),
                        start_epoch,
                        bound.program,
                        termination,
                        cached_teacher,
                        measure and (lambda state: [own_and_average(measure, state)]),
                        validation_freq,
                    )
                hooks.on_train_end(logs[0])
                if termination.noticed:  # in the last epoch, when there was nothing left to save
                    termination.end()
        except FloatingPointError:  # the network keeps the weights from before, which are good
            self._run.diverged_state = self._run.state
            raise
        except BaseException:  # Ctrl-C above all: the network has what was trained so far, as after `fit`
            if self._run.is_whole:
                self._update_model()
            raise
        self._update_model()
        return self.history

    def summary(self, image_shape: Sequence[int] | None = None, depth: int | None = None) -> RunSummary:
        """Return what the run is made of: networks with their layers and features, losses, optimizer, what is trained.

        `print` shows it as text, and a notebook as tables. It is only traced: nothing is computed.

        Args:
          image_shape: `(H, W, C)`; by default the one that the network, or else the teacher, was published for.
          depth: how many levels of layers have rows of their own; see `jaxkd.summary`.

        Raises:
          ValueError: where the shape of the images is not known, or a network cannot take them.
        """
        return run_summary(self.model, self._networks.teacher, self._program, self.state, image_shape, depth)

    @names_cures(OF_DATA)
    def evaluate(self, x: Data, y: Any = None, *, batch_size: int = 256) -> dict[str, float]:
        """Return means over all examples, with the network in evaluation mode; works before `compile` too.

        Args:
          x: images with labels `y`, or both in one, as `fit` takes them.
          y: labels.
          batch_size: over all devices.

        Returns:
          `loss`, the cross-entropy with the labels (distillation terms are about training examples), and each metric:
          those of `compile`, or accuracy and top-5.
        """
        self._networks.warn_of_new_weights()
        source = self._networks.for_evaluation(self._networks.source(with_labels(x, y)))
        return self._measure(source, batch_size)(*self._network()[1])

    @names_cures(OF_DATA)
    def predict(self, x: np.ndarray | Dataset | StreamedDataset | Iterable[Any], batch_size: int = 256) -> np.ndarray:
        """Return logits `[N, K]`.

        Args:
          x: images `[N, H, W, C]`, uint8 pixels or float32 already normalised; a list of images, or of Pillow's; a data
            set; or batches as `evaluate` takes them, whose labels are left aside, or of images alone. Logits are in the
            order in which the images come.
          batch_size: over all devices.

        Raises:
          TypeError, ValueError: for images that cannot be right.

        Warns:
          UserWarning: of images of a `data.StreamedDataset` that cannot be read; their logits are NaN.
        """
        check_at_least(1, batch_size=batch_size)
        networks = self._networks
        networks.warn_of_new_weights()
        given = x.normalization if isinstance(x, Dataset | StreamedDataset) else None
        expected = Expectations.of(networks.model, networks.normalization(given))
        graph, weights = self._network()
        normalization, _ = networks.normalizers(given)
        parts = []
        for pixels, readable in images_of(x, expected, batch_size):
            networks.try_evaluated(pixels.shape[1:])
            logits = predicted(graph, weights, normalization, self._precision, pixels, self._placement, batch_size)
            parts.append(logits if readable is None else np.where(readable[:, None], logits, np.float32(np.nan)))
        if not parts:
            raise ValueError(
                "nothing to predict: the iterable of batches gave none; a generator is used up when it was gone "
                "through once"
            )
        return np.concatenate(parts)

    def save(self, directory: str | os.PathLike[str], *, keep: int = 1) -> None:
        """Write a checkpoint as `directory/<epochs completed>`, atomically, and keep the newest `keep` of them.

        It is the newest from now on: checkpoints of later epochs are removed. From a callback within an epoch it writes
        `directory/partial/<steps taken>` instead.

        Raises:
          RuntimeError: before `compile`.
          FloatingPointError: for a state that is not worth keeping; what was saved before stays.
          OSError: the directory cannot be written to, or is full.
        """
        from jaxkd.training import checkpoint  # orbax is slow to import, and many runs save nothing

        own = carried(self._networks.model)
        progress = self._run.progress
        record = {
            "history": self.history.to_dict(),
            "normalization": own and [list(values) for values in own],
            "teacher": self._teacher_fingerprint,
            "running": self._run.resumed if progress is None else progress.to_dict(),
            "warned": sorted(self._run.warned),
        }
        checkpoint.save(directory, self._run.compiled_state(), record, keep)

    def restore(self, directory: str | os.PathLike[str]) -> None:
        """Read the newest checkpoint of a directory; `fit` then resumes at its next step, as if it had never stopped.

        Warns:
          UserWarning: of damaged checkpoints; the one before is taken. Of a seed, and of constants of losses such as a
            temperature, that `compile` was given otherwise: the checkpoint's stay. Of a teacher with other weights.

        Raises:
          RuntimeError: before `compile`, or from a callback while training is under way.
          FileNotFoundError: where there is none.
          OSError: where none is good.
          ValueError: if it was compiled with another network, other kinds of losses or another optimizer.
        """
        from jaxkd.training import checkpoint

        self._check_idle("restore")
        given = self._run.compiled_state()
        state, record = checkpoint.restore(directory, given)
        if record.get("teacher") not in (None, self._teacher_fingerprint):
            warn_caller(
                f"the teacher has other weights than that of the run in {directory}, which goes on with this one: load "
                "the same to end where that run would have"
            )
        checkpoint.warn_of_other_settings(directory, given, state, self._compiled_program().constants)
        if record["normalization"]:
            mean, std = record["normalization"]
            known = Normalization(tuple(mean), tuple(std))
            self._networks.model.normalization = known  # type: ignore[attr-defined]
            self._networks.carry(known)
        history, warned = History.from_dict(record["history"]), set(record.get("warned", ()))
        self._run = Run(state, history, resumed=record["running"], warned=warned)
        self._restored_epochs = int(state.epoch)
        self._update_model()

    @property
    def model(self) -> nnx.Module:
        """The network with the weights of `state`; those from before `fit` where that ended in no finite numbers.

        What was changed in it since then stays, until the state is another.
        """
        self._update_model()
        return self._networks.model

    @property
    def keeps_average(self) -> bool:
        """Tell whether there are averaged weights, for `ema_model`."""
        return self.state is not None and average_of(self.state) is not None

    @property
    def ema_model(self) -> nnx.Module:
        """A copy of the network with the averaged weights of `state`.

        Raises:
          RuntimeError: where `compile` was not given an `ema`.
        """
        average = None if self.state is None else average_of(self.state)
        if average is None:
            raise RuntimeError("there are no averaged weights: call compile(…, ema=jaxkd.EMA(decay=0.9999))")
        model = nnx.clone(self._networks.model)
        nnx.update(model, *(nnx.State(tree) for tree in copied(average)))
        return model

    @property
    def state(self) -> TrainState | None:
        """All that training changes; None before `compile`."""
        return self._run.state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._run.state, self._run.diverged_state, self._assigned = state, None, True
        self._networks.forget()

    @property
    def history(self) -> History:
        """All that was measured so far."""
        return self._run.history

    @property
    def stop_training(self) -> bool:
        """Tell whether training ends after the running epoch; callbacks set it."""
        return self._run.stop_training

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self._run.stop_training = stop

    @property
    def last_steps(self) -> Mapping[str, np.ndarray]:
        """The value of every loss at each step of the last compiled chunk."""
        return self._run.last_steps

    @property
    def last_steps_start(self) -> int:
        """The number of steps taken before that chunk."""
        return self._run.last_steps_start

    @property
    def step(self) -> Step:
        """The pure `step(state, batch) -> (state, logs)` under `fit`, to be jitted in a loop of one's own."""
        step = make_step(self._compiled_program(), *self._networks.normalizers(None))
        return checking_step(step, Expectations.of(self._networks.model))

    def _follow(
        self, callbacks: Sequence[Callback], last: int, batch_size: int, examples: int | None, resumed: bool
    ) -> CallbackList:
        """Return the callbacks of training that is about to begin and ends before an epoch, told all they need."""
        hooks = CallbackList(callbacks)
        hooks.set_trainer(self)
        steps = None if examples is None else math.ceil(examples / batch_size)
        given = {"epochs": last, "steps": steps, "batch_size": batch_size, "images": examples, "resumed": resumed}
        hooks.set_params(given)
        self._run.stop_training, self._restored_epochs = False, 0
        return hooks

    def _resume(self, resume: str | None, callbacks: Sequence[Callback], verbose: bool) -> None:
        """Restore what the run's own checkpoints hold, if it is asked to and there are any.

        Raises:
          ValueError: for an unknown `resume`; where it is not clear which checkpoints are meant; where those in the
            run's directory are from further on than the run, so that its own would be taken for older ones.
        """
        places = [callback.directory for callback in callbacks if isinstance(callback, Checkpoint)]
        if resume not in (None, "auto"):
            raise ValueError(f'resume={resume!r}: give "auto", or None to train from the present state')
        if resume and len(places) != 1:
            raise ValueError(f'resume="auto" reads the directory of a Checkpoint, and there are {len(places)} of them')
        if not places:
            return
        from jaxkd.training import checkpoint

        if resume and checkpoint.is_begun(places[0]):
            self.restore(places[0])
            if verbose and jax.process_index() == 0:
                state = self._run.compiled_state()
                print(
                    f"resuming after epoch {int(state.epoch)} and step {int(state.step)}, from {places[0]}", flush=True
                )
        for place in places:
            checkpoint.check_behind(place, self._run.compiled_state())

    def _bind(self, source: Source) -> BoundProgram:
        """Return the program with what it needs over some data.

        A network without a normalisation takes that of the data.
        """
        given = source.normalization
        if given is not None:
            self._networks.carry(given)
        normalizers = self._networks.normalizers(given)
        return BoundProgram(self._compiled_program(), *normalizers, self._placement, self._steps_per_execution)

    def _measure(self, source: Source, batch_size: int) -> Callable[[Tree, Tree], dict[str, float]]:
        """Return what evaluates weights of the network on data, which are put in place now."""
        evaluation = Evaluation(source, self._placement, batch_size)
        normalization, _ = self._networks.normalizers(source.normalization)
        metrics = metrics_of(("accuracy", "top5")) if self._program is None else self._program.metrics
        measured = (("loss", cross_entropy), *metrics)

        def measure(*weights: Tree) -> dict[str, float]:
            return evaluation.measure(self._network()[0], weights, normalization, self._precision, measured)

        return measure

    def _network(self) -> tuple[nnx.GraphDef[Any], tuple[Tree, Tree]]:
        """Return structure, parameters and other variables of the network, on the devices.

        After training that ended in no finite numbers these are the good ones from before, which the network has.
        """
        if self.state is None or self.state is self._run.diverged_state:
            graph, *weights = split(self._networks.model)
            return graph, self._placement.replicate(tuple(weights))
        return self._compiled_program().model, (self.state.params["model"], self.state.variables["model"])

    @functools.cached_property
    def _teacher_fingerprint(self) -> str | None:
        """A digest of the teacher's weights and statistics, as `compile` copied them; None without a teacher."""
        if self._networks.teacher is None:
            return None
        leaves = jax.tree.leaves(self._run.compiled_state().teacher)
        return fingerprint([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)])  # no random keys

    @property
    def _precision(self) -> str:
        return "float32" if self._program is None else self._program.precision

    def _compiled_program(self) -> Program:
        if self._program is None:
            raise RuntimeError("call compile(optimizer=…, loss=…) first")
        return self._program

    def _check_idle(self, verb: str) -> None:
        """Refuse what a callback must not call: it would put another run in the place of the one that is trained.

        Raises:
          RuntimeError: with the cure.
        """
        if self._run.under_way:
            raise RuntimeError(
                f"{verb} while training is under way: set trainer.state to an earlier copy, as jax.tree.map(jnp.copy, "
                f"trainer.state) makes one, or call {verb} when training has ended"
            )

    def _update_model(self) -> None:
        """Write the weights of the state into the caller's network."""
        self._assigned = False
        if self.state is not None and self.state is not self._run.diverged_state:
            self._networks.update(self.state)
