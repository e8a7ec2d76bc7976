"""Capturing a loss: the training is left alone whatever is met, and what the loss has beside the model is named."""

import copy
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import landscape_hooks as lh
from landscape_hooks.errors import DataError, LandscapeError, RecordingWarning
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.parameters import ParameterLayout

F = nn.functional
torch.manual_seed(5)
X, Y = torch.randn(16, 4), torch.randint(0, 3, (16,))


def layer():
    return nn.Linear(4, 3)


def ce(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def here(model):
    return ParameterLayout.of(model).flatten(model), ParameterLayout.of_buffers(model).flatten(model)


def told(tmp_path, model, *, data=(X, Y), **loss):
    """The warnings of record(), and the root of the run."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lh.record(model, optimizer, tmp_path / "run.zarr", data=[data], **loss).close()
    return [str(w.message) for w in caught if w.category is RecordingWarning], zarr.open_group(tmp_path / "run.zarr")


class Margin(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 3))

    def forward(self, output, target):
        return F.cross_entropy(output @ self.centres.T, target)


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale, self.heads = layer(), torch.ones(1, requires_grad=True), [nn.Linear(3, 3)]

    def forward(self, x):
        return self.heads[0](self.body(x) * self.scale)


class Task:
    def __init__(self):
        self.head = nn.Linear(3, 3)

    def loss(self, model, batch):
        return F.cross_entropy(self.head(model(batch[0])), batch[1])


HEAD = nn.Linear(3, 3)


def through_global(model, batch):
    return F.cross_entropy(HEAD(model(batch[0])), batch[1])


def through_closure():
    temperature, nets = torch.zeros(1, requires_grad=True), {"d": nn.Linear(3, 3)}
    return lambda m, b: F.cross_entropy(nets["d"](m(b[0])) * temperature.exp(), b[1])


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    ("model", "loss", "names"),
    [
        (layer, {"criterion": Margin()}, ["criterion.centres", "record([model, criterion], ...)"]),
        (layer, {"objective": through_global}, ["HEAD.weight", "record([model, HEAD], ...)"]),
        (layer, {"objective": through_closure()}, ["nets['d'].weight", "temperature"]),
        (layer, {"objective": Task().loss}, ["Task.head.weight"]),
        (Unregistered, {"objective": ce}, ["heads[0].weight", "scale", "nn.ModuleList"]),
    ],
    ids=["criterion", "global", "closure", "method", "unregistered"],
)
def test_parameters_that_the_loss_has_beside_the_model_are_named(tmp_path, model, loss, names):
    said, root = told(tmp_path, model(), **loss)
    assert len(said) == 1
    assert all(name in said[0] for name in names)
    assert root["objective"].attrs["complete"]
    objective = Objective.load(root)
    assert "not recorded" in objective.doubts(*here(model()))[0]


def frozen_teacher():
    teacher = layer().requires_grad_(False)
    return lambda m, b: F.kl_div(F.log_softmax(m(b[0]), 1), F.softmax(teacher(b[0]), 1), reduction="batchmean")


def detached_teacher():
    teacher = layer()
    return lambda m, b: F.mse_loss(m(b[0]), teacher(b[0]).detach())


@pytest.mark.parametrize("loss", [ce, frozen_teacher(), detached_teacher()])
def test_a_loss_without_parameters_that_are_trained_is_stored_silently(tmp_path, loss):
    said, root = told(tmp_path, layer(), objective=loss)
    assert not said
    assert root["objective"].attrs["complete"]


def decayed(model):
    return lambda m, b: ce(m, b) + sum(p.square().sum() for p in model.parameters())


class Penalty(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, output, target):
        return F.cross_entropy(output, target) + self.model.weight.square().sum()


@pytest.mark.parametrize("kind", [lambda m: {"objective": decayed(m)}, lambda m: {"criterion": Penalty(m)}])
def test_a_loss_that_reads_the_model_past_its_argument_follows_the_weights(tmp_path, kind):
    model = layer()
    said, root = told(tmp_path, model, **kind(model))
    assert not said
    other = copy.deepcopy(model)
    nn.init.ones_(other.weight)
    loss = kind(other)
    with torch.no_grad():
        expected = loss["objective"](other, (X, Y)) if "objective" in loss else loss["criterion"](other(X), Y)
    assert Objective.load(root).evaluate(*here(other)).mean == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_that_the_loss_reads_is_touched(tmp_path):
    other = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    centre, calls = torch.zeros(3), []

    def loss(model, batch):
        calls.append(random.random() + np.random.rand())  # noqa: NPY002
        output = other(model(batch[0]))
        centre.mul_(0.9).add_(output.detach().mean(0))
        return F.cross_entropy(output - centre, batch[1])

    before = copy.deepcopy(other.state_dict())
    model = layer()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    told(tmp_path, model, objective=loss)
    assert calls  # it was run
    assert other.training
    assert model.training
    assert not centre.any()
    assert all(p.grad is None for p in (*other.parameters(), *model.parameters()))
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


# -- models that are hard to copy ----------------------------------------------------------------------------
class Keeps(nn.Module):
    """Kept activations, a cache, a lock and a generator; a tensor with history and the others cannot be copied."""

    def __init__(self):
        super().__init__()
        self.body, self.cache, self.lock = layer(), {}, threading.Lock()
        self.numbers = (i for i in range(3))

    def forward(self, x):
        self.last = [self.body(x)]
        self.cache["last"] = (self.last[0] * 2,)
        return self.last[0]


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer())


@pytest.mark.parametrize("make", [Keeps, weight_normed, lambda: nn.utils.parametrizations.weight_norm(layer())])
def test_a_model_with_kept_activations_is_captured(tmp_path, make):
    model = make()
    model(X)  # it holds tensors with history now
    said, root = told(tmp_path, model, criterion=nn.CrossEntropyLoss())
    assert not said
    assert Objective.load(root).evaluate(*here(model)).mean == pytest.approx(ce(model, (X, Y)).item(), rel=1e-5)
    live = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=(X, Y))
    assert live.evaluate(*here(model)).mean == pytest.approx(ce(model, (X, Y)).item(), rel=1e-5)


# -- losses that cannot be stored ----------------------------------------------------------------------------
def residual(model, batch):
    x = batch[0].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope.sum(1) + model(x).sum(1)).square().mean()


def gradient_norm(model, batch):
    loss = ce(model, batch)
    slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    return loss + sum(slope.square().sum() for slope in slopes)


@pytest.mark.parametrize("loss", [residual, gradient_norm, lambda m, b: ce(m, b) + float(torch.is_grad_enabled())])
def test_a_loss_with_derivatives_is_stored(tmp_path, loss):
    model = layer()
    said, root = told(tmp_path, model, objective=loss)
    assert not said
    assert Objective.load(root).evaluate(*here(model)).mean == pytest.approx(loss(model, (X, Y)).item(), rel=1e-5)


WITH_A_WAY_OUT = {
    "random numbers of weights": lambda m, b: ce(m, b) + F.rrelu(m(b[0]), training=True).mean(),
    "a sparse softmax": lambda m, b: F.cross_entropy(
        m(torch.sparse.softmax(torch.eye(16).to_sparse(), 1) @ b[0]), b[1]
    ),
    "a branch": lambda m, b: ce(m, b) if m(b[0]).sum() > -1e9 else -ce(m, b),
}


@pytest.mark.parametrize("name", WITH_A_WAY_OUT)
def test_a_loss_that_cannot_be_stored_is_one_warning_whose_way_out_works(tmp_path, name):
    model, loss = layer(), WITH_A_WAY_OUT[name]
    said, root = told(tmp_path, model, objective=loss)
    assert len(said) == 1
    assert "--objective module:function" in said[0]
    assert "objective" not in root
    live = Objective.of(model, objective=loss, data=[(X, Y)])
    torch.manual_seed(0)  # as the live loss does before each batch
    assert live.evaluate(*here(model)).mean == pytest.approx(loss(model, (X, Y)).item(), rel=1e-5)


class InTraining(nn.Module):
    """As detectors: losses in training mode, predictions in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.body = layer()

    def forward(self, x, y=None):
        return {"loss": F.cross_entropy(self.body(x), y)} if self.training else [{"boxes": self.body(x)}]


def test_a_model_with_a_loss_in_training_mode_only_is_told_the_way(tmp_path):
    said, _ = told(tmp_path / "a", InTraining(), objective=lambda m, b: m(*b)["loss"])
    assert "training mode only" in said[0]
    assert "model.train()" in said[0]

    def loss(model, batch):
        model.train()
        return model(*batch)["loss"]

    model = InTraining()
    said, root = told(tmp_path / "b", model, objective=loss)
    assert not said
    assert Objective.load(root).evaluate(*here(model)).mean == pytest.approx(loss(model, (X, Y)).item(), rel=1e-5)


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.body, self.error = layer(), error

    def forward(self, x):
        raise self.error


class Panic(BaseException):
    """What extensions raise that do not derive their errors from Exception."""


class Itself(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = layer()

    def forward(self, x):
        return self.forward(x)


def stops():
    yield X, Y
    raise OSError("the disk is gone")


TROUBLES = {
    "an error": (lambda: Raises(RuntimeError("mine")), "mine"),
    "memory": (lambda: Raises(MemoryError()), "memory"),
    "memory of a GPU": (lambda: Raises(torch.OutOfMemoryError("CUDA out of memory")), "does not fit into memory"),
    "no Exception": (lambda: Raises(Panic("panic")), "panic"),
    "recursion": (Itself, "RecursionError"),
    "another shape": (lambda: nn.Linear(9, 3), "go together"),
    "TorchScript": (lambda: torch.jit.script(layer()), "torch.export"),
}


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_model_raises_is_one_warning_and_recording_goes_on(tmp_path, name):
    make, word = TROUBLES[name]
    said, _ = told(tmp_path, make(), objective=ce)
    assert len(said) == 1
    assert word in said[0]
    assert len(lh.Trajectory.open(tmp_path / "run.zarr")) == 1


@pytest.mark.parametrize(
    "loss",
    [
        {"objective": lambda m, b: {"loss": ce(m, b)}},
        {"objective": lambda m, b: m(b[0])},
        {"objective": ce, "data": stops()},
    ],
)
def test_what_losses_and_data_raise_is_one_warning(tmp_path, loss):
    model, given = layer(), {"data": [(X, Y)], **loss}
    with pytest.warns(RecordingWarning, match="recording goes on") as caught:
        lh.record(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path / "run.zarr", **given).close()
    assert len(caught) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"data": (X, Y)},
        {"objective": ce},
        {"objective": ce, "criterion": ce, "data": (X, Y)},
        {"objective": 3, "data": (X, Y)},
        {"objective": ce, "data": 3},
        {"objective": ce, "data": "name"},
        {"objective": ce, "data": (X, Y), "samples": 0},
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments):
    model = layer()
    with pytest.raises(LandscapeError):
        lh.record(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path / "run.zarr", **arguments)
    assert not (tmp_path / "run.zarr").exists()


