"""ignite: a handler that records what a trainer engine does.

In: model, optimizer, criterion and data (an engine knows none of them), then the engine's events. Out: a run
whose loss and epoch are the engine's; its state goes into `ignite.handlers.Checkpoint` like any other object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from landscape_hooks.integrations.adapter import Recording, missing, probe_loader

try:
    from ignite.engine import Events

    _Base: type = object
except ImportError as error:
    _Base = missing("ignite", "ignite", error)


class LandscapeHandler(_Base):
    """Records the optimizer's path while an engine runs.

    Parameters
    ----------
    model, optimizer, store, options
        as for `landscape_hooks.record`: criterion or objective, data, every, keep, if_exists, ...
    output_transform
        the training loss from `engine.state.output`.

    Examples
    --------
    >>> trainer = create_supervised_trainer(model, optimizer, criterion)
    >>> handler = LandscapeHandler(model, optimizer, "runs/ignite.zarr", criterion=criterion, data=loader)
    >>> handler = handler.attach(trainer)
    >>> checkpoint = Checkpoint({"trainer": trainer, "model": model, "landscape": handler}, "checkpoints")
    >>> state = trainer.run(loader, max_epochs=2)
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        store: Any,
        *,
        output_transform: Callable[[Any], Any] = lambda output: output,
        **options: Any,
    ) -> None:
        super().__init__()
        self._subject = (model, optimizer)
        self._output_transform = output_transform
        if "data" in options:
            options["data"] = probe_loader(options["data"])
        self.recording = Recording(store, **options)

    def attach(self, engine: Any) -> LandscapeHandler:
        """Listen to a trainer engine."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._batch)
        for event in (Events.COMPLETED, Events.TERMINATE, Events.INTERRUPT):
            engine.add_event_handler(event, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._exception)
        return self

    def state_dict(self) -> dict[str, Any]:
        """For `ignite.handlers.Checkpoint`."""
        return self.recording.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From `ignite.handlers.Checkpoint.load_objects`."""
        self.recording.load_state_dict(state_dict)

    def _begin(self, engine: Any) -> None:
        from ignite import distributed

        self.recording.close()
        self.recording.begin(*self._subject, step=self.recording.last_step, main=distributed.get_rank() == 0)
        self.recording.log(epoch=engine.state.epoch, step=self.recording.last_step)

    def _batch(self, engine: Any) -> None:
        self.recording.log_batch(loss=self._output_transform(engine.state.output), epoch=engine.state.epoch)

    def _close(self, engine: Any) -> None:
        self.recording.close()

    def _exception(self, engine: Any, error: BaseException) -> None:
        """Everything committed. An engine with a handler of exceptions does not raise them: where this one is the
        only one, it does."""
        self.recording.close(error)
        if len(engine._event_handlers[Events.EXCEPTION_RAISED]) == 1:
            raise error
