"""Recording: the same training, the promised rows, in any loop."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Storage, Trajectory, record
from landscape_hooks.errors import LandscapeError, LayoutError, RecordingWarning, RunError
from landscape_hooks.trajectory.parameters import ParameterLayout


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def train(model, optimizer, steps, after=lambda step: None, start=0):
    """A plain loop; yields nothing, calls `after(step)` after each step with the live model."""
    generator = torch.Generator().manual_seed(100 + start)
    for step in range(start + 1, start + steps + 1):
        x = torch.randn(16, 5, generator=generator)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        after(step)


def _numpy_state():
    return np.random.get_state()[1]  # noqa: NPY002


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


@pytest.mark.parametrize("options", [{"every": 3}, {"keep": 6}, {"schedule": [2, 5]}])
def test_rows_are_the_iterates(tmp_path, options):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    iterates = {0: flat(model)}
    with record(model, optimizer, tmp_path / "run.zarr", **options):
        train(model, optimizer, 20, lambda step: iterates.update({step: flat(model)}))
    t = Trajectory.open(tmp_path / "run.zarr")
    expected = {"every": [*range(0, 20, 3), 20], "keep": [0, 8, 16, 20], "schedule": [0, 2, 5, 20]}
    assert t.steps.tolist() == expected[next(iter(options))]
    for snapshot in t:
        np.testing.assert_array_equal(snapshot.weights, iterates[snapshot.step].numpy())


def test_training_is_the_same_bit_for_bit(tmp_path):
    def run(recorded):
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if recorded:
            record(model, optimizer, tmp_path / "run.zarr", every=2)
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        train(model, optimizer, 15)
        return model.state_dict(), optimizer.state_dict()["state"], torch.get_rng_state(), _numpy_state()

    with_it, without = run(True), run(False)
    for name in without[0]:
        assert torch.equal(with_it[0][name], without[0][name]), name
    for i, state in without[1].items():
        for key, value in state.items():
            assert torch.equal(with_it[1][i][key], value)
    assert torch.equal(with_it[2], without[2])
    np.testing.assert_array_equal(with_it[3], without[3])


def test_buffers_epoch_loss_and_rates_are_recorded(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[4].parameters()}], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    buffers = {}

    def after(step):
        recorder.log(loss=torch.tensor(step / 8), epoch=step // 2)
        scheduler.step()
        buffers[step] = model[1].running_mean.clone()

    recorder = record(model, optimizer, tmp_path / "run.zarr", every=1)
    train(model, optimizer, 4, after)
    recorder.close()
    t = Trajectory.open(tmp_path / "run.zarr")
    np.testing.assert_allclose(t.learning_rates[1:], [[0.2, 0.1], [0.1, 0.05], [0.05, 0.025], [0.025, 0.0125]])
    np.testing.assert_array_equal(t.losses, [np.nan, np.nan, 1 / 8, 2 / 8, 3 / 8])
    np.testing.assert_array_equal(t.epochs, [np.nan, np.nan, 0, 1, 1])
    views = t.buffer_layout.views(torch.from_numpy(t[3].buffers))
    assert torch.equal(views["1.running_mean"], buffers[3])
    assert (np.diff(t.wall_times) >= 0).all()


def test_without_assignment_and_without_close_nothing_is_lost(interpreters, tmp_path):
    script = f"""
        import torch
        from torch import nn
        from landscape_hooks import record
        model = nn.Linear(40, 30)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        record(model, optimizer, {str(tmp_path / "run.zarr")!r}, every=2)
        for step in range(7):
            optimizer.zero_grad()
            model(torch.randn(4, 40)).square().mean().backward()
            optimizer.step()
        torch.save(model.state_dict(), {str(tmp_path / "end.pt")!r})
    """
    done = interpreters.run(script, whole=True)
    assert done.returncode == 0
    assert {line.partition(" ")[0] for line in done.stderr.splitlines()} == {"landscape-hooks:"}
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == [0, 2, 4, 6, 7]
    end = nn.Linear(40, 30)
    end.load_state_dict(torch.load(tmp_path / "end.pt"))
    np.testing.assert_array_equal(t[-1].weights, flat(end).numpy())


def test_a_training_whose_optimizer_goes_as_the_script_ends_loses_nothing(interpreters, tmp_path):
    script = f"""
        import torch
        from landscape_hooks import record
        def main():
            model = torch.nn.Linear(40, 30)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            record(model, optimizer, {str(tmp_path / "run.zarr")!r})
            for step in range(50):
                optimizer.zero_grad()
                model(torch.randn(4, 40)).square().mean().backward()
                optimizer.step()
        main()
    """
    done = interpreters.run(script, whole=True)
    assert done.returncode == 0
    assert {line.partition(" ")[0] for line in done.stderr.splitlines()} == {"landscape-hooks:"}
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 51


def test_an_optimizer_that_is_collected_ends_its_recording(tmp_path):
    import time

    def training():
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        record(model, optimizer, tmp_path / "run.zarr", every=10)
        train(model, optimizer, 3)

    training()
    for _ in range(100):
        if Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 3]:
            break
        time.sleep(0.05)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 3]


def test_what_the_loop_does_to_the_weights_after_a_step_is_in_its_row(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    iterates = []

    def after(step):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + step / 100)
        iterates.append(flat(model))

    with record(model, optimizer, tmp_path / "run.zarr", every=1):
        train(model, optimizer, 6, after)
    for snapshot, expected in zip(Trajectory.open(tmp_path / "run.zarr")[1:], iterates, strict=True):
        np.testing.assert_array_equal(snapshot.weights, expected.numpy())


def test_steps_said_by_the_loop(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, None, tmp_path / "run.zarr", every=2) as recorder:
        train(model, optimizer, 5, lambda step: recorder.step())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 2, 4, 5]
    with record(model, optimizer, tmp_path / "hooked.zarr") as recorder, pytest.raises(LandscapeError, match="twice"):
        recorder.step()


def test_the_same_script_twice_is_a_clear_error_and_overwrite_starts_anew(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.zarr"
    record(model, optimizer, path, every=1).close()
    with pytest.raises(RunError, match=r"a run at .* already.*resume.*overwrite"):
        record(model, optimizer, path)
    with record(model, optimizer, path, every=1, if_exists="overwrite"):
        train(model, optimizer, 2)
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2]


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear to me")
    model = make_model()
    for choice in ("error", "resume", "overwrite"):
        with pytest.raises(RunError, match="not a run"):
            record(model, None, tmp_path / "thesis", if_exists=choice)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "dear to me"


@pytest.mark.everyday(6)
@pytest.mark.parametrize("options", [{"every": 3}, {"keep": 6}, {"every": 1}])
@pytest.mark.parametrize("at", [0, 1, 6, 10, 13, 20])
def test_resumed_equals_uninterrupted(tmp_path, options, at):
    def session(path, start, steps, checkpoint=None, **more):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(11)
        if checkpoint:
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            torch.set_rng_state(checkpoint["rng"])
        saved = {}
        data = torch.randn(40, 16, 5, generator=torch.Generator().manual_seed(5))
        recorder = record(model, optimizer, path, **options, **more)

        def save(step):
            saved[step] = {
                "model": {k: v.clone() for k, v in model.state_dict().items()},
                "optimizer": __import__("copy").deepcopy(optimizer.state_dict()),
                "rng": torch.get_rng_state(),
                "recorder": recorder.state_dict(),
            }

        if checkpoint:
            recorder.load_state_dict(checkpoint["recorder"])
        if start == at:
            save(at)
        for step in range(start + 1, start + steps + 1):
            optimizer.zero_grad()
            loss = model(data[step]).square().mean()
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss, epoch=step // 4)
            if step == at:
                save(step)
        recorder.close()
        return saved.get(at)

    session(tmp_path / "whole.zarr", 0, 30)
    checkpoint = session(tmp_path / "cut.zarr", 0, 20)
    session(tmp_path / "cut.zarr", at, 30 - at, checkpoint, if_exists="resume")
    whole, cut = Trajectory.open(tmp_path / "whole.zarr"), Trajectory.open(tmp_path / "cut.zarr")
    np.testing.assert_array_equal(cut.steps, whole.steps)
    np.testing.assert_array_equal(cut.block(), whole.block())
    np.testing.assert_array_equal(cut.buffers(), whole.buffers())
    np.testing.assert_array_equal(cut.losses, whole.losses)
    np.testing.assert_array_equal(cut.epochs, whole.epochs)
    np.testing.assert_array_equal(cut.learning_rates, whole.learning_rates)


def test_resume_knows_the_step_by_the_weights_or_asks_for_it(tmp_path):
    path = tmp_path / "run.zarr"
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, every=5):
        train(model, optimizer, 10)
    with record(model, optimizer, path, every=5, if_exists="resume"):
        train(model, optimizer, 10, start=10)
    assert Trajectory.open(path).steps.tolist() == [0, 5, 10, 15, 20]
    other = make_model()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    recorder = record(other, optimizer, path, every=5, if_exists="resume", storage=Storage(on_error="raise"))
    with pytest.raises(RunError, match=r"step to go on from is not known.*Pass step="):
        train(other, optimizer, 1)
    recorder.close()
    assert Trajectory.open(path).steps.tolist() == [0, 5, 10, 15, 20]
    with record(other, optimizer, path, every=5, if_exists="resume", step=12):
        train(other, optimizer, 4)
    assert Trajectory.open(path).steps.tolist() == [0, 5, 10, 15, 16]


def test_resuming_with_another_model_or_schedule_is_refused(tmp_path):
    path = tmp_path / "run.zarr"
    record(make_model(), None, path, every=1).close()
    other = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 2))
    with pytest.raises(LayoutError, match=r"'0\.weight' has shape \[9, 5\]"):
        record(other, None, path, every=1, if_exists="resume")
    with pytest.raises(RunError, match="same schedule"):
        record(make_model(), None, path, if_exists="resume")


def test_arguments_that_contradict_each_other(tmp_path):
    model = make_model()
    for options in (
        {"every": 1, "schedule": [2]},
        {"if_exists": "append"},
        {"data": [torch.zeros(2)]},
        {"criterion": nn.MSELoss()},
    ):
        with pytest.raises(LandscapeError):
            record(model, None, tmp_path / "run.zarr", **options)
        assert not any(tmp_path.glob("run.zarr/*"))
    for options in ({"on_error": "ignore"}, {"queue": "grow"}, {"dtype": "int8"}, {"compress": "zip"}, {"checksum": 2}):
        with pytest.raises(LandscapeError, match=r"Found .*one of"):
            Storage(**options)
    with pytest.raises(LandscapeError, match=r"takes no step hooks.*optimizer=None"):
        record(model, object(), tmp_path / "run.zarr")


def test_manifests_are_in_the_run(tmp_path):
    model = make_model()
    record(model, None, tmp_path / "run.zarr").close()
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.layout == ParameterLayout.of(model)
    assert t.buffer_layout == ParameterLayout.of_buffers(model)
    assert t.label == "run"


def test_the_objective_travels_with_the_run(tmp_path):
    from landscape_hooks import Objective

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(12, 5), torch.randint(0, 2, (12,))
    criterion = nn.CrossEntropyLoss()
    with record(model, optimizer, tmp_path / "run.zarr", every=2, criterion=criterion, data=[(x, y)], samples=10):
        assert model.training
        train(model, optimizer, 4)
    t = Trajectory.open(tmp_path / "run.zarr")
    objective = Objective.load(t.root)
    assert objective.samples == 12  # a batch stays whole, though 10 were asked for
    found = objective.evaluate(torch.from_numpy(t[-1].weights), torch.from_numpy(t[-1].buffers), statistics="running")
    model.eval()
    torch.testing.assert_close(torch.as_tensor(found.mean).float(), criterion(model(x), y).detach())


def test_a_loss_that_cannot_be_captured_is_one_warning_with_the_way_out(tmp_path):
    class Unexportable(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float(self.weight.detach().numpy().sum())

    model = Unexportable(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(torch.randn(8, 3), torch.randint(0, 2, (8,)))]
    with pytest.warns(RecordingWarning, match="analyze RUN --objective module:function") as caught:
        recorder = record(model, optimizer, tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(), data=data)
    assert len(caught) == 1
    recorder.close()
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 1


def test_data_that_is_wrong_is_an_error_and_leaves_nothing_behind(tmp_path):
    model = make_model()
    with pytest.raises(LandscapeError, match="empty"):
        record(model, None, tmp_path / "run.zarr", criterion=nn.CrossEntropyLoss(), data=[])
    record(model, None, tmp_path / "run.zarr").close()
