"""Probe: the fixed samples on which a loss is evaluated, in a fixed order and in the batches they came in.

In: a DataLoader, an iterable of batches, one batch, or a dataset. Out: tensors, concatenated where their shapes
allow, with the sizes of the batches; stored below `objective/data` of a run. How batches are taken from the data is
said in data/samples.py, how they are taken apart in data/batches.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.core.common import JSON

from landscape_hooks.errors import DataError, ObjectiveError
from landscape_hooks.objective.data.batches import Flat, Leaf, Rebuild, Template, flatten_portable
from landscape_hooks.objective.data.samples import DataLike, batches_of
from landscape_hooks.store import checked, schema

VARIANT = "variant"
"""Name of a last leaf that is no part of the batch: which of several ways its loss is computed in."""


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

    def notes(self, samples: int) -> list[str]:
        """What is said of the choice, where `samples` were asked for."""
        if self.batch_size > samples:
            return [
                f"A batch of {self.batch_size} samples was kept whole where samples={samples} were asked for: "
                "each loss costs as much as all of them."
            ]
        return []

    def batches(self) -> Iterator[tuple[list[Tensor], int]]:
        """The batches as they were recorded: (leaves, samples)."""
        for group in self.groups:
            start = 0
            for size in group.sizes:
                yield group.slice(start, start + size), size
                start += size

    def chunks(self, size: int) -> Iterator[tuple[list[Tensor], int]]:
        """The same samples in the same order, about `size` at a time: (leaves, samples)."""
        for group in self.groups:
            start = 0
            while start < group.samples:
                stop = min(start + size, group.samples)
                if group.samples - stop == 1:  # models that drop dimensions of size one take no single sample
                    stop += 1
                yield group.slice(start, stop), stop - start
                start = stop

    def to(self, device: torch.device | str) -> Probe:
        """The same samples on another device."""
        groups = [Group([t.to(device) for t in g.leaves], g.per_sample, g.sizes) for g in self.groups]
        return Probe(groups, self.names, self.digest)

    def map(self, change: Callable[[Tensor], Tensor]) -> Probe:
        """The same samples with every tensor changed in what does not change its values (its memory format)."""
        groups = [Group([change(t) for t in g.leaves], g.per_sample, g.sizes) for g in self.groups]
        return Probe(groups, self.names, self.digest)

    def head(self, samples: int, *, whole: bool = False) -> Probe:
        """The first `samples` samples; `whole` takes batches as they are until there are so many."""
        groups, left = [], samples
        for group in self.groups:
            sizes: list[int] = []
            for size in group.sizes:
                if left > 0:
                    sizes.append(size if whole else min(size, left))
                    left -= sizes[-1]
            if sizes:
                groups.append(Group(group.slice(0, sum(sizes)), group.per_sample, sizes))
        return _with_digest(groups, self.names)

    def drawn(self, count: int, seed: int, *, whole: bool = False) -> Probe:
        """At least `count` samples drawn without replacement, in their order; `whole` draws batches.

        Those of a lower count and the same seed are among them.
        """
        sizes = [n for group in self.groups for n in group.sizes]
        batch = np.repeat(np.arange(len(sizes)), sizes)
        random = np.random.default_rng(seed)
        if whole:
            order = random.permutation(len(sizes))
            enough = int(np.searchsorted(np.cumsum(np.asarray(sizes)[order]), count)) + 1
            chosen = np.isin(batch, order[:enough])
        else:
            chosen = np.zeros(self.samples, dtype=bool)
            chosen[random.permutation(self.samples)[:count]] = True
        groups, start = [], 0
        for group in self.groups:
            mine = chosen[start : start + group.samples]
            within = np.repeat(np.arange(len(group.sizes)), group.sizes)
            left = [n for n in np.bincount(within[mine], minlength=len(group.sizes)).tolist() if n]
            rows = torch.from_numpy(np.flatnonzero(mine))
            if left:
                leaves = [
                    t[rows.to(t.device)] if per else t for t, per in zip(group.leaves, group.per_sample, strict=True)
                ]
                groups.append(Group(leaves, group.per_sample, left))
            start += group.samples
        return _with_digest(groups, self.names)

    def each(self) -> list[Group]:
        """Every batch as a group of its own."""
        found = []
        for group in self.groups:
            start = 0
            for size in group.sizes:
                found.append(Group(group.slice(start, start + size), group.per_sample, [size]))
                start += size
        return found

    @classmethod
    def of(cls, batches: Sequence[Group], names: Sequence[str]) -> Probe:
        """Batches, each a group of its own, in this order."""
        return _with_digest(_joined(list(batches)), list(names))

    def select(self, names: Sequence[str]) -> Probe:
        """The same batches with only the leaves of these names.

        Raises
        ------
        ObjectiveError
            one of them is not there.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ObjectiveError(f"The data has the entries {self.names}", expected=f"{list(names)}, as recorded")
        places = [self.names.index(name) for name in names]
        chosen = [
            Group([g.leaves[k] for k in places], tuple(g.per_sample[k] for k in places), g.sizes) for g in self.each()
        ]
        return Probe.of(chosen, names)

    # -- from the user's data --------------------------------------------------------------------------
    @classmethod
    def collect(cls, data: DataLike, samples: int = 1024, *, one_shot: bool = False) -> tuple[Probe, Rebuild]:
        """Keep whole batches of `data` until there are `samples` samples; nothing of the user's is touched.

        Returns the probe (tensors on the CPU), and what puts leaves back into batches. Where batches differ in their
        make or in values that are no tensors, a last leaf, `VARIANT`, says which template a batch has.

        Parameters
        ----------
        data
            a DataLoader, an iterable of batches, one batch, or a dataset (data/samples.py).
        samples
            how many; a batch that holds more is not cut.
        one_shot
            whether an iterator may be consumed.

        Raises
        ------
        DataError
            there is no sample, or a batch holds no tensor.
        ObjectiveError
            the data can be read only once.
        """
        if samples < 1:
            raise DataError(f"Found samples={samples}", expected="at least 1")
        flats: list[tuple[Flat, int]] = []
        left = samples
        with closing(batches_of(data, samples, flatten_portable, one_shot=one_shot)) as batches:
            for flat in batches:
                if not flat.leaves:
                    raise DataError("Found a batch without a tensor",
                                    expected="tensors, arrays or numbers, or containers of them")  # fmt: skip
                size = samples_of(flat.leaves)
                if size:
                    flats.append((flat, size))
                    left -= size
                if left <= 0:
                    break
        if not flats:
            raise DataError(
                "The probe data is empty: it gave no batch",
                expected="at least one batch",
                mend="Give data= a DataLoader with samples, an iterable of batches, or one batch",
            )
        return _assembled(flats)

    # -- in a run --------------------------------------------------------------------------------------
    def store(self, root: zarr.Group) -> None:
        """Write the samples below `objective/data` of a run."""
        group = root.require_group("objective/data")
        rows: list[dict[str, JSON]] = []
        for number, part in enumerate(self.groups):
            for leaf, tensor in enumerate(part.leaves):
                write_tensor(root, f"objective/data/{number}/{leaf}", tensor)
            rows.append({"sizes": part.sizes, "per_sample": list(part.per_sample)})
        group.attrs.put({"groups": rows, "names": self.names, "digest": self.digest})

    @classmethod
    def load(cls, root: zarr.Group) -> Probe:
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


