"""The mean over batches is the loss of all samples at once, however the loss weighs them: or that is said."""

import functools
import math
import warnings

import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.metrics import metric
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.parameters import ParameterLayout

F = nn.functional


def captured(model, **given):
    root = zarr.group(zarr.storage.MemoryStore())
    layouts = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root.attrs.put(dict(zip(("layout", "buffer_layout"), (each.to_json() for each in layouts), strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these loops are ordinary
        capture(root, model, **given)
    return Objective.load(root)


@pytest.fixture(params=[captured, Objective.of], ids=["captured", "live"])
def objective_of(request):
    return request.param


def here(model):
    return ParameterLayout.of(model).flatten(model), ParameterLayout.of_buffers(model).flatten(model)


torch.manual_seed(3)
X, Y = torch.randn(40, 4), torch.randint(0, 3, (40,))
HOLES = torch.where(torch.arange(40) % 7 < torch.arange(40) // 10, 255, Y)  # more and more of them
CLASSES = torch.tensor([0.2, 1.0, 3.0])
MASK = (torch.arange(40) % 5 > torch.arange(40) // 16).float()
BATCHES = ((0, 16), (16, 32), (32, 40))


def batches(*leaves):
    return [tuple(t[a:b] for t in leaves) for a, b in BATCHES]


WEIGHED = {
    "ignored labels": lambda m, b: F.cross_entropy(m(b[0]), b[1], ignore_index=255),
    "ignored labels and class weights": lambda m, b: F.cross_entropy(
        m(b[0]), b[1], weight=CLASSES, ignore_index=255, label_smoothing=0.1
    ),
    "nll": lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), 1), b[1], ignore_index=255),
    "mask": lambda m, b: (F.cross_entropy(m(b[0]), b[2], reduction="none") * b[3]).sum() / b[3].sum().clamp(min=1),
    "mean of squares": lambda m, b: (m(b[0]) - b[0][:, :3]).square().mean(),
    "mean and weight decay": lambda m, b: (
        F.cross_entropy(m(b[0]), b[1], ignore_index=255) * 0.5 + 0.1 * m.weight.square().sum()
    ),
    "sum over samples": lambda m, b: F.cross_entropy(m(b[0]), b[2], reduction="sum") / b[0].shape[0],
    "two means": lambda m, b: F.mse_loss(m(b[0]), b[0][:, :3]) + F.l1_loss(m(b[0]), b[0][:, :3]),
}


@pytest.mark.everyday(6)
@pytest.mark.parametrize("name", WEIGHED)
def test_the_mean_is_the_loss_of_all_samples_at_once(objective_of, name):
    model, loss = nn.Linear(4, 3), WEIGHED[name]
    objective = objective_of(model, objective=loss, data=batches(X, HOLES, Y, MASK))
    with torch.no_grad():
        whole = loss(model, (X, HOLES, Y, MASK)).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(whole, rel=1e-5)
    theta, buffers = here(model)
    assert objective.loss(theta, buffers).item() == pytest.approx(whole, rel=1e-5)
    assert objective.doubts(theta, buffers) == []


@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(ignore_index=255), functools.partial(F.cross_entropy, ignore_index=255, weight=CLASSES)],
)
def test_ignored_labels_that_only_later_batches_have_count_as_well(objective_of, criterion):
    model = nn.Linear(4, 3)
    objective = objective_of(model, criterion=criterion, data=batches(X, HOLES))
    with torch.no_grad():
        whole = criterion(model(X), HOLES).item()
    assert not (HOLES[:10] == 255).any()
    assert objective.evaluate(*here(model)).mean == pytest.approx(whole, rel=1e-6)


