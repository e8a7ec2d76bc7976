"""Closing: how a recording ends, and what it says of the training compared with the training itself.

In: the last snapshot so far, the live model and loss. Out: the end of the path, committed; the mark "final" where
another state was loaded after it; doubts about what could not be mended, written into the run and said once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import RunError, warn_of_recording
from landscape_hooks.recording.background import BackgroundWriter
from landscape_hooks.recording.ending import Facts, PathEnd
from landscape_hooks.recording.loss.live import MOST_SECONDS, SHARE, LiveLoss, compare_loss
from landscape_hooks.recording.opening import Opened
from landscape_hooks.recording.watch.count import StepCount
from landscape_hooks.recording.watch.fixed import FixedTensors
from landscape_hooks.recording.watch.glance import Glance
from landscape_hooks.recording.watch.iteration import Iterations
from landscape_hooks.store import checked
from landscape_hooks.trajectory.doubts import Doubt, add_doubt, set_closing
from landscape_hooks.trajectory.modules import holding_both

FINAL = "final"
"""The mark of the model as it was when the recording ended, where that is not the end of the path."""


class Closing:
    """The end of one recording.

    Attributes
    ----------
    doubts
        what was found and could not be mended.
    """

    def __init__(self, opened: Opened, background: BackgroundWriter, end: PathEnd, glance: Glance) -> None:
        self._opened, self._background, self._end, self._glance = opened, background, end, glance
        self.doubts: list[Doubt] = []

    def end_path(self, count: StepCount, facts: Facts, heard: Iterations | None) -> None:
        """Hand on the last snapshot, and see whether it is the last iterate.

        A state that was loaded after the last step is no part of the path: what was held before is its end, and the
        model as it is now is kept as a mark. Other changes end the path as they are: without a word if the loop made
        such changes between earlier steps, else in doubt.
        """
        step, iterations = count.step, count.iterations
        loaded, same = self._end.loaded, self._glance.same()
        if count.captured:
            self.doubts.append(_steps_captured())
        self._end.close(step, facts)
        self._background.flush()
        writer = self._opened.writer
        assert writer is not None
        if self._background.error is not None or not writer.steps:
            return
        now = self._end.content()
        if now is None:  # merged, fused, pruned: the tensors of the last step are what the snapshot holds
            return
        change = difference(writer.last_row(), now[0])
        if iterations == 0:
            # resumed with other weights than the run's, and nothing happened: the path stays as it was
            if not (self._opened.resumed and same is True):
                self._end_without_steps(step, facts, change, now, loaded, captured=count.captured)
        elif change != 0 and loaded:
            self._background.mark(FINAL, *now, facts.scalars(step))
        elif change != 0 or same is False or (self._glance.differed and self._glance.retyped()):
            if change != 0:
                self._end.replace(step, facts)
            if self._glance.retyped():
                self.doubts.append(_end_of_another_type(step))
            elif not self._glance.differed and not count.captured:
                self.doubts.append(_end_in_doubt(step, change))
        if iterations > 1 and heard is not None and not (loaded or heard.holds_parameters()) and self._never_moved():
            self.doubts.append(_steps_elsewhere(iterations))
        row, wider = writer.dtypes[0], self._end.wider()
        if wider and not self._glance.retyped() and row == writer.layout.row_dtype != holding_both(row, wider):
            self.doubts.append(_rounded(wider, row))

    def _end_without_steps(
        self, step: int, facts: Facts, change: float, now: tuple[NDArray[Any], NDArray[Any]], loaded: bool,
        *, captured: bool,
    ) -> None:  # fmt: skip
        if change != 0 and loaded:
            self._background.mark(FINAL, *now, facts.scalars(step))
        elif change != 0:
            self._end.replace(step + 1, facts)
            if not captured:
                self.doubts.append(_steps_unseen(change))

    def _never_moved(self) -> bool:
        """Whether the last snapshot is the first one."""
        writer = self._opened.writer
        return writer is not None and len(writer.steps) > 1 and difference(writer.first_row(), writer.last_row()) == 0

    def compare_tensors(self, recorded: float, unchecked: str) -> None:
        """Whether what is stored once is what the model has now; `recorded` is how long that took, in seconds."""
        seconds = 0 if unchecked else max(1.0, min(MOST_SECONDS, SHARE * recorded))
        for fixed in (self._opened.fixed, self._opened.fixed_buffers):
            if fixed is not None:
                self._compare_fixed(fixed, seconds)
        if self._opened.integers is not None:
            self._compare_integers(self._opened.integers, seconds)

    def compare(self, model: torch.nn.Module | None, live: LiveLoss | None, recorded: float, unchecked: str) -> None:
        """Compare the stored loss with the live one, unless `unchecked` says why not; write down what was found."""
        if live is not None and not unchecked and self._opened.root is not None:
            found = compare_loss(self._opened.root, model, live, recorded)
            self.doubts += found.doubts
            unchecked = found.unchecked
        root, rank = self._opened.root, self._opened.ranks.rank
        if root is not None:
            own = root if rank == 0 else checked.group(root, f"ranks/{rank}")
            for doubt in self.doubts:
                add_doubt(own, doubt)
        if rank == 0 and root is not None:
            set_closing(root, "unchecked" if unchecked else "checked", unchecked)

    def _compare_fixed(self, fixed: FixedTensors, seconds: float) -> None:
        """Whether what is stored once is what it was; with 0 seconds only what is known already is said."""
        names = fixed.unnoticed(seconds) if seconds else []
        if fixed.outside or (names and not fixed.joins):
            self.doubts.append(_outside_in_doubt([*fixed.outside, *names]))
        elif names:
            self.doubts.append(_fixed_in_doubt(names))

    def _compare_integers(self, integers: FixedTensors, seconds: float) -> None:
        """The same of tensors of integers, which are in no snapshot."""
        names = dict.fromkeys([*integers.outside, *(integers.unnoticed(seconds) if seconds else [])])
        if names:
            self.doubts.append(integers_in_doubt(list(names)))

    def stopped(self, why: str) -> None:
        """Write into the run that its recording stopped before the training ended, and `why` (empty: it did not)."""
        root = self._opened.root
        if why and root is not None:
            with contextlib.suppress(Exception):  # what was in the way may be in the way of this; it was warned of
                add_doubt(root, Doubt("stopped", why))
                set_closing(root, "unchecked", why)

    def report(self, on_error: str, dropped: int) -> None:
        """Say what was lost, and what is in doubt.

        Raises
        ------
        RunError
            snapshots could not be written, and `on_error` is "raise".
        """
        error, writer = self._background.error, self._opened.writer
        root = self._opened.root
        if root is not None and writer is not None and writer.commit.rows and self._opened.ranks.rank == 0:
            self._opened.voice.end(root, writer.commit.rows)
        if dropped:
            warn_of_recording(f"{dropped} snapshots were dropped because they came faster than the store takes them")
        for doubt in self.doubts:
            warn_of_recording(doubt.said)
        if error is None or writer is None:
            return
        found = (
            f"The recording is incomplete: {self._background.lost} snapshots could not be written "
            f"({type(error).__name__}: {error}); {writer.commit.rows} are committed"
        )
        if on_error == "raise":
            raise RunError(found) from error
        warn_of_recording(found)


def ranks_disagree(opened: Opened, on_error: str) -> bool:
    """Whether the ranks of a sharded training took different snapshots, which is said.

    Raises
    ------
    RunError
        they did, and `on_error` is "raise".
    """
    try:
        steps = opened.disagreements()
    except Exception:  # what makes the run unreadable is reported where it is written
        return False
    if not steps:
        return False
    more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
    trouble = RunError(
        f"The ranks of this training take different snapshots: some have no step {steps[0]}{more}. "
        "Only what all of them have counts",
        expected="the same schedule on every rank",
        mend="Let schedule= depend on the step alone, and call record() on all ranks with the same arguments",
    )
    if on_error == "raise":
        raise trouble
    warn_of_recording(str(trouble))
    return True


def _end_in_doubt(step: int, change: float) -> Doubt:
    """The weights changed after the last step, by no step that was seen."""
    return Doubt(
        "last_snapshot",
        f"The weights changed after the last optimizer step ({step}), but not between earlier steps. The last snapshot "
        "is the model as it was when the recording ended, and perhaps not the last iterate.",
        {"step": step, **({} if math.isnan(change) else {"change": change})},
    )


def _end_of_another_type(step: int) -> Doubt:
    """The weights were rounded after the last step."""
    return Doubt(
        "last_snapshot",
        f"The weights changed after the last optimizer step ({step}): they were given another type. The last snapshot "
        "is the model as it was when the recording ended, rounded to that type, and perhaps not the last iterate.",
        {"step": step},
    )


def _rounded(wider: str, row: str) -> Doubt:
    """The model was given a wider type while it was trained."""
    return Doubt(
        "rounding",
        f"The model was given the type {wider} while it was trained. The run began with {row}, to which all snapshots "
        "are rounded. Give the model its type before record().",
    )


def _steps_unseen(change: float) -> Doubt:
    """The weights moved, and no step was seen."""
    return Doubt(
        "steps",
        "No optimizer step was seen, but the weights have moved. The last snapshot is the model as it was when the "
        "recording ended; its step is not known. Pass optimizer=None and call recorder.step() after every step.",
        {"change": change},
    )


def _steps_captured() -> Doubt:
    """A step was captured, and nothing tells how often it was replayed."""
    return Doubt(
        "steps",
        "An optimizer step was captured into a CUDA graph. Replaying a graph calls no hook, so the steps that it took "
        "were not counted, and their snapshots are missing. Pass optimizer=None and call recorder.step() after every "
        "replay.",
    )


def _steps_elsewhere(steps: int) -> Doubt:
    """Steps were seen, and they moved another model."""
    return Doubt(
        "steps",
        f"{steps} optimizer steps were seen, but none of the weights has moved. The optimizer holds none of them; it "
        "may train another model, or a copy of this one.",
        {"steps": steps},
    )


def _fixed_in_doubt(names: Sequence[str]) -> Doubt:
    """Tensors that are stored once have changed, and nothing told so while training."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return Doubt(
        "fixed",
        f"The tensor '{names[0]}'{more} was changed by hand while training, in so few numbers that it was not noticed: "
        "all snapshots have the value that it had when the recording began.",
        {"tensors": len(names)},
    )


def _outside_in_doubt(names: Sequence[str]) -> Doubt:
    """Tensors outside of what was asked for have moved."""
    return Doubt(
        "fixed",
        f"The parameter {_listed(names)} is outside of the recorded ones (Parameters(...)) and moved while training. "
        "The losses of this run are computed with the value that it had when the recording began, so they are not the "
        "training's.",
        {"tensors": len(names)},
    )


def integers_in_doubt(names: Sequence[str]) -> Doubt:
    """Tensors of integers, which are stored once, have changed."""
    return Doubt(
        "fixed",
        f"The tensor {_listed(names)} of integers changed while training: the losses of this run are computed with "
        "what it was when the recording began.",
        {"tensors": len(names)},
    )


def _listed(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest absolute difference of two rows; 0 if they are equal, NaN if they differ by no finite number."""
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else math.nan
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    with np.errstate(all="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(np.nanmax(apart, initial=0.0)) or math.nan
