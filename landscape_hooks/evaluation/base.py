"""Base: the tensors that runs have by reference, from the model that was fine-tuned.

In: a checkpoint of any kind that `import` reads, a folder of files of weights, or "module:function", a function that
returns a model or a state dict. Out: a function that gives the bits of a tensor that a run asks for. The run compares
them with its digests. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import CheckpointError, RunError
from landscape_hooks.evaluation.imports import called, import_string
from landscape_hooks.recording.watch.fixed import pieces
from landscape_hooks.trajectory.checkpoints.checkpoint import Checkpoint, Stored
from landscape_hooks.trajectory.checkpoints.folders import Source, sources
from landscape_hooks.trajectory.checkpoints.matching import match
from landscape_hooks.trajectory.checkpoints.pickled import stored
from landscape_hooks.trajectory.modules import unwrap, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry
from landscape_hooks.trajectory.rows.fixed import Base

BaseLike = str | os.PathLike[str] | torch.nn.Module | Mapping[str, torch.Tensor] | Callable[[], object]
"""A checkpoint, a folder of files of weights, "module:function", a model, a state dict, or a function that returns one.
"""


def open_base(base: BaseLike) -> Base:
    """A function that gives the bits of a tensor, as `Fixed` takes it.

    Raises
    ------
    RunError
        there is nothing of the kind.
    CheckpointError
        a file is no checkpoint, is damaged, or needs code to be read.
    """
    tensors = _tensors(base)
    where = str(base) if isinstance(base, str | os.PathLike) else type(base).__name__

    def bits_of(entry: ParameterEntry) -> NDArray[Any]:
        matched = match([(entry.name, *entry.aliases)], tensors)
        name = matched.names.get(entry.name)
        if name is None or len(matched.prefixes) > 1:
            near = difflib.get_close_matches(entry.name, list(tensors), 3, 0.5)
            raise RunError(
                f"The base ({where}) has no tensor '{entry.name}'",
                expected="the base that was trained on" + (f"; it has {', '.join(near)}" if near else ""),
                mend="Name that one with --base",
            )
        found = tensors[name]
        if found.shape != entry.shape:
            raise RunError(
                f"'{name}' of the base ({where}) has the shape {list(found.shape)}",
                expected=f"{list(entry.shape)}, as '{entry.name}' of the run",
                mend="Name the base that was trained on with --base",
            )
        return np.concatenate([*pieces(found.read().to(getattr(torch, entry.dtype)))])

    return bits_of


def _tensors(base: BaseLike) -> Mapping[str, Stored]:
    """The tensors of a base by name; those of files are read when asked for."""
    if isinstance(base, str | os.PathLike):
        path = Path(base)
        if path.exists():
            return _of_path(path)
        if ":" not in str(base) or path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
            raise RunError(f"There is no base at {base}", expected="a file, a folder, or module:function")
        base = import_string(str(base))
    if callable(base) and not isinstance(base, torch.nn.Module):
        base = called(base)
    if isinstance(base, torch.nn.Module):
        return {name: stored("the base", name, tensor) for name, tensor, _ in walk_tensors(unwrap(base))}
    if isinstance(base, Mapping):
        return _the_likeliest(Source("the base", given=base).open())
    raise RunError(f"Found a base of type {type(base).__name__}", expected="a model or a state dict")


def _of_path(path: Path) -> Mapping[str, Stored]:
    """The tensors of a checkpoint, or of all files of weights in a folder that lacks their index."""
    found = sources(path)
    if len(found) == 1:
        return _the_likeliest(found[0].open())
    if any(each.path is None or each.path.is_dir() for each in found):
        raise CheckpointError(
            f"The folder {path} holds {len(found)} checkpoints",
            expected="one, the base that was trained on",
            mend="Name one of them with --base",
        )
    together: dict[str, Stored] = {}
    for each in found:
        together |= _the_likeliest(each.open())
    return together


def _the_likeliest(checkpoint: Checkpoint) -> Mapping[str, Stored]:
    """The model's state dict of a checkpoint."""
    return next(iter(checkpoint.state_dicts().values()))
