"""What export and render write is whole or not there; full disks, read-only and vanished runs end in a sentence."""

import contextlib
import io
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import torch
from zarr.storage import LocalStore

from landscape_hooks import Trajectory, cli, record
from landscape_hooks.analysis import commits, filling
from landscape_hooks.errors import LandscapeError, RecordingWarning, RunError
from landscape_hooks.surface.surface import Surface
from landscape_hooks.viewer.gl import context
from landscape_hooks.viewer.live import Follower
from landscape_hooks.viewer.replay.landscape import load
from tests.faults.test_analyzing import equal, run
from tests.faults.test_disk import OBJECTIVE, moments, storms
from tests.faults.training import Model, check, quietly, same, train


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    train(path, 4, every=1, **OBJECTIVE)
    run(path, size=5)
    return path


def command(*arguments):
    """(exit status, standard output, standard error) of a command line; an uncaught exception is raised here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def refused(*arguments):
    """The one sentence that a command ends with."""
    status, _, said = command(*arguments)
    assert status == 2, said
    lines = [line for line in said.splitlines() if line.startswith("landscape-hooks: ")]
    assert len(lines) == 1, said
    return lines[0]


def writers(run):
    """name -> the command that writes such a file, without the file's name."""
    small = ["--size", "96x64", "--frames", "3"]
    found = {
        "a.ply": ["export", run, "--ply"],
        "a.glb": ["export", run, "--glb"],
        "a.png": ["export", run, "--png"],
        "b.png": ["render", run, *small, "-o"],
        "b.gif": ["render", run, *small, "-o"],
        "b.webp": ["render", run, *small, "-o"],
    }
    with contextlib.suppress(ImportError):
        import av  # noqa: F401

        found["b.mp4"] = ["render", run, *small, "-o"]
    return found


NAMES = ["a.ply", "a.glb", "a.png", "b.png", "b.gif", "b.webp", "b.mp4"]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.more
@storms
@pytest.mark.parametrize("name", ["a.ply", "a.glb", "a.png", "b.png", "b.gif", "b.mp4"])
def test_a_killed_export_or_render_leaves_the_old_file_or_the_new_one(name, many, recorded, children, tmp_path):
    if name not in writers(recorded):
        pytest.skip("PyAV is not installed")
    folder = tmp_path / "out"

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for each in (name, name.replace(".", "_path.")):
            (folder / each).write_bytes(b"the old one")

    fresh()
    job = f"cli.main({[str(a) for a in writers(recorded)[name]] + [str(folder / name)]!r})"
    assert children.run(job, folder)["ended"]
    whole = files(folder)
    assert len(whole[name]) > 100
    for _ in moments(children, job, folder, fresh, many):
        for each, content in files(folder).items():
            assert each.startswith(".") or content in (b"the old one", whole[each])
    children.run(job, folder)
    assert files(folder) == whole  # and what was left behind is gone


