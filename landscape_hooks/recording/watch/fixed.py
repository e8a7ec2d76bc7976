"""FixedTensors: what stood still when recording began, watched for beginning to move.

In: a model and the tensors that are stored once. Out: those that have begun to move since, each told once. Three things
tell it: a tensor that requires a gradient now, other numbers among a few of it that are looked at, and, where its
memory is another one, its checksum. Version counters do not tell (`p.data.add_()` leaves them as they are).

A training moves all numbers of a parameter, so a few of them tell. A loop may write into a part of a buffer (a queue, a
table), so of buffers all numbers are looked at, as sums of their bits; but for those of quantized layers, which are
weights.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.modules import holding_both, real_view, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import CHUNK, Base, Bits, Fixed

RUNS, WIDTH = 64, 16
"""Of each tensor so many runs of so many neighbours are looked at for every snapshot: a line of a cache each."""

LOOKED_AT = RUNS * WIDTH

SWAPS = 3
"""So often a tensor may be found in other memory, and be compared as a whole. Some trainers move it all the time."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class _Known:
    """What a tensor was when it was last looked at."""

    entry: ParameterEntry
    trained: bool
    address: int
    some: torch.Tensor | None
    kind: torch.dtype
    device: torch.device
    whole: bool = False
    swaps: int = 0


@dataclass
class _Group:
    """Tensors that are compared at once, with what they were.

    Attributes
    ----------
    places
        of the tensors among all that are watched.
    strides
        of each, the shape and strides of what is looked at; None where they are found anew.
    """

    then: torch.Tensor
    whole: bool
    places: list[int]
    strides: list[tuple[tuple[int, int], tuple[int, int]] | None]

    @classmethod
    def of(cls, pairs: Sequence[tuple[_Known, torch.Tensor]], places: list[int]) -> _Group:
        """Of the tensors at some places."""
        found = [pairs[place] for place in places]
        then = torch.cat([known.some for known, _ in found if known.some is not None])
        whole = found[0][0].whole
        strides = [None if whole else _strides(tensor) for _, tensor in found]
        return cls(then.view(_BITS[then.element_size()]), whole, places, strides)

    def same(self, pairs: Sequence[tuple[_Known, torch.Tensor]]) -> bool:
        """Whether they are what they were, as far as is looked at."""
        look = _sums if self.whole else _spread
        now = torch.cat([
            look(pairs[place][1]) if how is None else pairs[place][1].as_strided(*how)
            for place, how in zip(self.places, self.strides, strict=True)
        ]).view(self.then.dtype)  # fmt: skip
        return now.shape == self.then.shape and torch.equal(self.then, now)


