"""Checksum: one number for every snapshot, stored on request, by which damage is found later.

In: a snapshot's step, weights and buffers as they are stored. Out: their CRC-32 (that of zlib, gzip and PNG), over the
step as a 64-bit integer, then the weights, then the buffers, then the late columns that the step has, all
little-endian and before any compression. The step
is part of it, so that a row that lies in another one's place is found, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Damage:
    """A snapshot, or a tensor that is stored once for all of them, that is not what was recorded.

    Attributes
    ----------
    index, step
        which one: its number in the trajectory, and its step; both -1 for a tensor that did not move.
    expected, found
        the checksum that was stored, and that of what lies in the store now (None where it cannot even be read).
    reason
        why it cannot be read; empty where it can.
    rank
        whose part of it, in a sharded training; otherwise None.
    tensor
        the tensor that did not move; empty for a snapshot.
    """

    index: int
    step: int
    expected: int
    found: int | None
    reason: str = ""
    rank: int | None = None
    tensor: str = ""

    def __str__(self) -> str:
        whose = "" if self.rank is None else f", rank {self.rank}"
        found = f"{self.found:08x}" if self.found is not None else f"not readable ({self.reason})"
        what = f"snapshot {self.index} (step {self.step}{whose})"
        if self.tensor:
            what = f"the tensor '{self.tensor}', which does not move"
        return f"{what}: checksum {found}, expected {self.expected:08x}"


def checksums(
    steps: NDArray[Any],
    weights: NDArray[Any],
    buffers: NDArray[Any],
    late: Sequence[tuple[int, NDArray[Any]]] = (),
) -> NDArray[np.uint32]:
    """(n,) checksums of n snapshots: steps (n,), weights (n, D), buffers (n, B) in the types they are stored in.

    `late` are columns that begin to move later: the step from which they count, and their rows (n, d).
    """
    found = np.zeros(len(steps), dtype=np.uint32)
    for i, step in enumerate(steps):
        value = zlib.crc32(int(step).to_bytes(8, "little", signed=True))
        for row in (weights[i], buffers[i], *(rows[i] for first, rows in late if step >= first)):
            value = zlib.crc32(np.ascontiguousarray(row, row.dtype.newbyteorder("<")).view(np.uint8).data, value)
        found[i] = value
    return found
