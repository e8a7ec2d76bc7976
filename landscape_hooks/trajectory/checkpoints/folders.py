"""Paths of checkpoints: files and folders of every kind that is read, told apart by what is in them.

In: what a user names. Out: `Checkpoint`s, opened one at a time. A folder that holds checkpoints and is none stands for
those in it.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape_hooks.errors import CheckpointError, printable
from landscape_hooks.trajectory.checkpoints.checkpoint import Checkpoint, Facts, number, whole

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]

CheckpointLike = str | os.PathLike[str] | Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""A file or a folder, a state dict (or a dictionary that holds one), or a function that returns one."""

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
MODELS = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors", "pytorch_model.fp32.bin",
)  # fmt: skip
"""Files of transformers, accelerate, diffusers and PEFT that hold a model."""

STATE = "trainer_state.json"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar", ".pkl", ".th", ".pt2", ".model")
MOST_FILES = 100_000

BESIDE = re.compile(r"(optim|lr_?sched|scheduler|(grad_?)?scaler|rng_state|random_state|training_args|trainer_state)")
"""Beginnings of the names of files that lie beside those of weights and hold none."""

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
"""Names of files that together are one checkpoint."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that was named.

    Attributes
    ----------
    name
        what messages and the run call it.
    labels
        names in which a step may be written, the most telling first.
    path
        where it lies; None for one that was given as a dictionary.
    given
        the dictionary, or the function that returns it.
    """

    name: str
    labels: tuple[str, ...] = ()
    path: Path | None = None
    given: Any = None

    def open(self) -> Checkpoint:
        """Read names and facts; tensors are read when they are asked for.

        Raises
        ------
        CheckpointError
            it is no checkpoint, is damaged, or needs code to be read.
        """
        if self.path is not None:
            return _open(self.path, self.name)
        from landscape_hooks.trajectory.checkpoints.checkpoint import facts_of
        from landscape_hooks.trajectory.checkpoints.pickled import tree_of

        found = self.given() if callable(self.given) else self.given
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"{self.name} is of type {type(found).__name__}",
                expected="a state dict, or a function that returns one",
            )
        tree = tree_of(found, self.name)
        return Checkpoint(self.name, tree, facts_of(tree))

    @property
    def identity(self) -> dict[str, int] | None:
        """Size and time of its files, as JSON; None where it has none. Where they are as before, so is the content."""
        files = [] if self.path is None else _files(self.path)
        if not files:
            return None
        states = [file.stat() for file in files]
        return {"bytes": sum(state.st_size for state in states), "modified": max(s.st_mtime_ns for s in states)}


def sources(given: CheckpointLike | Iterable[CheckpointLike]) -> list[Source]:
    """What was named, one by one; a folder of checkpoints stands for those in it.

    Raises
    ------
    CheckpointError
        nothing was named, or nothing is there.
    """
    one: Any = given
    several = [one] if isinstance(one, str | os.PathLike | Mapping) or not hasattr(one, "__iter__") else list(one)
    found: list[Source] = []
    for place, each in enumerate(several):
        if isinstance(each, str | os.PathLike):
            paths = [one for path in _matching(each) for one in _in_folder(path)]
            found += [Source(_name(one), (one.stem if one.is_file() else one.name, one.absolute().parent.name), one)
                      for one in paths]  # fmt: skip
        else:
            found.append(Source(f"checkpoint {place}", given=each))
    if not found:
        raise CheckpointError("Found no checkpoint", expected="at least one file, folder or state dict")
    seen: set[str] = set()
    for source in found:
        where = "" if source.path is None else os.path.realpath(source.path)
        if where and where in seen:
            raise CheckpointError(f"{source.name} is named twice", expected="every checkpoint once")
        seen.add(where)
    names = Counter(source.name for source in found)
    return [
        each if each.path is None or names[each.name] == 1 else replace(each, name=_with_folder(each.path))
        for each in found
    ]


def _matching(given: str | os.PathLike[str]) -> list[Path]:
    """What a path names: itself, or what a pattern (`step-*.pt`) means, where no shell has looked it up."""
    path = Path(given)
    if path.exists() or not glob.has_magic(os.fspath(given)):
        return [path]
    found = sorted(map(Path, glob.iglob(os.fspath(given), recursive=True)), key=_natural_path)[:MOST_FILES]
    if not found:
        raise CheckpointError(f"Nothing matches {printable(os.fspath(given))}", mend="Check the pattern")
    return found


def _in_folder(path: Path) -> list[Path]:
    """A checkpoint itself, or those in a folder that is none.

    Raises
    ------
    CheckpointError
        it is a part of one.
    """
    if path.is_dir():
        return _expanded(path) or [path]
    if (part := PART.fullmatch(path.name)) and path.is_file():
        raise CheckpointError(
            f"{path.name} is one of {int(part[3])} files of a checkpoint", mend=f"Name the folder: {path.parent}"
        )
    return [path]


def _name(path: Path) -> str:
    return _with_folder(path) if path.name in (*ADAPTERS, *MODELS) else printable(path.name)


def _with_folder(path: Path) -> str:
    return printable("/".join(path.absolute().parts[-2:]))


