"""FixedTensors: what stood still when recording began, watched for beginning to move.

In: a model and the tensors that are stored once. Out: those that have begun to move since, each told once. Three things
tell it: a tensor that requires a gradient now, other numbers among a few of it that are looked at, and, where its
memory is another one, its checksum. Version counters do not tell (`p.data.add_()` leaves them as they are).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.modules import class_name, real_view, walk_parameters, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import CHUNK, Base, Bits, Fixed, Pieces
from landscape_hooks.trajectory.selection import names_matching

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
    swaps: int = 0


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
        for (`Parameters(...)`), and `outside` has their names.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: ParameterLayout,
        stored: Fixed,
        *,
        resumed: bool = False,
        joins: bool = True,
    ) -> None:
        self._model, self._stored, self.joins = weakref.ref(model), stored, joins
        self._layout, self.outside = layout, dict[str, None]()
        self._looked_at: dict[tuple[torch.dtype, torch.device, int], torch.Tensor] = {}
        self._find(layout)
        found = zip(layout, self._locate(), strict=True)
        self._known = [_Known(e, bool(t.requires_grad), _address(t), _some(t)) for e, t in found]
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
        """Names of the tensors that differ from what was stored, unnoticed; as many as the time allows."""
        deadline, found = time.monotonic() + seconds, []
        for known, tensor in self._pairs():
            if not self._as_stored(known, tensor):
                found.append(known.entry.name)
            if time.monotonic() > deadline:
                break
        return found

    def integers_moved(self) -> list[str]:
        """Names of the tensors of integers that are not what was stored."""
        model, found = self._model(), []
        for name, tensor, _ in [] if model is None or not len(self._stored.others) else walk_tensors(model):
            if name in self._stored and not is_number(tensor):
                try:
                    same = self._stored.holds(name, pieces(tensor))
                except (RuntimeError, TypeError, NotImplementedError):
                    same = True
                found += [] if same else [name]
        return found

    def _unchanged(self, pairs: Sequence[tuple[_Known, torch.Tensor]]) -> bool:
        """Whether nothing tells that any has moved; all that is looked at is compared at once, which is quicker."""
        groups: dict[tuple[torch.dtype, torch.device, int], list[tuple[_Known, torch.Tensor]]] = {}
        for known, tensor in pairs:
            some, elsewhere = known.some, _address(tensor) != known.address and known.swaps < SWAPS
            if some is None or elsewhere or (self.joins and tensor.requires_grad and not known.trained):
                return False
            if tensor.dtype != some.dtype or tensor.device != some.device:
                return False
            groups.setdefault((some.dtype, some.device, some.ndim), []).append((known, tensor))
        try:
            with torch.no_grad():
                return all(self._same_at_once(key, found) for key, found in groups.items())
        except (RuntimeError, TypeError, NotImplementedError):
            return False

    def _same_at_once(
        self, key: tuple[torch.dtype, torch.device, int], found: Sequence[tuple[_Known, torch.Tensor]]
    ) -> bool:
        kind = _BITS[key[0].itemsize]
        then = self._looked_at.get(key)
        if then is None:
            then = torch.cat([known.some for known, _ in found if known.some is not None]).view(kind)
            self._looked_at[key] = then
        now = torch.cat([_spread(tensor) for _, tensor in found]).view(kind)
        return then.shape == now.shape and torch.equal(then, now)

    def _has_moved(self, known: _Known, tensor: torch.Tensor) -> bool:
        if self.joins and tensor.requires_grad and not known.trained:
            return True
        if not _same(known.some, _some(tensor)):
            return True
        address = _address(tensor)
        if address != known.address and known.swaps < SWAPS:
            known.address, known.swaps = address, known.swaps + 1
            return not self._as_stored(known, tensor)
        return False

    def _as_stored(self, known: _Known, tensor: torch.Tensor) -> bool:
        """Whether all numbers are what was stored, in the tensor's own type or in the one that it has now."""
        try:
            if str(tensor.dtype) == f"torch.{known.entry.dtype}":
                return self._stored.holds(known.entry.name, pieces(tensor))
            if self._stored.reference:
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
            replace(known.entry, dtype=str(now[known.entry.name].dtype).removeprefix("torch."), trainable=True)
            for known in found
        ]

    # -- looking them up ----------------------------------------------------------------------------------
    def _find(self, layout: ParameterLayout) -> None:
        self._looked_at = {}
        model = self._model()
        self._locate: Callable[[], Sequence[torch.Tensor]] = (lambda: []) if model is None else layout.locator(model)

    def _pairs(self) -> list[tuple[_Known, torch.Tensor]]:
        try:
            return list(zip(self._known, self._locate(), strict=True))
        except LayoutError:  # merged, removed or reshaped: the others are watched on
            now = dict(self._pairs_by_name())
            self._known = [known for known in self._known if known.entry.name in now]
            self._find(self._layout.picked([known.entry for known in self._known]))
            return [(known, now[known.entry.name]) for known in self._known]

    def _pairs_by_name(self) -> Iterator[tuple[str, torch.Tensor]]:
        model = self._model()
        shapes = {known.entry.name: known.entry.shape for known in self._known}
        for name, tensor, _ in [] if model is None else walk_parameters(model):
            local = getattr(tensor, "_local_tensor", tensor)
            if shapes.get(name) == tuple(local.shape):
                yield name, local


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
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layout: ParameterLayout,
        fixed: FixedTensors | None,
        joins: Callable[[ParameterLayout], None],
        masters: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]] | None = None,
    ) -> None:
        self._model, self._layout, self._joins = weakref.ref(model), layout, joins
        self.fixed, self._masters = fixed, masters
        self._locate = layout.locator(model)

    def __call__(self) -> list[torch.Tensor]:
        model = self._model()
        begun = [] if self.fixed is None or model is None else self.fixed.moved()
        if begun and model is not None:
            self._joins(ParameterLayout.in_order(begun))
            self._layout = self._layout.picked([*self._layout, *begun])
            self._locate = self._layout.locator(model)
        found = self._locate()
        return found if self._masters is None else self._masters(found)

    def retyped(self) -> bool:
        """Whether a tensor has another type now than it was recorded in (`model.half()`)."""
        return any(str(t.dtype) != f"torch.{e.dtype}" for e, t in zip(self._layout, self._locate(), strict=True))

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


