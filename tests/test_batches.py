"""Batches: what a batch holds comes back as it was, and the stored loss is that of every batch."""

import dataclasses
import enum
import types
import warnings
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks.errors import ObjectiveError, RecordingWarning
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.objective.probe import Probe
from tests.test_objective import captured, here

F = nn.functional
Pair = namedtuple("Pair", "x y")
Split = enum.Enum("Split", "train val")


class Encoding(UserDict):
    """Like a tokenizer's batches."""

    def __getattr__(self, key):
        try:
            return self.__dict__["data"][key]
        except KeyError:
            raise AttributeError(key) from None

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class Attributed(dict):
    """A dict whose entries are attributes as well, and which has one more."""

    def __getattr__(self, key):
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def to(self, device):
        return self


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    y: torch.Tensor
    scale: float = 1.0


class Plain:
    def __init__(self, x, y):
        self.x, self.y, self.parts = x, y, {"x": [x, x]}


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


class Store(Mapping):
    def __init__(self, **entries):
        self._store = entries

    def __getitem__(self, key):
        return self._store[key]

    def __iter__(self):
        return iter(self._store)

    def __len__(self):
        return len(self._store)


def attributed(x, y):
    batch = Attributed(x=x)
    batch.__dict__["extra"] = y
    return batch


X, Y = torch.randn(6, 4), torch.arange(6)
KINDS = {
    "a tuple": (X, Y),
    "nested": [{"a": (X, [Y, None])}, "text", 3],
    "a named tuple": Pair(X, Y),
    "an ordered mapping": OrderedDict(y=Y, x=X),
    "a mapping with a default": defaultdict(list, x=X),
    "a tokenizer's batch": Encoding(x=X, y=Y),
    "a mapping with attributes": attributed(X, Y),
    "a frozen dataclass": Record(X, Y, 0.3),
    "an object": Plain(X, Y),
    "an object with slots": Slotted(X, Y),
    "a mapping of its own": Store(x=X, y=Y),
    "packed sequences": nn.utils.rnn.pack_sequence([X[:4], X[:2]]),
    "arrays and numbers": [X.numpy(), np.float32(2), 3, 0.1, True, None, "a", [1, 2], (0.1, 0.2), [[1, 2], [3, 4]]],
    "what torch does not know": [X, np.array(["a", "b"]), Split.val, slice(3), torch.float16, {1, 2}],
    "types": [X.half(), X.bfloat16(), X.to(torch.complex64), Y.bool(), Y.numpy().astype(">i4"), 1 + 2j],
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b)
    elif isinstance(a, UserDict | dict | Mapping):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    if hasattr(a, "__dict__") and not isinstance(a, torch.Tensor | enum.Enum | type):
        same(vars(a), vars(b))
    elif not isinstance(a, torch.Tensor | np.ndarray | dict | list | tuple | Slotted):
        assert a == b


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forked", [False, True])
def test_a_batch_comes_back_as_it_was(kind, forked):
    batch = KINDS[kind]
    data = Passing([batch, batch]) if forked else [batch, batch]
    probe, rebuild = Probe.collect(data, 12)
    for leaves, _ in probe.batches():
        same(rebuild(leaves), batch)
    assert len(rebuild.templates) == 1
    if isinstance(batch, Slotted):
        assert torch.equal(rebuild(leaves).x, X)


