"""Late: columns of tensors that were stored once, and that snapshots have from a step on.

In: the groups `trajectory/late/K`, and the tensors that stood still when recording began. Out: what began to move, and
when. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import zarr

from landscape_hooks.store import checked
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed

MOST_LATE = 10_000
"""Groups of late columns that a reader takes from one run."""


@dataclass(frozen=True)
class Late:
    """Columns that snapshots have from a step on.

    Attributes
    ----------
    number
        K of the group `trajectory/late/K`.
    layout
        the tensors, which are fixed ones until then.
    from_step
        the first step whose snapshot has a row of them.
    """

    number: int
    layout: ParameterLayout
    from_step: int

    @property
    def of_buffers(self) -> bool:
        """Whether they are buffers, which are no part of the weights."""
        return self.layout.kind == "buffer"

    @property
    def array(self) -> str:
        """Where its rows lie, below the group `trajectory`."""
        return f"late/{self.number}/{'buffers' if self.of_buffers else 'weights'}"


def read_late(trajectory: zarr.Group, fixed: Fixed) -> list[Late]:
    """The late columns of a group `trajectory`, in the order in which they join a row.

    Raises
    ------
    DamagedRunError
        one of them is not what the format says.
    """
    names = checked.names_of(trajectory, "late")
    if not set(names) <= {str(number) for number in range(min(len(names), MOST_LATE))}:
        raise checked.damaged("The groups of late columns are not numbered 0, 1, ...")
    found: list[Late] = []
    seen: set[str] = set()
    for number in range(len(names)):
        group = checked.group(trajectory, f"late/{number}")
        if "from_step" not in group.attrs:  # it was only begun; nothing counts on it
            break
        kind = "buffer" if group.attrs.get("kind") == "buffer" else "parameter"
        parameters = set((fixed.buffers if kind == "buffer" else fixed.layout).names)
        listed = checked.attribute(group, "layout", list, f"the late columns {number}")
        layout = ParameterLayout.from_json(listed, kind=kind)
        for entry in layout:
            known = fixed.entry(entry.name) if entry.name in parameters else None
            if known is None or known.shape != entry.shape or known.size != entry.size or entry.name in seen:
                raise checked.damaged(f"'{entry.name}' of the late columns {number} is no fixed tensor")
            seen.add(entry.name)
        found.append(Late(number, layout, checked.whole(group.attrs["from_step"], "A step of late columns")))
    return found


def joined_layout(own: ParameterLayout, late: Sequence[Late]) -> ParameterLayout:
    """One layout of the first columns and the late ones.

    Raises
    ------
    DamagedRunError
        a tensor is in both.
    """
    if not late:
        return own
    entries = [*own, *(entry for each in late for entry in each.layout)]
    if len({entry.name for entry in entries}) < len(entries):
        raise checked.damaged("A tensor is among the late columns that moved from the beginning")
    return ParameterLayout.in_order(entries)
