"""Files of safetensors, one or several with an index of which tensor is where.

In: files. Out: `Stored` tensors by name. The format holds numbers and text only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from landscape_hooks.errors import CheckpointError, first_line, printable
from landscape_hooks.trajectory.checkpoints import pickled
from landscape_hooks.trajectory.checkpoints.checkpoint import Checkpoint, Facts, Stored, check_count, check_name

KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
}  # fmt: skip
"""Types of floating-point numbers, and what torch calls them."""

MOST_BYTES = 2**28
"""Of an index that is read."""


def read_safetensors(path: Path, name: str) -> Checkpoint:
    """The checkpoint in one file of safetensors.

    Raises
    ------
    CheckpointError
        it is damaged, or the package safetensors is absent.
    """
    return Checkpoint(name, tensors_of(path, name), Facts())


def tensors_of(path: Path, name: str) -> dict[str, Stored]:
    """The tensors of one file."""
    file = _open(path, name)
    names = list(file.keys())
    check_count(name, len(names))
    found = {}
    for key in names:
        check_name(name, key)
        part = file.get_slice(key)
        kind = str(part.get_dtype())
        found[key] = Stored(tuple(part.get_shape()), KINDS.get(kind, kind), partial(_tensor, file, key, name))
    return found


def _open(path: Path, name: str) -> Any:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(
            f"{name} is a file of safetensors, and the package safetensors is not installed",
            mend="pip install 'landscape-hooks[checkpoints]'",
        ) from error
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"There is nothing at {path}") from error
    except Exception as error:  # the package's own errors, of which there are several kinds
        raise CheckpointError(
            f"{name} is no file of safetensors, or is cut off ({printable(first_line(error))})",
            mend="Save or download it again",
        ) from error


def _tensor(file: Any, key: str, name: str) -> torch.Tensor:
    try:
        found: torch.Tensor = file.get_tensor(key)
    except Exception as error:
        raise CheckpointError(
            f"The tensor '{key}' of {name} cannot be read ({printable(first_line(error))})", mend="Download it again"
        ) from error
    return found


# -- several files with an index ---------------------------------------------------------------------------------
def read_sharded(index: Path, name: str) -> Checkpoint:
    """The checkpoint that an index (`*.index.json`) spreads over files of its folder, of safetensors or of torch.save.

    Raises
    ------
    CheckpointError
        the index is damaged, names a file outside of its folder, or a file lacks a tensor.
    """
    places = _weight_map(index, name)
    check_count(name, len(places))
    files = {file: _file(index.parent / file, f"{name}/{file}") for file in sorted(set(places.values()))}
    tree = {}
    for key, file in places.items():
        check_name(name, key)
        if key not in files[file]:
            raise CheckpointError(f"The file '{file}' of {name} lacks the tensor '{key}'", mend="Download it again")
        tree[key] = files[file][key]
    return Checkpoint(name, tree)


def read_parts(files: Sequence[Path], name: str) -> Checkpoint:
    """The checkpoint that lies in several files without an index.

    Raises
    ------
    CheckpointError
        one of them is damaged, or a tensor is in two of them.
    """
    tree: dict[str, Stored] = {}
    for file in files:
        found = _file(file, f"{name}/{file.name}")
        if twice := tree.keys() & found.keys():
            raise CheckpointError(f"The tensor '{printable(min(twice))}' is in two files of {name}")
        tree |= found
    check_count(name, len(tree))
    return Checkpoint(name, tree)


def _weight_map(index: Path, name: str) -> dict[str, str]:
    found = read_json(index, name).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(
            f"The index {index.name} of {name} has no weight_map", expected="names of files by tensor"
        )
    for file in found.values():
        if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise CheckpointError(
                f"The index {index.name} of {name} names the file '{printable(file)}'",
                expected="files of the same folder",
            )
    return found


def _file(path: Path, name: str) -> dict[str, Stored]:
    if not path.is_file():
        raise CheckpointError(f"The file {name} is missing, which the index names", mend="Download it again")
    if path.suffix == ".safetensors":
        return tensors_of(path, name)
    return {key: value for key, value in pickled.read_pickled(path, name).tree.items() if isinstance(value, Stored)}


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A file of JSON that holds an object.

    Raises
    ------
    CheckpointError
        it holds something else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The file {path.name} of {name} cannot be read ({printable(first_line(error))})", expected="a JSON object"
        ) from error
    return found
