"""Sorting: which tensors of a model are in every snapshot, and which are stored once.

In: a model. Out: layouts, by what is trained or by the names that were asked for; and the numbers of the tensors that
are stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from landscape_hooks.recording.watch.fixed import is_number, is_plain, pieces
from landscape_hooks.trajectory.modules import class_name, walk, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import Pieces
from landscape_hooks.trajectory.selection import names_matching

STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of running statistics, which move where their module is in training mode."""

WORTH = 100
"""Buffers are stored once where they are more than a snapshot's parameters divided by this."""


def to_store(model: torch.nn.Module, layout: ParameterLayout) -> list[Pieces]:
    """Parameters (or buffers) of a model as `TrajectoryWriter.create(fixed=)` takes them."""
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
    buffers
        floating-point buffers that are stored once.
    """

    moving: ParameterLayout
    still: ParameterLayout
    others: ParameterLayout
    buffers: ParameterLayout = field(default_factory=lambda: ParameterLayout((), kind="buffer"))


def sort_out(model: torch.nn.Module, layout: ParameterLayout, patterns: Sequence[str] = ()) -> Sorted:
    """What snapshots have of a model, and what is stored once; by names, or where there are none by what is trained.

    Raises
    ------
    LayoutError
        a pattern means no parameter.
    """
    if not patterns:
        first, others = split(model, layout)
        return Sorted(first, others, integers(model), still_buffers(model, first))
    wanted = set(names_matching(patterns, [name for entry in layout for name in (entry.name, *entry.aliases)]))
    chosen = [not wanted.isdisjoint((entry.name, *entry.aliases)) for entry in layout]
    moving = [entry for entry, own in zip(layout, chosen, strict=True) if own]
    still = [entry for entry, own in zip(layout, chosen, strict=True) if not own]
    first, others = ParameterLayout.in_order(moving), ParameterLayout.in_order(still)
    return Sorted(first, others, integers(model), still_buffers(model, first))


def split(model: torch.nn.Module, layout: ParameterLayout) -> tuple[ParameterLayout, ParameterLayout]:
    """(what moves, what stands still) of a model: nothing stands still where nothing requires a gradient."""
    if not any(entry.trainable for entry in layout):
        return layout, ParameterLayout(())
    still = [e for e, t in zip(layout, layout.tensors(model), strict=True) if not e.trainable and is_plain(t)]
    names = {entry.name for entry in still}
    return ParameterLayout.in_order([e for e in layout if e.name not in names]), ParameterLayout.in_order(still)


def still_buffers(model: torch.nn.Module, moving: ParameterLayout) -> ParameterLayout:
    """The buffers that are stored once: tables, masks, scales of quantized layers. Whether they move is watched.

    Running statistics in training are none of them. Nor are any where they are a small part of a snapshot.
    """
    every = ParameterLayout.of_buffers(model)
    trained = {
        name for name, _, owner in walk(model, "_buffers") if owner.training and name.rpartition(".")[2] in STATISTICS
    }
    found = [
        entry
        for entry, tensor in zip(every, every.tensors(model), strict=True)
        if trained.isdisjoint((entry.name, *entry.aliases)) and not hasattr(tensor, "full_tensor") and is_plain(tensor)
    ]
    layout = ParameterLayout.in_order([replace(entry, trainable=False) for entry in found], kind="buffer")
    return layout if layout.size * WORTH > moving.size else layout.picked(())


def _packed_layers(model: torch.nn.Module) -> set[int]:
    """Modules that hold packed weights, by `id`: a matrix of integers of at most 32 bits."""
    tensors = walk_tensors(model)
    return {id(owner) for _, tensor, owner in tensors if tensor.ndim >= 2 and _kind(tensor) in PACKED}


def in_packed_layers(model: torch.nn.Module) -> set[str]:
    """Names of the buffers of quantized layers, which are weights as the packed ones are."""
    layers = _packed_layers(model)
    return {name for name, _, owner in walk(model, "_buffers") if id(owner) in layers}


def integers(model: torch.nn.Module) -> ParameterLayout:
    """The tensors of integers of quantized layers: modules that hold a matrix of integers of at most 32 bits."""
    found = [each for each in walk_tensors(model) if not is_number(each[1]) and _kind(each[1]) in bits.INTEGERS]
    layers = _packed_layers(model)
    seen: set[int] = set()
    entries = []
    for name, tensor, owner in found:
        if id(owner) in layers and id(tensor) not in seen and is_plain(tensor):
            seen.add(id(tensor))
            kind, shape = _kind(tensor), tuple(tensor.shape)
            entries.append(
                ParameterEntry(name, shape, kind, 0, tensor.numel(), module=class_name(owner), trainable=False)
            )
    return ParameterLayout.in_order(entries)


PACKED = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
"""Types of packed weights; 64 bits are indices and counters."""


def _kind(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
