"""fastai: one callback that records a `Learner`.

In: the learner's events. Out: a run whose loss is the learner's `loss_func` on its validation set. Several fits in
a row (`fine_tune` makes two) are one run. The optimizer may be fastai's own: steps, loss and learning rates come
from the learner.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from landscape_hooks.integrations.adapter import FirstBatches, Recording, missing

try:
    from fastai.callback.core import Callback
except ImportError as error:
    Callback = missing("fastai", "fastai", error)


class LandscapeCallback(Callback):
    """Records the optimizer's path while a learner fits.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store.
    step
        optimizer steps already behind the model, where a new process goes on with a run (after `learn.load`).
    options
        as for `landscape_hooks.record`: every, keep, samples, objective, data, if_exists, ... Without `objective` the
        loss is the learner's.

    Examples
    --------
    >>> learn = Learner(dls, model, loss_func, cbs=LandscapeCallback("runs/fastai.zarr"))
    >>> learn.fit_one_cycle(2)
    """

    order = 80
    run_valid = False

    def __init__(self, store: Any, *, step: int = 0, **options: Any) -> None:
        super().__init__()
        self.recording = Recording(store, **options)
        self.recording.last_step = step
        self._losses: list[torch.Tensor] = []
        self._cancelled = False

    def before_fit(self) -> None:
        """The first snapshot, or the next: a learner that fits again goes on."""
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self.learn, "gather_preds")
        if not self.run:
            return
        samples = self.recording.options.get("samples", 1024)
        self.recording.begin(
            self.learn.model,
            None,
            step=self.recording.last_step,
            main=not getattr(torch.distributed, "is_initialized", bool)() or torch.distributed.get_rank() == 0,
            find=lambda: [
                {"objective": LearnerLoss(self.learn), "data": FirstBatches(_batches(self.learn.dls), samples)}
            ],
        )
        self.recording.log(epoch=0, step=self.recording.last_step)
        self._losses = []
        self._close_on_exception()

    def _close_on_exception(self) -> None:
        """fastai tells its callbacks of no exception: its epochs run inside ours."""
        learn, do_epoch = self.learn, self.learn._do_epoch

        def guarded() -> None:
            try:
                do_epoch()
            except BaseException as error:
                if not (isinstance(error, Exception) and type(error).__name__.startswith("Cancel")):
                    self._close(learn, error)
                raise

        learn.__dict__["_do_epoch"] = guarded

    def before_backward(self) -> None:
        """The loss of a batch."""
        self._losses.append(self.learn.loss.detach())

    def after_cancel_step(self) -> None:
        """Mixed precision skips a step."""
        self._cancelled = True

    def after_step(self) -> None:
        """A step was taken, unless it was cancelled."""
        if self.recording.recorder is not None and not self._cancelled:
            rates = [float(group["lr"]) for group in self.learn.opt.hypers]
            losses = torch.stack([loss.as_subclass(torch.Tensor) for loss in self._losses])
            self.recording.log(loss=losses.mean(), epoch=self.learn.epoch, learning_rate=rates)
            self.recording.recorder.step()
            self._losses = []
        self._cancelled = False

    def after_epoch(self) -> None:
        """`SaveModelCallback` loads the best weights once training is over; the last iterate is this one."""
        self.recording.hold()

    def after_fit(self) -> None:
        """Everything committed."""
        self._close(self.learn)

    def _close(self, learn: Any, error: BaseException | None = None) -> None:
        learn.__dict__.pop("_do_epoch", None)
        self.recording.close(error)


class LearnerLoss:
    """objective(model, batch): the learner's loss."""

    def __init__(self, learn: Any) -> None:
        self._inputs = getattr(learn.dls, "n_inp", None)
        self._loss = copy.copy(learn.loss_func)
        if hasattr(self._loss, "_contiguous"):  # it makes fastai's own kind of tensor, which cannot be traced
            self._loss._contiguous = lambda t: t.transpose(self._loss.axis, -1).contiguous()

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        inputs = max(1, len(batch) - 1) if self._inputs is None else self._inputs
        return self._loss(model(*batch[:inputs]), *batch[inputs:])


def _batches(dls: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    """The validation set (the training set where there is none), as plain tensors, by a loader of our own."""
    loader = dls.valid if len(dls.loaders) > 1 and len(dls.valid) else dls.train
    for batch in loader.new(num_workers=0):
        yield tuple(part.as_subclass(torch.Tensor) if isinstance(part, torch.Tensor) else part for part in batch)
