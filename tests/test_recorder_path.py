"""The path is the model's path: what a snapshot is, when an iteration ends, where a path ends."""

import copy
import io
import os
import pickle
import sys
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.errors import LandscapeError, LayoutError, RecordingWarning
from landscape_hooks.recording.watch import steps as watched
from landscape_hooks.recording.watch.loading import _listeners
from landscape_hooks.trajectory.doubts import closing_state

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def backward(model):
    model.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()


def train(model, optimizer, steps, after=lambda step: None):
    for step in range(1, steps + 1):
        backward(model)
        optimizer.step()
        after(step)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


def ends_with(path, weights, *, doubts=(), marks=()):
    trajectory = Trajectory.open(path)
    np.testing.assert_array_equal(trajectory[-1].weights, weights)
    assert [doubt.kind for doubt in trajectory.doubts] == list(doubts)
    assert sorted(trajectory.marks) == sorted(marks)
    return trajectory


@pytest.mark.everyday(4)
# -- what a snapshot is -------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("edit", ["clamp", "numpy", "swap", "copied back"])
def test_the_loops_own_edits_are_in_the_snapshot_and_end_the_path_silently(path, model, edit, every):
    optimizer, iterates = sgd(model), {0: flat(model)}

    def change(step):
        for parameter in model.parameters():
            if edit == "clamp":
                parameter.data.clamp_(-0.2, 0.2)
            elif edit == "numpy":
                parameter.detach().numpy()[...] *= 0.9
            elif edit == "swap":
                parameter.data = parameter.data * 0.9
            else:
                with torch.no_grad():
                    parameter.copy_(parameter.to(torch.float16))
        iterates[step] = flat(model)

    with record(model, optimizer, path, every=every):
        train(model, optimizer, 7, change)
    for snapshot in ends_with(path, flat(model)):
        np.testing.assert_array_equal(snapshot.weights, iterates[snapshot.step])


def test_buffers_and_what_is_logged_are_those_of_the_steps_end(path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer, means, rates = sgd(model, momentum=0.9), {}, {}
    with record(model, optimizer, path, every=1) as recorder:

        def after(step):
            means[step], rates[step] = model[1].running_mean.clone(), optimizer.param_groups[0]["lr"]
            recorder.log(loss=step, epoch=step)
            optimizer.param_groups[0]["lr"] /= 2
            model(X)  # a pass in training mode moves the running mean

        train(model, optimizer, 3, after)
    trajectory = Trajectory.open(path)
    for snapshot in trajectory[1:]:
        found = trajectory.buffer_layout.views(torch.from_numpy(snapshot.buffers))["1.running_mean"]
        torch.testing.assert_close(found, means[snapshot.step])
        assert snapshot.learning_rate == rates[snapshot.step]
        assert snapshot.momentum == 0.9
    np.testing.assert_array_equal(trajectory.losses, [np.nan, np.nan, 1, 2])


def test_the_learning_rate_of_a_last_step_off_the_schedule_is_the_one_it_used(path, model):
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with record(model, optimizer, path, every=100):
        train(model, optimizer, 2, lambda step: scheduler.step())
    np.testing.assert_allclose(Trajectory.open(path).learning_rates[-1], [0.05])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0.0),
        (lambda p: torch.optim.Adam(p, betas=(0.7, 0.9)), 0.7),
        (lambda p: torch.optim.Adagrad(p), np.nan),
        (lambda p: torch.optim.RMSprop(p, momentum=0.3), 0.3),
    ],
)
def test_momentum_is_recorded_beside_the_learning_rate(path, model, make, expected):
    optimizer = make(model.parameters())
    with record(model, optimizer, path):
        train(model, optimizer, 2)
    np.testing.assert_array_equal(Trajectory.open(path).momenta[:, 0], [expected] * 3)


def test_flush_and_state_dict_read_the_weights_as_they_are(path, model):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer, 1)
    with torch.no_grad():
        model[0].weight += 1
    recorder.flush()
    np.testing.assert_array_equal(Trajectory.open(path)[1].weights, flat(model))
    train(model, optimizer, 1)
    recorder.state_dict()
    np.testing.assert_array_equal(Trajectory.open(path)[2].weights, flat(model))
    recorder.close()
    ends_with(path, flat(model))


