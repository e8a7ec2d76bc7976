"""What the recorder takes from trainers: their count of steps, what they say late, weights they change at the end."""

import numpy as np
import torch
from torch import nn

from landscape_hooks import Objective, Trajectory, record


def setup():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def test_a_counter_numbers_the_snapshots_and_counts_the_steps_of_every_optimizer(tmp_path):
    first, second = setup(), setup()
    model = nn.ModuleList([first[0], second[0]])
    count = iter([1, 2, 5, 6])  # the trainer counts two steps that mixed precision skipped
    with record(model, [first[1], second[1]], tmp_path / "run.zarr", every=1, counter=lambda: next(count)):
        for pair in (first, second, first, second):
            step(*pair)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 1, 2, 5, 6]


def test_a_loss_said_after_its_step_completes_that_snapshot_staged_or_written(tmp_path):
    model, optimizer = setup()
    with record(model, optimizer, tmp_path / "run.zarr", every=2) as recorder:
        for number in range(1, 7):
            step(model, optimizer)
            if number == 4:
                recorder.flush()  # the row is in the store already
            recorder.log(loss=number / 10, epoch=number, step=number)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    np.testing.assert_array_equal(trajectory.losses, [np.nan, 0.2, 0.4, 0.6])
    np.testing.assert_array_equal(trajectory.epochs, [np.nan, 2, 4, 6])


def test_held_weights_are_the_last_snapshot_unless_a_step_follows(tmp_path):
    for steps_after in (0, 1):
        model, optimizer = setup()
        recorder = record(model, optimizer, tmp_path / f"{steps_after}.zarr", every=100)
        step(model, optimizer)
        recorder.hold()
        expected = torch.cat([p.detach().flatten() for p in model.parameters()])
        for _ in range(steps_after):
            step(model, optimizer)
            expected = torch.cat([p.detach().flatten() for p in model.parameters()])
        if not steps_after:
            with torch.no_grad():
                model.weight.zero_()
        recorder.close()
        last = Trajectory.open(tmp_path / f"{steps_after}.zarr")[-1]
        assert last.step == 1 + steps_after
        np.testing.assert_array_equal(last.weights, expected)


def test_learning_rates_may_be_said_where_there_is_no_torch_optimizer(tmp_path):
    model, _ = setup()
    with record(model, None, tmp_path / "run.zarr", every=1) as recorder:
        for rate in (0.1, 0.2):
            recorder.log(learning_rate=[rate, 10 * rate])
            recorder.step()
    rates = Trajectory.open(tmp_path / "run.zarr").learning_rates
    np.testing.assert_allclose(rates[1:], [[0.1, 1.0], [0.2, 2.0]])


def test_a_loss_may_be_captured_late_in_place_of_another(tmp_path):
    model, optimizer = setup()
    inputs, targets = torch.ones(4, 3), torch.zeros(4, 2)
    recorder = record(model, optimizer, tmp_path / "run.zarr", criterion=nn.MSELoss(), data=(inputs, targets))
    step(model, optimizer)
    recorder.objective(criterion=nn.L1Loss(), data=(2 * inputs, targets))
    recorder.close()
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    loss = Objective.load(trajectory.root).evaluate(torch.tensor(trajectory[-1].weights), torch.zeros(0))
    assert np.isclose(loss.mean, model(2 * inputs).abs().mean().item())
