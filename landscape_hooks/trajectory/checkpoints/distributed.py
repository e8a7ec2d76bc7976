"""Folders of torch.distributed.checkpoint: files that several processes wrote, and a list of what lies where.

In: a folder with the file `.metadata`. Out: nested dictionaries of `Stored` tensors, each put together from its pieces
when it is read. The list is a pickle, which torch itself reads with all that a pickle can do. Here an unpickler reads
it that knows the classes of such lists only, and makes empty objects in their place, so that nothing that the list
names is called.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from landscape_hooks.errors import CheckpointError, first_line, printable
from landscape_hooks.trajectory.checkpoints.checkpoint import (
    AROUND,
    EPOCH,
    LOSS,
    STEP,
    Checkpoint,
    Stored,
    check_count,
    check_name,
    facts_of,
)

METADATA = ".metadata"
MOST_BYTES = 2**22
"""Of a value that is no tensor: a step, an epoch."""


class Record:
    """An object of the list: its fields, whatever class it had."""

    def __new__(cls, *values: object) -> Record:
        made = super().__new__(cls)
        made.__dict__["values"] = values
        return made

    def __init__(self, *values: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({key: value for key, value in state.items() if isinstance(key, str)})
        else:
            self.__dict__["state"] = state

    def get(self, name: str) -> Any:
        """A field; None where there is none."""
        return self.__dict__.get(name)


CLASSES = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties",
                 "ChunkStorageMetadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")
} | {
    ("torch.distributed.checkpoint.filesystem", name)
    for name in ("_StorageInfo", "_StoragePrefix", "SerializationFormat")
} | {("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib._local", "PosixPath"),
     ("torch.serialization", "_get_layout")}  # fmt: skip
"""What a list names, and `Record`s stand in for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CLASSES:
            return type(name, (Record,), {})
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it names an object outside of it")


def read_distributed(folder: Path, name: str) -> Checkpoint:
    """The checkpoint in a folder of torch.distributed.checkpoint.

    Raises
    ------
    CheckpointError
        its list is damaged, or names anything but the classes of such lists, or a file outside of the folder.
    """
    listed = _metadata(folder, name)
    tensors, places, paths = (
        _mapping(listed.get(key)) for key in ("state_dict_metadata", "storage_data", "planner_data")
    )
    check_count(name, len(tensors) // 4)  # of which three may be an optimizer's
    infos: dict[tuple[Any, tuple[int, ...] | None], Record] = {}
    for index, info in places.items():
        if isinstance(index, Record) and isinstance(info, Record):
            infos[index.get("fqn"), _sizes(index.get("offset"))] = info
    tree: dict[str, Any] = {}
    for key, entry in tensors.items():
        if not isinstance(key, str) or not isinstance(entry, Record):
            raise _damaged(name, "an entry of its list is no tensor")
        path = _path(paths.get(key), key)
        if type(entry).__name__ == "TensorStorageMetadata":
            check_name(name, path[-1])
            _put(tree, path, _tensor(folder, name, key, entry, infos))
        elif path[-1] in (*STEP, *EPOCH, *LOSS) and (len(path) == 1 or path[-2] in AROUND):
            _put(tree, path, _value(folder, name, infos.get((key, None))))
    checkpoint = Checkpoint(name, tree, facts_of(tree))
    checkpoint.check_size(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()))
    return checkpoint


def _metadata(folder: Path, name: str) -> Record:
    try:
        with open(folder / METADATA, "rb") as file:
            found = _Unpickler(file).load()
    except Exception as error:  # what a damaged or hostile pickle raises is of any kind
        raise CheckpointError(
            f"The list {METADATA} of {name} cannot be read ({printable(first_line(error))})",
            expected="a list of torch.distributed.checkpoint, which names its own classes only",
            mend="Convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt",
        ) from error
    if not isinstance(found, Record):
        raise _damaged(name, f"its list {METADATA} is of type {type(found).__name__}")
    return found


def _mapping(found: Any) -> Mapping[Any, Any]:
    return found if isinstance(found, dict) else {}


