"""Layouts of an import: which tensors of the checkpoints are recorded, and in which order they make a row.

In: the checkpoints' names and shapes, with the model, an Objective, or neither. Out: what moves, what stands still and
the buffers, as `record()` would have it, and where each tensor is in each checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import zarr

from landscape_hooks.errors import CheckpointError
from landscape_hooks.recording.opening.sorting import sort_out
from landscape_hooks.store import checked
from landscape_hooks.trajectory.checkpoints.checkpoint import WEIGHTS, Checkpoint, StateDict
from landscape_hooks.trajectory.checkpoints.matching import Match, bare, match
from landscape_hooks.trajectory.modules import unwrap, walk, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of running statistics, which are buffers."""

SHOWN = 4

FLAT = "These are flat parameters of FSDP: save a full state dict (StateDictType.FULL_STATE_DICT)"


@dataclass(frozen=True)
class Layouts:
    """What a run of checkpoints holds.

    Attributes
    ----------
    moving, still
        the parameters in a row, and those that are stored once.
    buffers
        the floating-point buffers.
    others
        tensors of integers of quantized layers, which are stored once, too.
    still_buffers
        those of the buffers that are stored once.
    own
        all tensors of the model, by name; empty where there is none.
    optional
        names of those that no checkpoint of a whole model has either (buffers that are not saved).
    """

    moving: ParameterLayout
    still: ParameterLayout
    buffers: ParameterLayout
    others: ParameterLayout = field(default_factory=lambda: ParameterLayout(()))
    still_buffers: ParameterLayout = field(default_factory=lambda: ParameterLayout((), kind="buffer"))
    own: Mapping[str, torch.Tensor] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    @property
    def entries(self) -> list[ParameterEntry]:
        """All of them."""
        return [*self.moving, *self.still, *self.buffers, *self.others]

    @classmethod
    def of_model(cls, model: torch.nn.Module) -> Layouts:
        """Those that `record()` chooses.

        Raises
        ------
        LayoutError
            the model has no parameters, or lazy ones.
        """
        layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
        found = sort_out(unwrap(model), layout)
        moving, still, others = found.moving, found.still, found.others
        if not any(entry.trainable for entry in moving):  # a finished model, frozen as a whole: all of it was trained
            moving = ParameterLayout([replace(entry, trainable=True) for entry in moving])
        own = dict(zip(layout.names, layout.tensors(model), strict=True))
        own |= dict(zip(buffers.names, buffers.tensors(model), strict=True))
        own |= {name: tensor for name, tensor, _ in walk_tensors(unwrap(model)) if name in others.names}
        unsaved = frozenset(
            name
            for name, _, owner in walk(model, "_buffers")
            if name.rpartition(".")[2] in getattr(owner, "_non_persistent_buffers_set", ())
        )
        return cls(moving, still, buffers, others, found.buffers, own, unsaved.union(others.names))

    def as_in(self, root: zarr.Group) -> Layouts:
        """The same tensors in the order of a run that is gone on with, whose fixed tensors stay fixed.

        Raises
        ------
        LayoutError
            the run has other tensors.
        """
        known = Layouts.of_run(root)
        ParameterLayout.in_order([*known.moving, *known.still]).check_set(
            ParameterLayout.in_order([*self.moving, *self.still])
        )
        known.buffers.check_set(self.buffers)
        return replace(known, own=self.own, optional=self.optional)

    @classmethod
    def of_run(cls, root: zarr.Group) -> Layouts:
        """Those of a run; what began to move later is among the fixed tensors."""
        moving, buffers = (checked.attribute(root, key, list, "the run") for key in ("layout", "buffer_layout"))
        fixed = Fixed(root)
        return cls(
            ParameterLayout.from_json(moving),
            fixed.layout,
            ParameterLayout.from_json(buffers, kind="buffer"),
            fixed.others,
            fixed.buffers,
            optional=frozenset(fixed.others.names),
        )

    def widened(self, kinds: Mapping[str, str]) -> Layouts:
        """The same tensors in other types, by name."""

        def changed(layout: ParameterLayout) -> ParameterLayout:
            return ParameterLayout([replace(e, dtype=kinds.get(e.name, e.dtype)) for e in layout], kind=layout.kind)

        return replace(self, moving=changed(self.moving), buffers=changed(self.buffers))

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Layouts:
        """Those that names and shapes tell: buffers are what is named like running statistics, all else moves.

        Raises
        ------
        CheckpointError
            it holds several state dicts, or no parameters.
        """
        _, chosen = the_one(checkpoint)
        seen: dict[object, int] = {}
        parameters: list[ParameterEntry] = []
        buffers: list[ParameterEntry] = []
        for name, saved in bare(list(chosen)).items():
            stored = chosen[saved]
            if not stored.floating:
                continue
            size = stored.size * (2 if stored.dtype.startswith("complex") else 1)
            entry = ParameterEntry(name, stored.shape, stored.dtype, 0, size)
            if name.rpartition(".")[2] in STATISTICS:
                buffers.append(entry)
            elif stored.memory is not None and stored.memory in seen:
                first = parameters[seen[stored.memory]]
                parameters[seen[stored.memory]] = replace(first, aliases=(*first.aliases, name))
            else:
                seen[stored.memory] = len(parameters)
                parameters.append(entry)
        if not parameters:
            raise CheckpointError(f"{checkpoint.name} holds no floating-point parameters")
        return cls(
            ParameterLayout.in_order(parameters),
            ParameterLayout(()),
            ParameterLayout.in_order(buffers, kind="buffer"),
        )