def test_of_sums_the_mean_over_batches_is_shown_and_said(objective_of):
    model, criterion = nn.Linear(4, 3), nn.CrossEntropyLoss(reduction="sum")
    objective = objective_of(model, criterion=criterion, data=batches(X, Y))
    with torch.no_grad():
        values = [criterion(model(x), y).item() for x, y in batches(X, Y)]
    assert objective.evaluate(*here(model)).mean == pytest.approx(sum(values) / 3, rel=1e-6)
    assert "a sum" in objective.doubts(*here(model))[0]


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, b: F.mse_loss(m(b[0]), b[0][:, :3]).sqrt(),
        lambda m, b: F.cross_entropy(m(b[0]), b[1], ignore_index=255) + F.mse_loss(m(b[0]), b[0][:, :3]),
    ],
)
def test_a_loss_that_is_no_mean_is_said_to_be_none(objective_of, loss):
    model = nn.Linear(4, 3)
    objective = objective_of(model, objective=loss, data=batches(X, HOLES))
    assert "no plain mean" in objective.doubts(*here(model))[0]


def test_a_loss_that_divides_by_the_length_of_its_batch_weighs_by_samples(objective_of):
    model = nn.Linear(4, 3)
    loss = lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum") / len(b[0])  # noqa: E731
    objective = objective_of(model, objective=loss, data=batches(X, Y))
    with torch.no_grad():
        assert objective.evaluate(*here(model)).mean == pytest.approx(loss(model, (X, Y)).item(), rel=1e-6)


def test_a_batch_without_a_label_that_counts_leaves_the_others_alone(objective_of):
    model, labels = nn.Linear(4, 3), Y.clone()
    labels[16:32] = -100
    objective = objective_of(model, objective=lambda m, b: F.cross_entropy(m(b[0]), b[1]), data=batches(X, labels))
    with torch.no_grad():
        whole = F.cross_entropy(model(X), labels).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(whole, rel=1e-6)


# -- accuracy -----------------------------------------------------------------------------------------------
IMAGES = torch.randn(40, 4, 5, 5)
PIXELS = IMAGES[:, :3].argmax(1)
PIXELS = torch.where(torch.rand(40, 5, 5) < torch.linspace(0, 1, 40)[:, None, None], 9, PIXELS)


def share(right, counts=None):
    right = right.float()
    return (right.mean() if counts is None else right[counts].mean()).item()


ACCURACIES = {
    "ignored pixels": (
        lambda: nn.Conv2d(4, 3, 1),
        (IMAGES, PIXELS),
        lambda m, b: F.cross_entropy(m(b[0]), b[1], ignore_index=9),
        lambda out, b: share(out.argmax(1) == b[1], b[1] != 9),
    ),
    "one-hot labels, some missing": (
        lambda: nn.Linear(4, 3),
        (X, F.one_hot(Y, 3).float() * (torch.arange(40) % 3 > 0)[:, None]),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        lambda out, b: share(out.argmax(1) == b[1].argmax(1), b[1].sum(1) > 0),
    ),
    "probabilities of pixels": (
        lambda: nn.Conv2d(4, 3, 1),
        (IMAGES, torch.softmax(IMAGES[:, :3], 1)),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        lambda out, b: share(out.argmax(1) == b[1].argmax(1)),
    ),
    "binary logits": (
        lambda: nn.Linear(4, 1),
        (X, (Y > 0).float()),
        lambda m, b: F.binary_cross_entropy_with_logits(m(b[0])[:, 0], b[1]),
        lambda out, b: share((out[:, 0] > 0) == (b[1] > 0.5)),
    ),
    "several labels a sample": (
        lambda: nn.Linear(4, 3),
        (X, (torch.randn(40, 3) > 0).float()),
        lambda m, b: F.binary_cross_entropy(torch.sigmoid(m(b[0])), b[1]),
        lambda out, b: share((out > 0) == (b[1] > 0.5)),
    ),
    "a mask": (
        lambda: nn.Linear(4, 3),
        (X, Y, MASK),
        lambda m, b: (F.cross_entropy(m(b[0]), b[1], reduction="none") * b[2]).sum() / b[2].sum(),
        lambda out, b: share(out.argmax(1) == b[1], b[2] > 0),
    ),
    "a class without weight": (
        lambda: nn.Linear(4, 3),
        (X, Y),
        lambda m, b: F.cross_entropy(m(b[0]), b[1], weight=torch.tensor([0.0, 1.0, 2.0])),
        lambda out, b: share(out.argmax(1) == b[1], b[1] > 0),
    ),
}


