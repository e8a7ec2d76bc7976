"""Several at one run at a time, and a clock that is set back: everyone sees whole things, and the results are right."""

import json
import time

import numpy as np
import pytest
import torch

from landscape_hooks import Trajectory
from landscape_hooks.cli.description import describe, description_text
from landscape_hooks.errors import SurfaceError
from landscape_hooks.plane import gram
from landscape_hooks.recording import recorder
from landscape_hooks.recording.record import record
from landscape_hooks.store.run import open_run, remove_group
from landscape_hooks.surface.surface import Surface
from landscape_hooks.surface.writer import SurfaceWriter
from landscape_hooks.viewer import live
from landscape_hooks.viewer.replay.landscape import load
from landscape_hooks.viewer.replay.look import Look
from landscape_hooks.viewer.replay.replay import Replay
from tests.faults.test_analyzing import run
from tests.faults.training import SIZE, check, same, states, train
from tests.forked import ROOT

OBJECTIVE = {"objective": lambda model, batch: model(batch), "data": torch.ones(5, 1)}

TOGETHER = """
    import json, os, sys, time, traceback
    import numpy as np
    import torch, torch._dynamo, sklearn.decomposition
    from landscape_hooks import Local, Trajectory, record
    from landscape_hooks.recording import background
    from landscape_hooks.analysis.analyze import analyze
    from landscape_hooks.cli.description import describe, description_text
    from landscape_hooks.errors import PlaneError, RunError, SurfaceError
    from landscape_hooks.surface.surface import Surface
    from landscape_hooks.viewer.live import Follower
    from landscape_hooks.viewer.replay.landscape import load
    from tests.faults.training import Model, check, gradient, states
    torch.set_num_threads(1)
    background.GROUP_SECONDS = 0.05
    path, steps, seconds, options = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4])
    ended = path + ".ended"
    FINE = ("being created", "nothing at", "replaced the snapshot", "no surface yet", "is incomplete", "not whole",
            "no point of it", "spans 1 dimension")  # two snapshots so far

    def recording():
        model = Model()
        with torch.no_grad():
            model.theta.copy_(torch.from_numpy(states(0)[0]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with record(model, optimizer, path, objective=lambda m, b: m(b), data=torch.ones(5, 1), **options) as recorder:
            for step in range(steps):
                model.theta.grad = gradient(step)
                model.seen += 1
                recorder.log(loss=(step + 1) / 3, epoch=step / 10)
                optimizer.step()
                time.sleep(seconds / steps)
        open(ended, "w").close()
        return 1

    def until_the_end(look):
        done, excused, last, patience = 0, {}, False, 60.0
        while not last:
            last = os.path.exists(ended)
            try:
                done += look()
            except (PlaneError, RunError, SurfaceError) as error:
                reason = [text for text in FINE if text in str(error)]
                # another process may be in its last analysis when the recording has ended: it is waited for
                last, patience = False, patience - 0.05 * last
                if not reason and "snapshot" not in str(error) or patience <= 0:
                    raise
                excused[str(error)] = excused.get(str(error), 0) + 1
                time.sleep(0.05)
        print("excused", excused, file=sys.stderr)
        return done

    def analysis():
        names = iter(range(10**6))
        def look():
            number = next(names)
            found = analyze(path, size=3, name=f"s{number % 3}", progress=False, engine=Local(tune=False, workers=1))
            assert found.complete
            theta = torch.from_numpy(states(int(found.steps.max()))[found.steps])
            true = [float(loss(t)) for t in theta]
            np.testing.assert_allclose(found.path_loss, true, rtol=1e-5)
            np.testing.assert_allclose(found.path_distance[-1], 0, atol=1e-5)
            return 1
        return until_the_end(look)

    def loss(theta):
        model = Model()
        with torch.no_grad():
            model.theta.copy_(theta)
            return model(torch.ones(5, 1))

    def view():
        follower = None
        def look():
            nonlocal follower
            landscape = load(path)
            follower = follower or Follower(path, landscape)
            shown = follower.look()
            description_text(describe(path))
            for seen in (landscape, shown or landscape):
                surface = seen.surface
                if not surface.paths:  # an analysis is writing this one
                    continue
                known = np.isfinite(surface.path_loss)
                theta = torch.from_numpy(states(int(surface.steps.max()))[surface.steps])
                np.testing.assert_allclose(surface.path_loss[known], [float(loss(t)) for t in theta[known]], rtol=1e-5)
                assert np.isfinite(surface.path).all()
            return 1
        return until_the_end(look)

    def reading():
        def look():
            t = Trajectory.open(path)
            check(t)
            return int(len(t) > 1)
        return until_the_end(look)

    processes = {}
    for job in (recording, analysis, view, reading):
        read, write = os.pipe()
        process = os.fork()
        if not process:
            try:
                os.write(write, str(job()).encode())
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write)
        processes[job.__name__] = process, read
    found = {}
    for name, (process, read) in processes.items():
        os.waitpid(process, 0)
        found[name] = os.read(read, 100).decode()
    print(json.dumps(found))
"""


