"""Loss: the loss that a run is to store, as it was asked for, and when its samples are there.

In: criterion or objective, and data: batches, a function that returns them at the end of the training, or "train" for
the batches of the training itself. Out: the same, known to be what it is to be; nothing of it has been run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from landscape_hooks.errors import DataError, LandscapeError

if TYPE_CHECKING:
    from landscape_hooks.objective.data.samples import DataLike

WAY_OUT = "To analyze the run, name the loss: landscape-hooks analyze RUN --objective module:function"

TRAIN = "train"
"""What `data` is where the batches of the training are to be kept."""

AT_END = "Its loss is stored when the recording ends, on what the function data= returns."
FROM_TRAINING = "Its loss is stored once enough batches of the training have come."


@dataclass(frozen=True)
class Loss:
    """The loss that a run is to store.

    Attributes
    ----------
    criterion, objective, data, samples
        as `record` was given them.
    """

    criterion: Callable[..., Any] | None = None
    objective: Callable[..., Any] | None = None
    data: DataLike | Callable[[], DataLike] | Literal["train"] | None = None
    samples: int = 1024

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.criterion is not None or self.objective is not None

    @property
    def when(self) -> Literal["now", "end", "training"]:
        """When the samples are there: now, at the end of the recording, or while training."""
        if isinstance(self.data, str):
            return "training"
        return "end" if _is_function(self.data) else "now"

    @property
    def said(self) -> str:
        """What is said of a loss that is not stored yet; empty of one that is stored now."""
        return {"now": "", "end": AT_END, "training": FROM_TRAINING}[self.when] if self.given else ""

    def check(self) -> None:
        """A loss and its data come together, and can be what they are to be; nothing of them is run.

        Raises
        ------
        LandscapeError
            one without the other, both kinds of loss, a loss that cannot be called, data of no kind of batches, a
            function that takes arguments, or "train" with a loss that is no module.
        """
        if not self.given:
            if self.data is not None:
                raise LandscapeError(
                    "Found data= without criterion= or objective=", expected="the loss that is to be computed on it"
                )
            return
        if self.data is None:
            raise LandscapeError(
                "Found a criterion or objective without data=", expected="the data to compute the loss on"
            )
        from landscape_hooks.objective.capture import check_arguments

        later = self.when != "now"
        if later and callable(self.data):
            _check_function(self.data)
        elif later:
            self._check_training()
        check_arguments(self.criterion, self.objective, [None] if later else self.data, self.samples)

    def _check_training(self) -> None:
        """The training's own batches can be kept: the loss is a module, which is heard when it is called."""
        if self.data != TRAIN:
            raise DataError(
                f"Found data={self.data!r}",
                expected="a DataLoader, an iterable of batches, one batch, a dataset, a function, or 'train'",
            )
        loss = self.criterion if self.criterion is not None else self.objective
        kind = getattr(loss, "__qualname__", type(loss).__name__)
        if self.criterion is None or not isinstance(loss, torch.nn.Module):
            raise LandscapeError(
                f"Found data='train' with the {'objective' if self.criterion is None else 'criterion'} {kind}",
                expected="a criterion that is a module (torch.nn.CrossEntropyLoss()): its calls are heard",
                mend="Give data= the DataLoader or batches, or a function that returns them at the end",
            )
        if isinstance(loss, torch.jit.ScriptModule):
            raise LandscapeError(
                f"Found data='train' with the scripted criterion {kind}, which takes no hooks",
                expected="the module before it was scripted",
                mend="Give data= the DataLoader or batches",
            )


def _is_function(data: object) -> bool:
    """Whether it is called for the data, and is no data itself: datasets and loaders of any make may be callable."""
    if not callable(data) or isinstance(data, Iterable):
        return False
    return isinstance(data, type) or not hasattr(data, "__getitem__")


def _check_function(function: Callable[..., Any]) -> None:
    """It can be called without arguments."""
    kind = getattr(function, "__qualname__", type(function).__name__)
    expected = "a function without arguments that returns the data: it is called when the recording ends"
    if isinstance(function, torch.nn.Module):
        raise DataError(f"Found the module {kind} as data=", expected=expected)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise DataError(
            f"The function {kind}{signature} as data= cannot be called without arguments",
            expected=expected,
            mend=f"Give data=lambda: {kind}(...), or the data itself",
        ) from error
    if inspect.iscoroutinefunction(function):
        raise DataError(f"The function {kind} as data= is a coroutine", expected=expected)
