"""Sharded training (FSDP2): every rank records its own pieces of the weights; the reader puts them together.

In, while training: a model whose parameters are DTensors. Out: a `ShardLayout`, which flattens what this rank
holds, without any communication. In, afterwards: the pieces as the run's attributes list them. Out: `Runs`, which
say where in the whole vector each number of a rank's row belongs. torch is imported only on the training side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from landscape_hooks.errors import LandscapeError, LayoutError
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_MEND = "The run is damaged: restore it from a copy"

MOST_RUNS = 2**24
"""Stretches that a rank's row may be cut into: a model of 10¹² parameters that is sharded along its last dimension."""


@dataclass(frozen=True)
class Piece:
    """A box of one tensor: its corner and shape, in elements of the whole tensor."""

    name: str
    corner: tuple[int, ...]
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As the run's attribute `pieces` holds it."""
        return {"name": self.name, "corner": list(self.corner), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, piece: dict[str, Any]) -> Piece:
        """The inverse of `to_json`.

        Raises
        ------
        LayoutError
            it is no box.
        """
        try:
            name, corner, shape = piece["name"], tuple(piece["corner"]), tuple(piece["shape"])
        except (KeyError, TypeError) as error:
            raise LayoutError(f"A piece of a sharded tensor has no {error}", mend=_MEND) from error
        if len(corner) != len(shape) or any(type(n) is not int or not 0 <= n < 2**63 for n in (*corner, *shape)):
            raise LayoutError(f"The piece of '{name}' has the corner {corner} and the shape {shape}", mend=_MEND)
        return cls(str(name), corner, shape)


class Runs:
    """Where the numbers of a rank's row belong: stretches that are contiguous both in the row and in the vector."""

    def __init__(self, layout: ParameterLayout, pieces: Sequence[Piece]) -> None:
        targets, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        entries = {entry.name: entry for entry in layout}
        total = 0
        for piece in pieces:
            _check_box(entries.get(piece.name), piece)
            total += math.prod(piece.shape[:-1])
            if total > MOST_RUNS:
                raise LayoutError(f"The pieces are cut into more than {MOST_RUNS} stretches", mend=_MEND)
            start, length = _runs_of(entries[piece.name], piece)
            targets.append(start)
            lengths.append(np.full(len(start), length, dtype=np.int64))
        self._target = np.concatenate(targets)
        self._length = np.concatenate(lengths)
        self._source = np.concatenate([[0], np.cumsum(self._length)[:-1]]) if len(self._length) else self._length
        self.size = int(self._length.sum())

    def scatter(self, out: NDArray[Any], start: int, stop: int, read: Callable[[slice], NDArray[Any]]) -> None:
        """Fill out (n, stop - start), the columns start:stop of the vector, from `read(columns of the row)`."""
        first = np.maximum(self._target, start)
        last = np.minimum(self._target + self._length, stop)
        here = np.flatnonzero(first < last)
        if not len(here):
            return
        source = self._source + first - self._target
        low = int(source[here].min())
        high = int((source + last - first)[here].max())
        found = read(slice(low, high))
        for i in here:
            width = last[i] - first[i]
            at = source[i] - low
            out[:, first[i] - start : last[i] - start] = found[:, at : at + width]


def _check_box(entry: ParameterEntry | None, piece: Piece) -> None:
    """A piece lies in the tensor of its name."""
    if entry is None:
        raise LayoutError(f"The run has a piece of '{piece.name}'", expected="a parameter of its layout", mend=_MEND)
    ends = [c + n for c, n in zip(piece.corner, piece.shape, strict=True)]
    if len(ends) != len(entry.shape) or any(end > n for end, n in zip(ends, entry.shape, strict=True)):
        raise LayoutError(
            f"The piece of '{piece.name}' has the corner {list(piece.corner)} and the shape {list(piece.shape)}",
            expected=f"a box inside of the shape {list(entry.shape)}",
            mend=_MEND,
        )


def _runs_of(entry: ParameterEntry, piece: Piece) -> tuple[NDArray[np.int64], int]:
    """(starts in the vector, length) of the contiguous stretches of a box."""
    pair = (2,) if entry.is_complex else ()
    whole, box = (*entry.shape, *pair), (*piece.shape, *pair)
    corner = (*piece.corner, *(0 for _ in pair))
    if not math.prod(box):
        return np.empty(0, np.int64), 0
    split = len(whole)  # dimensions from `split` on are taken whole; the one before it is the first that need not be
    while split > 0 and box[split - 1] == whole[split - 1]:
        split -= 1
    split = max(0, split - 1)
    strides = [math.prod(whole[i + 1 :]) for i in range(len(whole))]
    starts = np.zeros(1, np.int64)
    for i in range(split):
        starts = (starts[:, None] + (corner[i] + np.arange(box[i])) * strides[i]).reshape(-1)
    starts = starts + sum(corner[i] * strides[i] for i in range(split, len(whole)))
    return entry.offset + starts, math.prod(box[split:])


