"""Models of the wild, tiny: from (n, 4) inputs to (n, 3) outputs, each with a way of its own of holding tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

F = nn.functional


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout(0.3), nn.Linear(6, 3))


def spectral() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Linear(4, 6)), nn.Tanh(), norm(nn.Linear(6, 3)))


def weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.SiLU(), nn.Linear(6, 3))


def double() -> nn.Module:
    return mlp().double()


class Tied(nn.Module):
    """Two layers share a weight, and the bias stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.outer.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.outer(torch.tanh(self.inner(x)))))


class HandNorm(nn.Module):
    """A normalisation written by hand: it is no layer of torch's, and its running values move while training."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 0.2)
                self.seen += 1
        return self.head(torch.tanh(h - self.mean))


class Remembering(nn.Module):
    """Keeps its activations, with their history, and a number that is a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.log_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.inner(x))
        return self.head(self.last) * self.log_scale.exp()


class LowRank(nn.Module):
    """A frozen base and a low-rank addition that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.base.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 4) * 0.3), nn.Parameter(torch.zeros(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.base(x) + x @ self.down.T @ self.up.T))


class Unused(nn.Module):
    """Some parameters get no gradient, some layers stand in a list, one is complex."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.spare, self.head = nn.Linear(2, 2), nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(3, dtype=torch.complex64) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * (1 + self.filter), n=4))


class Attending(nn.Module):
    """A layer of attention over the four inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(1, 4), nn.Linear(4, 3)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.unsqueeze(-1))).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer over the four inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unsqueeze(-1))[0][:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "batch norm": batch_norm,
    "dropout": dropout,
    "spectral norm": spectral,
    "weight norm": weight_norm,
    "double": double,
    "tied": Tied,
    "norm by hand": HandNorm,
    "kept activations": Remembering,
    "low rank": LowRank,
    "unused and complex": Unused,
    "attention": Attending,
    "recurrent": Recurrent,
}