def _expanded(folder: Path) -> list[Path]:
    """The checkpoints in a folder that is none itself; where folders of checkpoints are in it, those."""
    inside = sorted(folder.iterdir(), key=_natural)[:MOST_FILES]
    found = [path for path in inside if path.is_dir() and _kind(path) is not None]
    if found and (_kind(folder) is None or all(re.fullmatch(r"checkpoint[-_]\d+", path.name) for path in found)):
        return found  # a trainer's folder; the model that may lie in it is the last of them again
    if _kind(folder) is not None:
        return []
    files = [path for path in inside if path.is_file() and path.suffix in SUFFIXES]
    found = [path for path in files if not BESIDE.match(path.name.lower())]
    if not found:
        raise CheckpointError(
            f"The folder {folder} is no checkpoint and holds none",
            expected=f"{', '.join((*ADAPTERS[:1], *MODELS[:2]))}, the .metadata of torch.distributed.checkpoint, or "
            f"files that end in {', '.join(SUFFIXES[:5])}",
        )
    return found


def _natural_path(path: Path) -> list[list[tuple[int, str]]]:
    return [_natural(Path(part)) for part in path.parts]


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _kind(folder: Path) -> Path | None:
    """The file that makes a folder a checkpoint; None for a folder of another kind."""
    for name in (".metadata", *ADAPTERS, *MODELS):
        if (folder / name).is_file():
            return folder / name
    for inner in ("pytorch_model_fsdp_0", "model"):  # accelerate with FSDP
        if (folder / inner / ".metadata").is_file():
            return folder / inner / ".metadata"
    parts = sorted(folder.glob("mp_rank_*_model_states.pt")) or sorted(folder.glob("*-00001-of-*"))
    return next((part for part in parts if part.is_file() and _is_part(part)), None)


def _is_part(path: Path) -> bool:
    return path.name.startswith("mp_rank_") or PART.fullmatch(path.name) is not None


def _files(path: Path) -> list[Path]:
    """The files that hold the numbers of a checkpoint."""
    kind = path if path.is_file() else _kind(path) if path.is_dir() else None
    if kind is None:
        return []
    folder = path if path.is_dir() else path.parent
    state = [folder / STATE] if (folder / STATE).is_file() else []
    if kind.name in (".metadata",) or kind.name.endswith(".index.json") or PART.fullmatch(kind.name):
        own = [kind, *(f for f in sorted(kind.parent.iterdir()) if f.suffix in (".distcp", ".safetensors", ".bin"))]
        return [*own, *state]
    return [kind, *state]


def _open(path: Path, name: str) -> Checkpoint:
    from landscape_hooks.trajectory.checkpoints import distributed, pickled, safetensors

    if not path.exists():
        raise CheckpointError(f"There is nothing at {path}", mend="Check the path of the checkpoint")
    try:
        if path.is_file():
            if path.name == distributed.METADATA:
                return distributed.read_distributed(path.parent, name)
            if path.name.endswith(".index.json"):
                found = safetensors.read_sharded(path, name)
            elif PART.fullmatch(path.name):
                found = safetensors.read_parts(_parts(path, name), name)
            elif path.suffix == ".safetensors":
                found = safetensors.read_safetensors(path, name)
            else:
                found = pickled.read_pickled(path, name)
            if path.name not in (*ADAPTERS, *MODELS) and not PART.fullmatch(path.name):
                return found
            return _with_state(replace(found, adapters=path.name in ADAPTERS), path.parent, name)
        kind = _kind(path)
        if kind is None:
            raise CheckpointError(f"The folder {path} is no checkpoint")
        if kind.name.startswith("mp_rank_"):
            _check_one_part(path, name)
        return _with_state(_open(kind, name), path, name)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read ({error.strerror or error})") from error


def _parts(first: Path, name: str) -> list[Path]:
    """All files of a checkpoint that has no index.

    Raises
    ------
    CheckpointError
        one is missing.
    """
    named = PART.fullmatch(first.name)
    assert named is not None
    count = int(named[3])
    paths = [
        first.with_name(f"{named[1]}-{n:05}-of-{count:05}.{named[4]}") for n in range(1, min(count, MOST_FILES) + 1)
    ]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{name} lacks '{missing[0]}', one of its {count} files", mend="Download it again")
    return paths


def _check_one_part(folder: Path, name: str) -> None:
    """DeepSpeed with model parallelism, or with ZeRO stage 3, saves no whole tensors."""
    if len(list(folder.glob("mp_rank_*_model_states.pt"))) > 1 or list(folder.glob("zero_pp_rank_*_model_states.pt")):
        raise CheckpointError(
            f"{name} is a checkpoint of DeepSpeed that holds parts of tensors",
            mend="Convert it with the script zero_to_fp32.py that lies beside it",
        )


# -- what the trainer of transformers says ------------------------------------------------------------------------
def _with_state(checkpoint: Checkpoint, folder: Path, name: str) -> Checkpoint:
    if not (folder / STATE).is_file():
        return checkpoint
    from landscape_hooks.trajectory.checkpoints.safetensors import read_json

    return replace(checkpoint, facts=state_facts(read_json(folder / STATE, name)))


def state_facts(state: Mapping[str, Any]) -> Facts:
    """Step and epoch, and what was logged at that step, of a `trainer_state.json`."""
    step, history = whole(state.get("global_step")), state.get("log_history")
    logged: dict[str, Any] = {}
    for entry in history if isinstance(history, list) else ():
        if isinstance(entry, dict) and step is not None and whole(entry.get("step")) == step:
            logged = {**entry, **logged}  # the first that tells counts
    rate = number(logged.get("learning_rate"))
    return Facts(
        step=step,
        epoch=number(state.get("epoch")),
        loss=number(logged.get("loss")),
        learning_rate=() if math.isnan(rate) else (rate,),
    )
