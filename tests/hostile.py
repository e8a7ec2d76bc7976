"""What a user does with a run or a file from a stranger, and the promise that is held: a result, or a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_hooks import Local, Storage, Surface, Trajectory, analyze, cli, record
from landscape_hooks.errors import LandscapeError
from landscape_hooks.store.run import create_run, open_run
from landscape_hooks.trajectory.doubts import Doubt, add_doubt
from landscape_hooks.trajectory.parameters import ParameterLayout
from landscape_hooks.trajectory.sharding import Piece
from landscape_hooks.trajectory.writer import Rows, TrajectoryWriter

SECONDS = 5.0
"""A single thing that a user does with a small hostile run takes less, or it hangs."""


class Broken(AssertionError):
    """The promise was not held."""


def honest(folder: Path, *, compress: str | None = None) -> Path:
    """A small run of our own: batch normalisation, thinned rows, an objective, a surface and a stored Gram matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    data = torch.randn(12, 3), torch.randint(0, 2, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(
        model, optimizer, folder, keep=4, criterion=nn.CrossEntropyLoss(), data=data, storage=Storage(compress=compress)
    ) as r:
        for _ in range(9):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data[0]), data[1])
            loss.backward()
            r.log(loss=loss, epoch=0)
            optimizer.step()
    analyze(folder, size=3, engine=Local(tune=False), progress=False)
    return folder


