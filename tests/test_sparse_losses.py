"""Losses over sparse matrices and packed sequences: stored as indices and values, in operations on dense tensors."""

import warnings

import pytest
import torch
from torch import nn

import landscape_hooks as lh
from landscape_hooks.errors import RecordingWarning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.curve import hessian_vector

F = nn.functional
torch.manual_seed(2)
X, Y = torch.randn(8, 4), torch.randint(0, 3, (8,))
ADJACENCY = (torch.rand(8, 8) < 0.4).float() * torch.rand(8, 8)
COO, CSR = ADJACENCY.to_sparse_coo(), ADJACENCY.to_sparse_csr()
EDGES = ADJACENCY.nonzero().t()


class Graph(nn.Module):
    """Two convolutions over a graph whose adjacency is a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("own", COO)

    def forward(self, x, adjacency):
        return self.last(adjacency @ torch.tanh(adjacency @ self.first(x)))


def edges(model, batch):
    """Weights of the edges that depend on the model's."""
    hidden = model.first(batch[0])
    weights = torch.sigmoid((hidden[EDGES[0]] * hidden[EDGES[1]]).sum(1))
    return F.cross_entropy(
        model.last(torch.sparse.mm(torch.sparse_coo_tensor(EDGES, weights, (8, 8)), hidden)), batch[1]
    )


def degrees(model, batch):
    degree = torch.sparse.sum(COO, 1).to_dense()[:, None] + 1
    hidden = torch.sparse.addmm(model.first(batch[0]), COO, model.first(batch[0]), beta=0.5, alpha=2.0)
    return F.cross_entropy(model.last(hidden / degree) + model(batch[0], (COO * 0.5).t()), batch[1])


LOSSES = {
    "coordinates": lambda m, b: F.cross_entropy(m(b[0], COO), b[1]),
    "compressed": lambda m, b: F.cross_entropy(m(b[0], CSR), b[1]),
    "a buffer": lambda m, b: F.cross_entropy(m(b[0], m.own), b[1]),
    "in the batch": lambda m, b: F.cross_entropy(m(b[0], b[2]), b[1]),
    "edges": edges,
    "degrees": degrees,
}


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]) + 0.1


@pytest.mark.everyday(3)
@pytest.mark.parametrize("name", LOSSES)
def test_the_stored_loss_is_the_one_with_a_dense_matrix(tmp_path, name):
    torch.manual_seed(1)
    model, loss = Graph(), LOSSES[name]
    batch = (X, Y, CSR) if name == "in the batch" else (X, Y)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        with lh.record(model, optimizer, tmp_path / "run.zarr", objective=loss, data=[batch]):
            loss(model, batch).backward()
            optimizer.step()
    trajectory = lh.Trajectory.open(tmp_path / "run.zarr")
    assert len(trajectory) == 2
    stored, weights = Objective.load(trajectory.root, trajectory), weights_of(model)
    nn.utils.vector_to_parameters(weights, model.parameters())
    assert stored.evaluate(weights, torch.zeros(0)).mean == pytest.approx(loss(model, batch).item(), rel=1e-5)
    if name == "coordinates":
        dense = Objective.of(model, objective=lambda m, b: F.cross_entropy(m(b[0], ADJACENCY), b[1]), data=[batch])
        products = [hessian_vector(o, weights, torch.zeros(0), weights, "running") for o in (stored, dense)]
        torch.testing.assert_close(*products, rtol=1e-3, atol=1e-5)


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.last = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.last(nn.utils.rnn.pad_packed_sequence(self.body(packed)[0], batch_first=True)[0].sum(1))


def test_packed_sequences_of_several_batches_are_stored(tmp_path):
    torch.manual_seed(1)
    model = Sequences()
    loss = lambda m, b: F.cross_entropy(m(b[0], b[2]), b[1])  # noqa: E731
    lengths = torch.tensor([5, 1, 3, 2, 5, 4, 2, 1])
    batches = [(torch.randn(8, 5, 4), Y, lengths), (torch.randn(8, 5, 4), Y, lengths.flip(0))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        lh.record(model, None, tmp_path / "run.zarr", objective=loss, data=batches).close()
    stored, weights = Objective.load(lh.Trajectory.open(tmp_path / "run.zarr").root), weights_of(model)
    nn.utils.vector_to_parameters(weights, model.parameters())
    expected = sum(loss(model, batch).item() for batch in batches) / 2
    assert stored.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)
