"""What a recording says: a line when it begins, one when it ends, each once and wherever somebody reads it."""

import contextlib
import io
import logging
import re
import sys
import time

import pytest
import torch
from torch import nn

from landscape_hooks import Trajectory, record
from landscape_hooks.errors import LandscapeError, RecordingWarning
from landscape_hooks.objective.objective import Objective
from landscape_hooks.progress import text_of_bytes
from landscape_hooks.recording import announcement, schedule
from landscape_hooks.recording.announcement import PREFIX, Voice
from landscape_hooks.trajectory.sharding import Ranks


def trained(store, steps=3, model=None, **options):
    """Record a small training; the model."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, store, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
    return model


@pytest.fixture(autouse=True, scope="module")
def patient():
    """No word about what takes long, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(announcement, "PATIENCE", 1000.0)
        yield


@pytest.fixture(scope="module")
def with_loss(tmp_path_factory):
    """A run whose loss is weighed by its labels, in batches that differ, and what was said of it."""
    store = tmp_path_factory.mktemp("said") / "a run.zarr"
    torch.manual_seed(1)
    batches = [(torch.randn(n, 4), torch.randint(0, 2, (n,)).masked_fill(torch.rand(n) < 0.4, -100)) for n in (9, 5)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        trained(store, criterion=nn.CrossEntropyLoss(), data=batches, samples=14)
    return store, said.getvalue().splitlines()


def test_the_first_line_says_where_to_how_large_and_the_loss(with_loss):
    store, (begin, _) = with_loss
    size = r"10 parameters, at most 200 snapshots of 40 bytes, 8 kB \([\d.]+ .B free\)\."
    found = re.fullmatch(
        rf"{PREFIX}Recording into .*a run\.zarr: {size} The loss is stored \((\S+) on 14 probe samples now\); "
        r"that took [\d.]+ s\.",
        begin,
    )
    assert found, begin
    trajectory = Trajectory.open(store)
    first = trajectory[0]
    loss = Objective.load(trajectory.root).evaluate(torch.from_numpy(first.weights), torch.from_numpy(first.buffers))
    assert float(found[1]) == pytest.approx(loss.mean, rel=1e-3)


def test_the_last_line_says_what_there_is_and_what_comes_next(with_loss):
    store, (_, end) = with_loss
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    said, _, following = end.partition(" Next: ")
    assert said.startswith(f"{PREFIX}Recorded 4 snapshots, ")
    assert said.endswith(f"{text_of_bytes(size)}.")
    assert following == f"landscape-hooks analyze '{store}'"


def test_a_run_without_a_loss_names_the_options_that_it_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(nn.Linear(4, 2), None, "runs/one.zarr", every=5).close()
    begin, end = capsys.readouterr().err.splitlines()
    assert f"{PREFIX}Recording into runs/one.zarr: 10 parameters, snapshots of 40 bytes, as many as the sch" in begin
    assert begin.endswith("No loss is stored yet.")
    assert end.endswith("Next: landscape-hooks analyze runs/one.zarr --objective module:function --directions random")


def test_a_run_that_is_gone_on_with_says_what_it_has(with_loss, tmp_path, capsys):
    trained(tmp_path / "run.zarr")
    trained(tmp_path / "run.zarr", if_exists="resume", step=3)
    assert re.search(r"Going on with .*run.zarr \(4 snapshots\): 10 parameters", capsys.readouterr().err)


def test_nothing_is_said_unasked(tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="landscape_hooks")
    trained(tmp_path / "run.zarr", verbose=False)
    assert capsys.readouterr().err == ""
    assert not caplog.records
    with pytest.raises(LandscapeError, match="verbose"):
        trained(tmp_path / "other.zarr", verbose="yes")


def test_a_recording_that_cannot_begin_says_nothing(tmp_path, capsys):
    trained(tmp_path / "run.zarr", verbose=False)
    with pytest.raises(LandscapeError):
        trained(tmp_path / "run.zarr")
    assert capsys.readouterr().err == ""


def test_only_the_first_rank_speaks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Ranks, "__init__", lambda self, communicate=True: vars(self).update(rank=1, count=2))
    record(nn.Linear(4, 2), None, tmp_path / "run.zarr").close()
    assert capsys.readouterr().err == ""


# -- where it is said ---------------------------------------------------------------------------------------
class OfALibrary(logging.Handler):
    """A handler that prints with a library of its own."""

    def emit(self, record):
        print("library:", record.getMessage(), file=sys.stderr)


HANDLERS = {
    "none": (lambda path: None, 1),
    "to standard error": (lambda path: logging.StreamHandler(sys.stderr), 1),
    "to standard output": (lambda path: logging.StreamHandler(sys.stdout), 1),
    "of a library": (lambda path: OfALibrary(), 1),
    "to a file": (lambda path: logging.FileHandler(path), 2),
    "to nowhere": (lambda path: logging.NullHandler(), 1),
    "of warnings alone": (lambda path: _with_level(logging.StreamHandler(sys.stderr)), 1),
}


