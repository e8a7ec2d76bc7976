"""The parameters of a loss that do not move: read from the run, given to the loss as they are.

In: an opened run. Out: its fixed tensors in their own types, by name. A loss is a function of the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from landscape_hooks.errors import LayoutError
from landscape_hooks.store import checked
from landscape_hooks.trajectory.modules import walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.trajectory import Trajectory


def fixed_tensors(trajectory: Trajectory) -> dict[str, Tensor]:
    """The tensors of a run that never moved, in their own types; of a part of a network also those that are held."""
    found = {}
    fixed = trajectory.fixed
    for name in fixed:
        entry = fixed.entry(name)
        numbers = torch.from_numpy(fixed.stored(name))
        if entry.is_complex:
            found[name] = torch.view_as_complex(numbers.view(*entry.shape, 2))
        else:
            found[name] = numbers.view(getattr(torch, entry.dtype)).view(entry.shape)
    for name, values in trajectory.held.items():
        found[name] = _as_parameter(values, trajectory.entry(name))
    return found


def state_of_run(root: zarr.Group, trajectory: Trajectory | None) -> tuple[ParameterLayout, dict[str, Tensor]]:
    """What moves in a run, and the tensors that do not; its trajectory where that is open, too."""
    if trajectory is None and not checked.has(root, "trajectory"):
        return ParameterLayout.from_json(checked.attribute(root, "layout", list, "the run")), {}
    trajectory = Trajectory(root) if trajectory is None else trajectory
    return trajectory.layout, fixed_tensors(trajectory)


def _as_parameter(values: NDArray[Any], entry: ParameterEntry) -> Tensor:
    """(size,) numbers of a snapshot as the tensor that they are of."""
    return ParameterLayout.in_order([entry]).views(torch.from_numpy(np.array(values)))[entry.name]


class HasFixed(Protocol):
    """A loss some of whose parameters may be fixed: an Objective."""

    @property
    def layout(self) -> ParameterLayout:
        """The parameters that it is a function of."""

    @property
    def buffer_layout(self) -> ParameterLayout:
        """The buffers that it is a function of."""

    def given(
        self, layout: ParameterLayout, fixed: Mapping[str, Tensor], /, buffers: ParameterLayout | None = None
    ) -> Self:
        """The same loss as a function of `layout` (and `buffers`); its other parameters have the values `fixed`."""


Loss = TypeVar("Loss", bound=HasFixed)


def of_run(objective: Loss, trajectory: Trajectory) -> Loss:
    """An Objective as a function of what moves in a run; its other parameters are as the run stored them.

    The tensors of a run that was imported without its model may be in another order than the model's.

    Raises
    ------
    LayoutError
        the run has other parameters.
    """
    fixed, own, buffers = fixed_tensors(trajectory), objective.buffer_layout, trajectory.buffer_layout
    reordered = buffers.names != own.names and set(buffers.names) == set(own.names)
    if not fixed and objective.layout == trajectory.layout and not reordered:
        return objective
    return objective.given(trajectory.layout, fixed, buffers=buffers if reordered else None)


def without_integers(model: torch.nn.Module, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is fixed apart from tensors of integers, which the model has to hold as the run does.

    Raises
    ------
    LayoutError
        it does not.
    """
    numbers = {name: value for name, value in fixed.items() if value.is_floating_point() or value.is_complex()}
    held = {name: tensor for name, tensor, _ in walk_tensors(model)} if len(numbers) < len(fixed) else {}
    for name in fixed.keys() - numbers.keys():
        same = name in held and held[name].dtype == fixed[name].dtype and held[name].shape == fixed[name].shape
        if not same or not torch.equal(held[name].cpu(), fixed[name].cpu()):
            raise LayoutError(
                f"The model of the objective has {'another' if name in held else 'no'} tensor '{name}'",
                expected="the packed weights that the run stored",
                mend="Use the model that the run was recorded with",
            )
    return numbers


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
    mend = "Use the model that the run was recorded with"
    shapes = {name: tuple(value.shape) for name, value in known.items()} | {e.name: e.shape for e in own}
    wanted = {name: tuple(value.shape) for name, value in fixed.items()} | {e.name: e.shape for e in moving}
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            found = shapes.get(name)
            raise LayoutError(
                f"The model of the objective has no parameter '{name}'"
                if found is None
                else f"The parameter '{name}' of the objective has the shape {list(found)}",
                expected=f"shape {list(shape)}, as the run stored it",
                mend=mend,
            )
    for name in shapes:
        if name not in wanted:
            raise LayoutError(
                f"The model of the objective has a parameter '{name}' of shape {list(shapes[name])}",
                expected="only the parameters of the run",
                mend=mend,
            )


def attributes_of(group: zarr.Group) -> dict[str, Any]:
    """The attributes of a stored objective; what is printed of them is text, whatever the run holds."""
    found = dict(group.attrs)
    notes, frozen = found.get("notes"), found.get("frozen")
    found["notes"] = [str(note) for note in notes] if isinstance(notes, list) else []
    found["frozen"] = {str(k): str(v) for k, v in frozen.items()} if isinstance(frozen, dict) else {}
    return found
