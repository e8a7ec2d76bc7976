"""The loss at θ: captured and live, against a plain loop over the user's own model."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks.errors import DataError, ObjectiveError, RecordingWarning
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.kernels import Tuning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.parameters import ParameterLayout


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 4 * 4, 10),
    )  # fmt: skip


def images(n=50):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 10, (n,), generator=generator))


def captured(model, **arguments):
    root = zarr.group(zarr.storage.MemoryStore())
    root.attrs.put({"layout": ParameterLayout.of(model).to_json(),
                    "buffer_layout": ParameterLayout.of_buffers(model).to_json()})  # fmt: skip
    capture(root, model, **arguments)
    return Objective.load(root)


def here(model):
    return ParameterLayout.of(model).flatten(model), ParameterLayout.of_buffers(model).flatten(model)


@pytest.fixture(params=["captured", "live"])
def objective_of(request):
    return captured if request.param == "captured" else Objective.of


def test_loss_and_standard_error_are_those_of_a_plain_loop(objective_of):
    model, data = convolutional(), images(50)
    model.train()(data.tensors[0])  # running statistics that are not the initial ones
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=DataLoader(data, batch_size=16))
    model.eval()
    with torch.no_grad():
        each = nn.CrossEntropyLoss(reduction="none")(model(data.tensors[0]), data.tensors[1]).double()
    found = objective.evaluate(*here(model))
    assert objective.per_sample
    assert found.samples == 50
    assert found.mean == pytest.approx(each.mean().item(), rel=1e-6)
    assert found.stderr == pytest.approx(each.std().item() / math.sqrt(50), rel=1e-5)


def test_batch_statistics_are_those_of_the_recorded_batches(objective_of):
    model, data = convolutional(), images(48)
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=DataLoader(data, batch_size=16))
    model.eval()
    model[1].train()
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(x), y).item() for x, y in DataLoader(data, batch_size=16)]
    assert objective.evaluate(*here(model), statistics="batch").mean == pytest.approx(np.mean(losses), rel=1e-6)


def test_recalibrated_statistics_are_those_of_update_bn(objective_of):
    model, data = convolutional(), images(48)
    loader = DataLoader(data, batch_size=16)
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=loader)
    weights, buffers = here(model)
    torch.optim.swa_utils.update_bn(loader, model)
    model.eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1]).item()
    assert objective.evaluate(weights, buffers, statistics="recalibrate").mean == pytest.approx(expected, rel=1e-5)


def test_loss_moves_with_the_weights_given_and_is_differentiable(objective_of):
    model, data = convolutional().eval(), images(20)
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=DataLoader(data, batch_size=8))
    weights, buffers = here(model)
    moved = (weights * 0.5).requires_grad_()
    loss = objective.loss(moved, buffers)
    (gradient,) = torch.autograd.grad(loss, moved)
    ParameterLayout.of(model).assign(model, moved.detach())
    own = nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1])
    own.backward()
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_evaluation_is_repeatable_to_the_bit(objective_of):
    model = convolutional()
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=images(40))
    for statistics in ("running", "batch", "recalibrate"):
        first = objective.evaluate(*here(model), statistics=statistics)
        assert objective.evaluate(*here(model), statistics=statistics) == first


def test_the_users_model_and_random_states_come_back_untouched():
    model, data = convolutional(), images(40)
    model.train()
    model[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    loader = DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5))
    states = torch.get_rng_state(), loader.generator.get_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    captured(model, criterion=nn.CrossEntropyLoss(), data=loader)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(loader.generator.get_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def test_whole_batches_are_kept_until_there_are_enough_samples(objective_of):
    model, data = convolutional(), images(50)
    objective = objective_of(model, criterion=nn.CrossEntropyLoss(), data=DataLoader(data, batch_size=16), samples=20)
    assert [n for _, n in objective.probe.batches()] == [16, 16]
    x, y = (torch.cat(leaf) for leaf in zip(*(leaves for leaves, _ in objective.probe.batches()), strict=True))
    model.eval()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x), y).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


def test_batches_weigh_by_the_class_weights_of_the_targets_that_count(objective_of):
    model, data = convolutional().eval(), images(30)
    criterion = nn.CrossEntropyLoss(weight=torch.linspace(0.1, 2, 10), ignore_index=3)
    objective = objective_of(model, criterion=criterion, data=DataLoader(data, batch_size=10))
    assert not objective.per_sample
    with torch.no_grad():
        whole = criterion(model(data.tensors[0]), data.tensors[1]).item()
    found = objective.evaluate(*here(model))
    assert found.mean == pytest.approx(whole, rel=1e-6)
    assert 0 < found.stderr < 1


class Pair(nn.Module):
    """Two inputs, a tied weight, an integer buffer, a constant tensor, and a no_grad block inside."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(32))
        self.register_buffer("scale", torch.tensor(0.5))
        self.offset = torch.linspace(0, 1, 6)

    def forward(self, tokens, mask):
        with torch.no_grad():
            place = torch.cos(self.positions[: tokens.shape[1]].float()) * self.scale
        hidden = self.embed(tokens) + place[None, :, None] + self.offset
        return self.head(hidden) * mask[..., None]


