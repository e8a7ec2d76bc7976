"""Samples: whatever kind of loader there is, taking samples from it leaves the training as it is, bit for bit."""

import itertools
import logging
import multiprocessing
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

import landscape_hooks as lh
from landscape_hooks.errors import DataError, ObjectiveError, RecordingWarning
from landscape_hooks.objective.data import samples as room
from landscape_hooks.objective.probe import Probe

COUNT, SIZE = 48, 8


def tensors(count=COUNT):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator)


class Kept(Dataset):
    """A dataset with a state of its own; `change(self)` gives a number that goes into the sample."""

    def __init__(self, change):
        self.x, self.y = tensors()
        self.change, self.rng, self.torch_rng = change, np.random.default_rng(0), torch.Generator().manual_seed(1)
        self.count, self.cache = 0, {}

    def __len__(self):
        return COUNT

    def __getitem__(self, i):
        return self.x[i] + self.change(self, i), self.y[i]


def counted(data, _):
    data.count += 1
    return data.count / 100


def cached(data, i):
    return data.cache.setdefault(i, len(data.cache)) / 100


class Rows(IterableDataset):
    def __init__(self, endless=False):
        self.x, self.y = tensors()
        self.epoch, self.endless = 0, endless

    def __iter__(self):
        self.epoch += 1
        order = itertools.count() if self.endless else range(COUNT)
        for i in order:
            yield self.x[i % COUNT] * self.epoch, self.y[i % COUNT]


class Once(IterableDataset):
    """A stream that goes on where it was left."""

    def __init__(self):
        self.x, self.y = tensors()
        self.rows = iter(range(10_000))

    def __iter__(self):
        for i in self.rows:
            yield self.x[i % COUNT] + i / 1000, self.y[i % COUNT]


class Lines(IterableDataset):
    """Reads an open file from where it is."""

    def __init__(self, path):
        np.savetxt(path, np.arange(20_000).reshape(-1, 4) / 1e4)
        self.file = open(path)  # noqa: SIM115

    def __del__(self):
        self.file.close()

    def __iter__(self):
        for line in self.file:
            yield torch.tensor([float(v) for v in line.split()]), torch.tensor(1)


class Epochs(Sampler):
    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return COUNT

    def __iter__(self):
        self.epoch += 1
        return iter(np.random.default_rng(self.epoch).permutation(COUNT).tolist())


class Buckets(Epochs):
    def __len__(self):
        return COUNT // SIZE

    def __iter__(self):
        return iter(BatchSampler(list(super().__iter__()), SIZE, False))


class Forever(Buckets):
    def __iter__(self):
        while True:
            yield from super().__iter__()


class Stateful:
    """Like torchdata's: counts what it gave, so that it can go on there."""

    def __init__(self, loader):
        self.loader, self.given = loader, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.given += 1
            yield batch[0] + self.given / 1000, batch[1]


class Endless:
    """Its own iterator, over a loader that starts anew."""

    def __init__(self, loader):
        self.loader, self.running = loader, iter(loader)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.running)
        except StopIteration:
            self.running = iter(self.loader)
            return next(self.running)


