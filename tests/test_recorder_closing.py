"""The closing check: what differs from the training is mended or said, and ordinary loops stay silent."""

import copy
import random
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Surface, Trajectory, analyze, record
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import RecordingWarning
from landscape_hooks.mesh.captions import caption
from landscape_hooks.mesh.mesh import Mesh
from landscape_hooks.recording.loss import live as live_loss
from landscape_hooks.trajectory.doubts import closing_state

X, Y = torch.randn(48, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
BATCHES = [(X[:16], Y[:16]), (X[16:32], Y[16:32]), (X[32:], Y[32:])]
cross_entropy = nn.CrossEntropyLoss()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def train(model, optimizer, epochs=2, loss=cross_entropy, after=lambda: None):
    for _ in range(epochs):
        for x, y in BATCHES:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            after()


# -- the loss -----------------------------------------------------------------------------------------------
class Annealed(nn.Module):
    """A loss with a number that the training changes."""

    def __init__(self):
        super().__init__()
        self.weight = 0.0

    def forward(self, output, target):
        return cross_entropy(output, target) + self.weight * output.square().mean()


def annealed(path, model):
    loss, optimizer = Annealed(), sgd(model)

    def grow():
        loss.weight += 0.1

    recorder = record(model, optimizer, path, criterion=loss, data=BATCHES)
    train(model, optimizer, loss=loss, after=grow)
    return recorder


def drifting_teacher(path, model):
    teacher, optimizer = copy.deepcopy(model).eval(), sgd(model)

    def distilled(student, batch):
        return nn.functional.mse_loss(student(batch[0]), teacher(batch[0]).detach())

    def drift():
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(0.1)

    recorder = record(model, optimizer, path, objective=distilled, data=BATCHES)
    train(model, optimizer, after=drift)
    recorder.teacher = teacher
    return recorder


def unfolding_forward(path, model):
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.strength = model, 1.0

        def forward(self, x):
            return self.strength * self.body(x)

    growing = Growing()
    optimizer = sgd(growing)

    def grow():
        growing.strength += 0.2

    recorder = record(growing, optimizer, path, criterion=cross_entropy, data=BATCHES)
    train(growing, optimizer, after=grow)
    recorder.growing = growing
    return recorder


@pytest.mark.everyday(1)
@pytest.mark.parametrize("make", [annealed, drifting_teacher, unfolding_forward])
def test_a_loss_that_is_another_one_at_the_end_is_said_everywhere(path, model, make):
    recorder = make(path, model)
    with pytest.warns(
        RecordingWarning, match=r"The stored loss is \S+ at the (end|beginning), the training's own"
    ) as told:
        recorder.close()
    assert len(told) == 1
    trajectory = Trajectory.open(path)
    (doubt,) = trajectory.doubts
    assert doubt.kind == "loss"
    assert abs(doubt.numbers["stored_end"] - doubt.numbers["own_end"]) > 1e-3
    assert doubt.said in description_text(describe(path))
    surface = analyze(path, size=3, progress=False)
    assert f"In doubt: {doubt.said}" in surface.attrs["report"]
    shown = caption(surface, Mesh.from_surface(surface).height)
    assert f"in doubt: {doubt.said[0].lower()}{doubt.said[1:-1]}" in shown


def test_a_doubt_that_comes_after_the_analysis_is_in_the_caption_too(path, model):
    recorder = annealed(path, model)
    recorder.flush()
    analyze(path, size=3, progress=False)
    with pytest.warns(RecordingWarning, match="The stored loss"):
        recorder.close()
    surface = Surface.open(path)
    assert "in doubt: the stored loss" in caption(surface, Mesh.from_surface(surface).height)


def test_the_numbers_are_the_losses_computed_by_hand(path, model):
    recorder = annealed(path, model)
    with pytest.warns(RecordingWarning):
        recorder.close()
    loss = Annealed()
    loss.weight = 0.6
    model.eval()
    with torch.no_grad():
        own = np.mean([loss(model(x), y).item() for x, y in BATCHES])
        stored = np.mean([cross_entropy(model(x), y).item() for x, y in BATCHES])
    numbers = Trajectory.open(path).doubts[0].numbers
    share = numbers["batches"] / 3  # in a recording this short perhaps not all of them
    if share == 1:
        assert numbers["own_end"] == pytest.approx(own, rel=1e-4)
        assert numbers["stored_end"] == pytest.approx(stored, rel=1e-4)
    assert numbers["own_beginning"] > numbers["stored_beginning"]


def test_the_comparison_touches_nothing(path, model):
    class Noisy(nn.Module):
        calls = 0

        def forward(self, output, target):
            Noisy.calls += 1
            torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
            return cross_entropy(output, target)

    loss, optimizer = Noisy(), sgd(model)
    recorder = record(model, optimizer, path, criterion=loss, data=BATCHES)
    train(model, optimizer, loss=loss)
    before = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    calls = Noisy.calls
    recorder.close()
    assert Noisy.calls > calls
    assert [m.training for m in model.modules()] == before[1]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before[0].values(), strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    assert closing_state(Trajectory.open(path).root) == ("checked", "")


def test_after_an_exception_the_loss_is_not_called_and_the_run_says_so(path, model):
    loss, optimizer = Annealed(), sgd(model)

    def fail():
        raise KeyboardInterrupt

    recorder = record(model, optimizer, path, criterion=loss, data=BATCHES)
    loss.forward = lambda *_: pytest.fail("called")
    with pytest.raises(KeyboardInterrupt), recorder:
        train(model, optimizer, after=fail)
    state, said = closing_state(Trajectory.open(path).root)
    assert (state, said) == ("unchecked", "The training ended with an exception (KeyboardInterrupt)")
    assert f"unchecked   {said}" in description_text(describe(path))


def test_a_run_that_was_cut_off_says_that_nothing_was_compared(path, model):
    recorder = record(model, sgd(model), path)
    assert closing_state(Trajectory.open(path).root)[0] == "recording"
    assert "unchecked   the recording goes on, or was cut off" in description_text(describe(path))
    recorder.close()
    assert "unchecked" not in description_text(describe(path))


def test_a_comparison_that_would_take_too_long_is_left_out_and_said(path, model, monkeypatch):
    monkeypatch.setattr(live_loss, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(live_loss, "SHARE", 0.0)
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, criterion=cross_entropy, data=BATCHES)
    train(model, optimizer)
    recorder.close()
    state, said = closing_state(Trajectory.open(path).root)
    assert state == "unchecked"
    assert "would have taken more than" in said


def test_a_loss_that_raises_at_the_end_is_no_error(path, model):
    loss, optimizer = Annealed(), sgd(model)
    recorder = record(model, optimizer, path, criterion=loss, data=BATCHES)
    train(model, optimizer, loss=loss)
    loss.weight = "broken"
    recorder.close()
    state, said = closing_state(Trajectory.open(path).root)
    assert state == "unchecked"
    assert "TypeError" in said


def test_a_run_that_is_resumed_is_compared_anew(path, model):
    with pytest.warns(RecordingWarning):
        annealed(path, model).close()
    assert Trajectory.open(path).doubts
    with record(model, sgd(model), path, if_exists="resume"):
        assert not Trajectory.open(path).doubts
    assert closing_state(Trajectory.open(path).root)[0] == "checked"


def test_doubts_of_another_run_on_the_surface_are_named(tmp_path, model):
    other = copy.deepcopy(model)
    with pytest.warns(RecordingWarning):
        annealed(tmp_path / "second.zarr", other).close()
    optimizer = sgd(model)
    with record(model, optimizer, tmp_path / "first.zarr", criterion=cross_entropy, data=BATCHES):
        train(model, optimizer)
    surface = analyze(tmp_path / "first.zarr", tmp_path / "second.zarr", size=3, progress=False)
    assert [doubt.partition(":")[0] for doubt in surface.doubts] == ["second"]


# -- closing ------------------------------------------------------------------------------------------------
def test_close_returns_when_everything_is_committed_whoever_closes(path, model, monkeypatch):
    optimizer = sgd(model)
    recorder = record(model, optimizer, path, every=1)
    train(model, optimizer)
    stop = recorder._background.stop

    def slowly():
        time.sleep(0.3)
        stop()

    monkeypatch.setattr(recorder._background, "stop", slowly)
    thread = threading.Thread(target=recorder.close)
    thread.start()
    time.sleep(0.05)
    recorder.close()
    assert len(Trajectory.open(path)) == 7
    thread.join()


# -- ordinary loops stay silent ------------------------------------------------------------------------------
def plain(m, o):
    train(m, o)


def validated(m, o):
    for _ in range(2):
        train(m, o, 1)
        m.eval()
        with torch.no_grad():
            cross_entropy(m(X), Y)
        m.train()


def accumulated(m, o):
    for _ in range(4):
        o.zero_grad()
        for x, y in BATCHES:
            (cross_entropy(m(x), y) / 3).backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        o.step()
    (cross_entropy(m(X), Y) / 3).backward()  # a rest that comes to no step


def scheduled(m, o):
    schedule = torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=6)
    train(m, o, after=schedule.step)


