"""Other ways of computing give the same losses: memory format, chunks, worker processes."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import GONE, Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.machine import threads
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout


class Net(nn.Module):
    """Convolutions with and without BatchNorm behind them, a shared result, a residual, a view."""

    def __init__(self, views=True):
        super().__init__()
        self.views = views
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding="same", bias=False, groups=2)
        self.norm_b = nn.BatchNorm2d(4, affine=False)
        self.c = nn.Conv2d(4, 4, 1)
        self.norm_c = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = torch.relu_(self.norm_a(self.a(x)))
        x = x + self.norm_b(self.b(x))
        y = self.c(x)
        x = nn.functional.max_pool2d(self.norm_c(y) + y, 2)
        return self.head(x.view(x.shape[0], -1) if self.views else x.flatten(1))


@pytest.fixture(scope="module", params=["captured", "live"])
def loss_of(request):
    return losses(live=request.param == "live")


def losses(*, live, views=None):
    """policy -> PlaneLoss of a Net, from live code (which takes no `view` with its channels last) or as captured."""
    torch.manual_seed(0)
    net = Net(views=not live if views is None else views)
    x, y = 2 * torch.randn(40, 1, 8, 8) + 1, torch.randint(0, 3, (40,))
    for _ in range(4):
        net.train()(x)
    data = [(x[:16], y[:16]), (x[16:32], y[16:32]), (x[32:], y[32:])]
    layout, buffers = ParameterLayout.of(net), ParameterLayout.of_buffers(net)
    if live:
        objective = Objective.of(net, criterion=nn.CrossEntropyLoss(), data=data)
    else:
        root = zarr.group(zarr.storage.MemoryStore())
        root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
        capture(root, net, criterion=nn.CrossEntropyLoss(), data=data)
        objective = Objective.load(root)
    theta = layout.flatten(net)
    plane = Plane(theta, 0.3 * torch.randn(2, len(theta)))
    return lambda policy: PlaneLoss(objective, plane, buffers.flatten(net), policy, torch.randn(2, buffers.size) * 0.1)


@pytest.mark.everyday(10)
@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
@pytest.mark.parametrize(
    "plan",
    [
        Plan(tuning=Tuning(chunk=16)),
        Plan(tuning=Tuning(chunk=7, layout="channels_last")),
        Plan(tuning=Tuning(chunk=100, layout="channels_last")),
    ],
)
def test_every_way_gives_the_same_loss(loss_of, policy, plan):
    torch.manual_seed(1)
    loss = loss_of(policy)
    for point in [(0.0, 0.0), (0.8, -0.5), (5.0, 5.0)]:
        plain, other = loss.at(*point), plan.apply(loss).at(*point)
        assert other.mean == pytest.approx(plain.mean, rel=1e-5)
        assert other.stderr == pytest.approx(plain.stderr, rel=1e-4)


def test_bfloat16_is_coarser_and_says_so(loss_of):
    loss = loss_of("fixed")
    coarse = Plan(tuning=Tuning(precision="bfloat16")).apply(loss).at(0.3, 0.3).mean
    exact = loss.at(0.3, 0.3).mean
    assert coarse != exact
    assert coarse == pytest.approx(exact, rel=0.1)


@pytest.mark.everyday(1)
@pytest.mark.skipif(not local.forks(), reason="worker processes need fork")
@pytest.mark.parametrize("policy", ["batch", "interpolate"])
def test_workers_give_the_same_bits_as_one_process(loss_of, policy):
    torch.manual_seed(2)
    loss = Plan(tuning=Tuning(layout="channels_last")).apply(loss_of(policy))
    points = np.random.default_rng(0).normal(size=(11, 2))
    alone = np.full(11, np.nan)
    for tile in local.points(loss, points):
        alone[tile.index] = tile.loss
    for workers, tile_size in ((2, 1), (3, 4), (20, 1)):
        shared = np.full(11, np.nan)
        other = loss.computed(loss.objective, replace(loss.plan, workers=workers, tile=tile_size))
        for tile in local.points(other, points):
            assert np.isnan(shared[tile.index]).all()  # each point once
            shared[tile.index] = tile.loss
        np.testing.assert_array_equal(shared, alone)


@pytest.mark.everyday(3)
@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
def test_points_computed_together_give_the_same_losses(loss_of, policy):
    """As on a GPU: equal up to rounding, and not a bit depends on the company a point is in."""
    torch.manual_seed(3)
    loss = loss_of(policy)
    points = np.array([[0.0, 0.0], [0.5, -0.5], [np.inf, 0.0], [1.0, 2.0], [-1.0, 0.3], [0.2, 0.1], [0.5, -0.5]])
    together = loss.computed(loss.objective, Plan(stack=4, tile=4))
    found = together.measure_points(points).numpy()
    np.testing.assert_allclose(found, loss.measure_points(points).numpy(), rtol=1e-4)
    np.testing.assert_allclose(found[:, 0], loss.measure_points(points).numpy()[:, 0], rtol=1e-5)
    alone = np.concatenate([together.measure_points(points[i : i + 1]).numpy() for i in range(len(points))])
    np.testing.assert_array_equal(found, alone)
    for tile in local.points(together, points):
        np.testing.assert_array_equal(found[tile.index, 0], tile.loss)


@pytest.mark.everyday(1)
def test_a_stack_is_taken_if_it_is_faster_and_agrees(loss_of, monkeypatch):
    loss = loss_of("batch")
    times = {1: 3.0, 4: 1.0, 16: 2.0}
    real = calibration._timed_together
    monkeypatch.setattr(
        calibration, "_timed_together", lambda loss, some: (times[loss.plan.stack], real(loss, some)[1])
    )
    with threads(1):  # so many small operations suffer from threads where the machine is busy
        plan = calibration.best_stack(loss, Plan())
    assert (plan.stack, plan.tile, plan.speedup) == (4, 16, 3.0)
    assert "4 points together" in plan.sentence()
    monkeypatch.setattr(
        calibration,
        "_timed_together",
        lambda loss, some: (times[loss.plan.stack], real(loss, some)[1] + (loss.plan.stack > 1)),
    )
    with threads(1):
        assert calibration.best_stack(loss, Plan()).stack == 1


def test_channels_last_is_taken_on_a_gpu_if_it_is_faster(loss_of, monkeypatch):
    loss = loss_of("batch")
    real = calibration._timed_together
    times = {("contiguous", 1): 3.0, ("channels_last", 1): 2.0, ("channels_last", 4): 5.0, ("channels_last", 16): 1.0}

    def timed(loss, some):
        if loss.plan.stack == 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return times[loss.plan.tuning.layout, loss.plan.stack], real(loss, some)[1]

    monkeypatch.setattr(calibration, "_timed_together", timed)
    with threads(1):
        plan = calibration.best_stack(loss, Plan())
    assert (plan.tuning.layout, plan.stack, plan.speedup) == ("channels_last", 1, 1.5)


class Broken(nn.Module):
    def __init__(self, failure):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.failure, self.parent = failure, os.getpid()

    def forward(self, batch):
        if os.getpid() != self.parent:
            self.failure()
        return self.w.sum() + 0 * batch.sum()


def _raise():
    raise RuntimeError("out of paper")


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not local.forks(), reason="worker processes need fork")
@pytest.mark.parametrize(("failure", "words"), [(_raise, "out of paper"), (_die, "--workers 1")])
def test_a_worker_that_fails_is_an_error_not_a_hang(failure, words):
    objective = Objective.of(Broken(failure), objective=lambda m, b: m(b), data=torch.ones(2, 1))
    loss = PlaneLoss(objective, Plane(torch.zeros(3), torch.eye(3)[:2]), torch.zeros(0), "none")
    loss = loss.computed(objective, Plan(workers=2))
    start = time.monotonic()
    with pytest.raises(ObjectiveError, match=words):
        list(local.points(loss, np.zeros((6, 2))))
    assert time.monotonic() - start < 60


def test_calibration_chooses_a_way_that_agrees(loss_of, monkeypatch):
    """Forced to search although the work is little."""
    loss = loss_of("fixed")
    before = torch.get_num_threads()
    plan = calibration.choose(loss, 10**9)
    assert torch.get_num_threads() == before
    assert plan.seconds > 0
    assert plan.speedup > 0
    assert "process" in plan.sentence()
    assert plan.apply(loss).at(0.5, 0.5).mean == pytest.approx(loss.at(0.5, 0.5).mean, rel=1e-5)
    assert Plan.from_json(plan.to_json()).apply(loss).at(0.1, 0.2) == plan.apply(loss).at(0.1, 0.2)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("policy", ["batch", "fixed"])
def test_what_rounds_does_not_depend_on_the_stopwatch(loss_of, monkeypatch, policy):
    """Whatever the machine is busy with, and whether the work is little or much: the same bits."""
    loss, random = loss_of(policy), np.random.default_rng(0)
    monkeypatch.setattr(calibration, "_timed", lambda *arguments: random.exponential())
    plans = [calibration.choose(loss, points) for points in (1, 10**9, 10**9, 10**9)]
    assert len({plan.workers for plan in plans}) <= 2
    assert len({(plan.tuning, plan.threads, plan.stack) for plan in plans}) == 1
    assert len({plan.apply(loss).at(0.0, 0.0) for plan in plans}) == 1


def test_a_way_that_gives_other_values_is_not_taken(loss_of, monkeypatch):
    loss = loss_of("fixed")
    real = Plan.apply

    def wrong(plan, loss):
        found = real(plan, loss)
        if plan.tuning.layout == "channels_last":
            found.buffers = found.buffers + 1
        return found

    monkeypatch.setattr(Plan, "apply", wrong)
    assert calibration.choose(loss, 10**9).tuning.layout == "contiguous"


def test_a_way_that_does_not_run_is_not_taken():
    loss = losses(live=True, views=True)("fixed")
    with pytest.raises(RuntimeError, match="view size"):
        Plan(tuning=Tuning(layout="channels_last")).apply(loss).at(0.0, 0.0)
    assert calibration.choose(loss, 10**9).tuning.layout == "contiguous"


def test_images_of_one_channel_lead_to_results_with_channels_last():
    """Such an image is in both formats at once; what follows must not fall back to the slower one."""
    objective = Plan(tuning=Tuning(layout="channels_last")).tune(losses(live=False)("batch").objective)
    (images, _), _ = next(objective.probe.batches())
    weight = torch.randn(4, 1, 3, 3)
    assert nn.functional.conv2d(images, weight).is_contiguous(memory_format=torch.channels_last)


def test_a_plan_stored_before_there_were_stacks_is_read():
    stored = {"workers": 2, "threads": 1, "layout": "channels_last", "chunk": 64, "precision": "float32"}
    assert Plan.from_json(stored) == Plan(workers=2, tuning=Tuning(layout="channels_last", chunk=64))


def test_a_plan_that_took_what_is_gone_is_none_of_this_version():
    """The surface is then computed anew, in one way throughout; a plan that did without it goes on."""
    plan = Plan(workers=2, tuning=Tuning(layout="channels_last", chunk=64))
    assert Plan.from_json({**plan.to_json(), **GONE}) == plan
    for way in GONE:
        assert Plan.from_json({**plan.to_json(), way: True}) is None
        assert Plan.from_json({**plan.to_json(), way: "yes"}) is None


def test_a_loss_that_works_in_this_process_only_is_computed_there():
    """As one that takes gradients itself: torch refuses that in a forked process."""
    objective = Objective.of(Broken(_raise), objective=lambda m, b: m(b), data=torch.ones(2, 1))
    loss = PlaneLoss(objective, Plane(torch.zeros(3), torch.eye(3)[:2]), torch.zeros(0), "none")
    assert calibration.choose(loss, 10**9).workers == 1
    with pytest.raises(ObjectiveError, match="out of paper"):
        calibration.choose(loss, 10**9, workers=2)
