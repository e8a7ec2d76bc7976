"""Losses that take derivatives themselves: stored as the graph that computes them, values and gradients."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import landscape_hooks as lh
from landscape_hooks.errors import ObjectiveError, RecordingWarning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.curve import hessian_vector

F = nn.functional
torch.manual_seed(3)
X, Y = torch.randn(8, 4), torch.randint(0, 3, (8,))


def physics(model, batch):
    """u_xx + u u_y = u."""
    x = batch[0].clone().requires_grad_(True)
    u = model(x)[:, :1]
    (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
    return (second[:, :1] + u * first[:, 1:2] - u).square().mean()


def penalty(model, batch):
    real, fake = batch[0], torch.randn_like(batch[0])
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
    return model(fake).mean() - model(real).mean() + 10 * (slope.norm(2, 1) - 1).square().mean()


def inner_step(model, batch):
    own = dict(model.named_parameters())
    call = torch.func.functional_call
    loss = F.cross_entropy(call(model, own, (batch[0][:4],)), batch[1][:4])
    slopes = torch.autograd.grad(loss, list(own.values()), create_graph=True)
    moved = {name: t - 0.4 * slope for (name, t), slope in zip(own.items(), slopes, strict=True)}
    return F.cross_entropy(call(model, moved, (batch[0][4:],)), batch[1][4:])


def transforms(model, batch):
    value = lambda x: model(x).sum()  # noqa: E731
    slopes = torch.func.vmap(torch.func.grad(value))(batch[0])
    return (slopes.square().sum(1) + torch.func.jvp(model, (batch[0],), (batch[0],))[1].sum(1)).square().mean()


def cut_off(model, batch):
    """What is detached, or computed without autograd, takes no part in the gradient; numbers are logged."""
    fixed = model(batch[0]).detach().softmax(1)
    with torch.no_grad():
        fixed = fixed + model(batch[0] + 1)
    x = batch[0].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    loss = slope.square().mean() + (model(batch[0]) - fixed).square().mean()
    LOGGED.append(loss.item())
    return loss


def inside_backward(model, batch):
    x = batch[0].clone().requires_grad_(True)
    model(x).sum().backward(inputs=[x], create_graph=True)
    return x.grad.square().mean() + model(batch[0]).square().mean()


LOGGED: list[float] = []
LOSSES = (physics, penalty, inner_step, transforms, cut_off, inside_backward)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def stored_and_live(path, model, loss, data=(X, Y)):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        lh.record(model, None, path, objective=loss, data=[data]).close()
    trajectory = lh.Trajectory.open(path)
    return Objective.load(trajectory.root, trajectory), Objective.of(model, objective=loss, data=[data])


@pytest.mark.everyday(3)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_stored_loss_is_the_loss_and_so_are_its_second_derivatives(tmp_path, loss):
    model = network()
    objectives = stored_and_live(tmp_path / "run.zarr", model, loss)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]) + 0.1
    nn.utils.vector_to_parameters(weights, model.parameters())
    torch.manual_seed(0)
    expected = loss(model, (X, Y)).item()
    products = []
    for objective in objectives:
        assert objective.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-4)
        products.append(hessian_vector(objective, weights, torch.zeros(0), torch.ones_like(weights), "running"))
    torch.testing.assert_close(*products, rtol=1e-3, atol=1e-4)


def test_an_image_network_with_a_penalty_is_stored(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.GroupNorm(1, 3), nn.Conv2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1),
    )  # fmt: skip
    images = torch.randn(3, 1, 4, 4)
    stored, live = stored_and_live(tmp_path / "run.zarr", model, penalty_of_images, (images, images))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]) + 0.1
    values = [objective.evaluate(weights, torch.zeros(0)).mean for objective in (stored, live)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def penalty_of_images(model, batch):
    x = batch[0].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(2, 1) - 1).square().mean()


def equilibrium(model, batch):
    """Iterated until it stands still, which depends on the weights."""
    z = torch.zeros_like(batch[0])
    for _ in range(30):
        before, z = z, torch.tanh(model(z)[:, :1] + batch[0]) * 0.9
        if (z - before).norm() < 1e-3:
            break
    return z.square().mean()


def test_a_loop_that_ends_by_the_weights_is_told_and_the_way_out_works(tmp_path):
    model = network()
    with pytest.warns(RecordingWarning, match="depends on values that its weights have.*--objective"):
        lh.record(model, None, tmp_path / "run.zarr", objective=equilibrium, data=[(X, Y)]).close()
    live = Objective.of(model, objective=equilibrium, data=[(X, Y)])
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert live.evaluate(weights, torch.zeros(0)).mean == pytest.approx(equilibrium(model, (X, Y)).item(), rel=1e-4)


def test_a_gradient_that_is_not_the_losss_is_no_hessian(tmp_path):
    model = network()
    stored, _ = stored_and_live(tmp_path / "run.zarr", model, physics)
    stored.attrs["differentiable"] = False
    with pytest.raises(ObjectiveError, match="not its gradient"):
        hessian_vector(stored, torch.zeros(38), torch.zeros(0), torch.ones(38), "running")


def by_data(model, batch):
    """Another course for batches with a positive sum; where none is negative, another one still."""
    rows = batch[0] if batch[0].sum().item() > 0 else -batch[0]
    return F.cross_entropy(model(rows)[np.asarray(batch[1].tolist()) >= 0], batch[1])


def test_a_course_that_depends_on_the_data_is_stored_for_each_kind_of_batch(tmp_path):
    model = network()
    batches = [(X.abs(), Y), (-X.abs(), Y), (X.abs() * 2, Y), (-X.abs() * 3, Y)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        lh.record(model, None, tmp_path / "run.zarr", objective=by_data, data=batches).close()
    trajectory = lh.Trajectory.open(tmp_path / "run.zarr")
    stored = Objective.load(trajectory.root, trajectory)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]) + 0.1
    nn.utils.vector_to_parameters(weights, model.parameters())
    expected = np.mean([by_data(model, batch).item() for batch in batches])
    assert stored.evaluate(weights, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)
    assert len(list(trajectory.root["objective/graphs"].array_keys())) == 2
