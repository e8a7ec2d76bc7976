"""Base: the tensors that runs have by reference, from the model that was fine-tuned.

In: a file of weights (safetensors, or what `torch.save` wrote), a folder of such files, or "module:function", a
function that returns a model or a state dict. Out: a function that gives the bits of a tensor that a run asks for. The
run compares them with its digests. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import difflib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landscape_hooks.errors import RunError
from landscape_hooks.evaluation.imports import called, import_string
from landscape_hooks.trajectory.modules import real_view, unwrap, walk_tensors
from landscape_hooks.trajectory.parameters import ParameterEntry
from landscape_hooks.trajectory.rows import bits
from landscape_hooks.trajectory.rows.fixed import Base

BaseLike = str | os.PathLike[str] | torch.nn.Module | Mapping[str, torch.Tensor] | Callable[[], object]
"""A file, a folder, "module:function", a model, a state dict, or a function without arguments that returns one."""

NESTED = ("state_dict", "model", "model_state_dict", "module")
"""Where a checkpoint keeps its state dict."""

HEADER = 10**8
"""Bytes that the header of a safetensors file may have."""

_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def open_base(base: BaseLike) -> Base:
    """A function that gives the bits of a tensor, as `Fixed` takes it.

    Raises
    ------
    RunError
        there is nothing of the kind.
    """
    tensors = _tensors(base)
    names = {_bare(name): name for name in tensors}
    where = str(base) if isinstance(base, str | os.PathLike) else type(base).__name__

    def bits_of(entry: ParameterEntry) -> NDArray[Any]:
        name = _find(entry, tensors, names)
        if name is None:
            near = difflib.get_close_matches(_bare(entry.name), list(names), 3, 0.5)
            raise RunError(
                f"The base ({where}) has no tensor '{entry.name}'",
                expected="the base that was trained on" + (f"; it has {', '.join(near)}" if near else ""),
                mend="Name that one with --base",
            )
        tensor = tensors[name]
        if tuple(tensor.shape) != entry.shape:
            raise RunError(
                f"'{name}' of the base ({where}) has the shape {list(tensor.shape)}",
                expected=f"{list(entry.shape)}, as '{entry.name}' of the run",
                mend="Name the base that was trained on with --base",
            )
        return as_bits(tensor, entry.dtype)

    return bits_of


def as_bits(tensor: torch.Tensor, kind: str) -> NDArray[Any]:
    """(size,) a tensor in C order as a run stores it, in the type `kind` (as torch spells it)."""
    flat = real_view(tensor.detach().to(getattr(torch, kind))).contiguous().reshape(-1).cpu()
    stored = bits.stored_type(kind)
    return (flat.view(torch.uint8) if bits.attributes_of(kind) else flat).numpy().view(stored)


def _tensors(base: BaseLike) -> Mapping[str, torch.Tensor]:
    """The tensors of a base by name; those of files are read when asked for."""
    if isinstance(base, str | os.PathLike):
        path = Path(base)
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
        if ":" not in str(base) or path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
            raise RunError(f"There is no base at {base}", expected="a file, a folder, or module:function")
        base = import_string(str(base))
    if callable(base) and not isinstance(base, torch.nn.Module):
        base = called(base)
    if isinstance(base, torch.nn.Module):
        return {name: tensor for name, tensor, _ in walk_tensors(unwrap(base))}
    if isinstance(base, Mapping):
        return _state_dict(base, "the base")
    raise RunError(f"Found a base of type {type(base).__name__}", expected="a model or a state dict")


def _folder(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of all files of weights in a folder, as trainers and hubs write them."""
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        if files := sorted(path.glob(pattern)):
            return {name: tensor for file in files for name, tensor in _file(file).items()}
    raise RunError(f"The folder {path} has no file of weights", expected="*.safetensors, *.bin, *.pt or *.pth")


def _file(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a pickle with code, an old format, no checkpoint at all
        raise RunError(
            f"{path} cannot be read as tensors alone ({type(error).__name__})",
            expected="safetensors, or what torch.save made of a state dict",
            mend="Name a function that returns the model: --base module:function",
        ) from error
    return _state_dict(found, str(path))


def _state_dict(found: object, where: str) -> dict[str, torch.Tensor]:
    while isinstance(found, Mapping):
        inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
        found = inner
    raise RunError(f"{where} holds a {type(found).__name__}", expected="a state dict")


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, mapped into memory: eight bytes say how long the JSON header is, then come the numbers."""
    try:
        content = np.memmap(path, dtype=np.uint8, mode="c")
        (length,) = struct.unpack("<Q", content[:8].tobytes())
        if length > min(HEADER, len(content) - 8):
            raise ValueError("a header longer than the file")
        header, found = json.loads(content[8 : 8 + length].tobytes()), {}
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _SAFETENSORS:
                start, stop = entry["data_offsets"]
                if not 0 <= start <= stop <= len(content) - 8 - length:
                    raise ValueError(f"'{name}' lies outside of the file")
                numbers = torch.from_numpy(content[8 + length + start : 8 + length + stop])
                kind = _SAFETENSORS[entry["dtype"]]
                aligned = numbers if (8 + length + start) % kind.itemsize == 0 else numbers.clone()
                found[name] = aligned.view(kind).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error) as error:
        raise RunError(f"{path} is no safetensors file, or a damaged one ({error})") from error
    return found


def _find(entry: ParameterEntry, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> str | None:
    """The name that a tensor of the run has in the base: with other wrappers around it, or by one of its aliases."""
    for wanted in (entry.name, *entry.aliases):
        if wanted in tensors:
            return wanted
        parts = _bare(wanted).split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names and start < max(1, len(parts) - 1):
                return names[".".join(parts[start:])]
        ends = [name for bare, name in names.items() if bare.endswith("." + ".".join(parts))]
        if len(ends) == 1:
            return ends[0]
    return None


def _bare(name: str) -> str:
    """A name without what adapters put around a layer."""
    return ".".join(part for part in name.split(".") if part not in ("base_layer", "_orig_mod"))
