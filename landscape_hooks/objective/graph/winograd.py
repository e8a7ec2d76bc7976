"""Winograd: 3×3 convolutions of small images with a fraction of the multiplications.

In: a LossGraph. Out: the same graph whose 3×3 convolutions of 4×4 and 2×2 images (stride 1, padding 1) go through
Winograd's minimal filtering, F(4×4, 3×3) and F(2×2, 3×3) of Lavin & Gray 2015 (arXiv:1509.09308), where the whole image
is one tile: Y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, the products summed over channels by one matrix product for each of the 36
(16) elements of the tile in place of nine for each of the 16 (4) pixels: a quarter (4/9) of the multiplications.
Float32 rounds a little more than in the direct way; whether the loss agrees is checked as of any other way
(calibration.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from landscape_hooks.objective.graph.graph import LossGraph, Node

CONVOLUTION = "aten.conv2d.default"
CHANNELS = 16
"""With fewer inputs than this the transformations cost more than what they save."""

SAMPLES = 64
"""Samples at a time: the transformed tiles are to stay in the cache."""

# Bᵀ, G and Aᵀ by the size of the image
_FORMS = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
         [0, 4, 0, -5, 0, 1]],
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
         [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip


def winograd(graph: LossGraph) -> LossGraph:
    """The graph with other functions in place of the convolutions that qualify."""
    graph = graph.copy()
    for node in graph.nodes:
        if node.scope is not None:
            node.scope = winograd(node.scope)
        elif _qualifies(node):
            node.function = Convolution()
    return graph


def applies(graph: LossGraph) -> bool:
    """Whether any convolution may qualify, as far as can be seen before its images and filters are."""
    return any(_qualifies(n) if n.scope is None else applies(n.scope) for n in graph.nodes)


def _qualifies(node: Node) -> bool:
    plain = [None, [1, 1], [1, 1], [1, 1], 1]  # bias, stride, padding, dilation, groups
    given = [*node.args[2:], *plain[len(node.args) - 2 :]]
    # a padding left out is none
    return node.op == CONVOLUTION and not node.kwargs and len(node.args) >= 5 and given[1:] == plain[1:]


@dataclass
class Convolution:
    """`aten.conv2d` in another way where that applies.

    The filters of a point are transformed once and kept for its other batches.
    """

    _weight: Tensor | None = field(default=None, repr=False)
    _version: int = 0
    _filters: Tensor | None = field(default=None, repr=False)

    def __call__(self, given: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: object) -> Tensor:
        if not _fits(given, weight):
            return torch.ops.aten.conv2d.default(given, weight, bias, *rest)
        size = given.shape[-1]
        if self._filters is None or self._weight is not weight or self._version != weight._version:
            self._weight, self._version, self._filters = weight, weight._version, transform(weight, size)
        return convolve(given, self._filters, bias)


def _fits(given: Tensor, weight: Tensor) -> bool:
    plain = given.dtype is weight.dtype is torch.float32 and given.device.type == "cpu"
    square = given.ndim == 4 and given.shape[2] == given.shape[3] in _FORMS
    return (
        plain
        and square
        and weight.shape[2:] == (3, 3)
        and weight.shape[1] >= CHANNELS
        and given.is_contiguous(memory_format=torch.channels_last)
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
    )


def transform(weight: Tensor, size: int) -> Tensor:
    """(tile, inputs, outputs) filters for images of size×size, from (outputs, inputs, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    _, filters, _ = _matrices(size)
    return (filters @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, inputs, outputs)


def convolve(given: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """(n, outputs, size, size) with channels last, from images (n, inputs, size, size) with channels last."""
    samples, inputs, size = given.shape[:3]
    into, _, back = _matrices(size)
    pixels = given.permute(0, 2, 3, 1).reshape(samples, size * size, inputs)
    result = torch.empty(samples, size * size, filters.shape[2])
    for start in range(0, samples, SAMPLES):
        part = slice(start, min(start + SAMPLES, samples))
        tiles = torch.matmul(into, pixels[part])
        products = torch.empty(tiles.shape[0], tiles.shape[1], filters.shape[2])
        torch.bmm(tiles.transpose(0, 1), filters, out=products.transpose(0, 1))
        torch.matmul(back, products, out=result[part])
    if bias is not None:
        result += bias
    return result.view(samples, size, size, -1).permute(0, 3, 1, 2)


@functools.cache
def _matrices(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For images of size×size as vectors: into the tile (the padding left out), filters into it, and back."""
    into, filters, back = (torch.tensor(rows, dtype=torch.float64) for rows in _FORMS[size])
    tile = size + 2
    inside = torch.kron(into, into).view(-1, tile, tile)[:, 1:-1, 1:-1].reshape(tile * tile, -1)
    return inside.float().contiguous(), torch.kron(filters, filters).float(), torch.kron(back, back).float()