def write_tensor(root: zarr.Group, path: str, tensor: Tensor) -> None:
    """Store a tensor; bfloat16, which Zarr does not know, as its 16 bits with the type beside it."""
    kind = str(tensor.dtype).removeprefix("torch.")
    array = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).contiguous().numpy()
    chunks = tuple(max(1, n) for n in array.shape) or None
    options: dict[str, Any] = {"chunks": chunks} if chunks else {}
    target = schema.create(root, path, array.shape, dtype=array.dtype, attributes={"torch_dtype": kind}, **options)
    if array.size:
        target[...] = array


def read_tensor(root: zarr.Group, path: str) -> Tensor:
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


def _read_group(root: zarr.Group, number: int, row: Mapping[str, Any], leaves: int) -> Group:
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
def samples_of(leaves: Sequence[Leaf]) -> int:
    """How many samples a batch holds: the first dimension that most of its tensors have, of several the last one's.

    That of the targets: tokens beside offsets, or the nodes of several graphs, are no samples.
    """
    sizes = [leaf.tensor.shape[0] for leaf in leaves if leaf.tensor.ndim and leaf.kind in ("tensor", "array")]
    sizes = sizes or [leaf.tensor.shape[0] for leaf in leaves if leaf.tensor.ndim] or [1]
    most = max(map(sizes.count, sizes))
    return next(size for size in reversed(sizes) if sizes.count(size) == most)


def _assembled(flats: Sequence[tuple[Flat, int]]) -> tuple[Probe, Rebuild]:
    names = list(dict.fromkeys(leaf.name for flat, _ in flats for leaf in flat.leaves))
    at = {name: place for place, name in enumerate(names)}
    templates: list[Template] = []
    groups, variants = [], []
    for flat, size in flats:
        template = Template(flat.tree, [x.kind for x in flat.leaves], [at[x.name] for x in flat.leaves], flat.plain)
        same = (k for k, t in enumerate(templates) if t.same_make(template) and not t.differing(template))
        number = next(same, len(templates))
        if number == len(templates):
            templates.append(template)
        leaves = [torch.zeros(0)] * len(names)
        for leaf in flat.leaves:
            leaves[at[leaf.name]] = leaf.tensor
        groups.append(Group(leaves, tuple(t.ndim > 0 and t.shape[0] == size for t in leaves), [size]))
        variants.append(number)
    if len(templates) > 1:
        groups = [with_variant(group, number) for group, number in zip(groups, variants, strict=True)]
        names.append(VARIANT)
    return Probe.of(groups, names), Rebuild(tuple(templates))


def with_variant(group: Group, number: int) -> Group:
    """The batch with a last leaf that says which of several ways its loss is computed in."""
    return Group([*group.leaves, torch.tensor(number)], (*group.per_sample, False), group.sizes)


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
            if tensor.numel():
                total.update(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return Probe(groups, names, total.hexdigest())
