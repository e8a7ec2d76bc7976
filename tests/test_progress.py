"""Progress where there is a terminal, where there is a file, and where there is nothing."""

import io
import sys

import pytest

from landscape_hooks import progress
from landscape_hooks.progress import Progress, counted


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def lines(monkeypatch, seconds, total=200, steps=None):
    """What is written into a file by a work of `total` losses that takes so many seconds each."""
    stream, clock = io.StringIO(), Clock(monkeypatch)
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(True, total, "surface 'pca'", "loss") as tick:
        for _ in range(total if steps is None else steps):
            clock.now += seconds
            tick(1)
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_at_every_tenth(monkeypatch):
    found = lines(monkeypatch, seconds=1.0)
    assert len(found) == 10
    assert found[0] == "surface 'pca': 20 of 200 losses, about 3 min 0 s left"
    assert found[-1] == "surface 'pca': 200 of 200 losses, 3 min 20 s in all"
    assert not any("\r" in line for line in found)


def test_short_work_gets_one_line_and_long_work_one_every_half_minute(monkeypatch):
    assert lines(monkeypatch, seconds=0.001) == ["surface 'pca': 200 of 200 losses, 0 s in all"]
    found = lines(monkeypatch, seconds=10.0)
    assert found[0] == "surface 'pca': 3 of 200 losses, about 32 min 50 s left"
    assert 67 <= len(found) <= 67 + 9
    assert len(lines(monkeypatch, seconds=10.0, total=8640)) < 500  # a day


def test_what_was_done_before_says_nothing_about_the_time_left(monkeypatch):
    stream, clock = io.StringIO(), Clock(monkeypatch)
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(True, 1000, "surface 'pca'", "loss", done=500) as tick:
        clock.now += 40.0
        tick(10)
        assert stream.getvalue() == "surface 'pca': 510 of 1000 losses, about 32 min 40 s left\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_work_that_fails_before_it_began_leaves_no_count(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="mine"), Progress(True, 49, "surface 'pca'", "loss"):
        raise ValueError("mine")
    assert "\n" not in stream.getvalue()
    assert not stream.getvalue().rpartition("\r")[2].strip()


def test_a_terminal_that_cannot_go_back_gets_lines(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    assert list(counted("ab", 2, shown=True, what="render", unit="picture")) == ["a", "b"]
    assert stream.getvalue() == "render: 2 of 2 pictures, 0 s in all\n"


def test_nothing_is_coloured(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert list(counted("ab", 2, shown=True, what="render", unit="picture")) == ["a", "b"]
    assert "\x1b[3" not in stream.getvalue()


def test_work_that_stops_says_where(monkeypatch):
    assert lines(monkeypatch, seconds=0.01, steps=7)[-1].startswith("surface 'pca': 7 of 200 losses")


def test_a_terminal_gets_a_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(counted("ab", 2, shown=True, what="render", unit="picture")) == ["a", "b"]
    assert "100%" in stream.getvalue()
    assert "\r" in stream.getvalue()


@pytest.mark.parametrize("stream", [None, "closed"])
def test_no_stream_is_no_trouble(monkeypatch, stream):
    """As under pythonw, with 2>&-, or where the reader of a pipe went away."""
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(counted("ab", 2, shown=True, what="render", unit="picture")) == ["a", "b"]


def test_nothing_is_said_unasked(monkeypatch, capsys):
    assert list(counted("ab", 2, shown=False, what="render", unit="picture")) == ["a", "b"]
    assert capsys.readouterr().err == ""