class FixedTensors:
    """The tensors of a model that are stored once.

    Parameters
    ----------
    model
        the model, unwrapped; it is not kept alive.
    layout
        the tensors that stood still, as they were stored.
    stored
        their stored values; of a run that is gone on with they are compared with the model's.
    joins
        whether tensors that begin to move are to be recorded from then on. Otherwise they are outside of what was asked
        for (`Parameters(...)`), or integers, and `outside` has their names.
    whole
        names of those of which all numbers are looked at.

    Attributes
    ----------
    gone
        what was watched and is no longer in the model, or has another shape there.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: ParameterLayout,
        stored: Fixed,
        *,
        resumed: bool = False,
        joins: bool = True,
        whole: Collection[str] = (),
    ) -> None:
        self._model, self._stored, self.joins = weakref.ref(model), stored, joins
        self._layout, self.outside = layout, dict[str, None]()
        self.gone: list[ParameterEntry] = []
        self._groups: list[_Group] = []
        self._find(layout)
        found = zip(layout, self._locate(), strict=True)
        self._known = [
            _Known(e, bool(t.requires_grad), _address(t), _look(t, e.name in whole), t.dtype, t.device, e.name in whole)
            for e, t in found
        ]
        if resumed:
            for known in self._known:
                known.address = -1  # is compared as a whole with what was stored

    def __len__(self) -> int:
        return len(self._known)

    def moved(self) -> list[ParameterEntry]:
        """The tensors that have begun to move since the last call, as the model has them now."""
        if not self._known:
            return []
        pairs = self._pairs()
        if self._unchanged(pairs):
            return []
        told = self._tell([known for known, tensor in pairs if self._has_moved(known, tensor)])
        if self.joins:
            return told
        self.outside.update(dict.fromkeys(entry.name for entry in told))
        return []

    def unnoticed(self, seconds: float) -> list[str]:
        """Names of the tensors that differ from what was stored, unnoticed; as many as the time allows.

        Of those that are looked at as a whole nothing goes unnoticed: what they are now may be of after the training.
        """
        deadline, found = time.monotonic() + seconds, []
        for known, tensor in self._pairs():
            if not known.whole and not self._as_stored(known, tensor):
                found.append(known.entry.name)
            if time.monotonic() > deadline:
                break
        return found

    def _unchanged(self, pairs: Sequence[tuple[_Known, torch.Tensor]]) -> bool:
        """Whether nothing tells that any has moved; all that is looked at is compared at once, which is quicker."""
        joins = self.joins
        try:
            for known, tensor in pairs:
                if (
                    (known.address and tensor.data_ptr() != known.address and known.swaps < SWAPS)
                    or (joins and tensor.requires_grad and not known.trained)
                    or tensor.dtype is not known.kind
                    or tensor.device != known.device
                ):
                    return False
            self._groups = self._groups or self._grouped(pairs)
            with torch.no_grad():
                return all(group.same(pairs) for group in self._groups)
        except (RuntimeError, TypeError, NotImplementedError):
            return False

    def _grouped(self, pairs: Sequence[tuple[_Known, torch.Tensor]]) -> list[_Group]:
        """What can be compared at once."""
        groups: dict[object, list[int]] = {}
        for place, (known, _) in enumerate(pairs):
            if known.some is not None:
                key = known.some.dtype, known.device, known.some.ndim, known.whole
                groups.setdefault(key, []).append(place)
        return [_Group.of(pairs, places) for places in groups.values()]

    def _has_moved(self, known: _Known, tensor: torch.Tensor) -> bool:
        if self.joins and tensor.requires_grad and not known.trained:
            return True
        if self._layout.kind == "buffer" and tensor.dtype != known.kind:  # rounding is a move
            return not self._holds_exactly(known, tensor)
        now = _look(tensor, known.whole)
        if not _same(known.some, now):
            return True
        if tensor.dtype == known.kind and tensor.device != known.device:
            known.some, known.device, self._groups = now, tensor.device, []
        address = _address(tensor)
        if address != known.address and known.swaps < SWAPS:
            known.address, known.swaps = address, known.swaps + 1
            return not self._as_stored(known, tensor)
        return False

    def _holds_exactly(self, known: _Known, tensor: torch.Tensor) -> bool:
        """Whether a tensor that has another type by now still holds the stored numbers."""
        return self._stored.holds(known.entry.name, pieces(tensor.to(getattr(torch, known.entry.dtype))))

    def _as_stored(self, known: _Known, tensor: torch.Tensor) -> bool:
        """Whether all numbers are what was stored, in the tensor's own type or in the one that it has now."""
        try:
            if str(tensor.dtype) == f"torch.{known.entry.dtype}":
                return self._stored.holds(known.entry.name, pieces(tensor))
            if self._stored.is_elsewhere(known.entry.name):
                return True  # in another type by now, and there is nothing to compare it with
            return all(
                _same(
                    torch.from_numpy(np.array(bits.widened(stored, known.entry.dtype))).to(real_view(part).dtype), part
                )
                for stored, part in self._beside(known.entry, tensor)
            )
        except (RuntimeError, TypeError, NotImplementedError):  # a kind of tensor that has no numbers of its own
            return True

    def _beside(self, entry: ParameterEntry, tensor: torch.Tensor) -> Iterator[tuple[Bits, torch.Tensor]]:
        flat = real_view(tensor.detach()).reshape(-1)
        for start in range(0, len(flat), CHUNK):
            columns = slice(start, start + CHUNK)
            yield self._stored.stored(entry.name, columns), flat[columns].cpu()

    def _tell(self, found: Sequence[_Known]) -> list[ParameterEntry]:
        if not found:
            return []
        now = dict(self._pairs_by_name())
        names = {known.entry.name for known in found}
        self._known = [known for known in self._known if known.entry.name not in names]
        self._find(self._layout.picked([known.entry for known in self._known]))
        return [
            replace(known.entry, dtype=holding_both(known.entry.dtype, now[known.entry.name].dtype), trainable=True)
            for known in found
        ]

    # -- looking them up ----------------------------------------------------------------------------------
    def _find(self, layout: ParameterLayout) -> None:
        self._groups = []
        model = self._model()
        self._locate: Callable[[], Sequence[torch.Tensor]]
        if model is None:
            self._locate = lambda: []
        else:
            self._locate = _ByOwner(layout, model) if layout.kind == "tensor" else layout.locator(model)

    def _pairs(self) -> list[tuple[_Known, torch.Tensor]]:
        try:
            return list(zip(self._known, self._locate(), strict=True))
        except LayoutError:  # merged, removed or reshaped: the others are watched on
            now = dict(self._pairs_by_name())
            self.gone += [known.entry for known in self._known if known.entry.name not in now]
            self._known = [known for known in self._known if known.entry.name in now]
            self._find(self._layout.picked([known.entry for known in self._known]))
            return [(known, now[known.entry.name]) for known in self._known]

    def _pairs_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        model = self._model()
        shapes = {known.entry.name: known.entry.shape for known in self._known}
        for name, tensor, _ in [] if model is None else walk_tensors(model):
            local = getattr(tensor, "_local_tensor", tensor)
            if shapes.get(name) == tuple(local.shape):
                yield name, local


