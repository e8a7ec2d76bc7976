"""StoredLoss: the loss of one recording: stored now, kept from the training's batches, or stored at the end.

In: a loss as `record` or `recorder.objective` was given it. Out: the loss in the run, and the live one to compare it
with. A loss that waits keeps its model alive until it is stored.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import zarr

from landscape_hooks.errors import RunError, warn_of_recording
from landscape_hooks.objective.data.states import states_kept
from landscape_hooks.recording.loss.asked import WAY_OUT, Loss
from landscape_hooks.recording.loss.live import LiveLoss
from landscape_hooks.recording.loss.seen import Seen
from landscape_hooks.recording.loss.taking import await_loss, or_warn, take, take_or_warn, warn_of_none
from landscape_hooks.recording.opening.order import Opened
from landscape_hooks.trajectory.modules import unwrap

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike


class StoredLoss:
    """The loss of one recording.

    Attributes
    ----------
    live
        the loss as the training has it, for the comparison at the end; None where none was stored by this recording.
    watching
        whether batches of the training are being kept.
    """

    def __init__(self, opened: Opened, model: torch.nn.Module, known: Callable[[], torch.nn.Module | None]) -> None:
        self._opened, self._known, self._process = opened, known, os.getpid()
        self._given = weakref.ref(model)
        self._seen: Seen | None = None
        self.live, self.watching = opened.live, False
        self._waits: Loss | None = None
        self._held: torch.nn.Module | None = None
        self._over = False
        if opened.awaited is not None:
            self._wait(opened.awaited, model)

    def ask(self, loss: Loss) -> None:
        """Store this loss, now or when its data is there, in place of the one before; what is in the way is a warning.

        Raises
        ------
        LandscapeError
            the arguments are not what they should be.
        RunError
            the recording is closed.
        """
        if self._over:
            raise RunError(
                "The recording is closed, so no loss can be stored in its run any more",
                mend="Give the loss to analyze(..., objective=Objective.of(model, criterion=..., data=...)), or record "
                'again with if_exists="resume"',
            )
        loss.check()
        model = self._model()
        if self._opened.root is None or model is None:
            return
        if self._opened.ranks.count > 1:
            if self._opened.ranks.rank == 0:
                warn_of_recording(f"The loss of a sharded model is not stored in the run. {WAY_OUT}")
            return
        self._let_go()
        if loss.when == "now":
            self.live = take_or_warn(self._opened.root, model, loss, self._opened.voice) or self.live
        else:
            self._wait(loss, model)

    def take(
        self,
        criterion: Callable[..., Any] | None = None,
        objective: Callable[..., Any] | None = None,
        *,
        data: DataLike,
        samples: int = 1024,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Store a loss now, for trainers that have several to try: what is in the way is raised.

        Raises
        ------
        ObjectiveError
            the model cannot be exported, or the data does not fit it.
        """
        model = self._model()
        if self._opened.root is not None and model is not None:
            loss = Loss(criterion, objective, data, samples)
            if loss.when != "now":
                self.ask(loss)
                return
            self.live = take(self._opened.root, model, loss, self._opened.voice, within=within)
            self._let_go()

    def _model(self) -> torch.nn.Module | None:
        """The model, where this process is the one that stores its loss."""
        return self._known() if os.getpid() == self._process else None

    # -- a loss that waits ------------------------------------------------------------------------------------
    def _wait(self, loss: Loss, model: torch.nn.Module) -> None:
        assert self._opened.root is not None
        self._waits, self._held = loss, self._known()
        await_loss(self._opened.root, loss.said)
        if loss.when == "training":
            assert isinstance(loss.criterion, torch.nn.Module)
            try:
                self._seen = Seen(_called(self._given(), model), loss.criterion, loss.samples)
            except Exception as error:  # a scripted model takes no hooks
                self._let_go()
                why = f"data='train' cannot hear the model ({type(error).__name__}: {error})."
                await_loss(self._opened.root, why)
                warn_of_none(self._opened.root, why)
            else:
                self.watching = True

    def _let_go(self) -> None:
        self.stop()
        self._waits = self._held = self._seen = None

    def stop(self) -> None:
        """Hear no batches any more."""
        self.watching = False
        if self._seen is not None:
            self._seen.remove()

    def stepped(self) -> None:
        """A step has ended: store the loss if there are enough batches."""
        seen, root, model, loss = self._seen, self._opened.root, self._known(), self._waits
        if seen is None or root is None or model is None or loss is None:
            return
        seen.iteration_ended()
        if seen.enough:
            self.stop()
            self.live = self._from_training(root, model, loss, seen) or self.live
            self._let_go()

    def _from_training(self, root: zarr.Group, model: torch.nn.Module, loss: Loss, seen: Seen) -> LiveLoss | None:
        """Store the loss of the batches that were kept, or say why there are none."""
        if not seen.kept:
            why = seen.unfit or (
                "no backward pass went through a value that the criterion gave for an output of the model in training "
                "mode (of a model that is compiled, record the compiled one)"
            )
            why = f"The batches of the training could not be kept for data='train': {why}. Give data= as batches or a "
            why += "function, or call recorder.objective(...) before the end."
            await_loss(root, why)
            warn_of_none(root, why)
            return None
        asked, batches = seen.loss()
        return take_or_warn(root, model, Loss(**asked, data=batches, samples=loss.samples), self._opened.voice)

    @property
    def forgotten(self) -> bool:
        """Whether a loss waits for the end, and nobody but this knows its model any more, which so has come."""
        return self._waits is not None and self._held is not None and sys.getrefcount(self._held) <= 2

    def forget(self) -> None:
        """Nothing is waited for any more."""
        self._let_go()
        self._over = True

    def finish(self, unchecked: str) -> LiveLoss | None:
        """The recording ends: store what was waited for. With `unchecked`, the reason why not, nothing of it is run."""
        self._over = True
        loss, root, model = self._waits, self._opened.root, self._known()
        if loss is None or root is None:
            return self.live
        try:
            if unchecked:
                self._say_unstored(loss, unchecked)
            elif self._seen is not None and model is not None:
                self.live = self._from_training(root, model, loss, self._seen) or self.live
            elif model is not None:
                self.live = or_warn(root, lambda: self._at_end(loss, model)) or self.live
        except BaseException as error:
            await_loss(root, f"Storing it was interrupted ({type(error).__name__}).")
            raise
        finally:
            self._let_go()
        return self.live

    def _at_end(self, loss: Loss, model: torch.nn.Module) -> LiveLoss:
        root, function = self._opened.root, loss.data
        assert root is not None
        assert callable(function)
        self._opened.voice.say("The recording ends: data() is called for the samples of the loss.")
        with states_kept():
            found = replace(loss, data=function())
            if found.when != "now":
                raise RunError(
                    f"The function given as data= returned a {type(found.data).__name__}", expected="the data itself"
                )
            return take(root, model, found, self._opened.voice, one_shot=True)

    def _say_unstored(self, loss: Loss, why: str) -> None:
        root = self._opened.root
        assert root is not None
        what = "the function given as data= was not called" if loss.when == "end" else "its loss was not stored"
        why = f"{why}, so {what}."
        await_loss(root, why)
        warn_of_none(root, why)


def _called(given: torch.nn.Module | None, inner: torch.nn.Module) -> list[torch.nn.Module]:
    """What a training calls as its model: of several modules the first; as it was given, and what is wrapped in it."""
    first = inner if given is None else given
    first = first[0] if isinstance(first, torch.nn.ModuleList) and len(first) else first
    return [first, unwrap(first)]
