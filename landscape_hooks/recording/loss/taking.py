"""Taking: the loss of a run, stored now; or a warning that says why not, and what to do.

In: a run, the live model, and a loss whose data is there. Out: the loss in the run, and a LiveLoss to compare it with
at the end. What the capture meets never ends a training: it runs the user's code and torch's tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
import zarr

from landscape_hooks.errors import LandscapeError, printable, warn_of_recording
from landscape_hooks.recording.announcement import Voice
from landscape_hooks.recording.loss.asked import WAY_OUT, Loss
from landscape_hooks.recording.loss.live import LiveLoss
from landscape_hooks.store import checked
from landscape_hooks.store.run import writes

_AWAITED = "awaited"
"""Attribute of a group `objective` that does not count yet: why not."""


def take(
    root: zarr.Group,
    model: torch.nn.Module,
    loss: Loss,
    voice: Voice,
    *,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    one_shot: bool = False,
) -> LiveLoss:
    """Store the loss and its probe samples, in place of those that the run may have.

    `within` is a context in which the model may be copied when the stored loss is compared with the live one;
    `one_shot` says that nobody else reads from the data, which may be an iterator then.

    Raises
    ------
    ObjectiveError
        the model cannot be exported, or the data does not fit it.
    """
    from landscape_hooks.objective.capture import capture

    data: Any = loss.data
    rebuild = voice.storing(
        partial(
            capture, root, model, criterion=loss.criterion, objective=loss.objective, data=data,
            samples=loss.samples, one_shot=one_shot,
        )
    )  # fmt: skip
    return LiveLoss(loss.criterion, loss.objective, rebuild, rebuild.seconds, within)


def take_or_warn(root: zarr.Group, model: torch.nn.Module, loss: Loss, voice: Voice) -> LiveLoss | None:
    """The same; whatever is in the way is one warning, and None is returned."""
    return or_warn(root, lambda: take(root, model, loss, voice))


def or_warn(root: zarr.Group, work: Callable[[], LiveLoss]) -> LiveLoss | None:
    """Do what stores a loss; whatever is in the way is one warning."""
    try:
        return work()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # some extensions raise what is no Exception
        said = str(error) if isinstance(error, LandscapeError) else f"{type(error).__name__}: {error}"
        warn_of_none(root, printable(said))
        return None


def warn_of_none(root: zarr.Group, why: str) -> None:
    """Say that the loss could not be stored, and what to do."""
    way = "" if "--objective" in why else f" {WAY_OUT}"
    state = "with the one that was stored before" if has_loss(root) else "without it"
    warn_of_recording(f"The loss could not be stored in the run; recording goes on {state}. {why}{way}")


def has_loss(root: zarr.Group) -> bool:
    """Whether the run holds a loss, as far as it can be read."""
    with suppress(Exception):
        found = checked.group(checked.fresh(root), "objective")
        return found is not None and found.attrs.get("complete") is True
    return False


def await_loss(root: zarr.Group, said: str) -> None:
    """Write into a run without a loss why it has none yet, for those who look for it."""
    if said and not has_loss(root):
        with suppress(Exception):  # what is in the way of a sentence is in the way of snapshots, too, and said there
            _put_awaited(root, said)


@writes
def _put_awaited(root: zarr.Group, said: str) -> None:
    root.require_group("objective").attrs.put({_AWAITED: said})
