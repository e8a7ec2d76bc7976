"""Random directions have the trained filters' norms, by the definition of a filter for each kind of layer."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane.directions import random
from landscape_hooks.trajectory.parameters import ParameterLayout


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(3, 4, 5)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.conv3 = nn.Conv3d(2, 3, 2)
        self.up1 = nn.ConvTranspose1d(3, 5, 4)
        self.up2 = nn.ConvTranspose2d(6, 8, 3, groups=2)
        self.up3 = nn.ConvTranspose3d(2, 3, 2)
        self.linear = nn.Linear(7, 5)
        self.bilinear = nn.Bilinear(3, 4, 5)
        self.embedding = nn.Embedding(11, 6)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
        self.lstm = nn.LSTM(3, 4)
        self.norm1 = nn.BatchNorm2d(4)
        self.norm2 = nn.LayerNorm((3, 4))
        self.norm3 = nn.GroupNorm(2, 4)
        self.norm4 = nn.RMSNorm((3, 4))
        self.norm5 = nn.InstanceNorm1d(4, affine=True)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape))


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    net = Net()
    layout = ParameterLayout.of(net)
    theta = layout.flatten(net).numpy()
    found = random.directions(theta, layout, seed=3)
    return net, layout.views(torch.from_numpy(theta)), [layout.views(torch.from_numpy(v)) for v in found.vectors]


FILTERS = {
    "conv1.weight": lambda w: list(w),
    "conv2.weight": lambda w: list(w),
    "conv3.weight": lambda w: list(w),
    "up1.weight": lambda w: [w[:, o] for o in range(5)],
    # group g maps inputs 3g..3g+2 to outputs 4g..4g+3
    "up2.weight": lambda w: [w[3 * g : 3 * g + 3, o] for g in range(2) for o in range(4)],
    "up3.weight": lambda w: [w[:, o] for o in range(3)],
    "linear.weight": lambda w: list(w),
    "bilinear.weight": lambda w: list(w),
    "embedding.weight": lambda w: list(w),
    # queries, keys and values one below the other, a row for each feature of each
    "attention.in_proj_weight": lambda w: [row for block in w.chunk(3) for row in block],
    "attention.out_proj.weight": lambda w: list(w),
    "cross.q_proj_weight": lambda w: list(w),
    "cross.k_proj_weight": lambda w: list(w),
    "cross.v_proj_weight": lambda w: list(w),
    "cross.out_proj.weight": lambda w: list(w),
    "lstm.weight_ih_l0": lambda w: list(w),
    "lstm.weight_hh_l0": lambda w: list(w),
}


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_has_the_norm_of_the_trained_one(drawn, name):
    _, trained, directions = drawn
    for direction in directions:
        for filter_of_direction, filter_of_weights in zip(
            FILTERS[name](direction[name]), FILTERS[name](trained[name]), strict=True
        ):
            torch.testing.assert_close(filter_of_direction.norm(), filter_of_weights.norm())


def test_the_filter_of_a_grouped_transposed_convolution_is_what_makes_one_output_channel():
    """Zeroing filter (group 1, output 2) of 2 groups with 4 outputs each must silence channel 6 and no other."""
    layer = nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False)
    entry = ParameterLayout.of(layer).entries[0]
    flat = layer.weight.detach().reshape(-1).clone()
    view, numbered = random.filters(flat, entry)
    assert numbered == (0, 2)
    view[1, :, 2] = 0
    with torch.no_grad():
        layer.weight.copy_(flat.reshape(layer.weight.shape))
        out = layer(torch.ones(1, 6, 4, 4))
    silent = [c for c in range(8) if out[0, c].abs().max() == 0]
    assert silent == [6]


def test_what_has_no_filter_stays_zero(drawn):
    _, trained, directions = drawn
    zero = {n for n, w in trained.items() if w.ndim < 2} | {
        "norm2.weight",
        "norm2.bias",
        "norm4.weight",
        "frozen.weight",
    }
    zero |= {"attention.bias_k", "attention.bias_v"}
    for direction in directions:
        assert {n for n, v in direction.items() if not v.any()} == zero
    assert set(FILTERS) | zero == set(trained)


def test_other_norms_by_definition():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    layout = ParameterLayout.of(net)
    theta = layout.flatten(net)
    layer = random.directions(theta.numpy(), layout, norm="layer").vectors
    model = random.directions(theta.numpy(), layout, norm="model").vectors
    plain = random.directions(theta.numpy(), layout, norm="none", seed=1).vectors
    for vector in layer:
        views = layout.views(torch.from_numpy(vector))
        torch.testing.assert_close(views["0.weight"].norm(), net[0].weight.norm())
        assert not views["0.bias"].any()
    np.testing.assert_allclose(np.linalg.norm(model, axis=1), theta.norm(), rtol=1e-5)
    assert plain.all()
    assert 0.7 < plain.std() < 1.3
    with pytest.raises(PlaneError, match="norm"):
        random.directions(theta.numpy(), layout, norm="tensor")


def test_the_seed_decides():
    net = nn.Linear(4, 6)
    layout = ParameterLayout.of(net)
    theta = layout.flatten(net).numpy()
    same = [random.directions(theta, layout, seed=5).vectors for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(same[0], random.directions(theta, layout, seed=6).vectors)
    state = torch.get_rng_state()
    random.directions(theta, layout, seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_tied_weights_count_once():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    layout = ParameterLayout.of(net)
    assert random.directions(layout.flatten(net).numpy(), layout).vectors.shape == (2, 16)


def test_running_statistics_are_no_part_of_a_direction():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    layout = ParameterLayout.of(net)
    found = random.directions(layout.flatten(net).detach().numpy(), layout)
    assert found.vectors.shape[1] == sum(p.numel() for p in net.parameters())
    assert not any("running" in name for name in layout.names)


@pytest.mark.parametrize("norm", ["filter", "layer", "model"])
def test_a_model_that_is_frozen_as_a_whole_was_trained(norm):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theta = ParameterLayout.of(net).flatten(net).numpy()
    trained = random.directions(theta, ParameterLayout.of(net), seed=3, norm=norm)
    frozen = random.directions(theta, ParameterLayout.of(net.requires_grad_(False)), seed=3, norm=norm)
    assert trained.vectors.any(axis=1).all()
    np.testing.assert_array_equal(frozen.vectors, trained.vectors)


def test_directions_that_would_be_zero_are_a_sentence():
    """Only biases move."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for layer in net:
        layer.weight.requires_grad_(False)
    layout = ParameterLayout.of(net)
    theta = layout.flatten(net).numpy()
    with pytest.raises(PlaneError, match="random directions are zero"):
        random.directions(theta, layout, seed=3)
    assert random.directions(theta, layout, seed=3, norm="none").vectors.any()
