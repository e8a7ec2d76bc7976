"""Table: whole small loops as people write them, of the kinds that no recipe composes.

`LOOPS[name](watch)` seeds everything, trains, and says where its iterations lie.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.wild.losses import Centers
from tests.wild.watch import Stored, Watch

F = nn.functional


def _seed() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    return torch.randn(20, 4), torch.randint(0, 3, (20,))


def _halves(*tensors: Tensor) -> list[Any]:
    """Batches of 12 and 8."""
    return [tuple(t[:12] for t in tensors), tuple(t[12:] for t in tensors)]


def _stored(loss: Callable[[Any, Any], Tensor], kept: Sequence[Any], weigh: Callable[[Any], float]) -> Stored:
    return Stored(loss, {"objective": loss, "data": kept}, kept, weigh)


def _train(watch: Watch, model: Any, stored: Stored, steps: int = 4, optimizer: Any = None) -> None:
    """The plainest loop over the batches that the run keeps."""
    modules = model if isinstance(model, list) else [model]
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, 0.02) if optimizer is None else optimizer
    watch.record(model, optimizer, stored)
    for n in range(steps):
        optimizer.zero_grad()
        stored.loss(model, stored.kept[n % len(stored.kept)]).backward()
        with watch.step():
            optimizer.step()
    watch.close()


# -- several optimizers and models -------------------------------------------------------------------------------------
def _gan(order: str, critics: int) -> Callable[[Watch], None]:
    def train(watch: Watch) -> None:
        x, _ = _seed()
        g, d = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 1))
        pair = {"g": torch.optim.Adam(g.parameters(), 0.01), "d": torch.optim.RMSprop(d.parameters(), 0.01)}
        watch.record([g, d], [pair["d"], pair["g"]])

        def update(kind: str) -> None:
            for optimizer in pair.values():
                optimizer.zero_grad()
            fake = d(g(torch.randn(20, 2))).mean()
            ((fake - d(x).mean()) if kind == "d" else -fake).backward()
            pair[kind].step()
            if kind == "d":
                for p in d.parameters():
                    p.data.clamp_(-0.2, 0.2)

        for _ in range(3):
            for _ in range(critics - 1):
                with watch.step():
                    update("d")
            with watch.step():
                for kind in order:
                    update(kind)
        watch.close()

    return train


def center_loss(watch: Watch) -> None:
    """The centers are recorded beside the model."""
    x, y = _seed()
    models = [nn.Linear(4, 3), Centers()]
    _train(watch, models, _stored(lambda m, b: m[1](m[0](b[0]), b[1]), _halves(x, y), lambda b: len(b[1])))


def said_by_the_loop(watch: Watch) -> None:
    """No optimizer of torch's: the loop moves the weights and says so."""
    x, y = _seed()
    model = nn.Linear(4, 3)
    recorder = watch.record(model, None)
    for _ in range(5):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with watch.step():
            for p in model.parameters():
                p.data -= 0.1 * p.grad
        if recorder is not None:
            recorder.step()
    watch.close()


def stopped_early(watch: Watch) -> None:
    """Patience ends the training in the middle of an epoch, and the best weights come back."""
    x, y = _seed()
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    watch.record(model, optimizer)
    best, state, patience = float("inf"), model.state_dict(), 0
    for n in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with watch.step():
            optimizer.step()
        if float(loss) < best - 0.02:
            best, state, patience = float(loss), copy.deepcopy(model.state_dict()), 0
        elif (patience := patience + 1) > 1 or n == 9:
            break
    watch.ends()
    model.load_state_dict(state)
    watch.close()