def averaged_beside(m, o):
    average = torch.optim.swa_utils.AveragedModel(m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    train(m, o, after=lambda: average.update_parameters(m))
    torch.optim.swa_utils.update_bn([x for x, _ in BATCHES], average)


def averages_swapped_for_validation(m, o):
    shadow = {name: p.detach().clone() for name, p in m.named_parameters()}
    for _ in range(2):
        train(m, o, 1)
        backup = {name: p.detach().clone() for name, p in m.named_parameters()}
        for values in (shadow, backup):
            for name, p in m.named_parameters():
                p.data.copy_(values[name])


def saved_and_copied(m, o):
    import io

    for _ in range(2):
        train(m, o, 1)
        torch.save({"model": m.state_dict(), "optimizer": o.state_dict()}, io.BytesIO())
        torch.save(m, io.BytesIO())
        copy.deepcopy(m).eval()(X)


def pretrained(m, o):
    m.load_state_dict({name: t * 1 for name, t in m.state_dict().items()})
    train(m, o)


def stopped_early(m, o):
    best = float("inf")
    for epoch in range(5):
        train(m, o, 1)
        loss = float(epoch)
        if loss > best:
            break
        best = loss


def best_restored(m, o):
    best = None
    for epoch in range(3):
        train(m, o, 1)
        if epoch == 1:
            best = copy.deepcopy(m.state_dict())
    m.load_state_dict(best)
    m.eval()(X)


def restored_and_gone_on(m, o):
    for _ in range(2):
        state = copy.deepcopy(m.state_dict()), copy.deepcopy(o.state_dict())
        train(m, o, 1)
        m.load_state_dict(state[0])
        o.load_state_dict(state[1])
        train(m, o, 1)


def mixed_precision(m, o):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for x, y in BATCHES * 2:
        o.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(m(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(o)
        scaler.step(o)
        scaler.update()


def wrapped(m, o):
    class Wrapper(torch.optim.Optimizer):
        """As accelerate wraps an optimizer."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, closure=None):
            self.optimizer.step(closure)

        def zero_grad(self, set_to_none=True):
            self.optimizer.zero_grad()

    train(m, Wrapper(o))


def with_closure(m, o):
    for x, y in BATCHES:

        def closure(x=x, y=y):
            o.zero_grad()
            loss = cross_entropy(m(x), y)
            loss.backward()
            return loss

        o.step(closure)


def frozen_then_thawed(m, o):
    m[0].requires_grad_(False)
    train(m, o, 1)
    m[0].requires_grad_(True)
    train(m, o, 1)


def another_model_beside(m, o):
    other = nn.Linear(4, 3)
    beside = torch.optim.Adam(other.parameters())
    train(m, o, after=lambda: train(other, beside, 1))


def moved_afterwards(m, o):
    train(m, o)
    m.to("cpu").eval()
    m.requires_grad_(False)
    torch.jit.trace(m, X, check_trace=False)


def compiled(m, o):
    train(torch.compile(m, backend="eager"), o, 1)


def threads(m, o):
    thread = threading.Thread(target=train, args=(m, o))
    thread.start()
    thread.join()


def watched_by_others(m, o):
    handle = o.register_step_post_hook(lambda *_: None)
    m.register_forward_hook(lambda *_: None)
    train(m, o)
    handle.remove()


def nothing_at_all(m, o):
    pass


LOOPS = [
    plain, validated, accumulated, scheduled, averaged_beside, averages_swapped_for_validation, saved_and_copied,
    pretrained, stopped_early, best_restored, restored_and_gone_on, mixed_precision, wrapped, with_closure,
    frozen_then_thawed, another_model_beside, moved_afterwards, compiled, threads, watched_by_others, nothing_at_all,
]  # fmt: skip
MAKERS = {
    "sgd": sgd,
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 0.01, fused=True),
    "lbfgs": lambda m: torch.optim.LBFGS(m.parameters(), max_iter=2),
}
CASES = [(loop, "lbfgs" if loop is with_closure else ("sgd", "adamw")[i % 2]) for i, loop in enumerate(LOOPS)]


@pytest.mark.everyday(7)
@pytest.mark.parametrize(("loop", "make"), CASES)
def test_an_ordinary_loop_stays_silent_and_is_the_same_training(path, model, loop, make):
    def run(recorded):
        mine = copy.deepcopy(model)
        torch.manual_seed(1)
        optimizer = MAKERS[make](mine)
        if not recorded:
            loop(mine, optimizer)
            return mine
        with record(mine, optimizer, path, every=2, criterion=cross_entropy, data=BATCHES):
            loop(mine, optimizer)
        return mine

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        after = run(True)
    assert [str(w.message) for w in told if issubclass(w.category, RecordingWarning)] == []
    trajectory = Trajectory.open(path)
    assert trajectory.doubts == ()
    assert closing_state(trajectory.root) == ("checked", "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(False)
    for a, b in zip(after.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    if loop is not best_restored:
        weights = torch.cat([p.detach().flatten() for p in after.parameters()]).numpy()
        np.testing.assert_array_equal(trajectory[-1].weights, weights)


def test_tied_weights_and_a_loop_that_says_its_steps_stay_silent(path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x))

    torch.manual_seed(0)
    model = Tied()
    tokens = torch.arange(20) % 5
    optimizer = sgd(model)
    with (
        warnings.catch_warnings(),
        record(model, None, path, every=1, criterion=cross_entropy, data=(tokens, tokens)) as recorder,
    ):
        warnings.simplefilter("error", RecordingWarning)
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(model(tokens), tokens).backward()
            optimizer.step()
            recorder.step()
        recorder.close()
    trajectory = Trajectory.open(path)
    assert (len(trajectory), trajectory.doubts) == (5, ())


def test_a_tied_model_that_loading_has_untied_is_compared_as_it_was_recorded(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    torch.manual_seed(0)
    model, data = Tied(), (torch.arange(6), torch.arange(6) % 3)
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.5), nn.CrossEntropyLoss()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with record(model, optimizer, tmp_path / "run.zarr", every=1, criterion=criterion, data=data):
            for _ in range(4):
                optimizer.zero_grad()
                criterion(model(data[0]), data[1]).backward()
                optimizer.step()
            model.load_state_dict(first, assign=True)
    assert model.head.weight is not model.embedding.weight
    assert not Trajectory.open(tmp_path / "run.zarr").doubts


def test_weights_that_never_moved_and_were_loaded_by_assignment_are_no_other_models(path, model):
    """The optimizer holds none of the model's weights then, since loading has put others in their places."""
    optimizer, first = torch.optim.SGD(model.parameters(), lr=0.0), copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with record(model, optimizer, path, every=1):
            train(model, optimizer)
            model.load_state_dict(first, assign=True)
    assert not Trajectory.open(path).doubts