# -- when an iteration ends ---------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["gd", "dg"])
def test_the_pair_of_steps_of_a_gan_is_one_iteration_in_either_order(path, order):
    model = nn.ModuleDict({"g": nn.Linear(4, 3), "d": nn.Linear(3, 1)})
    optimizers = {key: torch.optim.Adam(model[key].parameters(), 0.1) for key in "gd"}
    iterates = [flat(model)]
    with record(model, optimizers, path, every=1):
        for _ in range(4):
            for key in order:
                model.zero_grad()
                model["d"](model["g"](X)).mean().backward()
                optimizers[key].step()
            iterates.append(flat(model))
    trajectory = ends_with(path, flat(model))
    np.testing.assert_array_equal(trajectory.block(), np.stack(iterates))
    assert trajectory.learning_rates.shape[1] == 2


def test_of_a_critic_that_steps_more_often_each_step_counts(path):
    model = nn.ModuleDict({"g": nn.Linear(4, 3), "d": nn.Linear(3, 1)})
    g, d = (sgd(model[key]) for key in "gd")
    with record(model, [g, d], path, every=1):
        for _ in range(3):
            for optimizer in (d, d, d, g):
                model.zero_grad()
                model["d"](model["g"](X)).mean().backward()
                optimizer.step()
    assert len(ends_with(path, flat(model))) == 10


def test_optimizers_that_work_one_after_the_other_count_on(path, model):
    first, second = sgd(model[0]), sgd(model[2])
    with record(model, [first, second], path, every=1):
        train(model, first, 10)
        train(model, second, 10)
    assert len(ends_with(path, flat(model))) in (20, 21)


def test_one_optimizer_for_each_parameter_stepping_during_backward(path, model):
    optimizers = {parameter: torch.optim.SGD([parameter], 0.1) for parameter in model.parameters()}

    def update(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    iterates = [flat(model)]
    with record(model, optimizers.values(), path, every=1):
        for _ in range(4):
            nn.functional.cross_entropy(model(X), Y).backward()
            iterates.append(flat(model))
    np.testing.assert_array_equal(ends_with(path, flat(model)).block(), np.stack(iterates))


class Lookahead:
    """An inner optimizer and slow weights, as it is written down everywhere; no torch optimizer itself."""

    def __init__(self, inner, k=2):
        self.optimizer, self.param_groups, self.k, self.n = inner, inner.param_groups, k, 0
        self.slow = [p.detach().clone() for p in inner.param_groups[0]["params"]]

    def step(self):
        self.optimizer.step()
        self.n += 1
        if self.n % self.k == 0:
            for slow, parameter in zip(self.slow, self.param_groups[0]["params"], strict=True):
                slow.lerp_(parameter.detach(), 0.5)
                parameter.data.copy_(slow)


class Hooked(torch.optim.Optimizer):
    """The same as a torch optimizer whose step has hooks of its own."""

    def __init__(self, inner, k=2):
        super().__init__(inner.param_groups[0]["params"], {"lr": 0.1})
        self.inner = Lookahead(inner, k)

    def step(self, closure=None):
        self.inner.step()


class Unborn(Lookahead, torch.optim.Optimizer):
    """A torch optimizer whose `super().__init__` never ran."""


@pytest.mark.parametrize("make", [Lookahead, Hooked, Unborn])
def test_a_wrapper_counts_once_and_its_slow_weights_are_the_path(path, model, make):
    optimizer, iterates = make(sgd(model)), [flat(model)]
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 6, lambda step: iterates.append(flat(model)))
    trajectory = ends_with(path, flat(model))
    np.testing.assert_array_equal(trajectory.block(), np.stack(iterates))
    assert trajectory.learning_rates.shape[1] == 1


