"""The loss on a plane: a quadratic is a known paraboloid; BatchNorm policies are what they say."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape_hooks.errors import ObjectiveError, PlaneError
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.evaluate import check_repeatable, evaluate
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.grid import Grid
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout


class Quadratic(nn.Module):
    """½(θ-c)ᵀH(θ-c) of its parameters θ, the same for every sample."""

    def __init__(self, size=40, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        factor = torch.randn(size, size, generator=generator) / size**0.5
        self.hessian = factor @ factor.T + 0.1 * torch.eye(size)  # plain attributes: no buffers
        self.centre = torch.randn(size, generator=generator)
        self.theta = nn.Parameter(torch.randn(size, generator=generator))

    def forward(self):
        gap = self.theta - self.centre
        return 0.5 * gap @ self.hessian @ gap

    def by_definition(self, weights):
        gap = np.asarray(weights, dtype=float) - self.centre.double().numpy()
        return 0.5 * gap @ self.hessian.double().numpy() @ gap


def quadratic_objective(model):
    return Objective.of(model, objective=lambda m, batch: m(), data=torch.zeros(4, 1))


@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.01, 10), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_quadratic_loss_is_the_exact_paraboloid(rows, columns, reach, seed):
    model = Quadratic(seed=seed)
    rng = np.random.default_rng(seed)
    origin, directions = rng.normal(size=40).astype(np.float32), rng.normal(size=(2, 40)).astype(np.float32)
    grid = Grid.spanning((-reach, 2 * reach, -0.5 * reach, reach), (rows, columns))
    loss = PlaneLoss(quadratic_objective(model), Plane(origin, directions), np.zeros(0, np.float32), "none")
    found = np.full(grid.shape, np.nan)
    for tile in evaluate(loss, grid.points(), engine=local):
        found.ravel()[tile.index] = tile.loss
    expected = [
        [
            model.by_definition(origin.astype(float) + a * directions[0].astype(float) + b * directions[1])
            for b in grid.beta
        ]
        for a in grid.alpha
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def bn_objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 5, generator=generator) * 2 + 1, torch.randint(0, 3, (60,), generator=generator)
    for _ in range(5):
        model.train()(x)
    model[1].momentum = None
    batches = [(x[:30], y[:30]), (x[30:], y[30:])]
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=batches)
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    theta, b = layout.flatten(model), buffers.flatten(model)
    directions = torch.randn(2, len(theta), generator=generator) * 0.2
    moved = torch.randn(2, len(b), generator=generator) * 3
    return model, batches, objective, Plane(theta, directions), b, moved


def by_plain_loop(model, batches, theta, buffers, statistics):
    import copy

    model = copy.deepcopy(model)
    ParameterLayout.of(model).assign(model, theta)
    ParameterLayout.of_buffers(model).assign(model, buffers)
    if statistics == "recalibrate":
        torch.optim.swa_utils.update_bn([b[0] for b in batches], model)
    model.eval()
    model[1].train(statistics == "batch")
    with torch.no_grad():
        return np.mean([nn.functional.cross_entropy(model(x), y).item() for x, y in batches])


@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
def test_policies_are_what_they_say(policy):
    model, batches, objective, plane, buffers, moved = bn_objective()
    loss = PlaneLoss(objective, plane, buffers, policy, moved)
    alpha, beta = 0.7, -1.3
    theta = plane.origin + alpha * plane.directions[0] + beta * plane.directions[1]
    at = buffers.clone()
    if policy == "interpolate":
        at = buffers + alpha * moved[0] + beta * moved[1]
        at[8:] = at[8:].clamp_min(0)  # running_mean, then running_var
        assert (at[8:] == 0).any()  # the clamp is at work in this example
    statistics = {"fixed": "running", "interpolate": "running"}.get(policy, policy)
    expected = by_plain_loop(model, batches, theta, at, statistics)
    assert loss.at(alpha, beta).mean == pytest.approx(expected, rel=1e-5)
    own = buffers + 1
    snapshot = by_plain_loop(model, batches, theta, own if policy == "interpolate" else buffers, statistics)
    assert loss.of_snapshot(theta, own).mean == pytest.approx(snapshot, rel=1e-5)
    assert check_repeatable(loss, local) == pytest.approx(loss.at(0, 0).mean, rel=1e-6)


def test_policies_that_cannot_be():
    _, _, objective, plane, buffers, _ = bn_objective()
    with pytest.raises(PlaneError, match="combinations of snapshots"):
        PlaneLoss(objective, plane, buffers, "interpolate")
    with pytest.raises(ObjectiveError, match="'train'"):
        PlaneLoss(objective, plane, buffers, "train")


def test_a_random_loss_is_refused_before_hours_are_spent():
    model = nn.Linear(3, 1)
    calls = itertools.count()  # random numbers would be the same at every call
    noisy = Objective.of(model, objective=lambda m, batch: m(batch).mean() + next(calls), data=torch.ones(4, 3))
    loss = PlaneLoss(noisy, Plane(torch.zeros(4), torch.eye(4)[:2]), torch.zeros(0), "none")
    with pytest.raises(ObjectiveError, match="same value twice"):
        check_repeatable(loss, local)


def test_nan_and_inf_are_results():
    model = nn.Linear(1, 1, bias=False)
    objective = Objective.of(model, objective=lambda m, b: torch.log(m.weight.sum()), data=torch.ones(2, 1))
    # log of w + second entry: build a plane over the single weight and a frozen partner
    plane = Plane(torch.tensor([0.0]), torch.tensor([[1.0], [0.0]]))
    points = np.array([[-1.0, 0], [0, 0], [1, 0]])
    values = {
        int(t.index[0]): float(t.loss[0])
        for t in evaluate(PlaneLoss(objective, plane, [], "none"), points, engine=local)
    }
    assert np.isnan(values[0])
    assert values[1] == -np.inf
    assert values[2] == 0