def _path(found: Any, key: str) -> tuple[str, ...]:
    """The keys that lead to a value before the saving process joined them with dots."""
    if isinstance(found, tuple | list) and found and all(isinstance(part, str | int) for part in found):
        path = tuple(map(str, found))
        if ".".join(path) == key:
            return path
    return (key,)


def _put(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree[path[-1]] = value


# -- a tensor from its pieces --------------------------------------------------------------------------------------
def _tensor(
    folder: Path, name: str, key: str, entry: Record, infos: Mapping[tuple[Any, tuple[int, ...] | None], Record]
) -> Stored:
    properties, shape = entry.get("properties"), _sizes(entry.get("size"))
    state = properties.get("state") if isinstance(properties, Record) else None
    kind = (
        state[0] if isinstance(state, tuple) and state else properties.get("dtype") if properties is not None else None
    )
    chunks = entry.get("chunks")
    if shape is None or not isinstance(kind, str) or not isinstance(chunks, list):
        raise _damaged(name, f"its list says no shape or type of '{key}'")
    pieces, total = [], 0
    for chunk in chunks:
        offsets = _sizes(chunk.get("offsets")) if isinstance(chunk, Record) else None
        sizes = _sizes(chunk.get("sizes")) if isinstance(chunk, Record) else None
        info = infos.get((key, offsets))
        if offsets is None or sizes is None or info is None or not len(offsets) == len(sizes) == len(shape):
            raise _damaged(name, f"its list does not say where a piece of '{key}' is")
        if any(first + size > most for first, size, most in zip(offsets, sizes, shape, strict=True)):
            raise _damaged(name, f"a piece of '{key}' reaches beyond its shape {list(shape)}")
        pieces.append((offsets, sizes, info))
        total += _product(sizes)
    if total != _product(shape):
        raise _damaged(name, f"the pieces of '{key}' do not make up its shape {list(shape)}")
    return Stored(shape, kind, partial(_read, folder, name, key, shape, kind, pieces))


def _read(
    folder: Path,
    name: str,
    key: str,
    shape: tuple[int, ...],
    kind: str,
    pieces: Sequence[tuple[tuple[int, ...], tuple[int, ...], Record]],
) -> torch.Tensor:
    whole = torch.zeros(shape, dtype=getattr(torch, kind))
    for offsets, sizes, info in pieces:
        part = _load(folder, name, info)
        if not isinstance(part, torch.Tensor) or tuple(part.shape) != sizes:
            raise _damaged(name, f"a piece of '{key}' is not of the shape {list(sizes)}")
        target = whole[tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))]
        target.copy_(part)
    return whole


def _value(folder: Path, name: str, info: Record | None) -> object:
    """A value that is no tensor; None where it is large, or needs code to be read."""
    length = info.get("length") if info is not None else None
    if info is None or not isinstance(length, int) or length > MOST_BYTES:
        return None
    try:
        return _load(folder, name, info)
    except CheckpointError:
        return None


def _load(folder: Path, name: str, info: Record) -> object:
    file, offset, length = (info.get(field) for field in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
        raise CheckpointError(f"The list of {name} names the file '{printable(file)}'", expected="files of its folder")
    if not isinstance(offset, int) or not isinstance(length, int) or offset < 0 or length < 0:
        raise _damaged(name, f"its list names no part of the file '{printable(file)}'")
    if info.get("transform_descriptors"):
        raise CheckpointError(f"{name} is compressed by an extension of torch.distributed.checkpoint")
    path = folder / file
    try:
        if offset + length > path.stat().st_size:
            raise _damaged(name, f"the file '{file}' is cut off")
        with open(path, "rb") as opened:
            opened.seek(offset)
            return torch.load(io.BytesIO(opened.read(length)), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The file '{printable(file)}' of {name} is missing", mend="Copy the folders of all processes into one"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:
        raise _damaged(
            name, f"a part of '{printable(file)}' cannot be read ({printable(first_line(error))})"
        ) from error


def _sizes(found: Any) -> tuple[int, ...] | None:
    if isinstance(found, tuple) and all(type(size) is int and 0 <= size < 2**62 for size in found):
        return found
    return None


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _damaged(name: str, said: str) -> CheckpointError:
    return CheckpointError(f"{name} is damaged: {said}", mend="Save it again, or restore it from a copy")
