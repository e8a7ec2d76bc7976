"""A folder on a disk that breaks: full, failing, cutting files short; and processes that are really killed."""

import contextlib
import random
import shutil
from itertools import cycle

import numpy as np
import pytest
import torch

from landscape_hooks import Storage, Trajectory
from landscape_hooks.analysis import commits
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import RunError
from landscape_hooks.store.run import open_run
from landscape_hooks.surface import surface as surfaces
from landscape_hooks.surface.surface import Surface
from tests.faults import training
from tests.faults.disk import KINDS, Disk
from tests.faults.store import some
from tests.faults.test_analyzing import equal, run
from tests.faults.training import quietly, same, train

END = 8
RECORDINGS = {
    "recording": dict(every=1),
    "thinning": dict(keep=3),
    "synchronised": dict(every=2, storage=Storage(durability="fsync")),
    "resuming": dict(every=1, start=4, if_exists="resume"),
    "overwriting": dict(every=3, if_exists="overwrite"),
}
OBJECTIVE = {"objective": lambda model, batch: model(batch), "data": torch.ones(5, 1)}
ANALYSES = {"a first surface": dict(size=3, name="new"), "another in place of one": dict(size=3, name="old")}
FOUR = [kind for kind in KINDS if kind != "killed"]


class Recording:
    """A recording into a folder, on a copy of what was there before."""

    def __init__(self, name, tmp_path):
        self.options, self.tmp_path = RECORDINGS[name], tmp_path
        self.resumed, self.overwritten = name == "resuming", name == "overwriting"
        self.before = tmp_path / "before.zarr"
        if self.resumed or self.overwritten:
            train(self.before, 6, every=1)
        whole = self.fresh("whole")
        with Disk(whole) as disk:
            train(whole, END, **self.options)
        self.calls = disk.calls
        self.whole = Trajectory.open(whole)

    def fresh(self, name="run"):
        path = self.tmp_path / f"{name}.zarr"
        shutil.rmtree(path, ignore_errors=True)
        if self.before.exists():
            shutil.copytree(self.before, path)
        return path

    def meet(self, kind, number):
        path = self.fresh()
        raised, confirmed, told = False, [], []
        with Disk(path, kind, number) as disk:
            try:
                confirmed, told = quietly(path, END, **self.options)
            except RunError:
                raised = True
        assert bool(raised or told) == disk.hit  # the last operations may be none of this kind
        self.check(path, confirmed)

    def check(self, path, confirmed=()):
        """What is there is whole, and in the end nothing shows of the fault."""
        found = training.trajectory(path)
        if found is not None:
            training.check(found)
            steps = set(found.steps.tolist())
            if not self.overwritten:
                assert {s for s in confirmed if s in self.whole.steps} <= steps
            if self.resumed:
                assert set(range(5)) <= steps
        else:
            assert not self.resumed
            assert not confirmed
        options = dict(self.options)
        if self.overwritten:
            pass
        elif found is None:
            options["if_exists"] = "error"
        else:
            options |= {"if_exists": "resume", "start": int(found.steps[found.steps < END].max(initial=0))}
        train(path, END, **options)
        end = Trajectory.open(path)
        training.check(end)
        same(end, self.whole)
        assert not list(path.rglob("*.partial"))


@pytest.mark.everyday(1)
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_disk_that_breaks_at_some_operations_of_a_recording(name, tmp_path):
    recording = Recording(name, tmp_path)
    for number, kind in zip(some(range(len(recording.calls)), 4), cycle(FOUR), strict=False):
        recording.meet(kind, number)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", FOUR)
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_disk_that_breaks_at_every_operation_of_a_recording(name, kind, tmp_path):
    recording = Recording(name, tmp_path)
    for number in range(len(recording.calls)):
        recording.meet(kind, number)


