"""Random directions, normalised filter by filter (Li et al. 2018, https://arxiv.org/abs/1712.09913, section 4).

In: the trained weights (D,) and the layout that says which numbers form a filter. Out: two Gaussian directions,
each filter of length equal to the corresponding filter of the weights. A filter is what produces one output
feature: one output channel of a convolution (transposed or grouped, too), one row of a linear layer or of a
packed projection, one token of an embedding. Biases and normalisation scales stay at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from landscape_hooks.errors import PlaneError
from landscape_hooks.plane.directions import Directions
from landscape_hooks.trajectory.parameters import ParameterEntry, ParameterLayout

NORMS = ("filter", "layer", "model", "none")


@dataclass(frozen=True)
class Random:
    """The plane of two random directions, as `analyze(directions=)` takes it; `analyze(seed=)` is their seed.

    Parameters
    ----------
    norm
        what is scaled to the length of the same part of the trained weights: each "filter", each "layer" (tensor), the
        "model" as a whole, or "none" (a plain Gaussian direction).

    Raises
    ------
    PlaneError
        an unknown `norm`.
    """

    norm: str = "filter"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise PlaneError(f"Found the normalisation '{self.norm}'", expected=f"one of {', '.join(NORMS)}")

    @property
    def attrs(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {"directions": "random", "norm": self.norm}


def directions(weights: NDArray[Any], layout: ParameterLayout, *, seed: int = 0, norm: str = "filter") -> Directions:
    """Two independent random directions through `weights` (D,).

    Parameters
    ----------
    weights
        (D,) where alpha = beta = 0: the trained weights.
    layout
        the run's ParameterLayout.
    seed
        of the Gaussian numbers; the same seed gives the same plane.
    norm
        what is scaled to the length of the same part of the weights: each "filter", each "layer" (tensor),
        the "model" as a whole, or "none" (a plain Gaussian direction).

    Raises
    ------
    PlaneError
        an unknown `norm`.
    """
    Random(norm)
    origin = torch.as_tensor(weights)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.stack([gaussian(origin, layout, generator, norm) for _ in range(2)])
    if not vectors.any():
        raise PlaneError(
            "The random directions are zero: all that moves is biases and normalisation layers, or is zero itself",
            expected="weights of layers that are not zero",
            mend="Choose --norm none, or other directions (pca, hessian)",
        )
    words = {"none": "Gaussian, not normalised"}.get(norm, f"each {norm} scaled to the norm of the trained one")
    return Directions(
        origin=origin.numpy(),
        vectors=vectors.numpy(),
        labels=("random direction 1", "random direction 2"),
        normalization=words if norm == "none" else f"{words}; biases and normalisation layers zero",
        least=(1.0, 1.0),
        attrs={"norm": norm},
    )


def gaussian(weights: torch.Tensor, layout: ParameterLayout, generator: torch.Generator, norm: str) -> torch.Tensor:
    """One direction (D,). Every entry draws its numbers, so that freezing a layer leaves the others' alone.

    Of a model that is frozen as a whole, which was trained before, every tensor counts as trained.
    """
    direction = torch.zeros_like(weights)
    finished = not any(entry.trainable for entry in layout.entries)
    for entry in layout.entries:
        part = slice(entry.offset, entry.offset + entry.size)
        noise = torch.randn(entry.size, generator=generator, dtype=weights.dtype)
        if norm == "none":
            direction[part] = noise
        elif (entry.trainable or finished) and not is_scale_or_bias(entry):
            direction[part] = (
                _scaled(noise, weights[part], entry) if norm == "filter" else _matched(noise, weights[part])
            )
    return _matched(direction, weights) if norm == "model" else direction


def _scaled(noise: torch.Tensor, weights: torch.Tensor, entry: ParameterEntry) -> torch.Tensor:
    """`noise` with each filter brought to the norm of the same filter of `weights`; both flat."""
    target, numbered = filters(weights, entry)
    source, _ = filters(noise, entry)
    inside = tuple(axis for axis in range(target.ndim) if axis not in numbered)
    if not inside:  # one number each
        return target.abs().mul(source.sign()).reshape(noise.shape)
    scale = torch.linalg.vector_norm(target, dim=inside, keepdim=True) / torch.linalg.vector_norm(
        source, dim=inside, keepdim=True
    )
    return (source * scale).reshape(noise.shape)


def _matched(noise: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    norm = torch.linalg.vector_norm(noise)
    return noise * (torch.linalg.vector_norm(weights) / norm) if norm > 0 else noise


def filters(flat: torch.Tensor, entry: ParameterEntry) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A view of a flat weight, and which of its axes number the filters; the others run inside a filter.

    A transposed convolution stores (inputs, outputs of one group, kernel ...), its inputs split among the groups;
    transformers' Conv1D stores (inputs, outputs). Everything else of torch has its outputs first (Conv, Linear,
    Bilinear, Embedding, the packed projections of attention and of recurrent layers). Whose layout says which axes
    they are (Keras: mostly the last one) is taken at its word.
    """
    shape = tuple(entry.shape)
    if entry.outputs is not None:
        return flat.reshape(shape), entry.outputs
    if entry.module.startswith("ConvTranspose"):
        groups = entry.groups or 1
        return flat.reshape(groups, shape[0] // groups, shape[1], -1), (0, 2)
    if entry.module == "Conv1D":
        return flat.reshape(shape[0], shape[1], -1), (1,)
    return flat.reshape(shape[0], -1), (0,)


def is_scale_or_bias(entry: ParameterEntry) -> bool:
    """Whether a parameter has no filters: one-dimensional, a bias, or part of a normalisation layer."""
    if entry.outputs == ():
        return True
    last = entry.name.rsplit(".", 1)[-1]
    return len(entry.shape) <= 1 or "Norm" in entry.module or last.startswith("bias")
