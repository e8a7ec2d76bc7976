"""What recording, analyzing and drawing cost on a GPU: one table with the card's name, in under five minutes.

    python benchmarks/gpu.py [--device cuda] [--json F] [--only stall,grid] [--store DIR]
    python benchmarks/gpu.py --cpu --tiny [--here]

Each part runs in a process of its own, which is ended when its time is up (`SECONDS`); a part that fails is a row that
says why. `--cpu --tiny` runs every line of it in half a minute without a GPU: its figures mean nothing. `--here` runs
the parts in this process. Both sides of a comparison are measured in turns; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SECONDS = {"stall": 30, "resnet": 50, "gpt": 60, "grid": 65, "pca": 65, "egl": 25}
"""What each part may take, its start included."""


@dataclass
class Row:
    """A figure of the table."""

    part: str
    what: str
    value: float | None
    unit: str = ""
    note: str = ""


class Bench:
    """The device, the sizes and the rows of a part."""

    def __init__(self, device: str, tiny: bool, store: Path, seconds: float) -> None:
        self.device, self.tiny, self.store, self.seconds = torch.device(device), tiny, store, seconds
        self.began = time.perf_counter()
        self.rows: list[Row] = []

    def add(self, part: str, what: str, value: float, unit: str, note: str = "") -> None:
        """A row more, printed at once: what ends this process loses nothing."""
        self.rows.append(Row(part, what, value, unit, note))
        print("ROW " + json.dumps(asdict(self.rows[-1])), flush=True)

    def sync(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def has_time(self, share: float) -> bool:
        """Whether less than this share of the part's time is used."""
        return time.perf_counter() - self.began < share * self.seconds

    def seconds_of(self, action: Callable[[], object]) -> float:
        """What an action takes until the device has done it."""
        self.sync()
        start = time.perf_counter()
        action()
        self.sync()
        return time.perf_counter() - start