# -- samples that depend on each other -----------------------------------------------------------------------
EDGES = torch.randint(0, 16, (2, 40))


def over_the_graph(model, batch):
    x, edges, y, train = batch
    mixed = model(x) + torch.zeros(len(x), 3).index_add(0, edges[1], model(x)[edges[0]])
    return F.cross_entropy(mixed[train], y[train])


def test_a_graph_is_captured_as_one_batch(tmp_path):
    model, batch = layer(), (X, EDGES, Y, torch.arange(16) % 2 == 0)
    said, root = told(tmp_path, model, data=batch, objective=over_the_graph)
    assert not said
    assert Objective.load(root).evaluate(*here(model)).mean == pytest.approx(over_the_graph(model, batch).item())


def test_losses_of_samples_that_depend_on_each_other_are_not_taken_apart():
    def nodes(model, batch):
        mixed = torch.zeros(len(batch[0]), 3).index_add(0, EDGES[1], model(batch[0])[EDGES[0]])
        return F.cross_entropy(mixed, batch[1], reduction="none")

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = layer()

        def forward(self, x):
            return self.body(x) - self.body(x).mean(0)

    assert not Objective.of(layer(), objective=nodes, data=[(X, Y)]).free
    model, root = Centred(), zarr.group(zarr.storage.MemoryStore())
    capture(root, model, criterion=nn.CrossEntropyLoss(), data=[(X[:10], Y[:10]), (X[10:], Y[10:])])
    assert not root["objective"].attrs["independent"]


