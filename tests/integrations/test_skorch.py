"""skorch for real: fit, partial_fit, clone and pickle, checkpoints, exceptions, Ctrl-C."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, analyze
from landscape_hooks.errors import RunError

skorch = pytest.importorskip("skorch")

import sklearn  # noqa: E402
from skorch.callbacks import Checkpoint, LoadInitState, LRScheduler, TrainEndCheckpoint  # noqa: E402

from landscape_hooks.integrations.skorch import LandscapeCallback  # noqa: E402

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))

    def forward(self, inputs):
        return self.net(inputs).softmax(dim=-1)


def digits():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(88, 8, generator=generator)
    return inputs.numpy(), inputs[:, :3].argmax(dim=1).numpy()


def make_net(*callbacks, kind=skorch.NeuralNetClassifier, **options):
    torch.manual_seed(0)
    options = {"lr": 0.1, "max_epochs": 2, "batch_size": 10, "verbose": 0, **options}
    return kind(Module, callbacks=list(callbacks), **options)


def test_one_line_records_a_fit_and_finds_the_loss(tmp_path):
    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=3, step_every="batch")
    net = make_net(schedule, LandscapeCallback(tmp_path / "run.zarr")).fit(*digits())
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))  # 70 of 88 rows are for training
    assert trajectory.epochs.tolist() == [0] + [1] * 7 + [2] * 7
    own = [batch["train_loss"] for epoch in net.history for batch in epoch["batches"] if "train_loss" in batch]
    np.testing.assert_allclose(trajectory.losses[1:], own, rtol=1e-6)
    np.testing.assert_allclose(trajectory.learning_rates[1:, 0], [0.1 * 0.1 ** (i // 3) for i in range(14)])
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.loss[1, 1] == pytest.approx(net.history[-1, "valid_loss"], rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(net.history[-1, "valid_loss"], rel=1e-5)


class Accumulating(skorch.NeuralNetClassifier):
    """Gradient accumulation as skorch's documentation has it, with the last part of an epoch stepped, too."""

    def __init__(self, *args, every=3, **kwargs):
        super().__init__(*args, **kwargs)
        self.every = every

    def train_step(self, batch, **fit_params):
        seen = sum("train_loss" in row for row in self.history[-1, "batches", :]) if self.history[-1]["batches"] else 0
        if seen % self.every == 0:
            self.optimizer_.zero_grad()
        step = self.train_step_single(batch, **fit_params)
        if (seen + 1) % self.every == 0 or seen + 1 == 7:
            self.optimizer_.step()
        return step


def test_accumulation_records_optimizer_steps_with_the_last_partial_one(tmp_path):
    net = make_net(LandscapeCallback(tmp_path / "run.zarr"), kind=Accumulating).fit(*digits())
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(7))
    own = [batch["train_loss"] for epoch in net.history for batch in epoch["batches"] if "train_loss" in batch]
    np.testing.assert_allclose(
        trajectory.losses[1:], [part.mean() for part in np.split(np.array(own), [3, 6, 7, 10, 13])], rtol=1e-5
    )


def test_partial_fit_goes_on_with_the_run(tmp_path):
    net = make_net(LandscapeCallback(tmp_path / "run.zarr"))
    net.fit(*digits()).partial_fit(*digits())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(29))
    with pytest.raises(RunError, match="already"):
        net.fit(*digits())  # anew: that would be another run in the same place


def test_clone_pickle_and_parameters(tmp_path):
    callback = LandscapeCallback(tmp_path / "run.zarr", every=2)
    net = make_net(callback)
    assert sklearn.clone(net).get_params()["callbacks"][0].get_params() == callback.get_params()
    net.fit(*digits())
    again = pickle.loads(pickle.dumps(net))
    again.partial_fit(*digits())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(0, 29, 2))
    net.set_params(callbacks__LandscapeCallback__every=5)
    assert callback.every == 5


def test_resuming_from_a_checkpoint_has_no_duplicates_and_no_gaps(tmp_path):
    def callbacks(load):
        checkpoint = Checkpoint(dirname=str(tmp_path / "checkpoint"), monitor=None)
        return [*([LoadInitState(checkpoint)] if load else []), checkpoint,
                LandscapeCallback(tmp_path / "run.zarr", every=2)]  # fmt: skip

    make_net(*callbacks(False), max_epochs=3).fit(*digits())
    before = Trajectory.open(tmp_path / "run.zarr")
    net = make_net(*callbacks(True), max_epochs=1).fit(*digits())
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(0, 29, 2))
    np.testing.assert_array_equal(trajectory.block(slice(0, 10)), before.block(slice(0, 10)))
    assert len(net.history) == 4


class Stop(Exception):
    pass


class StopAt(skorch.callbacks.Callback):
    def __init__(self, error):
        self.error = error
        self.count_ = 0

    def on_batch_end(self, net, training=None, **kwargs):
        self.count_ += bool(training)
        if self.count_ == 9:
            raise self.error


def test_what_was_recorded_survives_an_exception(tmp_path):
    net = make_net(LandscapeCallback(tmp_path / "run.zarr", every=4), StopAt(Stop("mine")))
    with pytest.raises(Stop):
        net.fit(*digits())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]
    assert "fit_loop" not in net.__dict__


def test_what_was_recorded_survives_control_c(tmp_path):
    make_net(LandscapeCallback(tmp_path / "run.zarr", every=4), StopAt(KeyboardInterrupt())).fit(*digits())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_training_is_bit_identical_with_and_without(tmp_path):
    nets = [make_net().fit(*digits()), make_net(LandscapeCallback(tmp_path / "run.zarr")).fit(*digits())]
    finals = [torch.cat([t.flatten().float() for t in net.module_.state_dict().values()]) for net in nets]
    assert torch.equal(*finals)


def test_without_a_validation_split_the_training_data_is_drawn(tmp_path):
    net = make_net(
        LandscapeCallback(tmp_path / "run.zarr"), TrainEndCheckpoint(dirname=str(tmp_path)), train_split=None
    )
    net.fit(*digits())
    net.module_.eval()
    inputs, targets = map(torch.as_tensor, digits())
    own = nn.functional.nll_loss(net.module_(inputs).log(), targets).item()
    assert analyze(tmp_path / "run.zarr", **ORIGIN).loss[1, 1] == pytest.approx(own, rel=1e-4)


def test_the_example_of_the_docstring_runs(run_example):
    run_example(
        LandscapeCallback,
        NeuralNetClassifier=lambda module, **options: skorch.NeuralNetClassifier(module, verbose=0, **options),
        LandscapeCallback=LandscapeCallback,
        Module=Module,
        X=digits()[0],
        y=digits()[1],
    )
    assert len(Trajectory.open("runs/skorch.zarr")) == 3
