"""The loss of a run that is stored later: by a call, from a function at the end, from the training's own batches."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, ObjectiveError, RecordingWarning, RunError
from landscape_hooks.objective.objective import Objective
from landscape_hooks.recording import at_exit

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
    record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=lambda: BATCHES, if_exists="resume").close()
    assert probe(path).samples == 24


def test_a_model_that_nobody_holds_waits_for_its_loss(path):
    def session():
        model, optimizer = setup()
        train(model, optimizer, nn.CrossEntropyLoss())
        return record(model, optimizer, path, criterion=nn.CrossEntropyLoss(), data=lambda: BATCHES)

    session()
    at_exit._close_all()
    assert len(losses(path)) == 2


def test_of_several_trainings_in_a_script_those_that_are_over_are_closed(tmp_path):
    def session(name, keep):
        model, optimizer = setup()
        recorder = record(model, optimizer, tmp_path / name, criterion=nn.CrossEntropyLoss(), data=lambda: BATCHES)
        train(model, optimizer, nn.CrossEntropyLoss())
        keep.append(model)
        return recorder

    held = []
    first, second = session("1", []), session("2", held)
    assert len(losses(tmp_path / "1")) == 2
    third = session("3", held)
    assert [recorder._closed for recorder in (first, second, third)] == [True, False, False]
    second.close()
    third.close()


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


# -- from the training's own batches ----------------------------------------------------------------------------------
def watched(path, model, optimizer, criterion, loop, **more):
    """The recorder's warnings, and the final weights, of a training with `data="train"`; the latter as without it."""
    plain, plain_criterion = copy.deepcopy(model), copy.deepcopy(criterion)
    moved = type(optimizer)(plain.parameters(), lr=0.1)
    torch.manual_seed(1)
    loop(plain, moved, plain_criterion)
    drawn = torch.get_rng_state()
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordingWarning)
        recorder = record(model, optimizer, path, every=1, criterion=criterion, data="train", **more)
        loop(model, optimizer, criterion)
        now = torch.get_rng_state()
        recorder.close()
    assert torch.equal(drawn, now)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not criterion._forward_hooks
    return [str(each.message) for each in caught if issubclass(each.category, RecordingWarning)]


def probe(path):
    return Objective.load(Trajectory.open(path).root).probe


def test_the_first_batches_of_the_training_are_kept_and_nothing_of_it_changes(path):
    def loop(model, optimizer, criterion):
        for _ in range(2):
            model.eval()
            with torch.no_grad():
                criterion(model(X + 5), Y)  # evaluation is none of the training's
            model.train()
            criterion(model(X + 6), Y).item()  # neither is what no backward pass goes through
            train(model, optimizer, criterion, [(X[k : k + 4], Y[k : k + 4]) for k in range(0, 24, 4)])

    model, optimizer = setup(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    criterion = nn.CrossEntropyLoss()
    assert watched(path, model, optimizer, criterion, loop, samples=10) == []
    assert probe(path).samples == 12
    places = (0, 2, 7, -1)
    expected = by_hand(path, lambda m: F.cross_entropy(m(X[:12]), Y[:12]), model, places)
    np.testing.assert_allclose(losses(path, places), expected, rtol=1e-5)
    assert describe(path)["closing"]["state"] == "checked"


def test_with_fewer_samples_what_there_is_is_stored_at_the_end(path):
    model, optimizer = setup()
    criterion = nn.CrossEntropyLoss()

    def loop(model, optimizer, criterion):  # all data in one batch, which counts once
        train(model, optimizer, criterion, [(X, Y)], steps=5)

    assert watched(path, model, optimizer, criterion, loop) == []
    assert probe(path).samples == 24
    np.testing.assert_allclose(losses(path), by_hand(path, lambda m: criterion(m(X), Y), model), rtol=1e-5)


class Pair(nn.Module):
    """Takes tensors by name, and returns them in a dict."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, *, scale=None):
        found = self.inner(x)
        return {"logits": found if scale is None else found * scale, "other": [found]}


def by_name(model, optimizer, criterion):
    for inputs, targets in BATCHES:
        optimizer.zero_grad()
        batch = {"x": inputs, "scale": torch.tensor(2.0)}
        criterion(input=model(**batch)["logits"], target=targets).backward()
        optimizer.step()


TEXTS = [(X[:16].reshape(4, 4, 4), Y[:16].reshape(4, 4)), (X[16:].reshape(2, 4, 4), Y[16:].reshape(2, 4))]


def tokens(model, optimizer, criterion):
    for _ in range(2):
        for inputs, targets in [
            (X[:16].reshape(4, 4, 4), Y[:16].reshape(4, 4)),
            (X[16:].reshape(2, 4, 4), Y[16:].reshape(2, 4)),
        ]:
            optimizer.zero_grad()
            criterion(model(inputs)[:, :-1].reshape(-1, 3), targets[:, 1:].reshape(-1)).backward()
            optimizer.step()


def pixels(model, optimizer, criterion):
    optimizer.zero_grad()
    criterion(model(X.reshape(6, 4, 4)).transpose(1, 2), Y.reshape(6, 4)).backward()
    optimizer.step()


def squeezed(model, optimizer, criterion):
    for inputs, targets in BATCHES:
        optimizer.zero_grad()
        criterion(model(inputs).squeeze(-1), targets.float()).backward()
        optimizer.step()


def contrasted(model, optimizer, criterion):
    for inputs, _ in BATCHES:
        optimizer.zero_grad()
        criterion(model(inputs), model(inputs.flip(1))).backward()
        optimizer.step()


def accumulated(model, optimizer, criterion):
    for _ in range(2):
        optimizer.zero_grad()
        for inputs, targets in BATCHES:
            (criterion(model(inputs), targets) / 2).backward()
        optimizer.step()


def changed(model, optimizer, criterion):
    memory = torch.empty(8, 4)
    for k in (0, 8, 16):
        optimizer.zero_grad()
        memory.copy_(X[k : k + 8])
        criterion(model(memory), Y[k : k + 8]).backward()
        memory.zero_()  # a loader that hands out the same memory again
        optimizer.step()


class Vae(nn.Module):
    """Returns several tensors, of which the criterion takes each."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(mean), (mean, logvar)


class Elbo(nn.Module):
    def forward(self, reconstructed, x, mean, logvar):
        return F.mse_loss(reconstructed, x) - 0.5 * (1 + logvar - mean**2 - logvar.exp()).mean()


def encoded(model, optimizer, criterion):
    for inputs, _ in BATCHES:
        optimizer.zero_grad()
        reconstructed, (mean, logvar) = model(inputs)
        criterion(reconstructed, inputs, mean, logvar=logvar).backward()
        optimizer.step()


def elbo(m):
    reconstructed, (mean, logvar) = m(X)
    return Elbo()(reconstructed, X, mean, logvar)


def closures(model, optimizer, criterion):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    for inputs, targets in BATCHES:

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)


