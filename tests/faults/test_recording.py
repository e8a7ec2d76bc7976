"""One operation of the store goes wrong while a training is recorded: what was committed stays, the rest resumes."""

import asyncio
import threading
from itertools import cycle

import numpy as np
import pytest
import torch
from zarr.storage import MemoryStore

from landscape_hooks import Storage, Trajectory, record
from landscape_hooks.errors import RecordingWarning, RunError
from landscape_hooks.objective import capture
from landscape_hooks.objective.objective import Objective
from landscape_hooks.store.run import open_run
from landscape_hooks.trajectory import writer
from tests.faults import training
from tests.faults.store import KINDS, READS, WRITES, Faults, FaultyStore, some
from tests.faults.training import Model, gradient, quietly, same, states, train

END = 12
EVERY = {"every": 1}

SCENARIOS = {
    "short rows share a file": dict(every=1),
    "every row has a file": dict(every=2, patch={"SHARD_BYTES": 1, "GROWTH": 4}),
    "arrays grow": dict(every=1, patch={"GROWTH": 3}),
    "thinning": dict(keep=4),
    "losses are said afterwards": dict(every=3, later=True),
    "resuming": dict(every=2, before=dict(every=2, end=9), start=5),
    "resuming a thinned run": dict(keep=4, before=dict(keep=4, end=9), start=9),
    "resuming a run that was closed": dict(every=1, before=dict(every=1, end=3), start=3),
    "overwriting": dict(every=3, before=dict(every=1, end=4), if_exists="overwrite"),
    "with the loss": dict(every=6, loss=True),
}


@pytest.fixture(scope="module")
def traced():
    """The loss as record() traces it, once: what is tested here is how it is written."""
    probe, rebuild = capture.Probe.collect(torch.ones(5, 1), 5)
    return capture.trace(Model(), None, lambda model, batch: model(batch), probe, rebuild)


class Scenario:
    """A recording, on a copy of what was there before, with a fault or without."""

    def __init__(self, name, monkeypatch, traced):
        self.options = dict(SCENARIOS[name])
        for key, value in self.options.pop("patch", {}).items():
            monkeypatch.setattr(writer, key, value)
        if self.options.pop("loss", False):
            monkeypatch.setattr(capture, "trace", lambda *a, **k: traced)
            self.options |= {"objective": lambda model, batch: model(batch), "data": torch.ones(5, 1)}
        self.later = self.options.get("later", False)
        self.start = self.options.get("start", 0)
        self.resumed = self.start > 0
        before = self.options.pop("before", None)
        self.before = MemoryStore()
        if before is not None:
            train(self.before, **before)
        self.overwritten = before is not None and not self.resumed
        if self.resumed:
            self.options["if_exists"] = "resume"
        self.whole, faults = MemoryStore(dict(self.before._store_dict)), Faults(among=WRITES + READS)
        train(FaultyStore(self.whole, faults), END, **self.options)
        self.calls = faults.calls

    def numbers(self, among):
        return range(sum(operation in among for operation, _ in self.calls))

    def run(self, faults):
        """Meet the fault; then what is there, and what becomes of it, is checked."""
        store = MemoryStore(dict(self.before._store_dict))
        try:
            confirmed, told = quietly(FaultyStore(store, faults), END, **self.options)
            raised = False
        except RunError as error:
            confirmed, told, raised = [], [str(error)], True
        assert faults.hit
        found = training.trajectory(store)
        harmless = faults.kind == "hangs" or (not told and faults.among == READS)  # took longer, or was read again
        assert told or harmless, "a fault, and nobody was told"
        if harmless:
            same(found, Trajectory.open(self.whole), later=self.later)
        if found is None:
            assert raised or self.overwritten
            assert not self.resumed
            assert not confirmed
        elif not (raised and self.overwritten):
            training.check(found, later=self.later)
            known = {*confirmed, *(Trajectory.open(self.before).steps.tolist() if self.resumed else [])}
            # but for what resuming drops, and what a thinning schedule gives up later
            kept = {s for s in known if s <= max(self.start, *confirmed, 0) and s in self.expected}
            assert kept <= set(found.steps.tolist())
        self.go_on(store, found)

    @property
    def expected(self):
        return set(Trajectory.open(self.whole).steps.tolist())

    def go_on(self, store, found):
        """The same training again, from where the run is: in the end nothing shows that there was a fault."""
        options = dict(self.options)
        if self.overwritten:
            start = 0
        elif found is None:  # nothing was there yet, so nothing is in the way
            start, options["if_exists"] = 0, "error"
        else:
            start, options["if_exists"] = int(found.steps[found.steps < END].max(initial=0)), "resume"
        train(store, END, **{**options, "start": start})
        end = Trajectory.open(store)
        training.check(end, later=self.later)
        same(end, Trajectory.open(self.whole), later=self.later)
        if "objective" in options:
            assert Objective.load(open_run(store)).digest == Objective.load(open_run(self.whole)).digest


