"""The engine of this machine where it is not alone: OpenMP before the fork, and next to no shared memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout

pytestmark = pytest.mark.skipif(not local.forks(), reason="worker processes need fork")


def convolutional(**plan):
    """A loss whose convolution, product and sum each open a parallel region, if torch has threads for one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 8))
    data = (torch.randn(256, 3, 8, 8), torch.randint(0, 8, (256,)))
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=data)
    theta = ParameterLayout.of(model).flatten(model)
    loss = PlaneLoss(objective, Plane(theta, torch.randn(2, len(theta))), torch.zeros(0), "none")
    return loss.computed(objective, Plan(**plan))


def values(loss, points):
    found = np.full(len(points), np.nan)
    for tile in local.points(loss, points):
        found[tile.index] = tile.loss
    return found


def every_way_of_forking():
    """More threads than cores, in use before any fork: what a machine with many cores is like."""
    torch.set_num_threads(4)
    points = np.random.default_rng(0).normal(size=(6, 2))
    alone = values(convolutional(threads=4), points)  # after this, this thread has a team
    for workers, threads in ((2, 4), (2, 1)):
        shared = values(convolutional(workers=workers, threads=threads), points)
        np.testing.assert_allclose(shared, alone, rtol=0 if threads == 4 else 1e-5)
    loss = convolutional()
    assert len(local.apart(lambda: loss.at(0.0, 0.0).mean, 2)) == 2
    assert calibration.choose(loss, 10**9, workers=2).workers == 2


def test_forked_workers_end_whatever_openmp_did_before_the_fork():
    """A process of its own, since it may have to be killed."""
    code = "from tests.test_local_engine import every_way_of_forking; every_way_of_forking()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


class Rows:
    """Snapshots without a run."""

    def __init__(self, weights, buffers):
        self.weights, self.buffers = weights, buffers

    def snapshots(self, numbers):
        for n in numbers:
            yield type("Row", (), {"weights": self.weights[n], "buffers": self.buffers[n]})


def shared_files():
    """Files in shared memory that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return {line.split()[-1] for line in maps if "/dev/shm/" in line}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_reach_the_workers_without_a_file_in_shared_memory(dtype):
    """A container has 64 MB of /dev/shm; who writes beyond them is killed with SIGBUS."""
    model = nn.Linear(3, 2).to(dtype)
    objective = Objective.of(model, criterion=nn.MSELoss(), data=(torch.ones(4, 3, dtype=dtype), torch.zeros(4, 2)))
    theta = ParameterLayout.of(model).flatten(model)
    loss = PlaneLoss(objective, Plane(theta, torch.eye(len(theta), dtype=dtype)[:2]), torch.zeros(0), "none")
    rows = Rows(np.random.default_rng(0).normal(size=(5, len(theta))), np.zeros((5, 0)))
    found, before = {}, shared_files()
    for tile in local.snapshots(loss.computed(objective, Plan(workers=2)), rows, range(5)):
        found[int(tile.index[0])] = tile.loss[0]
        assert all(file.startswith("/dev/shm/sem.") for file in shared_files() - before)  # a lock is one page
    for n, weights in enumerate(rows.weights):
        assert found[n] == loss.of_snapshot(torch.from_numpy(weights).to(dtype), torch.zeros(0)).mean