def _with_level(handler):
    handler.setLevel(logging.WARNING)
    return handler


@pytest.fixture
def root_logger():
    """The root logger, shown from INFO on, put back afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.setLevel(logging.INFO)
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_line_is_read_once_however_logging_is_set_up(kind, root_logger, tmp_path, capsys):
    make, copies = HANDLERS[kind]
    handler = make(tmp_path / "log")
    root_logger.handlers[:] = [] if handler is None else [handler]
    Voice(True, "run").say("a sentence")
    written = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    found = "".join(capsys.readouterr()) + written
    assert found.count("a sentence") == copies


def test_a_logger_that_is_to_be_quiet_is(capsys):
    log = logging.getLogger("landscape_hooks")
    log.setLevel(logging.WARNING)
    try:
        Voice(True, "run").say("a sentence")
        assert capsys.readouterr().err == ""
    finally:
        log.setLevel(logging.NOTSET)
    log.disabled = True  # what logging.config does to loggers that it was not told of
    try:
        Voice(True, "run").say("a sentence")
        assert capsys.readouterr().err == f"{PREFIX}a sentence\n"
    finally:
        log.disabled = False


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


class Odd:
    """What some programs put in the place of the standard error stream."""


@pytest.mark.parametrize("stream", [None, "closed", Gone(), Odd()])
def test_a_training_goes_on_where_nobody_reads(stream, tmp_path, monkeypatch):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    trained(tmp_path / "run.zarr")
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 4


def test_a_handler_that_raises_ends_no_training(tmp_path, root_logger):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("my handler")

    root_logger.handlers[:] = [Broken()]
    trained(tmp_path / "run.zarr")
    assert len(Trajectory.open(tmp_path / "run.zarr")) == 4


# -- what takes long, and what is large ---------------------------------------------------------------------
def test_work_that_takes_long_is_told_of_though_the_stream_is_replaced_meanwhile(monkeypatch, capsys):
    monkeypatch.setattr(announcement, "PATIENCE", 0.01)
    with Voice(True, "run").patience("Tracing the loss"), contextlib.redirect_stderr(io.StringIO()) as hidden:
        time.sleep(0.1)
    assert capsys.readouterr().err == f"{PREFIX}Tracing the loss takes a while ...\n"
    assert hidden.getvalue() == ""
    with Voice(True, "run").patience("Tracing the loss"):
        pass
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("free", "warned"), [(100_000, False), (40_000, True)])
def test_a_tenth_of_the_free_disk_is_warned_of(free, warned, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(announcement, "free_bytes", lambda store: free)
    trained(tmp_path / "run.zarr")  # up to 8 kB
    assert [w.category for w in recwarn] == [RecordingWarning] * warned
    if warned:
        assert "up to 8 kB, and the disk has 40 kB left. Keep fewer" in str(recwarn[0].message)


def test_a_run_that_is_gone_on_with_is_not_counted_twice(tmp_path, monkeypatch, recwarn):
    trained(tmp_path / "run.zarr", steps=19, keep=20)
    monkeypatch.setattr(announcement, "free_bytes", lambda store: 4000)
    trained(tmp_path / "run.zarr", keep=20, if_exists="resume", step=19)  # 800 bytes, of which all are there
    assert not len(recwarn)


# -- how many are kept --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("row_bytes", "kept"), [(0, 200), (4, 200), (10**7, 200), (2 * 10**7, 100), (10**9, 20)])
def test_a_run_takes_two_gigabytes_where_that_is_enough(row_bytes, kept):
    assert schedule.keep_for(row_bytes) == kept


def test_what_does_not_move_does_not_count(tmp_path, monkeypatch, capsys):
    """Of a fine-tuning the row is what is trained, and a run that is gone on with keeps what it kept."""
    monkeypatch.setattr(schedule, "BUDGET", 40 * 50)
    model = nn.Sequential(nn.Linear(50, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    record(model, None, tmp_path / "run.zarr").close()
    assert "10 parameters, what does not move once (816 bytes), at most 50 snapshots" in capsys.readouterr().err
    model[0].requires_grad_(True)
    record(model, None, tmp_path / "run.zarr", if_exists="resume").close()
    assert "at most 50 snapshots" in capsys.readouterr().err
    record(model, None, tmp_path / "whole.zarr").close()
    assert "214 parameters, at most 20 snapshots of 856 bytes" in capsys.readouterr().err


def test_sizes_in_words():
    assert [text_of_bytes(n) for n in (7, 999, 1000, 124_010_000, 999_600_000, 24_800_000_000)] == [
        "7 bytes", "999 bytes", "1 kB", "124 MB", "1 GB", "24.8 GB",
    ]  # fmt: skip
