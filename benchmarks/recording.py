"""What recording costs, as ratios measured side by side in one process.

    python benchmarks/recording.py [hook idle training checkpoint tiny store rows size memory] [--out DIR]

Every figure is the median of interleaved repetitions, so that a busy machine slows both sides alike.
"""

from __future__ import annotations

import argparse
import gc
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.recording.watch import steps
from landscape_hooks.store.rowfiles import RowFiles, chunking, read_rows
from landscape_hooks.store.run import create_run, put_files

Rows = NDArray[np.float32]


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def worked(action: Callable[[], Any]) -> float:
    """CPU seconds of this thread: what the action costs, whatever else the machine does."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


def step(optimizer: Any) -> None:
    """A step that moves nothing, as the recorder hears it: both hooks, called as torch calls them."""
    steps._before(optimizer, (), {})
    steps._after(optimizer, (), {})


def network(name: str) -> nn.Module:
    import torchvision

    model = getattr(torchvision.models, name)()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def hook(out: Path) -> None:
    """How long a snapshot blocks the training, against a plain memory copy of the parameters."""
    for name in ("resnet18", "resnet50"):
        model = network(name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        flat = nn.utils.parameters_to_vector(model.parameters()).detach()
        copy = torch.zeros_like(flat)
        recorder = record(model, optimizer, out / "run.zarr", every=1, if_exists="overwrite")
        found: dict[str, tuple[list[float], list[float]]] = {"time": ([], []), "CPU": ([], [])}
        for number in range(30):
            recorder.flush()
            clock, pair = (timed, found["time"]) if number % 2 else (worked, found["CPU"])
            pair[0].append(clock(lambda: step(optimizer)))  # noqa: B023
            recorder.flush()
            pair[1].append(clock(lambda: copy.copy_(flat)))  # noqa: B023
        recorder.close()
        for kind, pair in found.items():
            b, c = (statistics.median(values[2:]) for values in pair)
            print(f"hook      {name}: {kind:4} {b * 1e3:6.2f} ms, memory copy {c * 1e3:6.2f} ms, ratio {b / c:5.2f}")


def idle(out: Path) -> None:
    """What a step without a snapshot costs, for models of 2, 8 and 20 tensors; the least is that of an idle machine."""
    for layers in (1, 4, 10):
        model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with record(model, optimizer, out / "run.zarr", every=10**9, if_exists="overwrite"):
            costs = [worked(lambda: [step(optimizer) for _ in range(300)]) / 300e-6 for _ in range(700)]  # noqa: B023
        print(f"idle      {2 * layers} tensors: {statistics.median(costs):.2f} µs a step, at least {min(costs):.2f}")


def cifar() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """ResNet-18 and a batch as trainings on CIFAR use them: 128 images of 3×32×32."""
    torch.manual_seed(0)
    return network("resnet18"), torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))


def training(out: Path) -> None:
    """Step time of ResNet-18 on batches of 128 CIFAR-shaped images: without, with every=10, with torch.save.

    One training and one recorder, which hears the steps or does not. A snapshot is taken in the middle of ten steps, so
    that its writing falls into them. The three take turns in changing order; each is compared with the bare steps of
    its own turn, of which two tens show the noise.
    """
    model, images, targets = cifar()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = record(model, optimizer, out / "run.zarr", every=10)
    saved = 0

    def save() -> None:
        nonlocal saved
        saved += 1
        torch.save(model.state_dict(), out / f"{saved}.pt")

    def ten_steps(how: str) -> float:
        recorder.flush()  # what was recorded must not be written while nothing is
        warm(out / "warm", 4 * 47_000_000)
        steps.silence(recorder._listener)
        if how == "every=10":
            steps.listen(recorder._listener)
        start = time.perf_counter()
        for step in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            if how == "torch.save" and step == 4:
                save()
        return time.perf_counter() - start

    for _ in range(5):  # so that every tenth step is the fifth of ten
        optimizer.step()
    order = ["without", "every=10", "torch.save", "without again"]
    for how in order:
        ten_steps(how)
    times: dict[str, list[float]] = {how: [] for how in order}
    for number in range(16):
        for how in order[number % 4 :] + order[: number % 4]:
            times[how].append(ten_steps(how))
    recorder.close()
    turns = list(zip(times["without"], times["without again"], strict=True))
    base = statistics.median(sum(turn) / 2 for turn in turns)
    for name in ("every=10", "torch.save"):
        extra = statistics.median(x - sum(turn) / 2 for x, turn in zip(times[name], turns, strict=True))
        print(f"training  resnet18, {name}: {extra / base * 100:+6.2f} % of a step of {base * 100:.0f} ms")
    noise, spread = (statistics.median(how(b - a) for a, b in turns) for how in (float, abs))
    noise, spread = noise / base * 100, spread / base * 100
    print(f"training  resnet18, without, twice: {noise:+.2f} %, one turn {spread:.2f} % apart")
    rows = len(Trajectory.open(out / "run.zarr"))
    print(f"training  resnet18, every=10: {rows} snapshots in {recorder.current_step} steps with the hook")


def checkpoint(out: Path) -> None:
    """The same training and schedule with Lightning's ModelCheckpoint, where Lightning is installed."""
    try:
        import lightning
        from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    except ImportError:
        print("checkpoint  lightning is not installed")
        return
    import logging
    import warnings

    model, images, targets = cifar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    class Watch(Callback):
        def on_train_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.time = time.perf_counter() - self.start

    def fit(callbacks: list[Any]) -> float:
        watch = Watch()
        trainer = lightning.Trainer(
            max_steps=10, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=bool(callbacks), callbacks=[watch, *callbacks], default_root_dir=str(out),
        )  # fmt: skip
        warm(out / "warm", 4 * 47_000_000)
        trainer.fit(Module(), torch.utils.data.DataLoader([(images, targets)] * 10, batch_size=None))
        return watch.time

    without, with_it = [], []
    for number in range(9):
        without.append(fit([]))
        kept = ModelCheckpoint(
            str(out / f"l{number}"), every_n_train_steps=5, save_top_k=1, save_weights_only=True, monitor=None
        )
        with_it.append(fit([kept]))
    base = statistics.median(without)
    extra = (statistics.median(with_it) - base) / 2  # two checkpoints in these ten steps
    print(f"checkpoint  resnet18, ModelCheckpoint: {extra / base * 100:+6.1f} % of a step of {base * 100:.0f} ms")