class Sharp(torch.optim.Optimizer):
    """Sharpness-aware minimization in two calls; nobody calls `step`."""

    def __init__(self, params, base=True):
        super().__init__(params, {"lr": 0.1})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1) if base else None

    @torch.no_grad()
    def first_step(self):
        for p in self.param_groups[0]["params"]:
            self.state[p]["e"] = 0.05 * p.grad
            p.add_(self.state[p]["e"])

    @torch.no_grad()
    def second_step(self):
        for p in self.param_groups[0]["params"]:
            p.sub_(self.state[p]["e"])
            if self.base_optimizer is None:
                p.sub_(0.1 * p.grad)
        if self.base_optimizer is not None:
            self.base_optimizer.step()

    def step(self, closure=None):
        raise RuntimeError("call first_step and second_step")


def sharp(model, optimizer, steps):
    for _ in range(steps):
        backward(model)
        optimizer.first_step()
        backward(model)
        optimizer.second_step()


def test_steps_by_other_names_are_seen_where_an_optimizer_inside_steps(path, model):
    optimizer = Sharp(model.parameters())
    with record(model, optimizer, path, every=1):
        sharp(model, optimizer, 5)
    assert len(ends_with(path, flat(model))) == 6


def test_steps_that_no_hook_sees_are_said(path, model):
    first, optimizer = flat(model), Sharp(model.parameters(), base=False)
    recorder = record(model, optimizer, path, every=1)
    sharp(model, optimizer, 5)
    with pytest.warns(RecordingWarning, match="No optimizer step was seen, but the weights have moved"):
        recorder.close()
    trajectory = ends_with(path, flat(model), doubts=["steps"])
    np.testing.assert_array_equal(trajectory[0].weights, first)


def test_a_second_phase_with_an_optimizer_that_nobody_passed_counts_on(path, model):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)  # the first one is collected
    train(model, optimizer, 3)
    recorder.close()
    trajectory = ends_with(path, flat(model))
    assert trajectory.steps[-1] in (5, 6)
    np.testing.assert_array_equal(trajectory.learning_rates[-1], [np.nan, 0.01])


def test_optimizers_of_other_models_do_not_count(path, model):
    other, optimizer = copy.deepcopy(model), sgd(model)
    beside = sgd(other)
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 3, lambda step: train(other, beside, 2))
    assert len(ends_with(path, flat(model))) == 4


def test_an_optimizer_over_copies_counts_when_it_was_passed(path):
    model = nn.Linear(4, 3).half()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer, iterates = torch.optim.SGD(masters, 0.1), [flat(model)]
    with record(model, optimizer, path, every=1):
        for _ in range(4):
            for master in masters:
                master.grad = torch.ones_like(master)
            optimizer.step()
            with torch.no_grad():
                for parameter, master in zip(model.parameters(), masters, strict=True):
                    parameter.copy_(master)
            iterates.append(flat(model))
    np.testing.assert_array_equal(ends_with(path, flat(model)).block(), np.stack(iterates).astype(np.float32))


def test_an_optimizer_of_another_model_that_was_passed_by_mistake_is_said(path, model):
    twin = copy.deepcopy(model)
    optimizer = sgd(twin)
    recorder = record(model, optimizer, path, every=1)
    train(twin, optimizer, 3)
    with pytest.warns(RecordingWarning, match="none of the weights has moved"):
        recorder.close()


def test_steps_that_raised_are_no_steps_and_end_no_nesting(path, model):
    class Broken(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            result = super().step(closure)
            if self.fails:
                raise ValueError("after the inner step")
            return result

    optimizer = Broken(model.parameters(), 0.1)
    with record(model, optimizer, path, every=1):
        for number in range(4):
            backward(model)
            optimizer.fails = number == 1
            with pytest.raises(ValueError, match="inner") if optimizer.fails else warnings.catch_warnings():
                optimizer.step()
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2, 3]


