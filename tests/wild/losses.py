"""Losses of the wild: of outputs (n, 3), labels (n,) and the model; with what each of them divides by.

`weigh(x, y)` is the divisor of the loss of a batch, so that Σ weigh·loss / Σ weigh is the loss of all batches together;
a sum divides by nothing, and a loss between samples counts by its samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

F = nn.functional
CLASSES = torch.tensor([0.3, 1.0, 2.5])
IGNORED = -100


@dataclass(frozen=True)
class Kind:
    """A loss.

    Attributes
    ----------
    make
        makes `loss(model, output, labels)` for one training, and the modules that are trained beside the model.
    weigh
        see above.
    criterion
        whether it is a function of outputs and labels alone, which `record` takes as criterion=.
    holes
        whether some of the labels are to be ignored.
    ordinary
        whether nothing is to be said of it.
    """

    make: Callable[[], tuple[Callable[[Any, Tensor, Tensor], Tensor], list[nn.Module]]]
    weigh: Callable[[Tensor, Tensor], float] = lambda x, y: len(y)
    criterion: Callable[..., Any] | None = None
    holes: bool = False
    ordinary: bool = True


def _of(criterion: Callable[..., Any]) -> Any:
    return lambda: (lambda model, out, y: criterion(out, y), [])


def _simple(criterion: Callable[..., Any], **more: Any) -> Kind:
    return Kind(_of(criterion), criterion=criterion, **more)


def focal(out: Tensor, y: Tensor) -> Tensor:
    chosen = F.log_softmax(out, 1).gather(1, y[:, None])[:, 0]
    return -((1 - chosen.exp()) ** 2 * chosen).mean()


def squares(out: Tensor, y: Tensor) -> Tensor:
    return (out - F.one_hot(y, 3).to(out)).square().mean()


def two_heads(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y) + 0.5 * F.smooth_l1_loss(out.sum(1), y.to(out))


def distilled(out: Tensor, y: Tensor) -> Tensor:
    teacher = F.one_hot(y, 3).to(out) * 0.8 + 0.1 / 1.5
    return F.kl_div(F.log_softmax(out, 1), teacher, reduction="batchmean")


def info_nce(out: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(out, dim=1)
    return F.cross_entropy(z @ z.roll(1, 0).T / 0.3, torch.arange(len(z)))


def triplets(out: Tensor, y: Tensor) -> Tensor:
    return F.triplet_margin_loss(out, out.roll(1, 0), out.roll(2, 0))


def contrastive(out: Tensor, y: Tensor) -> Tensor:
    same = y[:, None] == y[None]
    apart = torch.cdist(out, out)
    return torch.where(same, apart.square(), (1 - apart).clamp(min=0).square()).mean()


def jittered(out: Tensor, y: Tensor) -> Tensor:
    """Noise of its own, as many numbers for every batch."""
    return F.cross_entropy(out + 0.3 * torch.randn(3), y)


def steep(out: Tensor, y: Tensor) -> Tensor:
    """A penalty on the slope of the loss, whether or not autograd is on."""
    with torch.enable_grad():
        own = out if out.requires_grad else out.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(own, y, reduction="sum"), own, create_graph=True)
        return F.cross_entropy(own, y) + 0.3 * slope.square().sum(1).mean()


SPREAD = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.3, 0.7]]).to_sparse_coo()


def spread(out: Tensor, y: Tensor) -> Tensor:
    """Classes that leak into one another, by a sparse matrix."""
    return F.cross_entropy(torch.sparse.mm(SPREAD, out.float().t()).t(), y)


def penalised() -> Any:
    return (lambda model, out, y: F.cross_entropy(out, y) + 0.01 * sum(p.abs().sum() for p in model.parameters())), []


def masked() -> Any:
    def loss(model: Any, out: Tensor, y: Tensor) -> Tensor:
        mask = (y != IGNORED).to(out)
        return (F.cross_entropy(out, y.clamp(min=0), reduction="none") * mask).sum() / mask.sum().clamp(min=1)

    return loss, []


def _counted(x: Tensor, y: Tensor) -> float:
    return float((y != IGNORED).sum())


def annealed() -> Any:
    """The weight of a term grows while training: a number that no graph can know."""
    state = {"steps": 0}

    def loss(model: Any, out: Tensor, y: Tensor) -> Tensor:
        if torch.is_grad_enabled() and model.training:
            state["steps"] += 1
        return F.cross_entropy(out, y) + 0.2 * state["steps"] * out.square().mean()

    return loss, []


class Centers(nn.Module):
    """Center loss: the centers are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(3, 3))

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y) + 0.1 * (out - self.centers[y]).square().sum(1).mean()


class Margin(nn.Module):
    """ArcFace: an angular margin, with a weight and a temperature of the loss's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.tensor(1.0))

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(out), F.normalize(self.weight).to(out)).clamp(-0.999, 0.999)
        angle = cosine.acos() + 0.2 * F.one_hot(y, 3)
        return F.cross_entropy(angle.cos() * self.temperature.exp(), y)


def _with_module(kind: Callable[[], nn.Module]) -> Any:
    def make() -> Any:
        module = kind()
        return (lambda model, out, y: module(out, y)), [module]

    return make


LOSSES: dict[str, Kind] = {
    "cross-entropy": _simple(nn.CrossEntropyLoss()),
    "cross-entropy as a function": _simple(F.cross_entropy),
    "smoothed": _simple(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "class weights": _simple(nn.CrossEntropyLoss(weight=CLASSES), weigh=lambda x, y: float(CLASSES[y].sum())),
    "ignored labels": _simple(partial(F.cross_entropy, ignore_index=IGNORED), weigh=_counted, holes=True),
    "mask": Kind(masked, weigh=_counted, holes=True),
    "sum": _simple(nn.CrossEntropyLoss(reduction="sum"), weigh=lambda x, y: 1, ordinary=False),
    "focal": _simple(focal),
    "squares": _simple(squares),
    "two heads": _simple(two_heads),
    "divergence": _simple(distilled),
    "penalty": Kind(penalised),
    "InfoNCE": _simple(info_nce, ordinary=False),
    "triplets": _simple(triplets, ordinary=False),
    "contrastive": _simple(contrastive, ordinary=False),
    "noise": Kind(_of(jittered), ordinary=False),
    "slopes": Kind(_of(steep), ordinary=False),
    "sparse": Kind(_of(spread), ordinary=False),
    "annealed": Kind(annealed, ordinary=False),
    "centers": Kind(_with_module(Centers), ordinary=False),
    "margin": Kind(_with_module(Margin), ordinary=False),
}