# -- in a training ----------------------------------------------------------------------------------------
class ShardLayout(ParameterLayout):
    """The layout of what this rank holds and has to record: its pieces of the sharded parameters."""

    def __init__(self, entries: Sequence[ParameterEntry], pieces: Sequence[Piece]) -> None:
        super().__init__(entries)
        self.pieces = list(pieces)

    @classmethod
    def of_rank(cls, model: torch.nn.Module, whole: ParameterLayout) -> ShardLayout:
        """What this rank records of `whole`: its own shards, of replicated parts those of the first replica."""
        import torch.distributed as dist

        entries, pieces, offset = [], [], 0
        for entry, tensor in zip(whole, whole.tensors(model), strict=True):
            box = _box(tensor, dist.get_rank())
            if box is None:
                continue
            shape, corner = box
            size = math.prod(shape) * (2 if entry.is_complex else 1)
            entries.append(
                ParameterEntry(
                    entry.name, shape, entry.dtype, offset, size, entry.aliases, entry.module, entry.groups,
                    entry.trainable,
                )
            )  # fmt: skip
            pieces.append(Piece(entry.name, corner, shape))
            offset += size
        return cls(entries, pieces)

    def picked(self, entries: Sequence[ParameterEntry]) -> ShardLayout:
        """A layout of these pieces that looks them up as this one does."""
        pieces = {piece.name: piece for piece in self.pieces}
        mine = [pieces[entry.name] for entry in entries if entry.name in pieces]
        return ShardLayout(ParameterLayout.in_order(entries).entries, mine)

    def locator(self, model: torch.nn.Module) -> Callable[[], list[torch.Tensor]]:
        """As `tensors`."""
        return lambda: self.tensors(model)

    def tensors(self, model: torch.nn.Module) -> list[torch.Tensor]:
        """This rank's pieces, looked up by name; nothing is gathered."""
        found = dict(model_tensors(model))
        tensors = []
        for entry in self.entries:
            tensor = found.get(entry.name)
            local = None if tensor is None else getattr(tensor, "_local_tensor", tensor)
            if local is None or tuple(local.shape) != entry.shape:
                raise LayoutError(
                    f"The shard of '{entry.name}' is {'missing' if local is None else list(local.shape)}",
                    expected=f"shape {list(entry.shape)}, as when the recording began",
                    mend="Record the model after it was sharded, and do not shard it anew meanwhile",
                )
            tensors.append(local)
        return tensors


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether any parameter is a DTensor."""
    return any(hasattr(tensor, "_local_tensor") for _, tensor in model_tensors(model))


def model_tensors(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """(canonical name, tensor) of the floating-point parameters."""
    from landscape_hooks.trajectory.modules import walk_parameters

    return [(name, tensor) for name, tensor, _ in walk_parameters(model)]


def _box(tensor: torch.Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(shape, corner) of what this rank records of a tensor; None if another rank does."""
    if not hasattr(tensor, "_local_tensor"):
        return (tuple(tensor.shape), (0,) * tensor.ndim) if rank == 0 else None
    from torch.distributed.tensor import Partial, Replicate
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = tensor  # a DTensor
    mesh, placements = sharded.device_mesh, sharded.placements
    if any(isinstance(p, Partial) for p in placements):
        raise LandscapeError("Found a parameter with partial sums on several ranks", expected="shards or replicas")
    coordinate = mesh.get_coordinate()
    if coordinate is None or any(c and isinstance(p, Replicate) for c, p in zip(coordinate, placements, strict=True)):
        return None
    shape, corner = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return tuple(int(n) for n in shape), tuple(int(n) for n in corner)


class Ranks:
    """The ranks of this training, and the little that they say to each other when a recording begins.

    With `communicate=False` they say nothing: a replicated training may call record() on its first rank only. `model`
    is what each of them holds: NCCL sends by the GPU that is the current one, so it is made that of the model. A
    training that never calls `torch.cuda.set_device` would send by the first GPU from all ranks, which NCCL refuses.
    """

    def __init__(self, model: torch.nn.Module | None = None, *, communicate: bool = True) -> None:
        import torch.distributed as dist

        held = [] if model is None else [getattr(t, "_local_tensor", t) for _, t in model_tensors(model)]
        self._device = next((tensor.device for tensor in held if tensor.is_cuda), None)

        running = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if running else 0
        self.count = dist.get_world_size() if running else 1
        self._dist = dist if running and communicate else None

    def all(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        from landscape_hooks.device.copies import current

        if self._dist is None:
            return [value]
        values: list[Any] = [None] * self.count
        with current(self._device):
            self._dist.all_gather_object(values, value)
        return values

    def together(self, action: Callable[[], T]) -> T:
        """Do it on every rank; where it fails on one, all of them raise, instead of waiting for the one for ever."""
        error: Exception | None = None
        result: Any = None
        try:
            result = action()
        except Exception as trouble:
            error = trouble
        messages = self.all(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise LandscapeError(f"On rank {rank}: {message}")
        return result