def the_one(checkpoint: Checkpoint) -> tuple[tuple[str, ...], StateDict]:
    """The state dict of a checkpoint, where no model says which one.

    Raises
    ------
    CheckpointError
        there are several, and none under one of the usual keys.
    """
    found = {path: each for path, each in checkpoint.state_dicts().items() if any(s.floating for s in each.values())}
    (first, chosen), *others = found.items()
    if others and not _is_usual(first):
        named = ", ".join(f"'{'.'.join(path) or 'the file itself'}'" for path in found)
        raise CheckpointError(
            f"{checkpoint.name} holds several state dicts: {named}",
            expected="one, or one under 'state_dict' or 'model'",
            mend="Name the model, which says what belongs to it (--model), or pass one of the state dicts",
        )
    return first, chosen


def _is_usual(path: tuple[str, ...]) -> bool:
    return bool(path) and path[-1] in WEIGHTS


# -- where the tensors are in a checkpoint ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Found:
    """The tensors of a run in one checkpoint.

    Attributes
    ----------
    stored
        by the run's names.
    lacking
        names of the run that the checkpoint lacks; the model has them.
    unexpected
        floating-point tensors of the checkpoint that are none of the run's.
    """

    stored: StateDict
    lacking: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def find(checkpoint: Checkpoint, layouts: Layouts) -> Found:
    """Find the tensors of a run in a checkpoint.

    Raises
    ------
    CheckpointError
        one is missing, or has another shape; the error names it.
    """
    wanted = [(entry.name, *entry.aliases) for entry in layouts.entries]
    chosen, matched = _best(checkpoint, wanted)
    _check_missing(checkpoint, layouts, matched)
    stored = {name: chosen[saved] for name, saved in matched.names.items()}
    wrong = [e for e in layouts.entries if e.name in stored and stored[e.name].shape != e.shape]
    if wrong:
        entry = wrong[0]
        more = f" (and {len(wrong) - 1} more differ)" if len(wrong) > 1 else ""
        raise CheckpointError(
            f"The tensor '{entry.name}' of {checkpoint.name} has the shape {list(stored[entry.name].shape)}{more}",
            expected=f"{list(entry.shape)}, as {'the model has' if layouts.own else 'the others have'} it",
        )
    tied = {each.memory for each in stored.values()} - {None}
    others = (name for name in matched.unexpected if chosen[name].floating)
    unexpected = tuple(name for name in others if chosen[name].memory not in tied)
    return Found(stored, matched.missing, unexpected)


def _best(checkpoint: Checkpoint, wanted: Sequence[tuple[str, ...]]) -> tuple[StateDict, Match]:
    """The state dict of a checkpoint in which most of the tensors are; of several, the likeliest.

    Raises
    ------
    CheckpointError
        they are there under two prefixes, and nothing says which one is meant.
    """
    best: tuple[StateDict, Match] | None = None
    for chosen in [*checkpoint.state_dicts().values(), checkpoint.flattened()]:
        matched = match(wanted, chosen)
        if best is None or len(matched.names) > len(best[1].names):
            best = chosen, matched
        if not matched.missing:
            break
    assert best is not None  # state_dicts() is never empty
    if len(best[1].prefixes) > 1 and best[1].names:
        named = " and ".join(f"'{prefix}'" for prefix in best[1].prefixes[:SHOWN])
        raise CheckpointError(
            f"{checkpoint.name} holds tensors of the model under the prefixes {named}",
            expected="one model",
            mend="Pass the state dict of the one that is meant, its prefix taken off",
        )
    return best


def _check_missing(checkpoint: Checkpoint, layouts: Layouts, matched: Match) -> None:
    """What a checkpoint may lack: buffers that are not saved, and of adapters alone, their frozen base."""
    missing = [name for name in matched.missing if name not in layouts.optional]
    still = set(layouts.still.names)
    if checkpoint.adapters:
        still |= set(layouts.buffers.names)
    if checkpoint.adapters or still <= set(missing):  # it holds what is trained and nothing else
        missing = [name for name in missing if name not in still or name not in layouts.own]
    if not missing:
        return
    adapted = any(".lora_" in name or ".modules_to_save" in name for name in matched.unexpected)
    flat = any("_flat_param" in name for name in matched.unexpected)
    unexpected = f"; it has {listed(matched.unexpected)}, which the model lacks" if matched.unexpected else ""
    raise CheckpointError(
        f"{checkpoint.name} lacks {len(missing)} of the {len(layouts.entries)} tensors: {listed(missing)}{unexpected}",
        expected="checkpoints of this model",
        mend=FLAT if flat else "Pass the model with its adapters, as PEFT makes it" if adapted else "",
    )


def listed(names: Sequence[str]) -> str:
    """Some names, for a message."""
    shown = ", ".join(f"'{name}'" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


_BITS = {"float64": 53, "complex128": 53, "float32": 24, "complex64": 24, "float16": 11, "complex32": 11, "bfloat16": 8}


def is_wider(saved: str, recorded: str) -> bool:
    """Whether numbers of one type are rounded in another."""
    narrow = {"float16", "bfloat16"}
    return _BITS.get(saved, 4) > _BITS.get(recorded, 4) or ({saved, recorded} == narrow)
