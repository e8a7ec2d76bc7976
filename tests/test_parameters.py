"""A model's tensors as one vector: the order is torch's own, the two directions are inverse, names do not change."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from landscape_hooks.errors import LayoutError
from landscape_hooks.trajectory.modules import unwrap
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout


class Zoo(nn.Module):
    """Tied, complex, parametrized, frozen, half-precision and scalar parameters, and a child called `module`."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(()))
        self.odd = nn.Parameter(torch.randn(3))
        self.wave = nn.Parameter(torch.randn(2, 2, dtype=torch.complex64))
        self.module = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 2, 3))
        self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.coarse = nn.Linear(2, 2).to(torch.bfloat16)
        self.coarse.requires_grad_(False)
        self.register_buffer("table", torch.randn(3))
        self.register_buffer("count", torch.tensor(7))


@pytest.fixture
def zoo():
    torch.manual_seed(0)
    return Zoo()


def test_order_and_values_are_those_of_named_parameters(zoo):
    layout = ParameterLayout.of(zoo)
    assert layout.names == tuple(name for name, _ in zoo.named_parameters())
    theta = layout.flatten(zoo)
    pieces = [torch.view_as_real(p).reshape(-1) if p.is_complex() else p.reshape(-1).float() for p in zoo.parameters()]
    assert torch.equal(theta, torch.cat(pieces))
    assert [e.offset for e in layout] == [sum(len(p) for p in pieces[:i]) for i in range(len(pieces))]


def test_a_real_model_gives_the_vector_of_torch():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    assert torch.equal(ParameterLayout.of(model).flatten(model), nn.utils.parameters_to_vector(model.parameters()))


def test_assign_is_the_inverse_of_flatten(zoo):
    layout, buffers = ParameterLayout.of(zoo), ParameterLayout.of_buffers(zoo)
    other = Zoo()
    layout.assign(other, layout.flatten(zoo))
    buffers.assign(other, buffers.flatten(zoo))
    for (name, expected), found in zip(zoo.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    assert other.head.weight is other.embed.weight


def test_views_are_the_named_tensors_and_carry_gradients(zoo):
    layout = ParameterLayout.of(zoo)
    theta = layout.flatten(zoo).requires_grad_()
    views = layout.views(theta)
    for name, parameter in zoo.named_parameters():
        assert views[name].dtype == parameter.dtype
        assert torch.equal(views[name], parameter)
    views["wave"].abs().square().sum().backward()
    expected = torch.zeros(layout.size)
    expected[layout["wave"].slice] = 2 * theta.detach()[layout["wave"].slice]
    torch.testing.assert_close(theta.grad, expected)


def test_entries_say_what_owns_the_tensor(zoo):
    layout = ParameterLayout.of(zoo)
    owners = {entry.name: (entry.module, entry.groups) for entry in layout}
    assert owners["scale"] == ("Module", 1)
    assert owners["module.0.weight"] == ("Conv2d", 2)
    assert owners["module.1.weight"] == ("BatchNorm2d", 1)
    assert owners["module.2.weight"] == ("ConvTranspose2d", 1)
    assert owners["embed.weight"] == ("Embedding", 1)
    assert owners["norm.parametrizations.weight.original1"] == ("Linear", 1)
    assert layout["embed.weight"].aliases == ("head.weight",)
    assert layout["head.weight"] is layout["embed.weight"]
    assert not layout["coarse.weight"].trainable
    assert layout["odd"].trainable


def test_multihead_attention_owns_its_projection():
    layout = ParameterLayout.of(nn.MultiheadAttention(8, 2))
    assert layout["in_proj_weight"].module == "MultiheadAttention"
    assert layout["out_proj.weight"].module == "Linear"


def test_integer_buffers_are_left_alone(zoo):
    names = ParameterLayout.of_buffers(zoo).names
    assert set(names) == {"module.1.running_mean", "module.1.running_var", "table"}


def test_storage_type_is_float64_only_where_something_is():
    assert ParameterLayout.of(nn.Linear(2, 2).half()).dtype == "float32"
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    layout = ParameterLayout.of(mixed)
    assert layout.dtype == "float64"
    assert layout.flatten(mixed).dtype == torch.float64


@pytest.mark.everyday(2)
@pytest.mark.parametrize("wrap", ["compile", "submodule", "parallel", "averaged", "nested"])
def test_names_do_not_change_under_wrappers(wrap):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2)))
    plain = ParameterLayout.of(model)
    if wrap == "compile":
        wrapped = torch.compile(model)
    elif wrap == "submodule":
        wrapped = nn.Sequential(model[0], torch.compile(model[1]))
    elif wrap == "parallel":
        wrapped = nn.DataParallel(model)
    elif wrap == "averaged":
        wrapped = torch.optim.swa_utils.AveragedModel(model)
    else:
        wrapped = torch.compile(nn.DataParallel(nn.Sequential(model[0], torch.compile(model[1]))))
    assert ParameterLayout.of(wrapped) == plain
    assert torch.equal(plain.flatten(wrapped), plain.flatten(model))
    plain.check(wrapped)