def shifted(m):
    found = [(len(x), F.cross_entropy(m(x)[:, :-1].reshape(-1, 3), y[:, 1:].reshape(-1))) for x, y in TEXTS]
    return sum(n * loss for n, loss in found) / 6


def entropy(m):
    return F.cross_entropy(m(X), Y)


FITTING = {
    "by name, of a dict": (Pair, nn.CrossEntropyLoss(), by_name, lambda m: F.cross_entropy(2 * m.inner(X), Y)),
    "tokens": (lambda: setup()[0], nn.CrossEntropyLoss(), tokens, shifted),
    "pixels": (lambda: setup()[0], nn.CrossEntropyLoss(), pixels, entropy),
    "squeezed": (lambda: nn.Linear(4, 1), nn.MSELoss(), squeezed, lambda m: F.mse_loss(m(X)[:, 0], Y.float())),
    "called twice": (lambda: setup()[0], nn.MSELoss(), contrasted, lambda m: F.mse_loss(m(X), m(X.flip(1)))),
    "a VAE": (Vae, Elbo(), encoded, elbo),
    "closures": (lambda: setup()[0], nn.CrossEntropyLoss(), closures, entropy),
    "accumulated": (lambda: setup()[0], nn.CrossEntropyLoss(), accumulated, entropy),
    "memory used again": (lambda: setup(nn.Linear(4, 3))[0], nn.CrossEntropyLoss(), changed, entropy),
    "a wrapper": (lambda: nn.DataParallel(setup()[0]), nn.CrossEntropyLoss(), accumulated, entropy),
}  # fmt: skip


@pytest.mark.everyday(4)
@pytest.mark.parametrize("kind", FITTING)
def test_a_loop_of_another_kind_is_right(path, kind):
    make, criterion, loop, value = FITTING[kind]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert watched(path, model, optimizer, criterion, loop) == []
    np.testing.assert_allclose(losses(path), by_hand(path, value, model), rtol=1e-5)


def mixed(model, optimizer, criterion):
    optimizer.zero_grad()
    output = model(X)
    (0.3 * criterion(output, Y) + 0.7 * criterion(output, Y.flip(0))).backward()
    optimizer.step()


def scaled(model, optimizer, criterion):
    optimizer.zero_grad()
    criterion(model(X) * 1.0, Y).backward()  # the same values, and yet another loss once the factor is trained
    optimizer.step()