class Passing:
    """Batches that are iterated in another process."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_classes_and_functions_that_have_no_address_come_back_from_the_child():
    class Local(UserDict):
        pass

    batch = Local(x=X, name=lambda: "a")
    probe, rebuild = Probe.collect(Passing([batch]), 6)
    made = rebuild(next(probe.batches())[0])
    assert type(made) is Local
    assert made["name"] is batch["name"]


def test_the_users_batch_is_not_changed_and_not_shared():
    batch = Store(x=X.clone(), y=[Y.clone()])
    probe, rebuild = Probe.collect([batch], 6)
    batch["x"].zero_()
    made = rebuild(next(probe.batches())[0])
    assert torch.equal(made["x"], X)
    assert made._store is not batch._store


# -- the loss of every batch ---------------------------------------------------------------------------------------
def batches_of(make, count=4, size=6):
    torch.manual_seed(1)
    return [make(k, torch.randn(size, 4), torch.randn(size, 1)) for k in range(count)]


def by_hand(model, loss, batches, sizes=None):
    model.eval()
    sizes = sizes or [1] * len(batches)
    with torch.no_grad():
        return sum(float(loss(model, b)) * n for b, n in zip(batches, sizes, strict=True)) / sum(sizes)


def as_array(m, b):
    return ((m(b[0]) - torch.from_numpy(b[1])) ** 2).mean()


# fmt: off
LOSSES = {
    "an array": (lambda k, x, y: (x, y.numpy() + k), as_array, 1),
    "an array worked on by numpy": (
        lambda k, x, y: (x, y.numpy() + k), lambda m, b: ((m(b[0]) - float(np.mean(b[1]))) ** 2).mean(), 4
    ),
    "a numpy number": (
        lambda k, x, y: (x, y, np.float32(k + 1)),
        lambda m, b: ((m(b[0]) * torch.as_tensor(b[2]) - b[1]) ** 2).mean(), 1
    ),
    "a number": (lambda k, x, y: {"x": x, "y": y, "s": 1.0 + k},
                 lambda m, b: ((m(b["x"]) * b["s"] - b["y"]) ** 2).mean(), 1),
    "a whole number": (lambda k, x, y: (x, y, k + 1), lambda m, b: ((m(b[0]) / b[2] - b[1]) ** 2).mean(), 1),
    "a number that cuts": (
        lambda k, x, y: (x, y, k % 2 + 3), lambda m, b: ((m(b[0])[: b[2]] - b[1][: b[2]]) ** 2).mean(), 1
    ),
    "a flag": (lambda k, x, y: (x, y, k % 2 == 0), lambda m, b: (m(b[0]) - b[1]).abs().mean() if b[2] else
               ((m(b[0]) - b[1]) ** 2).mean(), 2),
    "a list of numbers": (
        lambda k, x, y: (x, [float(v) + k for v in y]),
        lambda m, b: ((m(b[0])[:, 0] - torch.tensor(b[1])) ** 2).mean(), 1
    ),
    "a text": (lambda k, x, y: (x, y, "ab"[k % 2]),
               lambda m, b: ((m(b[0]) - b[1]).abs() ** {"a": 1, "b": 2}[b[2]]).mean(), 2),
    "texts": (lambda k, x, y: (x, y, ["a" * k] * 6), lambda m, b: ((m(b[0]) * len(b[2][0]) - b[1]) ** 2).mean(), 4),
    "None or a tensor": (
        lambda k, x, y: (x, y, None if k % 2 else y),
        lambda m, b: ((m(b[0]) - (b[1] if b[2] is None else 2 * b[2])) ** 2).mean(), 2
    ),
    "an entry that is not always there": (
        lambda k, x, y: {"x": x, "y": y} | ({"w": y} if k == 2 else {}),
        lambda m, b: ((m(b["x"]) - b["y"]) ** 2).mean() + (b["w"].mean() if "w" in b else 0.0), 2,
    ),
    "texts and numbers that are not read": (
        lambda k, x, y: {"x": x, "y": y, "id": k, "path": [f"{k}/{i}.png" for i in range(6)],
                         "meta": [{"id": k, "n": "a"}]},
        lambda m, b: ((m(b["x"]) - b["y"]) ** 2).mean(), 1,
    ),
    "an object": (lambda k, x, y: types.SimpleNamespace(x=x, y=y, k=k / 2),
                  lambda m, b: ((m(b.x) - b.y * b.k) ** 2).mean(), 1),
    "a tokenizer's batch": (lambda k, x, y: Encoding(x=x, y=y),
                            lambda m, b: ((m(b.to("cpu").x) - b["y"]) ** 2).mean(), 1),
}
# fmt: on


@pytest.mark.everyday(3)
@pytest.mark.parametrize("kind", LOSSES)
def test_values_that_are_no_tensors_are_those_of_each_batch(kind):
    make, loss, graphs = LOSSES[kind]
    batches, model = batches_of(make), nn.Linear(4, 1)
    expected = by_hand(model, loss, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        stored = captured(model, objective=loss, data=batches)
    assert Objective.of(model, objective=loss, data=batches).evaluate(*here(model)).mean == pytest.approx(
        expected, rel=1e-5
    )
    assert stored.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-5)
    assert stored.samples == 24
    assert len(getattr(stored.kernel, "kernels", [0])) == graphs


def test_values_that_are_not_read_are_not_stored():
    make, loss, _ = LOSSES["texts and numbers that are not read"]
    stored = captured(nn.Linear(4, 1), objective=loss, data=batches_of(make))
    assert stored.probe.names == ["['x']", "['y']"]
    assert len(stored.probe.groups) == 1


def test_batches_with_too_many_values_are_left_out_by_name():
    make, loss, _ = LOSSES["texts"]
    batches, model = batches_of(make, count=11), nn.Linear(4, 1)
    with pytest.warns(RecordingWarning, match=r"3 batches of 18 samples were left out.*\[2\]"):
        stored = captured(model, objective=loss, data=batches)
    assert stored.evaluate(*here(model)).mean == pytest.approx(by_hand(model, loss, batches[:8]), rel=1e-5)
    assert stored.attrs["left_out"] == {"batches": 3, "samples": 18}


def test_a_stored_number_is_not_used_for_data_with_another():
    def loss(m, b):
        return ((m(b[0]) * b[2] - b[1]) ** 2).mean()

    model = nn.Linear(4, 1)
    stored = captured(model, objective=loss, data=batches_of(lambda k, x, y: (x, y, 2.0)))
    same = batches_of(lambda k, x, y: (x + 1, y, 2.0))
    assert stored.with_data(same).evaluate(*here(model)).mean == pytest.approx(by_hand(model, loss, same), rel=1e-5)
    with pytest.raises(ObjectiveError, match=r"\[2\] = 3.0.*2.0, which the stored loss holds"):
        stored.with_data(batches_of(lambda k, x, y: (x, y, 3.0)))


# -- losses between the samples of a batch ----------------------------------------------------------------------------
def contrastive(m, b):
    a, c = F.normalize(m(b[0])), F.normalize(b[1])
    return F.cross_entropy(a @ c.T * 5, torch.arange(len(a)), reduction="none")


def pairwise(m, b):
    return torch.cdist(m(b[0]), m(b[0])).mean(dim=1)


def batch_hard(m, b):
    out = m(b[0])
    distance = torch.cdist(out, out)
    alike = b[1][:, None] == b[1][None]
    hardest, nearest = (distance * alike).amax(1), (distance + 1e3 * alike).amin(1)
    return F.relu(hardest - nearest + 1.0)


def coral(m, b):
    out, target = m(b[0]), b[1]
    out, target = out - out.mean(0), target - target.mean(0)
    return (out.T @ out / (len(out) - 1) - target.T @ target / (len(target) - 1)).square().mean()


def centred(m, b):
    out = m(b[0])
    return ((out - out.mean(0)) ** 2).mean(dim=1)


def listwise(m, b):
    return -(F.softmax(m(b[0])[:, 0], dim=0).log() * F.softmax(b[1][:, 0], dim=0)).sum()


class HeadOfZeros(nn.Module):
    """Samples depend on one another, but not at these weights."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))
        self.head = nn.Linear(5, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        return self.head(self.body(x))


BETWEEN = {
    "contrastive": (contrastive, lambda n: torch.randn(n, 3)),
    "pairwise": (pairwise, lambda n: torch.randn(n, 3)),
    "batch-hard triplets": (batch_hard, lambda n: torch.randint(0, 3, (n,))),
    "CORAL": (coral, lambda n: torch.randn(n, 3)),
    "centred": (centred, lambda n: torch.randn(n, 3)),
    "listwise": (listwise, lambda n: torch.randn(n, 1)),
}


@pytest.mark.everyday(4)
@pytest.mark.parametrize("kind", BETWEEN)
@pytest.mark.parametrize("objective_of", [captured, Objective.of], ids=["captured", "live"])
def test_losses_between_samples_are_of_the_recorded_batches(kind, objective_of):
    loss, target = BETWEEN[kind]
    torch.manual_seed(2)
    model, sizes = nn.Linear(4, 3), (16, 10, 16, 9)
    batches = [(torch.randn(n, 4), target(n)) for n in sizes]
    objective = objective_of(model, objective=loss, data=batches)
    expected = by_hand(model, lambda m, b: loss(m, b).mean(), batches, sizes)
    for chunk in (4, 13, 256):
        found = objective.tuned(Tuning(chunk=chunk))
        assert found.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-5)
    assert [n for _, n in objective.head(17).probe.batches()] == [16, 10]


