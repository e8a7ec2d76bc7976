"""What is in doubt of the loss that is shown is said wherever the loss is: in the run, the report and every caption."""

import warnings

import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, analyze, record
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import RecordingWarning
from landscape_hooks.mesh.captions import caption
from landscape_hooks.mesh.mesh import Mesh

F = nn.functional
X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]


class Margin(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.eye(3))

    def forward(self, output, target):
        return F.cross_entropy(output @ self.centres.T, target)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zarr"


def trained(path, criterion, **more):
    """The recorder of three steps of a model, which it keeps alive."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        recorder = record(model, optimizer, path, every=1, criterion=criterion, data=BATCHES, **more)
        for _ in range(3):
            optimizer.zero_grad()
            criterion(model(X), Y).backward()
            optimizer.step()
    recorder.kept = model
    return recorder


def shown(surface):
    return caption(surface, Mesh.from_surface(surface).height)


def test_parameters_that_are_not_recorded_are_a_doubt_of_the_run(path):
    trained(path, Margin()).close()
    (doubt,) = Trajectory.open(path).doubts
    assert doubt.kind == "parameters"
    assert "not recorded" in doubt.said
    assert "criterion.centres" in doubt.said
    assert f"in doubt    {doubt.said}" in description_text(describe(path))
    surface = analyze(path, size=3, progress=False)
    assert surface.doubts == [doubt.said]
    assert surface.attrs["report"].count(f"In doubt: {doubt.said}") == 1
    assert f"in doubt: {doubt.said[0].lower()}{doubt.said[1:-1]}" in shown(surface)


def test_the_doubt_of_a_stored_loss_stays_when_recording_goes_on(path):
    trained(path, Margin()).close()
    trained(path, Margin(), if_exists="resume", step=3).close()
    assert [doubt.kind for doubt in Trajectory.open(path).doubts] == ["parameters"]


def test_a_loss_that_is_stored_anew_leaves_no_doubt_of_the_one_before(path):
    recorder = trained(path, Margin())
    recorder.objective(criterion=nn.CrossEntropyLoss(), data=BATCHES)
    recorder.close()
    assert [doubt.kind for doubt in Trajectory.open(path).doubts] == []


@pytest.mark.everyday(1)
@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), "is a sum"),
        (lambda output, target: F.cross_entropy(output, target).sqrt(), "no plain mean"),
    ],
)
def test_a_mean_over_batches_that_is_not_the_loss_of_all_samples_is_in_every_picture(path, criterion, said):
    trained(path, criterion).close()
    assert Trajectory.open(path).doubts == ()  # what is stored is the training's own
    surface = analyze(path, size=3, progress=False)
    (doubt,) = surface.doubts
    assert said in doubt
    assert f"In doubt: {doubt}" in surface.attrs["report"]
    assert f"in doubt: {doubt[0].lower()}{doubt[1:-1]}" in shown(surface)


def test_of_one_batch_nothing_is_in_doubt(path):
    trained(path, nn.CrossEntropyLoss(reduction="sum"), samples=10).close()
    assert analyze(path, size=3, progress=False).doubts == []