def through(model, optimizer, criterion):
    first = nn.Linear(4, 4)
    optimizer.zero_grad()
    criterion(model(first(X)), Y).backward()
    optimizer.step()


def inside(model, optimizer, criterion):
    optimizer.zero_grad()
    criterion(F.linear(X, model.weight), Y).backward()
    optimizer.step()


def overwritten(model, optimizer, criterion):
    optimizer.zero_grad()
    criterion(model(X).mul_(2), Y).backward()
    optimizer.step()


UNFIT = [(mixed, "terms of a larger loss"), (scaled, "computed from"), (through, "another module"),
         (inside, "no backward pass"), (overwritten, "in place")]  # fmt: skip


@pytest.mark.parametrize(("loop", "said"), UNFIT)
def test_what_cannot_be_kept_is_one_warning_with_a_way_out(path, loop, said):
    model, optimizer = setup()
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (warning,) = watched(path, model, optimizer, nn.CrossEntropyLoss(), loop)
    assert said in warning
    assert "recorder.objective" in warning
    assert said in description_text(describe(path))


def test_a_compiled_model_is_heard_or_said_not_to_be(path, tmp_path):
    for given, fits in (("outer", True), ("inner", False)):
        model, _ = setup()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RecordingWarning)
            where = tmp_path / given
            recorder = record(
                compiled if fits else model, optimizer, where, criterion=nn.CrossEntropyLoss(), data="train"
            )
            train(compiled, optimizer, recorder.stored_loss._waits.criterion)
            recorder.close()
        said = [str(each.message) for each in caught if issubclass(each.category, RecordingWarning)]
        if fits:
            np.testing.assert_allclose(losses(where), by_hand(where, entropy, model), rtol=1e-5)
        assert fits != any("compiled" in text for text in said)


def test_while_batches_are_kept_model_and_criterion_can_be_copied(path):
    model, optimizer = setup()
    criterion = nn.CrossEntropyLoss()
    recorder = record(model, optimizer, path, criterion=criterion, data="train")
    for copied in (copy.deepcopy((model, criterion)), pickle.loads(pickle.dumps((model, criterion)))):
        copied[1](copied[0](X), Y).backward()
    assert not recorder.stored_loss._seen._calls
    average = copy.deepcopy(model)
    average(X)
    assert not average._forward_hooks  # it may be scripted, which hooks stand in the way of
    assert not average._forward_pre_hooks
    assert b"landscape_hooks" not in pickle.dumps((model, criterion))
    train(model, optimizer, criterion)
    recorder.close()
    assert probe(path).samples == 24


def test_two_recordings_may_listen_to_one_criterion_and_one_model(tmp_path):
    (model, optimizer), (other, second), criterion = setup(), setup(), nn.CrossEntropyLoss()
    second.param_groups[0]["lr"] = 0.5
    recorders = [
        record(one, each, tmp_path / name, criterion=criterion, data="train", every=1, samples=samples)
        for name, one, each, samples in (
            ("a", model, optimizer, 16),
            ("b", other, second, 99),
            ("c", model, optimizer, 99),
        )
    ]
    for inputs, targets in BATCHES:
        train(model, optimizer, criterion, [(inputs, targets)])
        train(other, second, criterion, [(inputs + 1, targets)])
    for recorder in recorders:
        recorder.close()
    assert [probe(tmp_path / name).samples for name in "abc"] == [16, 24, 24]
    expected = by_hand(tmp_path / "b", lambda m: F.cross_entropy(m(X + 1), Y), other)
    np.testing.assert_allclose(losses(tmp_path / "b"), expected, rtol=1e-5)
    assert not model._forward_hooks
    assert not criterion._forward_hooks


@pytest.mark.parametrize("loss", [{"criterion": F.cross_entropy}, {"objective": nn.CrossEntropyLoss()}])
def test_a_loss_that_is_not_heard_is_refused_before_anything_is_written(path, loss):
    model, optimizer = setup()
    with pytest.raises(LandscapeError, match=r"data='train' with the .*Expected a criterion that is a module"):
        record(model, optimizer, path, data="train", **loss)
    assert not path.exists()


def test_a_resumed_run_is_not_asked_again(path):
    model, optimizer = setup()
    criterion = nn.CrossEntropyLoss()
    with record(model, optimizer, path, every=1, criterion=criterion, data="train", samples=8):
        train(model, optimizer, criterion)
    before = probe(path).digest
    with record(model, optimizer, path, every=1, criterion=criterion, data="train", if_exists="resume") as recorder:
        assert not recorder.stored_loss.watching
        train(model, optimizer, criterion, [(X + 1, Y)])
    assert probe(path).digest == before