class _ByOwner:
    """Looks up tensors of whatever kind in the modules that had them when it was made."""

    def __init__(self, layout: ParameterLayout, model: torch.nn.Module) -> None:
        self._layout = layout
        tensors = {name: tensor for name, tensor, _ in walk_tensors(model)}
        holders = {
            id(tensor): (held, key)
            for module in model.modules()
            for held in (module._parameters, module._buffers)
            for key, tensor in held.items()
        }
        self._places = [holders[id(tensors[entry.name])] for entry in layout if entry.name in tensors]

    def __call__(self) -> list[torch.Tensor]:
        tensors = [tensor for held, key in self._places if (tensor := held.get(key)) is not None]
        if [tuple(tensor.shape) for tensor in tensors] != [entry.shape for entry in self._layout]:
            raise LayoutError("A tensor of integers is gone, or has another shape")
        return tensors


class Moving:
    """The tensors of a row of the trajectory: those that moved from the beginning, and those that joined them.

    Parameters
    ----------
    model
        the model, unwrapped; it is not kept alive.
    layout
        what moves so far.
    fixed
        what stands still; None where everything is recorded.
    joins
        called with the layout of tensors that begin to move, before they are among the tensors of a row.
    masters
        gives tensors of a wider type in place of the model's, where the run is to have them.
    integers
        tensors of integers, which are looked at beside.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: ParameterLayout,
        fixed: FixedTensors | None,
        joins: Callable[[ParameterLayout], None],
        masters: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]] | None = None,
        integers: FixedTensors | None = None,
    ) -> None:
        self._model, self._layout, self._joins = weakref.ref(model), layout, joins
        self.fixed, self._masters, self._integers = fixed, masters, integers
        self._locate = layout.locator(model)

    def __call__(self) -> list[torch.Tensor]:
        model = self._model()
        if self._integers is not None and model is not None:
            self._integers.moved()
        begun = [] if self.fixed is None or model is None else self.fixed.moved()
        if begun and model is not None:
            self._joins(ParameterLayout.in_order(begun))
            self._layout = self._layout.picked([*self._layout, *begun])
            self._locate = self._layout.locator(model)
        found = self._locate()
        return found if self._masters is None else self._masters(found)

    def wider(self) -> str:
        """The type of a tensor that is wider now than the one it was recorded in; empty if there is none."""
        kinds = [(e.dtype, holding_both(e.dtype, t.dtype)) for e, t in zip(self._layout, self._locate(), strict=True)]
        return next((now for then, now in kinds if now != then), "")

    def as_known(self) -> list[torch.Tensor] | None:
        """The tensors in the places where they were found last, whatever has become of the model since."""
        known = getattr(self._locate, "as_known", None)
        return None if known is None else known()


def pieces(tensor: torch.Tensor) -> Iterator[Bits]:
    """A tensor's numbers in C order as they are stored: in its own type, or its bits where NumPy lacks that."""
    flat = real_view(tensor.detach()).reshape(-1)
    kind = str(tensor.dtype).removeprefix("torch.")
    stored = bits.stored_type(kind)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK].cpu()
        if bits.attributes_of(kind):
            part = part.view(_BITS[part.element_size()])
        yield part.numpy().view(stored)


