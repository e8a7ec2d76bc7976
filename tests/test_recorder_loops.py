"""Any loop: one row per real optimizer step, whatever the optimizer, the precision or the wrapper."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.errors import LandscapeError, LayoutError
from landscape_hooks.recording.background import copy_alone
from landscape_hooks.recording.watch.steps import optimizers_of, within
from landscape_hooks.trajectory.modules import copy_into, real_view


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


def flat(model):
    with torch.no_grad():
        parts = [torch.view_as_real(p) if p.is_complex() else p.float() for p in model.parameters()]
    return torch.cat([p.detach().reshape(-1) for p in parts]).numpy().copy()


def backward(model, scale=1.0):
    (model(torch.randn(16, 5)).square().mean() * scale).backward()


def assert_rows(path, expected):
    """The recorded rows are exactly these iterates (step 0 first)."""
    t = Trajectory.open(path)
    assert t.steps.tolist() == list(range(len(expected)))
    np.testing.assert_array_equal(t.block(), np.stack(expected))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
        lambda p: torch.optim.RMSprop(p, foreach=False),
        lambda p: torch.optim.ASGD(p),
    ],
)
def test_every_optimizer_gives_one_row_a_step(path, make):
    model = make_model()
    optimizer = make(list(model.parameters()))
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for _ in range(4):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
            iterates.append(flat(model))
    assert_rows(path, iterates)
    assert np.isfinite(Trajectory.open(path).learning_rates).all()


def test_lbfgs_gives_one_row_a_step_however_often_it_calls_the_closure(path):
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    x, calls, iterates = torch.randn(16, 5), 0, [flat(model)]

    def closure():
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    with record(model, optimizer, path, every=1):
        for _ in range(3):
            optimizer.step(closure)
            iterates.append(flat(model))
    assert calls > 6
    assert_rows(path, iterates)


def test_a_step_that_calls_its_parents_step_counts_once_and_one_that_raises_not_at_all(path):
    class Careful(torch.optim.SGD):
        broken = False

        def step(self, closure=None):
            if self.broken:
                raise ValueError("not now")
            return super().step(closure)

    model = make_model()
    torch.optim.SGD(model.parameters(), lr=0.1)  # from here on torch patches the parent's step as well
    optimizer = Careful(model.parameters(), lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for attempt in range(6):
            backward(model)
            optimizer.broken = attempt in (2, 3)
            if optimizer.broken:
                with pytest.raises(ValueError, match="not now"):
                    optimizer.step()
                continue
            optimizer.step()
            iterates.append(flat(model))
    assert len(iterates) == 5
    assert_rows(path, iterates)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_gradient_scaler_skips_is_no_step(path, fused):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for attempt in range(7):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(torch.randn(16, 5)).square().mean()
            scaler.scale(loss).backward()
            if attempt in (0, 3, 4):
                model[0].weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            if attempt not in (0, 3, 4):
                iterates.append(flat(model))
    assert_rows(path, iterates)


def test_overflows_summed_up_on_a_device_are_taken_off_when_a_snapshot_is_due(path):
    class Flag:
        """What a gradient scaler leaves on a GPU, where reading it at every step would stop the GPU."""

        device = torch.device("cuda")

        def __init__(self, value):
            self.value = torch.tensor([value])

        def __ne__(self, other):
            return self.value != other

        __hash__ = None

    class Fused(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure=None):
            if not self.found_inf.value.item():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter += 1

    model = make_model()
    optimizer = Fused(model.parameters())
    iterates = [flat(model)]
    with record(model, optimizer, path, every=3) as recorder:
        for attempt in range(12):
            overflow = attempt in (1, 4, 5, 8, 11)
            optimizer.found_inf = Flag(float(overflow))
            optimizer.step()
            if not overflow:
                iterates.append(flat(model))
        assert recorder.state_dict()["step"] == 7
    t = Trajectory.open(path)
    assert t.steps.tolist() == [0, 3, 6, 7]
    np.testing.assert_array_equal(t.block(), np.stack(iterates)[t.steps])


def test_gradient_accumulation_and_clipping_count_optimizer_steps(path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for batch in range(11):
            backward(model, 0.25)
            if batch % 4 == 3 or batch == 10:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                iterates.append(flat(model))
    assert len(iterates) == 4
    assert_rows(path, iterates)


def test_of_several_optimizers_one_that_steps_again_ends_the_iteration(path):
    model = make_model()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.Adam(model[2].parameters(), lr=0.01)
    iterates = [flat(model)]
    with record(model, [first, second], path, every=1):
        for step in range(6):
            model.zero_grad()
            backward(model)
            first.step()
            if step % 2:
                second.step()
            iterates.append(flat(model))
    assert_rows(path, iterates)
    np.testing.assert_allclose(Trajectory.open(path).learning_rates, [[0.1, 0.01]] * 7)


@pytest.mark.everyday(1)
@pytest.mark.parametrize("what", ["model", "submodule", "step", "data parallel"])
def test_compiled_or_wrapped(path, what):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    called, step = model, optimizer.step
    if what == "model":
        called = torch.compile(model, backend="eager")
    elif what == "data parallel":
        called = nn.DataParallel(model)
    elif what == "submodule":
        model[0] = torch.compile(model[0], backend="eager")
    iterates = [flat(model)]
    with record(called, optimizer, path, every=1):
        if what == "step":
            step = torch.compile(optimizer.step, backend="eager")
        for _ in range(3):
            optimizer.zero_grad()
            backward(called)
            step()
            iterates.append(flat(model))
    assert_rows(path, iterates)
    assert Trajectory.open(path).layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_compiled_step_compiles_nothing_of_the_recorder(path):
    compiled = []

    def backend(graph, inputs):
        compiled.extend(node.stack_trace or "" for node in graph.graph.nodes)
        return graph

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    with record(model, optimizer, path, every=1):
        step = torch.compile(optimizer.step, backend=backend)
        for _ in range(2):
            optimizer.zero_grad()
            backward(model)
            step()
    assert not [trace for trace in compiled if "landscape_hooks" in trace.replace(__file__, "")]
    assert compiled


def test_channels_last_rows_are_in_logical_order(path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 5, 5))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        model(torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()
        iterates.append(flat(model))
    assert_rows(path, iterates)


def test_a_lazy_model_is_refused_with_the_remedy(path):
    with pytest.raises(LayoutError, match="Run one batch through the model before record"):
        record(nn.LazyLinear(3), None, path)
    assert not path.exists()


def test_complex_half_frozen_and_tied_parameters(path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd = nn.Parameter(torch.randn(3))
            self.wave = nn.Parameter(torch.randn(4, dtype=torch.complex64))
            self.coarse = nn.Parameter(torch.randn(4).bfloat16())
            self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
            self.tied = self.odd

        def forward(self):
            return (self.wave * self.coarse).abs().sum() + self.tied.sum() + self.odd.square().sum()

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for _ in range(3):
            optimizer.zero_grad()
            model().backward()
            optimizer.step()
            iterates.append(flat(model))
    t = Trajectory.open(path)
    np.testing.assert_array_equal(t.block(), np.stack(iterates)[:, :-2])
    assert (t.layout.size, t.layout["tied"].name) == (3 + 8 + 4, "odd")
    np.testing.assert_array_equal(t.fixed["frozen"], iterates[0][-2:])


def test_copying_in_one_thread_is_the_same_copying():
    sources = [
        nn.Parameter(torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.randn(7)),
        torch.randn(2, 3).bfloat16(),
        torch.randn(5, dtype=torch.complex64).conj(),
        torch.tensor(2.5),
        torch.randn(4, 4).t(),
    ]
    found, expected = (
        [torch.zeros_like(real_view(s), dtype=torch.float32).contiguous() for s in sources] for _ in "ab"
    )
    copy_alone(found, sources)
    copy_into(expected, sources)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad


def test_float64_is_stored_as_float64(path):
    model = make_model().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    with record(model, optimizer, path, every=1):
        model(torch.randn(3, 5).double()).sum().backward()
        optimizer.step()
    t = Trajectory.open(path)
    assert t.dtype == np.float64
    assert 0 < np.abs(t[1].weights - t[0].weights).max() < 1e-9


def test_data_swaps_and_assigned_state_are_seen(path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for trick in range(3):
            backward(model)
            optimizer.step()
            if trick == 0:
                model[0].weight.data = torch.ones_like(model[0].weight)
            if trick == 1:
                model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=True)
            iterates.append(flat(model))
    assert_rows(path, iterates)


def test_parameter_groups_added_later(path):
    model = make_model()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    iterates = [flat(model)]
    with record(model, optimizer, path, every=1):
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
            backward(model)
            optimizer.step()
            iterates.append(flat(model))
    assert_rows(path, iterates)
    rates = Trajectory.open(path).learning_rates
    np.testing.assert_allclose(rates[:3], [[0.1, np.nan]] * 3)
    np.testing.assert_allclose(rates[3:], [[0.1, 0.01]] * 2)


def test_an_averaged_model_is_a_second_run_with_the_same_names(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    iterates, averages = [flat(model)], [flat(averaged)]
    with (
        record(model, optimizer, tmp_path / "run.zarr", every=1),
        record(averaged, None, tmp_path / "ema.zarr", every=1) as second,
    ):
        for _ in range(4):
            backward(model)
            optimizer.step()
            averaged.update_parameters(model)
            second.step()
            iterates.append(flat(model))
            averages.append(flat(averaged))
    assert_rows(tmp_path / "run.zarr", iterates)
    assert_rows(tmp_path / "ema.zarr", averages)
    run, ema = Trajectory.open(tmp_path / "run.zarr"), Trajectory.open(tmp_path / "ema.zarr")
    assert run.layout == ema.layout


def test_trainers_wrappers_are_unwrapped():
    inner = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)

    class Accelerated(torch.optim.Optimizer):
        """As accelerate wraps one: an Optimizer whose own __init__ never ran and whose hooks raise."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

        def register_step_post_hook(self, hook):
            raise RuntimeError("use the inner one")

    class Plain:
        def __init__(self, opt):
            self.opt = opt

    for wrapped in (Accelerated(inner), Plain(inner), Accelerated(Accelerated(inner))):
        assert optimizers_of(wrapped) == [wrapped]
        assert inner in list(within(wrapped))

    class Bare(torch.optim.Optimizer):
        def __init__(self):
            self.param_groups = []

    with pytest.raises(LandscapeError, match=r"takes no step hooks.*call recorder\.step\(\)"):
        optimizers_of(Bare())


def test_a_copied_optimizer_does_not_record(path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, every=1):
        twin = copy.deepcopy(optimizer)
        backward(model)
        twin.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    assert Trajectory.open(path).steps.tolist() == [0, 1]


def test_rows_of_zeros_and_of_nan(path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, every=1):
        for value in (0.0, float("nan"), float("inf")):
            optimizer.step()
            for parameter in model.parameters():
                nn.init.constant_(parameter, value)
    t = Trajectory.open(path)
    for row, value in zip(t.block()[1:], (0.0, np.nan, np.inf), strict=True):
        np.testing.assert_array_equal(row, np.full_like(row, value))
