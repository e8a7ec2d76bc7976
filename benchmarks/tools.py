"""The same loss grid by other tools, by a plain loop and by `analyze`, interleaved on one machine.

    python benchmarks/tools.py [--size 25] [--rounds 3] [--folder DIR] [--alone] [--ways plain,ours]

The digits network (94,410 parameters, BatchNorm), a little trained; 1,024 samples in batches of 256; one plane; the
network in evaluation mode with its running statistics. Each tool of TOOLS gets a virtual environment of its own in DIR,
which sees this environment's PyTorch and is otherwise what its wheel says; it is handed the same loss function as
the plain loop. Every round runs each way in a fresh process and takes the time of its call, all included: for
`analyze` the plane, the calibration and the writing. Medians are shown, and what came out: the centre against the
trained loss, and each point against the plain loop at the coordinates that the tool claims for it. With `--folder`,
environments and rounds are kept, so that rounds add up over several calls. `--alone` gives each way one thread in one
process and counts the processor's time: a figure that a busy machine leaves alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOOLS = {
    "loss-landscapes": ["loss-landscapes"],
    # its own requirements, but for those that are here already
    "landscaper": ["landscaper", "nglpy", "topopy", "gudhi", "treelib", "coloraide", "drawsvg", "pandas"],
}
CLOCK = time.perf_counter

REACH = 0.25
"""The plane's half-width, as a share of the weights' norm."""


# -- the task: nothing but torch, so that every environment can read it -----------------------------------------------
def loss_over(model: torch.nn.Module, batches: list[Any]) -> float:
    """The mean loss over the batches: the plain loop's body, and what every tool is given."""
    with torch.no_grad():
        total = sum(torch.nn.functional.cross_entropy(model(x), y, reduction="sum").item() for x, y in batches)
    return total / sum(len(y) for _, y in batches)


def moved(model: torch.nn.Module, start: list[Any], steps: list[tuple[float, list[Any]]]) -> None:
    """Set the parameters to start + Σ coordinate · direction."""
    with torch.no_grad():
        for i, (parameter, base) in enumerate(zip(model.parameters(), start, strict=True)):
            parameter.copy_(base + sum(c * direction[i] for c, direction in steps))


def axis(size: int) -> np.ndarray:
    """Coordinates -1 … 1, the centre among them where the size is odd."""
    return np.linspace(-1.0, 1.0, size)


def plain(task: Any, size: int) -> tuple[np.ndarray, list[Any]]:
    """What one writes by hand."""
    model, batches, start, one, two = task
    loss = np.array([[_at(model, batches, start, [(a, one), (b, two)]) for b in axis(size)] for a in axis(size)])
    return loss, [one, two, axis(size), axis(size)]


def _at(model: Any, batches: Any, start: Any, steps: Any) -> float:
    moved(model, start, steps)
    return loss_over(model, batches)


def loss_landscapes_grid(task: Any, size: int) -> tuple[np.ndarray, list[Any]]:
    """`planar_interpolation`, whose source says that point [i, j] is start + i·(end one - start)/n + j·(...)/n."""
    import copy

    import loss_landscapes
    from loss_landscapes.metrics.metric import Metric

    model, batches, start, one, two = task

    class Loss(Metric):
        def __call__(self, wrapper: Any) -> float:
            return loss_over(wrapper.modules[0], batches)

    ends = [copy.deepcopy(model) for _ in range(3)]
    step, first = 2 / (size - 1), -1.0
    for end, (a, b) in zip(ends, ((0, 0), (size, 0), (0, size)), strict=True):
        moved(end, start, [(first + a * step, one), (first + b * step, two)])
    loss = loss_landscapes.planar_interpolation(*ends, Loss(), steps=size)
    return loss, [one, two, axis(size), axis(size)]


def landscaper_grid(task: Any, size: int) -> tuple[np.ndarray, list[Any]]:
    """`LossLandscape.compute`; it scales directions tensor by tensor, and its coordinates are in norms of the model."""
    from landscaper import LossLandscape

    model, batches, start, one, two = task
    norm = _norm(start)
    found = LossLandscape.compute(
        model, batches, [one, two], loss_over, steps=size, distance=REACH, dim=2, device="cpu"
    )
    scaled = []
    # 1.3.1: each tensor to the root of its size, the whole to the model's norm. The sources of August 2026 scale each
    # to the norm of its weights instead; the share of points that are found would say so.
    for direction in (one, two):
        each = [d * (d.numel() ** 0.5 / (d.norm() + 1e-10)) for d in direction]
        scaled.append([d * (norm / _norm(each)) for d in each])
    return np.asarray(found.loss), [*scaled, *found.ranges]


def ours(task: Any, size: int) -> tuple[np.ndarray, list[Any]]:
    """`analyze` of a run with the plane's three corners as snapshots."""
    from landscape_hooks import Points, analyze

    alone = {"workers": 1} if CLOCK is time.process_time else {}

    with tempfile.TemporaryDirectory() as folder:
        path = _run(task, Path(folder) / "run.zarr")
        scale = _norm(task[3])
        begin = CLOCK()
        surface = analyze(
            path, directions=Points("2,0,1"), batch_norm="fixed", size=size, extent=(-scale, scale) * 2,
            progress=False, **alone,
        )  # fmt: skip
        ours.seconds = CLOCK() - begin  # type: ignore[attr-defined]  # recording the run is not part of it
        ours.plan = surface.attrs["report"][-1]  # type: ignore[attr-defined]
    return surface.loss, [task[3], task[4], surface.alpha / scale, surface.beta / scale]


