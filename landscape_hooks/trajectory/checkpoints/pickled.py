"""Files of torch.save: state dicts, and dictionaries that hold them (PyTorch, Lightning, timm, fastai, DeepSpeed).

In: a file. Out: nested dictionaries of plain values and `Stored` tensors. torch loads it with `weights_only=True`,
which makes tensors and plain containers only; for objects of settings, empty ones stand in. A
file that needs more is refused: nothing that a file names is ever called.
"""

from __future__ import annotations

import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from landscape_hooks.errors import CheckpointError, first_line, printable
from landscape_hooks.trajectory.checkpoints.checkpoint import (
    DEPTH,
    Checkpoint,
    Stored,
    check_count,
    check_name,
    facts_of,
)

SETTINGS = (
    "accelerate", "addict", "argparse", "datetime", "easydict", "fastai", "fastcore", "hydra", "lightning",
    "lightning_fabric", "ml_collections", "mmengine", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "timm",
    "torchmetrics", "transformers", "typing", "yacs",
)  # fmt: skip
"""Packages whose objects trainers save beside the weights: settings, times, numbers. Empty ones stand in for them."""

CONTAINERS = ("collections.defaultdict", "collections.deque", "builtins.dict", "builtins.list", "builtins.tuple",
              "builtins.int", "builtins.float", "builtins.str", "builtins.bool")  # fmt: skip
"""What settings are made of besides."""

DICTIONARIES = ("defaultdict", "dict", "AttributeDict", "CfgNode", "EasyDict", "Dict", "ConfigDict")
"""Classes among these that are filled like a dictionary."""


class Nothing:
    """Stands in for an object that is not looked at; whatever it is made with is dropped."""

    def __new__(cls, *_: object, **__: object) -> Nothing:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Items:
    """The same, for an object that is filled like a dictionary: the unpickler fills none but torch's own kinds."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class Row:
    """The same, for one that is filled like a list."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return []


def read_pickled(path: Path, name: str) -> Checkpoint:
    """The checkpoint in a file of torch.save.

    Raises
    ------
    CheckpointError
        it is none, is damaged, or needs code to be read.
    """
    found = load(path, name)
    if isinstance(found, Mapping):
        tree = tree_of(found, name)
        checkpoint = Checkpoint(name, tree, facts_of(tree))
        checkpoint.check_size(path.stat().st_size)
        return checkpoint
    raise CheckpointError(
        f"{name} holds an object of type {type(found).__name__}",
        expected="a state dict, or a dictionary that holds one",
    )


def load(path: Path, name: str) -> object:
    """What torch.save put into a file, tensors on the CPU; of a large file they are read when they are used.

    Raises
    ------
    CheckpointError
        as of `read_pickled`.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                check_count(name, len(archive.namelist()) // 4)  # of which three may be an optimizer's
        try:
            return _load(path, zipped)
        except Exception:
            needed = _needed(path)
            if not needed or not all(map(_is_of_settings, needed)):
                raise
            with torch.serialization.safe_globals([(_stand_in(each), each) for each in needed]):
                return _load(path, zipped)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"{name} claims more memory than there is", mend="Save it again") from error
    except Exception as error:  # what a damaged or hostile file makes torch raise is of any kind
        raise _refused(path, name, error) from error


def _load(path: Path, zipped: bool) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old formats, which are read all the same
        return cast(object, torch.load(path, map_location="cpu", weights_only=True, mmap=zipped))


def _needed(path: Path) -> list[str]:
    """What a file names that torch does not take for data; empty where that cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        return []


def _is_of_settings(name: str) -> bool:
    return name.partition(".")[0] in SETTINGS or name in CONTAINERS


def _stand_in(name: str) -> Callable[..., object]:
    last = name.rpartition(".")[2]
    base: type[object] = Items if last in DICTIONARIES else Row if last == "deque" else Nothing
    return _STAND_INS.setdefault(name, type(last, (base,), {}))


_STAND_INS: dict[str, type[object]] = {}


def _refused(path: Path, name: str, error: Exception) -> CheckpointError:
    """What to say of a file that torch did not load."""
    needed = [each for each in _needed(path) if not _is_of_settings(each)]
    if needed:
        shown = ", ".join(printable(each) for each in needed[:4]) + ", ..." * (len(needed) > 4)
        return CheckpointError(
            f"{name} needs code to be read ({shown})",
            expected="tensors, numbers, text and plain containers: opening a checkpoint runs no code",
            mend="Save model.state_dict(). If you trust the file, load it yourself and pass its state dict",
        )
    if "TorchScript" in str(error):
        return CheckpointError(f"{name} is a TorchScript archive, a program", mend="Save model.state_dict()")
    if "Weights only load failed" in str(error):
        return CheckpointError(
            f"{name} cannot be read without running code",
            expected="a file of torch.save with tensors, numbers, text and plain containers",
            mend="Save model.state_dict(). If you trust the file, load it yourself and pass its state dict",
        )
    said = f"{type(error).__name__}: {printable(first_line(error))}"
    return CheckpointError(f"{name} is no checkpoint, or is cut off ({said})", expected="a file of torch.save")


def tree_of(found: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """Nested dictionaries with their tensors as `Stored`, names checked; keys that are no text are left out.

    Raises
    ------
    CheckpointError
        a tensor has a name that no module can have.
    """
    return _tree(found, name, 0)


def _tree(found: Mapping[Any, Any], name: str, depth: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in found.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, torch.Tensor):
            check_name(name, key)
            tree[key] = stored(name, key, value)
        elif isinstance(value, Mapping):
            if depth < DEPTH + 2:
                tree[key] = _tree(value, name, depth + 1)
        elif isinstance(value, list | tuple) and depth < 3:
            tree[key] = [_tree(each, name, depth + 2) if isinstance(each, Mapping) else each for each in value]
        else:
            tree[key] = value
    return tree


def stored(checkpoint: str, name: str, tensor: torch.Tensor) -> Stored:
    """A loaded tensor as a `Stored` one."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    memory = (
        (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if plain and tensor.numel() else None
    )

    def read() -> torch.Tensor:
        if not plain:
            raise CheckpointError(
                f"The tensor '{name}' of {checkpoint} is sparse, quantized or without values", expected="plain numbers"
            )
        return tensor.detach().resolve_conj().resolve_neg().cpu()

    return Stored(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read, memory)
