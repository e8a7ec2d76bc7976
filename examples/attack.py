"""The loss under attack beside the clean loss: a robust landscape, on the plane of the same training.

The run carries the clean loss. Two further losses are given as code, over the same images and on the same plane:

- PGD (Madry et al. 2018, https://arxiv.org/abs/1706.06083): at every point of the plane each image is moved, within
  `--epsilon` a pixel, to where the loss is highest; the loss there is what is drawn;
- PGD against the smoothed network (Cohen et al. 2019, https://arxiv.org/abs/1902.02918, attacked as in Salman et al.
  2019, https://arxiv.org/abs/1906.04584): the network's answer is its mean answer under Gaussian noise.

No stored graph can hold these losses, for they take gradients themselves: so they come as `Objective` from this file,
as in `landscape-hooks analyze RUN --objective attack:objective --name pgd`, called where this file lies.

    python examples/attack.py --out runs/attack
    python examples/attack.py --out runs/robust --adversarial      (train on attacked images)
    landscape-hooks view runs/attack/digits.zarr --name pgd
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from digits import accuracy, digits, shuffled
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_hooks import Objective, Surface, analyze, record, write_ply

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
NOISE = 0.15  # standard deviation a pixel, of a range of 1
DRAWS = 8


def clean(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """(N,) cross-entropy."""
    return F.cross_entropy(model(images), targets, reduction="none")


def smoothed(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """(N,) cross-entropy of the mean answer under noise: the same draws at every point, for a smooth surface."""
    noise = torch.randn(DRAWS, *images.shape[1:], generator=torch.Generator().manual_seed(0)) * NOISE
    noisy = images.unsqueeze(1) + noise  # (N, DRAWS, 1, 8, 8)
    answers = model(noisy.flatten(0, 1)).log_softmax(dim=1).unflatten(0, (-1, DRAWS))
    return F.nll_loss(answers.logsumexp(dim=1) - np.log(DRAWS), targets, reduction="none")


def attacked(loss: Loss, model: nn.Module, images: Tensor, targets: Tensor, *, epsilon: float, steps: int) -> Tensor:
    """The images, moved by at most epsilon a pixel to where the loss is higher (projected gradient ascent)."""
    moved = images
    for _ in range(steps):
        with torch.enable_grad():  # also where the loss itself is taken without gradients
            moved = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(model, moved, targets).sum(), moved)
        moved = moved.detach() + 2.5 * epsilon / steps * gradient.sign()
        moved = moved.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return moved


def under_attack(loss: Loss, model: nn.Module, batch: list[Tensor], *, epsilon: float, steps: int) -> Tensor:
    """(N,) the loss of each image, attacked: `objective(model, batch)` for an Objective."""
    images, targets = batch
    return loss(model, attacked(loss, model, images, targets, epsilon=epsilon, steps=steps), targets)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def objective(loss: Loss = clean, *, epsilon: float = 0.1, steps: int = 5, samples: int = 64) -> Objective:
    """One of the losses under attack, over the first training images."""
    attack = partial(under_attack, loss, epsilon=epsilon, steps=steps)
    return Objective.of(network(), objective=attack, data=digits()[0], samples=samples)


def train(model: nn.Module, store: Path, arguments: argparse.Namespace) -> None:
    """Train on clean or on attacked images, recorded into `store` together with the clean loss."""
    images, _ = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with record(
        model, optimizer, store, criterion=nn.CrossEntropyLoss(), data=images, samples=arguments.samples, keep=40
    ) as recorder:
        for epoch in range(arguments.epochs):
            for inputs, targets in shuffled(images, 64, seed=epoch):
                if arguments.adversarial:
                    inputs = attacked(clean, model, inputs, targets, epsilon=arguments.epsilon, steps=arguments.steps)
                optimizer.zero_grad()
                loss = clean(model, inputs, targets).mean()
                loss.backward()
                recorder.log(loss=loss, epoch=epoch)
                optimizer.step()


def beside(surfaces: dict[str, Surface]) -> Figure:
    """The surfaces in one row and on one scale."""
    losses = np.concatenate([surface.loss.ravel() for surface in surfaces.values()])
    scale = LogNorm(losses.min(), losses.max())
    levels = np.geomspace(losses.min(), losses.max(), 20)
    figure = Figure(figsize=(12, 4), layout="constrained")
    row = figure.subplots(1, len(surfaces), sharex=True, sharey=True)
    for axes, (name, surface) in zip(row, surfaces.items(), strict=True):
        picture = axes.pcolormesh(surface.alpha, surface.beta, surface.loss.T, norm=scale, shading="gouraud")
        axes.contour(surface.alpha, surface.beta, surface.loss.T, levels=levels, colors="white", linewidths=0.5)
        axes.plot(*surface.path.T, color="#ff5a36", marker="o", markersize=2.5)
        axes.set_title(f"{name}: {surface.path_loss[-1]:.3g} at the end", loc="left", fontsize=10)
        axes.set_xlabel(surface.attrs["labels"][0])
    row[0].set_ylabel(surface.attrs["labels"][1])
    figure.colorbar(picture, ax=row, label="loss")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/attack"), help="where to write (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.1, help="how far a pixel may move, of 1 (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="gradient steps of the attack (%(default)s)")
    parser.add_argument("--adversarial", action="store_true", help="train on attacked images")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="images on which the losses are drawn (%(default)s)")
    parser.add_argument("--size", type=int, default=25, help="points along each axis of a surface (%(default)s)")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model, store = network(), arguments.out / "digits.zarr"
    train(model, store, arguments)
    print(f"{accuracy(model, digits()[1]):.1%} of the test images right")

    surfaces = {"clean": analyze(store, size=arguments.size, name="clean")}
    for name, loss in (("pgd", clean), ("pgd-smoothed", smoothed)):
        robust = objective(loss, epsilon=arguments.epsilon, steps=arguments.steps, samples=arguments.samples)
        surfaces[name] = analyze(store, size=arguments.size, name=name, objective=robust)
    for name, surface in surfaces.items():
        print(f"{name}: loss {surface.path_loss[-1]:.4f} at the end of the path")
        write_ply(surface, arguments.out / f"{name}.ply")
    beside(surfaces).savefig(arguments.out / "attack.png", dpi=150)


if __name__ == "__main__":
    main()
