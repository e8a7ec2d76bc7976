"""Samples: batches of the user's data, taken without touching what the training uses.

In: a DataLoader, an iterable of batches, one batch, or a dataset. Out: the batches, one after the other. The user's
loader is never iterated. Its batches are put together here, from its dataset, its samplers and its collate function;
in a forked child where one of them may keep state; under saved random states. What is left of the data is what was
there: no worker started, no epoch counted, no sample taken from a stream.

Which samples: those that the loader's sampler names. Where these are the first of a longer list in its order (a
validation loader: `shuffle=False`), a seeded random choice of the list takes their place, for a dataset may be sorted.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from landscape_hooks.errors import DataError, ObjectiveError
from landscape_hooks.machine import forks
from landscape_hooks.objective.data.child import ChildError, in_child
from landscape_hooks.objective.data.reach import Reach, reach
from landscape_hooks.objective.data.states import SEED, seed_all, states_kept

BATCH = 256
"""Samples in a batch where the data is a dataset and says nothing of batches."""
MOST_SHARED = 2**30
"""Bytes of shared memory of which a copy is kept."""
LONGEST = 10_000_000
"""Entries of a sampler that are listed, to choose from them."""


class Indexed(Protocol):
    """A dataset of any make: samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


DataLike = Iterable[Any] | Dataset[Any] | Indexed
"""What probe samples are taken from: a DataLoader, an iterable of batches, one batch, or a dataset."""

_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
_COPYABLE: tuple[type, ...] = (type(iter([])), type(iter(())))
_KEPT = "Give data= the DataLoader itself, a dataset, or a list of batches"
# loaders whose own way of iterating is about workers, devices and resuming, not about what is in a batch
_PLAIN_LOADERS = ("torch.", "torchdata.", "accelerate.", "lightning.", "lightning_fabric.", "pytorch_lightning.")

Prepare = Callable[[Any], Any]


def batches_of(data: DataLike, samples: int, prepare: Prepare, *, one_shot: bool = False) -> Generator[Any]:
    """`prepare(batch)` of one batch of `data` after the other; close the iterator when there are enough.

    Parameters
    ----------
    data
        a DataLoader, an iterable of batches, one batch, or a dataset.
    samples
        how many samples are wanted: less than all of them are chosen at random from data in order.
    prepare
        what is done with each batch where it is read.
    one_shot
        whether an iterator may be consumed.

    Raises
    ------
    DataError
        nothing of this kind, or it raised.
    ObjectiveError
        it can be read only once.
    """
    if _is_batch(data):
        data = [data]
    if isinstance(data, _COPYABLE):
        copied: Any = copy.copy(data)
        data = list(copied)
    if isinstance(data, list) or (one_shot and isinstance(data, Iterator)):
        for batch in data:
            yield prepare(batch)
        return
    yield from _run(_work_for(data, samples), prepare)


def _is_batch(data: object) -> bool:
    if isinstance(data, Tensor | Mapping | tuple | np.ndarray):
        return True
    return isinstance(data, list) and bool(data) and isinstance(data[0], Tensor)


@dataclass(frozen=True)
class _Work:
    """How batches are made: `make(data)` iterates them, reading `parts`; `stateless` if that leaves no trace."""

    data: Any
    make: Callable[[Any], Iterator[Any]]
    parts: tuple[Any, ...]
    stateless: bool = False


def _work_for(data: object, samples: int) -> _Work:
    if isinstance(data, DataLoader) and _is_plain(data):
        return _loader_work(data, samples)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        return _loader_work(DataLoader(data, batch_size=min(BATCH, samples)), samples)
    if isinstance(data, Iterator) and not _has_state_of_its_own(data):
        raise _once(data, "an iterator, which can be read only once")
    if not isinstance(data, Iterable) and not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(f"Found data of type {type(data).__name__}",
                        expected="a DataLoader, an iterable of batches, one batch, or a dataset")  # fmt: skip
    return _Work(data, _iterated, (data,))


def _has_state_of_its_own(data: object) -> bool:
    """Whether it is an object of a class written in Python, which a forked process has a copy of."""
    return hasattr(data, "__dict__") and not type(data).__module__.startswith(("builtins", "itertools", "_io"))


