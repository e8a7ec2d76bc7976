"""Buffers: a model's floating-point buffers, less those that have become others.

In: a model and the layout of its buffers. Out: its tensors in the order of the layout, None in the place of a buffer
that has got another shape (a cache that grew) or is gone. Such a buffer stays out from then on; that is said once, and
is a doubt of the run. Buffers that are stored once join when they begin to move.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress

import torch
import zarr

from landscape_hooks.errors import LayoutError, RunError, warn_of_recording
from landscape_hooks.recording.watch.fixed import FixedTensors
from landscape_hooks.trajectory.doubts import Doubt, add_doubt
from landscape_hooks.trajectory.modules import walk
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout


class Buffers:
    """Looks up the buffers of a model.

    Parameters
    ----------
    layout
        the layout of its buffers when the recording began, without those that are stored once.
    root
        the run; None where another rank writes for this one.
    fixed
        the buffers that are stored once; None where there are none.
    joins
        called with the layout of those that begin to move, before they are among the tensors.
    """

    def __init__(
        self,
        layout: ParameterLayout,
        model: torch.nn.Module,
        root: zarr.Group | None,
        fixed: FixedTensors | None = None,
        joins: Callable[[ParameterLayout], None] | None = None,
    ) -> None:
        self._layout, self._model, self._root = layout, weakref.ref(model), root
        self._fixed, self._joins = fixed, joins
        self._locate = layout.locator(model)
        self._kept = list(layout)
        self.left_out: list[str] = []

    def __call__(self) -> list[torch.Tensor | None]:
        if self._fixed is not None and self._joins is not None and self._model() is not None:
            self._look_at(self._fixed, self._joins)
        try:
            found = self._locate()
        except LayoutError:
            found = self._without_others()
        if not self.left_out:
            return list(found)
        by_name = dict(zip([entry.name for entry in self._kept], found, strict=True))
        return [by_name.get(entry.name) for entry in self._layout]

    def _look_at(self, fixed: FixedTensors, joins: Callable[[ParameterLayout], None]) -> None:
        """Take in what has begun to move; say what is gone."""
        begun = fixed.moved()
        if begun:
            layout = ParameterLayout.in_order(begun, kind="buffer")
            joins(layout)
            self._layout, self._kept = self._layout.picked([*self._layout, *layout]), [*self._kept, *layout]
            model = self._model()
            assert model is not None
            self._locate = self._layout.picked(self._kept).locator(model)
        if fixed.gone:
            others, fixed.gone = fixed.gone, []
            self._tell(others)

    def _without_others(self) -> list[torch.Tensor]:
        model = self._model()
        if model is None:
            raise LayoutError("The model is gone", expected="a model that lives as long as it is recorded")
        now = {name: tensor for name, tensor, *_ in walk(model, "_buffers")}
        others = [entry for entry in self._kept if tuple(getattr(now.get(entry.name), "shape", ())) != entry.shape
                  or entry.name not in now]  # fmt: skip
        self._kept = [entry for entry in self._kept if entry not in others]
        self.left_out += [entry.name for entry in others]
        self._locate = ParameterLayout(self._kept, kind="buffer").locator(model)
        self._tell(others)
        return self._locate()

    def _tell(self, others: list[ParameterEntry]) -> None:
        model = self._model()
        now = {} if model is None else {name: tensor for name, tensor, *_ in walk(model, "_buffers")}
        self._say(Doubt("buffers", _said(others, now), {"buffers": len(others)}))

    def _say(self, doubt: Doubt) -> None:
        warn_of_recording(f"{doubt.said} Everything else is recorded as before.")
        if self._root is not None:
            with suppress(RunError):  # a store that cannot be written to is reported where snapshots are
                add_doubt(self._root, doubt)


def _said(others: list[ParameterEntry], now: dict[str, torch.Tensor]) -> str:
    first = others[0]
    tensor = now.get(first.name)
    became = "is gone" if tensor is None else f"has the shape {list(tensor.shape)} instead of {list(first.shape)}"
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return (
        f"The buffer '{first.name}'{more} {became}; it is left out from then on, and later snapshots repeat its last "
        "value."
    )
