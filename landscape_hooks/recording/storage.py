"""Storage and Parameters: how a run stores its snapshots, what happens where that fails, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from landscape_hooks.errors import LandscapeError, RunError
from landscape_hooks.trajectory.selection import parse_patterns
from landscape_hooks.trajectory.writer import COMPRESSORS

Dtype = Literal["bfloat16", "float16", "float32", "float64"]
Compress = Literal["lz4", "zstd"]
Durability = Literal["fsync"]
OnError = Literal["warn", "raise"]
Queue = Literal["block", "drop"]
Frozen = Literal["stored", "reference"]


@dataclass(frozen=True)
class Storage:
    """How snapshots are stored.

    Attributes
    ----------
    dtype
        how weights are stored. None: in a type that holds every recorded tensor exactly (bfloat16 or float16 where all
        of them are of that type, float64 where any is, otherwise float32). float16 halves a run of float32, at a
        relative error of 5e-4 (a weight beyond 65504 becomes inf), bfloat16 at one of 4e-3. float32 for a model of
        halves: where the optimizer steps float32 masters, the rows have those, as long as they round to the model's.
    compress
        lossless, for slow disks: weights shrink by 10 % or so, writing costs more than it saves on fast ones.
    checksum
        store a checksum of every snapshot, by which `Trajectory.verify()` finds damage later. When resuming, the run
        decides.
    durability
        "fsync": a committed snapshot survives a loss of power, not only the end of the process. Local folders only.
    on_error
        what trouble with writing does to the training: one warning, or an exception.
    queue
        when snapshots come faster than they can be written: wait, or drop (and count) them.

    Raises
    ------
    LandscapeError
        a value is none of those.
    """

    dtype: Dtype | None = None
    compress: Compress | None = None
    checksum: bool = False
    durability: Durability | None = None
    on_error: OnError = "warn"
    queue: Queue = "block"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, (None, *get_args(Dtype)))
        check_choice("compress", self.compress, (None, *COMPRESSORS))
        check_choice("checksum", self.checksum, (False, True))
        check_choice("durability", self.durability, (None, *get_args(Durability)))
        check_choice("on_error", self.on_error, get_args(OnError))
        check_choice("queue", self.queue, get_args(Queue))


@dataclass(frozen=True, init=False)
class Parameters:
    """Which parameters the snapshots have, and how the run keeps the others, as `record(parameters=)` takes it.

    Attributes
    ----------
    patterns
        patterns of names, such as `Parameters("lora_*", "head.*")`: `*` and `?` as of file names, the modules before a
        name may be left out. What none of them means counts as fixed; if it moves, the run says so as a doubt, for the
        loss depends on it. Without patterns: what requires a gradient, and whatever begins to move later.
    frozen
        how what is fixed is kept: "stored" (once, in its own type), or "reference": names, shapes and digests alone,
        for bases of many gigabytes. `analyze --base` gives it back then.

    Raises
    ------
    LandscapeError
        a pattern is no text, or `frozen` none of the two.

    Examples
    --------
    >>> Parameters("lora_*", "head.*").patterns
    ('lora_*', 'head.*')
    """

    patterns: tuple[str, ...] = ()
    frozen: Frozen = "stored"

    def __init__(self, *patterns: str, frozen: Frozen = "stored") -> None:
        try:
            parsed = parse_patterns(patterns)
        except RunError as error:
            raise LandscapeError(
                f"Found parameters={patterns!r}", expected="names of tensors with * and ?, like 'head.*'"
            ) from error
        check_choice("frozen", frozen, get_args(Frozen))
        object.__setattr__(self, "patterns", parsed)
        object.__setattr__(self, "frozen", frozen)


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """An argument is one of the values that it may have.

    Raises
    ------
    LandscapeError
        it is not.
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise LandscapeError(f"Found {name}={value!r}", expected="one of " + ", ".join(map(repr, choices)))
