"""What recording and drawing a fine-tuning costs: measured constants, and from them two trainings of 7 and 70 billion.

    python benchmarks/finetuning.py [stall] [table] [--megabytes 128] [--rounds 15] [--out DIR]

`stall`: how long a snapshot of adapters on a frozen base holds up the training, beside a plain copy of the adapters,
for several sizes of the base. `table`: the constants of this machine, and the table of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_hooks import Parameters, Trajectory, record
from landscape_hooks.plane import gram
from landscape_hooks.recording.watch.fixed import FixedTensors
from landscape_hooks.trajectory.rows.fixed import digest_of

SNAPSHOTS, SAMPLES, TOKENS, POINTS = 200, 64, 512, 625
"""Of the example: the default number of snapshots, probe samples of so many tokens, a grid of 25×25."""


@dataclass(frozen=True)
class Model:
    """A decoder: `layers` of width `hidden`, keys and values of width `values`, adapters of rank 16 on attention."""

    name: str
    parameters: float
    layers: int
    hidden: int
    values: int
    tensors: int

    @property
    def adapters(self) -> int:
        """Numbers of the adapters: query, key, value and output projections."""
        square, narrow = 2 * self.hidden, self.hidden + self.values
        return 16 * (2 * square + 2 * narrow) * self.layers


MODELS = (
    Model("7 billion", 6.74e9, 32, 4096, 4096, 32 * 9 + 3),
    Model("70 billion", 68.98e9, 80, 8192, 1024, 80 * 9 + 3),
)


class Adapted(nn.Module):
    """A frozen layer under an adapter."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width, bias=False).to(torch.bfloat16).requires_grad_(False)
        self.a, self.b = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def worked(action: Callable[[], Any]) -> float:
    """CPU seconds of this thread: what the action costs, whatever else the machine does."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


@contextmanager
def run_in(out: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=out))
    try:
        yield folder / "run.zarr"
    finally:
        shutil.rmtree(folder)


def copy_all(targets: list[torch.Tensor], sources: list[nn.Parameter]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source.detach())


def stall(rounds: int, out: Path | None) -> None:
    """A snapshot against a copy of the adapters, in turn: medians of the training thread's own seconds."""
    print(
        "| base, bfloat16 | fixed tensors | adapters | copy of them | snapshot | of that the watch |\n"
        + "|---" * 6
        + "|"
    )
    for width, layers in ((256, 64), (1024, 64), (2048, 64)):
        model = nn.Sequential(*(Adapted(width, 16) for _ in range(layers)))
        moving = [p for p in model.parameters() if p.requires_grad]
        target = [torch.empty_like(p) for p in moving]
        copies, snapshots, watches = [], [], []
        with run_in(out) as path, record(model, None, path, every=1, keep=None) as recorder:
            fixed = recorder._opened.fixed
            assert isinstance(fixed, FixedTensors)
            for _ in range(rounds):
                for p in moving:
                    p.data.add_(1e-3)
                recorder.flush()
                copies.append(worked(partial(copy_all, target, moving)))
                watches.append(worked(fixed.moved))
                snapshots.append(worked(recorder.step))
        base = 2 * width * width * layers
        bytes_of = 4 * sum(p.numel() for p in moving)
        found = [f"{statistics.median(each[1:]) * 1e3:.2f} ms" for each in (copies, snapshots, watches)]
        print(f"| {base / 1e6:.0f} MB | {layers} | {bytes_of / 1e6:.1f} MB | {' | '.join(found)} |")


@dataclass(frozen=True)
class Constants:
    """Of a machine: bytes a second, the watch's seconds a tensor, and operations a second of a forward pass."""

    copy: float
    write: float
    read: float
    checksum: float
    digest: float
    gram: float
    watch: float
    forward: float


