"""The order in which a model's tensors become one vector: names, shapes, types and offsets.

In: a model, however wrapped. Out: a `ParameterLayout`, stored in the run as its manifest, and the two
inverse functions that share it: `flatten(model) -> (D,)` and `assign(model, theta)`. The layout itself is
plain data, so a run is read without torch; torch is imported inside the functions that touch a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.modules import Locator, class_name, copy_into, is_lazy, real_view, walk, whole

if TYPE_CHECKING:
    import torch

_TYPES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32")
"""Floating-point types of parameters that a manifest may name; beside them only torch's float8 and smaller ones."""

_HALVES = {"complex32": "float16", "float8_e5m2": "float16", "float8_e4m3fn": "float16"}
"""Types whose numbers are numbers of another one."""


@dataclass(frozen=True)
class ParameterEntry:
    """One tensor of the flattened vector.

    Attributes
    ----------
    name
        the canonical name (no `module.`, `_orig_mod.` or the like, at any depth).
    shape
        the tensor's own shape; unsharded, and of complex elements where it is complex.
    dtype
        the tensor's own data type as torch spells it (`float32`, `bfloat16`, `complex64`, ...).
    offset, size
        place in the vector, counted in real numbers (a complex element is two of them).
    aliases
        further names of the same tensor (tied weights).
    module
        the nearest `torch.nn` class of the module that owns it (`Linear`, `ConvTranspose2d`, ...; `Module` if none).
    groups
        groups of a convolution, otherwise 1.
    trainable
        whether it required a gradient when the layout was made.
    outputs
        axes that number its filters, where the owner says so itself (`filter_axes`: parameters that are not of
        torch's own layers); () has none, None is what `module` implies.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int
    aliases: tuple[str, ...] = ()
    module: str = "Module"
    groups: int = 1
    trainable: bool = True
    outputs: tuple[int, ...] | None = None

    @property
    def slice(self) -> slice:
        """Where the tensor lies in the vector."""
        return slice(self.offset, self.offset + self.size)

    @property
    def is_complex(self) -> bool:
        """Whether two numbers of the vector make one element."""
        return self.dtype.startswith("complex")


class ParameterLayout(Sequence[ParameterEntry]):
    """The entries of a flattened vector, in `named_parameters()` order, tied tensors once."""

    def __init__(self, entries: Sequence[ParameterEntry], *, kind: str = "parameter") -> None:
        self.entries = tuple(entries)
        self.kind = kind
        self.size = sum(entry.size for entry in self.entries)

    # -- from a model ---------------------------------------------------------------------------------
    @classmethod
    def of(cls, model: torch.nn.Module) -> ParameterLayout:
        """The layout of a model's floating-point parameters.

        Raises
        ------
        LayoutError
            the model has none, or one of them is not initialised yet (a lazy module).
        """
        layout = cls(_entries(walk(model, "_parameters")))
        if not layout.entries:
            raise LayoutError(
                f"The model ({type(model).__name__}) has no floating-point parameters",
                expected="a torch.nn.Module with weights to follow",
            )
        return layout

    @classmethod
    def of_buffers(cls, model: torch.nn.Module) -> ParameterLayout:
        """The layout of a model's floating-point buffers, running statistics among them; it may be empty.

        Integer buffers (counters, indices) are left alone.
        """
        return cls(_entries(walk(model, "_buffers")), kind="buffer")

    @classmethod
    def in_order(cls, entries: Sequence[ParameterEntry], *, kind: str = "parameter") -> ParameterLayout:
        """A layout of these tensors, one after the other, wherever they lay before."""
        starts = accumulate((entry.size for entry in entries), initial=0)
        return cls([replace(entry, offset=start) for entry, start in zip(entries, starts, strict=False)], kind=kind)

    def picked(self, entries: Sequence[ParameterEntry]) -> ParameterLayout:
        """A layout of these tensors that looks them up as this one does."""
        return ParameterLayout.in_order(entries, kind=self.kind)

    # -- what it holds --------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, key: int | str) -> ParameterEntry: ...

    @overload
    def __getitem__(self, key: slice) -> Sequence[ParameterEntry]: ...

    def __getitem__(self, key: int | str | slice) -> ParameterEntry | Sequence[ParameterEntry]:
        """The entry at a position, or of a name (an alias counts)."""
        if not isinstance(key, str):
            return self.entries[key]
        for entry in self.entries:
            if key == entry.name or key in entry.aliases:
                return entry
        raise KeyError(key)

    def __iter__(self) -> Iterator[ParameterEntry]:
        return iter(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterLayout) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"ParameterLayout({len(self)} {self.kind}s, size={self.size}, dtype={self.dtype})"

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical names, in order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def dtype(self) -> str:
        """The data type the vector needs: float64 where any tensor has 64-bit reals, otherwise float32."""
        return "float64" if any(e.dtype in ("float64", "complex128") for e in self.entries) else "float32"

    @property
    def row_dtype(self) -> str:
        """The narrowest type, as torch spells it, that holds every tensor exactly: what a run stores rows in.

        bfloat16 or float16 where all tensors are of that type, float64 where any has 64-bit reals, otherwise float32.
        """
        kinds = {_HALVES.get(entry.dtype, entry.dtype) for entry in self.entries}
        return kinds.pop() if kinds in ({"bfloat16"}, {"float16"}) else self.dtype

    # -- between model and vector: two inverse functions -----------------------------------------------
    def flatten(self, model: torch.nn.Module, out: torch.Tensor | None = None) -> torch.Tensor:
        """The model's tensors as one vector (D,) of `dtype`, on their device (on the CPU if there are several).

        Sharded tensors (DTensor) are gathered, which every rank has to take part in.
        """
        import torch

        tensors = [whole(tensor) for tensor in self.tensors(model)]
        for entry, tensor in zip(self.entries, tensors, strict=True):
            if tensor.is_meta:
                raise LayoutError(
                    f"The {self.kind} '{entry.name}' is on the meta device and has no values",
                    mend="Materialise the model first (to_empty, load_state_dict)",
                )
        devices = {tensor.device for tensor in tensors}
        if out is None:
            device = devices.pop() if len(devices) == 1 else torch.device("cpu")
            out = torch.empty(self.size, dtype=getattr(torch, self.dtype), device=device)
        copy_into(self.slots(out), tensors)
        return out

    def assign(self, model: torch.nn.Module, theta: torch.Tensor) -> None:
        """Write the vector (D,) into the model's tensors, in place.

        Raises
        ------
        LayoutError
            the model does not have these tensors, or the vector another length.
        """
        import torch

        tensors = self.tensors(model)
        with torch.no_grad():
            for tensor, value in zip(tensors, self.slots(theta), strict=True):
                if hasattr(tensor, "full_tensor"):
                    from torch.distributed.tensor import DTensor, distribute_tensor

                    assert isinstance(tensor, DTensor)
                    value = distribute_tensor(value.to(tensor.dtype), tensor.device_mesh, tensor.placements)
                real_view(tensor).copy_(value)

    def views(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """The vector (D,) as named tensors: shaped views of it, cast to each tensor's own type (differentiable)."""
        import torch

        named: dict[str, torch.Tensor] = {}
        for entry, slot in zip(self.entries, self.slots(theta), strict=True):
            value = torch.complex(slot[..., 0], slot[..., 1]) if entry.is_complex else slot
            named[entry.name] = value.to(getattr(torch, entry.dtype))
        return named

    def slots(self, theta: torch.Tensor) -> list[torch.Tensor]:
        """Views of the vector (D,), in order, shaped but not cast; complex ones end in (real, imaginary)."""
        if theta.shape != (self.size,):
            raise LayoutError(
                f"Found a vector of shape {tuple(theta.shape)}",
                expected=f"({self.size},), one number for every {self.kind} of the layout",
            )
        views = []
        for entry in self.entries:
            views.append(
                theta[entry.slice].view(*entry.shape, 2) if entry.is_complex else theta[entry.slice].view(entry.shape)
            )
        return views

    def tensors(self, model: torch.nn.Module) -> list[torch.Tensor]:
        """The model's own tensors in the order of the layout, looked up by name.

        Looked up anew at every call: `p.data = ...`, `load_state_dict(assign=True)` or a replaced module
        leave an earlier list stale.

        Raises
        ------
        LayoutError
            one of them is missing or has another shape.
        """
        found = {name: t for name, t, *_ in self._walk(model)}
        tensors = []
        for entry in self.entries:
            tensor = found.get(entry.name)
            if tensor is None:
                raise self._mismatch(f"The model has no {self.kind} '{entry.name}'", list(entry.shape))
            if tuple(tensor.shape) != entry.shape:
                raise self._mismatch(f"The {self.kind} '{entry.name}' has shape {list(tensor.shape)}", entry.shape)
            tensors.append(tensor)
        return tensors

    def untied(self, model: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(tensor, its alias) of those with further names that are two tensors in a model.

        Loading by assignment unties a model. `assign` writes into the first tensor alone.
        """
        found = {name: tensor for name, tensor, *_ in self._walk(model)}
        return [
            (found[entry.name], found[alias])
            for entry in self.entries
            for alias in entry.aliases
            if alias in found and entry.name in found and found[alias] is not found[entry.name]
        ]

    def _walk(self, model: torch.nn.Module) -> list[tuple[str, torch.Tensor, torch.nn.Module]]:
        return walk(model, "_parameters" if self.kind == "parameter" else "_buffers")

    def locator(self, model: torch.nn.Module) -> Callable[[], list[torch.Tensor]]:
        """A function that does what `tensors(model)` does, quicker: for a look-up at every step of a training."""
        return Locator(self, model)

    def check(self, other: torch.nn.Module | ParameterLayout) -> None:
        """Raise LayoutError, naming the tensor, unless a model (or another layout) has the same names and shapes."""
        if not isinstance(other, ParameterLayout):
            other = type(self).of(other) if self.kind == "parameter" else type(self).of_buffers(other)
        mine = {entry.name: entry for entry in self.entries}
        theirs = {entry.name: entry for entry in other.entries}
        for name, entry in mine.items():
            if name not in theirs:
                raise self._mismatch(f"The model has no {self.kind} '{name}'", entry.shape)
            if theirs[name].shape != entry.shape:
                raise self._mismatch(f"The {self.kind} '{name}' has shape {list(theirs[name].shape)}", entry.shape)
        for name, entry in theirs.items():
            if name not in mine:
                raise self._mismatch(f"The model has a {self.kind} '{name}' of shape {list(entry.shape)}", None)
        if self.names != other.names:
            raise self._mismatch(f"The model has the same {self.kind}s in another order", None)

    def check_set(self, other: ParameterLayout) -> None:
        """As `check`, whatever the order of the tensors is."""
        known = {entry.name: place for place, entry in enumerate(self.entries)}
        self.check(type(self)(sorted(other.entries, key=lambda entry: known.get(entry.name, len(known)))))

    def _mismatch(self, found: str, shape: Sequence[int] | None) -> LayoutError:
        expected = f"shape {list(shape)}, as recorded" if shape is not None else f"only the {self.kind}s of the run"
        return LayoutError(found, expected=expected, mend="Use the model that the run was recorded with")

    # -- as the manifest of a run ----------------------------------------------------------------------
    def to_json(self) -> list[dict[str, Any]]:
        """The entries as JSON-able dictionaries (what the run's attributes `layout` and `buffer_layout` hold)."""
        return [
            {
                "name": e.name,
                "shape": list(e.shape),
                "dtype": e.dtype,
                "offset": e.offset,
                "size": e.size,
                "aliases": list(e.aliases),
                "module": e.module,
                "groups": e.groups,
                "trainable": e.trainable,
                **({} if e.outputs is None else {"outputs": list(e.outputs)}),
            }
            for e in self.entries
        ]

    @classmethod
    def from_json(
        cls, entries: Sequence[dict[str, Any]], *, kind: str = "parameter", types: Sequence[str] = _TYPES
    ) -> ParameterLayout:
        """The inverse of `to_json`; `types` are those that the tensors may have.

        Raises
        ------
        LayoutError
            the entries are not what the format says: one after the other, each as large as its shape.
        """
        found: list[ParameterEntry] = []
        try:
            for e in entries:
                found.append(_read_entry(e, types, sum_to=found[-1].offset + found[-1].size if found else 0))
            names = [name for entry in found for name in (entry.name, *entry.aliases)]
            if len(set(names)) < len(names):
                raise ValueError("a name occurs twice")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LayoutError(
                f"The run's list of {kind}s is damaged at entry {len(found)} ({type(error).__name__}: {error})",
                expected="tensors one after the other, each as large as its shape",
                mend="Restore the run from a copy",
            ) from error
        return cls(found, kind=kind)


def _read_entry(entry: dict[str, Any], types: Sequence[str], *, sum_to: int) -> ParameterEntry:
    """One entry of a manifest of any origin, checked to begin at `sum_to`."""
    shape, dtype = entry["shape"], entry["dtype"]
    numbers = [*shape, entry["offset"], entry["size"], entry.get("groups", 1)]
    if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
        raise ValueError("a shape, offset, size or number of groups is no whole number from 0 on")
    if dtype not in types and not (types is _TYPES and dtype.startswith(("float8", "float4"))):
        raise ValueError(f"the type {dtype!r} is none that such a tensor has")
    if entry["size"] != math.prod(shape) * (2 if dtype.startswith("complex") else 1):
        raise ValueError(f"the size {entry['size']} is not that of the shape {shape}")
    if entry["offset"] != sum_to:
        raise ValueError(f"the offset is {entry['offset']}, not {sum_to}")
    texts = [entry["name"], entry.get("module", "Module"), *entry.get("aliases", ())]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")
    outputs = entry.get("outputs")
    if outputs is not None and any(type(n) is not int or not 0 <= n < len(shape) for n in outputs):
        raise ValueError(f"the output dimensions {outputs!r} are none of the shape {shape}")
    return ParameterEntry(
        name=entry["name"],
        shape=tuple(shape),
        dtype=dtype,
        offset=sum_to,
        size=entry["size"],
        aliases=tuple(entry.get("aliases", ())),
        module=entry.get("module", "Module"),
        groups=max(1, entry.get("groups", 1)),
        trainable=bool(entry.get("trainable", True)),
        outputs=None if outputs is None else tuple(outputs),
    )


def _entries(walk: Sequence[tuple[str, torch.Tensor, torch.nn.Module]]) -> list[ParameterEntry]:
    first: dict[int, int] = {}
    rows: list[tuple[str, torch.Tensor, torch.nn.Module, list[str]]] = []
    for name, tensor, owner in walk:
        if id(tensor) in first:
            rows[first[id(tensor)]][3].append(name)
            continue
        if is_lazy(tensor):
            raise LayoutError(
                f"The parameter '{name}' is not initialised yet (a lazy module)",
                expected="a model whose shapes are known",
                mend="Run one batch through the model before record()",
            )
        first[id(tensor)] = len(rows)
        rows.append((name, tensor, owner, []))
    entries, offset = [], 0
    for name, tensor, owner, aliases in rows:
        size = tensor.numel() * (2 if tensor.is_complex() else 1)
        entries.append(
            ParameterEntry(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                offset=offset,
                size=size,
                aliases=tuple(aliases),
                module=class_name(owner),
                groups=int(getattr(owner, "groups", 1)) if _is_convolution(owner) else 1,
                trainable=bool(tensor.requires_grad),
                outputs=getattr(owner, "filter_axes", {}).get(name.rpartition(".")[2]),
            )
        )
        offset += size
    return entries


def _is_convolution(module: torch.nn.Module) -> bool:
    return class_name(module).startswith("Conv")