@pytest.mark.everyday(1)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_some_calls_of_a_recording(name, monkeypatch, traced):
    scenario = Scenario(name, monkeypatch, traced)
    for number, kind in zip(some(scenario.numbers(WRITES), 4), cycle(KINDS), strict=False):
        scenario.run(Faults(kind, number, metadata_last=number % 2 == 0))


@pytest.mark.more
def test_a_loss_that_could_not_be_stored_is_stored_when_the_training_is_resumed(monkeypatch, traced):
    scenario = Scenario("with the loss", monkeypatch, traced)
    writes = [key for operation, key in scenario.calls if operation in WRITES]
    first = writes.index("objective/zarr.json")
    for number, kind in zip(range(first, len(writes), 9), cycle(["torn", "fails"]), strict=False):
        scenario.run(Faults(kind, number, metadata_last=False))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_at_every_write_of_a_recording(name, monkeypatch, traced):
    scenario = Scenario(name, monkeypatch, traced)
    for number in scenario.numbers(WRITES):
        for kind in KINDS:
            scenario.run(Faults(kind, number, metadata_last=number % 2 == 0))


@pytest.mark.more
def test_an_error_at_some_reads_of_a_recording(monkeypatch, traced):
    scenario = Scenario("resuming", monkeypatch, traced)
    for number in some(scenario.numbers(READS), 8):
        scenario.run(Faults("fails", number, READS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resuming", "thinning", "overwriting"])
def test_an_error_at_every_read_of_a_recording(name, monkeypatch, traced):
    scenario = Scenario(name, monkeypatch, traced)
    for number in scenario.numbers(READS):
        scenario.run(Faults("fails", number, READS))


def test_a_store_that_hangs_holds_up_only_what_waits_for_it():
    class Hanging(FaultyStore):
        released = threading.Event()

        async def set(self, key, value):
            if "trajectory/" in key and "/c/" in key:  # not what is written once, before the training
                await asyncio.to_thread(self.released.wait, 60)
            await super().set(key, value)

    store = MemoryStore()
    model = Model()
    model.theta.data.copy_(torch.from_numpy(states(0)[0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, Hanging(store, Faults()), every=1, storage=Storage(queue="drop"))
    depth = len(recorder._background._views)
    for step in range(depth + 50):  # more than the queue takes: training goes on, what has no place is dropped
        model.theta.grad = gradient(step)
        optimizer.step()
    assert recorder.dropped >= 50
    assert len(Trajectory.open(store)) == 0
    Hanging.released.set()
    with pytest.warns(RecordingWarning, match="were dropped"):
        recorder.close()
    found = Trajectory.open(store)
    assert found.steps[-1] == depth + 50
    assert len(found) - (depth + 51 - recorder.dropped) in (0, 1)  # 1 where the last was dropped, and taken at the end
    np.testing.assert_array_equal(found.block(), states(depth + 50)[found.steps])
