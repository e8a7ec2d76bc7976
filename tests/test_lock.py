"""One recorder a run at a time: the second is refused, a killed one locks nobody out, readers are never locked out."""

import errno
import os
import signal

import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, analyze, record
from landscape_hooks.errors import RunError
from landscape_hooks.store import lock

RECORDER = """
    import sys, time, torch
    from landscape_hooks import record
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(torch.randn(8, 3), torch.randn(8, 2))]
    recorder = record(model, optimizer, sys.argv[1], every=1, criterion=torch.nn.MSELoss(), data=data)
    for step in range(4):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    recorder.flush()
    loader = torch.utils.data.DataLoader(range(100), num_workers=1, multiprocessing_context="fork")
    workers = iter(loader)
    next(workers)
    print("recording", flush=True)
    sys.stdin.readline()
    optimizer.step()
    recorder.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(interpreters, tmp_path):
    process = interpreters.start(RECORDER, tmp_path / "run.zarr")
    assert process.stdout.readline() == "recording\n"
    return process


def go_on(path, if_exists="resume"):
    model = nn.Linear(3, 2)
    with record(model, torch.optim.SGD(model.parameters(), lr=0.1), path, every=1, if_exists=if_exists, step=4):
        pass


def test_a_second_process_is_refused_until_the_first_has_closed_and_readers_never_are(tmp_path, other):
    path = tmp_path / "run.zarr"
    for choice in ("resume", "overwrite"):
        with pytest.raises(RunError, match=r"being recorded by another process.*one recorder a run.*another run"):
            go_on(path, choice)
    with pytest.raises(RunError, match=r"a run at .* already"):
        go_on(path, "error")
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2, 3, 4]
    analyze(path, size=3, directions="random", progress=False)
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "closed\n"
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2, 3, 4, 5]
    go_on(path)
    assert Trajectory.open(path).steps.tolist() == [0, 1, 2, 3, 4]
    go_on(path, "overwrite")


def test_a_killed_process_locks_nobody_out_though_its_forked_workers_still_live(tmp_path, other):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    go_on(tmp_path / "run.zarr")
    files = {p.name for p in (tmp_path / "run.zarr").rglob("*") if p.is_file()}
    assert not any("lock" in name for name in files)


def test_a_recorder_of_this_process_that_was_not_closed_is_closed_first(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    model = nn.Linear(3, 2)
    for folder, choice in (("there", "error"), ("link", "resume"), ("there", "overwrite")):
        record(model, None, tmp_path / folder / "run.zarr", every=1, if_exists=choice)
    go_on(tmp_path / "there" / "run.zarr")


def test_record_that_fails_leaves_no_lock(tmp_path):
    model = nn.Linear(3, 2)
    for _ in range(2):
        with pytest.raises(Exception, match="empty"):
            record(model, None, tmp_path / "run.zarr", criterion=nn.MSELoss(), data=[])
    assert not list(tmp_path.rglob("*.json"))


def test_a_file_system_without_locks_records_all_the_same(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    go_on(tmp_path / "run.zarr", "error")
    assert not lock.RunLock.take(tmp_path / "run.zarr").held
    monkeypatch.setattr(lock, "fcntl", None)  # Windows
    go_on(tmp_path / "run.zarr")
    assert not lock.RunLock.take("memory://elsewhere/run.zarr").held
