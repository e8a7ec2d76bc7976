"""The same numbers by other libraries, where they are installed: curvlinops and PyHessian."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.curve import Curve

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))


@pytest.fixture(scope="module")
def ours():
    model = network()
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=(X, Y))
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    return Curve(objective, theta, np.empty(0, np.float32), "running")


def test_curvlinops_has_the_same_eigenvalues_and_products(ours):
    curvlinops = pytest.importorskip("curvlinops")
    model = network()
    parameters = list(model.parameters())
    operator = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(X, Y)], check_deterministic=False
    )
    operator = operator.to_scipy()
    vector = np.random.default_rng(0).standard_normal(ours.size).astype(np.float32)
    assert np.allclose(operator @ vector, ours.times(torch.from_numpy(vector)).numpy(), rtol=1e-4, atol=1e-6)
    found = np.sort(eigsh(operator, k=3, which="LA", return_eigenvectors=False))[::-1]
    assert np.allclose(ours.top(3, seed=0, tolerance=1e-4).values, found, rtol=1e-4)


def test_pyhessian_has_the_same_eigenvalue_and_trace(ours):
    pyhessian = pytest.importorskip("pyhessian")
    other = pyhessian.hessian(network(), nn.CrossEntropyLoss(), data=(X, Y), cuda=False)
    (values, _) = other.eigenvalues(maxIter=500, tol=1e-6, top_n=1)
    assert ours.top(1, seed=0, tolerance=1e-4).values[0] == pytest.approx(values[0], rel=1e-3)
    trace, error = ours.trace(200, seed=0)
    theirs = np.array(other.trace(maxIter=200, tol=0))
    assert abs(trace - theirs.mean()) < 4 * np.hypot(error, theirs.std() / np.sqrt(len(theirs)))
