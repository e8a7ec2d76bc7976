"""Buffers that do not move are stored once; those that begin to move are recorded from then on."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Parameters, Storage, Trajectory, import_checkpoints, record
from landscape_hooks.cli.description import describe
from landscape_hooks.errors import RecordingWarning
from landscape_hooks.recording.opening.sorting import still_buffers
from landscape_hooks.recording.watch.fixed import _look, _same, _sums
from landscape_hooks.trajectory.parameters import ParameterLayout

CHECKED = Storage(checksum=True)
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _silent():
    """Ordinary loops stay silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Packed(nn.Module):
    """Packed weights with their scales."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("packed", torch.randint(-9, 9, (width, width), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(width, width).half())


class Quantized(nn.Module):
    """A packed layer, a table and a mask, under an adapter; and a layer with running statistics."""

    def __init__(self, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.layer = Packed(width)
        self.register_buffer("table", torch.rand(40, 50), persistent=False)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.a, self.b = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.zeros(width, 2))
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        weight = self.layer.packed.float() * self.layer.scales.float() / 9 + self.b @ self.a
        return self.norm(nn.functional.linear(x, weight)) * self.table.mean() + self.mask[0, 0]


def buffers_of(model):
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def train(model, run, between=lambda model, step: None, steps=4, begin=0, **options):
    """Plain training with a hand-written step; returns a plain log of the buffers."""
    log = {begin: buffers_of(model)}
    with record(model, None, run, every=1, **options) as recorder:
        for step in range(begin + 1, begin + steps + 1):
            model(X)  # running statistics move
            with torch.no_grad():
                model.a += 1
            between(model, step)
            log[step] = buffers_of(model)
            recorder.step()
            if step == 2:
                recorder.mark("second")
    return log


def check(run, log):
    """Every snapshot has the buffers of the plain log."""
    t = Trajectory.open(run)
    for snapshot in t:
        for entry in t.buffer_layout:
            found = torch.from_numpy(snapshot.buffers[entry.slice]).reshape(entry.shape)
            assert torch.equal(found, log[snapshot.step][entry.name].float()), (entry.name, snapshot.step)
    if "second" in t.marks:
        np.testing.assert_array_equal(t.marks["second"].buffers, t[2].buffers)
    return t


def one_number(model, step):
    """In the middle of a table of 2,000: what a queue writes."""
    if step >= 3:
        model.table[17, 40] += 1


def scales(model, step):
    if step >= 2:
        model.layer.scales.mul_(2)


def statistics(model, step):
    model.norm.train(step >= 2)  # from the next forward pass on


def half(model, step):
    if step == 3:
        model.table.data = model.table.half()


def half_scales(model, step):
    if step == 3:
        model.layer.scales.data = model.layer.scales.bfloat16()


def several(model, step):
    one_number(model, step)
    scales(model, step)
    if step == 4:
        model.mask = torch.zeros(3, 3)


# -- what is stored once -------------------------------------------------------------------------------------
def test_what_does_not_move_is_written_once(tmp_path):
    t = check(tmp_path / "run", train(Quantized(), tmp_path / "run"))
    assert t.root["trajectory/buffers"].shape[1] == 12  # running statistics, which move
    assert "late" not in t.root["trajectory"]
    assert {str(array.dtype) for _, array in t.root["fixed"].arrays()} == {"int8", "float16", "float32"}
    assert t.buffer_layout == ParameterLayout.of_buffers(Quantized())  # a reader has all of them, in the model's order
    assert list(t.fixed) == ["layer.packed"]
    once = 36 + 2 * 36 + 4 * (2000 + 9)
    assert describe(tmp_path / "run")["fixed"] == {"tensors": 4, "bytes": once, "by_reference": False}


@pytest.mark.parametrize("between", [one_number, scales, half, half_scales, several])
def test_what_begins_to_move_is_recorded_from_then_on(tmp_path, between):
    t = check(tmp_path / "run", train(Quantized(), tmp_path / "run", between))
    assert t.doubts == ()
    assert t.root["trajectory/late/0"].attrs["kind"] == "buffer"


def test_running_statistics_that_stand_still_begin_to_move(tmp_path):
    model = Quantized().eval()
    t = check(tmp_path / "run", train(model, tmp_path / "run", statistics))
    assert t.root["trajectory/late/0"].attrs["from_step"] == 3
    assert t.root["trajectory/buffers"].shape[1] == 0


@pytest.mark.parametrize("between", [one_number, several])
def test_resumed_equals_uninterrupted(tmp_path, between):
    whole, cut = Quantized(), Quantized()
    log = train(whole, tmp_path / "whole", between, steps=6, storage=CHECKED)
    first = train(cut, tmp_path / "cut", between, steps=3, storage=CHECKED)
    train(cut, tmp_path / "cut", between, steps=3, begin=3, if_exists="resume", storage=CHECKED)
    check(tmp_path / "cut", log | {step: first[step] for step in range(4)})
    for run in ("whole", "cut"):
        assert Trajectory.open(tmp_path / run).verify() == []
    assert Trajectory.open(tmp_path / "cut").steps.tolist() == Trajectory.open(tmp_path / "whole").steps.tolist()


def test_going_on_with_other_values_is_recorded(tmp_path):
    model = Quantized()
    log = train(model, tmp_path / "run", steps=2)
    model.table += 1
    log |= {k: v for k, v in train(model, tmp_path / "run", steps=2, begin=2, if_exists="resume").items() if k > 2}
    check(tmp_path / "run", log)


def test_a_buffer_that_moves_after_another_state_was_loaded(tmp_path):
    model = Quantized()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, tmp_path / "run", every=1) as recorder:
        for step in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
            if step == 1:
                model.load_state_dict(model.state_dict())
                model.table += 1
                recorder.mark("moved")
    t = Trajectory.open(tmp_path / "run")
    entry = t.buffer_layout["table"]
    assert t.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(t.marks["moved"].buffers[entry.slice], model.table.flatten())
    np.testing.assert_array_equal(t[3].buffers[entry.slice], model.table.flatten())


def test_a_buffer_that_gets_another_shape_is_in_doubt(tmp_path):
    model = Quantized()
    recorder = record(model, None, tmp_path / "run", every=1)
    model.table = torch.zeros(80, 50)
    with pytest.warns(RecordingWarning, match=r"The buffer 'table' has the shape \[80, 50\] instead of \[40, 50\]"):
        recorder.step()
    recorder.close()
    t = Trajectory.open(tmp_path / "run")
    assert [doubt.kind for doubt in t.doubts] == ["buffers"]
    assert len(t) == 2


def test_one_scale_that_is_not_looked_at_is_in_doubt(tmp_path):
    model = Quantized(width=60)
    recorder = record(model, None, tmp_path / "run", every=1)
    model.layer.scales[13, 31] += 1
    recorder.step()
    with pytest.warns(RecordingWarning, match=r"'layer.scales' was changed by hand"):
        recorder.close()


def test_integers_that_change_are_noticed_where_nothing_is_compared_in_the_end(tmp_path):
    model = Quantized()
    recorder = record(model, None, tmp_path / "run", every=1)
    model.layer.packed += 1
    recorder.step()
    recorder.flush()
    model.layer.packed -= 1  # what a comparison in the end would find
    with pytest.warns(RecordingWarning, match=r"'layer.packed' of integers changed"):
        recorder.finish("the training's code is not to be run")


def test_a_base_by_reference_keeps_the_values_of_buffers(tmp_path):
    model = nn.ModuleDict({"base": nn.Linear(6, 6).requires_grad_(False), "layer": Quantized()})
    with record(model, None, tmp_path / "run", every=1, parameters=Parameters(frozen="reference")) as recorder:
        with torch.no_grad():
            model["layer"].a += 1
        recorder.step()
    t = Trajectory.open(tmp_path / "run")
    assert sorted(name for name, _ in t.root["fixed"].arrays()) == ["3", "4", "5"]  # after two of the base, the packed
    entry = t.buffer_layout["layer.table"]
    np.testing.assert_array_equal(t[1].buffers[entry.slice], model["layer"].table.flatten())
    assert t._fixed.damages() == []


def test_buffers_that_are_a_small_part_stay_in_the_rows():
    model = nn.Sequential(nn.Linear(100, 100), nn.Module())
    model[1].register_buffer("table", torch.zeros(100))
    assert not still_buffers(model, ParameterLayout.of(model))
    model[1].register_buffer("table", torch.zeros(102))
    assert still_buffers(model, ParameterLayout.of(model)).names == ("1.table",)


def test_a_lora_run_on_a_quantized_base_is_its_size_within_two_percent(tmp_path):
    """Adapters × snapshots + the base once, its scales included: nothing is allowed on top of the two percent."""
    model = nn.ModuleDict({"base": Quantized(width=500), "lora": nn.Linear(1000, 60, bias=False)})
    for parameter in model["base"].parameters():
        parameter.requires_grad_(False)
    model.eval()
    with record(model, None, tmp_path / "run", every=1) as recorder:
        for _ in range(47):
            model["lora"].weight.data += 1
            recorder.step()
    size = sum(f.stat().st_size for f in Path(tmp_path / "run").rglob("*") if f.is_file())
    base = sum(t.numel() * t.element_size() for t in (*model["base"].parameters(), *model["base"].buffers()))
    expected = 48 * 4 * 60_000 + base
    assert 0.98 * expected < size < 1.02 * expected


# -- what is looked at ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64])
@pytest.mark.parametrize("shape", [(7,), (1024,), (40, 60), (3, 1000), (2057,)])
def test_any_number_changes_the_sums(kind, shape):
    generator = torch.Generator().manual_seed(3)
    tensor = torch.randn(shape, generator=generator).to(kind)
    before = _look(tensor, True)
    assert _same(before, _sums(tensor.clone().t().contiguous().t()))
    for place in torch.randint(tensor.numel(), (20,), generator=generator).tolist():
        other = tensor.clone()
        other.view(-1)[place] = 100
        assert not _same(before, _sums(other)), place
    if kind.itemsize > 1:  # torch does not roll smaller ones
        assert not _same(before, _sums(tensor.roll(1, 0)))


# -- checkpoints ---------------------------------------------------------------------------------------------
def test_an_import_stores_them_as_a_recording_does(tmp_path):
    states, saved = {0: copy.deepcopy(Quantized().state_dict())}, {}

    def keep(model, step):
        several(model, step)
        saved[step] = copy.deepcopy(model.state_dict())

    model = Quantized()
    train(model, tmp_path / "recorded", keep)
    states |= saved
    for state in states.values():
        state["table"] = state.get("table", Quantized().table)
    recorded = Trajectory.open(tmp_path / "recorded")
    made = import_checkpoints(tmp_path / "run", Quantized(), list(states.values()), steps=list(states), progress=False)
    assert made.root["trajectory/buffers"].shape[1] == 12
    scale = made.buffer_layout["layer.scales"]
    np.testing.assert_array_equal(made.buffers()[:, scale.slice], recorded.buffers()[:, scale.slice])
    again = import_checkpoints(tmp_path / "run", Quantized(), list(states.values()), steps=list(states), progress=False)
    assert len(again) == 5
    assert made.verify() == []