class Repeating(DataLoader):
    """Keeps its workers' iterator for all epochs, as timm's."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.running = super().__iter__()

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.running)


class Augmented(Kept):
    def __init__(self):
        super().__init__(lambda *_: torch.rand(()) + float(np.random.rand()) + random.random())  # noqa: NPY002


class Shared(Kept):
    """Counts in memory that all worker processes share, as caches for several workers do."""

    def __init__(self, make):
        super().__init__(self.value)
        self.counter = make()

    @staticmethod
    def value(data, _):
        counter = data.counter
        if isinstance(counter, torch.Tensor | np.ndarray):
            counter += 1
            return float(counter[0]) / 100
        counter.value += 1
        return counter.value / 100


def shared_array(path):
    return np.memmap(path / "counter", dtype="i8", mode="w+", shape=(3,))


def logging_one():
    data = Kept(counted)
    data.log = logging.getLogger("tests")
    data.trainer = [threading.Lock()]
    return data


def cycle(loader):
    while True:
        yield from loader


def loader_of(data=None, **options):
    return DataLoader(TensorDataset(*tensors()) if data is None else data, SIZE, **options)


def opened(_):
    get_worker_info().dataset.opened = 1.0


class Opened(Kept):
    def __init__(self):
        super().__init__(lambda data, _: data.opened)


def memmap(path):
    np.save(path / "x.npy", tensors()[0].numpy())
    x, y = np.load(path / "x.npy", mmap_mode="r"), tensors()[1]
    data = Kept(lambda *_: 0)
    data.x, data.y = x, y
    return data


STAYS = {
    "in order": lambda _: loader_of(),
    "shuffled": lambda _: loader_of(shuffle=True),
    "shuffled by its own generator": lambda _: loader_of(shuffle=True, generator=torch.Generator().manual_seed(3)),
    "weighted": lambda _: loader_of(sampler=WeightedRandomSampler(torch.arange(1.0, COUNT + 1), COUNT)),
    "a random subset": lambda _: loader_of(sampler=SubsetRandomSampler(range(5, 40))),
    "distributed": lambda _: loader_of(sampler=DistributedSampler(range(COUNT), num_replicas=2, rank=1)),
    "a sampler that counts epochs": lambda _: loader_of(sampler=Epochs()),
    "a batch sampler that counts epochs": lambda _: DataLoader(TensorDataset(*tensors()), batch_sampler=Buckets()),
    "nothing put together": lambda _: DataLoader(
        TensorDataset(*tensors()), batch_size=None, sampler=BatchSampler(range(COUNT), SIZE, False)
    ),
    "subsets joined": lambda _: loader_of(
        ConcatDataset([Subset(TensorDataset(*tensors()), range(20)), TensorDataset(*tensors())]), shuffle=True
    ),
    "a collate function that counts": lambda _: loader_of(collate_fn=Collate()),
    "a dataset with a numpy generator": lambda _: loader_of(Kept(lambda d, _: float(d.rng.random()))),
    "a dataset with a torch generator": lambda _: loader_of(Kept(lambda d, _: torch.rand((), generator=d.torch_rng))),
    "a dataset that counts": lambda _: loader_of(Kept(counted), shuffle=True),
    "a dataset with a cache": lambda _: loader_of(Kept(cached), shuffle=True),
    "random augmentation": lambda _: loader_of(Augmented(), shuffle=True),
    "a counter in shared memory": lambda _: loader_of(Shared(lambda: multiprocessing.Value("i", 0))),
    "a shared tensor": lambda _: loader_of(Shared(lambda: torch.zeros(2).share_memory_())),
    "a writable memory map": lambda path: loader_of(Shared(lambda: shared_array(path))),
    "a dataset with a log and a lock": lambda _: loader_of(logging_one()),
    "a dataset itself": lambda _: Kept(counted),
    "an iterable dataset": lambda _: loader_of(Rows()),
    "an endless iterable dataset": lambda _: loader_of(Rows(endless=True)),
    "a dataset that iterates once": lambda _: loader_of(Once()),
    "an open file": lambda path: loader_of(Lines(path / "rows.txt")),
    "a memory map": lambda path: loader_of(memmap(path), shuffle=True),
    "a list of batches": lambda _: list(loader_of()),
    "an iterator over a list": lambda _: iter(list(loader_of()) * 9),
    "a loader that counts": lambda _: Stateful(loader_of(shuffle=True)),
    "an iterator of its own": lambda _: Endless(loader_of(shuffle=True)),
}

LEFT_ALONE = {
    "a generator": lambda _: cycle(loader_of(shuffle=True)),
    "itertools.cycle": lambda _: itertools.cycle(loader_of(shuffle=True)),
    "an iterator of a loader": lambda _: map(lambda b: b, loader_of(shuffle=True)),
}


class Collate:
    def __init__(self):
        self.calls = 0

    def __call__(self, rows):
        self.calls += 1
        x, y = torch.utils.data.default_collate(rows)
        return x + self.calls / 100, y


def trained(data, line):
    """Weights, batches and random states of two short epochs over `data`, with the line or without."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    line(model, optimizer, data)
    source = loader_of(data) if isinstance(data, Kept) else data
    seen = []
    for _ in range(2):
        for x, y in itertools.islice(source, 7):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            seen += [x.clone(), y.clone()]
    states = [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("i8"))]  # noqa: NPY002
    return [*(p.detach() for p in model.parameters()), *seen, *states, torch.tensor(random.getstate()[1])]


def take(model, optimizer, data):
    probe, _ = Probe.collect(data, 3 * SIZE)
    assert probe.samples >= 3 * SIZE


def leave(model, optimizer, data):
    with pytest.raises(ObjectiveError, match=r"left alone.*Give data="):
        Probe.collect(data, 3 * SIZE)


def nothing(model, optimizer, data):
    pass


