"""Checkpoint: what somebody saved, as nested names and tensors. A tensor is read when it is asked for.

In: what a reader of one format found. Out: the state dicts in it, the likeliest first, and what it says of its step.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from landscape_hooks.errors import CheckpointError, printable

if TYPE_CHECKING:
    import torch

MOST_TENSORS = 2**16
"""Tensors that are taken from one checkpoint. The largest models have some ten thousand."""

DEPTH = 6
"""Levels of nested dictionaries that are looked through."""

FREE_BYTES, EXPANSION = 2**28, 16
"""Bytes that the tensors of a checkpoint may take whatever its size; beyond that, so many times its size."""

WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
"""Keys under which state dicts are saved, the likeliest first."""

AVERAGES = ("ema", "average", "averaged", "swa", "shadow", "teacher")
"""Parts of keys (or of prefixes of names) under which another model than the one that is trained is saved."""

NO_WEIGHTS = ("optim", "opt", "lr_sched", "sched", "scaler", "grad_scaler", "rng", "callbacks", "loops", "hyper",
              "hparams", "config", "cfg", "args", "amp", "random")  # fmt: skip
"""Beginnings of keys below which no weights are saved."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a checkpoint.

    Attributes
    ----------
    shape, dtype
        as saved; the type as torch spells it.
    read
        gives the tensor, on the CPU.
    memory
        equal for names of one tensor, where the format tells.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], torch.Tensor]
    memory: Hashable | None = None

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point or complex numbers."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


StateDict = Mapping[str, Stored]


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of the training; None and NaN where it does not.

    Attributes
    ----------
    step
        optimizer steps taken.
    epoch, loss
        as the training counted and logged them.
    learning_rate, momentum
        of each parameter group.
    """

    step: int | None = None
    epoch: float = math.nan
    loss: float = math.nan
    learning_rate: tuple[float, ...] = ()
    momentum: tuple[float, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """What somebody saved.

    Attributes
    ----------
    name
        what messages call it.
    tree
        nested dictionaries with `Stored` tensors among their values.
    facts
        what it says of the training.
    adapters
        whether it holds adapters only, whose base is elsewhere.
    """

    name: str
    tree: Mapping[str, Any]
    facts: Facts = field(default_factory=Facts)
    adapters: bool = False

    def state_dicts(self) -> dict[tuple[str, ...], StateDict]:
        """The dictionaries of tensors in it, by the keys that lead to them, the likeliest to be the model's first.

        Raises
        ------
        CheckpointError
            there is none.
        """
        found = dict(sorted(_state_dicts(self.tree), key=lambda pair: _rank(pair[0])))
        if not any(stored.floating for each in found.values() for stored in each.values()):
            if "param_groups" in self.tree:
                raise CheckpointError(
                    f"{self.name} is the state of an optimizer, without weights", mend="Name the file of the model"
                )
            raise CheckpointError(
                f"{self.name} holds no floating-point tensors by name",
                expected="a state dict, or a dictionary that holds one (state_dict, model, ...)",
                mend="Save model.state_dict()",
            )
        return found

    def flattened(self) -> dict[str, Stored]:
        """All its tensors but the optimizers', their names joined with dots."""
        return {".".join((*path, name)): s for path, each in self.state_dicts().items() for name, s in each.items()}

    def check_size(self, size: int) -> None:
        """The tensors are as large as a checkpoint of `size` bytes can hold.

        Raises
        ------
        CheckpointError
            there are too many of them, or they claim more numbers than there can be.
        """
        count = total = 0
        for _, each in _state_dicts(self.tree):
            count += len(each)
            total += sum(stored.size for stored in each.values())
        check_count(self.name, count)
        if total > max(FREE_BYTES, EXPANSION * size):
            raise CheckpointError(
                f"{self.name} claims to hold {total:,} numbers in {size:,} bytes", mend="Save it again, or restore it"
            )


def check_count(name: str, count: int) -> None:
    """Refuse a checkpoint with more tensors than any model has.

    Raises
    ------
    CheckpointError
        it has.
    """
    if count > MOST_TENSORS:
        raise CheckpointError(f"{name} holds {count:,} tensors", expected=f"at most {MOST_TENSORS:,}")


