"""A few numbers tell whether the weights changed after a step, however short steps are, and without false alarms."""

import copy
import math

import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.recording.watch.glance import FEW, Glance

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def deep(layers=4):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers - 1)], nn.Linear(4, 3))


def hurried(model, glance):
    """After a step off the schedule, of a loop that has no time for a look."""
    glance.take()
    glance.pass_by()
    return list(model.parameters())


@pytest.mark.parametrize("number", range(8))
def test_each_tensor_of_a_small_model_is_looked_at(number):
    model = deep()
    glance = Glance(lambda: list(model.parameters()))
    tensors = hurried(model, glance)
    assert glance.same()
    with torch.no_grad():
        tensors[number].view(-1)[-1] += 1  # the last of its numbers
    assert glance.same() is False


def test_of_many_tensors_some_are_looked_at_all_over_the_model():
    model = deep(40)
    glance = Glance(lambda: list(model.parameters()))
    tensors = hurried(model, glance)
    assert glance.same()
    with torch.no_grad():
        for tensor in tensors[20:30]:
            tensor += 1
    assert glance.same() is False
    assert len(glance._few.chosen) == FEW


@pytest.mark.parametrize("way", ["other memory", "another tensor", "another type", "transposed"])
def test_numbers_that_lie_elsewhere_are_the_same_numbers(way):
    model = nn.Linear(4, 4)
    glance = Glance(lambda: list(model.parameters()))
    hurried(model, glance)
    if way == "other memory":
        model.weight.data = model.weight.data.clone()
    elif way == "another tensor":
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    elif way == "another type":
        model.double()
    else:
        model.weight.data = model.weight.data.t().contiguous().t()
    assert glance.same()
    model.weight.data = model.weight.data + 1
    assert glance.same() is False


def test_steps_that_put_other_memory_behind_the_weights_are_no_edits():
    model = nn.Linear(4, 3)
    glance = Glance(lambda: list(model.parameters()))
    for _ in range(3):
        model.weight.data = model.weight.data - 0.1  # the step
        glance.take()
        glance.compare()
    for _ in range(3):
        model.weight.data = model.weight.data - 0.1
        glance.pass_by()
        assert glance.same()
        glance.compare()
    assert not glance.differed
    glance.pass_by()
    model.weight.data = model.weight.data - 0.1
    assert glance.same() is False


@pytest.mark.parametrize("edited", [False, True])
def test_memory_that_the_weights_have_left_tells_nothing(edited):
    """SAM moves the weights uphill where they lie, and then puts a copy of what they were in their place."""
    model = nn.Linear(4, 3)
    glance = Glance(lambda: list(model.parameters()))
    hurried(model, glance)
    glance.compare()
    for n in range(3):
        glance.pass_by()
        old = model.weight.data.clone()
        model.weight.data.add_(1)
        model.weight.data = old
        if edited and n == 2:  # what lies elsewhere is looked at, too
            old.mul_(2)
        glance.compare()
    assert glance.differed is edited


def test_an_edit_that_puts_other_memory_behind_the_weights_is_one():
    model = nn.Linear(4, 3)
    glance = Glance(lambda: list(model.parameters()))
    hurried(model, glance)
    model.weight.data = model.weight.data * 2
    glance.compare()
    assert glance.differed


def test_a_model_without_a_small_tensor_tells_nothing(monkeypatch):
    monkeypatch.setattr("landscape_hooks.recording.watch.glance.SMALL", 0)
    model = nn.Linear(4, 3)
    glance = Glance(lambda: list(model.parameters()))
    hurried(model, glance)
    assert glance.same() is None


def test_a_state_that_is_loaded_by_assignment_is_no_change_if_it_is_the_same(path):
    """Other tensors stand in the model then, which hold what the recorded ones held."""
    model = deep(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = record(model, optimizer, path, every=100)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    recorder._glance.pass_by()
    now = copy.deepcopy(model.state_dict())
    model.load_state_dict(now)
    model.load_state_dict(now, assign=True)
    recorder.close()
    trajectory = Trajectory.open(path)
    assert trajectory.doubts == ()
    assert not trajectory.marks


def test_after_a_loading_the_next_step_is_looked_at(path):
    model = deep(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with record(model, optimizer, path, every=100) as recorder:
        recorder._glance.next = math.inf
        for n in range(3):
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            if n == 1:
                model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
                optimizer.param_groups[0]["params"] = list(model.parameters())
        assert recorder._glance.next < math.inf
    assert Trajectory.open(path).doubts == ()


def test_a_resumed_loop_is_known_to_edit_its_weights(path):
    """It goes on for one iteration, whose edit no further step follows."""
    model = deep(1)

    def iterations(count):
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            for p in model.parameters():
                p.data.clamp_(-0.3, 0.3)

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = record(model, optimizer, path, every=1)
    iterations(3)
    saved = recorder.state_dict()
    recorder.finish("The training ended with an exception")
    recorder = record(model, optimizer, path, every=1, if_exists="resume")
    recorder.load_state_dict(saved)
    iterations(1)
    recorder.close()
    assert Trajectory.open(path).doubts == ()
