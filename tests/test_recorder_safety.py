"""What is committed survives: kill -9 at any moment, errors of the store, a reader beside the writer, exit and fork."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.errors import RecordingWarning, RunError

FORKED = """
    import os, random, signal, sys, time
    import torch
    from torch import nn
    import torch._dynamo  # what every optimizer imports, once instead of in every child
    from landscape_hooks import Trajectory, background, record
    from landscape_hooks.errors import RunError

    background.GROUP_SECONDS = 0.02
    path, size, options, kills, end = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)

    def child(ready):
        # every weight equals the number of steps taken, so a torn row shows
        model = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model.weight.grad = torch.full_like(model.weight, -1.0)
        start = None
        try:
            last = Trajectory.open(path)[-1]
            start = last.step
            nn.init.constant_(model.weight, last.weights[0])
        except (RunError, IndexError):
            pass
        record(model, optimizer, path, if_exists="resume", step=start, on_error="raise", **options)
        os.write(ready, b"x")
        for step in range(start or 0, end):
            optimizer.step()

    for kill in range(kills + 1):
        read, write = os.pipe()
        process = os.fork()
        if not process:
            child(write)
            if kill < kills:
                time.sleep(60)
            sys.exit(0)
        os.close(write)
        # also before the first snapshot: the random moment starts with the process
        if random.random() < 0.8:
            os.read(read, 1)
        os.close(read)
        if kill < kills:
            time.sleep(random.random() * 0.12)
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        print("killed" if kill < kills else "ended", flush=True)
        assert sys.stdin.readline()
"""


def open_if_created(path):
    """The trajectory, or None where the process was killed before record() had made it a run."""
    try:
        return Trajectory.open(path)
    except RunError as error:
        assert "being created" in str(error) or "nothing at" in str(error) or not any(path.glob("*.json"))
        return None


@pytest.mark.parametrize(
    ("size", "options", "kills"),
    [(1_000, {"every": 1}, 12), (700_000, {"every": 1}, 12), (700_000, {"keep": 8}, 12), (1_000, {"keep": 8}, 6)],
)
def test_kill_at_any_moment_leaves_every_committed_snapshot_whole(tmp_path, size, options, kills):
    path, end = tmp_path / "run.zarr", 200_000 if size < 10_000 else 20_000
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FORKED), str(path), str(size), repr(options), str(kills), str(end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    longest, rows = 0, 0
    try:
        for _ in range(kills):
            assert server.stdout.readline() == "killed\n"
            t = open_if_created(path)
            if t is not None:
                np.testing.assert_array_equal(t.block(), np.repeat(t.steps[:, None], size, axis=1).astype(np.float32))
                stride = np.diff(t.steps)
                assert (stride == stride[:1]).all()
                assert len(t) <= options.get("keep", len(t))
                assert len(t) == 0 or t.steps[-1] >= longest
                longest, rows = (int(t.steps[-1]), len(t)) if len(t) else (0, 0)
            server.stdin.write("go on\n")
            server.stdin.flush()
    finally:
        server.kill()
        server.wait()
    assert rows > 1