def base_of(model: torch.nn.Module) -> Base:
    """The model itself as what gives the tensors that its run has by reference."""
    tensors = {name: tensor for name, tensor, _ in walk_tensors(model)}
    return lambda entry: np.concatenate([*pieces(tensors[entry.name])])


def is_number(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of floating-point or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers can be read as they are; of a sharded one, those of the shard."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    try:
        next(pieces(tensor[:0] if tensor.ndim else tensor), None)
        return not tensor.is_meta and _look(tensor) is not None
    except (RuntimeError, TypeError, NotImplementedError, KeyError):
        return False


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _look(tensor: torch.Tensor, whole: bool = False) -> torch.Tensor | None:
    """What tells later whether a tensor has moved, copied: up to `LOOKED_AT` of its numbers, spread over its axes.

    With `whole` the sums of all of them. None of a tensor that has no numbers.
    """
    try:
        with torch.no_grad():
            plain = real_view(tensor.detach())
            return _sums(plain) if whole else _spread(plain).clone()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Int64 numbers that change where any number of a tensor does: its bits, as a square, summed along both sides."""
    flat = real_view(tensor.detach()).reshape(-1)
    words = flat.view(_BITS[flat.element_size()])
    if words.numel() <= LOOKED_AT:
        return words.to(torch.int64)
    side = math.isqrt(words.numel())
    square = words[: side * side].view(side, side)
    rest = words[side * side :].to(torch.int64)
    return torch.cat([square.sum(0, dtype=torch.int64), square.sum(1, dtype=torch.int64), rest])


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """Up to `LOOKED_AT` numbers of a tensor, runs of them all over it; a view where it lies in C order."""
    plain = real_view(tensor)
    if plain.numel() <= LOOKED_AT:
        return plain.reshape(-1)
    how = _strides(plain)
    if how is not None:
        return plain.as_strided(*how)
    step, along = _step(plain), torch.arange(WIDTH, device=plain.device)
    places = torch.arange(RUNS, device=plain.device)[:, None] * step + along
    return plain[torch.unravel_index(places, plain.shape)]


def _strides(tensor: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Shape and strides of what is looked at of a tensor in C order; None of another one, or a small one."""
    if tensor.is_complex() or tensor.numel() <= LOOKED_AT or not tensor.is_contiguous():
        return None
    return (RUNS, WIDTH), (_step(tensor), 1)


def _step(plain: torch.Tensor) -> int:
    """Numbers from the beginning of a run to that of the next."""
    step = (plain.numel() - WIDTH) // (RUNS - 1)
    return step - (step % plain.shape[-1] == 0)  # not always the same columns


def _same(then: torch.Tensor | None, now: torch.Tensor | None) -> bool:
    """Whether two lists of numbers are the same to the bit, in the type and on the device of the second."""
    if then is None or now is None:
        return True
    then = then.to(device=now.device, dtype=now.dtype)
    kind = _BITS[now.element_size()]
    return torch.equal(then.view(kind), now.view(kind))