def token_loss(model, batch):
    logits = model(batch["tokens"], batch["mask"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten())


def test_mappings_tied_weights_constants_and_varying_lengths(objective_of):
    torch.manual_seed(0)
    model = Pair()
    batches = [{"tokens": torch.randint(0, 11, (n, t)), "mask": torch.rand(n, t)} for n, t in ((6, 9), (6, 9), (4, 5))]
    objective = objective_of(model, objective=token_loss, data=batches)
    assert objective.layout.size == 66
    with torch.no_grad():
        tokens = sum(b["tokens"].numel() for b in batches)
        expected = sum(token_loss(model, b).item() * b["tokens"].numel() for b in batches) / tokens
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


def test_a_forward_that_belongs_to_another_model_is_refused():
    model, other = nn.Linear(4, 1), nn.Linear(4, 1)
    model.forward = other.forward
    with pytest.raises(ObjectiveError, match="none of the model's parameters"):
        captured(model, criterion=nn.MSELoss(), data=(torch.randn(8, 4), torch.randn(8, 1)))


def test_a_model_tied_to_its_batch_size_loses_the_batches_of_other_sizes_and_says_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x.view(8, 4))

    data = TensorDataset(torch.randn(20, 4), torch.randn(20, 1))
    model = Fixed()
    with pytest.warns(RecordingWarning, match="1 batch of 4 samples was left out"):
        objective = captured(model, criterion=nn.MSELoss(), data=DataLoader(data, batch_size=8))
    assert objective.samples == 16  # the uneven last batch cannot be evaluated by such a model
    assert objective.attrs["left_out"] == {"batches": 1, "samples": 4}
    with torch.no_grad():
        expected = nn.functional.mse_loss(model.linear(data.tensors[0][:16]), data.tensors[1][:16]).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


def test_a_branch_on_the_data_is_stored_for_these_data_and_no_others():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else self.linear(-x)

    model, data = Branching(), (torch.randn(8, 4), torch.randn(8, 1))
    objective = captured(model, criterion=nn.MSELoss(), data=data)  # the course of these samples
    expected = nn.functional.mse_loss(model(data[0]), data[1]).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ObjectiveError, match="--objective module:function"):
        objective.with_data((-data[0], data[1]))
    live = Objective.of(Branching(), criterion=nn.MSELoss(), data=(torch.randn(8, 4), torch.randn(8, 1)))
    assert math.isfinite(live.evaluate(torch.zeros(5), torch.zeros(0)).mean)


def test_a_random_model_has_fixed_draws():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.rand_like(x[:, :1])

    model, data = Noisy(4, 1), (torch.randn(8, 4), torch.randn(8, 1))
    objective = captured(model, criterion=nn.MSELoss(), data=data)
    torch.manual_seed(0)
    with torch.no_grad():
        assert objective.evaluate(*here(model)).mean == pytest.approx(nn.MSELoss()(model(data[0]), data[1]).item())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": nn.CrossEntropyLoss(), "data": DataLoader(TensorDataset(torch.zeros(0, 2)))}, "no batch"),
        ({"criterion": nn.CrossEntropyLoss(), "data": []}, "no batch"),
        ({"criterion": nn.CrossEntropyLoss(), "data": [torch.zeros(4, 1, 8, 8)]}, "input, target"),
        ({"criterion": nn.CrossEntropyLoss(), "data": 3}, "DataLoader"),
        (
            {"criterion": nn.CrossEntropyLoss(), "data": (torch.zeros(4, 3), torch.zeros(4).long())},
            "cannot be computed",
        ),
        ({"criterion": nn.CrossEntropyLoss(), "data": images(4), "samples": 0}, "at least 1"),
    ],
)
def test_unusable_data_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        captured(convolutional(), **arguments)