# -- a small disk of its own --------------------------------------------------------------------------------
class SmallDisk:
    """A tmpfs of a few megabytes."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=24m", "tmpfs")

    def _mount(self, *arguments):
        done = subprocess.run(["mount", *arguments, str(self.path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")

    def read_only(self):
        self._mount("-o", "remount,ro")

    def fill(self, leave=0):
        (self.path / "filler").unlink(missing_ok=True)
        free = shutil.disk_usage(self.path).free
        with (self.path / "filler").open("wb") as file:
            file.write(bytes(max(0, free - leave)))

    def free(self):
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path):
    if shutil.which("mount") is None:
        pytest.skip("needs the program mount")
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk.path)], check=True)


def test_recording_onto_a_full_disk(disk, tmp_path):
    def training(path, end, start=0, **options):
        model = torch.nn.Linear(600_000, 1, bias=False)
        torch.nn.init.constant_(model.weight, start)
        model.weight.grad = torch.full_like(model.weight, -1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        with record(model, optimizer, path, every=1, **options) as recorder:
            for _ in range(start, end):
                optimizer.step()
                recorder.flush()
        assert (model.weight == end).all()  # the training went on to its end

    path = disk.path / "run.zarr"
    disk.fill(leave=9_000_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training(path, 10)
    before, during, closing = [str(w.message) for w in caught if w.category is RecordingWarning]
    assert "is going to take" in before
    assert "No space left on device" in during
    assert "training goes on" in during
    found = Trajectory.open(path)
    assert f"{len(found)} are committed" in closing
    assert 2 <= len(found) < 5
    np.testing.assert_array_equal(found.block()[:, 0], found.steps)
    disk.free()
    disk.fill(leave=8_500_000)
    training(path, 5, start=int(found.steps[-1]), if_exists="resume")
    found = Trajectory.open(path)
    np.testing.assert_array_equal(found.block(), np.repeat(np.arange(6.0)[:, None], 600_000, axis=1))
    disk.fill()
    with pytest.raises(RunError, match=r"cannot be written.*No space left on device.*Free space"):
        training(disk.path / "other.zarr", 1)
    disk.free()
    training(disk.path / "other.zarr", 1)


def test_analyzing_onto_a_full_disk(disk, recorded, monkeypatch):
    path = disk.path / "run.zarr"
    shutil.copytree(recorded, path)
    before, expected = Surface.open(path), run(recorded, size=6, name="new")
    disk.fill()
    assert "No space left on device" in refused("analyze", path, "--size", "6", "--name", "new", "--no-tune", "--quiet")
    equal(Surface.open(path), before)
    disk.free()
    real, count = filling.evaluate, 0

    def until_full(*arguments, **options):
        nonlocal count
        for tile in real(*arguments, **options):
            count += 1
            if count == 9:
                disk.fill()
            yield tile

    monkeypatch.setattr(filling, "evaluate", until_full)
    monkeypatch.setattr(commits, "COMMIT_SECONDS", 0.0)
    said = refused("analyze", path, "--size", "6", "--name", "new", "--no-tune", "--quiet")
    assert "No space left on device" in said
    monkeypatch.undo()
    done = Surface.open(path, "new")
    assert 8 <= done.evaluated.sum() < 36
    np.testing.assert_array_equal(done.loss[done.evaluated], expected.loss[done.evaluated])
    disk.free()
    equal(run(path, size=6, name="new"), expected)


@pytest.mark.everyday(2)
@pytest.mark.parametrize("name", NAMES)
def test_export_and_render_onto_a_full_disk(name, disk, recorded):
    if name not in writers(recorded):
        pytest.skip("PyAV is not installed")
    (disk.path / name).write_bytes(b"the old one")
    disk.fill(leave=300)
    before = files(disk.path)
    said = refused(*writers(recorded)[name], disk.path / name)
    assert "No space left on device" in said
    assert name in said
    assert files(disk.path) == before


def test_a_read_only_run_is_shown_and_refused_in_a_sentence_where_it_is_written(disk, recorded, tmp_path):
    path = disk.path / "run.zarr"
    shutil.copytree(recorded, path)
    disk.read_only()
    with pytest.raises(OSError, match="Read-only"):
        (path / "x").touch()
    assert command("info", path)[1] == command("info", recorded)[1].replace(str(recorded), str(path))
    (tmp_path / "out").mkdir()
    for name, words in writers(path).items():
        status, _, said = command(*words, tmp_path / "out" / name)
        assert (status, (tmp_path / "out" / name).exists()) == (0, True), said
    same(Trajectory.open(path), Trajectory.open(recorded))
    assert Follower(path, load(path)).look() is None  # what `view --follow` does beside the window
    assert "Read-only file system" in refused("analyze", path, "--size", "4", "--no-tune", "--quiet")
    assert "Read-only file system" in refused("export", recorded, "--ply", path / "a.ply")
    assert "Read-only file system" in refused("render", recorded, "--size", "96x64", "-o", path / "a.png")
    with pytest.raises(RunError, match=r"cannot be written.*Read-only file system"):
        train(path, 6, every=1, if_exists="overwrite")
    assert "Read-only file system" in quietly(path, 6, start=4, every=1, if_exists="resume")[1][0]
    with pytest.raises(RunError, match=r"cannot be written.*Read-only file system"):
        train(disk.path / "new.zarr", 6, every=1)
    same(Trajectory.open(path), Trajectory.open(recorded))


def test_a_store_that_is_opened_read_only(recorded):
    store = LocalStore(recorded, read_only=True)
    check(Trajectory.open(store))
    assert Surface.open(store).complete
    with pytest.raises(RunError, match="cannot be written"):
        run(store, size=4, name="new")
    for options in ({"if_exists": "resume", "start": 4}, {"if_exists": "overwrite"}):
        with pytest.raises(RunError, match="cannot be written"):
            train(store, 6, every=1, **options)


@pytest.mark.parametrize(
    "words",
    [["info"], ["analyze"], ["export", "--ply", "a.ply"], ["view"], ["render", "-o", "a.png"]],
    ids=lambda words: words[0],
)
def test_a_run_that_is_not_there(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(context, "is_headless", lambda: False)  # as in a process that has not rendered yet
    assert "nothing at gone.zarr" in refused(words[0], "gone.zarr", *words[1:])
    assert not list(tmp_path.iterdir())


def test_a_run_that_vanishes_while_it_is_analyzed(recorded, tmp_path, monkeypatch):
    path = tmp_path / "run.zarr"
    shutil.copytree(recorded, path)
    real = filling.evaluate

    def vanishing(*arguments, **options):
        for tile in real(*arguments, **options):
            shutil.rmtree(path, ignore_errors=True)
            yield tile

    monkeypatch.setattr(filling, "evaluate", vanishing)
    with pytest.raises(LandscapeError, match="is gone"):
        run(path, size=6, name="never")
    assert not path.exists()


def test_a_run_that_vanishes_before_the_recorder_is_closed(tmp_path):
    path = tmp_path / "run.zarr"
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, path, every=1)
    recorder.flush()
    shutil.rmtree(path)
    with pytest.warns(RecordingWarning, match="is gone"):
        recorder.close()
    assert not path.exists()  # and is not made anew, without what it held
