"""StoredPlane: a plane whose origin and directions stay in the run, and are read again for every point.

In: the group of a surface. Out: what a Plane gives, bit for bit, with one vector as long as the weights in memory, the
point itself, where a Plane holds four. It costs reading three such vectors a point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zarr

from landscape_hooks.plane.plane import Plane
from landscape_hooks.store import checked

BLOCK = 2**20
"""Parameters at a time: as many as SurfaceWriter stores in a chunk."""


class StoredPlane:
    """The points `origin + alpha·directions[0] + beta·directions[1]` of the arrays in a surface's group."""

    def __init__(self, group: zarr.Group, device: torch.device | str = "cpu") -> None:
        self._origin, self._directions = checked.array(group, "origin"), checked.array(group, "directions")
        self.size = int(self._origin.shape[0])
        self.dtype: torch.dtype = getattr(torch, str(self._origin.dtype))
        self.device = torch.device(device)
        self.is_line = not any(np.any(self._directions[1, columns]) for columns in self._blocks())

    def to(self, device: torch.device | str) -> StoredPlane:
        """The same plane whose points are made on another device."""
        other = object.__new__(StoredPlane)
        other.__dict__.update({**self.__dict__, "device": torch.device(device)})
        return other

    def point(self, alpha: float, beta: float, out: torch.Tensor | None = None) -> torch.Tensor:
        """(D,) weights at (alpha, beta), written block by block into one vector."""
        result = torch.empty(self.size, dtype=self.dtype, device=self.device) if out is None else out
        for columns in self._blocks():
            block = self._read(self._origin, columns)
            torch.add(block, self._read(self._directions, (0, columns)), alpha=alpha, out=result[columns])
            if not self.is_line:
                result[columns].add_(self._read(self._directions, (1, columns)), alpha=beta)
        return result

    def _blocks(self) -> list[slice]:
        return [slice(i, min(i + BLOCK, self.size)) for i in range(0, self.size, BLOCK)]

    def _read(self, array: zarr.Array[Any], where: slice | tuple[int, slice]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[where])).to(self.dtype).to(self.device)


def stored_plane(root: zarr.Group, surface: str, stream: bool) -> Plane | StoredPlane:
    """The plane of a surface in the run: in memory, or left in the run (`stream`)."""
    group = checked.group(root, f"surfaces/{surface}")
    if group is None:
        raise checked.damaged(f"The surface '{surface}' is not there any more")
    return StoredPlane(group) if stream else Plane(checked.read(group, "origin"), checked.read(group, "directions"))
