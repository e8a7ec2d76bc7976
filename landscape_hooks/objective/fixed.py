"""The parameters of a loss that do not move: read from the run, given to the loss as they are.

In: an opened run. Out: its fixed tensors in their own types, by name. A loss is a function of the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self, TypeVar

import torch
import zarr
from torch import Tensor

from landscape_hooks.errors import LayoutError
from landscape_hooks.store import checked
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed, moving_layout, read_late, still


def fixed_tensors(root: zarr.Group) -> dict[str, Tensor]:
    """The parameters of a run that never moved, in their own types."""
    fixed = Fixed(root)
    trajectory = checked.group(root, "trajectory")
    found = {}
    for name in still(fixed, [] if trajectory is None else read_late(trajectory, fixed)):
        entry = fixed.layout[name]
        kind: torch.dtype = getattr(torch, entry.dtype)
        numbers = torch.from_numpy(fixed.stored(name))
        if entry.is_complex:
            found[name] = torch.view_as_complex(numbers.view(*entry.shape, 2))
        else:
            found[name] = numbers.view(kind).view(entry.shape)
    return found


class HasFixed(Protocol):
    """A loss some of whose parameters may be fixed: an Objective."""

    def given(self, layout: ParameterLayout, fixed: Mapping[str, Tensor], /) -> Self:
        """The same loss as a function of `layout`; its other parameters have the values `fixed`."""


Loss = TypeVar("Loss", bound=HasFixed)


def of_run(objective: Loss, root: zarr.Group) -> Loss:
    """An Objective as a function of what moves in a run; its other parameters are as the run stored them.

    Raises
    ------
    LayoutError
        the run has other parameters.
    """
    fixed = fixed_tensors(root)
    if not fixed and not checked.has(root, "fixed"):
        return objective
    return objective.given(moving_layout(root), fixed)


def check_others(
    own: ParameterLayout, known: Mapping[str, Tensor], moving: ParameterLayout, fixed: Mapping[str, Tensor]
) -> None:
    """What moves in a run and what does not are the parameters that a loss has.

    Parameters
    ----------
    own, known
        what the loss is a function of so far, and what it has been given.
    moving, fixed
        what a run has.

    Raises
    ------
    LayoutError
        a parameter is missing, there is a further one, or one has another shape.
    """
    moving.check_set(ParameterLayout.in_order([entry for entry in own if entry.name not in fixed]))
    shapes = {name: tuple(value.shape) for name, value in known.items()} | {e.name: e.shape for e in own}
    for name, value in fixed.items():
        if shapes.get(name) != tuple(value.shape):
            shape = shapes.get(name)
            raise LayoutError(
                f"The model of the objective has no parameter '{name}'"
                if shape is None
                else f"The parameter '{name}' of the objective has the shape {list(shape)}",
                expected=f"shape {list(value.shape)}, as the run stored it",
                mend="Use the model that the run was recorded with",
            )
