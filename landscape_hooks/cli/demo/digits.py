"""The demo: train on scikit-learn's digits, analyze, export and render, in two minutes.

In: a folder. Out: a run, its surface, and the files that show it. The training below is an ordinary PyTorch
loop; the recorder is its one added line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.errors import RunError
from landscape_hooks.export.figure import contour_figure
from landscape_hooks.export.outfile import whole_file
from landscape_hooks.export.ply import write_ply
from landscape_hooks.progress import counted
from landscape_hooks.recording.record import record
from landscape_hooks.store.run import open_run
from landscape_hooks.surface.surface import Surface

MARK = "made_by_demo"
EPOCHS, BATCH, RATE = 12, 64, 0.05


@dataclass(frozen=True)
class Demo:
    """The result of a demo: the run, its surface, and the files with what each of them shows."""

    run: Path
    surface: Surface
    files: dict[Path, str]


def digits_network() -> nn.Module:
    """A convolutional network with BatchNorm for 8×8 images (56,714 parameters)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def digits() -> tuple[TensorDataset, TensorDataset]:
    """1,437 training and 360 test images of scikit-learn's digits, values in [0, 1]."""
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(raw.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return TensorDataset(images[train], targets[train]), TensorDataset(images[test], targets[test])


def train_digits(store: Path, *, epochs: int = EPOCHS, seed: int = 0, progress: bool = True) -> float:
    """Train the network with SGD and momentum, recorded into `store`; returns the accuracy on the test images."""
    torch.manual_seed(seed)
    train, test = digits()
    loader = DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True)
    probe = DataLoader(train, batch_size=256)
    model, criterion = digits_network(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

    with record(model, optimizer, store, criterion=criterion, data=probe, samples=512) as recorder:
        for epoch in counted(range(epochs), epochs, shown=progress, what="train", unit="epoch"):
            for images, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(images), targets)
                loss.backward()
                recorder.log(loss=loss.item(), epoch=epoch)
                optimizer.step()
            schedule.step()

    model.eval()
    images, targets = test.tensors
    with torch.no_grad():
        return (model(images).argmax(dim=1) == targets).float().mean().item()


def run_demo(
    out: Path, *, size: int = 25, epochs: int = EPOCHS, progress: bool = True, say: Callable[[str], None] = print
) -> Demo:
    """Train, analyze, export and render into the folder `out`.

    Raises
    ------
    RunError
        `out` holds a `digits.zarr` that is not an earlier demo's.
    """
    from landscape_hooks.viewer.offscreen import render
    from landscape_hooks.viewer.web.html import write_html

    out.mkdir(parents=True, exist_ok=True)
    run = out / "digits.zarr"
    _clear_earlier(run)
    accuracy = train_digits(run, epochs=epochs, progress=progress)
    open_run(run, mode="r+").attrs[MARK] = True
    say(f"Trained on scikit-learn's digits: {accuracy:.1%} of the test images right.")
    surface = analyze(run, size=size, progress=progress)
    ply = write_ply(surface, out / "digits.ply")
    with whole_file(out / "digits.png") as file:
        contour_figure(surface).savefig(file, dpi=150)
    render(run, out / "digits.gif", size=(640, 400), progress=progress)
    page = write_html(surface, out / "digits.html")
    files = {
        run: "the run: trajectory, objective and surface",
        Path(ply[0]): "the surface, for any 3-D program",
        Path(ply[1]): "the optimizer's path on it",
        out / "digits.png": "contours with the path",
        out / "digits.gif": "the replay",
        page: "the replay in a browser, offline",
    }
    return Demo(run, surface, files)


def _clear_earlier(run: Path) -> None:
    if not run.exists():
        return
    try:
        ours = bool(open_run(run).attrs.get(MARK))
    except RunError:
        ours = False
    if not ours:
        raise RunError(f"Found {run}, which an earlier demo did not (or not fully) write",
                       expected="a folder without digits.zarr", mend="Choose another --out, or remove it")  # fmt: skip
    import shutil

    shutil.rmtree(run)
