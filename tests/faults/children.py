"""Children: processes that do one job each and are killed in the midst of it (SIGKILL, as a user or the kernel does).

In: the job as Python text, and when to kill. A server process that has imported everything forks them, so that a kill
costs a tenth of a second and not an import of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVER = """
import json, os, signal, sys, time, traceback
import torch, torch._dynamo, matplotlib.figure, matplotlib.backends.backend_agg, PIL.Image, sklearn.decomposition
from landscape_hooks import cli
from landscape_hooks.analysis import filling
from landscape_hooks.export import figure
from landscape_hooks.export import glb
from landscape_hooks.export import ply
from landscape_hooks.recording import background
from landscape_hooks import Local, Random
from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.viewer.offscreen import render
from tests.faults.disk import Disk
from tests.faults.training import Model, train
torch.set_num_threads(1)
background.GROUP_SECONDS = 0.02
filling.COMMIT_SECONDS = 0.0
for line in sys.stdin:
    order = json.loads(line)
    start = time.monotonic()
    read, write = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            with Disk(order["folder"], "killed" if order["at"] is not None else "", order["at"] or 0) as disk:
                exec(order["job"])
            report = {"calls": len(disk.calls), "ended": True, "seconds": time.monotonic() - start}
            os.write(write, json.dumps(report).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    if order["after"] is not None:
        time.sleep(order["after"])
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    report = os.read(read, 1000).decode()
    os.close(read)
    print(report or json.dumps({"ended": False, "signal": os.WTERMSIG(status)}), flush=True)
"""


class Children:
    """The server; a `with` block."""

    def __enter__(self) -> Children:
        root = Path(__file__).parents[2]
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.kill()
        self._server.wait()

    def run(self, job: str, folder: Any, *, at: int | None = None, after: float | None = None) -> dict[str, Any]:
        """Do a job; kill it `after` so many seconds, or at operation `at` on the files below `folder`.

        What it came to: whether it `ended` by itself, in how many `seconds` and `calls`.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {"job": job, "folder": str(folder), "at": at, "after": after}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        found = json.loads(self._server.stdout.readline())
        assert found["ended"] or found["signal"] == 9, found
        return found
