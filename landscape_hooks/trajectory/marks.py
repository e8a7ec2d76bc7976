"""Marks: named snapshots beside the path ("final", "best"), which are shown as points and never part of the PCA.

In: weights and buffers that a training loop wants to find again. Out: groups `marks/NAME` of the run. Each rank of a
sharded training writes its own below `ranks/r`. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zarr
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError
from landscape_hooks.store import checked, schema
from landscape_hooks.store.folder import WHOLE, check_there
from landscape_hooks.store.run import remove_group, writes
from landscape_hooks.trajectory.rows import bits

CHUNK = 2**22
"""Numbers in one stored chunk."""

MOST = 10_000
"""Marks that a reader takes from one run."""


@dataclass(frozen=True)
class Mark:
    """A named snapshot as it is stored; its weights are read when asked for.

    Attributes
    ----------
    name
        what the loop called it.
    step, epoch, loss, wall_time
        as of a snapshot.
    size, buffer_size
        numbers in its weights and buffers: of what moved by then.
    """

    group: zarr.Group
    name: str
    step: int
    epoch: float
    loss: float
    wall_time: float
    size: int
    buffer_size: int

    def matrix(self, name: str, columns: slice = slice(None)) -> NDArray[Any]:
        """(c,) of its `weights` or `buffers`; bfloat16 is read as float32."""
        return bits.read(checked.array(self.group, name), (columns,), f"marks/{self.name}/{name}")


def check_name(name: str) -> None:
    """A mark may have this name.

    Raises
    ------
    LandscapeError
        it is no path component of letters, digits and . _ -.
    """
    if not isinstance(name, str) or not checked.is_name(name):
        raise LandscapeError(
            f"Found the mark {name!r}", expected="a name of letters, digits and . _ - that begins with one of the first"
        )


@writes
def put_mark(
    root: zarr.Group,
    name: str,
    weights: NDArray[Any],
    buffers: NDArray[Any],
    *,
    step: int,
    wall_time: float,
    epoch: float = math.nan,
    loss: float = math.nan,
) -> None:
    """Write a mark into a run, in place of one of the same name.

    `weights` and `buffers` are as in a row of the trajectory; uint16 are the bits of bfloat16.

    Raises
    ------
    LandscapeError
        the name is no path component of letters, digits and . _ -.
    """
    check_name(name)
    check_there(root.store)
    remove_group(root, f"marks/{name}")
    group = root.require_group("marks").create_group(name, overwrite=True)
    for key, values in (("weights", weights), ("buffers", buffers)):
        array = schema.create(
            root,
            f"marks/{name}/{key}",
            values.shape,
            dtype=values.dtype,
            chunks=(max(1, min(len(values), CHUNK)),),
            compressors=None,
            config=WHOLE,
            attributes=bits.attributes_for(values.dtype),
        )
        for start in range(0, len(values), CHUNK):
            array[start : start + CHUNK] = values[start : start + CHUNK]
    facts = {"epoch": epoch, "loss": loss, "wall_time": wall_time}
    numbers = {key: checked.spell(value) for key, value in facts.items()}
    group.update_attributes({"step": int(step), **numbers, "complete": True})


def read_marks(root: zarr.Group) -> dict[str, Mark]:
    """The marks of a run (or of one rank of a sharded training), by name.

    Raises
    ------
    DamagedRunError
        one of them is not what the format says.
    """
    names = checked.names_of(root, "marks")
    if len(names) > MOST:
        raise checked.damaged(f"The run has {len(names)} marks", expected=f"up to {MOST}")
    found = {}
    for name in names:
        group = checked.group(root, f"marks/{name}")
        if group is not None and group.attrs.get("complete") is True:
            found[name] = _read(group, name)
    return found


def _read(group: zarr.Group, name: str) -> Mark:
    facts: Mapping[str, Any] = group.attrs
    return Mark(
        group,
        name,
        step=checked.whole(facts.get("step"), f"The step of the mark '{name}'"),
        **{
            key: checked.number(facts.get(key), f"'{key}' of the mark '{name}'")
            for key in ("epoch", "loss", "wall_time")
        },
        size=int(checked.array(group, "weights").shape[0]),
        buffer_size=int(checked.array(group, "buffers").shape[0]),
    )
