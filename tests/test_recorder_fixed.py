"""What a training does not move is written once; what begins to move is recorded from then on."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, Objective, Storage, Trajectory, analyze, record
from landscape_hooks.errors import LayoutError
from landscape_hooks.recording.opening.sorting import split
from landscape_hooks.recording.watch.fixed import FixedTensors, _spread, pieces
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory.modules import copy_into
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.rows.fixed import Fixed

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 2, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _silent():
    """Ordinary loops stay silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def network(seed=0):
    """A frozen base under a head that is trained."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    return model


def log_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(model, run, steps=6, *, between=None, optimizer=None, begin=0, **options):
    """Plain training; `between(model, optimizer, step)` is what a loop does after a step. Returns a plain log."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    log = {begin: log_of(model)}
    options = {"every": 1, "criterion": nn.MSELoss(), "data": (X, Y), **options}
    with record(model, optimizer, run, **options):
        for step in range(begin + 1, begin + steps + 1):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(X), Y).backward()
            optimizer.step()
            if between is not None:
                between(model, optimizer, step)
            log[step] = log_of(model)
    return log


def check(run, log):
    """Every snapshot and what stands still is the plain log."""
    t = Trajectory.open(run)
    for snapshot in t:
        found = {e.name: snapshot.weights[e.slice].reshape(e.shape) for e in t.layout} | dict(t.fixed)
        assert found.keys() == log[snapshot.step].keys()
        for name, tensor in log[snapshot.step].items():
            np.testing.assert_array_equal(found[name], tensor.float().numpy(), err_msg=f"{name}, step {snapshot.step}")
    return t


def test_a_frozen_base_is_written_once(tmp_path):
    log = train(network(), tmp_path / "run.zarr")
    t = check(tmp_path / "run.zarr", log)
    assert t.layout.names == ("4.weight", "4.bias")
    assert list(t.fixed) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert t.root["trajectory/weights"].shape[1] == 10
    assert t.doubts == ()


def test_a_model_of_which_nothing_requires_a_gradient_moves_by_hand(tmp_path):
    model = network().requires_grad_(False)
    with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
        for p in model.parameters():
            p.add_(1)
        recorder.step()
    t = Trajectory.open(tmp_path / "run.zarr")
    assert (t.layout.size, len(t.fixed)) == (5 * 7 + 4 * 6 + 2 * 5, 0)


def unfreeze(model, optimizer, step):
    if step == 3:
        model[2].requires_grad_(True)


def by_hand(model, optimizer, step):
    if step >= 3:
        model[2].weight.data.add_(0.01)


def averaged(model, optimizer, step):
    """A target network that follows another one at every step."""
    with torch.no_grad():
        model[0].weight.lerp_(torch.ones(5, 6), 0.1)


def swapped(model, optimizer, step):
    if step == 3:
        model[2].weight.data = torch.randn(4, 5, generator=torch.Generator().manual_seed(4))


def replaced(model, optimizer, step):
    if step == 3:
        model[2] = copy.deepcopy(model[2])
        model[2].weight.data.mul_(2)


def one_after_the_other(model, optimizer, step):
    if step == 2:
        model[2].requires_grad_(True)
    if step == 4:
        model[0].requires_grad_(True)


CHANGES = [unfreeze, by_hand, averaged, swapped, replaced, one_after_the_other]