def constants(megabytes: int, rounds: int, out: Path | None) -> Constants:
    """The best that this machine does with `megabytes` of numbers, in a few tries."""
    values = np.random.default_rng(0).random(megabytes * 2**18, dtype=np.float32)
    other = np.empty_like(values)

    def rate(action: Callable[[], Any], size: float = values.nbytes) -> float:
        return size / min(timed(action) for _ in range(min(rounds, 5)))

    width = 4096  # as large as those of the example: 34 MB each
    model = nn.Sequential(*(Adapted(width, 16) for _ in range(max(1, megabytes * 2**19 // width**2))))
    base = sum(2 * layer.base.weight.numel() for layer in model)
    with run_in(out) as path:
        begun = min(timed(lambda: record(model, None, path, every=1, if_exists="overwrite").close()) for _ in range(3))
        stored = Trajectory.open(path).fixed
        read = min(timed(lambda: [stored.stored(name) for name in stored]) for _ in range(3))
        recorder = record(model, None, path.parent / "watched.zarr", every=1, parameters=Parameters(frozen="reference"))
        fixed = recorder._opened.fixed
        assert isinstance(fixed, FixedTensors)
        watch = min(timed(fixed.moved) for _ in range(rounds)) / max(1, len(fixed))
        recorder.close()
    a, b = torch.randn(512, 1024), torch.randn(1024, 1024)
    rows = np.random.default_rng(1).random((32, megabytes * 2**13), dtype=np.float32)
    return Constants(
        copy=rate(lambda: np.copyto(other, values)),
        write=base / begun,
        read=base / read,
        checksum=rate(lambda: zlib.crc32(values.view(np.uint8).data)),
        digest=rate(lambda: digest_of([values])),
        gram=rate(lambda: gram.matrix(rows), rows.nbytes),
        watch=watch,
        forward=rate(lambda: a @ b, 2 * 512 * 1024 * 1024),
    )


def table(found: Constants) -> None:
    """The two trainings, step by step."""
    rates = {
        "copies": found.copy, "stores a base at": found.write, "reads it at": found.read, "CRC-32": found.checksum,
        "SHA-256": found.digest, "inner products": found.gram,
    }  # fmt: skip
    print("\nThis machine: " + ", ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in rates.items()))
    print(f"the watch {found.watch * 1e6:.0f} µs a tensor, {found.forward / 1e9:.0f} billion operations a second.\n")
    print("| | " + " | ".join(model.name for model in MODELS) + " |\n|---|---|---|")
    for what, value in ROWS:
        print(f"| {what} | " + " | ".join(value(model, found) for model in MODELS) + " |")


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"
        count /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    for limit, factor, unit in ((1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min"), (172_800, 1 / 3600, "h")):
        if value < limit:
            shown = value * factor
            return f"{shown:.0f} {unit}" if shown >= 10 else f"{shown:.1f} {unit}"
    return f"{value / 86_400:.1f} days"


def base(model: Model) -> float:
    return 2 * model.parameters


def row(model: Model) -> float:
    return 4.0 * model.adapters


def point(model: Model, found: Constants) -> float:
    """Seconds of a loss: two operations a parameter and token."""
    return 2 * model.parameters * SAMPLES * TOKENS / found.forward


ROWS: tuple[tuple[str, Callable[[Model, Constants], str]], ...] = (
    ("base, bfloat16", lambda m, c: size(base(m))),
    ("adapters, numbers", lambda m, c: f"{m.adapters:,}"),
    ("**bytes**", lambda m, c: ""),
    ("base in the run, once", lambda m, c: size(base(m))),
    ("base by reference", lambda m, c: size(400 * m.tensors)),
    ("a snapshot", lambda m, c: size(row(m))),
    ("a snapshot, had it all weights", lambda m, c: size(base(m))),
    (f"{SNAPSHOTS} snapshots (`keep`; `None` keeps 2 GB, at least 20)", lambda m, c: size(SNAPSHOTS * row(m))),
    ("a surface: origin, directions", lambda m, c: size(3 * row(m))),
    ("**seconds**", lambda m, c: ""),
    ("`record()`: storing the base", lambda m, c: seconds(base(m) / c.write)),
    ("`record()`: digests, by reference", lambda m, c: seconds(base(m) / c.digest)),
    ("stall of a snapshot: copy", lambda m, c: seconds(row(m) / c.copy)),
    ("stall of a snapshot: the watch", lambda m, c: seconds(m.tensors * c.watch)),
    ("writing a snapshot, beside the training", lambda m, c: seconds(row(m) / c.write)),
    ("`close()`: comparing the base (a tenth of the training at most)", lambda m, c: seconds(base(m) / c.checksum)),
    ("`analyze`: reading the base", lambda m, c: seconds(base(m) / c.read)),
    ("`analyze --base`: the same, with SHA-256", lambda m, c: seconds(base(m) / c.read + base(m) / c.digest)),
    (f"`analyze`: principal components of {SNAPSHOTS}", lambda m, c: seconds(SNAPSHOTS * row(m) / c.gram)),
    (f"`analyze`: a point, {SAMPLES} × {TOKENS} tokens", lambda m, c: seconds(point(m, c))),
    ("the same at 400 TFLOP/s", lambda m, c: seconds(2 * m.parameters * SAMPLES * TOKENS / 4e14)),
    (f"{POINTS} points and {SNAPSHOTS} snapshots twice at 400 TFLOP/s",
     lambda m, c: seconds((POINTS + 2 * SNAPSHOTS) * 2 * m.parameters * SAMPLES * TOKENS / 4e14)),
    ("**memory**", lambda m, c: ""),
    ("recording: the ring of rows (two)", lambda m, c: size(2 * row(m))),
    ("recording: what is looked at of the base", lambda m, c: size(2 * 1024 * m.tensors)),
    ("analysis: base, and four vectors of adapters", lambda m, c: size(base(m) + 4 * row(m))),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["stall", "table"])
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if "stall" in options.what:
        stall(options.rounds, options.out)
    if "table" in options.what:
        table(constants(options.megabytes, options.rounds, options.out))


if __name__ == "__main__":
    main()