def to_store(model: torch.nn.Module, layout: ParameterLayout) -> list[Pieces]:
    """Tensors of a model as `TrajectoryWriter.create(fixed=)` takes them."""
    found = zip(layout, layout.tensors(model), strict=True)
    return [(entry, lambda tensor=tensor: pieces(tensor)) for entry, tensor in found]  # type: ignore[misc]


def integers_to_store(model: torch.nn.Module, others: ParameterLayout) -> list[Pieces]:
    """The same of tensors of integers."""
    found = {name: tensor for name, tensor, _ in walk_tensors(model)}
    return [(entry, lambda tensor=found[entry.name]: pieces(tensor)) for entry in others]  # type: ignore[misc]


@dataclass(frozen=True)
class Sorted:
    """The tensors of a model by how a run has them.

    Attributes
    ----------
    moving, still
        parameters that are in every snapshot, and those that are stored once.
    others
        tensors of integers of quantized layers, which are stored once, too.
    """

    moving: ParameterLayout
    still: ParameterLayout
    others: ParameterLayout


def sort_out(model: torch.nn.Module, layout: ParameterLayout, patterns: Sequence[str] = ()) -> Sorted:
    """What snapshots have of a model, and what is stored once; by names, or where there are none by what is trained.

    Raises
    ------
    LayoutError
        a pattern means no parameter.
    """
    if not patterns:
        return Sorted(*split(model, layout), integers(model))
    wanted = set(names_matching(patterns, [name for entry in layout for name in (entry.name, *entry.aliases)]))
    chosen = [not wanted.isdisjoint((entry.name, *entry.aliases)) for entry in layout]
    moving = [entry for entry, own in zip(layout, chosen, strict=True) if own]
    still = [entry for entry, own in zip(layout, chosen, strict=True) if not own]
    return Sorted(ParameterLayout.in_order(moving), ParameterLayout.in_order(still), integers(model))


