"""What the tests share: one thread a process, processes that start at once, and what runs every day."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tiny tensors gain nothing from threads that wait

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Interpreters

WORKERS = 4
"""At most, where there are more cores: each one imports torch for itself."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker per core for folders of tests; none where single files or tests are named, which start sooner so."""
    named = [Path(argument.partition("::")[0]) for argument in config.args]
    if not all(path.is_dir() for path in named):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, WORKERS)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked everyday(n), all but n of its sets of parameters are marked more."""
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("everyday") and not item.get_closest_marker("slow"):
            families.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for family in families.values():
        daily = _spread(len(family), next(iter(family[0].iter_markers("everyday"))).args[0])
        for number, item in enumerate(family):
            if number not in daily:
                item.add_marker(pytest.mark.more)


def _spread(members: int, kept: int) -> set[int]:
    """Numbers of `kept` of the members, evenly spread."""
    return set(range(members)) if kept >= members else {round((i + 0.5) * members / kept - 0.5) for i in range(kept)}


def pytest_collection_finish() -> None:
    """What is imported by now lives to the end: without it a search for garbage costs a hundredth."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server() -> Iterator[Interpreters]:
    with Interpreters() as made:
        yield made


@pytest.fixture
def interpreters(server: Interpreters) -> Iterator[Interpreters]:
    """Starts Python processes that have torch imported; what still runs at the end of the test is killed."""
    yield server
    server.end_all()


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """The name of a virtual X display."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb, the virtual X display, is not installed")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writer), "-screen", "0", "1400x900x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    if not number:
        pytest.skip("Xvfb does not start here")
    yield f":{number}"
    server.terminate()
    server.wait()
