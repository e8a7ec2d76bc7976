"""The same run, analyzed in another way, gives the same numbers: to the bit, or within a bound that is said here.

docs/trust.md ("Numbers") says it to the reader.
"""

import os

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Points, analyze, record
from landscape_hooks.analysis import filling
from landscape_hooks.store.run import open_run
from landscape_hooks.surface.surface import Surface
from tests.forked import ROOT

ROUNDING = 1e-6
"""Relative difference that another order of summation may make in a mean over samples in float32."""

PLANES = {
    "pca": {"directions": "pca"},
    "random": {"directions": "random"},
    "points": {"directions": Points("0,2,5")},
    "hessian": {"directions": "hessian"},
}
SCRIPT = """
import os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:int(sys.argv[1])]))
import torch
torch.set_num_threads(int(sys.argv[1]))
from tests.test_numbers import PLANES, computed
for name, options in PLANES.items():
    computed(sys.argv[2], f"{name}-{sys.argv[1]}", **options)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A network with BatchNorm whose tensors are large enough that torch shares the work on them among threads."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 64, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip
    x, y = torch.randn(128, 1, 8, 8), torch.randint(0, 3, (128,))
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss()
    where = tmp_path_factory.mktemp("numbers") / "run.zarr"
    with record(model, optimizer, where, every=1, criterion=loss, data=[(x[:64], y[:64]), (x[64:], y[64:])]):
        for _ in range(6):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return str(where)


def computed(path, name, **options):
    """A surface by the plain loop, so that no calibration chooses another way of computing."""
    return analyze(
        path, name=name, progress=False, fresh=True, **{"size": (3, 2), "engine": Local(tune=False), **options}
    )


def arrays(path, name):
    surface, group = Surface.open(path, name), open_run(path)[f"surfaces/{name}"]
    plane = {key: group[key][...] for key in ("origin", "directions", "spectrum", "alpha", "beta")}
    plane["path"], plane["distance"] = surface.path, surface.path_distance
    loss = {key: getattr(surface, key) for key in ("loss", "loss_stderr", "path_loss", "path_plane_loss")}
    return plane, loss


@pytest.mark.more
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs to be bound to cores")
def test_one_thread_and_two(interpreters, path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    for threads in ("1", "2"):
        done = interpreters.run(SCRIPT, threads, path, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    for name in PLANES:
        (plane, loss), (other_plane, other_loss) = (arrays(path, f"{name}-{threads}") for threads in "12")
        for key, values in plane.items():
            if name == "hessian":  # its products are sums of gradients over samples, shared out among threads
                scale = np.abs(values).max(initial=1e-30)
                np.testing.assert_allclose(other_plane[key], values, rtol=0, atol=1e-4 * scale, err_msg=f"{name} {key}")
            else:
                np.testing.assert_array_equal(other_plane[key], values, err_msg=f"{name} {key}")
        for key, values in loss.items():
            bound = 1e-3 if name == "hessian" else ROUNDING
            np.testing.assert_allclose(other_loss[key], values, rtol=bound, err_msg=f"{name} {key}")


@pytest.mark.more
@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_one_worker_and_two_to_the_bit(path, policy):
    """Each point is computed whole by one worker, with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for workers in (1, 2):
            computed(
                path, f"workers-{workers}", size=(5, 4), batch_norm=policy, engine=Local(workers=workers, tune=False)
            )
    finally:
        torch.set_num_threads(before)
    for ours, others in zip(arrays(path, "workers-1"), arrays(path, "workers-2"), strict=True):
        for key, values in ours.items():
            np.testing.assert_array_equal(others[key], values, err_msg=key)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("options", [{}, {"adaptive": 0.05, "size": (36, 33), "samples": 16}])
def test_resumed_and_not_to_the_bit(path, options, monkeypatch):
    computed(path, "whole", **options)
    real, stopped_at = filling.evaluate, 3

    def stopped(loss, points, **more):
        for number, tile in enumerate(real(loss, points, **more)):
            if number == stopped_at:
                raise KeyboardInterrupt
            yield tile

    monkeypatch.setattr(filling, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        computed(path, "resumed", **options)
    monkeypatch.undo()
    done = Surface.open(path, "resumed").evaluated
    assert 0 < done.sum() < done.size
    analyze(path, name="resumed", progress=False, **{"size": (3, 2), "engine": Local(tune=False), **options})
    for ours, others in zip(arrays(path, "whole"), arrays(path, "resumed"), strict=True):
        for key, values in ours.items():
            np.testing.assert_array_equal(others[key], values, err_msg=key)


def test_the_fastest_way_differs_from_the_plain_loop_by_rounding(path):
    """What calibration may choose is what agrees with the plain loop to 1e-5 (calibration.py)."""
    plain = computed(path, "plain", batch_norm="fixed", size=(6, 5))
    fast = computed(path, "fast", batch_norm="fixed", size=(6, 5), engine=Local())
    np.testing.assert_allclose(fast.loss, plain.loss, rtol=1e-5)
    np.testing.assert_allclose(fast.path_loss, plain.path_loss, rtol=1e-5)
