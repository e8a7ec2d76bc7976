"""fastai for real: fits in a row, accumulation, both kinds of optimizer, exceptions, Ctrl-C, best weights."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, analyze

pytest.importorskip("fastai")

from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import lr_find  # noqa: F401
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam, OptimWrapper

from landscape_hooks.integrations.fastai import LandscapeCallback

ORIGIN = {"size": 3, "extent": (-1, 1, -1, 1), "batch_norm": "fixed", "progress": False}


class Watch(Callback):
    order = 90

    def __init__(self):
        self.seen, self.weights = [], []

    def after_step(self):
        self.seen.append((self.learn.loss.item(), self.learn.opt.hypers[-1]["lr"]))
        self.weights.append(torch.cat([p.detach().flatten() for p in self.learn.model.parameters()]).numpy())


def torch_sgd(params, lr, **kwargs):
    return OptimWrapper(params, torch.optim.SGD, lr=lr)


def make_learner(path, *callbacks, opt_func=Adam, shuffle=True):
    import random

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(70, 8, generator=generator)
    rows = list(zip(inputs, inputs[:, :3].argmax(dim=1), strict=True))
    dls = DataLoaders(DataLoader(rows, bs=10, shuffle=shuffle), DataLoader(rows, bs=16))
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    learn = Learner(dls, model, CrossEntropyLossFlat(), opt_func=opt_func, path=path, cbs=list(callbacks))
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == "ProgressCallback"])
    return learn


@pytest.mark.parametrize("opt_func", [Adam, torch_sgd], ids=["fastai optimizer", "torch optimizer"])
def test_one_line_records_a_fit_and_finds_the_loss(opt_func, tmp_path):
    watch = Watch()
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), watch, opt_func=opt_func)
    learn.fit_one_cycle(2, 0.01)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(15))
    assert trajectory.epochs.tolist() == [0] * 8 + [1] * 7
    losses, rates = np.array(watch.seen).T
    np.testing.assert_allclose(trajectory.losses[1:], losses, rtol=1e-6)
    np.testing.assert_allclose(trajectory.learning_rates[1:, -1], rates, rtol=1e-6)
    np.testing.assert_array_equal(trajectory.block()[1:], watch.weights)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    own = float(learn.validate()[0])
    assert surface.loss[1, 1] == pytest.approx(own, rel=1e-5)
    assert surface.path_loss[-1] == pytest.approx(own, rel=1e-5)


def test_accumulation_records_optimizer_steps(tmp_path):
    watch = Watch()
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr"), watch, GradientAccumulation(30))
    learn.fit(2)
    trajectory = Trajectory.open(tmp_path / "run.zarr")
    assert trajectory.steps.tolist() == list(range(1 + len(watch.weights)))
    assert len(watch.weights) == 4
    np.testing.assert_array_equal(trajectory.block()[1:], watch.weights)


def test_several_fits_are_one_run(tmp_path):
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr"))
    learn.fine_tune(1, freeze_epochs=1)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(15))
    learn.get_preds()
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == list(range(15))


def test_a_new_process_goes_on_from_saved_weights(tmp_path):
    make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=3), SaveModelCallback(every_epoch=True)).fit(
        3
    )
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=3, step=14))
    learn.load("model_1")
    learn.fit(2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [*range(0, 28, 3), 28]


class Stop(Exception):
    pass


class StopAt(Callback):
    order = 95

    def __init__(self, error):
        self.error, self.count = error, 0

    def after_step(self):
        self.count += 1
        if self.count == 9:
            raise self.error


@pytest.mark.parametrize("error", [Stop("mine"), KeyboardInterrupt()], ids=["exception", "control-c"])
def test_what_was_recorded_survives_an_exception(error, tmp_path):
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=4), StopAt(error))
    with pytest.raises(type(error)):
        learn.fit(2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]
    assert "_do_epoch" not in learn.__dict__


def test_a_cancelled_fit_is_complete(tmp_path):
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=4), StopAt(CancelFitException()))
    learn.fit(2)
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 4, 8, 9]


def test_the_best_model_is_not_taken_for_the_last_iterate(tmp_path):
    watch = Watch()
    callbacks = [LandscapeCallback(tmp_path / "run.zarr", every=100), watch, SaveModelCallback()]
    learn = make_learner(tmp_path, *callbacks)
    learn.fit(2, 2.0)
    np.testing.assert_array_equal(Trajectory.open(tmp_path / "run.zarr")[-1].weights, watch.weights[-1])


def test_the_learning_rate_finder_is_not_recorded(tmp_path):
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr"))
    learn.lr_find(num_it=5, show_plot=False)
    assert not (tmp_path / "run.zarr").exists()


def test_training_is_bit_identical_with_and_without(tmp_path):
    finals = []
    for callbacks in ([], [LandscapeCallback(tmp_path / "run.zarr")]):
        learn = make_learner(tmp_path, *callbacks)
        learn.fit(2)
        finals.append(torch.cat([t.flatten().float() for t in learn.model.state_dict().values()]))
    assert torch.equal(*finals)


def test_the_example_of_the_docstring_runs(run_example, tmp_path):
    learn = make_learner(tmp_path)

    def quiet(*args, **options):
        made = Learner(*args, **options)
        made.remove_cbs([cb for cb in made.cbs if type(cb).__name__ == "ProgressCallback"])
        return made

    run_example(
        LandscapeCallback,
        Learner=quiet,
        LandscapeCallback=LandscapeCallback,
        dls=learn.dls,
        model=learn.model,
        loss_func=CrossEntropyLossFlat(),
    )
    assert len(Trajectory.open("runs/fastai.zarr")) == 15


class Iterates(Callback):
    order = 90

    def __init__(self):
        self.weights = []

    def after_step(self):
        self.weights.append({name: p.detach().clone().numpy() for name, p in self.learn.model.named_parameters()})


@pytest.mark.parametrize("opt_func", [Adam, torch_sgd], ids=["fastai optimizer", "torch optimizer"])
def test_gradual_unfreezing_is_recorded_from_where_it_begins(opt_func, tmp_path):
    """A frozen body under a head, then all of it: what began to move later has the stored value before."""
    watch = Iterates()
    learn = make_learner(tmp_path, LandscapeCallback(tmp_path / "run.zarr", every=1), watch, opt_func=opt_func)
    learn.splitter = lambda model: [list(model[0].parameters()), list(model[1:].parameters())]
    start = {name: p.detach().clone().numpy() for name, p in learn.model.named_parameters()}
    learn.freeze()
    learn.fit(1, 0.01)
    frozen = Trajectory.open(tmp_path / "run.zarr")
    assert set(frozen.fixed) == {"0.weight", "0.bias"}
    learn.unfreeze()
    learn.fit(1, slice(0.001, 0.01))
    t = Trajectory.open(tmp_path / "run.zarr")
    assert t.steps.tolist() == list(range(15))
    assert "0.weight" in t.layout.names[4:]  # the bias before a BatchNorm has no gradient, and may stand still
    for snapshot, expected in zip(t, [start, *watch.weights], strict=True):
        found = {e.name: snapshot.weights[e.slice].reshape(e.shape) for e in t.layout} | dict(t.fixed)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, name)
    surface = analyze(tmp_path / "run.zarr", **ORIGIN)
    assert surface.path_loss[-1] == pytest.approx(float(learn.validate()[0]), rel=1e-5)
    assert t.doubts == ()