# -- where a path ends --------------------------------------------------------------------------------------
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("part", [False, True])
def test_a_state_loaded_after_the_last_step_is_a_mark_and_no_end(path, model, every, part):
    optimizer, best = sgd(model), copy.deepcopy(model.state_dict())
    with record(model, optimizer, path, every=every):
        train(model, optimizer, 7)
        last = flat(model)
        if part:
            model[2].load_state_dict({"weight": best["2.weight"], "bias": best["2.bias"]})
        else:
            model.load_state_dict(best)
    trajectory = ends_with(path, last, marks=["final"])
    np.testing.assert_array_equal(trajectory.marks["final"].weights, flat(model))
    assert trajectory.steps[-1] == trajectory.marks["final"].step == 7


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_loaded_between_steps_is_the_path(path, model, assign):
    optimizer, start = sgd(model), {name: t.clone() for name, t in model.state_dict().items()}
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 2)
        model.load_state_dict(start, assign=assign)
        loaded = flat(model)
        optimizer = sgd(model) if assign else optimizer
        train(model, optimizer, 2)
    trajectory = ends_with(path, flat(model))
    np.testing.assert_array_equal(trajectory[2].weights, loaded)


def test_a_state_loaded_before_the_first_step_is_the_first_snapshot(path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    pretrained = {name: t + 1 for name, t in model.state_dict().items()}
    optimizer = sgd(model)
    with record(model, optimizer, path, every=1):
        model.load_state_dict(pretrained)
        first, buffers = flat(model), model[1].running_mean.clone()
        train(model, optimizer, 2)
    trajectory = ends_with(path, flat(model))
    np.testing.assert_array_equal(trajectory[0].weights, first)
    found = trajectory.buffer_layout.views(torch.from_numpy(trajectory[0].buffers))["1.running_mean"]
    assert torch.equal(found, buffers)


def test_a_model_that_is_only_loaded_has_no_path_to_doubt(path, model):
    first = flat(model)
    with record(model, sgd(model), path):
        model.load_state_dict({name: t + 1 for name, t in model.state_dict().items()})
    ends_with(path, first, marks=["final"])


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("change", ["averages", "half", "data"])
def test_other_changes_after_the_last_step_end_the_path_in_doubt(path, model, change, every):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=every)
    train(model, optimizer, 5)
    recorder._glance.take()  # a loop as fast as this one is not looked at after every step
    if change == "half":
        model.half()
    for parameter in model.parameters():
        if change == "averages":
            with torch.no_grad():
                parameter.mul_(0.9)
        elif change == "data":
            parameter.data = parameter.data * 0.9
    with pytest.warns(RecordingWarning, match=r"changed after the last optimizer step \(5\)") as told:
        recorder.close()
    assert len(told) == 1
    trajectory = ends_with(path, flat(model).astype(np.float32), doubts=["last_snapshot"])
    assert trajectory.steps[-1] == 5


@pytest.mark.parametrize("change", ["cpu", "double", "frozen", "replaced by itself"])
def test_a_model_that_is_only_held_otherwise_has_not_changed(path, model, change):
    optimizer = sgd(model)
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 3)
        if change == "cpu":
            model.cpu()
        elif change == "double":
            model.double()
        elif change == "frozen":
            model.eval().requires_grad_(False)
        else:
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    ends_with(path, flat(model).astype(np.float32))


def test_averages_that_are_swapped_in_to_validate_and_out_again_leave_no_trace(path, model):
    optimizer, average = sgd(model), [p.detach().clone() for p in model.parameters()]

    def validate(step):
        kept = [p.detach().clone() for p in model.parameters()]
        for values in (average, kept):
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.data.copy_(value)
        saved = copy.deepcopy(model.state_dict())
        model.load_state_dict({name: t * 0 for name, t in saved.items()})
        model.load_state_dict(saved)

    with record(model, optimizer, path, every=1):
        train(model, optimizer, 3, validate)
    ends_with(path, flat(model))


def test_a_change_after_a_flush_ends_the_path_in_doubt_too(path, model):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer, 3)
    recorder.flush()
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.warns(RecordingWarning, match="changed after the last optimizer step"):
        recorder.close()
    assert ends_with(path, flat(model), doubts=["last_snapshot"]).steps.tolist() == [0, 1, 2, 3]


