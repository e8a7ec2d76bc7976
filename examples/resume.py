"""Going on after a crash: the checkpoint and the recording fit together, without a gap or a duplicate.

    python examples/resume.py --out runs/resume --crash-at 100     (dies there, without a word, as a power cut would)
    python examples/resume.py --out runs/resume                    (goes on from the last checkpoint)
    landscape-hooks analyze runs/resume/digits.zarr

The recorder's state goes into the checkpoint. When it is loaded, snapshots that were taken after the checkpoint are
dropped, for the training takes those steps again: the trajectory is the one of a training that never crashed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from digits import digits, shuffled
from torch import nn

from landscape_hooks import Recorder, Trajectory, record


def save(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the earlier one or this one, never half of it."""
    torch.save(state, unfinished := file.with_suffix(".unfinished"))
    os.replace(unfinished, file)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recorder: Recorder,
    checkpoint: Path,
    epochs: range,
    crash_at: int,
) -> None:
    """An ordinary loop with a checkpoint after every epoch; dies after `crash_at` steps (-1: does not)."""
    images, _ = digits()
    criterion, step = nn.CrossEntropyLoss(), 0
    for epoch in epochs:
        for inputs, targets in shuffled(images, 64, seed=epoch):
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            recorder.log(loss=loss, epoch=epoch)
            optimizer.step()
            step += 1
            if step == crash_at:
                os._exit(1)  # nothing is closed, flushed or caught
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
        save(checkpoint, {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1,
            "recorder": recorder.state_dict(),
        })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/resume"), help="where to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the 1,437 images (%(default)s)")
    parser.add_argument(
        "--crash-at", type=int, metavar="STEP", default=-1, help="die after so many steps (22 are an epoch)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    store, checkpoint = arguments.out / "digits.zarr", arguments.out / "checkpoint.pt"

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    state = torch.load(checkpoint) if checkpoint.exists() else {}
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on after epoch {state['epoch']}")

    with record(
        model, optimizer, store, criterion=nn.CrossEntropyLoss(), data=digits()[0],
        if_exists="resume" if state else "overwrite",  # without a checkpoint the training begins anew
    ) as recorder:  # fmt: skip
        if state:
            recorder.load_state_dict(state["recorder"])
        train(
            model, optimizer, recorder, checkpoint, range(state.get("epoch", 0), arguments.epochs), arguments.crash_at
        )

    steps = Trajectory.open(store).steps
    print(f"{len(steps)} snapshots, steps {steps[0]} to {steps[-1]}")


if __name__ == "__main__":
    main()
