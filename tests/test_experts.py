"""Mixtures of experts: routing that depends on the weights is stored, as products with every expert."""

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.trajectory.parameters import ParameterLayout

NAME = "transformers::grouped_mm_fallback"


@pytest.fixture(scope="module")
def grouped():
    """The operation as transformers has it, where transformers is not imported."""
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        yield torch.ops.transformers.grouped_mm_fallback
        return

    @torch.library.custom_op(NAME, mutates_args=())
    def product(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        parts = torch.tensor_split(rows, ends[:-1].tolist())
        return torch.cat([part @ weight for part, weight in zip(parts, weights, strict=True)])

    product.register_fake(lambda rows, weights, ends: rows.new_empty(rows.shape[0], weights.shape[2]))
    yield product


class Mixture(nn.Module):
    def __init__(self, product):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 4, 2))
        self.product = [product]

    def forward(self, x):
        odds, chosen = self.gate(x).softmax(1).max(1)
        order = chosen.argsort(stable=True)
        ends = torch.histc(chosen.float(), bins=3, min=0, max=2).cumsum(0).int()
        found = self.product[0](x[order], self.experts, ends)
        return torch.zeros_like(found).index_copy(0, order, found) * odds[:, None]


def test_experts_are_routed_by_the_weights_given(grouped):
    torch.manual_seed(0)
    model, data = Mixture(grouped), (torch.randn(14, 4), torch.randn(14, 2))
    root = zarr.group(zarr.storage.MemoryStore())
    root.attrs.put({"layout": ParameterLayout.of(model).to_json(), "buffer_layout": []})
    capture(root, model, criterion=nn.MSELoss(), data=data)
    stored = Objective.load(root)
    start, routes = ParameterLayout.of(model).flatten(model), set()
    for size in (0.0, 1.0, 3.0):
        moved = start + size * torch.randn(start.shape)
        ParameterLayout.of(model).assign(model, moved)
        with torch.no_grad():
            routes.add(tuple(model.gate(data[0]).argmax(1).tolist()))
            expected = nn.functional.mse_loss(model(data[0]), data[1]).item()
        assert stored.evaluate(moved, torch.zeros(0)).mean == pytest.approx(expected, rel=1e-5)
    assert len(routes) == 3
    assert np.isfinite(expected)
