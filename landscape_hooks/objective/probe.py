"""Probe: the fixed samples on which a loss is evaluated, in a fixed order and in the batches they came in.

In: a DataLoader, an iterable of batches, one batch, or a dataset. Out: tensors, concatenated where their shapes
allow, with the sizes of the batches; stored below `objective/data` of a run. A batch is any nesting of tuples,
lists and mappings of tensors; the leaves are taken in order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape_hooks.errors import DataError, ObjectiveError
from landscape_hooks.store import checked, schema


@dataclass(frozen=True)
class Group:
    """Consecutive batches whose tensors have the same shape but for the number of samples.

    Attributes
    ----------
    leaves
        the tensors, samples along the first dimension; a tensor without samples is given once.
    per_sample
        which of them have samples along the first dimension.
    sizes
        samples in each batch.
    """

    leaves: list[Tensor]
    per_sample: tuple[bool, ...]
    sizes: list[int]

    @property
    def samples(self) -> int:
        """Samples in all batches of the group."""
        return sum(self.sizes)

    def slice(self, start: int, stop: int) -> list[Tensor]:
        """The leaves of the samples start:stop."""
        return [t[start:stop] if per else t for t, per in zip(self.leaves, self.per_sample, strict=True)]


@dataclass(frozen=True)
class Probe:
    """The probe samples.

    Attributes
    ----------
    groups
        the samples, in order.
    names
        where each leaf stood in a batch (`[0]`, `['labels']`, ...).
    batch_size
        samples in the largest batch.
    digest
        SHA-256 over shapes, types, values and batch sizes.
    """

    groups: list[Group]
    names: list[str]
    digest: str

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(group.samples for group in self.groups)

    @property
    def batch_size(self) -> int:
        """Samples in the largest batch."""
        return max(size for group in self.groups for size in group.sizes)

    def batches(self) -> Iterator[tuple[list[Tensor], int]]:
        """The batches as they were recorded: (leaves, samples)."""
        for group in self.groups:
            start = 0
            for size in group.sizes:
                yield group.slice(start, start + size), size
                start += size

    def chunks(self, size: int) -> Iterator[tuple[list[Tensor], int]]:
        """The same samples in the same order, at most `size` at a time: (leaves, samples)."""
        for group in self.groups:
            for start in range(0, group.samples, size):
                stop = min(start + size, group.samples)
                yield group.slice(start, stop), stop - start

    def to(self, device: torch.device | str) -> Probe:
        """The same samples on another device."""
        groups = [Group([t.to(device) for t in g.leaves], g.per_sample, g.sizes) for g in self.groups]
        return Probe(groups, self.names, self.digest)

    def map(self, change: Callable[[Tensor], Tensor]) -> Probe:
        """The same samples with every tensor changed in what does not change its values (its memory format)."""
        groups = [Group([change(t) for t in g.leaves], g.per_sample, g.sizes) for g in self.groups]
        return Probe(groups, self.names, self.digest)

    def head(self, samples: int) -> Probe:
        """The first `samples` samples."""
        groups, left = [], samples
        for group in self.groups:
            if left <= 0:
                break
            take = min(left, group.samples)
            sizes, room = [], take
            for size in group.sizes:
                if room > 0:
                    sizes.append(min(size, room))
                    room -= sizes[-1]
            groups.append(Group(group.slice(0, take), group.per_sample, sizes))
            left -= take
        return _with_digest(groups, self.names)

    def of_size(self, size: int) -> Probe:
        """Only the batches of exactly `size` samples, for a graph that knows no other size."""
        groups = []
        for group in self.groups:
            whole, start = [], 0
            for n in group.sizes:
                if n == size:
                    whole.append(group.slice(start, start + n))
                start += n
            if whole:
                leaves = [
                    torch.cat(ts) if per else ts[0]
                    for ts, per in zip(zip(*whole, strict=True), group.per_sample, strict=True)
                ]
                groups.append(Group(leaves, group.per_sample, [size] * len(whole)))
        return _with_digest(groups, self.names)

    # -- from the user's data --------------------------------------------------------------------------
    @classmethod
    def collect(cls, data: Any, samples: int = 1024) -> tuple[Probe, Callable[[Sequence[Tensor]], Any]]:
        """Keep the first `samples` samples of `data`; every random state stays as it was.

        Returns the probe (tensors copied to the CPU), and the function that puts leaves back into the shape
        of a batch.

        Raises
        ------
        DataError
            there is no sample, or a batch holds no tensor.
        """
        if samples < 1:
            raise DataError(f"Found samples={samples}", expected="at least 1")
        groups: list[Group] = []
        names: list[str] = []
        rebuild: Callable[[Sequence[Tensor]], Any] | None = None
        left = samples
        with _random_state_kept(data):
            for batch in _batches(data, samples):
                pairs, template = _flatten(batch)
                if not pairs:
                    raise DataError(f"Found a batch of type {type(batch).__name__} without a tensor",
                                         expected="tensors, or tuples, lists and mappings of them")  # fmt: skip
                if rebuild is None:
                    names, rebuild = [name for name, _ in pairs], template
                elif [name for name, _ in pairs] != names:
                    raise DataError(f"Found a batch with {[n for n, _ in pairs]}",
                                         expected=f"the same entries as in the first batch, {names}")  # fmt: skip
                left -= _append(groups, [t.detach().to("cpu") for _, t in pairs], left)
                if left <= 0:
                    break
        if not groups or rebuild is None:
            raise DataError(
                "The probe data is empty: it gave no batch",
                expected="at least one batch",
                mend="Give data= a DataLoader with samples, an iterable of batches, or one batch",
            )
        return _with_digest(_joined(groups), names), rebuild

    # -- in a run --------------------------------------------------------------------------------------
    def store(self, root: Any) -> None:
        """Write the samples below `objective/data` of a run."""
        group = root["objective"].require_group("data")
        rows = []
        for number, part in enumerate(self.groups):
            for leaf, tensor in enumerate(part.leaves):
                write_tensor(root, f"objective/data/{number}/{leaf}", tensor)
            rows.append({"sizes": part.sizes, "per_sample": list(part.per_sample)})
        group.attrs.put({"groups": rows, "names": self.names, "digest": self.digest})

    @classmethod
    def load(cls, root: Any) -> Probe:
        """Read the samples of a run.

        Raises
        ------
        ObjectiveError
            the samples are not what was recorded (the digest differs).
        RunError
            they are not what the format says.
        """
        group = checked.group(root, "objective/data")
        if group is None:
            raise checked.damaged("The objective has no data")
        names = [str(name) for name in checked.attribute(group, "names", list, "the probe data")]
        rows = checked.attribute(group, "groups", list, "the probe data")
        groups = [_read_group(root, number, row, len(names)) for number, row in enumerate(rows)]
        if not groups or not names:
            raise checked.damaged("The probe data is empty")
        probe = _with_digest(groups, names)
        if probe.digest != group.attrs.get("digest"):
            raise ObjectiveError(
                "The probe samples in the run are damaged: their digest differs from the recorded one",
                mend="Restore the run from a copy, or give the data anew: analyze RUN --objective module:function",
            )
        return probe


def write_tensor(root: Any, path: str, tensor: Tensor) -> None:
    """Store a tensor; bfloat16, which Zarr does not know, as its 16 bits with the type beside it."""
    kind = str(tensor.dtype).removeprefix("torch.")
    array = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).contiguous().numpy()
    chunks = tuple(max(1, n) for n in array.shape) or None
    options = {"chunks": chunks} if chunks else {}
    target = schema.create(root, path, array.shape, dtype=array.dtype, attributes={"torch_dtype": kind}, **options)
    if array.size:
        target[...] = array


def read_tensor(root: Any, path: str) -> Tensor:
    """The inverse of `write_tensor`."""
    values = np.array(checked.read(root, path))
    narrow = checked.array(root, path).attrs.get("torch_dtype") == "bfloat16"
    if narrow and values.dtype != np.uint16:
        raise checked.damaged(f"'{path}' has the type {values.dtype}", expected="the 16 bits of bfloat16 as uint16")
    try:
        tensor = torch.from_numpy(values)
    except TypeError as error:
        raise checked.damaged(f"'{path}' has the type {values.dtype}", expected="a type that torch knows") from error
    return tensor.view(torch.bfloat16) if narrow else tensor


def _read_group(root: Any, number: int, row: Any, leaves: int) -> Group:
    """A group of batches, whose sizes are those of its tensors."""
    try:
        sizes = [checked.whole(n, "A number of samples", low=1, high=2**40) for n in row["sizes"]]
        per_sample = tuple(bool(each) for each in row["per_sample"])
    except (KeyError, TypeError) as error:
        raise checked.damaged(f"Group {number} of the probe data is not described") from error
    tensors = [read_tensor(root, f"objective/data/{number}/{leaf}") for leaf in range(leaves)]
    fits = [t.ndim > 0 and t.shape[0] == sum(sizes) for t, per in zip(tensors, per_sample, strict=False) if per]
    if not sizes or len(per_sample) != leaves or not all(fits):
        raise checked.damaged(f"Group {number} of the probe data does not hold {sum(sizes)} samples")
    return Group(tensors, per_sample, sizes)


# -- batches of any kind ------------------------------------------------------------------------------------
def _batches(data: Any, samples: int) -> Iterable[Any]:
    if isinstance(data, Tensor | Mapping | tuple):
        return [data]
    if isinstance(data, list) and data and isinstance(data[0], Tensor):
        return [data]
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        return torch.utils.data.DataLoader(data, batch_size=min(256, samples))
    if isinstance(data, Iterable):
        return data
    raise DataError(f"Found data of type {type(data).__name__}",
                         expected="a DataLoader, an iterable of batches, one batch, or a dataset")  # fmt: skip


def _flatten(batch: Any, at: str = "") -> tuple[list[tuple[str, Tensor]], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a batch with their places, and the function that puts such tensors back into its shape."""
    if isinstance(batch, Tensor):
        return [(at, batch)], lambda leaves: leaves[0]
    if isinstance(batch, Mapping):
        keys, children = list(batch), list(batch.values())
        places = [f"{at}[{key!r}]" for key in keys]

        def build(parts: list[Any]) -> Any:
            return dict(zip(keys, parts, strict=True))
    elif isinstance(batch, list | tuple):
        children = list(batch)
        places = [f"{at}[{i}]" for i in range(len(children))]

        def build(parts: list[Any]) -> Any:
            return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    else:
        return [], lambda leaves: batch
    flat = [_flatten(child, place) for child, place in zip(children, places, strict=True)]

    def rebuild(leaves: Sequence[Tensor]) -> Any:
        parts, start = [], 0
        for pairs, child in flat:
            parts.append(child(leaves[start : start + len(pairs)]))
            start += len(pairs)
        return build(parts)

    return [pair for pairs, _ in flat for pair in pairs], rebuild


