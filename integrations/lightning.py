"""Lightning: one callback that records a `Trainer.fit`.

In: the trainer's hooks. Out: a run whose steps are `trainer.global_step`, whose loss is the module's own
`validation_step` (or `training_step`), and which goes on when the trainer resumes from a checkpoint.
Works with `lightning` and with `pytorch_lightning`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.integrations.adapter import FirstBatches, Found, Recording, missing, probe_loader

try:
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning.callbacks import Callback
    else:
        from lightning.pytorch.callbacks import Callback
except ImportError as error:
    Callback = missing("lightning", "lightning", error)


class LandscapeCallback(Callback):
    """Records the optimizer's path while `Trainer.fit` runs.

    Parameters
    ----------
    store
        where to: a path, a URL or a Zarr store.
    every, keep, samples, objective, data, if_exists, options
        as for `landscape_hooks.record`. Without `objective` the loss is what the module's `validation_step` logs or
        returns, on the validation data; without that, its `training_step`.

    Examples
    --------
    >>> trainer = Trainer(max_epochs=3, callbacks=[LandscapeCallback("runs/lightning.zarr")])
    >>> trainer.fit(module, train_loader, val_loader)
    """

    def __init__(
        self,
        store: Any,
        *,
        every: int | None = None,
        keep: int | None = None,
        samples: int = 1024,
        objective: Any = None,
        data: Any = None,
        if_exists: str = "error",
        **options: Any,
    ) -> None:
        super().__init__()
        self.recording = Recording(
            store,
            every=every,
            keep=keep,
            samples=samples,
            objective=objective,
            data=None if objective is None and options.get("criterion") is None else data,
            if_exists=if_exists,
            **options,
        )
        self._losses: list[torch.Tensor] = []
        self._step = -1

    @property
    def state_key(self) -> str:
        """Tells two recorders of one trainer apart in its checkpoints."""
        return f"LandscapeCallback[{self.recording.store}]"

    def state_dict(self) -> dict[str, Any]:
        """Part of the trainer's checkpoint."""
        return self.recording.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the trainer's checkpoint."""
        self.recording.load_state_dict(state_dict)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The optimizers exist, a checkpoint is loaded: the first snapshot."""
        self._step = -1
        self.recording.begin(
            pl_module,
            list(trainer.optimizers),
            step=trainer.global_step,
            epoch=trainer.current_epoch,
            counter=lambda: trainer.global_step + 1,  # it rises only after the optimizer's hooks
            main=trainer.is_global_zero,
            find=lambda: _losses(trainer, pl_module, self.recording.options["samples"]),
        )

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """The loss of the step to come: the mean over the batches accumulated for it."""
        if trainer.global_step != self._step:
            self._losses, self._step = [], trainer.global_step
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.get_scale()
        shares = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self._losses.append(loss.detach() * shares)
        self.recording.log(loss=torch.stack(self._losses).mean(), epoch=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Averaging callbacks change the weights once training is over; the last iterate is this one."""
        self.recording.hold()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Everything committed."""
        self.recording.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Everything committed; the exception goes on its way."""
        self.recording.close(exception)


# -- the loss that the module has --------------------------------------------------------------------------
class StepLoss:
    """objective(model, batch): the loss that one of the module's own steps logs or returns."""

    def __init__(self, step: str, *more: Any) -> None:
        self.step = step
        self._more = more

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        logged: dict[str, Any] = {}
        for name in ("forward", "training_step", "validation_step"):
            model.__dict__.pop(name, None)  # torch.compile leaves bound methods of the original here
        model.log = lambda name, value, *_, **__: logged.update({name: value})
        model.log_dict = lambda values, *_, **__: logged.update(values)
        step = getattr(model, self.step)
        try:
            returned = step(*_by_position(step, batch, 0, *self._more))
        finally:
            del model.log, model.log_dict
        loss = _named_loss(logged) if self.step == "validation_step" else None
        if loss is None:
            loss = returned.get("loss") if isinstance(returned, dict) else returned
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ObjectiveError(f"{self.step} neither logs nor returns a loss", expected="one number a batch")
        return loss.reshape(())


def _by_position(step: Any, *given: Any) -> Sequence[Any]:
    """As many of batch, number of the batch and number of the loader as a step takes; Lightning goes by position.

    A step that takes the batch alone may do so; what one with `*args` takes is all of them.
    """
    parameters = inspect.signature(step).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return given
    return given[: sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)]


def _named_loss(logged: dict[str, Any]) -> Any:
    names = [n for n, v in logged.items() if "loss" in n.lower() and isinstance(v, torch.Tensor)]
    return logged[min(names, key=len)] if names else None


def _losses(trainer: Any, module: Any, samples: int) -> Iterator[Found]:
    """validation_step on the validation data, training_step on it, training_step on the training data.

    A training_step that steps the optimizers itself (manual optimization) is no function of the weights.
    """
    with _aside(trainer, module):
        if trainer.val_dataloaders:
            loader, several = _first(trainer.val_dataloaders)
            limit = trainer.num_val_batches[0]
            most = None if limit == float("inf") else int(limit)
            losses = [StepLoss("validation_step", *((0,) if several else ()))]
            for loss in losses + [StepLoss("training_step")] * module.automatic_optimization:
                yield {
                    "objective": loss,
                    "data": FirstBatches(_prepared(trainer, module, probe_loader(loader), most), samples),
                    "within": partial(_aside, trainer, module),
                }
        if trainer.train_dataloader is not None and module.automatic_optimization:
            loader, _ = _first(trainer.train_dataloader)
            data = FirstBatches(_prepared(trainer, module, probe_loader(loader)), samples)
            yield {"objective": StepLoss("training_step"), "data": data, "within": partial(_aside, trainer, module)}


def _first(loaders: Any) -> tuple[Any, bool]:
    """The first of a trainer's loaders, and whether there are several."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return loaders[0], len(loaders) > 1
    return loaders, False


def _prepared(trainer: Any, module: Any, loader: Iterable[Any], most: int | None = None) -> Iterator[Any]:
    """Batches as the steps get them: converted to the precision, through the module's transfer hooks."""
    for batch in islice(loader, most):
        batch = trainer.precision_plugin.convert_input(batch)
        yield trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch))


@contextmanager
def _aside(trainer: Any, module: torch.nn.Module) -> Iterator[None]:
    """In here the module may be copied and its steps called."""
    with _without_metrics(module), _copied_without(trainer):
        yield


@contextmanager
def _copied_without(trainer: Any) -> Iterator[None]:
    """A copy of the module for the capture must not take the trainer along."""
    trainer.__deepcopy__ = lambda memo: None
    try:
        yield
    finally:
        del trainer.__deepcopy__


@contextmanager
def _without_metrics(module: torch.nn.Module) -> Iterator[None]:
    """Metrics gather state outside the loss; while it is captured they are silent."""
    from torchmetrics import Metric, MetricCollection

    places = [
        (parent, name, child)
        for parent in module.modules()
        if not isinstance(parent, Metric | MetricCollection)
        for name, child in parent.named_children()
        if isinstance(child, Metric | MetricCollection)
    ]
    try:
        for parent, name, _ in places:
            parent._modules[name] = _Silent()
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child


class _Silent(torch.nn.Module):
    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(())

    update = compute = reset = forward
