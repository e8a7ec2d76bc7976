"""Hessian planes of losses whose fast kernels have no second derivative, or a wrong one."""

import json
import math

import numpy as np
import pytest
import torch
import zarr
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape_hooks.errors import ObjectiveError
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.double_backward import plain_kernels
from landscape_hooks.objective.graph.graph import LossGraph
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.directions import hessian
from landscape_hooks.trajectory.parameters import ParameterLayout

X, Y = torch.randn(12, 5, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def by_hand(q, k, v, attn_mask=None, is_causal=False, enable_gqa=False):
    """Attention by its definition (Vaswani et al. 2017)."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:]).tril().bool()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1) @ v


def insisting(*args, **kwargs):
    """As in code that chooses its kernel itself."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(*args, **kwargs)


class Attention(nn.Module):
    """Heads of four numbers, two of keys and values where queries share them."""

    def __init__(self, attention, **options):
        super().__init__()
        torch.manual_seed(1)
        self.q, self.kv, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.attention, self.options = attention, options

    def forward(self, x):
        def heads(y):
            return y.view(*x.shape[:2], -1, 4).transpose(1, 2)

        q, (k, v) = heads(self.q(x)), (heads(y) for y in self.kv(x).chunk(2, -1))
        if not self.options.get("enable_gqa"):
            k, v = torch.cat([k, v], 1), torch.cat([v, k], 1)
        y = self.attention(q, k, v, **self.options)
        return self.head(y.transpose(1, 2).reshape(*x.shape[:2], 16).mean(1))


class Encoder(nn.Module):
    """Its layer has a fast path of its own in evaluation mode."""

    def __init__(self, **options):
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x, src_key_padding_mask=torch.zeros(x.shape[:2], dtype=torch.bool)).mean(1))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3))
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.gelu(self.norm(self.conv(x.transpose(1, 2)))).mean(-1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def eigenvalues(model, *, live, change=lambda text: text, dtype=torch.float32):
    """The two largest with their vectors, and the loss; of a stored loss after `change` of its JSON."""
    model.to(dtype).eval()
    x = X.to(dtype)
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    if live:
        objective = Objective.of(model, criterion=nn.CrossEntropyLoss(), data=(x, Y))
    else:
        root = zarr.group(zarr.storage.MemoryStore())
        root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
        capture(root, model, criterion=nn.CrossEntropyLoss(), data=(x, Y))
        objective = Objective.load(root)
        graph = LossGraph.from_json(change(objective.kernel.graph.to_json()))
        objective = objective.with_kernel(type(objective.kernel)(graph), per_sample=objective.per_sample)
    theta, state = layout.flatten(model), buffers.flatten(model)
    found = hessian.directions(objective, theta.numpy(), state.numpy(), statistics="running", rise=1.0)
    return found, lambda weights: objective.loss(weights, state)


MASK = torch.ones(5, 5).triu().bool()


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    ("options", "live"),
    [
        *(({}, True), ({"is_causal": True}, True), ({"enable_gqa": True}, True), ({"attn_mask": MASK}, True)),
        *(({}, False), ({"attn_mask": MASK}, False)),
    ],
)
def test_attention_has_the_hessian_of_its_definition(options, live):
    found, _ = eigenvalues(Attention(F.scaled_dot_product_attention, **options), live=live)
    expected, _ = eigenvalues(Attention(by_hand, **options), live=True)
    np.testing.assert_allclose(found.attrs["eigenvalues"], expected.attrs["eigenvalues"], rtol=1e-4)
    assert abs(found.vectors[0] @ expected.vectors[0]) == pytest.approx(1, abs=1e-3)


def test_a_kernel_that_the_model_insists_on_gives_way():
    found, _ = eigenvalues(Attention(insisting), live=True)
    expected, _ = eigenvalues(Attention(by_hand), live=True)
    np.testing.assert_allclose(found.attrs["eigenvalues"], expected.attrs["eigenvalues"], rtol=1e-4)


def test_a_graph_that_names_the_fast_kernel_is_differentiated_too():
    """As torch before 2.6 exported it: the kernel itself, with two results."""

    def older(text):
        plain = json.loads(text)
        (at,) = (i for i, n in enumerate(plain["nodes"]) if "scaled_dot_product" in n["op"])
        node = plain["nodes"][at]
        whole = {**node, "name": "both", "op": "aten._scaled_dot_product_flash_attention_for_cpu.default"}
        first = {"name": node["name"], "op": "operator.getitem", "args": [{"ref": "both"}, 0], "kwargs": {}}
        plain["nodes"][at : at + 1] = [whole, first]
        return json.dumps(plain)

    found, _ = eigenvalues(Attention(F.scaled_dot_product_attention), live=False, change=older)
    expected, _ = eigenvalues(Attention(by_hand), live=True)
    np.testing.assert_allclose(found.attrs["eigenvalues"], expected.attrs["eigenvalues"], rtol=1e-4)


@pytest.mark.everyday(2)
@pytest.mark.parametrize(
    ("make", "live"),
    [
        (lambda: Encoder(activation="gelu"), True),
        (lambda: Encoder(norm_first=True, activation="gelu"), False),
        (Recurrent, True),
        (Normed, True),  # torch 2.14 takes the norm for a constant in the second derivative
        (Normed, False),
    ],
)
def test_the_curvature_is_that_of_the_gradient(make, live):
    """H v against the difference of two gradients along v, in float64."""
    torch.manual_seed(2)
    found, loss = eigenvalues(make(), live=live, dtype=torch.float64)
    v = torch.from_numpy(found.vectors[0]).double()
    v /= v.norm()
    origin = torch.from_numpy(found.origin)

    def gradient(weights):
        weights = weights.clone().requires_grad_()
        return torch.autograd.grad(loss(weights), weights)[0]

    product = (gradient(origin + 1e-5 * v) - gradient(origin - 1e-5 * v)) / 2e-5
    value = found.attrs["eigenvalues"][0]
    assert float((product - value * v).norm()) < 1e-3 * value


def test_without_vendor_kernels_the_values_are_the_same():
    """What is tried last."""
    torch.manual_seed(3)
    model = Recurrent()
    with torch.no_grad():
        expected = model(X)
        with plain_kernels():
            torch.testing.assert_close(model(X), expected)
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("live", [True, False], ids=["live", "stored"])
def test_what_cannot_be_differentiated_twice_is_named(live):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(7, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.bag((3 + x[..., 0]).long().clamp(0, 6)))

    with pytest.raises(ObjectiveError, match=r"twice: torch has no derivative of '_embedding_bag\w*backward'.*pca"):
        eigenvalues(Bag(), live=live)