def _run(task: Any, path: Path) -> Path:
    """Three snapshots: start + one, start + two, start."""
    from landscape_hooks import record

    model, batches, start, one, two = task
    moved(model, start, [(1.0, one)])
    with record(model, None, path, every=1, criterion=torch.nn.CrossEntropyLoss(), data=batches) as recorder:
        for steps in ([(1.0, two)], []):
            moved(model, start, steps)
            recorder.step()
    return path


def _norm(tensors: list[Any]) -> float:
    return float(torch.sqrt(sum((t**2).sum() for t in tensors)))


WAYS = {"plain": plain, "loss-landscapes": loss_landscapes_grid, "landscaper": landscaper_grid, "ours": ours}


def run_way(name: str, folder: Path, size: int, alone: bool) -> None:
    """One way in this process; prints its time and how its values stand to the definition."""
    global CLOCK
    if alone:
        CLOCK = time.process_time
        torch.set_num_threads(1)
    task = torch.load(folder / "task.pt", weights_only=False)  # this program's own file
    model, batches, start = task[0].eval(), task[1], task[2]
    trained = loss_over(model, batches)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        begin = CLOCK()
        loss, (one, two, rows, columns) = WAYS[name](task, size)
        seconds = getattr(WAYS[name], "seconds", CLOCK() - begin)
    middle = size // 2
    # a sample of the points, the corners and the rows beside each other among them: enough to see what is where
    spots = sorted({(i, j) for i in (0, 1, middle, size - 2, size - 1) for j in (0, 1, middle, size - 1)})
    truth = np.array([_at(model, batches, start, [(rows[i], one), (columns[j], two)]) for i, j in spots])
    found = np.array([loss[i, j] for i, j in spots])
    error = np.abs(found / truth - 1)
    print(
        json.dumps(
            {
                "way": name,
                "size": size,
                "seconds": seconds,
                "centre": abs(float(loss[middle, middle]) / trained - 1),
                "right": int((error < 1e-4).sum()),
                "compared": len(spots),
                "worst": float(error.max()),
                "version": metadata.version("landscape-hooks" if name == "ours" else name) if name != "plain" else "",
                "threads": torch.get_num_threads(),
                "plan": getattr(WAYS[name], "plan", ""),
            }
        )
    )


# -- environments and rounds -------------------------------------------------------------------------------------------
def make_task(folder: Path) -> None:
    """The network after two epochs, and two orthogonal directions of equal length that touch every tensor."""
    from grid import digits

    torch.manual_seed(0)
    model, batches = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        for x, y in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    start = [p.detach().clone() for p in model.parameters()]
    flat = torch.randn(2, sum(p.numel() for p in start), dtype=torch.float64)
    flat[1] -= (flat[1] @ flat[0]) / (flat[0] @ flat[0]) * flat[0]
    flat = (flat * (REACH * _norm(start) / flat.norm(dim=1, keepdim=True))).float()
    cut = [list(v.split([p.numel() for p in start])) for v in flat]
    one, two = ([piece.view_as(p) for piece, p in zip(v, start, strict=True)] for v in cut)
    torch.save((model.eval(), batches, start, one, two), folder / "task.pt")


def environment(name: str, folder: Path) -> str:
    """The interpreter of a tool's own environment, which sees the packages of this one after its own."""
    where = folder / name
    python = where / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", where], check=True)
        ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
        shared = {str(Path(torch.__file__).parents[1]), sysconfig.get_path("purelib")}
        (Path(own) / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *TOOLS[name]], check=True)
    return str(python)


def table(rounds: list[dict[str, Any]]) -> list[str]:
    """Medians, one line a way."""
    lines = []
    median = {w: statistics.median(r["seconds"] for r in rounds if r["way"] == w) for w in {r["way"] for r in rounds}}
    for way in WAYS:
        some = [r for r in rounds if r["way"] == way]
        if not some:
            continue
        last = some[-1]
        centre = "centre is the trained loss" if last["centre"] < 1e-4 else f"centre off by {last['centre']:.1%}"
        right = f"{last['right']} of {last['compared']} points compared are where it says"
        worst = f" (worst off by {last['worst']:.1%})" if last["right"] < last["compared"] else ""
        lines.append(
            f"{way:16s} {last['version']:8s} {median[way]:7.1f} s  {median['plain'] / median[way]:5.2f}×  "
            f"({len(some)} rounds)  {centre}; {right}{worst}  {last['plan']}"
        )
    return lines


def main() -> None:
    """Make what is missing, run the rounds, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep environments and rounds here")
    parser.add_argument("--alone", action="store_true", help="one thread each, by processor time")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_way(options.way, options.folder, options.size, options.alone)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "task.pt").exists():
            make_task(folder)
        pythons = {way: environment(way, folder) if way in TOOLS else sys.executable for way in WAYS}
        kept = folder / f"rounds-{options.size}{'-alone' if options.alone else ''}.jsonl"
        more = ["--folder", str(folder), "--size", str(options.size), *(["--alone"] if options.alone else [])]
        for _ in range(options.rounds):
            for way in options.ways.split(","):
                command = [pythons[way], __file__, "--way", way, *more]
                done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                with kept.open("a") as file:
                    file.write(done.splitlines()[-1] + "\n")
        rounds = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
        how = "one thread, processor time" if options.alone else f"{torch.get_num_threads()} threads"
        print(f"{options.size}×{options.size} points, {how}")
        print("\n".join(table(rounds)))


if __name__ == "__main__":
    main()