def _once(data: object, what: str) -> ObjectiveError:
    return ObjectiveError(
        f"The data ({type(data).__name__}) reads from {what}; it was left alone, since the training would miss "
        "what is taken from it",
        expected="data that can be read without consuming it",
        mend=_KEPT,
    )


# -- a loader's batches without the loader --------------------------------------------------------------------------
def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader's batches are what its dataset, samplers and collate function make.

    A subclass may iterate in its own way; that is followed, unless it reads from workers that run already.
    """
    for name in ("__iter__", "_get_iterator"):
        owner = next(kind for kind in type(loader).__mro__ if name in kind.__dict__)
        if not f"{owner.__module__}.".startswith(_PLAIN_LOADERS):
            return bool(reach(loader).stream)
    return True


def _loader_work(loader: DataLoader[Any], samples: int) -> _Work:
    collate, dataset = loader.collate_fn, loader.dataset
    if isinstance(dataset, IterableDataset):
        return _Work(loader, _streamed, (dataset,))
    batches, sampler = loader.batch_sampler, loader.sampler
    parts = (dataset, batches if batches is not None else sampler, loader.generator)
    stateless = collate in (default_collate, default_convert) and _is_known(dataset)
    if batches is not None:
        inner = getattr(batches, "sampler", None)
        stateless &= type(batches) is BatchSampler and type(inner) in _SAMPLERS
    else:
        stateless &= type(sampler) in _SAMPLERS
    return _Work(loader, partial(_fetched, samples=samples), parts, stateless)


def _is_known(dataset: object) -> bool:
    """Whether reading from a dataset leaves no trace in it."""
    if type(dataset) is Subset:
        return _is_known(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(_is_known, dataset.datasets))
    if type(dataset) is StackDataset:
        parts = dataset.datasets
        return all(map(_is_known, parts.values() if isinstance(parts, dict) else parts))
    return type(dataset) in (TensorDataset, list, tuple, Tensor, np.ndarray, np.memmap, range)


def _fetched(loader: DataLoader[Any], *, samples: int) -> Iterator[Any]:
    """The batches of a dataset that is read by index."""
    dataset: Any = loader.dataset
    _begin_worker(loader)
    together = loader.batch_sampler is not None
    for indices in _indices(loader, samples):
        if not together:
            found = dataset[indices]
        elif getattr(dataset, "__getitems__", None):
            found = dataset.__getitems__(indices)
        else:
            found = [dataset[index] for index in indices]
        yield loader.collate_fn(found)


def _streamed(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a dataset that is iterated."""
    _begin_worker(loader)
    stream = iter(loader.dataset)
    if loader.batch_sampler is None:
        yield from map(loader.collate_fn, stream)
        return
    size = loader.batch_size or 1
    while found := list(islice(stream, size)):
        if len(found) == size or not loader.drop_last:
            yield loader.collate_fn(found)


def _begin_worker(loader: DataLoader[Any]) -> None:
    """In a child of a loader with workers: what its first and only worker would find (a file to open, its number)."""
    if not loader.num_workers or not _in_child:
        return
    from torch.utils.data._utils import worker

    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=SEED, dataset=loader.dataset)
    if loader.worker_init_fn is not None:
        loader.worker_init_fn(0)


