"""Time of a loss grid against a plain loop over cached batches, side by side, for each BatchNorm policy.

The plain loop is what one writes by hand: the user's own model, torch's default threads, the recorded batches in
memory, one point after the other. Both are timed in alternation on the same points; shown are the medians of the
rounds, the median of the rounds' ratios and their range. Ours is what `analyze` would take, start of the worker
processes included, calibration apart (its time is shown beside it).

    python benchmarks/grid.py [--models digits,resnet18,transformer] [--points 16] [--rounds 5] [--alone] [--compiled]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import numpy as np
import torch
import zarr
from torch import nn

from landscape_hooks.evaluation import calibration
from landscape_hooks.evaluation.engines import local
from landscape_hooks.evaluation.plane_loss import PlaneLoss
from landscape_hooks.objective.capture import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.plane.plane import Plane
from landscape_hooks.trajectory.parameters import ParameterLayout


def digits() -> tuple[nn.Module, list]:
    """94,410 parameters with BatchNorm, 1,024 of scikit-learn's digits in batches of 256."""
    from sklearn.datasets import load_digits

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]

    raw = load_digits()
    x = torch.tensor(raw.images[:1024], dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(raw.target[:1024])
    body = [*block(1, 32), nn.MaxPool2d(2), *block(32, 64), *block(64, 128)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return model, list(zip(x.split(256), y.split(256), strict=True))


def resnet18() -> tuple[nn.Module, list]:
    """torchvision's ResNet-18 on 64 images of 3×64×64 in batches of 32."""
    from torchvision.models import resnet18

    x, y = torch.randn(64, 3, 64, 64), torch.randint(0, 10, (64,))
    return resnet18(num_classes=10), list(zip(x.split(32), y.split(32), strict=True))


def transformer() -> tuple[nn.Module, list]:
    """Four encoder layers of width 128 on 128 sequences of 64 tokens in batches of 32; no BatchNorm."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(100, 128)
            layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, dropout=0.0)
            self.body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.head = nn.Linear(128, 10)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embed(tokens)).mean(dim=1))

    x, y = torch.randint(0, 100, (128, 64)), torch.randint(0, 10, (128,))
    return Small(), list(zip(x.split(32), y.split(32), strict=True))


MODELS = {"digits": digits, "resnet18": resnet18, "transformer": transformer}


class PlainLoop:
    """What one writes by hand."""

    def __init__(self, model: nn.Module, batches: list, plane: Plane, policy: str, moved: torch.Tensor) -> None:
        self.model, self.batches, self.plane, self.policy = copy.deepcopy(model).eval(), batches, plane, policy
        self.layout, self.buffer_layout = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
        self.buffers, self.moved = self.buffer_layout.flatten(model), moved
        self.norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.variances = torch.cat(
            [torch.full((e.size,), e.name.endswith("running_var")) for e in self.buffer_layout.entries]
            or [torch.zeros(0, dtype=torch.bool)]
        )
        self.criterion = nn.CrossEntropyLoss(reduction="sum")
        self.forward = self.model

    @torch.no_grad()
    def __call__(self, alpha: float, beta: float) -> float:
        plane = self.plane
        self.layout.assign(self.model, plane.origin + alpha * plane.directions[0] + beta * plane.directions[1])
        buffers = self.buffers
        if self.policy == "interpolate":
            buffers = buffers + alpha * self.moved[0] + beta * self.moved[1]
            buffers = torch.where(self.variances, buffers.clamp_min(0), buffers)
        self.buffer_layout.assign(self.model, buffers)
        if self.policy == "recalibrate":
            torch.optim.swa_utils.update_bn([x for x, _ in self.batches], self.model)
            self.model.eval()
        for norm in self.norms:
            norm.train(self.policy == "batch")
        total = sum(self.criterion(self.forward(x), y).item() for x, y in self.batches)
        return total / sum(len(y) for _, y in self.batches)


def objective_of(model: nn.Module, batches: list) -> Objective:
    """As a run carries it."""
    root = zarr.group(zarr.storage.MemoryStore())
    layout, buffers = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    root.attrs.put({"layout": layout.to_json(), "buffer_layout": buffers.to_json()})
    capture(root, model, criterion=nn.CrossEntropyLoss(), data=batches, samples=10**6)
    return Objective.load(root)


def prepared(name: str) -> tuple:
    """A model with running statistics, its objective, a plane through its weights, and its batches."""
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    with torch.no_grad():
        for x, _ in batches:
            model.train()(x)
    objective = objective_of(model, batches)
    layout, buffer_layout = ParameterLayout.of(model), ParameterLayout.of_buffers(model)
    theta, buffers = layout.flatten(model).detach(), buffer_layout.flatten(model)
    plane = Plane(theta, 0.02 * theta.std() * torch.randn(2, len(theta)))
    moved = 0.01 * torch.randn(2, len(buffers))
    return model, layout, objective, plane, buffers, moved, batches


def compare(name: str, policies: list[str], points: int, rounds: int) -> None:
    """Print one line a policy."""
    model, _, objective, plane, buffers, moved, batches = prepared(name)
    where = np.random.default_rng(0).normal(size=(points, 2))
    for policy in policies if objective.has_running_statistics else ["none"]:
        loop = PlainLoop(model, batches, plane, policy, moved)
        loss = PlaneLoss(objective, plane, buffers, policy, moved)
        start = time.perf_counter()
        plan = calibration.choose(loss, 25 * 25)
        calibrated = time.perf_counter() - start
        ours = plan.apply(loss)
        expected = np.array([loop(*p) for p in where])
        found, theirs, mine = np.empty(points), [], []
        for _ in range(rounds):
            start = time.perf_counter()
            for p in where:
                loop(*p)
            theirs.append((time.perf_counter() - start) / points * 1e3)
            start = time.perf_counter()
            for tile in local.points(ours, where):
                found[tile.index] = tile.loss
            mine.append((time.perf_counter() - start) / points * 1e3)
        error = np.max(np.abs(found / expected - 1))
        a, b = statistics.median(theirs), statistics.median(mine)
        ratios = [x / y for x, y in zip(theirs, mine, strict=True)]
        print(
            f"{name:12s} {policy:12s} plain {a:8.1f} ms  ours {b:8.1f} ms  {a / b:5.2f}×  "
            f"(rounds {statistics.median(ratios):.2f}×, {min(ratios):.2f}-{max(ratios):.2f})  "
            f"error {error:.0e}  calibration {calibrated:.1f} s  "
            f"{plan.sentence()}",
            flush=True,
        )


def compare_alone(name: str, policies: list[str], rounds: int) -> None:
    """The same for one thread in one process, by the time it was running: a figure that a busy machine leaves alone."""
    torch.set_num_threads(1)
    model, _, objective, plane, buffers, moved, batches = prepared(name)
    for policy in policies if objective.has_running_statistics else ["none"]:
        loop = PlainLoop(model, batches, plane, policy, moved)
        loss = PlaneLoss(objective, plane, buffers, policy, moved)
        plan = calibration.choose(loss, 10**9, workers=1)
        ours = plan.apply(loss)
        error = abs(ours.at(0.7, -0.4).mean / loop(0.7, -0.4) - 1)
        theirs, mine = [], []
        for _ in range(rounds):
            for run, times in ((loop, theirs), (ours.at, mine)):
                start = time.thread_time()
                run(0.7, -0.4)
                times.append((time.thread_time() - start) * 1e3)
        a, b = statistics.median(theirs), statistics.median(mine)
        print(
            f"{name:12s} {policy:12s} plain {a:8.1f} ms  ours {b:8.1f} ms  {a / b:5.2f}×  (one thread, processor "
            f"time)  error {error:.0e}  {plan.sentence()}",
            flush=True,
        )


def compare_compiled(name: str, rounds: int) -> None:
    """What `torch.compile` makes of the plain loop, running statistics fixed, and how long that takes first."""
    model, _, _, plane, _, moved, batches = prepared(name)
    loop, compiled = (PlainLoop(model, batches, plane, "fixed", moved) for _ in range(2))
    compiled.forward = torch.compile(compiled.model)
    start = time.perf_counter()
    error = abs(compiled(0.7, -0.4) / loop(0.7, -0.4) - 1)
    first = time.perf_counter() - start
    ways: dict[str, tuple[PlainLoop, list[float]]] = {"plain": (loop, []), "compiled": (compiled, [])}
    for _ in range(rounds):
        for run, times in ways.values():
            start = time.perf_counter()
            for _ in range(4):
                run(0.7, -0.4)
            times.append((time.perf_counter() - start) / 4 * 1e3)
    a, b = (statistics.median(times) for _, times in ways.values())
    pays = f", pays from {first * 1e3 / (a - b):.0f} points on" if b < a else ""
    print(
        f"{name:12s} {'fixed':12s} plain {a:8.1f} ms  compiled {b:8.1f} ms  {a / b:5.2f}×  error {error:.0e}  "
        f"compiling {first:.1f} s{pays}",
        flush=True,
    )


def main() -> None:
    """Parse and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--policies", default="batch,fixed,interpolate,recalibrate")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="one thread, by processor time")
    parser.add_argument("--compiled", action="store_true", help="what torch.compile makes of the plain loop")
    options = parser.parse_args()
    for name in options.models.split(","):
        if options.compiled:
            compare_compiled(name, options.rounds)
            continue
        if options.alone:
            compare_alone(name, options.policies.split(","), options.rounds)
            continue
        compare(name, options.policies.split(","), options.points, options.rounds)


if __name__ == "__main__":
    main()
