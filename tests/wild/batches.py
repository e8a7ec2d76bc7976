"""Batches and loaders of the wild.

In: labelled samples. Out: batches in the structures that people use, and the loaders that give them. `read(batch)` is
what a loss does with a batch: (inputs, labels, a number that scales the loss).
"""

from __future__ import annotations

import itertools
import random
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

Pair = namedtuple("Pair", "image target extra")


class Encoding(UserDict):
    """As transformers' BatchEncoding: a mapping with attributes and `.to()`."""

    def __init__(self, data: Any, encodings: Any = None) -> None:
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Encoding:
        return self


@dataclass
class Data:
    """As a graph library's batches: an object with tensors for attributes."""

    x: Tensor
    y: Tensor
    name: str = ""
    edge_attr: Any = None


@dataclass(frozen=True)
class Structure:
    """A way of holding a batch; `make(x, y, number)` and `read(batch)`. `plain` is (input, target)."""

    make: Callable[[Tensor, Tensor, int], Any]
    read: Callable[[Any], tuple[Any, Any, Any]]
    plain: bool = False


def _pieces(x: Tensor, y: Tensor, number: int) -> Any:
    return {"x": x, "y": y, "name": f"batch {number}", "scale": 0.5 + (number % 3) / 4, "none": None, "id": number}


STRUCTURES: dict[str, Structure] = {
    "pair": Structure(lambda x, y, n: (x, y), lambda b: (b[0], b[1], 1.0), plain=True),
    "list": Structure(lambda x, y, n: [x, y], lambda b: (b[0], b[1], 1.0), plain=True),
    "mapping": Structure(lambda x, y, n: {"x": x, "y": y}, lambda b: (b["x"], b["y"], 1.0)),
    "named": Structure(lambda x, y, n: Pair(x, y, n), lambda b: (b.image, b.target, 1.0)),
    "encoding": Structure(
        lambda x, y, n: Encoding({"input": x, "labels": y}, [f"text {n}"]),
        lambda b: (b.to("cpu").input, b["labels"], 1.0),
    ),
    "object": Structure(lambda x, y, n: Data(x, y, f"graph {n}"), lambda b: (b.x, b.y, 1.0)),
    "arrays": Structure(
        lambda x, y, n: {"x": x.numpy(), "y": y.numpy(), "id": np.int64(n)},
        lambda b: (torch.as_tensor(b["x"]), torch.as_tensor(b["y"]), 1.0),
    ),
    "lists": Structure(lambda x, y, n: (x, y.tolist(), None), lambda b: (b[0], torch.as_tensor(b[1]), 1.0)),
    "numbers": Structure(_pieces, lambda b: (b["x"], b["y"], b["scale"])),
    "nested": Structure(
        lambda x, y, n: ([x, {"label": (y,)}], {"weights": [0.5, 0.1 * (n % 2)], "texts": ["a", "b"]}),
        lambda b: (b[0][0], b[0][1]["label"][0], sum(b[1]["weights"])),
    ),
}


def cut(x: Tensor, y: Tensor, size: int, structure: Structure) -> list[Any]:
    """The samples in batches of `size`, the last one with what remains."""
    starts = range(0, len(x), size)
    return [structure.make(x[s : s + size], y[s : s + size], n) for n, s in enumerate(starts)]


# -- loaders -----------------------------------------------------------------------------------------------------------
class Augmenting(Dataset):
    """Counts what is read, and draws from a generator of its own and from all that are global."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.reads = x, y, 0
        self.own = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        noise = self.own.normal() + random.random() + np.random.rand() + float(torch.rand(())) + self.reads  # noqa: NPY002
        return self.x[index] + 0.01 * noise, self.y[index]


class Stream(IterableDataset):
    """Starts elsewhere each time."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.epoch = x, y, 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch))
        yield from ((self.x[i], self.y[i]) for i in order)


class Epochs:
    """A loader of one's own: counts its epochs, gives lists in another order each time."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches, self.epoch = list(batches), 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        order = list(self.batches)
        random.Random(self.epoch).shuffle(order)
        return iter(order)


Make = Callable[[Tensor, Tensor, int, Structure], Any]


def _collated(structure: Structure) -> Callable[[Any], Any]:
    def collate(samples: Sequence[Any]) -> Any:
        x, y = torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])
        return structure.make(x, y, len(samples))

    return collate


def _loader(**options: Any) -> Make:
    def make(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
        return DataLoader(TensorDataset(x, y), size, collate_fn=_collated(structure), **options)

    return make


def _weighted(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    sampler = WeightedRandomSampler((y + 2).double().abs().tolist(), len(x))
    return DataLoader(TensorDataset(x, y), size, sampler=sampler, collate_fn=_collated(structure))


def _batch_sampled(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    sampler = BatchSampler(RandomSampler(range(len(x)), generator=torch.Generator().manual_seed(4)), size, False)
    return DataLoader(TensorDataset(x, y), batch_sampler=sampler, collate_fn=_collated(structure))


def _own_generator(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    generator = torch.Generator().manual_seed(7)
    data = Subset(TensorDataset(x, y), range(len(x)))
    return DataLoader(data, size, shuffle=True, generator=generator, collate_fn=_collated(structure))


def _augmented(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    return DataLoader(Augmenting(x, y), size, shuffle=True, collate_fn=_collated(structure))


def _streamed(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    return DataLoader(Stream(x, y), size, collate_fn=_collated(structure))


def _infinite(x: Tensor, y: Tensor, size: int, structure: Structure) -> Any:
    def forever() -> Iterator[Any]:
        loader = DataLoader(TensorDataset(x, y), size, shuffle=True, collate_fn=_collated(structure))
        while True:
            yield from loader

    return forever()


LOADERS: dict[str, Make] = {
    "list": cut,
    "in order": _loader(),
    "shuffled": _loader(shuffle=True),
    "last one dropped": _loader(shuffle=True, drop_last=True),
    "weighted": _weighted,
    "batch sampler": _batch_sampled,
    "own generator": _own_generator,
    "augmenting": _augmented,
    "stream": _streamed,
    "infinite": _infinite,
    "cycle": lambda *given: itertools.cycle(_loader(shuffle=True)(*given)),
    "epochs": lambda *given: Epochs(cut(*given)),
}