def test_unwrap_leaves_a_child_called_module_alone(zoo):
    assert unwrap(zoo) is zoo
    assert unwrap(torch.compile(zoo)) is zoo
    assert "module.0.weight" in ParameterLayout.of(torch.compile(zoo)).names


def test_values_are_looked_up_anew(zoo):
    layout = ParameterLayout.of(zoo)
    zoo.norm.bias.data = torch.full((3,), 5.0)
    zoo.module.load_state_dict({k: v.clone() * 0 + 2 for k, v in zoo.module.state_dict().items()}, assign=True)
    views = layout.views(layout.flatten(zoo))
    assert views["norm.bias"].eq(5).all()
    assert views["module.0.weight"].eq(2).all()


def test_manifest_round_trip_is_plain_json(zoo):
    import json

    layout = ParameterLayout.of(zoo)
    again = ParameterLayout.from_json(json.loads(json.dumps(layout.to_json())))
    assert again == layout
    assert isinstance(again[0], ParameterEntry)


def test_channels_last_keeps_the_logical_order():
    model = nn.Conv2d(3, 4, 3)
    expected = model.weight.detach().clone().reshape(-1)
    model = model.to(memory_format=torch.channels_last)
    assert torch.equal(ParameterLayout.of(model).flatten(model)[: expected.numel()], expected)


def test_another_model_is_refused_by_the_tensor_that_differs():
    layout = ParameterLayout.of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    with pytest.raises(LayoutError, match=r"'1\.weight' has shape \[5, 4\].*shape \[2, 4\]"):
        layout.check(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
    with pytest.raises(LayoutError, match=r"no parameter '1\.weight'"):
        layout.check(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(LayoutError, match=r"has a parameter '2\.weight'"):
        layout.check(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)))
    with pytest.raises(LayoutError, match=r"no parameter '1\.bias'"):
        layout.flatten(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)))
    with pytest.raises(LayoutError, match=r"vector of shape \(3,\)"):
        layout.views(torch.zeros(3))


def test_models_without_values_are_refused():
    with pytest.raises(LayoutError, match="not initialised yet"):
        ParameterLayout.of(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(LayoutError, match="no floating-point parameters"):
        ParameterLayout.of(nn.ReLU())
    with torch.device("meta"):
        ghost = nn.Linear(2, 2)
    with pytest.raises(LayoutError, match="'weight' is on the meta device"):
        ParameterLayout.of(ghost).flatten(ghost)


def test_the_manifest_is_read_without_torch():
    code = "import sys, landscape_hooks.trajectory.parameters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tied_tensors_that_are_two_by_now_are_found():
    """Loading by assignment unties them; `assign` then writes into the first one alone."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    layout = ParameterLayout.of(model)
    assert layout.untied(model) == []
    model["b"].weight = nn.Parameter(torch.zeros(2, 2))
    ((first, alias),) = layout.untied(model)
    assert first is model["a"].weight
    assert alias is model["b"].weight
