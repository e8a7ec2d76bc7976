"""A device with too little memory: fewer samples at a time, then a sentence. And no process is forked beside a GPU."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks.device.memory import TooLittleMemory, is_out_of_memory, release
from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plan import Plan
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout


class Small(nn.Module):
    """A network on a device that has room for `room` samples."""

    room = 10**9
    taken: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        held = self.a(x)
        Small.taken.append((len(x), weakref.ref(held)))
        if len(x) > Small.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB")
        return self.b(torch.tanh(held))


@pytest.fixture(scope="module")
def plenty():
    torch.manual_seed(0)
    model = Small()
    data = (torch.randn(64, 5), torch.randint(0, 3, (64,)))
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=data)
    theta = ParameterLayout.of(model).flatten(model)
    return PlaneLoss(objective, Plane(theta, torch.randn(2, len(theta))), torch.zeros(0), "none")


@pytest.fixture
def room(plenty, monkeypatch):
    def of(count):
        monkeypatch.setattr(Small, "room", count)
        Small.taken.clear()

    return of


def test_the_calibration_takes_as_many_samples_as_fit(plenty, room):
    expected = plenty.at(0.1, 0.1).mean
    room(9)
    plan = calibration.best_stack(plenty, calibration.plain(plenty))
    assert plan.tuning.chunk == 8
    assert max(count for count, _ in Small.taken) == 64
    Small.taken.clear()
    assert plan.apply(plenty).at(0.1, 0.1).mean == pytest.approx(expected, rel=1e-6)
    assert {count for count, _ in Small.taken} == {8}


def test_what_does_not_fit_together_is_computed_alone(plenty, room, monkeypatch):
    real = calibration._timed_together

    def timed(loss, some):
        if loss.plan.stack > 1:
            raise TooLittleMemory("no room")
        return real(loss, some)

    monkeypatch.setattr(calibration, "_timed_together", timed)
    assert calibration.best_stack(plenty, calibration.plain(plenty)).stack == 1


def test_where_not_even_one_fits_there_is_a_sentence(plenty, room):
    room(0)
    with pytest.raises(TooLittleMemory, match=r"1 samples at a time does not fit .*--device cpu") as caught:
        calibration.best_stack(plenty, calibration.plain(plenty))
    assert caught.value.__context__ is None  # whose traceback would hold what did not fit


def test_what_did_not_fit_is_given_back_before_the_next_try(plenty, room):
    room(9)
    with pytest.raises(TooLittleMemory) as caught:
        plenty.at(0.0, 0.0)
    gc.collect()
    assert all(held() is None for _, held in Small.taken)
    assert "\n" not in str(caught.value).partition("Expected")[0]


def test_batches_that_cannot_be_cut_are_told():
    torch.manual_seed(0)
    model = nn.Sequential(Small(), nn.BatchNorm1d(3))
    data = (torch.randn(64, 5), torch.randint(0, 3, (64,)))
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=data)
    theta, buffers = ParameterLayout.of(model).flatten(model), ParameterLayout.of_buffers(model).flatten(model)
    loss = PlaneLoss(objective, Plane(theta, torch.randn(2, len(theta))), buffers, "batch")
    Small.room = 9
    try:
        assert objective.smaller("batch") is None
        with pytest.raises(TooLittleMemory, match=r"64 samples .*cannot be cut.* smaller batches"):
            calibration.best_stack(loss, calibration.plain(loss))
    finally:
        Small.room = 10**9


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_how_torch_says_it(error, is_memory):
    assert is_out_of_memory(error) is is_memory


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_cache_of_the_device_is_given_back(monkeypatch, kind):
    asked = []
    monkeypatch.setattr(getattr(torch, kind), "empty_cache", lambda: asked.append(kind))
    release(torch.device(kind))
    release(torch.device("cpu"))
    assert asked == [kind]


def test_no_process_is_forked_beside_a_gpu(plenty, monkeypatch):
    """With --no-tune, or the plan of a surface that was begun on the CPU: CUDA cannot be used after a fork."""
    monkeypatch.setattr(local, "forked", lambda *a: pytest.fail("forked"))
    loss = plenty.computed(plenty.objective, Plan(workers=3))
    loss.device = torch.device("cuda:0")
    points = np.random.default_rng(0).normal(size=(4, 2))
    found = np.concatenate([tile.loss for tile in local.points(loss, points)])
    assert found.tolist() == [plenty.at(*point).mean for point in points]