# -- networks ------------------------------------------------------------------------------------------------
class Block(nn.Module):
    """A layer of a GPT: attention and two products, each on a normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class GPT(nn.Module):
    """A decoder of GPT-2's size: 124 million parameters, the output's weights being the tokens'."""

    def __init__(self, tokens: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


class Convolutions(nn.Module):
    """A small network of images, where torchvision's are too large or are not there."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).flatten(1))


def parameters_of(model: nn.Module) -> int:
    """How many numbers."""
    return sum(p.numel() for p in model.parameters())


# -- recording -----------------------------------------------------------------------------------------------
def stall(bench: Bench) -> None:
    """How long a snapshot holds up the host and the device, beside an asynchronous copy of the same bytes."""
    from landscape_hooks import record
    from landscape_hooks.device.copies import Copies, pinned

    width, layers = (64, 2) if bench.tiny else (1024, 24)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).to(bench.device)
    tensors = [p.detach() for p in model.parameters()]
    size = parameters_of(model)
    row = torch.from_numpy(pinned(4 * size).view(np.float32))
    targets, start = [], 0
    for tensor in tensors:
        targets.append(row[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
    copies = Copies()
    found: dict[str, list[tuple[float, float]]] = {"copy": [], "snapshot": []}

    def copy() -> None:
        if not copies.owns(tensors):
            torch._foreach_copy_(targets, tensors)
            return
        for arrival in copies.begin(targets, tensors):
            waiting.append(arrival)

    def measured(action: Callable[[], object]) -> tuple[float, float]:
        bench.sync()
        begun = time.perf_counter()
        action()
        host = time.perf_counter() - begun
        bench.sync()
        return host, time.perf_counter() - begun

    waiting: list[Any] = []
    with record(model, None, bench.store / "stall.zarr", every=1) as recorder:
        for turn in range(4 if bench.tiny else 24):
            for name, action in (("copy", copy), ("snapshot", recorder.step)):
                took = measured(action)
                if turn > 1:
                    found[name].append(took)
                recorder.flush()  # the next one finds a free place, and a quiet disk
            if not bench.has_time(0.8):
                break
    host, whole = ({name: statistics.median(t[i] for t in times) for name, times in found.items()} for i in (0, 1))
    bench.add("stall", "asynchronous copy: host", 1e3 * host["copy"], "ms", f"{4 * size / 1e6:.0f} MB")
    bench.add("stall", "snapshot: host", 1e3 * host["snapshot"], "ms", f"{host['snapshot'] / host['copy']:.2f} of copy")
    bench.add("stall", "asynchronous copy: until it is there", 1e3 * whole["copy"], "ms")
    bench.add("stall", "snapshot: until the device is done", 1e3 * whole["snapshot"], "ms")


def resnet(bench: Bench) -> None:
    """A training of ResNet-50 with a snapshot every 10 steps, beside the same without."""
    batch, size = (4, 16) if bench.tiny else (128, 224)
    model: nn.Module = Convolutions()
    if not bench.tiny:
        from torchvision.models import resnet50

        model = resnet50()
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    model = model.to(bench.device, memory_format=torch.channels_last)
    x = x.to(bench.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    _training(
        bench, "resnet", model, optimizer, x, y.to(bench.device), lambda out, target: F.cross_entropy(out, target)
    )


def gpt(bench: Bench) -> None:
    """The same of a GPT of 124 million parameters."""
    tokens, length, batch = (97, 16, 2) if bench.tiny else (50304, 1024, 8)
    model = GPT(tokens, length, *((32, 2, 2) if bench.tiny else (768, 12, 12))).to(bench.device)
    x = torch.randint(0, tokens, (batch, length), device=bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=bench.device.type == "cuda")
    _training(
        bench,
        "gpt",
        model,
        optimizer,
        x,
        x.roll(-1, 1),
        lambda out, target: F.cross_entropy(out.flatten(0, 1), target.flatten()),
    )


def _training(
    bench: Bench,
    part: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    from landscape_hooks import record

    steps = 10 if bench.tiny else 30

    def train(recorder: Any = None) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(bench.device.type, dtype=torch.bfloat16):
                loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.log(loss=loss)

    train()  # warms up
    bare, recorded, ends = [], [], []
    for turn in range(2 if bench.tiny else 8):
        bare.append(bench.seconds_of(train) / steps)
        path = bench.store / f"{part}{turn}.zarr"
        recorder = record(model, optimizer, path, every=10)
        recorded.append(bench.seconds_of(lambda recorder=recorder: train(recorder)) / steps)  # type: ignore[misc]
        begun = time.perf_counter()
        recorder.close()
        ends.append(time.perf_counter() - begun)
        _remove(path)
        if not bench.has_time(0.75):
            break
    slower = statistics.median(r / b for r, b in zip(recorded, bare, strict=True)) - 1
    bench.add(part, "a step", 1e3 * statistics.median(bare), "ms", f"{parameters_of(model) / 1e6:.1f} M parameters")
    bench.add(part, "slower with a snapshot every 10 steps", 100 * slower, "%", f"{len(bare)} rounds of {steps} steps")
    bench.add(part, "closing a run of as many steps", statistics.median(ends), "s")


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


# -- analyzing -----------------------------------------------------------------------------------------------
def grid(bench: Bench) -> None:
    """Points of a grid a second, beside a plain loop and beside forward passes of the network alone."""
    networks: dict[str, tuple[nn.Module, int, int]] = {"small": (Convolutions(), 16 if bench.tiny else 1024, 16)}
    if not bench.tiny:
        from torchvision.models import resnet18

        networks["ResNet-18"] = resnet18(num_classes=10), 512, 64
    for name, (model, samples, size) in networks.items():
        x, y = torch.randn(samples, 3, size, size), torch.randint(0, 10, (samples,))
        for policy in ("batch", "fixed"):
            if bench.has_time(0.7):
                _points(bench, name, model, x, y, policy)


def _points(bench: Bench, name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, policy: str) -> None:
    import zarr

    from landscape_hooks.device.arithmetic import arithmetic
    from landscape_hooks.evaluation import calibration
    from landscape_hooks.evaluation.engines import local
    from landscape_hooks.evaluation.plane_loss import PlaneLoss
    from landscape_hooks.objective.capture import capture
    from landscape_hooks.objective.objective import Objective
    from landscape_hooks.plane.plane import Plane
    from landscape_hooks.trajectory.parameters import ParameterLayout

    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root = zarr.group(zarr.storage.MemoryStore())
    root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
    batches = [(x[i : i + 256], y[i : i + 256]) for i in range(0, len(x), 256)]
    capture(root, model, criterion=nn.CrossEntropyLoss(), data=batches, samples=len(x))
    theta = layout.flatten(model)
    plane = Plane(theta, 0.01 * torch.randn(2, len(theta))).to(bench.device)
    objective = Objective.load(root).to(bench.device)
    loss = PlaneLoss(objective, plane, buffers.flatten(model), policy)
    plan = calibration.best_stack(loss, calibration.plain(loss))
    tuned = plan.apply(loss)
    points = np.random.default_rng(0).uniform(-1, 1, size=(4 if bench.tiny else 64, 2))
    live = model.to(bench.device).train(policy == "batch")
    there = [(a.to(bench.device), b.to(bench.device)) for a, b in batches]
    tensors = layout.tensors(live)

    def analyzed() -> None:
        for _ in local.points(tuned, points):
            pass

    def plainly() -> None:
        for alpha, beta in points:
            for tensor, value in zip(tensors, layout.slots(plane.point(alpha, beta)), strict=True):
                tensor.copy_(value)
            sum(F.cross_entropy(live(a), b).item() * len(a) for a, b in there)

    def forward() -> None:
        for _ in points:
            for a, _ in there:
                live(a)

    ways = {"analyze": analyzed, "plain loop": plainly, "forward alone": forward}
    times: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad(), arithmetic(bench.device):
        for turn in range(4):
            for way, action in ways.items():
                took = bench.seconds_of(action)
                if turn:
                    times[way].append(took / len(points))
    best = {way: statistics.median(took) for way, took in times.items()}
    label = f"{name}, {policy}"
    bench.add("grid", f"{label}: points", 1 / best["analyze"], "/s", plan.sentence().removeprefix("Computed by "))
    bench.add("grid", f"{label}: against a plain loop", best["plain loop"] / best["analyze"], "times")
    share = 100 * best["forward alone"] / best["analyze"]
    bench.add("grid", f"{label}: of the forward pass alone", share, "%", "the goal is 90")


def pca(bench: Bench) -> None:
    """The Gram matrix of 100 snapshots of 25 million parameters, on the CPU as `analyze` does, and on the device."""
    from landscape_hooks.device.arithmetic import wide
    from landscape_hooks.plane import gram
    from landscape_hooks.plane.blockwise import spans_of
    from landscape_hooks.trajectory.trajectory import Trajectory

    snapshots, size = (6, 5_000) if bench.tiny else (100, 25_000_000)
    path = bench.store / "pca.zarr"
    _write(path, snapshots, size, bench.device)
    bench.add("pca", "the run is written", time.perf_counter() - bench.began, "s", f"{4e-9 * snapshots * size:.1f} GB")
    trajectory = Trajectory.open(path)
    begun = time.perf_counter()
    expected = gram.matrix(trajectory)
    bench.add("pca", "Gram matrix on the CPU", time.perf_counter() - begun, "s")
    found: list[torch.Tensor] = []

    def on_device() -> None:
        total = wide(torch.zeros(snapshots, snapshots, device=bench.device))
        for span in spans_of(trajectory, slice(None))[0]:
            block = torch.from_numpy(trajectory.block(slice(None), span)).to(bench.device)
            block = wide(block) - wide(block[:1])
            total += block @ block.T
        found.append(total)

    took = bench.seconds_of(on_device)
    apart = float(np.abs(found[0].cpu().numpy() - expected).max() / np.abs(expected).max())
    bench.add("pca", "Gram matrix on the device", took, "s", f"read on one thread; differs by {apart:.1g}, relative")
    begun = time.perf_counter()
    for span in spans_of(trajectory, slice(None))[0]:
        trajectory.block(slice(None), span)
    bench.add("pca", "reading alone, on one thread", time.perf_counter() - begun, "s")


def _write(path: Path, snapshots: int, size: int, device: torch.device) -> None:
    """A run that turns in a plane, with a little noise."""
    from landscape_hooks import record

    model = nn.Module()
    weights = nn.Parameter(torch.randn(size, device=device))
    model.register_parameter("weights", weights)
    first, second = (torch.randn(size, device=device) for _ in range(2))
    with record(model, None, path, every=1) as recorder, torch.no_grad():
        for step in range(1, snapshots):
            weights.add_(first, alpha=0.01 * math.cos(step / 9)).add_(second, alpha=0.01 * math.sin(step / 9))
            recorder.step()


# -- drawing -------------------------------------------------------------------------------------------------
def egl(bench: Bench) -> None:
    """The first frame without a display, and one after it."""
    begun = time.perf_counter()
    from pyglet import gl

    from benchmarks.viewer import bowl
    from landscape_hooks.viewer.gl import context
    from landscape_hooks.viewer.offscreen import Canvas
    from landscape_hooks.viewer.replay.landscape import load
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.replay.replay import Replay

    context.offscreen()
    import ctypes

    driver = ctypes.cast(gl.glGetString(gl.GL_RENDERER), ctypes.c_char_p).value or b""
    bench.add("egl", "context", 1e3 * (time.perf_counter() - begun), "ms", driver.decode(errors="replace"))
    replay = Replay.of(load(bowl(25 if bench.tiny else 201)), Look())
    canvas = Canvas((320, 180) if bench.tiny else (1280, 720))
    for what in ("first frame, 201×201", "second frame"):
        start = time.perf_counter()
        picture = canvas.draw(replay)
        bench.add("egl", what, 1e3 * (time.perf_counter() - start), "ms", "×".join(map(str, picture.shape[1::-1])))
    canvas.close()


PARTS: dict[str, Callable[[Bench], None]] = {
    "stall": stall, "resnet": resnet, "gpt": gpt, "grid": grid, "pca": pca, "egl": egl,
}  # fmt: skip


# -- the parts, and the table --------------------------------------------------------------------------------
@contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=given) as folder:
        yield Path(folder)


def run_here(part: str, options: argparse.Namespace) -> list[Row]:
    """The rows of a part, run in this process."""
    torch.manual_seed(0)
    with _folder(options.store) as folder:
        bench = Bench(options.device, options.tiny, folder, SECONDS[part])
        try:
            PARTS[part](bench)
        except Exception as error:  # a part that fails is a row, not the end
            said = next(iter(str(error).splitlines()), "")
            bench.rows.append(Row(part, "failed", None, note=f"{type(error).__name__}: {said}"))
            print("ROW " + json.dumps(asdict(bench.rows[-1])), flush=True)
    return bench.rows


def run_apart(part: str, options: argparse.Namespace) -> list[Row]:
    """The same in a process of its own, as far as its time goes."""
    command = [sys.executable, __file__, "--part", part, "--device", options.device]
    command += ["--tiny"] if options.tiny else []
    command += ["--store", options.store] if options.store else []
    with tempfile.TemporaryFile("w+") as output:
        why = ""
        try:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS[part])
            why = "" if done.returncode == 0 else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            why = f"ended after {SECONDS[part]} s"
        output.seek(0)
        lines = output.read().splitlines()
    rows = [Row(**json.loads(line.removeprefix("ROW "))) for line in lines if line.startswith("ROW ")]
    if why:
        last = next((line for line in reversed(lines) if line.strip() and not line.startswith("ROW ")), "")
        rows.append(Row(part, "failed", None, note=f"{why}; {last[:200]}"))
    return rows


def name_of(device: str) -> str:
    """What the device calls itself."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "this machine's CPU" if device == "cpu" else device


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run the parts and print the table; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that every line runs")
    parser.add_argument("--here", action="store_true", help="all parts in this process, without an end by the clock")
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts")
    parser.add_argument("--store", help="a folder for the runs that are written")
    parser.add_argument("--json", help="a file for the rows")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.device = "cpu" if options.cpu else options.device
    if options.part:
        return run_here(options.part, options)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --cpu --tiny shows that the script runs")
    begun, name = time.perf_counter(), name_of(options.device)
    run = run_here if options.here else run_apart
    rows = [row for part in options.only.split(",") for row in run(part, options)]
    took = time.perf_counter() - begun
    print(f"\n{name}; torch {torch.__version__}, CUDA {torch.version.cuda}; {took:.0f} s\n")
    print("| part | what | figure | |\n|---|---|---|---|")
    for row in rows:
        figure = "–" if row.value is None else f"{row.value:,.3g} {row.unit}"
        print(f"| {row.part} | {row.what} | {figure} | {row.note} |")
    if options.json:
        found = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": options.tiny}
        Path(options.json).write_text(
            json.dumps({**found, "seconds": took, "rows": [asdict(r) for r in rows]}, indent=2)
        )
    return rows


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # for `benchmarks.viewer`
    main()