def split(model: torch.nn.Module, layout: ParameterLayout) -> tuple[ParameterLayout, ParameterLayout]:
    """(what moves, what stands still) of a model: nothing stands still where nothing requires a gradient."""
    if not any(entry.trainable for entry in layout):
        return layout, ParameterLayout(())
    still = [e for e, t in zip(layout, layout.tensors(model), strict=True) if not e.trainable and _plain(t)]
    names = {entry.name for entry in still}
    return ParameterLayout.in_order([e for e in layout if e.name not in names]), ParameterLayout.in_order(still)


def integers(model: torch.nn.Module) -> ParameterLayout:
    """The tensors of integers of quantized layers: modules that hold a matrix of integers of at most 32 bits."""
    found = [each for each in walk_tensors(model) if not is_number(each[1]) and _kind(each[1]) in bits.INTEGERS]
    layers = {id(owner) for _, tensor, owner in found if tensor.ndim >= 2 and _kind(tensor) in PACKED}
    seen: set[int] = set()
    entries = []
    for name, tensor, owner in found:
        if id(owner) in layers and id(tensor) not in seen and _plain(tensor):
            seen.add(id(tensor))
            kind, shape = _kind(tensor), tuple(tensor.shape)
            entries.append(
                ParameterEntry(name, shape, kind, 0, tensor.numel(), module=class_name(owner), trainable=False)
            )
    return ParameterLayout.in_order(entries)


PACKED = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
"""Types of packed weights; 64 bits are indices and counters."""


def is_number(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of floating-point or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def base_of(model: torch.nn.Module) -> Base:
    """The model itself as what gives the tensors that its run has by reference."""
    tensors = {name: tensor for name, tensor, _ in walk_tensors(model)}
    return lambda entry: np.concatenate([*pieces(tensors[entry.name])])


def _plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers can be read as they are; of a sharded one, those of the shard."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    try:
        next(pieces(tensor[:0] if tensor.ndim else tensor), None)
        return not tensor.is_meta and _some(tensor) is not None
    except (RuntimeError, TypeError, NotImplementedError, KeyError):
        return False


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _some(tensor: torch.Tensor) -> torch.Tensor | None:
    """Up to `LOOKED_AT` numbers of a tensor, spread over its axes, copied; None of a tensor that has no numbers."""
    try:
        with torch.no_grad():
            return _spread(real_view(tensor.detach())).clone()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _spread(plain: torch.Tensor) -> torch.Tensor:
    """Up to `LOOKED_AT` numbers of a tensor, runs of them all over it; a view where it lies in C order."""
    count = plain.numel()
    if count <= LOOKED_AT:
        return plain.reshape(-1)
    step = (count - WIDTH) // (RUNS - 1)
    step -= step % plain.shape[-1] == 0  # not always the same columns
    if plain.is_contiguous():
        return plain.as_strided((RUNS, WIDTH), (step, 1))
    places = torch.arange(RUNS, device=plain.device)[:, None] * step + torch.arange(WIDTH, device=plain.device)
    return plain[torch.unravel_index(places, plain.shape)]


def _same(then: torch.Tensor | None, now: torch.Tensor | None) -> bool:
    """Whether two lists of numbers are the same to the bit, in the type and on the device of the second."""
    if then is None or now is None:
        return True
    then = then.to(device=now.device, dtype=now.dtype)
    kind = _BITS[now.element_size()]
    return torch.equal(then.view(kind), now.view(kind))
