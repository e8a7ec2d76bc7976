"""Losses that draw random numbers: the draws are those after torch.manual_seed(0), in the run and in live code."""

import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import landscape_hooks as lh
from landscape_hooks.errors import RecordingWarning
from landscape_hooks.objective.objective import Objective

F = nn.functional
torch.manual_seed(5)
X, Y = torch.randn(20, 4), torch.randint(0, 3, (20,))


def vae(model, batch):
    mean, spread = model(batch[0])[:, :2], model(batch[0])[:, 2:3]
    z = torch.distributions.Normal(mean, F.softplus(spread) + 0.1).rsample()
    return (z.sum(1) - batch[0].sum(1)).square().mean() + mean.square().mean()


def diffusion(model, batch):
    time = torch.randint(0, 10, (len(batch[0]), 1)) / 10
    noise = torch.randn_like(batch[0])
    return F.mse_loss(model(batch[0] * (1 - time) + noise * time), noise[:, :3])


def augmented(model, batch):
    order = torch.randperm(len(batch[0]))
    share = torch.rand(1)
    return F.cross_entropy(model(share * batch[0] + (1 - share) * batch[0][order]), batch[1])


def dropout(model, batch):
    return F.cross_entropy(F.dropout(model(F.dropout1d(batch[0][:, None])[:, 0]), 0.3), batch[1])


def masked(model, batch):
    keep = torch.bernoulli(torch.full_like(batch[0], 0.7)) * (torch.empty(4).bernoulli_(0.9) + 1)
    return F.cross_entropy(model(batch[0] * keep), batch[1])


def straight_through(model, batch):
    odds = torch.sigmoid(model(batch[0]))
    return (torch.bernoulli(odds).detach() + odds - odds.detach()).square().sum(1).mean()


def reinforce(model, batch):
    log_odds = model(batch[0]).log_softmax(1)
    action = torch.multinomial(log_odds.exp(), 1)
    return -(log_odds.gather(1, action)[:, 0] * (action[:, 0] == batch[1])).mean()


def normal_(model, batch):
    return (model(batch[0]) + torch.normal(0.0, 0.5, (1, 3)) + torch.empty(3).uniform_(-1, 1)).square().mean()


GENERATOR = torch.Generator().manual_seed(9)
NUMPY = np.random.default_rng(9)


def elsewhere(model, batch):
    """numpy, Python, and numbers that control flow goes by."""
    share = np.random.beta(1, 1) * random.random()  # noqa: NPY002
    noise = torch.from_numpy(np.random.randn(4)).float()  # noqa: NPY002
    inputs = batch[0] * (1 + torch.randint(0, 4, (1,)).item())
    return F.cross_entropy(model(share * inputs + noise if random.random() < 0.9 else -inputs), batch[1])


def counts(model, batch):
    """Draws whose parameters are the data, which no calls can take the places of."""
    return F.cross_entropy(
        model(torch.poisson(batch[0].abs()) + torch.distributions.Gamma(2.0, 1.0).sample()), batch[1]
    )


LOSSES = {
    "gumbel": lambda m, b: F.cross_entropy(F.gumbel_softmax(m(b[0])), b[1]),
    "kept on": lambda m, b: F.cross_entropy(nn.Dropout(0.4)(m(b[0])), b[1]),
    **{
        f.__name__: f
        for f in (vae, diffusion, augmented, dropout, masked, straight_through, reinforce, normal_, elsewhere, counts)
    },
}


def by_hand(loss, model, batches):
    total = 0.0
    for batch in batches:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        with torch.no_grad():
            total += loss(model, batch).item() * len(batch[0])
    return total / sum(len(batch[0]) for batch in batches)


DAILY = ("diffusion", "reinforce", "elsewhere", "counts")