@pytest.mark.parametrize("objective_of", [captured, Objective.of], ids=["captured", "live"])
def test_dependence_that_the_weights_of_the_moment_hide_is_found(objective_of):
    torch.manual_seed(2)
    model = HeadOfZeros()
    batches = [(torch.randn(n, 4) * (n - 8), torch.randint(0, 3, (n,))) for n in (16, 10, 16, 9)]
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=batches)
    nn.init.normal_(model.head.weight)
    expected = by_hand(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches, (16, 10, 16, 9))
    assert objective.tuned(Tuning(chunk=256)).evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-5)


def test_independent_samples_are_taken_together_but_never_one_alone():
    model = nn.Linear(4, 3)
    data = [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (8, 8, 8, 1)]
    objective = captured(model, criterion=nn.CrossEntropyLoss(), data=data)
    assert objective.free
    assert [n for _, n in objective.probe.chunks(12)] == [12, 13]


# -- first axes that are not samples -------------------------------------------------------------------------------
class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(11, 4), nn.Linear(4, 2)

    def forward(self, tokens, offsets):
        return self.head(self.embed(tokens, offsets))


class Convolved(nn.Module):
    """A graph: nodes, edges between them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, edges):
        return torch.zeros_like(self.linear(x)).index_add(0, edges[1], self.linear(x)[edges[0]])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0][-1])


AXES = {
    "tokens with offsets": (Bags, lambda n: ((torch.randint(0, 11, (3 * n + 2,)), torch.arange(0, 3 * n, 3)),
                                             torch.randint(0, 2, (n,)))),
    "a graph": (Convolved, lambda n: ((torch.randn(n, 3), torch.randint(0, n, (2, 4 * n))), torch.randint(0, 2, (n,)))),
    "time first": (TimeFirst, lambda n: (torch.randn(7, n, 3), torch.randint(0, 2, (n,)))),
    "time first, as long as there are samples": (
        TimeFirst, lambda n: (torch.randn(n, n, 3), torch.randint(0, 2, (n,)))),
}  # fmt: skip


@pytest.mark.everyday(3)
@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("objective_of", [captured, Objective.of], ids=["captured", "live"])
def test_a_first_axis_that_is_not_the_samples_is_never_cut(kind, objective_of):
    make, batch = AXES[kind]
    torch.manual_seed(3)
    model, sizes = make(), (6, 5, 6)
    batches = [batch(n) for n in sizes]
    criterion = nn.CrossEntropyLoss()
    objective = objective_of(model, criterion=criterion, data=batches)

    def loss(m, b):
        return criterion(m(*b[0]) if isinstance(b[0], tuple) else m(b[0]), b[1])

    expected = by_hand(model, loss, batches, sizes)
    assert objective.samples == 17
    for chunk in (2, 256):
        assert objective.tuned(Tuning(chunk=chunk)).evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-5)
    assert [n for _, n in objective.head(4).probe.batches()] == ([4] if objective.free else [6])


def test_a_loss_of_one_size_at_a_time_has_a_graph_for_each():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            total = torch.zeros(4)
            for row in x:
                total = torch.tanh(total + row)
            return self.linear(x + total)

    model = Steps()
    batches = [(torch.randn(n, 4), torch.randn(n, 1)) for n in (5, 3, 5, 2)]
    objective = captured(model, criterion=nn.MSELoss(), data=batches)
    expected = by_hand(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), batches, (5, 3, 5, 2))
    assert objective.samples == 15
    assert len(objective.kernel.kernels) == 3
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-5)


def test_one_large_batch_stays_whole():
    model, data = nn.Linear(4, 3), (torch.randn(70, 4), torch.randint(0, 3, (70,)))
    objective = captured(model, criterion=nn.CrossEntropyLoss(), data=data, samples=16)
    assert objective.samples == 70
    assert "70 samples" in " ".join(objective.attrs["notes"])
