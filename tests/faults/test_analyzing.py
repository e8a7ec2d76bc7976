"""One operation of the store goes wrong while a run is analyzed: the run stays as it was, and the analysis goes on."""

from itertools import cycle

import numpy as np
import pytest
import torch
from zarr.storage import MemoryStore

from landscape_hooks import Local, Random, Trajectory
from landscape_hooks.analysis import commits
from landscape_hooks.analysis.analyze import analyze
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import LandscapeError, SurfaceError
from landscape_hooks.store.run import open_run
from landscape_hooks.surface import surface as surfaces
from landscape_hooks.surface.surface import Surface
from tests.faults import training
from tests.faults.store import KINDS, READS, WRITES, Fault, Faults, FaultyStore, some
from tests.faults.training import Model, train

GRID = {"size": (4, 3)}

SCENARIOS = {
    "a first surface": dict(GRID),
    "random directions": dict(GRID, directions=Random("none")),
    "a run that has grown": dict(GRID, before=[dict(GRID)], grown=True),
    "another surface in place of one": dict(GRID, name="one", before=[dict(GRID, name="one", seed=3)]),
    "the same surface anew": dict(GRID, fresh=True, before=[dict(GRID), dict(GRID, directions=Random("none"))]),
    "asked again": dict(GRID, before=[dict(GRID)]),
    "adaptive": dict(size=17, adaptive=0.05),
    "parts joined": dict(GRID, before=[dict(GRID, part="1/2"), dict(GRID, part="2/2")]),
    "a part": dict(GRID, part="2/2"),
    "a metric": dict(GRID, metrics=["tests.faults.test_analyzing:distance"]),
}


def distance():
    """Another function of the weights."""
    from landscape_hooks.objective.objective import Objective

    return Objective.of(Model(), objective=lambda m, batch: m.theta.norm() + 0 * batch.sum(), data=torch.ones(5, 1))


@pytest.fixture(autouse=True)
def every_point_is_committed(monkeypatch):
    """By itself, not those of a second together: then there are more moments at which something can go wrong."""
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def recorded():
    """The stores of a run, and of the same run before it grew."""
    store = MemoryStore()
    objective = {"objective": lambda model, batch: model(batch), "data": torch.ones(5, 1)}
    train(store, 6, every=1, **objective)
    shorter = dict(store._store_dict)
    train(store, 9, start=6, every=1, if_exists="resume")
    return dict(store._store_dict), shorter


def run(store, **options):
    if isinstance(store, MemoryStore):
        store = FaultyStore(store, Faults())
    return analyze(store, progress=False, **{"engine": Local(tune=False, workers=1), **options})


class Scenario:
    def __init__(self, name, recorded):
        self.options = dict(SCENARIOS[name])
        before, grown = self.options.pop("before", []), self.options.pop("grown", False)
        self.before = MemoryStore(dict(recorded[1 if grown else 0]))
        for earlier in before:
            run(self.before, **earlier)
        if grown:
            train(self.before, 9, start=6, every=1, if_exists="resume")
        self.whole, faults = MemoryStore(dict(self.before._store_dict)), Faults(among=WRITES + READS)
        self.surface = run(FaultyStore(self.whole, faults), **self.options)
        self.calls = faults.calls
        self.others = {n: Surface.open(self.before, n) for n in surfaces.names(open_run(self.before))}
        self.others = {n: s for n, s in self.others.items() if not n.startswith(self.surface.name)}

    def numbers(self, among):
        return range(sum(operation in among for operation, _ in self.calls))

    def run(self, faults):
        store = MemoryStore(dict(self.before._store_dict))
        try:
            found = run(FaultyStore(store, faults), **self.options)
            assert faults.kind == "hangs", "a fault, and nobody was told"
            equal(found, self.surface)
        except LandscapeError as error:
            assert "cannot be written" in str(error) or faults.among == READS  # noqa: PT017
        except Fault:
            assert faults.among == READS
        assert faults.hit
        self.check(store)
        equal(run(store, **self.options), self.surface)
        self.check(store)

    def check(self, store):
        """Nothing that was there is lost, and what is shown is true as far as it goes."""
        trajectory = Trajectory.open(store)
        training.check(trajectory)
        training.same(trajectory, Trajectory.open(self.whole))
        root = open_run(store)
        for name, surface in self.others.items():
            equal(Surface.open(root, name), surface)
        for name in surfaces.names(root):
            try:
                found = Surface.open(root, name)
            except SurfaceError as error:
                assert "not whole" in str(error)  # noqa: PT017
                continue
            if found.attrs["definition"] == self.surface.attrs["definition"]:
                where = found.evaluated & self.surface.evaluated
                np.testing.assert_array_equal(found.loss[where], self.surface.loss[where])
                assert not (found.evaluated & ~self.surface.evaluated).any() or self.options.get("part")
                for one, other in zip(found.paths, self.surface.paths, strict=False):
                    for key in ("loss", "loss_stderr", "plane_loss"):
                        np.testing.assert_array_equal(getattr(one.at(one.evaluated), key),
                                                      getattr(other.at(one.evaluated), key))  # fmt: skip
                    np.testing.assert_array_equal(one.coordinates, other.coordinates)
            else:
                assert found.complete
        assert description_text(describe(store))


def equal(one, other):
    """To the bit."""
    names = ("alpha", "beta", "loss", "loss_stderr", "evaluated", "present", "explained_variance_ratio", "spectrum")
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.name == other.name
    assert dict(one.attrs) == dict(other.attrs)
    assert one.metrics.keys() == other.metrics.keys()
    for name, values in one.metrics.items():
        np.testing.assert_array_equal(values, other.metrics[name])
    assert len(one.paths) == len(other.paths)
    for a, b in zip(one.paths, other.paths, strict=True):
        assert a.label == b.label
        for name in a.ARRAYS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.more
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_some_calls_of_an_analysis(name, recorded):
    scenario = Scenario(name, recorded)
    for number, kind in zip(some(scenario.numbers(WRITES), 3), cycle(KINDS), strict=False):
        scenario.run(Faults(kind, number, metadata_last=number % 2 == 0))


@pytest.mark.more
def test_a_chunk_that_is_written_in_part_is_not_taken_for_one(recorded):
    scenario = Scenario("a metric", recorded)
    written = [key for operation, key in scenario.calls if operation in WRITES]
    first = {key: number for number, key in reversed(list(enumerate(written))) if "/c" in key}
    for name in ("loss", "evaluated", "metrics/distance", "paths/0/coordinates"):
        scenario.run(Faults("torn", first[f"surfaces/pca/{name}/c/0/0"]))
        # and where it is written again, what is there already stays
        scenario.run(Faults("torn", len(written) - 1 - [*reversed(written)].index(f"surfaces/pca/{name}/c/0/0")))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault_at_every_write_of_an_analysis(name, recorded):
    scenario = Scenario(name, recorded)
    for number in scenario.numbers(WRITES):
        for kind in KINDS:
            scenario.run(Faults(kind, number, metadata_last=number % 2 == 0))


@pytest.mark.more
@pytest.mark.parametrize("name", ["a run that has grown", "asked again"])
def test_an_error_at_some_reads_of_an_analysis(name, recorded):
    scenario = Scenario(name, recorded)
    for number in some(scenario.numbers(READS), 3):
        scenario.run(Faults("fails", number, READS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_error_at_every_read_of_an_analysis(name, recorded):
    scenario = Scenario(name, recorded)
    for number in scenario.numbers(READS):
        scenario.run(Faults("fails", number, READS))