def test_layers_that_are_merged_when_training_is_over_do_not_lose_the_last_snapshot(path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = sgd(model)
    with record(model, optimizer, path, every=1):
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(4, 1, 5, 5)).square().mean().backward()
            optimizer.step()
        last = flat(model)
        model.eval()
        model[0], model[1] = torch.nn.utils.fuse_conv_bn_eval(model[0], model[1]), nn.Identity()
    ends_with(path, last)


def test_marks_are_kept_beside_the_path_the_last_of_a_name(path, model):
    optimizer, marked = sgd(model), {}
    with record(model, optimizer, path, every=2) as recorder:

        def after(step):
            if step in (2, 5):
                recorder.mark("best")
                marked["best"] = flat(model)

        train(model, optimizer, 7, after)
        with pytest.raises(LandscapeError, match="Found the mark"):
            recorder.mark("../best")
    trajectory = ends_with(path, flat(model), marks=["best"])
    np.testing.assert_array_equal(trajectory.marks["best"].weights, marked["best"])
    assert trajectory.marks["best"].step == 5
    assert trajectory.steps.tolist() == [0, 2, 4, 6, 7]


# -- several models -----------------------------------------------------------------------------------------
def test_several_models_are_recorded_as_one_and_left_as_they_are(path):
    from landscape_hooks import Objective

    g, d = nn.Linear(4, 3), nn.Linear(3, 1)
    before = dict(g.__dict__["_modules"]), g._load_state_dict_pre_hooks
    optimizers = [sgd(g), sgd(d)]

    def loss(models, batch):
        generator, critic = models
        return nn.functional.softplus(-critic(generator(batch))).mean()

    with record([g, d], optimizers, path, objective=loss, data=X, every=1):
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss([g, d], X).backward()
            for optimizer in optimizers:
                optimizer.step()
    trajectory = Trajectory.open(path)
    assert trajectory.layout.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert trajectory.steps.tolist() == [0, 1, 2, 3]
    assert not trajectory.doubts
    found = Objective.load(trajectory.root).evaluate(torch.from_numpy(trajectory[-1].weights), torch.zeros(0)).mean
    assert found == pytest.approx(loss([g, d], X).item(), rel=1e-5)
    assert before == (dict(g.__dict__["_modules"]), g._load_state_dict_pre_hooks)
    assert not g._load_state_dict_pre_hooks
    with pytest.raises(LandscapeError, match=r"expected|Expected a torch\.nn\.Module"):
        record([g, "d"], None, path)


# -- what is refused, left out, resolved ------------------------------------------------------------------------
def test_parameters_whose_values_are_elsewhere_are_refused_before_anything_is_written(path, model):
    model[0].weight.data = torch.empty(0)
    with pytest.raises(LayoutError, match=r"'0\.weight' has no elements here.*ZeRO"):
        record(model, sgd(model), path)
    assert not path.exists()