def test_damaged_samples_are_noticed():
    root = zarr.group(zarr.storage.MemoryStore())
    model = convolutional()
    root.attrs.put({"layout": ParameterLayout.of(model).to_json(), "buffer_layout": []})
    capture(root, model, criterion=nn.CrossEntropyLoss(), data=images(8))
    root["objective/data/0/0"][3] = 7.0
    with pytest.raises(ObjectiveError, match="digest"):
        Objective.load(root)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"inputs":[],"nodes":[],"outputs":[{"ref":"x"}]}',
        '{"inputs":[],"nodes":[{"name":"a","op":"aten.from_file.default","args":["/etc/passwd"],"kwargs":{}}],"outputs":[]}',
        '{"inputs":[],"nodes":[{"name":"a","op":"aten._sparse_csr_tensor_unsafe.default","args":[],"kwargs":{}}],'
        '"outputs":[]}',
        '{"inputs":[],"nodes":[{"name":"a","op":"os.system","args":["true"],"kwargs":{}}],"outputs":[]}',
        '{"inputs":[],"nodes":[{"name":"a","op":"aten.__class__.mro","args":[],"kwargs":{}}],"outputs":[]}',
        '{"inputs":[],"nodes":[{"name":"a","op":"aten.add.Tensor","args":[{"ref":"b"}],"kwargs":{}}],"outputs":[]}',
    ],
)  # fmt: skip
def test_a_strangers_graph_runs_nothing_but_tensor_operations(text):
    with pytest.raises(ObjectiveError, match="cannot be read"):
        LossGraph.from_json(text)


def test_a_loss_that_changes_its_input_in_place_is_still_repeatable(objective_of):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x.mul_(2.0))

    data = (torch.randn(8, 4), torch.randn(8, 1))
    model = InPlace()
    objective = objective_of(model, criterion=nn.MSELoss(), data=data)
    assert objective.mutates
    with torch.no_grad():
        expected = nn.functional.mse_loss(model.linear(2 * data[0]), data[1]).item()
    for _ in range(3):
        assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


def test_a_model_that_asks_for_the_length_of_its_batch_is_captured_for_that_length():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            x = torch.relu(x)
            return self.head(x.view(len(x), -1))

    torch.manual_seed(0)
    model = Flat()
    data = TensorDataset(torch.randn(40, 4, 4), torch.randint(0, 3, (40,)))
    objective = captured(model, criterion=nn.CrossEntropyLoss(), data=DataLoader(data, batch_size=16))
    assert objective.samples == 40  # the last batch, of eight, has a graph of its own
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1]).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


class Contrast(nn.Module):
    """A loss between the samples of a batch: each has to be told from all others (InfoNCE)."""

    def forward(self, output, target):
        similarity = nn.functional.normalize(output) @ nn.functional.normalize(target).T
        return nn.functional.cross_entropy(similarity / 0.1, torch.arange(len(output)))


def test_a_loss_between_samples_is_never_cut_into_smaller_batches(objective_of):
    torch.manual_seed(0)
    model, data = nn.Linear(6, 4), TensorDataset(torch.randn(40, 6), torch.randn(40, 4))
    objective = objective_of(model, criterion=Contrast(), data=DataLoader(data, batch_size=20))
    assert not objective.per_sample
    with torch.no_grad():
        values = [Contrast()(model(x), y).item() for x, y in DataLoader(data, batch_size=20)]
    for chunk in (5, 20, 256):
        found = objective.tuned(Tuning(chunk=chunk)).evaluate(*here(model))
        assert found.mean == pytest.approx(np.mean(values), rel=1e-6)
        assert found.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(2), rel=1e-5)


def test_masks_joined_by_operators_are_captured():
    """`&`, `|` and `^` between tensors are operations whose names begin with underscores."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            inside = ((x > -1) & (x < 1)) | ((x > 2) ^ (x > 3))
            return torch.where(inside, self.linear(x), 0.0)

    torch.manual_seed(0)
    model, data = Masked(), (3 * torch.randn(12, 4), torch.randn(12, 4))
    objective = captured(model, criterion=nn.MSELoss(), data=data)
    with torch.no_grad():
        expected = nn.functional.mse_loss(model(data[0]), data[1]).item()
    assert objective.evaluate(*here(model)).mean == pytest.approx(expected, rel=1e-6)


def test_it_is_called_with_a_model_and_cannot_be_changed():
    model, data = nn.Linear(2, 1), (torch.ones(4, 2), torch.zeros(4, 1))
    called = Objective(model, criterion=nn.MSELoss(), data=data)
    by_name = Objective(model=model, criterion=nn.MSELoss(), data=data)
    same = Objective.of(model, criterion=nn.MSELoss(), data=data)
    weights, buffers = here(model)
    found = {objective.evaluate(weights, buffers).mean for objective in (called, by_name, same)}
    assert len(found) == 1
    assert isinstance(called, Objective)
    with pytest.raises(FrozenInstanceError):
        called.device = "cuda"
