"""accelerate: `record` for a loop around an `Accelerator`.

In: the accelerator, and model and optimizer as `prepare` returned them. Out: a run that rank zero writes (every
rank where the model is sharded), with the loss that goes through `accelerator.backward`, in the accelerator's
checkpoints, and complete after `accelerator.end_training()`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from landscape_hooks.integrations.adapter import Recording, missing, probe_loader

try:
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    GeneralTracker = missing("accelerate", "accelerate", error)


def record(accelerator: Any, model: Any, optimizer: Any, store: Any, **options: Any) -> Recording:
    """Record the path of a prepared optimizer; call it after `accelerator.prepare`.

    Parameters
    ----------
    accelerator, model, optimizer
        the accelerator, and what its `prepare` returned.
    store, options
        as for `landscape_hooks.record`: criterion or objective, data, every, keep, ... A loader from `prepare` serves
        as data. To go on with a run, pass `if_exists="resume"` and then call `accelerator.load_state` as usual.

    Returns
    -------
    Recording
        with `log` and `close`; it need not be kept.

    Examples
    --------
    >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    >>> recorder = record(accelerator, model, optimizer, "runs/accelerate.zarr", criterion=criterion, data=loader)
    """
    tracker = _Closing()
    if "data" in options:
        options["data"] = probe_loader(options["data"])
    recording = Recording(store, **options)
    recording.begin(model, optimizer, main=accelerator.is_main_process)
    accelerator.register_for_checkpointing(recording)
    tracker.recording = recording
    accelerator.trackers.append(tracker)
    if recording.recorder is not None:
        _listen(accelerator, recording)
    return recording


def _listen(accelerator: Any, recording: Recording) -> None:
    """Hear every loss on its way to `backward`; of accumulated ones the mean."""
    backward, losses = accelerator.backward, []

    @functools.wraps(backward)
    def heard(loss: torch.Tensor, **kwargs: Any) -> None:
        losses.append(loss.detach())
        loader = accelerator.gradient_state.active_dataloader
        recording.log(loss=torch.stack(losses).mean(), epoch=getattr(loader, "iteration", None))
        if accelerator.sync_gradients:
            losses.clear()
        backward(loss, **kwargs)

    accelerator.backward = heard


class _Closing(GeneralTracker):
    """Listed with the accelerator's trackers, so that `end_training` commits everything."""

    name = "landscape-hooks"
    requires_logging_directory = False
    recording: Recording

    def __init__(self) -> None:
        super().__init__()

    @property
    def tracker(self) -> Recording:
        """What accelerate calls the object behind a tracker."""
        return self.recording

    def finish(self) -> None:
        """The training is over."""
        self.recording.close()