def test_a_wrong_batch_is_said_to_be_one():
    with pytest.raises(DataError, match="go together"):
        capture(zarr.group(zarr.storage.MemoryStore()), layer(), objective=ce, data=(torch.zeros(4, 9), Y[:4]))


# -- buffers along the path -----------------------------------------------------------------------------------
class Centre(nn.Module):
    """Normalisation by hand: a buffer that is no running statistic, and moves while training."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = layer(), nn.BatchNorm1d(3)
        self.register_buffer("centre", torch.zeros(3))

    def forward(self, x):
        hidden = self.body(x)
        if self.training:
            self.centre = 0.5 * self.centre + hidden.detach().mean(0)
        return self.norm(hidden - self.centre.abs() * torch.arange(3))


@pytest.mark.everyday(2)
@pytest.mark.parametrize("policy", ["batch", "fixed", "interpolate", "recalibrate"])
def test_a_snapshot_has_its_own_buffers_and_the_plane_those_of_the_origin(tmp_path, policy):
    model = Centre()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with lh.record(model, optimizer, tmp_path / "run.zarr", objective=ce, data=[(X, Y)]):
        start = copy.deepcopy(model)
        for _ in range(4):
            optimizer.zero_grad()
            ce(model, (X, Y)).backward()
            optimizer.step()
    surface = lh.analyze(tmp_path / "run.zarr", size=2, batch_norm=policy, progress=False)
    start.eval()
    if policy in ("batch", "recalibrate"):
        start.norm.train()
        start.norm.momentum = 1.0
        start(X)
        start.norm.train(policy == "batch")
    elif policy == "fixed":
        start.norm.load_state_dict({**start.norm.state_dict(), **{
            key: value for key, value in model.norm.state_dict().items() if key.startswith("running")
        }})  # fmt: skip
    with torch.no_grad():
        assert surface.path_loss[0] == pytest.approx(ce(start, (X, Y)).item(), rel=1e-5)
    assert surface.moving_buffers == ["centre"]
    assert any("centre" in sentence for sentence in surface.attrs["report"])
    from landscape_hooks.mesh.captions import caption
    from landscape_hooks.mesh.mesh import Mesh

    assert "other buffers: the origin's" in caption(surface, Mesh.from_surface(surface).height)


def test_buffers_that_stay_are_not_spoken_of(tmp_path):
    model = nn.Sequential(layer(), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with lh.record(model, optimizer, tmp_path / "run.zarr", objective=ce, data=[(X, Y)]):
        for _ in range(3):
            optimizer.zero_grad()
            ce(model, (X, Y)).backward()
            optimizer.step()
    surface = lh.analyze(tmp_path / "run.zarr", size=2, progress=False)
    assert surface.moving_buffers == []
    assert not any("buffers" in sentence for sentence in surface.attrs["report"])