class Analysis:
    """An analysis of a run in a folder, on a copy of it."""

    def __init__(self, name, tmp_path):
        self.options, self.tmp_path = ANALYSES[name], tmp_path
        self.before = tmp_path / "before.zarr"
        train(self.before, 4, every=1, **OBJECTIVE)
        run(self.before, size=2, name="kept")
        run(self.before, size=2, name="old")
        self.kept = Surface.open(self.before, "kept")
        whole = self.fresh("run")
        with Disk(whole) as disk:
            self.whole = run(whole, **self.options)
        self.calls = disk.calls

    def fresh(self, name="run"):
        path = self.tmp_path / f"{name}.zarr"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.before, path)
        return path

    def meet(self, kind, number):
        path = self.fresh()
        with Disk(path, kind, number) as disk, contextlib.suppress(RunError):
            run(path, **self.options)
            assert not disk.hit, "a fault, and nobody was told"
        self.check(path)

    def check(self, path):
        same(Trajectory.open(path), Trajectory.open(self.before))
        equal(Surface.open(path, "kept"), self.kept)
        assert description_text(describe(path))
        if self.whole.name in surfaces.names(open_run(path)):
            found = Surface.open(path, self.whole.name)
            if found.shape == self.whole.shape:
                np.testing.assert_array_equal(found.loss[found.evaluated], self.whole.loss[found.evaluated])
        equal(run(path, **self.options), self.whole)


@pytest.fixture
def every_point_is_committed(monkeypatch):
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.0)


@pytest.mark.more
@pytest.mark.usefixtures("every_point_is_committed")
@pytest.mark.parametrize("name", ANALYSES)
def test_a_disk_that_breaks_at_some_operations_of_an_analysis(name, tmp_path):
    analysis = Analysis(name, tmp_path)
    for number, kind in zip(some(range(len(analysis.calls)), 4), cycle(FOUR), strict=False):
        analysis.meet(kind, number)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("every_point_is_committed")
@pytest.mark.parametrize("kind", FOUR)
@pytest.mark.parametrize("name", ANALYSES)
def test_a_disk_that_breaks_at_every_operation_of_an_analysis(name, kind, tmp_path):
    analysis = Analysis(name, tmp_path)
    for number in range(len(analysis.calls)):
        analysis.meet(kind, number)


# -- real processes, really killed -------------------------------------------------------------------------
def moments(children, job, folder, fresh, many):
    """Kill the job at operations on the files and at random times, and yield after each; the seed is in the output."""
    fresh()
    whole = children.run(job, folder)
    at = range(whole["calls"])
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in at if many else some(at, 2):
        fresh()
        assert not children.run(job, folder, at=number)["ended"]
        yield number
    for _ in range(50 if many else 1):
        fresh()
        yield children.run(job, folder, after=chance.uniform(0, whole["seconds"]))


def storms(function):
    """In a short form every day, in a long one with -m slow."""
    long = pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="long")
    return pytest.mark.parametrize("many", [pytest.param(False, id="short"), long])(function)


@pytest.mark.everyday(1)
@storms
@pytest.mark.parametrize("name", ["thinning", "resuming", "overwriting"])
def test_a_recorder_that_is_killed(name, many, children, tmp_path):
    recording = Recording(name, tmp_path)
    path = tmp_path / "run.zarr"
    job = f"train({str(path)!r}, {END}, **{RECORDINGS[name]!r})"
    for _ in moments(children, job, path, recording.fresh, many):
        recording.check(path)


@pytest.mark.more
@storms
@pytest.mark.parametrize("name", [*ANALYSES, "adaptive"])
def test_an_analysis_that_is_killed(name, many, children, tmp_path, monkeypatch):
    monkeypatch.setitem(ANALYSES, "adaptive", dict(size=17, adaptive=0.05, name="new"))
    analysis = Analysis(name, tmp_path)
    path = tmp_path / "run.zarr"
    job = f"analyze({str(path)!r}, progress=False, engine=Local(tune=False, workers=1), **{ANALYSES[name]!r})"
    for _ in moments(children, job, path, analysis.fresh, many):
        analysis.check(path)
