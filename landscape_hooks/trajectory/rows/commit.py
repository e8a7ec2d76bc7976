"""Commit: the record that says which rows of the trajectory count. Writer and reader meet here, nowhere else.

In: one attribute of the group `trajectory`. Out: the places of the committed snapshots, in order of step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import RunError
from landscape_hooks.store import checked
from landscape_hooks.store.run import put_attribute

FREE_ROWS = 2**20
"""Rows that are counted on the record's word alone; beyond them, the file of their steps accounts for them."""


@dataclass(frozen=True)
class Commit:
    """The commit record: which rows count. One attribute (`committed`) of the group `trajectory`, written last.

    Attributes
    ----------
    rows
        number of snapshots.
    order
        place (row of the arrays) of every snapshot, in order of step; None where that is 0, 1, ... rows - 1.
    generation
        goes up whenever places become free to be written again, before they are.
    stride
        of the thinning schedule; 0 without it.
    tail
        the last snapshot was taken off the schedule, because recording ended there.
    """

    rows: int = 0
    order: tuple[int, ...] | None = None
    generation: int = 0
    stride: int = 0
    tail: bool = False

    KEY = "committed"

    @classmethod
    def read(cls, group: zarr.Group) -> Commit:
        """The record as the store holds it now."""
        found = dict(checked.fresh(group).attrs).get(cls.KEY)
        if not isinstance(found, dict):
            raise RunError("The run's trajectory has no commit record", mend="Record it again")
        numbers = {
            key: checked.whole(found.get(key, 0), f"'{key}' of the commit record")
            for key in ("rows", "generation", "stride")
        }
        order = found.get("order")
        if order is not None:
            if not isinstance(order, list) or len(order) != numbers["rows"]:
                raise checked.damaged("The commit record's 'order' does not list as many rows as it counts")
            order = tuple(checked.whole(place, "A row in the commit record's 'order'") for place in order)
            if len(set(order)) < len(order):
                raise checked.damaged("The commit record's 'order' names a row twice")
        elif numbers["rows"] > FREE_ROWS:
            checked.afford(checked.array(group, "step"), 8 * numbers["rows"], "step", free=8 * FREE_ROWS)
        return cls(**numbers, order=order, tail=bool(found.get("tail", False)))

    def write(self, group: zarr.Group) -> None:
        """Make it count."""
        put_attribute(group, self.KEY, asdict(self))

    @property
    def places(self) -> NDArray[np.intp]:
        """(rows,) row of the arrays that each snapshot lies in."""
        return np.arange(self.rows) if self.order is None else np.asarray(self.order, dtype=np.intp)
