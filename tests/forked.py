"""Interpreters for tests: Python processes that are forked from a server which has imported torch already.

In: Python text, its arguments, a folder and an environment. Out: a process that can be talked to, waited for, killed.
A new interpreter that imports torch takes seconds of processor time, a forked one a tenth of one. As with `python -c`,
the text is `__main__`, an exception ends the process with its traceback and status 1, and what is registered with
`atexit` runs. `whole`: the interpreter ends as any other does, which takes half a second more. A test whose point is
what an import does starts an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]

SERVER = """
import atexit, gc, json, os, select, signal, socket, sys, threading, traceback
import torch, torch._dynamo, torch.distributed.fsdp, numpy, zarr, sklearn.decomposition
import matplotlib.figure, matplotlib.backends.backend_agg, PIL.Image
import landscape_hooks.cli, landscape_hooks.viewer.live, landscape_hooks.viewer.offscreen
from landscape_hooks import Objective, Surface, Trajectory, analyze, record

def wait():
    # until a process is wanted; says meanwhile how others ended
    while True:
        if channel in select.select([channel, ended], [], [])[0]:
            word, descriptors, _, _ = socket.recv_fds(channel, 1, 5)
            return descriptors
        os.read(ended, 1000)
        for process in list(running):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                os.write(running[process], b"%d\\n" % os.waitstatus_to_exitcode(status))
                os.close(running.pop(process))

def child(text, *streams):
    # what the new process is to do, after it has become like one that was started
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in (channel.detach(), ended, wake, *running.values()):
        os.close(descriptor)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    with open(text) as file:
        order = json.load(file)
    if order["session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[:] = ["-c", *order["arguments"]]
    sys.path.insert(0, order["folder"])
    return order

def ordered():
    while descriptors := wait():
        *others, status = descriptors
        process = os.fork()
        if not process:
            os.close(status)
            return child(*others)
        for descriptor in others:
            os.close(descriptor)
        os.write(status, b"%d\\n" % process)
        running[process] = status
    os._exit(0)

def do(code):
    # without the end of an interpreter, which takes torch apart
    status = 1
    try:
        exec(code, space)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

channel, running = socket.socket(fileno=int(sys.argv[1])), {}
ended, wake = os.pipe()
os.set_blocking(wake, False)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(wake)
gc.freeze()
order = ordered()
space = sys.modules["__main__"].__dict__
code = compile(order["code"], "<string>", "exec")
if not order["whole"]:
    do(code)
exec(code, {"__name__": "__main__"})
"""

COMMAND = "import runpy; runpy.run_module('landscape_hooks', run_name='__main__', alter_sys=True)"
"""`python -m landscape_hooks`."""


class Forked:
    """A process: `stdin` and `stdout` are pipes of text, what it writes to stderr is in `stderr()`."""

    def __init__(self, status: socket.socket, stdin: IO[str], stdout: IO[str], stderr: IO[bytes]) -> None:
        self._status, self.stdin, self.stdout, self._stderr = status.makefile("rb"), stdin, stdout, stderr
        self._socket = status
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._status.readline())
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def stderr(self) -> str:
        return os.pread(self._stderr.fileno(), 2**24, 0).decode()

    def communicate(self, timeout: float = 200) -> tuple[str, str]:
        """Wait for the end; what it wrote to stdout and stderr. It is killed where it takes longer."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        try:
            self.stdin.close()
            said = self.stdout.read()
            self.wait()
        finally:
            timer.cancel()
        return said, self.stderr()

    def close(self) -> None:
        self.kill()
        self.wait()
        for file in (self.stdin, self.stdout, self._stderr, self._status, self._socket):
            file.close()


class Interpreters:
    """The server; a `with` block. It starts with the first process that is wanted."""

    def __enter__(self) -> Interpreters:
        self._server: subprocess.Popen[bytes] | None = None
        self._started: list[Forked] = []
        return self

    def __exit__(self, *_: Any) -> None:
        self.end_all()
        if self._server is not None:
            self._channel.close()
            self._server.wait()

    def end_all(self) -> None:
        """End every process that still runs."""
        for process in self._started:
            process.close()
        self._started.clear()

    def _serve(self) -> socket.socket:
        if self._server is None:
            self._channel, other = socket.socketpair()
            path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
            with other:
                self._server = subprocess.Popen(
                    [sys.executable, "-c", SERVER, str(other.fileno())],
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                )
        return self._channel

    def start(
        self, code: str, *arguments: Any, cwd: Any = None, env: dict[str, str] | None = None, **how: bool
    ) -> Forked:
        """Start `python -c code arguments`; `env` is added to the environment.

        `session`: in a session of its own. `whole`: the interpreter ends as any other does.
        """
        channel = self._serve()
        order = {
            "code": textwrap.dedent(code),
            "arguments": [str(argument) for argument in arguments],
            "folder": str(cwd or os.getcwd()),
            "environment": {**os.environ, **(env or {})},
            **{"session": False, "whole": False, **how},
        }
        here, there = socket.socketpair()
        child_in, stdin = os.pipe()
        stdout, child_out = os.pipe()
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 (the process that is returned closes it)
        with tempfile.TemporaryFile("w+") as text:
            json.dump(order, text)
            text.flush()
            text.seek(0)
            socket.send_fds(channel, [b"x"], [text.fileno(), child_in, child_out, stderr.fileno(), there.fileno()])
        there.close()
        os.close(child_in)
        os.close(child_out)
        process = Forked(here, os.fdopen(stdin, "w"), os.fdopen(stdout), stderr)
        self._started.append(process)
        return process

    def run(self, code: str, *arguments: Any, timeout: float = 200, **options: Any) -> subprocess.CompletedProcess[str]:
        """`start`, and wait for the end."""
        process = self.start(code, *arguments, **options)
        said, trouble = process.communicate(timeout)
        return subprocess.CompletedProcess(["python", "-c", code], process.wait(), said, trouble)