@pytest.mark.parametrize("name", ACCURACIES)
def test_accuracy_is_the_share_of_right_answers_among_the_labels_that_count(name):
    make, whole, loss, by_hand = ACCURACIES[name]
    model = make()
    objective = metric(captured(model, objective=loss, data=batches(*whole)), "accuracy")
    with torch.no_grad():
        expected = by_hand(model(whole[0]), whole)
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, abs=1e-6)


def test_accuracy_of_several_heads_is_refused_by_their_names():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.kind, self.colour = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.kind(self.body(x)), self.colour(self.body(x))

    def loss(model, batch):
        a, b = model(batch[0])
        return F.cross_entropy(a, batch[1]) + F.cross_entropy(b, batch[1] % 2)

    objective = captured(Two(), objective=loss, data=(X, Y))
    with pytest.raises(Exception, match=r"2 heads: kind, colour.*--metric module:function"):
        metric(objective, "accuracy")
    mixed = captured(
        nn.Linear(4, 3), data=(X, Y), objective=lambda m, b: F.cross_entropy(m(b[0]), b[1]) +
        F.cross_entropy(m(b[0]), b[1].flip(0))
    )  # fmt: skip
    with pytest.raises(Exception, match=r"heads|kinds of labels"):
        metric(mixed, "accuracy")


def test_without_a_label_that_counts_there_is_no_loss():
    ignored = batches(X, torch.full((40,), -100))
    objective = captured(nn.Linear(4, 3), criterion=nn.CrossEntropyLoss(), data=ignored)
    assert math.isnan(objective.evaluate(torch.zeros(15), torch.zeros(0)).mean)


@pytest.mark.everyday(4)
@pytest.mark.parametrize(
    "divisor",
    [
        lambda m: m.sum().clamp(min=1),
        lambda m: torch.clamp_min(m.sum(), 1.0),
        lambda m: m.sum() + 1e-8,
        lambda m: torch.maximum(m.sum(), torch.tensor(1.0)),
        lambda m: (0.3 * m).sum().clamp(min=1.0) / 0.3,
        lambda m: torch.where(m.sum() > 0, m.sum(), torch.ones(())),
    ],
)
def test_a_batch_of_which_the_mask_leaves_nothing_has_no_weight(objective_of, divisor):
    """The divisor is kept above zero, so that the loss of such a batch is 0: it is no batch of loss 0."""
    model, mask = nn.Linear(4, 3), MASK.clone()
    mask[16:32] = 0
    loss = lambda m, b: (F.cross_entropy(m(b[0]), b[1], reduction="none") * b[2]).sum() / divisor(b[2])  # noqa: E731
    objective = objective_of(model, objective=loss, data=batches(X, Y, mask))
    with torch.no_grad():
        whole = loss(model, (X, Y, mask)).item()
    if not objective.doubts(*here(model)):
        assert objective.evaluate(*here(model)).mean == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    "chosen",
    [lambda each: each.topk(5).values, lambda each: each.sort(descending=True).values[:5], lambda each: each.median()],
    ids=["top-k", "sorted", "median"],
)
def test_the_hardest_of_each_batch_are_not_those_of_all_samples(objective_of, chosen):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    hard = objective_of(
        model, objective=lambda m, b: chosen(F.cross_entropy(m(b[0]), b[1], reduction="none")).mean(),
        data=batches(X, Y), samples=40,
    )  # fmt: skip
    assert "no plain mean" in hard.doubts(*here(model))[0]
