"""skorch: one callback that records `net.fit` or `net.partial_fit`.

In: the net's notifications. Out: a run whose loss is `net.get_loss` on the net's own validation split (its
training data where it has none). Steps are written into `net.history` (per batch, `optimizer_steps`), so a net
that goes on from a checkpoint of skorch goes on with its run.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from landscape_hooks.integrations.adapter import Recording, missing

try:
    from skorch.callbacks import Callback
except ImportError as error:
    Callback = missing("skorch", "skorch", error)


class LandscapeCallback(Callback):
    """Records the optimizer's path while a net is fitted.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store.
    every, keep, samples, objective, data, if_exists
        as for `landscape_hooks.record`. Without `objective` the loss is that of the net.

    Examples
    --------
    >>> net = NeuralNetClassifier(Module, max_epochs=2, callbacks=[LandscapeCallback("runs/skorch.zarr")])
    >>> net = net.fit(X, y)
    """

    def __init__(
        self,
        store: Any,
        every: int | None = None,
        keep: int | None = None,
        samples: int = 1024,
        objective: Any = None,
        data: Any = None,
        if_exists: str = "error",
    ) -> None:
        if Callback.__name__ == "Missing":
            super().__init__()
        self.store = store
        self.every = every
        self.keep = keep
        self.samples = samples
        self.objective = objective
        self.data = data
        self.if_exists = if_exists

    def initialize(self) -> LandscapeCallback:
        """A net begins anew."""
        self.recording_ = Recording(self.store, **self._options())
        return self

    def _options(self) -> dict[str, Any]:
        names = ("every", "keep", "samples", "objective", "if_exists")
        return {name: getattr(self, name) for name in names} | (
            {"data": self.data} if self.objective is not None else {}
        )

    def __getstate__(self) -> dict[str, Any]:
        """A pickled net takes the wish along, not the recorder."""
        return {name: value for name, value in self.__dict__.items() if name != "recording_"}

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """The first snapshot; of a net that goes on, at the step that its history says."""
        if not hasattr(self, "recording_"):
            self.initialize()
        self.recording_.close()
        self.recording_.begin(net.module_, net.optimizer_, step=_steps(net.history), epoch=len(net.history))
        self._close_on_exception(net)

    def _close_on_exception(self, net: Any) -> None:
        """skorch tells its callbacks of no exception: for this once, its loop runs inside ours."""
        loop = net.fit_loop

        def guarded(*args: Any, **kwargs: Any) -> Any:
            del net.__dict__["fit_loop"]
            try:
                return loop(*args, **kwargs)
            except BaseException as error:
                self.recording_.close(error)
                raise

        net.__dict__["fit_loop"] = guarded

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """The data is split."""
        recording = self.recording_
        if recording.recorder is not None and not recording.gives_loss and not recording.has_loss:
            dataset = dataset_train if dataset_valid is None else dataset_valid
            recording.capture(lambda: [{"objective": NetLoss(net), "data": net.get_iterator(dataset, training=False)}])

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """The loss of a step, said after it."""
        if training and self.recording_.recorder is not None:
            self.recording_.log_batch(loss=kwargs["loss"].detach(), epoch=net.history[-1, "epoch"])
            net.history.record_batch("optimizer_steps", self.recording_.recorder.current_step)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Other callbacks may load the best weights once training is over; the last iterate is this one."""
        self.recording_.hold()

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Everything committed, after Ctrl-C too."""
        self.recording_.close()


class NetLoss:
    """objective(module, batch): what the net's own validation step gives."""

    def __init__(self, net: Any) -> None:
        self._net = object.__new__(type(net))
        self._net.__dict__.update(net.__dict__, device="cpu", criterion_=copy.deepcopy(net.criterion_))
        if isinstance(net.criterion_, torch.nn.Module):
            self._net.criterion_.cpu()

    def __call__(self, module: Any, batch: Any) -> torch.Tensor:
        self._net.__dict__["module_"] = module
        inputs, targets = batch
        return self._net.get_loss(self._net.infer(inputs), targets, X=inputs, training=False)


def _steps(history: Any) -> int:
    """The optimizer steps that a history knows of."""
    for epoch in reversed(history):
        for batch in reversed(epoch["batches"]):
            if "optimizer_steps" in batch:
                return int(batch["optimizer_steps"])
    return 0