def same(make, path, line):
    (path / "a").mkdir()
    (path / "b").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = list(zip(trained(make(path / "a"), nothing), trained(make(path / "b"), line), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.everyday(12)
@pytest.mark.parametrize("kind", STAYS)
def test_training_is_the_same_bit_for_bit(kind, tmp_path):
    assert same(STAYS[kind], tmp_path, take)


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_can_be_read_only_once_is_left_alone(kind, tmp_path):
    assert same(LEFT_ALONE[kind], tmp_path, leave)


@pytest.mark.parametrize("kind", ["a dataset that counts", "a dataset with a torch generator", "random augmentation",
                                  "a loader that counts", "an iterable dataset"])  # fmt: skip
def test_where_nothing_can_be_forked_a_copy_is_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "forks", lambda: False)
    assert same(STAYS[kind], tmp_path, take)


def test_in_a_daemon_a_copy_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert same(STAYS["a dataset that counts"], tmp_path, take)


def test_data_that_can_neither_be_forked_nor_copied_is_left_alone(monkeypatch):
    monkeypatch.setattr(room, "forks", lambda: False)
    data = Kept(counted)
    data.lock = threading.Lock()
    with pytest.raises(ObjectiveError, match=r"cannot be copied.*lock"):
        Probe.collect(loader_of(data), 8)
    assert data.count == 0


WORKERS = {
    "that stay": lambda: loader_of(shuffle=True, num_workers=1, persistent_workers=True, prefetch_factor=1),
    "that open what they read": lambda: loader_of(Opened(), num_workers=1, worker_init_fn=opened),
    "that run already": lambda: Repeating(TensorDataset(*tensors()), batch_sampler=Forever(), num_workers=1),
}


@pytest.mark.everyday(1)
@pytest.mark.parametrize("kind", WORKERS)
def test_workers_are_not_disturbed(kind, tmp_path):
    assert same(lambda _: WORKERS[kind](), tmp_path, take)


def test_an_iterator_whose_workers_run_is_left_alone():
    data = Endless(loader_of(num_workers=1))
    with pytest.raises(ObjectiveError, match="worker processes that run already"):
        Probe.collect(data, 8)
    assert next(data)[0].shape == (SIZE, 4)


def test_the_line_itself_leaves_the_training_as_it_is(tmp_path):
    def line(model, optimizer, data):
        lh.record(model, optimizer, tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(), data=data, samples=16)

    assert same(STAYS["a dataset that counts"], tmp_path, line)


def test_recording_goes_on_without_the_loss_of_a_generator(tmp_path):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(RecordingWarning, match="Give data= the DataLoader itself"):
        recorder = lh.record(model, optimizer, tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(),
                             data=cycle(loader_of()))  # fmt: skip
    recorder.close()
    assert len(lh.Trajectory.open(tmp_path / "run.zarr")) == 1


# -- which samples ---------------------------------------------------------------------------------------------------
def kept(data, samples):
    probe, _ = Probe.collect(data, samples)
    return probe, torch.cat([leaves[-1] for leaves, _ in probe.batches()])


@pytest.mark.parametrize(
    "make",
    [
        lambda data: data,
        lambda data: DataLoader(data, 16),
        lambda data: DataLoader(data, sampler=range(0, 1000, 2), batch_size=16),
        lambda data: DataLoader(data, batch_sampler=[range(k, k + 16) for k in range(0, 992, 16)]),
        lambda data: DataLoader(data, batch_size=None, sampler=BatchSampler(range(1000), 16, False)),
    ],
)
def test_a_sorted_dataset_is_not_represented_by_its_first_samples(make):
    labels = torch.arange(1000) // 100
    _, found = kept(make(TensorDataset(torch.zeros(1000, 1), labels)), 200)
    assert len(found) >= 200
    assert len(found.unique()) >= 7
    assert torch.equal(found, kept(make(TensorDataset(torch.zeros(1000, 1), labels)), 200)[1])


def test_data_that_fits_is_kept_in_order():
    probe, found = kept(DataLoader(TensorDataset(torch.zeros(50, 1), torch.arange(50)), 16), 50)
    assert torch.equal(found, torch.arange(50))
    assert [n for _, n in probe.batches()] == [16, 16, 16, 2]


def test_a_last_batch_that_is_dropped_is_not_kept():
    probe, _ = kept(DataLoader(TensorDataset(torch.zeros(1500, 1), torch.arange(1500)), 341, drop_last=True), 1024)
    assert [n for _, n in probe.batches()] == [341] * 4


def test_shuffled_data_is_the_same_for_every_seed():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(kept(DataLoader(TensorDataset(torch.zeros(50, 1), torch.arange(50)), 10, shuffle=True), 20)[1])
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.arange(20))


def test_an_error_of_the_dataset_is_named():
    with pytest.raises(DataError, match=r"gave no batch.*ZeroDivisionError"):
        Probe.collect(loader_of(Kept(lambda *_: 1 / 0)), 8)


def test_a_child_with_many_threads_before_the_fork_answers():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        torch.randn(400, 400) @ torch.randn(400, 400)
        data = Kept(lambda *_: (torch.randn(300, 300) @ torch.randn(300, 300)).sum() * 0)
        assert Probe.collect(loader_of(data), 8)[0].samples == 8
    finally:
        torch.set_num_threads(before)


class Unmeasured(IterableDataset):
    """A stream that has no length; or one whose length is less than what it gives."""

    def __init__(self, length=None):
        self.length = length

    def __iter__(self):
        return ((torch.full((4,), float(n)), n % 3) for n in range(24))


class Announced(Unmeasured):
    def __len__(self):
        return self.length


@pytest.mark.parametrize("data", [Unmeasured(), Announced(8)], ids=["no length", "too short a length"])
def test_a_stream_is_not_asked_for_its_length(tmp_path, data):
    """A loader remembers that it was asked, and warns in the training when there is more."""
    model, loader = torch.nn.Linear(4, 3), DataLoader(data, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lh.record(model, optimizer, tmp_path / "run.zarr", criterion=torch.nn.CrossEntropyLoss(), data=loader):
            assert len(list(loader)) == 3
    assert zarr.open_group(tmp_path / "run.zarr")["objective"].attrs["samples"] == 24