def together(interpreters, path, steps, seconds, options):
    done = interpreters.run(TOGETHER, path, steps, seconds, json.dumps(options), cwd=ROOT)
    assert done.stdout, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert all(counts.values()), done.stderr
    assert all(int(count) >= 1 for count in counts.values()), (counts, done.stderr)
    found = Trajectory.open(path)
    check(found)
    assert found.steps[-1] == steps
    known = gram.stored(open_run(path, mode="r+"), found)
    np.testing.assert_allclose(known, gram.matrix(found), rtol=1e-6, atol=1e-9)
    root = open_run(path)
    for name in sorted(root["surfaces"].group_keys()):
        if not Surface.open(root, name).complete:  # a snapshot was replaced in the midst of it: the same call goes on
            run(path, size=3, name=name)
        assert Surface.open(root, name).complete
    assert description_text(describe(path))


@pytest.mark.more
@pytest.mark.parametrize("options", [{"keep": 20}])
def test_a_recorder_an_analysis_a_viewer_and_a_reader_at_one_run(interpreters, options, tmp_path):
    together(interpreters, tmp_path / "run.zarr", 300, 2.0, options)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [{"keep": 20}, {"every": 5}, {"keep": 7}])
def test_a_recorder_an_analysis_a_viewer_and_a_reader_at_one_run_for_a_minute(interpreters, options, tmp_path):
    together(interpreters, tmp_path / "run.zarr", 5000, 60.0, options)


@pytest.mark.more
def test_a_viewer_that_follows_outlives_a_surface_that_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    path = tmp_path / "run.zarr"
    train(path, 4, every=1, **OBJECTIVE)
    run(path, size=3)
    follower = live.Follower(path, load(path))
    follower.start()

    def until(wanted):
        deadline = time.monotonic() + 60
        while not wanted():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    root = open_run(path, mode="r+")
    remove_group(root, "surfaces/pca")
    until(lambda: "no surface yet" in follower.error)
    begun = np.arange(3.0)
    writer = SurfaceWriter.create(root, "pca", begun, begun, {}, {"explained_variance_ratio": np.zeros(2)})
    until(lambda: "no point of it" in follower.error)
    train(path, 6, start=4, every=1, if_exists="resume")
    del writer
    run(path, size=3)
    until(lambda: not follower.error)
    until(lambda: 6 in [n for found in [follower.latest()] if found for p in found.paths for n in p.step])
    follower.stop()


# -- a clock that is set back ---------------------------------------------------------------------------------
class Clock:
    """Set back by an hour again and again; or one that stands still."""

    def __init__(self, back=3600.0, every=3, tick=1.0):
        self.now, self.reads, self.back, self.every, self.tick = 1.7e9, 0, back, every, tick

    def __call__(self):
        self.reads += 1
        self.now += self.tick - (self.back if self.reads % self.every == 0 else 0.0)
        return self.now


CLOCKS = {"jumps back": Clock, "stands still": lambda: Clock(back=0.0, tick=0.0)}


