"""Several devices of this machine: a process each, the bits of one. The "devices" here are the CPU, twice."""

import os
import threading
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
from torch import nn

from landscape_hooks import Local, analyze, record
from landscape_hooks.errors import ObjectiveError, RunError
from landscape_hooks.evaluation.engines import devices as room
from landscape_hooks.evaluation.engines import parse_engine
from landscape_hooks.machine import find_devices, first_device

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are given a pipe by its number")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "run.zarr"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    data = (torch.randn(96, 6), torch.randint(0, 3, (96,)))
    with record(model, optimizer, path, every=2, criterion=nn.CrossEntropyLoss(), data=data):
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
    return path


def surface(run, name, **options):
    chosen = {"size": (5, 6), "metrics": ["accuracy"], "progress": False, "name": name, **options}
    return analyze(run, engine=Local(tune=False, **chosen.pop("engine")), **chosen)


@pytest.mark.more
def test_losses_are_equal_bit_for_bit(run):
    one = surface(run, "one", engine={"device": "cpu"})
    two = surface(run, "two", engine={"device": ["cpu", "cpu"]})
    for key in ("alpha", "beta", "loss", "loss_stderr", "path_loss", "path_plane_loss", "path_distance"):
        np.testing.assert_array_equal(getattr(one, key), getattr(two, key), err_msg=key)
    np.testing.assert_array_equal(one.metrics["accuracy"], two.metrics["accuracy"])
    assert any("2 processes on cpu" in sentence for sentence in two.attrs["report"])
    assert two.attrs["device"] == one.attrs["device"] == "cpu"


def test_a_process_that_ends_is_an_error_not_a_hang(run, monkeypatch):
    monkeypatch.setattr(room.sys, "executable", "/bin/false")
    with pytest.raises(ObjectiveError, match=r"process of cpu ended unexpectedly \(exit code"):
        surface(run, "died", engine={"device": "cpu,cpu"})


def test_what_lives_in_this_process_is_computed_here_or_refused(run, monkeypatch):
    from landscape_hooks import Objective

    model = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3))
    live = Objective.of(
        model, criterion=nn.CrossEntropyLoss(), data=(torch.ones(8, 6), torch.zeros(8, dtype=torch.long))
    )
    with pytest.raises(ObjectiveError, match="module:function"):
        surface(run, "live", objective=live, engine={"device": ["cpu", "cpu"]})
    monkeypatch.setattr(Local, "devices", lambda self: [torch.device("cpu")] * 2)
    monkeypatch.setattr("landscape_hooks.evaluation.engines.local.device", lambda name: torch.device("cpu"))
    found = surface(run, "all", objective=live, metrics=[], engine={"device": "cuda"})
    assert found.evaluated.all()


def test_the_samples_have_to_be_known_beforehand(run):
    with pytest.raises(ObjectiveError, match="several devices"):
        surface(run, "auto", samples="auto", engine={"device": ["cpu", "cpu"]})


def test_names_of_devices(monkeypatch):
    cpu = torch.device("cpu")
    assert find_devices("cpu,cpu") == find_devices(["cpu", cpu]) == [cpu, cpu]
    assert find_devices("cpu") == [cpu]
    assert first_device(["cpu", "cpu"]) == cpu
    with pytest.raises(ObjectiveError, match="no device"):
        find_devices([])
    with pytest.raises(ObjectiveError, match="cannot be used"):
        find_devices("cpu,nonsense")
    monkeypatch.setattr("landscape_hooks.machine.find_device", lambda name: torch.device(name or "cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_devices("cuda") == [torch.device(f"cuda:{n}") for n in range(3)]
    assert find_devices(torch.device("cuda")) == find_devices("cuda")
    assert find_devices("cuda:1") == [torch.device("cuda:1")]
    assert find_devices(None) == [torch.device("cuda:0")]
    assert first_device("cuda") == torch.device("cuda")
    assert Local(workers=5, device="cuda:0,cuda:2").devices() == [torch.device(f"cuda:{n}") for n in (0, 2, 0, 2, 0)]
    assert parse_engine(Local(device=["cuda:0"])).devices() == [torch.device("cuda:0")]
    assert hash(Local(device=["cpu", "cpu"]))


def asked(monkeypatch, factory, *messages):
    """What `serve` answers."""
    monkeypatch.setattr(room, "LossFactory", factory)
    mine, theirs = Pipe()
    thread = threading.Thread(target=room.serve, args=(theirs, os.getppid()))
    thread.start()
    for message in ("sources", ("loss", "recipe"), *messages):
        mine.send(message)
    found = [mine.recv() for _ in messages]
    mine.close()
    thread.join(10)
    assert not thread.is_alive()
    return found


def test_errors_come_back_as_sentences(monkeypatch):
    def gone(sources):
        raise RunError("The run is not there")

    assert asked(monkeypatch, gone, ("points", np.zeros((1, 2)))) == ["The run is not there."]

    def broken(sources):
        raise KeyError("weights")

    (said,) = asked(monkeypatch, broken, ("snapshot", 0))
    assert said == "The loss cannot be computed (KeyError: 'weights')"
