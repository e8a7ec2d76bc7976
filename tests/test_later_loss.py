"""The loss of a run that is stored later: by a call, from a function at the end, from the training's own batches."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, ObjectiveError, RecordingWarning, RunError
from landscape_hooks.objective.objective import Objective

F = nn.functional
X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def setup(*layers):
    torch.manual_seed(0)
    model = nn.Sequential(*layers) if layers else nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), 0.1)


def train(model, optimizer, criterion, batches=BATCHES, steps=1):
    for _ in range(steps):
        for inputs, targets in batches:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()


def losses(path, places=(0, -1)):
    """The stored loss at some snapshots."""
    trajectory = Trajectory.open(path)
    stored = Objective.load(trajectory.root)
    return [
        stored.evaluate(torch.tensor(trajectory[k].weights), torch.tensor(trajectory[k].buffers)).mean for k in places
    ]


def by_hand(path, value, model, places=(0, -1)):
    """`value(model)` at some snapshots."""
    trajectory, model, found = Trajectory.open(path), copy.deepcopy(model).eval(), []
    for k in places:
        nn.utils.vector_to_parameters(torch.tensor(trajectory[k].weights), model.parameters())
        with torch.no_grad():
            found.append(float(value(model)))
    return found


# -- by a call ----------------------------------------------------------------------------------------------------
def test_a_loss_may_be_given_in_the_middle_of_training_and_replaced(path):
    model, optimizer = setup()
    criterion = nn.CrossEntropyLoss()
    with record(model, optimizer, path, every=1, criterion=nn.MultiMarginLoss(), data=BATCHES) as recorder:
        train(model, optimizer, criterion)
        model.train()
        before = torch.get_rng_state()
        recorder.objective(criterion, data=BATCHES[:1])
        assert torch.equal(before, torch.get_rng_state())
        assert model.training
        train(model, optimizer, criterion)
    np.testing.assert_allclose(losses(path), by_hand(path, lambda m: criterion(m(X[:16]), Y[:16]), model), rtol=1e-5)
    assert describe(path)["closing"]["state"] == "checked"


def test_a_loss_may_be_given_after_the_last_step_and_on_a_resumed_run(path):
    model, optimizer = setup()
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer, nn.CrossEntropyLoss())
    recorder.close()
    recorder = record(model, optimizer, path, every=1, if_exists="resume")
    recorder.objective(objective=lambda model, batch: (model(batch) ** 2).mean(), data=X)
    recorder.close()
    np.testing.assert_allclose(losses(path), by_hand(path, lambda m: (m(X) ** 2).mean(), model), rtol=1e-5)


def test_a_loss_that_cannot_be_stored_is_a_warning_and_the_one_before_stays(path):
    model, optimizer = setup()
    recorder = record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=BATCHES)
    with pytest.warns(RecordingWarning, match="goes on with the one that was stored before.*--objective"):
        recorder.objective(criterion=nn.CrossEntropyLoss(), data=(X, Y[:3]))
    recorder.close()
    np.testing.assert_allclose(losses(path), by_hand(path, lambda m: F.cross_entropy(m(X), Y), model), rtol=1e-5)
    assert describe(path)["closing"]["state"] == "checked"


def test_arguments_that_cannot_be_and_a_closed_recording_are_errors(path):
    model, optimizer = setup()
    recorder = record(model, optimizer, path)
    with pytest.raises(LandscapeError, match="without data="):
        recorder.objective(nn.MSELoss(), data=None)
    with pytest.raises(LandscapeError, match="without criterion"):
        recorder.objective(data=BATCHES)
    recorder.close()
    with pytest.raises(RunError, match=r"closed.*analyze\(\.\.\., objective="):
        recorder.objective(nn.MSELoss(), data=BATCHES)


# -- by a function at the end -----------------------------------------------------------------------------------------
def test_a_function_is_called_at_the_end_and_leaves_no_trace(path, capsys):
    model, optimizer = setup(nn.Linear(4, 3), nn.BatchNorm1d(3))
    calls = []

    def data():
        torch.randn(5)
        with torch.no_grad():
            model(X)  # a rollout, which moves the running statistics
        calls.append(len(Trajectory.open(path)))
        yield from BATCHES

    with record(model, optimizer, path, every=1, criterion=nn.CrossEntropyLoss(), data=data):
        assert "stored when the recording ends" in capsys.readouterr().err
        train(model, optimizer, nn.CrossEntropyLoss())
        assert not calls
        assert "stored when the recording ends" in description_text(describe(path))
        before = torch.get_rng_state()
    assert calls == [3]
    assert torch.equal(before, torch.get_rng_state())
    assert "data() is called" in capsys.readouterr().err
    assert describe(path)["closing"]["state"] == "checked"
    assert not describe(path)["doubts"]
    assert Objective.load(Trajectory.open(path).root).probe.samples == 24


def test_a_function_of_a_run_that_has_its_loss_is_not_called(path):
    model, optimizer = setup()
    record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=BATCHES).close()
    with record(model, optimizer, path, if_exists="resume", criterion=nn.CrossEntropyLoss(), data=lambda: 1 / 0):
        pass


def test_a_function_that_raises_is_one_warning(path):
    model, optimizer = setup()
    recorder = record(model, optimizer, path, every=1, criterion=nn.CrossEntropyLoss(), data=lambda: 1 / 0)
    train(model, optimizer, nn.CrossEntropyLoss())
    with pytest.warns(RecordingWarning, match="ZeroDivisionError.*--objective") as found:
        recorder.close()
    assert len(found) == 1
    assert len(Trajectory.open(path)) == 3


def test_after_an_exception_a_function_is_not_called_and_the_run_says_so(path):
    model, optimizer = setup()
    warned = pytest.warns(RecordingWarning, match="ended with an exception.*not called.*--objective")
    recorder = record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=lambda: 1 / 0)
    with warned, pytest.raises(OSError, match="gone"), recorder:
        raise OSError("gone")
    assert "was not called" in description_text(describe(path))
    with pytest.raises(ObjectiveError, match="was not called"):
        Objective.load(Trajectory.open(path).root)


def test_a_model_that_nobody_holds_waits_for_its_loss(path):
    def session():
        model, optimizer = setup()
        train(model, optimizer, nn.CrossEntropyLoss())
        return record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=lambda: BATCHES)

    session().close()
    assert len(losses(path)) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda n: BATCHES, "without arguments"),
        (nn.Linear(4, 3), "module Linear as data="),
        ("validation", "'validation'"),
        (7, "int"),
    ],
)
def test_data_that_cannot_be_is_refused_before_anything_is_written(path, data, said):
    model, optimizer = setup()
    with pytest.raises(LandscapeError, match=said):
        record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=data)
    assert not path.exists()


def test_a_dataset_that_can_be_called_is_data(path):
    class Callable(torch.utils.data.TensorDataset):
        def __call__(self):
            raise AssertionError

    model, optimizer = setup()
    with record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=Callable(X, Y)):
        assert describe(path)["objective"]
