"""record(): the one line in a training script. Recorder: what it attaches.

In: a model, its optimizer, where to write. Out: a run whose trajectory grows while training goes on, with
the first snapshot (before any step) and the last one always in it. The schedule says when, the hook counts
real optimizer steps, the background writer does the rest; training is the same, bit for bit, with and without.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from landscape_hooks.errors import LandscapeError, RecordingWarning, RunError
from landscape_hooks.recording import at_exit
from landscape_hooks.recording.background import BackgroundWriter
from landscape_hooks.recording.hook import StepHook
from landscape_hooks.recording.opening import Opened
from landscape_hooks.recording.schedule import NEVER, Schedule, Thinning

log = logging.getLogger(__name__)


class Recorder:
    """A recording in progress. Made by `record`; everything here is optional in a training loop."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedule: Schedule,
        opened: Opened,
        *,
        counter: Callable[[], int] | None,
        on_error: str,
        wait: bool,
    ) -> None:
        self._model = model
        self._optimizers = [weakref.ref(o) for o in optimizers]
        self._rates: list[float] = []
        self.root: Any = opened.root
        self.store: Any = None
        self._counter = counter
        self._held: tuple[int, list[list[torch.Tensor]]] | None = None
        self._schedule = schedule
        self._opened = opened
        self._layouts = (opened.layout, opened.buffer_layout)
        self._on_error = on_error
        self._wait = wait
        self._process = os.getpid()
        self._loss: Any = float("nan")
        self._epoch: Any = float("nan")
        self._step = 0
        self._last = -1
        self._next = NEVER
        self._skips: torch.Tensor | None = None
        self._moved = False
        self._active = opened.writer is not None  # otherwise another rank writes for this one
        self._closed = False
        self._disagreed = False
        self.dropped = 0
        counted = optimizers if counter is not None else optimizers[-1:]
        self._hooks = [StepHook(o, self._after_step) for o in counted]
        if optimizers:
            weakref.finalize(optimizers[-1], self._optimizer_gone).atexit = False
        if opened.writer is not None:
            self._writer = opened.writer
            self._locators = [layout.locator(model) for layout in self._layouts]
            pinned = any(tensor.is_cuda for tensor in self._locators[0]())
            self._background = BackgroundWriter(opened.writer, *self._layouts, pinned=pinned)
            at_exit.hold(self)

    @property
    def current_step(self) -> int:
        """Optimizer steps taken so far."""
        return self._step

    # -- what a training loop may call ------------------------------------------------------------------
    def step(self) -> None:
        """Say that one optimizer step was taken (only with `optimizer=None`)."""
        if self._hooks:
            raise LandscapeError(
                "Found recorder.step() in a loop whose optimizer is hooked: every step would count twice",
                mend="Leave the call out, or pass optimizer=None to record()",
            )
        self._after_step(None)

    def log(
        self,
        *,
        loss: Any = None,
        epoch: float | None = None,
        learning_rate: float | Sequence[float] | None = None,
        step: int | None = None,
    ) -> None:
        """Add the training loss (a number or a 0-d tensor) and the epoch to the next snapshot.

        `learning_rate` (of each parameter group) is for `optimizer=None`. With `step` the loss and epoch are those
        of a step already taken, for trainers that say them afterwards: they complete the snapshot of that step, if it
        is the last one taken, and are nobody's otherwise.
        """
        if step is not None:
            if step == self._last and self._active:
                self._background.amend(step, None if loss is None else _number(loss), epoch)
            return
        if learning_rate is not None:
            rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate]
            self._rates = [float(rate) for rate in rates]
        if loss is not None:
            self._loss = loss.detach() if isinstance(loss, torch.Tensor) else loss
        if epoch is not None:
            self._epoch = epoch

    def capture(self, *, criterion: Any = None, objective: Any = None, data: Any, samples: int = 1024) -> None:
        """Store the loss and its probe samples now, in place of those the run may have.

        For trainers that show their validation data only once the training is under way. Parameters as for `record`.

        Raises
        ------
        ObjectiveError
            the model cannot be exported, or the data does not fit it.
        """
        from landscape_hooks.objective.capture import capture

        capture(self.root, self._model, criterion=criterion, objective=objective, data=data, samples=samples)

    def hold(self) -> None:
        """Keep a copy of the weights: the last snapshot, should no further step come before `close()`.

        For trainers that change the weights when training is over (averages copied back, the best ones restored).
        """
        self._settle_overflows()
        if self._active and self._last != self._step and self._next != _PENDING:
            kept = [[t.detach().clone() for t in tensors()] for tensors in self._locators]
            self._held = (self._step, kept)

    def flush(self) -> None:
        """Wait until every snapshot taken so far is committed."""
        if self._active and os.getpid() == self._process:
            self._background.flush()
            self._report_error()
            self._compare_ranks()

    def close(self) -> None:
        """Take the last snapshot, commit everything, and take the hook off. Safe to call twice.

        Raises
        ------
        RunError
            with `on_error="raise"`, if snapshots were lost.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        at_exit.let_go(self)
        for hook in self._hooks:
            hook.remove()
        if self._opened.writer is None:
            return
        try:
            self._settle_overflows()
            if self._active and self._last != self._step and self._next != _PENDING:
                self._guarded(self._snapshot, self._step, tail=True)
            self._background.stop()
            if self._background.error is None:
                self._guarded(self._writer.close)
        finally:
            self._opened.lock.release()
        self._active = False
        self._report_at_close()
        self._compare_ranks()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LandscapeError as trouble:
            if error is None:
                raise
            error.add_note(f"The recorder could not finish either: {trouble}")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to resume without duplicates or gaps; commits everything up to this step."""
        self.flush()
        self._settle_overflows()
        return {"step": self._step, "loss": _number(self._loss), "epoch": _number(self._epoch)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: snapshots after its step are dropped, training takes them again."""
        if self._moved:
            raise RunError(
                "Found optimizer steps before the recorder's state was loaded",
                mend="Call load_state_dict right after record(), where the checkpoint is loaded",
            )
        self._loss, self._epoch = state["loss"], state["epoch"]
        if not self._active:
            self._step = int(state["step"])
            return
        self._background.flush()
        if not self._opened.resumed:
            self._writer.truncate(-1)
        self._restart(int(state["step"]))

    # -- how it begins ---------------------------------------------------------------------------------
    def _begin(self, step: int | None) -> None:
        if not self._active:
            self._step = step or 0
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
        self._step = step
        self._last = self._writer.steps[-1] if self._writer.steps else -1
        if isinstance(self._schedule, Thinning):
            self._schedule.restore(self._writer.steps, max(1, self._writer.commit.stride))
        if self._last < 0:
            self._schedule.admit(step)
            self._guarded(self._snapshot, step)
        elif self._last < step and self._schedule.next(step - 1) == step:
            self._guarded(self._take, step)
        self._next = self._schedule.next(step)

    def _holds_last_snapshot(self) -> bool:
        row = torch.from_numpy(self._writer.last_row())
        stored: torch.dtype = getattr(torch, self._writer.dtypes[0])
        same = torch.equal(self._layouts[0].flatten(self._model).cpu().to(stored).to(row.dtype), row)
        return all(self._opened.ranks.all(same))

    # -- at every step -------------------------------------------------------------------------------------
    def _after_step(self, optimizer: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and self._overflowed(found_inf):
            return
        self._step = self._step + 1 if self._counter is None else self._counter()
        if self._step >= self._next:
            self._report_error()
            self._guarded(self._due)

    def _overflowed(self, found_inf: torch.Tensor) -> bool:
        """A fused optimizer steps over infinite gradients without changing anything: that is no step.

        Reading the flag from a GPU would stop it, so there overflows are summed up and read when a snapshot is due.
        """
        if found_inf.device.type == "cpu":
            return bool(found_inf.item())
        skipped = (found_inf != 0).sum()
        self._skips = skipped if self._skips is None else self._skips + skipped
        return False

    def _settle_overflows(self) -> None:
        if self._skips is not None:
            skipped, self._skips = int(self._skips.item()), None
            self._step -= skipped if self._counter is None else 0

    def _due(self) -> None:
        self._moved = True
        if os.getpid() != self._process or not self._active:
            return
        if self._next == _PENDING:
            raise RunError(
                "The run is being resumed, but the model does not hold the weights of its last snapshot, "
                "so the step to go on from is not known",
                mend="Pass step= to record(), or the checkpoint's recorder.state_dict() to load_state_dict()",
            )
        self._settle_overflows()
        if self._step < self._next:
            return
        self._take(self._step)
        self._next = self._schedule.next(self._step)

    def _take(self, step: int) -> None:
        """A snapshot at a due step, unless the schedule has thinned it out."""
        stride = getattr(self._schedule, "stride", 0)
        wanted = self._schedule.admit(step)
        if isinstance(self._schedule, Thinning) and self._schedule.stride != stride:
            self._background.retain(list(self._schedule.steps), self._schedule.stride)
        if wanted:
            self._snapshot(step)

    def _snapshot(self, step: int, tail: bool = False) -> None:
        if not self._active:
            return
        if tail and self._held is not None and self._held[0] == step:
            weights, buffers = self._held[1]
        else:
            weights, buffers = (tensors() for tensors in self._locators)
        taken = self._background.stage(
            weights,
            buffers,
            wait=self._wait or tail,
            step=step,
            loss=_number(self._loss),
            epoch=_number(self._epoch),
            learning_rate=self._learning_rates(),
            wall_time=time.time(),
            tail=tail,
        )
        if taken:
            self._last = step
            self._loss = float("nan")
        else:
            self.dropped += 1

    def _learning_rates(self) -> list[float]:
        optimizers = [ref() for ref in self._optimizers]
        if optimizers and all(o is not None for o in optimizers):
            self._rates = [float(group.get("lr", "nan")) for o in optimizers if o for group in o.param_groups]
        return self._rates

    # -- trouble ---------------------------------------------------------------------------------------
    def _guarded(self, action: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Training survives the recorder, unless it was asked not to."""
        try:
            action(*args, **kwargs)
        except Exception as error:
            self._stop_because(error)

    def _report_error(self) -> None:
        error = self._background.error
        if error is not None and self._active:
            self._stop_because(error)

    def _stop_because(self, error: BaseException) -> None:
        if not self._active:
            return
        self._active = False
        self._next = NEVER
        trouble = f"Recording stopped at step {self._step}, training goes on: {type(error).__name__}: {error}"
        if self._on_error == "raise":
            raise RunError(trouble, mend="What was committed before is intact") from error
        warnings.warn(RecordingWarning(f"{trouble} What was committed before is intact."), stacklevel=2)

    def _report_at_close(self) -> None:
        error, lost = self._background.error, self._background.lost
        if self.dropped:
            text = f"{self.dropped} snapshots were dropped because they came faster than the store takes them"
            warnings.warn(RecordingWarning(text), stacklevel=3)
        if error is None:
            return
        found = (
            f"The recording is incomplete: {lost} snapshots could not be written ({type(error).__name__}: {error}); "
            f"{self._writer.commit.rows} are committed"
        )
        if self._on_error == "raise":
            raise RunError(found) from error
        warnings.warn(RecordingWarning(found), stacklevel=3)

    def _compare_ranks(self) -> None:
        """Say once that the ranks of a sharded training do not take the same snapshots."""
        if self._disagreed:
            return
        try:
            steps = self._opened.disagreements()
        except Exception:  # what makes the run unreadable is reported where it is written
            return
        if not steps:
            return
        self._disagreed = True
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        found = f"The ranks of this training take different snapshots: some have no step {steps[0]}{more}"
        trouble = RunError(
            f"{found}. Only what all of them have counts",
            expected="the same schedule on every rank",
            mend="Let schedule= depend on the step alone, and call record() on all ranks with the same arguments",
        )
        if self._on_error == "raise":
            raise trouble
        warnings.warn(RecordingWarning(str(trouble)), stacklevel=3)

    def _optimizer_gone(self) -> None:
        """The optimizer was collected: nothing will step any more."""
        if not self._closed and os.getpid() == self._process:
            at_exit.close_soon(self)


_PENDING = -1


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)
