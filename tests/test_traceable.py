"""What stands for an operation of torch's while a loss is traced gives torch's own numbers, and the loss is stored."""

import warnings

import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.objective.tracing import traceable
from landscape_hooks.trajectory.parameters import ParameterLayout

F = nn.functional
torch.manual_seed(1)
X, Y = torch.randn(20, 4), torch.randn(20, 3)
COUNTS, SHARES = torch.randint(1, 4, (20,)), torch.rand(20)


@pytest.mark.parametrize("rows", [X.T, X[:, 0], X.T.to(torch.complex64) * (1 + 2j)], ids=["rows", "one", "complex"])
@pytest.mark.parametrize(
    "options",
    [{}, {"correction": 0}, {"fweights": COUNTS}, {"aweights": SHARES}, {"fweights": COUNTS, "aweights": SHARES}],
)
def test_covariances_are_torchs(rows, options):
    torch.testing.assert_close(traceable.cov(rows, **options), torch.cov(rows, **options))


@pytest.mark.parametrize("rows", [X.T, X[:, 0]])
def test_correlations_are_torchs(rows):
    torch.testing.assert_close(traceable.corrcoef(rows), torch.corrcoef(rows))


@pytest.mark.parametrize("var", [Y.square(), Y[:, :1].square(), Y[:, 0].square(), Y.square() * 1e-8, 0.5])
@pytest.mark.parametrize("options", [{}, {"full": True, "reduction": "sum"}, {"reduction": "none", "eps": 0.1}])
def test_the_gaussian_likelihood_is_torchs_with_its_gradient(var, options):
    found = []
    for function in (traceable.gaussian_nll_loss, F.gaussian_nll_loss):
        leaf = var.clone().requires_grad_() if isinstance(var, torch.Tensor) else var
        loss = function(X[:, :3], Y, leaf, **options)
        grad = torch.autograd.grad(loss.sum(), leaf)[0] if isinstance(leaf, torch.Tensor) else torch.zeros(())
        found.append((loss.detach(), grad))
    torch.testing.assert_close(*found)


def test_a_negative_variance_is_no_loss():
    assert traceable.gaussian_nll_loss(X[:, :3], Y, Y).isnan()


LOSSES = {
    "CORAL": lambda m, b: F.mse_loss(m(b[0]), b[1]) + (torch.cov(m(b[0]).T) - b[1].T.cov()).square().sum(),
    "decorrelation": lambda m, b: F.mse_loss(m(b[0]), b[1]) + m(b[0]).T.corrcoef().square().mean(),
    "Gaussian": lambda m, b: nn.GaussianNLLLoss()(m(b[0])[:, 0], b[1][:, 0], F.softplus(m(b[0])[:, 1])),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_it_is_stored(name):
    model, loss = nn.Linear(4, 3), LOSSES[name]
    root = zarr.group(zarr.storage.MemoryStore())
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root.attrs.put(dict(zip(("layout", "buffer_layout"), (each.to_json() for each in layouts), strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(root, model, objective=loss, data=[(X[:12], Y[:12]), (X[12:], Y[12:])])
    objective = Objective.load(root)
    with torch.no_grad():
        means = [loss(model, (X[a:b], Y[a:b])).item() * (b - a) / 20 for a, b in ((0, 12), (12, 20))]
    assert objective.evaluate(*[each.flatten(model) for each in layouts]).mean == pytest.approx(sum(means), rel=1e-5)
