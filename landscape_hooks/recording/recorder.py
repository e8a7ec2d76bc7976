"""Recorder: what `record` attaches to a training loop.

In: a run that is open for writing, a model and its optimizers. Out: a trajectory that grows while training goes on,
with the first snapshot (before any step) and the last one always in it. The schedule says when, `watch` hears steps
and loaded states, the background writer does the rest; training is the same, bit for bit, with and without.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
import zarr

from landscape_hooks.device.copies import capturing
from landscape_hooks.errors import LandscapeError, RunError
from landscape_hooks.recording import at_exit
from landscape_hooks.recording.background import BackgroundWriter
from landscape_hooks.recording.closing import Closing, ranks_disagree
from landscape_hooks.recording.ending import Facts, PathEnd
from landscape_hooks.recording.loss.asked import Loss
from landscape_hooks.recording.loss.stored import StoredLoss
from landscape_hooks.recording.opening import Opened
from landscape_hooks.recording.schedule import NEVER, Schedule
from landscape_hooks.recording.storage import Storage
from landscape_hooks.recording.watch import steps
from landscape_hooks.recording.watch.buffers import Buffers
from landscape_hooks.recording.watch.count import StepCount
from landscape_hooks.recording.watch.fixed import Moving
from landscape_hooks.recording.watch.glance import Glance
from landscape_hooks.recording.watch.guard import Guard
from landscape_hooks.recording.watch.iteration import Iterations
from landscape_hooks.recording.watch.loading import Loading
from landscape_hooks.recording.watch.masters import Masters
from landscape_hooks.recording.watch.rates import Rates, number
from landscape_hooks.store.run import RunLike
from landscape_hooks.trajectory.marks import check_name
from landscape_hooks.trajectory.modules import unwrap

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike

_PENDING = -1


class Recorder:
    """A recording in progress. Made by `record`; everything here is optional in a training loop."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Any],
        schedule: Schedule,
        opened: Opened,
        *,
        counter: Callable[[], int] | None,
        storage: Storage,
        address: RunLike,
        keep_model: bool,
    ) -> None:
        self.root: zarr.Group | None = opened.root
        self.store: RunLike = address
        self._model: Callable[[], torch.nn.Module | None] = (
            (lambda: model) if keep_model else weakref.ref(unwrap(model))
        )
        self._schedule, self._opened, self._storage = schedule, opened, storage
        self._count, self._rates, self._hooked = StepCount(counter), Rates(optimizers), bool(optimizers)
        self._process, self._began = os.getpid(), time.time()
        self._loss: Any = float("nan")
        self._epoch: Any = float("nan")
        self._moment: tuple[float, Any, Any, list[Any]] = self._began, self._loss, self._epoch, []
        self._next, self._moved = NEVER, False
        self.dropped = 0
        self._guard = Guard(opened.writer is not None, storage.on_error, lambda: self._count.step)
        self._closed, self._closer, self._done = False, 0, threading.Event()
        self._turn, self._disagreed = threading.Lock(), False
        self.stored_loss = StoredLoss(opened, model, self._model)
        self._listener: Iterations | None = None
        self._loading: Loading | None = None
        if optimizers:
            self._listener = Iterations(
                lambda: [] if (known := self._model()) is None else known.parameters(), optimizers,
                each=counter is not None,
                begins=self._begins, stepped=self._stepped, joined=self._rates.add,
            )  # fmt: skip
            steps.listen(self._listener)
        if opened.writer is not None:  # otherwise another rank writes for this one
            self._writer, inner = opened.writer, unwrap(model)
            on_gpu = any(tensor.is_cuda for tensor in opened.layout.tensors(inner))
            self._background = BackgroundWriter(opened.writer, on_gpu=on_gpu)
            joins, masters = self._background.extend, Masters.wanted(storage, optimizers)
            weights = Moving(inner, opened.layout, opened.fixed, joins, masters, opened.integers)
            buffers = Buffers(opened.buffer_layout, inner, opened.root, opened.fixed_buffers, joins)
            self._end = PathEnd(self._background, weights, buffers)
            self._glance = Glance(opened.first_layout.locator(inner))
            self._loading = Loading(model, before=self.hold, after=self._loaded)
            at_exit.hold(self)
            if not keep_model:
                at_exit.close_after(self, [unwrap(model), *optimizers])

    @property
    def current_step(self) -> int:
        """Optimizer steps taken so far."""
        return self._count.step

    # -- what a training loop may call ------------------------------------------------------------------
    def step(self) -> None:
        """Say that one optimizer step was taken (only with `optimizer=None`); the weights are read at once."""
        if self._hooked:
            raise LandscapeError(
                "Found recorder.step() in a loop whose optimizer is hooked: every step would count twice",
                mend="Leave the call out, or pass optimizer=None to record()",
            )
        if self._guard.active:
            self._guard.run(self._end.next, False)
        self._stepped(None, True)
        if self._guard.active:
            self._guard.run(self._settle)

    def log(
        self, *, loss: float | torch.Tensor | None = None, epoch: float | None = None,
        learning_rate: float | Sequence[float] | None = None, step: int | None = None,
    ) -> None:  # fmt: skip
        """Add the training loss (a number or a 0-d tensor) and the epoch to the next snapshot.

        `learning_rate` (of each parameter group) is for `optimizer=None`. With `step` the loss and epoch are those
        of a step already taken, for trainers that say them afterwards: they complete the snapshot of that step, if it
        is the last one taken. Otherwise they are discarded.
        """
        if step is not None:
            if self._guard.active and step == self._end.taken:
                said = {"loss": loss, "epoch": epoch}
                self._end.amend(**{name: number(value) for name, value in said.items() if value is not None})
            return
        if learning_rate is not None:
            rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate]
            self._rates.said = [float(rate) for rate in rates]
        if loss is not None:
            self._loss = loss.detach() if isinstance(loss, torch.Tensor) else loss
        if epoch is not None:
            self._epoch = epoch

    def mark(self, name: str) -> None:
        """Keep the model as it is now as a named point of the picture, in place of an earlier one of that name.

        Marks lie beside the path: they are projected, evaluated and shown, and take no part in finding the plane.

        Raises
        ------
        LandscapeError
            the name is no path component of letters, digits and . _ -.
        """
        check_name(name)
        if self._guard.active:
            self._guard.run(self._mark, name)

    def objective(
        self,
        criterion: Callable[..., Any] | None = None,
        objective: Callable[..., Any] | None = None,
        *,
        data: DataLike | Callable[[], DataLike] | Literal["train"],
        samples: int = 1024,
    ) -> None:
        """Store the loss and its samples, in place of those that the run may have, at any time before `close()`.

        For training whose data is there only later (reinforcement learning, generated data). The loss is stored as a
        function of the weights, whatever these are now. Parameters as for `record`. Whatever is in the way of storing
        it is a warning, and the training goes on.

        Raises
        ------
        LandscapeError
            an argument is not what it should be, or the recording is closed.
        """
        self.stored_loss.ask(Loss(criterion, objective, data, samples))

    def hold(self) -> None:
        """Keep a copy of the weights: the last snapshot, should no further step come before `close()`.

        For trainers that change the weights when training is over (averages copied back, the best ones restored).
        `load_state_dict` on the model does it by itself.
        """
        if self._guard.active and not self._closed and self._next != _PENDING:
            self._count.settle()
            self._guard.run(self._end.hold, self._count.step, self._facts)

    def flush(self) -> None:
        """Wait until every snapshot taken so far is committed, the last one with the weights as they are now."""
        if self._guard.active:
            self._guard.run(self._settle)
            self._background.flush()
            self._report_error()
            self._compare_ranks()

    def close(self) -> None:
        """Take the last snapshot, commit everything, compare it with the training, and take the hooks off.

        Safe to call twice: when it returns, everything is committed.

        Raises
        ------
        RunError
            with `Storage(on_error="raise")`, if snapshots were lost.
        """
        self.finish()

    def finish(self, unchecked: str = "") -> None:
        """As `close`. With `unchecked`, the reason why not, none of the training's code is run for comparing."""
        if os.getpid() != self._process:
            return
        with self._turn:
            first, self._closed = not self._closed, True
            self._closer = threading.get_ident() if first else self._closer
        if not first:
            if self._closer != threading.get_ident():
                self._done.wait()
            return
        try:
            self._finish(unchecked)
        finally:
            self._done.set()

    def abandon(self) -> None:
        """End a recording that could not begin."""
        self._guard.active = False
        self.stored_loss.forget()
        self.finish()

    def _finish(self, unchecked: str) -> None:
        at_exit.let_go(self)
        self.stored_loss.stop()
        if self._listener is not None:
            steps.silence(self._listener)
        if self._loading is not None:
            self._loading.remove()
        if self._opened.writer is None:
            return
        closing = Closing(self._opened, self._background, self._end, self._glance)
        try:
            self._count.settle()
            if self._guard.active and self._next != _PENDING:
                self._guard.run(closing.end_path, self._count, self._facts, self._listener)
            self._background.stop()
            if self._background.error is None:
                self._guard.run(self._writer.close)
            model, recorded = self._model(), time.time() - self._began
            whole = self._guard.active and self._background.error is None
            if whole:
                self._guard.run(closing.compare_tensors, recorded, unchecked)
            live = self.stored_loss.finish(unchecked)
            if whole:
                self._guard.run(closing.compare, model, live, recorded, unchecked)
            closing.stopped(self._guard.why)
        finally:
            self.stored_loss.forget()
            self._opened.lock.release()
        self._guard.active = False
        closing.report(self._storage.on_error, self.dropped)
        self._compare_ranks()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish("" if error is None else f"The training ended with an exception ({type(error).__name__})")
        except LandscapeError as trouble:
            if error is None:
                raise
            error.add_note(f"The recorder could not finish either: {trouble}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to resume without duplicates or gaps; commits everything up to this step."""
        self.flush()
        self._count.settle()
        edited = self._guard.active and self._glance.differed
        return {"step": self._count.step, "loss": number(self._loss), "epoch": number(self._epoch), "edited": edited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: snapshots after its step are dropped, training takes them again."""
        if self._moved:
            raise RunError(
                "Found optimizer steps before the recorder's state was loaded",
                mend="Call load_state_dict right after record(), where the checkpoint is loaded",
            )
        self._loss, self._epoch = state["loss"], state["epoch"]
        if not self._guard.active:
            self._count.step = int(state["step"])
            return
        self._end.forget()
        self._glance.know(bool(state.get("edited")))
        self._background.flush()
        if not self._opened.resumed:
            self._writer.truncate(-1)
        self._restart(int(state["step"]))

    def begin(self, step: int | None) -> None:
        """Take the first snapshot, or go on with those of the run; `step` as for `record`."""
        if not self._guard.active:
            self._count.step = step or 0
            return
        if step is None and self._opened.resumed and self._writer.steps:
            step = self._writer.steps[-1] if self._holds_last_snapshot() else None
            if step is None:
                self._next = _PENDING
                return
        self._restart(step or 0)

    def _restart(self, step: int) -> None:
        """Drop what lies after `step` and go on from there; the weights are those of `step` now."""
        self._writer.truncate(step)
        self._count.step = step
        self._moment = time.time(), self._loss, self._epoch, self._rates.now()
        last = self._end.taken = self._writer.steps[-1] if self._writer.steps else -1
        self._schedule.restore(self._writer.steps, self._writer.commit.stride)
        self._next = step
        if last < 0:
            self._schedule.admit(step)
            self._guard.run(self._snapshot, step)
        elif last < step and self._schedule.next(step - 1) == step:
            self._guard.run(self._take, step)
        self._guard.run(self._end.hold_first)
        self._guard.run(self._glance.take)
        self._next = self._schedule.next(step)

    def _holds_last_snapshot(self) -> bool:
        now = self._end.content()
        row = self._writer.last_row()
        same = now is not None and now[0].tobytes() == row.astype(now[0].dtype, copy=False).tobytes()
        return all(self._opened.ranks.all(same))

    # -- at every step -------------------------------------------------------------------------------------
    def _begins(self, optimizer: object) -> None:
        """The first step of an iteration begins: what the weights are now belongs to the step before."""
        if not self._guard.active or capturing():
            return
        end = self._end
        try:
            if end.loaded or not self._count.iterations:
                self._glance.forget()
            else:
                self._glance.compare()
            if (end.pending is not None or end.loaded) and not self._count.skips(optimizer):
                end.next()
        except Exception as error:  # as `Guard.run`, without the time that another call takes
            self._guard.stop(error)

    def _stepped(self, optimizer: object, first: bool) -> bool:
        """A step has ended, the first of its iteration or a further one; False if it was none."""
        count = self._count
        if count.was_none(optimizer):
            return False
        if first:
            count.begin()
        now = time.time()
        self._moment = now, self._loss, self._epoch, self._rates.now()
        if self._guard.active:
            if self._background.airborne:
                self._guard.run(self._background.land)
            due = first and count.step >= self._next
            if due:
                self._report_error()
                self._guard.run(self._due)
            elif not first:
                self._guard.run(self._further)
            glance = self._glance
            try:
                if due or now >= glance.next:  # to see whether anything but steps changes the weights
                    glance.after_step(now)
                else:  # what was looked at was an earlier step's
                    glance.pass_by()
            except Exception as error:
                self._guard.stop(error)
            if self.stored_loss.watching:
                self.stored_loss.stepped()
        return True

    @property
    def _facts(self) -> Facts:
        """What was known when the last step ended."""
        return Facts(*self._moment)

    def _further(self) -> None:
        """A further step of an iteration: the snapshot is of its end. Inside of `backward` no buffer changes."""
        if self._end.waits and torch._C._current_graph_task_id() == -1:
            self._end.again(self._facts)
            self._loss = float("nan")

    def _settle(self) -> None:
        if self._next != _PENDING:
            self._end.settle()

    def _loaded(self) -> None:
        if self._guard.active:
            self._guard.run(self._end.reloaded, not self._hooked and not self._count.iterations)

    def _due(self) -> None:
        self._moved = True
        if not self._guard.active:
            return
        if self._next == _PENDING:
            raise RunError(
                "The run is being resumed, but the model does not hold the weights of its last snapshot, "
                "so the step to go on from is not known",
                mend="Pass step= to record(), or the checkpoint's recorder.state_dict() to load_state_dict()",
            )
        self._count.settle()
        if self._count.step < self._next:
            return
        self._take(self._count.step)
        self._next = self._schedule.next(self._count.step)

    def _take(self, step: int) -> None:
        """A snapshot at a due step, unless the schedule has thinned it out."""
        stride, wanted = self._schedule.stride, self._schedule.admit(step)
        if self._schedule.stride != stride:
            self._background.retain(self._schedule.kept(), self._schedule.stride)
        if wanted:
            self._snapshot(step)

    def _snapshot(self, step: int) -> None:
        if self._end.begin(step, self._facts, wait=self._storage.queue == "block"):
            self._loss = float("nan")
        else:
            self.dropped += 1

    def _mark(self, name: str) -> None:
        now = self._end.content()
        if now is None:
            raise RunError(f"The model has lost parameters that are recorded, so the mark '{name}' cannot be kept")
        self._background.mark(name, *now, self._facts.scalars(self._count.step) | {"wall_time": time.time()})

    def _compare_ranks(self) -> None:
        """Say once that the ranks of a sharded training do not take the same snapshots."""
        if not self._disagreed:
            self._disagreed = ranks_disagree(self._opened, self._storage.on_error)

    def _report_error(self) -> None:
        if self._guard.active and self._background.error is not None:
            self._guard.stop(self._background.error)