def tiny(out: Path) -> None:
    """10,000 snapshots of a model of 10,000 parameters, at every step; with torch's number of threads, and with one.

    torch's second thread waits in a loop for its part of such small operations: of two cores none is the writer's.
    """
    threads = torch.get_num_threads()
    for count in dict.fromkeys((threads, 1)):
        torch.set_num_threads(count)
        _tiny(out / f"{count}.zarr", f"{count} thread" + "s" * (count > 1))
    torch.set_num_threads(threads)


def _tiny(run: Path, how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 128), nn.Tanh(), nn.Linear(128, 16), nn.Tanh(), nn.Linear(16, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.randn(64, 60)

    def train(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    train(200)
    recorder = record(model, optimizer, run, every=1)
    found: dict[str, tuple[list[float], list[float]]] = {"time": ([], []), "CPU": ([], [])}
    for number in range(20):
        clock, (without, with_it) = (timed, found["time"]) if number % 2 else (worked, found["CPU"])
        steps.silence(recorder._listener)
        recorder.flush()  # what was recorded must not be written while nothing is
        warm(run.with_suffix(".warm"), 4 * 500 * 40_000)
        without.append(clock(lambda: train(500)))
        steps.listen(recorder._listener)
        warm(run.with_suffix(".warm"), 4 * 500 * 40_000)
        with_it.append(clock(lambda: train(500)))
    recorder.close()
    for kind, (without, with_it) in found.items():
        base = statistics.median(without)
        extra = statistics.median(x - y for x, y in zip(with_it, without, strict=True))
        print(f"tiny      {how}, {kind:4}: {extra / base * 100:+.1f} % of a step of {base * 2e3:.0f} µs")
    files = sum(1 for p in run.rglob("*") if p.is_file())
    parameters, rows = Trajectory.open(run).layout.size, len(Trajectory.open(run))
    print(f"tiny      {rows} snapshots of {parameters} parameters in {files} files")


def store(out: Path) -> None:
    """Sustained write speed: snapshots in a row until all are committed, against plain files of the same bytes.

    Copying a snapshot overlaps with writing the one before, as in a training. Either side writes as many
    files, in the growing case new ones, in the thinned case over those that are there, and goes first every other time.
    """
    count = 24
    model = network("resnet18")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    row = np.concatenate([p.detach().numpy().reshape(-1) for p in [*model.parameters(), *_running(model)]])
    for name, options in (("growing", {"every": 1}), ("thinned, places reused", {"keep": 8})):
        plain, ours = [], []
        for number in range(10):
            (out / "plain").mkdir()
            recorder = record(model, optimizer, out / "run.zarr", **options)
            if "keep" in options:
                take(recorder, optimizer, 8)
                for i in range(8):
                    (out / "plain" / str(i)).write_bytes(row.data)
            recorder.flush()

            def snapshots() -> None:
                take(recorder, optimizer, count)  # noqa: B023
                recorder.flush()  # noqa: B023

            def files() -> None:
                for i in range(count):
                    (out / "plain" / str(i % 8 if "keep" in options else i)).write_bytes(row.data)  # noqa: B023

            for action, times in ((snapshots, ours), (files, plain))[:: 1 if number % 2 else -1]:
                warm(out / "warm", 4 * count * row.nbytes)
                times.append(timed(action))
            recorder.close()
            shutil.rmtree(out / "plain")
            shutil.rmtree(out / "run.zarr")
        ratio = statistics.median(x / y for x, y in zip(plain, ours, strict=True))
        speeds = [count * row.nbytes / statistics.median(times) / 1e6 for times in (ours, plain)]
        print(f"store     {name}: {speeds[0]:.0f} MB/s, plain files {speeds[1]:.0f} MB/s: {ratio * 100:.0f} %")


def rows(out: Path) -> None:
    """Writing and reading rows as files (rowfiles.py), against zarr on the same arrays; all from the page cache."""
    for name, size, count, stretch in (("resnet18", 11_689_512, 6, 2**20), ("10,008", 10_008, 400, 2_500)):
        found: dict[str, list[tuple[float, float]]] = {}
        values = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
        for number in range(5):
            ways = _ways(out, values, [slice(a, min(a + stretch, size)) for a in range(0, size, stretch)])
            for way in [*ways][:: 1 if number % 2 else -1]:
                for what, action in zip(("written", "read"), ways[way], strict=True):
                    warm(out / "warm", 2 * values.nbytes)
                    before = time.process_time()
                    found.setdefault(f"{what} {way}", []).append((timed(action), time.process_time() - before))
        for what in ("written", "read"):
            ours, theirs = (np.array(found[f"{what} {way}"]) for way in ways)
            (wall, processor), smallest = np.median(theirs / ours, axis=0), theirs.min(axis=0)[0] / ours.min(axis=0)[0]
            speed = values.nbytes / np.median(ours[:, 0]) / 1e6
            print(
                f"rows      {name}, {what}: {speed:.0f} MB/s, {wall:.1f} times as fast as zarr {zarr.__version__} "
                f"(smallest times {smallest:.1f}, the processor's {processor:.1f})"
            )


def _ways(out: Path, values: Rows, stretches: list[slice]) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """How to write rows one by one and to read them in stretches: our way and zarr's, each with an array of its own."""
    chunks, shards = chunking(values.shape[1], 4, several_rows=values.shape[1] < 10**6)
    arrays = []
    for way in ("ours", "zarr"):
        shutil.rmtree(out / way, ignore_errors=True)
        options = {"chunks": chunks, "shards": shards, "dtype": "f4", "fill_value": np.nan, "compressors": None}
        config = {"write_empty_chunks": True}
        arrays.append(create_run(out / way).create_array("weights", shape=values.shape, config=config, **options))
    (ours, theirs), files, places = arrays, RowFiles(arrays[0]), np.arange(len(values))
    memory, snapshots = files.staging(len(values))  # where a snapshot is copied to, whoever writes it
    snapshots[...] = values

    def put() -> None:
        for i in range(len(values)):
            put_files(ours.store, files.put([i], snapshots[i : i + 1], memory[i : i + 1]))

    def assign() -> None:
        for i in range(len(values)):
            theirs[i] = values[i]

    def read() -> None:
        for part in stretches:
            assert read_rows(ours, places, part.start, part.stop) is not None

    def select() -> None:
        for part in stretches:
            theirs[:, part]

    return {"ours": (put, read), "zarr": (assign, select)}


def warm(file: Path, size: int) -> None:
    """Have the kernel's page cache take memory and give it back, so that neither side has to be given new memory.

    On a virtual machine a page that was never used costs ten times what writing to it costs. Much more than is needed
    is taken: which of its free pages the kernel gives to a thread depends on where the thread runs.
    """
    block = bytes(2**22)
    with file.open("wb") as opened:
        for _ in range(size // len(block) + 1):
            opened.write(block)
    file.unlink()


def _running(model: nn.Module) -> list[torch.Tensor]:
    return [b for b in model.buffers() if b.is_floating_point()]


def take(recorder: Any, optimizer: Any, count: int) -> None:
    """Step until so many snapshots were taken (a thinning schedule takes one only now and then)."""
    while count:
        before = recorder._end.taken
        step(optimizer)
        count -= recorder._end.taken != before


def size(out: Path) -> None:
    """Bytes on disk, against the bytes of the numbers."""
    for name in ("resnet18", "resnet50"):
        model = network(name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with record(model, optimizer, out / "run.zarr", every=1, if_exists="overwrite"):
            for _ in range(4):
                optimizer.step()
        trajectory = Trajectory.open(out / "run.zarr")
        numbers = len(trajectory) * (trajectory.layout.size + trajectory.buffer_layout.size) * 4
        disk = sum(p.stat().st_size for p in (out / "run.zarr").rglob("*") if p.is_file())
        print(f"size      {name}: {disk / numbers:.4f} of the bytes of the numbers")


MEMORY = r"""
import re, sys, torch, torchvision
from pathlib import Path
from landscape_hooks import record
import landscape_hooks.recording.recorder
model = torchvision.models.resnet50()
for p in model.parameters():
    p.grad = torch.zeros_like(p)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
optimizer.step()

def memory(which):
    return int(re.search(which + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (man 5 proc)
if sys.argv[1] == "with":
    recorder = record(model, optimizer, sys.argv[2], every=1)
for _ in range(8):
    optimizer.step()
if sys.argv[1] == "with":
    recorder.flush()
print(memory("VmHWM") - before)
"""


def memory(out: Path) -> None:
    """Peak memory of a process while it records ResNet-50, above that of one that does not, in snapshots (Linux)."""
    if not Path("/proc/self/clear_refs").exists():
        print("memory    the peak can be set back on Linux only")
        return
    peaks = {}
    for how in ("without", "with"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, how, str(out / "run.zarr")], capture_output=True, text=True, check=True
        )
        peaks[how] = int(done.stdout)
        print(f"memory    resnet50, {how}: {peaks[how] / 1e6:.0f} MB above what the process held before")
    snapshot = sum(p.numel() for p in network("resnet50").parameters()) * 4
    print(f"memory    resnet50: {(peaks['with'] - peaks['without']) / snapshot:.2f} snapshots more")


PARTS = {f.__name__: f for f in (hook, idle, training, checkpoint, tiny, store, rows, size, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which figures (default: all)")
    parser.add_argument("--out", help="folder to write into (default: a temporary one)")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, ru_maxrss {resource.getrusage(0).ru_maxrss // 1024} MB")
    for name in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
            PARTS[name](Path(folder))
        gc.collect()


if __name__ == "__main__":
    main()