def check_name(checkpoint: str, name: str) -> None:
    """Refuse the name of a tensor that no module can have.

    Raises
    ------
    CheckpointError
        it has an empty part between its dots, is very long, or is not printable.
    """
    if not all(name.split(".")) or len(name) > 1000 or not name.isprintable():
        raise CheckpointError(
            f"{checkpoint} holds a tensor with the name '{printable(name)[:100]}'",
            expected="names as modules have them, such as layers.0.weight",
        )


# -- state dicts in nested dictionaries ------------------------------------------------------------------------
def _state_dicts(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], StateDict]]:
    own = {name: value for name, value in tree.items() if isinstance(value, Stored)}
    if own:
        yield path, own
    if len(path) < DEPTH:
        for key, value in tree.items():
            if isinstance(value, Mapping) and not key.lower().startswith(NO_WEIGHTS):
                yield from _state_dicts(value, (*path, key))


def _rank(path: tuple[str, ...]) -> tuple[bool, int, int]:
    last = path[-1] if path else ""
    known = WEIGHTS.index(last) if last in WEIGHTS else len(WEIGHTS)
    return is_average(".".join(path)), known, len(path)


def is_average(name: str) -> bool:
    """Whether a key or a prefix is one of averaged weights, or of a teacher's."""
    return any(part in AVERAGES for part in name.lower().replace("_", ".").split("."))


# -- numbers that checkpoints say of themselves ----------------------------------------------------------------
STEP = ("global_step", "step", "iteration", "iter", "iter_num", "num_updates", "n_iter", "global_iter", "current_step")
EPOCH = ("epoch", "current_epoch", "epoch_num")
LOSS = ("loss", "train_loss", "training_loss")
OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optimizer_state", "optim", "opt")
AROUND = ("meta", "state", "train_state", "trainer", "trainer_state", "extra_state", "progress", "info")
"""Dictionaries beside the weights in which steps are saved."""


def facts_of(tree: Mapping[str, Any]) -> Facts:
    """What the dictionaries around the weights say."""
    places = [tree, *(tree[key] for key in AROUND if isinstance(tree.get(key), Mapping))]
    groups = _groups(tree)
    return Facts(
        step=next((step for place in places for key in STEP if (step := whole(place.get(key))) is not None), None),
        epoch=_first(places, EPOCH),
        loss=_first(places, LOSS),
        learning_rate=tuple(number(group.get("lr")) for group in groups),
        momentum=tuple(_momentum(group) for group in groups),
    )


def number(value: object) -> float:
    """A number, or a tensor of one, as a float; NaN where it is neither."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, Stored):
        if value.size != 1 or len(value.shape) > 1:
            return math.nan
        value = value.read().item()
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def whole(value: object) -> int | None:
    """A whole number from 0 to 2⁵³, or a tensor of one; None where it is neither."""
    try:
        exact = operator.index(value) if not isinstance(value, bool) else -1  # type: ignore[arg-type]
    except TypeError:
        found = number(value)
        exact = int(found) if math.isfinite(found) and found == int(found) else -1
    return exact if 0 <= exact < 2**53 else None


def _first(places: list[Mapping[str, Any]], keys: tuple[str, ...]) -> float:
    found = (number(place[key]) for place in places for key in keys if key in place)
    return next((value for value in found if not math.isnan(value)), math.nan)


def _groups(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Parameter groups of the first optimizer that was saved."""
    for key in OPTIMIZERS:
        found = tree.get(key)
        first = found[0] if isinstance(found, list | tuple) and found else found
        groups = first.get("param_groups") if isinstance(first, Mapping) else None
        if isinstance(groups, list) and len(groups) <= MOST_TENSORS:
            return [group for group in groups if isinstance(group, Mapping)]
    return []


def _momentum(group: Mapping[str, Any]) -> float:
    betas = group.get("betas")
    if group.get("momentum") is None and isinstance(betas, list | tuple) and betas:
        return number(betas[0])
    return number(group.get("momentum"))