@pytest.mark.more
@pytest.mark.parametrize(
    ("clock", "options"),
    [(clock, [{"every": 1}, {"keep": 5}][number % 2]) for number, clock in enumerate(CLOCKS)],
    ids=list(CLOCKS),
)
def test_a_clock_that_is_set_back_changes_nothing_but_the_times(clock, options, tmp_path, monkeypatch):
    def both(path):
        """Recorded, analyzed, gone on with from an earlier step, analyzed again."""
        train(path, 9, **options, **OBJECTIVE)
        first = run(path, size=3)
        train(path, 14, start=8, if_exists="resume", **options)
        return first, run(path, size=3)

    expected = both(tmp_path / "steady.zarr")
    monkeypatch.setattr(recorder.time, "time", CLOCKS[clock]())
    found = both(tmp_path / "run.zarr")
    monkeypatch.undo()
    t = Trajectory.open(tmp_path / "run.zarr")
    check(t)
    same(t, Trajectory.open(tmp_path / "steady.zarr"))
    assert (np.diff(t.wall_times) <= 0).any()
    for one, other in zip(found, expected, strict=True):
        for key in ("loss", "alpha", "beta", "path", "path_loss", "path_distance", "steps"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
    replays = [Replay.of(load(tmp_path / f"{name}.zarr"), Look()) for name in ("run", "steady")]
    for replay in replays:
        replay.timeline.use("step")
    assert np.array_equal(*[replay.timeline.clocks["step"] for replay in replays])
    shares = np.linspace(0, 1, 7)
    assert [replays[0].timeline.at(s) for s in shares] == [replays[1].timeline.at(s) for s in shares]
    assert "recorded" in description_text(describe(tmp_path / "run.zarr"))


@pytest.mark.everyday(1)
@pytest.mark.parametrize("clock", CLOCKS)
def test_snapshots_taken_again_at_the_same_reading_are_not_taken_for_the_old_ones(clock, tmp_path, monkeypatch):
    """From a checkpoint the training takes another path, and the clock says what it said the first time."""
    path = tmp_path / "run.zarr"
    monkeypatch.setattr(recorder.time, "time", CLOCKS[clock]())
    train(path, 6, every=1, **OBJECTIVE)
    run(path, size=3)
    old = Trajectory.open(path)
    weights = old.block()
    reading = [old.wall_times[3]]
    monkeypatch.setattr(recorder.time, "time", lambda: reading[0])
    model = torch.nn.Module()
    model.theta = torch.nn.Parameter(torch.from_numpy(states(3)[-1]).clone())
    model.register_buffer("seen", torch.zeros(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, path, every=1, if_exists="resume", step=3):
        for time in old.wall_times[4:]:
            model.theta.grad = torch.arange(float(SIZE))
            reading[0] = time
            optimizer.step()
    monkeypatch.undo()
    new = Trajectory.open(path)
    np.testing.assert_array_equal(new.wall_times, old.wall_times)
    assert not np.array_equal(new.block(), weights)
    np.testing.assert_array_equal(gram.stored(open_run(path, mode="r+"), new), gram.matrix(new))
    again = run(path, size=3)
    path_loss = ((new.block() - 1.0) ** 2 * np.arange(1.0, SIZE + 1)).sum(axis=1)
    np.testing.assert_allclose(again.path_loss, path_loss, rtol=1e-5)
    assert again.path_distance[-1] < 1e-5


def test_a_surface_that_is_taken_away_while_a_run_is_described_is_left_out(tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    train(path, 4, every=1, **OBJECTIVE)
    for name in ("going", "staying"):
        run(path, size=3, name=name)
    whole, root = Surface.open, open_run(path, mode="r+")

    def taken_away(where, name):
        if name == "going":
            remove_group(root, "surfaces/going")
        return whole(where, name)

    monkeypatch.setattr(Surface, "open", taken_away)
    assert [found["name"] for found in describe(path)["surfaces"]] == ["staying"]


def test_a_surface_that_is_damaged_is_not_passed_over_in_silence(tmp_path):
    path = tmp_path / "run.zarr"
    train(path, 4, every=1, **OBJECTIVE)
    run(path, size=3, name="one")
    remove_group(open_run(path, mode="r+"), "surfaces/one/loss")
    with pytest.raises(SurfaceError):
        describe(path)