@pytest.mark.everyday(6)
@pytest.mark.parametrize("schedule", [{"every": 1}, {"every": 4}, {"every": None, "keep": 4}])
@pytest.mark.parametrize("between", CHANGES)
def test_what_begins_to_move_is_recorded_from_then_on(tmp_path, between, schedule):
    log = train(network(), tmp_path / "run.zarr", 11, between=between, **schedule)
    t = check(tmp_path / "run.zarr", log)
    assert t.steps[-1] == 11
    assert len(t.layout) > 2
    assert t.doubts == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_are_stored_in_their_own_type(tmp_path, dtype):
    """A head of float32 on a base of another type, which begins to move as well."""
    model = network()
    model[0].to(dtype)
    model[2].to(dtype)
    with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
        log = {0: log_of(model)}
        for step in range(1, 5):
            model[4].weight.data.add_(0.5)
            if step >= 3:
                model[2].weight.data.add_(0.5)
            recorder.step()
            log[step] = log_of(model)
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.stored_dtype == "float32"
    stored = {torch.bfloat16: "uint16", torch.float16: "float16", torch.float64: "float64"}[dtype]
    assert t.root["fixed/0"].dtype == stored
    assert t.root["trajectory/late/0/weights"].dtype == stored
    for snapshot in t:
        for entry in t.layout:
            expected = log[snapshot.step][entry.name].double().numpy().ravel()
            np.testing.assert_array_equal(snapshot.weights[entry.slice].astype("f8"), expected)
    np.testing.assert_array_equal(t.fixed["0.weight"].astype("f8"), log[0]["0.weight"].double().numpy())


@pytest.mark.parametrize(
    ("before", "after", "late"),
    [(torch.float32, torch.float16, "float32"), (torch.float16, torch.float32, "float32"),
     (torch.float8_e4m3fn, torch.float32, "float32")],
)  # fmt: skip
def test_a_tensor_that_moves_in_another_type_is_held_in_both(tmp_path, before, after, late):
    """A model may be rounded when the training is over, or a base be given a wider type before it is trained."""
    model = network()
    model[2].weight.data = model[2].weight.data.to(before)
    with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
        first = model[2].weight.detach().double().numpy().ravel()
        model[4].weight.data.add_(0.5)
        recorder.step()
        model[2].weight.data = model[2].weight.data.to(after) * 1.01
        model[4].weight.data.add_(0.5)
        recorder.step()
        last = model[2].weight.detach().double().numpy().ravel()
    t = Trajectory.open(tmp_path / "run.zarr")
    entry = next(e for e in t.layout if e.name == "2.weight")
    assert entry.dtype == late
    np.testing.assert_array_equal(t[0].weights[entry.slice], first)
    np.testing.assert_array_equal(t[-1].weights[entry.slice], last)


def test_a_bfloat16_base_under_bfloat16_adapters(tmp_path):
    model = network().bfloat16()
    log = {0: log_of(model)}
    with record(model, None, tmp_path / "run.zarr", every=1, storage=Storage(checksum=True)) as recorder:
        for step in range(1, 6):
            for p in (*model[4].parameters(), *(model[0].parameters() if step > 2 else ())):
                p.data.sub_(0.25)
            recorder.step()
            log[step] = log_of(model)
        recorder.mark("best")
    t = check(tmp_path / "run.zarr", log)
    assert t.verify() == []
    assert t.root["marks/best/weights"].dtype == "uint16"
    np.testing.assert_array_equal(t.marks["best"].weights, t[-1].weights)


def test_a_lora_run_is_as_large_as_its_adapters(tmp_path):
    class Lora(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.base = nn.Linear(n, n).requires_grad_(False)
            self.a, self.b = nn.Linear(n, 2, bias=False), nn.Linear(2, n, bias=False)

        def forward(self, x):
            return self.base(x) + self.b(self.a(x))

    model = nn.Sequential(Lora(300), Lora(300))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    with record(model, optimizer, tmp_path / "run.zarr", every=1):
        for _ in range(150):
            model(torch.ones(1, 300)).square().mean().backward()
            optimizer.step()
    size = sum(f.stat().st_size for f in Path(tmp_path / "run.zarr").rglob("*") if f.is_file())
    adapters = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert size < 1.02 * (adapters * 151 + 4 * sum(p.numel() for p in model.parameters())) + 150_000


@pytest.mark.parametrize("options", [{"every": 1}, {"keep": 50}])
def test_a_run_of_large_adapters_is_their_size_within_two_percent(tmp_path, options):
    """Adapters × snapshots + the base once: nothing is allowed on top of the two percent."""
    model = nn.ModuleDict({"base": nn.Linear(700, 700, bias=False).bfloat16(), "lora": nn.Linear(1000, 60, bias=False)})
    model["base"].requires_grad_(False)
    with record(model, None, tmp_path / "run.zarr", **options) as recorder:
        for _ in range(47):
            model["lora"].weight.data += 1
            recorder.step()
    size = sum(f.stat().st_size for f in Path(tmp_path / "run.zarr").rglob("*") if f.is_file())
    expected = 48 * 4 * 60_000 + 2 * 700 * 700
    assert 0.98 * expected < size < 1.02 * expected


@pytest.mark.everyday(1)
# -- going on ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("between", [None, unfreeze, by_hand])
def test_resumed_equals_uninterrupted(tmp_path, between):
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    log = train(network(), whole, 8, between=between)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, parts, 5, between=between, optimizer=optimizer)
    train(model, parts, 3, between=between, optimizer=optimizer, begin=5, if_exists="resume")
    check(parts, log)
    a, b = Trajectory.open(whole), Trajectory.open(parts)
    assert (a.layout.names, a.steps.tolist(), list(a.fixed)) == (b.layout.names, b.steps.tolist(), list(b.fixed))
    np.testing.assert_array_equal(a.block(), b.block())