def averaged_by_torch(watch: Watch) -> None:
    """torch's own averages, with their buffers updated at the end."""
    x, y = _seed()
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch.record(model, optimizer)
    average = torch.optim.swa_utils.AveragedModel(model)
    schedule = torch.optim.swa_utils.SWALR(optimizer, 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with watch.step():
            optimizer.step()
        average.update_parameters(model)
        schedule.step()
    torch.optim.swa_utils.update_bn([x], average)
    watch.close()


# -- models and losses of other kinds ----------------------------------------------------------------------------------
class Quantised(nn.Module):
    """VQ-VAE: the codebook is a buffer, moved by averages while training."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.register_buffer("codes", torch.randn(5, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.down(x)
        nearest = torch.cdist(z, self.codes).argmin(1)
        code = self.codes[nearest]
        if self.training:
            with torch.no_grad():
                one = F.one_hot(nearest, 5).to(z)
                means = one.T @ z / one.sum(0).clamp(min=1)[:, None]
                self.codes.lerp_(torch.where(one.sum(0)[:, None] > 0, means, self.codes), 0.1)
        return self.up(z + (code - z).detach()), (z - code).square().mean()


def vq_vae(watch: Watch) -> None:
    x, _ = _seed()

    def loss(model: Any, batch: Any) -> Tensor:
        out, commitment = model(batch[0])
        return F.mse_loss(out, batch[0]) + 0.25 * commitment

    _train(watch, Quantised(), _stored(loss, _halves(x), lambda b: len(b[0])))


class Convolved(nn.Module):
    """GCN: the same nodes in every batch, through a dense or a sparse adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.second(torch.relu(adjacency @ self.first(x)))


def _graph(sparse: bool) -> Callable[[Watch], None]:
    def train(watch: Watch) -> None:
        x, y = _seed()
        adjacency = torch.eye(20) + (torch.rand(20, 20) > 0.8).float()
        adjacency = adjacency / adjacency.sum(1, keepdim=True)
        mask = torch.arange(20) % 3 > 0
        batch = {"x": x, "adjacency": adjacency.to_sparse() if sparse else adjacency, "y": y, "train": mask}

        def loss(model: Any, given: Any) -> Tensor:
            out = model(given["x"], given["adjacency"])
            return F.cross_entropy(out[given["train"]], given["y"][given["train"]])

        stored = Stored(loss, {"objective": loss, "data": [batch]}, [batch], lambda b: 1)
        _train(watch, Convolved(), stored)

    return train


def pinn(watch: Watch) -> None:
    """The loss takes derivatives of the model itself."""
    _seed()
    points = torch.rand(20, 1)

    def loss(model: Any, batch: Any) -> Tensor:
        with torch.enable_grad():
            t = batch[0].detach().clone().requires_grad_(True)
            u = model(t)
            (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            return (slope + u).square().mean() + (model(torch.zeros(1, 1)) - 1).square().mean()

    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    _train(watch, model, _stored(loss, _halves(points), lambda b: len(b[0])))


class Detector(nn.Module):
    """As torchvision's detectors: a mapping of losses in training mode, else boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.box, self.kind = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor, targets: Any = None) -> Any:
        h = torch.relu(self.body(x))
        if not self.training:
            return {"boxes": self.box(h), "labels": self.kind(h).argmax(1)}
        return {
            "box": F.smooth_l1_loss(self.box(h), targets["boxes"]),
            "kind": F.cross_entropy(self.kind(h), targets["labels"]),
        }


def detector(watch: Watch) -> None:
    x, y = _seed()
    batches = [(x[:12], {"boxes": x[:12, :2], "labels": y[:12]}), (x[12:], {"boxes": x[12:, :2], "labels": y[12:]})]

    def loss(model: Any, batch: Any) -> Tensor:
        return sum(model(*batch).values())  # type: ignore[return-value]

    _train(watch, Detector(), _stored(loss, batches, lambda b: len(b[0])))


class Tagger(nn.Module):
    """A label for each token of padded sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5, padding_idx=0)
        self.cell, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0])


def tagging(watch: Watch) -> None:
    """Sequences of several lengths; padding is ignored, so that batches count by their tokens."""
    _seed()
    batches = []
    for size, length in ((6, 7), (5, 4), (3, 9)):
        tokens = torch.randint(1, 9, (size, length))
        tokens[torch.arange(length)[None] >= torch.randint(2, length + 1, (size, 1))] = 0
        batches.append((tokens, torch.where(tokens > 0, tokens % 4, -1)))

    def loss(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1], ignore_index=-1)

    _train(watch, Tagger(), _stored(loss, batches, lambda b: float((b[1] >= 0).sum())))


class TwoViews(nn.Module):
    """A contrastive model with a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)
        self.temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(self.left(a)) @ F.normalize(self.right(b)).T / self.temperature.clamp(min=0.05)


def clip(watch: Watch) -> None:
    x, _ = _seed()
    batches = _halves(x, x + 0.1 * torch.randn_like(x))

    def loss(model: Any, batch: Any) -> Tensor:
        scores, right = model(*batch), torch.arange(len(batch[0]))
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    _train(watch, TwoViews(), _stored(loss, batches, lambda b: len(b[0])))


LOOPS: dict[str, Callable[[Watch], None]] = {
    "GAN, critic first": _gan("dg", 1),
    "GAN, generator first": _gan("gd", 1),
    "center loss": center_loss,
    "steps said by the loop": said_by_the_loop,
    "stopped early": stopped_early,
    "averaged by torch": averaged_by_torch,
    "VQ-VAE": vq_vae,
    "graph, dense": _graph(False),
    "graph, sparse": _graph(True),
    "PINN": pinn,
    "detector": detector,
    "tagging": tagging,
    "CLIP": clip,
}
TOLD = {"graph, sparse", "PINN", "detector", "CLIP"}
"""Loops whose loss cannot be stored, or is no mean that could be taken over batches: that is said."""
