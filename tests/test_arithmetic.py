"""The same numbers whatever the program around has set: TF32, autocast, determinism, types that a device lacks."""

import pytest
import torch
from torch import nn

from landscape_hooks.device import arithmetic as room
from landscape_hooks.device.arithmetic import arithmetic, wide
from landscape_hooks.objective.data import states
from landscape_hooks.objective.double_backward import plain_kernels
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.curve import hessian_vector
from landscape_hooks.trajectory.parameters import ParameterLayout

CPU = torch.device("cpu")


def loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    data = (torch.randn(32, 6), torch.randint(0, 3, (32,)))
    objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=data)
    return objective, ParameterLayout.of(model).flatten(model), ParameterLayout.of_buffers(model).flatten(model)


def state():
    """All that a program may have set, as operations see it."""
    backends = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    parts += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return (
        [part.fp32_precision for part in parts],
        (backends.cudnn.enabled, backends.cudnn.deterministic, backends.cudnn.benchmark, backends.mkldnn.enabled),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_autocast_enabled("cpu"),
    )


by_operation = pytest.mark.skipif(not room._BY_OPERATION, reason="a torch without a setting for each operation")


@pytest.fixture
def as_before():
    """The settings of this process, put back."""
    kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(kept[0])
    torch.backends.cudnn.benchmark = kept[1]
    if room._BY_OPERATION:
        torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "tf32"


@by_operation
@pytest.mark.parametrize("given", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_products_are_in_float32_unless_asked_and_all_is_as_before(as_before, given, precision):
    torch.set_float32_matmul_precision(given)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # differs from that of recurrent layers: no single flag tells it
    torch.backends.cudnn.benchmark = True
    before = state()
    with arithmetic(CPU, precision):
        inside = state()
        assert torch.is_autocast_enabled("cpu") == (precision == "bfloat16")
    assert state() == before
    wanted = {"tf32"} if precision == "tf32" else {"ieee", "none"}
    assert set(inside[0][:3]) <= wanted
    assert set(inside[0][3:]) <= {"ieee", "none"}  # the CPU's products would be rounded to bfloat16 by "medium"
    with pytest.raises(ZeroDivisionError), arithmetic(CPU, precision):
        raise ZeroDivisionError
    assert state() == before


def test_an_older_torch_is_told_by_its_flags(as_before, monkeypatch):
    monkeypatch.setattr(room, "_BY_OPERATION", False)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    for precision, allowed in (("float32", False), ("tf32", True)):
        with arithmetic(CPU, precision):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True


def test_a_gpu_computes_the_same_bits_again(as_before, monkeypatch):
    """The context of a GPU, entered here: no operation is run in it."""
    torch.backends.cudnn.benchmark = True
    before = state()
    monkeypatch.setattr(torch.cuda, "device", lambda which: room.ExitStack())
    with arithmetic(torch.device("cuda:0")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert state() == before


def test_a_caller_s_autocast_changes_no_loss():
    objective, theta, buffers = loss()
    vector = torch.ones_like(theta)
    alone = [
        objective.evaluate(theta, buffers, statistics=statistics) for statistics in ("running", "batch", "recalibrate")
    ]
    product = hessian_vector(objective, theta, buffers, vector, "running")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")
        inside = [
            objective.evaluate(theta, buffers, statistics=statistics)
            for statistics in ("running", "batch", "recalibrate")
        ]
        assert objective.loss(theta, buffers) == pytest.approx(alone[0].mean, rel=1e-6)
        assert torch.equal(hessian_vector(objective, theta, buffers, vector, "running"), product)
    assert inside == alone
    asked = objective.tuned(Tuning(precision="bfloat16")).evaluate(theta, buffers)
    assert asked.mean != alone[0].mean
    assert asked.mean == pytest.approx(alone[0].mean, rel=0.05)
    assert objective.tuned(Tuning(precision="tf32")).evaluate(theta, buffers) == alone[0]  # of a CPU nothing is rounded


@pytest.mark.parametrize("statistics", ["running", "batch", "recalibrate"])
def test_a_device_without_float64_gives_the_same_mean(monkeypatch, statistics):
    """As MPS: sums are taken on the CPU."""
    objective, theta, buffers = loss()
    expected = objective.evaluate(theta, buffers, statistics=statistics)
    moved = []

    real = wide
    monkeypatch.setattr(room, "NO_FLOAT64", ("cpu",))
    monkeypatch.setattr(
        "landscape_hooks.objective.objective.wide", lambda tensor: moved.append(tensor.dtype) or real(tensor)
    )
    assert objective.evaluate(theta, buffers, statistics=statistics) == expected
    assert torch.float32 in moved


def test_wide_numbers_are_on_the_cpu_where_a_device_has_none(monkeypatch):
    moved = []

    class There:
        device = torch.device("mps")

        def cpu(self):
            moved.append("cpu")
            return torch.ones(2)

    assert wide(There()).dtype == torch.float64
    assert moved == ["cpu"]


@by_operation
def test_plain_kernels_allow_no_tf32(as_before):
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "ieee"
    before = state()
    with plain_kernels():
        assert not torch.backends.cudnn.enabled
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert state() == before


def test_draws_on_a_gpu_are_seeded_where_one_is_in_use(monkeypatch):
    """A live loss that draws noise draws the same at every call, wherever it is computed."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeded.append(("cuda", seed)))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: seeded.append(("mps", seed)))
    states.seed_all()
    assert seeded == [("cuda", states.SEED), ("mps", states.SEED)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    states.seed_all()
    assert len(seeded) == 2