def test_going_on_from_a_checkpoint_before_it_moved(tmp_path):
    run = tmp_path / "run.zarr"
    model = network()
    kept = copy.deepcopy(model.state_dict())
    train(model, run, 6, between=unfreeze)
    model = network()
    model.load_state_dict(kept)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = {0: log_of(model)}
    with record(model, optimizer, run, every=1, if_exists="resume") as recorder:
        recorder.load_state_dict({"step": 0, "loss": 0.0, "epoch": 0.0})
        for step in range(1, 5):
            model(X).square().mean().backward()
            optimizer.step()
            model[2].weight.data.add_(0.5)
            log[step] = log_of(model)
    check(run, log)


def test_going_on_with_another_base_is_seen(tmp_path):
    run = tmp_path / "run.zarr"
    model = network()
    train(model, run, 3)
    other = network(seed=1)
    other[4].load_state_dict(model[4].state_dict())
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    log = train(other, run, 3, optimizer=optimizer, begin=3, if_exists="resume", step=3)
    t = Trajectory.open(run)
    assert len(t.layout) == 6
    last = {e.name: t[-1].weights[e.slice].reshape(e.shape) for e in t.layout}
    for name, tensor in log[6].items():
        np.testing.assert_array_equal(last[name], tensor.numpy())


def test_a_run_is_not_gone_on_with_by_another_model(tmp_path):
    train(network(), tmp_path / "run.zarr")
    other = nn.Sequential(*network(), nn.Linear(2, 2))
    with pytest.raises(LayoutError, match=r"5\.weight"):
        record(other, None, tmp_path / "run.zarr", every=1, if_exists="resume")


@pytest.mark.everyday(1)
# -- the loss ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("between", [None, unfreeze, one_after_the_other])
def test_the_loss_is_that_of_the_whole_model(tmp_path, between):
    """From the stored graph and from live code: at snapshots, the loss by hand."""
    run = tmp_path / "run.zarr"
    log = train(network(), run, 6, between=between)
    t = Trajectory.open(run)
    live = Objective.of(network(seed=5), criterion=nn.MSELoss(), data=(X, Y))
    stored = analyze(run, size=3, engine=Local(tune=False), progress=False, name="stored")
    coded = analyze(run, size=3, engine=Local(tune=False), progress=False, name="coded", objective=live)
    by_hand = []
    for step in t.steps.tolist():
        model = network()
        copy_into([p.data for p in model.parameters()], list(log[step].values()))
        by_hand.append(nn.functional.mse_loss(model(X), Y).item())
    np.testing.assert_allclose(stored.path_loss, by_hand, rtol=1e-6)
    np.testing.assert_allclose(coded.path_loss, by_hand, rtol=1e-6)
    np.testing.assert_allclose(stored.loss, coded.loss, rtol=1e-5)


def test_an_objective_of_another_model_is_refused(tmp_path):
    run = tmp_path / "run.zarr"
    train(network(), run)
    other = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    with pytest.raises(LayoutError):
        analyze(run, size=3, progress=False, objective=Objective.of(other, criterion=nn.MSELoss(), data=(X, Y)))


