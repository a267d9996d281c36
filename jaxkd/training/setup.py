"""What a compiled run is made of besides its arrays, and how its epochs over some data are begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxkd.data import StreamedDataset
from jaxkd.training.cached_teacher import CacheRequest, KeptTeacher, keep_teacher
from jaxkd.training.epochs import Epoch, resident_epoch, stream_epoch, streamed_epoch
from jaxkd.training.gradient_accumulation import check_parts
from jaxkd.training.inputs import Source, Stream
from jaxkd.training.program import Program
from jaxkd.training.sharding import Placement
from jaxkd.training.state import TrainState
from jaxkd.training.step import Step
from jaxkd.types import Normalization


@dataclass(frozen=True)
class Setup:
    """The static side of a run over given data; equal for runs that can share one compiled program.

    Attributes:
      program: what the step closes over.
      normalization: of the images of the network that is trained.
      teacher_normalization: of the teacher's.
      placement: where the arrays live.
      steps_per_execution: how many steps one compiled call takes; None chooses.
    """

    program: Program
    normalization: Normalization | None
    teacher_normalization: Normalization | None
    placement: Placement
    steps_per_execution: int | None

    def begin(
        self,
        step: Step,
        state: TrainState,
        source: Source,
        batch_size: int,
        last: int,
        cache: CacheRequest,
        verbose: bool,
        resident: Callable[..., Epoch] = resident_epoch,
    ) -> tuple[Epoch, KeptTeacher | None]:
        """Puts the data in place.

        Args:
          step: of the run, or of several runs at once.
          state: of one run; the teacher and the shapes of the losses' inputs are taken from it.
          source: the data.
          batch_size: over all devices.
          last: the epoch before which training ends, counted from 0.
          cache: what was asked for about keeping the teacher's outputs.
          verbose: whether to say what the cache takes.
          resident: how to go over data that stay on the device.

        Returns:
          What gives the chunks of each epoch, and the teacher whose outputs are kept, if they are.

        Raises:
          ValueError: for a batch that does not divide over the devices or into parts, or a teacher's outputs that
            cannot be kept.
        """
        parts, apart = self.program.parts, self.program.apart
        if not isinstance(source, Stream):  # which brings batches of its own
            self.placement.check_batch_size(batch_size)
            check_parts(batch_size, parts, 1 if apart is None else apart.size)
        kept = keep_teacher(
            cache,
            verbose,
            program=self.program,
            state=state,
            normalization=self.teacher_normalization,
            source=source,
            placement=self.placement,
            batch_size=self.placement.padded(-(-batch_size // parts)),
        )
        strong_view = self.program.strong_view
        if isinstance(source, Stream):
            return stream_epoch(step, source, self.placement, strong_view), None
        if isinstance(source, StreamedDataset):
            return streamed_epoch(step, source, self.placement, batch_size, last, strong_view), None
        return resident(step, source, self.placement, batch_size, self.steps_per_execution, strong_view, kept), kept