@pytest.mark.parametrize("way", ["grows", "goes", "becomes None"])
def test_a_buffer_that_becomes_another_is_left_out_with_one_warning(path, way):
    class Cached(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("cache", torch.arange(3.0))
            self.register_buffer("mean", torch.zeros(2))

    model = Cached()
    optimizer = sgd(model)

    def training():
        for step in range(1, 5):
            if step == 3:
                if way == "goes":
                    del model.cache
                else:
                    model.cache = torch.zeros(5) if way == "grows" else None
            model.mean += 1
            train(model, optimizer, 1)

    recorder = record(model, optimizer, path, every=1)
    with pytest.warns(RecordingWarning, match=r"'cache'.*left out") as told:
        training()
    recorder.close()
    assert len(told) == 1
    trajectory = ends_with(path, flat(model), doubts=["buffers"])
    assert "'cache'" in trajectory.doubts[0].said
    assert len(trajectory) == 5
    views = [trajectory.buffer_layout.views(torch.from_numpy(s.buffers)) for s in trajectory]
    assert [v["mean"][0].item() for v in views] == [0, 1, 2, 3, 4]
    assert all(torch.equal(v["cache"], torch.arange(3.0)) for v in views)


def test_a_relative_path_is_resolved_once(tmp_path, model, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    optimizer = sgd(model)
    with record(model, optimizer, "run.zarr", every=1) as recorder:
        train(model, optimizer, 2)
        recorder.flush()
        os.chdir("elsewhere")
        train(model, optimizer, 2)
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 5
    assert not list((tmp_path / "elsewhere").iterdir())


# -- hooks leave no trace ------------------------------------------------------------------------------------
def test_copies_and_pickles_of_a_recorded_model_are_models(path, model):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer, 2)
    twin, average = copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model)
    saved = io.BytesIO()
    torch.save(model, saved)
    assert b"landscape_hooks" not in saved.getvalue()
    saved.seek(0)
    read = torch.load(saved, weights_only=False)
    state = {name: t * 0 for name, t in model.state_dict().items()}
    for other in (twin, average.module, read, pickle.loads(pickle.dumps(model))):
        other.load_state_dict(state)  # of a copy, nobody hears
        assert not flat(other).any()
    assert not recorder._end.loaded
    pickle.dumps(optimizer)
    copied = copy.deepcopy(optimizer)
    copied.step()
    assert recorder.current_step == 2
    recorder.close()
    ends_with(path, flat(model))


def test_after_close_torch_and_the_model_are_as_they_were(path, model):
    hooks = sys.modules["torch.optim.optimizer"]
    before = len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)
    optimizer = sgd(model)
    recorder = record(model, optimizer, path)
    train(model, optimizer, 1)
    recorder.close()
    assert (len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)) == before
    assert recorder._listener not in watched._listeners
    assert not any(
        module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks for module in model.modules()
    )
    assert not any(_listeners.of(module) for module in model.modules())
    assert "step" not in optimizer.__dict__


def test_a_run_ends_with_its_model_and_not_with_its_optimizer(path):
    model = nn.Linear(4, 3)
    optimizer = sgd(model)
    record(model, optimizer, path, every=1)
    train(model, optimizer, 2)
    del optimizer
    optimizer = sgd(model)
    train(model, optimizer, 2)
    gone = weakref.ref(model)
    expected = flat(model)
    del model, optimizer
    for _ in range(100):
        if closing_state(Trajectory.open(path).root)[0] == "unchecked":
            break
        time.sleep(0.05)
    assert gone() is None
    np.testing.assert_array_equal(Trajectory.open(path)[-1].weights, expected)


class Metric(nn.Module):
    """Its hash goes by its state, as that of the metrics of torchmetrics."""

    seen = 0

    def __hash__(self):
        return hash(self.seen)


def test_a_module_whose_hash_changes_ends_no_training(tmp_path):
    model = nn.ModuleDict({"layer": nn.Linear(2, 1), "metric": Metric()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, tmp_path / "run.zarr", every=1):
        for _ in range(3):
            model["layer"](torch.ones(1, 2)).sum().backward()
            optimizer.step()
            model["metric"].seen += 1
        model.load_state_dict(model.state_dict())
    assert Trajectory.open(tmp_path / "run.zarr").steps.tolist() == [0, 1, 2, 3]


def test_weights_that_were_rounded_after_the_last_step_end_the_path_in_doubt(path, model):
    """Also in a loop that edits its weights between steps: halving them is no such edit."""
    optimizer = sgd(model)

    def perturb(step):
        for parameter in model.parameters():
            parameter.data.mul_(0.99)

    recorder = record(model, optimizer, path, every=2)
    train(model, optimizer, 4, perturb)
    model.half()
    with pytest.warns(RecordingWarning, match="given another type"):
        recorder.close()
    ends_with(path, flat(model).astype(np.float32), doubts=["last_snapshot"])


@pytest.mark.parametrize(
    ("before", "after", "doubts"),
    [
        (torch.float32, torch.bfloat16, []),  # rows of the wider type hold what is narrower
        (torch.bfloat16, torch.float32, ["rounding"]),
        (torch.float32, torch.float64, ["rounding"]),
    ],
)
def test_a_model_that_is_given_another_type_while_it_is_trained(path, model, before, after, doubts):
    model.to(before)
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    for step in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X.to(model[0].weight.dtype)), Y).backward()
        optimizer.step()
        if step == 2:
            model.to(after)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        recorder.close()
    assert len(told) == len(doubts)
    ends_with(path, torch.from_numpy(flat(model.double())).to(before).double().numpy(), doubts=doubts)