# -- the watch -----------------------------------------------------------------------------------------------
def watched(tmp_path, model):
    run = tmp_path / "watched.zarr"
    record(model, None, run, every=1).close()
    layout = ParameterLayout.of(model)
    return FixedTensors(model, split(model, layout)[1], Fixed(open_run(run)))


def test_the_same_numbers_elsewhere_have_not_moved(tmp_path):
    model = network()
    model[0] = nn.Conv2d(3, 4, 3).requires_grad_(False)
    fixed = watched(tmp_path, model)
    assert fixed.moved() == []
    model.to(memory_format=torch.channels_last)
    assert fixed.moved() == []
    for p in model.parameters():
        p.data = p.data.clone()
    assert fixed.moved() == []
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert fixed.moved() == []
    model.double()
    assert fixed.moved() == []
    assert fixed.unnoticed(9) == []
    model.half()  # rounds
    assert fixed.moved() == []


@pytest.mark.parametrize("shape", [(5,), (1025,), (64, 64), (40, 1024), (3, 5, 7, 11), (2000, 3)])
def test_what_is_looked_at_is_the_same_wherever_it_lies(shape):
    """In C order and in any other one, up to 1,024 numbers of all rows and columns."""
    plain = torch.arange(int(np.prod(shape))).view(shape)
    turned = plain.permute(*reversed(range(len(shape)))).contiguous().permute(*reversed(range(len(shape))))
    assert turned.is_contiguous() == (len(shape) == 1)
    found = _spread(plain)
    assert torch.equal(found, _spread(turned))
    assert found.numel() == min(plain.numel(), 1024)
    assert len(found.unique()) == found.numel()
    if len(shape) == 2:
        assert len((found // shape[1]).unique()) >= min(shape[0], 40)
        assert len((found % shape[1]).unique()) >= min(shape[1], 64)


def test_one_number_that_is_not_looked_at_is_found_in_the_end(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300).requires_grad_(False), nn.Linear(300, 1))
    fixed = watched(tmp_path, model)
    model[0].weight.data[1, 1] += 1
    assert fixed.moved() == []
    assert fixed.unnoticed(9) == ["0.weight"]
    model[0].weight.data[1, 1] -= 1


@pytest.mark.filterwarnings("ignore:The tensor")
def test_what_was_found_in_the_end_is_in_doubt(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300).requires_grad_(False), nn.Linear(300, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
            model[0].weight.data[1, 1] += 1
            model[1].weight.data += 1
            recorder.step()
    (doubt,) = Trajectory.open(tmp_path / "run.zarr").doubts
    assert doubt.kind == "fixed"
    assert "'0.weight'" in doubt.said


def test_a_tensor_is_told_once_and_one_that_is_gone_is_let_go(tmp_path):
    model = network()
    fixed = watched(tmp_path, model)
    model[0].requires_grad_(True)
    assert [e.name for e in fixed.moved()] == ["0.weight", "0.bias"]
    assert fixed.moved() == []
    model[2] = nn.Identity()
    assert fixed.moved() == []
    assert len(fixed) == 0


def test_pieces_are_the_bits_in_c_order():
    for kind in (torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.float64):
        tensor = torch.randn(4, 3, dtype=torch.complex64 if kind.is_complex else torch.float32).to(kind).t()
        plain = torch.view_as_real(tensor).reshape(-1) if kind.is_complex else tensor.reshape(-1)
        (found,) = pieces(tensor)
        assert found.tobytes() == plain.view(torch.uint8).numpy().tobytes()


def test_training_is_the_same_with_and_without(tmp_path):
    def run(recorded):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        recorder = record(model, optimizer, tmp_path / "run.zarr", every=2) if recorded else None
        for step in range(6):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(X), Y).backward()
            optimizer.step()
            unfreeze(model, optimizer, step)
        if recorder is not None:
            recorder.close()
        return [p.detach() for p in model.parameters()]

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)