def _indices(loader: DataLoader[Any], samples: int) -> Iterator[Any]:
    """What the loader's sampler names: lists of indices, or single ones where nothing is put together."""
    batches: Any = loader.batch_sampler
    if batches is None:
        return _chosen(loader.sampler, samples)
    if type(batches) is not BatchSampler:
        return _chosen(batches, samples)
    order, size, drop = batches.sampler, batches.batch_size, batches.drop_last
    taken = -(-samples // size) * size
    remaining = iter(order)
    first = list(islice(remaining, taken + 1))
    if len(first) <= taken or not _ascending(first):
        return iter(BatchSampler(chain(first, remaining), size, drop))
    everything: Any = (
        range(len(order)) if type(order) is SequentialSampler else first + list(islice(remaining, LONGEST))
    )
    count = len(everything) // size if drop else -(-len(everything) // size)
    choice = _permuted(len(everything))[: max(1, min(taken // size, count)) * size]
    return iter(BatchSampler([everything[k] for k in choice], size, drop))


def _chosen(order: Iterable[Any], samples: int) -> Iterator[Any]:
    """The entries of a sampler, single indices or batches of them; in random order where theirs is ascending."""
    entries: list[Any] = []
    found = 0
    for entry in order:
        entries.append(entry)
        found += len(entry) if isinstance(entry, Sequence) else 1
        if found > samples:
            break
    else:
        return iter(entries)
    flat = [index for entry in entries for index in (entry if isinstance(entry, Sequence) else [entry])]
    if not _ascending(flat):
        return iter(order)
    everything = list(islice(order, LONGEST))
    return (everything[k] for k in _permuted(len(everything)))


def _ascending(indices: Sequence[Any]) -> bool:
    if len(indices) < 2 or not all(isinstance(i, int | np.integer) for i in indices):
        return False
    return all(a < b for a, b in pairwise(indices))


def _permuted(count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).tolist()


# -- any other iterable ------------------------------------------------------------------------------------------
def _iterated(data: Iterable[Any]) -> Iterator[Any]:
    """What an iterable gives, the loaders within it without workers: in a copy of it only."""
    for loader in reach(data).loaders:
        loader._iterator = None
        loader.__dict__.update(num_workers=0, persistent_workers=False, pin_memory=False, timeout=0)
    yield from iter(data)


# -- where it runs -----------------------------------------------------------------------------------------------
_in_child = False


def _run(work: _Work, prepare: Prepare) -> Iterator[Any]:
    """Here where nothing keeps state, else in a forked child, else on a copy."""
    found = reach(*work.parts)
    if found.stream:
        raise _once(work.parts[0], found.stream)
    if work.stateless:
        yield from _run_here(work, prepare, found.generators)
        return
    if not forks() or multiprocessing.current_process().daemon:  # daemons have no children
        yield from _run_on_copy(work, prepare, found)
        return

    def serve() -> Iterator[Any]:
        global _in_child
        _in_child = True
        seed_all(found.generators)
        yield from map(prepare, work.make(work.data))

    try:
        with _shared_kept(found.shared), closing(in_child(serve)) as batches:
            yield from batches
    except ChildError as error:
        if "CUDA" not in error.message and not isinstance(error.__cause__, OSError):
            raise DataError(f"The data gave no batch ({error})", expected="batches, as in training") from error
        yield from _run_on_copy(work, prepare, found)


@contextmanager
def _shared_kept(shared: Sequence[NDArray[np.uint8]]) -> Iterator[None]:
    """What a child has in common with this process (counters, caches for all workers) comes back as it was.

    Raises
    ------
    ObjectiveError
        that is too much to be copied.
    """
    size = sum(each.nbytes for each in shared)
    if size > MOST_SHARED:
        raise ObjectiveError(
            f"The data writes to {size / 1e9:.1f} GB of memory that it shares between processes; it was left alone",
            expected=f"at most {MOST_SHARED / 1e9:.1f} GB, of which a copy is kept meanwhile",
            mend="Give data= a list of batches",
        )
    before = [each.copy() for each in shared]
    try:
        yield
    finally:
        for now, then in zip(shared, before, strict=True):
            if not np.array_equal(now, then):
                now[:] = then


def _run_here(work: _Work, prepare: Prepare, generators: Sequence[torch.Generator]) -> Iterator[Any]:
    with states_kept(generators):
        seed_all(generators)
        yield from map(prepare, work.make(work.data))


def _run_on_copy(work: _Work, prepare: Prepare, found: Reach) -> Iterator[Any]:
    """Where processes cannot be forked, or the data is on a GPU. Tensors and arrays are not copied."""
    memo: dict[int, Any] = {id(shared): shared for shared in [*found.arrays, *found.generators]}
    memo |= {id(loader._iterator): None for loader in reach(work.data).loaders if loader._iterator is not None}
    try:
        data = copy.deepcopy(work.data, memo)
    except Exception as error:
        raise ObjectiveError(
            f"The data ({type(work.data).__name__}) cannot be copied ({type(error).__name__}: {error}); it was left "
            "alone, since reading it may change it",
            mend="Give data= a list of batches, or a dataset that can be copied",
        ) from error
    yield from _run_here(replace(work, data=data), prepare, found.generators)