def frozen(folder: Path) -> Path:
    """A run of bfloat16 with a fixed tensor, one that begins to move later, a mark and a doubt."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2)).bfloat16()
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    data = torch.randn(12, 3).bfloat16(), torch.randint(0, 2, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    storage = Storage(checksum=True)
    with record(model, optimizer, folder, every=1, criterion=nn.CrossEntropyLoss(), data=data, storage=storage) as r:
        for step in range(5):
            model[2].requires_grad_(step > 2)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        r.mark("best")
    add_doubt(open_run(folder, mode="r+"), Doubt("loss", "The stored loss is in doubt.", {"stored": 1.0}))
    analyze(folder, size=3, engine=Local(tune=False), progress=False)
    return folder


def sharded(folder: Path) -> Path:
    """A run as two ranks of a sharded training write it: one matrix cut along its rows, one bias whole."""
    layout = ParameterLayout.from_json(
        [
            {"name": "weight", "shape": [4, 3], "dtype": "float32", "offset": 0, "size": 12},
            {"name": "bias", "shape": [4], "dtype": "float32", "offset": 12, "size": 4},
        ]
    )
    none = ParameterLayout((), kind="buffer")
    root = create_run(folder)
    root.attrs.update({"layout": layout.to_json(), "buffer_layout": []})
    root.create_group("trajectory", attributes={"ranks": 2})
    own = [Piece("weight", (0, 0), (2, 3)), Piece("bias", (0,), (4,))], [Piece("weight", (2, 0), (2, 3))]
    for rank, pieces in enumerate(own):
        shard = root.create_group(f"ranks/{rank}", attributes={"pieces": [piece.to_json() for piece in pieces]})
        entries, offset = [], 0
        for piece in pieces:
            size = int(np.prod(piece.shape))
            entries.append({"name": piece.name, "shape": list(piece.shape), "dtype": "float32", "offset": offset,
                            "size": size})  # fmt: skip
            offset += size
        writer = TrajectoryWriter.create(shard, ParameterLayout.from_json(entries), none, groups=1)
        weights = np.random.default_rng(rank).normal(size=(4, offset)).astype(np.float32)
        scalars: dict[str, list[float]] = {name: [0.0, 1.0, 2.0, 3.0] for name in ("epoch", "loss", "wall_time")}
        writer.append(Rows(weights, np.empty((4, 0), np.float32), {"step": [0, 1, 2, 3], **scalars}, np.ones((4, 1))))
        writer.close()
    return folder


def visit(run: Path, out: Path, *, compute: bool = True, figure: bool = False) -> list[str]:
    """Do with a run what a user does; returns what came of each thing: "ok" or the sentence of the error.

    Raises
    ------
    Broken
        something came of it that is neither, or it took too long.
    """
    outcomes = [
        command("info", run),
        command("info", run, "--json"),
        command("export", run, "--ply", out / "f.ply", "--glb", out / "f.glb"),
        library(lambda: read_trajectory(run)),
        library(lambda: read_picture(run)),
    ]
    if figure:
        outcomes.append(command("export", run, "--png", out / "f.png"))
    if compute:
        outcomes.append(library(lambda: load_objective(run)))
        outcomes.append(command("info", run, "--verify"))
        options = ("--size", "2", "--no-tune", "--quiet", "--workers", "1")
        outcomes.append(command("analyze", run, *options, "--name", "again"))
        outcomes.append(command("analyze", run, "--size", "3", *options[2:]))
    return outcomes


def command(*arguments: Any) -> str:
    """The command line in this process; "ok" or the sentence it ends with."""
    out, error = io.StringIO(), io.StringIO()

    def act() -> str:
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            if end.code not in (0, 1, 2, None):
                raise Broken(f"{arguments} ended with {end.code}") from end
            if end.code == 2 and len(error.getvalue()) < 20:
                raise Broken(f"{arguments} ended without a sentence") from end
            return error.getvalue() if end.code == 2 else "ok"
        return "ok"

    return _watched(act, arguments)


def library(action: Callable[[], Any]) -> str:
    """A call of the library; "ok" or the sentence of its LandscapeError."""

    def act() -> str:
        try:
            action()
        except LandscapeError as error:
            return str(error)
        return "ok"

    return _watched(act, action)


def _watched(act: Callable[[], str], what: Any) -> str:
    start = time.process_time()
    try:
        outcome = act()
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"{what}: a traceback ({type(error).__name__}: {error})") from error
    if time.process_time() - start > SECONDS:
        raise Broken(f"{what}: took {time.process_time() - start:.1f} s")
    return outcome


def read_trajectory(run: Path) -> None:
    trajectory = Trajectory.open(run)
    for number in {0, len(trajectory) // 2, len(trajectory) - 1} if len(trajectory) else ():
        snapshot = trajectory[number]
        assert snapshot.weights.shape == (trajectory.layout.size,)
        assert snapshot.buffers.shape == (trajectory.buffer_layout.size,)
    for mark in trajectory.marks.values():
        assert mark.weights.shape == (trajectory.layout.size,)
    for entry in trajectory.fixed_layout:
        assert trajectory.fixed[entry.name].shape == entry.shape
    assert all(doubt.said.isprintable() for doubt in trajectory.doubts)


def read_picture(run: Path) -> None:
    """All that the viewer does before it draws."""
    from landscape_hooks.viewer.live import extend
    from landscape_hooks.viewer.replay.landscape import load
    from landscape_hooks.viewer.replay.look import Look
    from landscape_hooks.viewer.replay.replay import Replay, describe_moment

    landscape = load(run)
    replay = Replay.of(landscape, Look())
    assert landscape.lines is not None
    for number in range(len(landscape.paths)):
        describe_moment(replay, number)
    if landscape.surface is not None and run.is_dir():
        extend(open_run(run), Surface.open(run))


def load_objective(run: Path) -> None:
    from landscape_hooks.objective.objective import Objective

    objective, last = Objective.load(open_run(run)), Trajectory.open(run)[-1]
    objective.evaluate(torch.from_numpy(last.weights), torch.from_numpy(last.buffers))


def change(run: Path, node: str, where: Sequence[Any], value: Any) -> None:
    """Replace a value in a node's zarr.json; `where` is the path to it. A callable gets the old value."""
    file = run / node / "zarr.json"
    document = json.loads(file.read_text())
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    old = inner[where[-1]] if isinstance(inner, list) or where[-1] in inner else None
    inner[where[-1]] = value(old) if callable(value) else value
    file.write_text(json.dumps(document))