def test_a_wider_type_after_the_last_step_is_no_doubt(path, model):
    model.bfloat16()
    optimizer = sgd(model)
    with record(model, optimizer, path, every=1):
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X.bfloat16()), Y).backward()
            optimizer.step()
        model.float()
    ends_with(path, flat(model))


def test_a_recording_that_stopped_says_so_in_the_run(path, model):
    """The layer has another parameter in the place of a recorded one, which no row can have."""
    optimizer = sgd(model)
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 2)
        nn.utils.parametrizations.weight_norm(model[0])
        with pytest.warns(RecordingWarning, match="Recording stopped at step 2"):
            train(model, optimizer, 2)
    trajectory = Trajectory.open(path)
    assert [doubt.kind for doubt in trajectory.doubts] == ["stopped"]
    assert "has no parameter '0.weight'" in trajectory.doubts[0].said
    assert closing_state(trajectory.root) == ("unchecked", trajectory.doubts[0].said)


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_a_step_that_loads_what_others_have_trained_is_a_step(path, model, checkpoints):
    """Federated averages: the loop says its steps itself. What is loaded before them is where the path begins."""
    with record(model, None, path, every=1) as recorder:
        for n in range(checkpoints):
            model.load_state_dict({name: t + n + 1 for name, t in model.state_dict().items()})
        iterates = [flat(model)]
        for _ in range(3):
            model.load_state_dict({name: t * 0.5 for name, t in model.state_dict().items()})
            recorder.step()
            iterates.append(flat(model))
    trajectory = Trajectory.open(path)
    np.testing.assert_array_equal([snapshot.weights for snapshot in trajectory], iterates)
    assert trajectory.doubts == ()


def test_a_state_that_is_loaded_before_steps_that_are_said_begins_the_path(path, model):
    recorder = record(model, None, path, every=1)
    model.load_state_dict({name: t + 1 for name, t in model.state_dict().items()})
    iterates = [flat(model)]
    for p in model.parameters():
        p.data.sub_(0.25)
    recorder.step()
    iterates.append(flat(model))
    recorder.close()
    np.testing.assert_array_equal([snapshot.weights for snapshot in Trajectory.open(path)], iterates)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_that_only_gives_an_optimizer_its_state_is_none(path, model, kind, real):
    """torch.distributed.checkpoint takes one when it saves or loads: with rates and gradients of 0."""
    optimizer = kind(model.parameters(), lr=torch.tensor(0.1) if kind is torch.optim.Adam else 0.1)

    def prepare(step=0):
        optimizer.zero_grad()
        if real:
            from torch.distributed.checkpoint.state_dict import get_state_dict

            get_state_dict(model, optimizer)
        elif not optimizer.state:
            group = optimizer.param_groups[0]
            rate, group["lr"] = group["lr"], torch.tensor(0.0) if kind is torch.optim.Adam else 0.0
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
            group["lr"] = rate
            optimizer.zero_grad()
        with torch.no_grad():  # what the loop does afterwards belongs to the step before
            model[0].weight.clamp_(-0.3, 0.3)
        iterates.append(flat(model))

    iterates: list[np.ndarray] = []
    with record(model, optimizer, path, every=1):
        prepare()
        train(model, optimizer, 3, prepare)
    trajectory = Trajectory.open(path)
    assert trajectory.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal([snapshot.weights for snapshot in trajectory][1:], iterates[1:])


def test_a_first_step_with_a_rate_of_zero_counts(path, model):
    """A warm-up begins with it; the gradients are those of the loss."""
    optimizer = sgd(model, lr=0.0)
    with record(model, optimizer, path, every=1):
        train(model, optimizer, 2)
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2]