@pytest.mark.parametrize("name", [n if n in DAILY else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES])
def test_the_stored_loss_has_the_draws_after_a_seed_of_0(tmp_path, name):
    torch.manual_seed(1)
    model, loss = nn.Linear(4, 3), LOSSES[name]
    batches = [(X[:12], Y[:12]), (X[12:], Y[12:])] if name in ("diffusion", "dropout") else [(X, Y)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        with lh.record(model, optimizer, tmp_path / "run.zarr", objective=loss, data=batches):
            assert torch.equal(torch.get_rng_state(), state)
            loss(model, batches[0]).backward()
            optimizer.step()
    trajectory = lh.Trajectory.open(tmp_path / "run.zarr")
    stored = Objective.load(trajectory.root, trajectory)
    live = Objective.of(model, objective=loss, data=batches)
    assert any("common random numbers" in note for note in stored.attrs["notes"])
    assert live.attrs["notes"] == stored.attrs["notes"]
    for number in range(2):
        weights = torch.from_numpy(np.array(trajectory[number].weights))
        nn.utils.vector_to_parameters(weights, model.parameters())
        expected = by_hand(loss, model, batches)
        assert math.isfinite(expected)
        state = torch.get_rng_state()
        for objective in (stored, live):
            assert objective.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: F.cross_entropy(F.rrelu(m(b[0]), training=True), b[1]),
        lambda m, b: F.cross_entropy(m(b[0]) * torch.randn(int(m.weight.norm() * 0) + 3), b[1]),
        lambda m, b: (torch.multinomial(m(b[0]).softmax(1), 5, True) * m(b[0]).mean()).mean(),
    ],
)
def test_draws_that_cannot_be_fixed_are_said(tmp_path, loss):
    model = nn.Linear(4, 3)
    with pytest.warns(RecordingWarning, match="--objective"):
        lh.record(model, None, tmp_path / "run.zarr", objective=loss, data=[(X, Y)]).close()
    assert "objective" not in lh.Trajectory.open(tmp_path / "run.zarr").root


class Hidden(nn.Module):
    """A last layer of zeros hides the draws at the start; they are of a transposed view, which torch draws in order."""

    def __init__(self, transposed):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.transposed = transposed
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        h = self.first(x)
        noise = torch.rand_like(h.t()).t() if self.transposed else torch.rand_like(h)
        return self.last(h + noise).square().mean()


@pytest.mark.parametrize("transposed", [False, True])
def test_draws_that_the_weights_of_the_start_hide_are_right_or_told(tmp_path, transposed):
    torch.manual_seed(0)
    model, batch = Hidden(transposed), torch.randn(6, 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        lh.record(model, None, tmp_path / "run.zarr", objective=lambda m, b: m(b[0]), data=[(batch,)]).close()
    if any("captured loss graph gives" in str(warning.message) for warning in told):
        assert transposed
        return
    stored = Objective.load(lh.Trajectory.open(tmp_path / "run.zarr").root)
    weights = torch.randn(21)
    nn.utils.vector_to_parameters(weights, model.parameters())
    torch.manual_seed(0)
    expected = float(model(batch))
    assert stored.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)


def own_generators(model, batch):
    noise = torch.randn(4, generator=GENERATOR) + float(NUMPY.normal())
    return F.cross_entropy(model(batch[0] + noise), batch[1])


def test_generators_of_the_losss_own_stay_where_they_were_and_are_seeded_for_the_run(tmp_path):
    model = nn.Linear(4, 3)
    before = GENERATOR.get_state(), NUMPY.bit_generator.state
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        lh.record(model, None, tmp_path / "run.zarr", objective=own_generators, data=[(X, Y)]).close()
    stored = Objective.load(lh.Trajectory.open(tmp_path / "run.zarr").root)
    live = Objective.of(model, objective=own_generators, data=[(X, Y)])
    assert torch.equal(GENERATOR.get_state(), before[0])
    assert NUMPY.bit_generator.state == before[1]
    noise = torch.randn(4, generator=torch.Generator().manual_seed(0)) + float(np.random.default_rng(0).normal())
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    expected = F.cross_entropy(model(X + noise), Y).item()
    for objective in (stored, live):
        assert objective.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)
        assert any("common random numbers" in note for note in objective.attrs["notes"])