def _append(groups: list[Group], leaves: list[Tensor], room: int) -> int:
    """Add one batch, at most `room` samples of it; how many were added."""
    size = next((t.shape[0] for t in leaves if t.ndim), 1)
    if size == 0:
        return 0
    per_sample = tuple(t.ndim > 0 and t.shape[0] == size for t in leaves)
    take = min(size, room)
    # clone: a loader may hand out the same buffer again
    kept = [(t[:take] if per else t).clone() for t, per in zip(leaves, per_sample, strict=True)]
    groups.append(Group(kept, per_sample, [take]))
    return take


def _joined(groups: list[Group]) -> list[Group]:
    """Neighbours of the same shape in one group."""
    runs: list[list[Group]] = []
    for group in groups:
        if runs and _fits(runs[-1][-1], group):
            runs[-1].append(group)
        else:
            runs.append([group])
    joined = []
    for run in runs:
        per_sample = run[0].per_sample
        columns = zip(*(g.leaves for g in run), strict=True)
        leaves = [torch.cat(ts) if per else ts[0] for ts, per in zip(columns, per_sample, strict=True)]
        joined.append(Group(leaves, per_sample, [g.sizes[0] for g in run]))
    return joined


def _fits(a: Group, b: Group) -> bool:
    return a.per_sample == b.per_sample and all(
        x.dtype == y.dtype and (x.shape[1:] == y.shape[1:] if per else torch.equal(x, y))
        for x, y, per in zip(a.leaves, b.leaves, a.per_sample, strict=True)
    )


def _with_digest(groups: list[Group], names: list[str]) -> Probe:
    total = hashlib.sha256()
    for group in groups:
        total.update(repr(group.sizes).encode())
        for tensor in group.leaves:
            total.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            total.update(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return Probe(groups, names, total.hexdigest())


@contextmanager
def _random_state_kept(data: Any) -> Iterator[None]:
    """Iterating a loader draws from global generators and from its own: put all of them back."""
    sampler = getattr(data, "sampler", None)
    batches = getattr(data, "batch_sampler", None)
    owners = [data, sampler, batches, getattr(sampler, "sampler", None), getattr(batches, "sampler", None)]
    generators = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    kept = [(g, g.get_state()) for g in generators.values()]
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for generator, state in kept:
            generator.set_state(state)
