"""The timeline: pure arithmetic, no wall clock."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape_hooks.viewer.replay.timeline import SPEEDS, Timeline


def timeline(**changes):
    made = Timeline.of(
        np.array([0, 10, 20, 100]), np.array([0.0, 1, 2, 3]), np.array([[0.0, 0], [3, 0], [3, 4], [3, 5]])
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_clock_runs_evenly_in_steps_epochs_or_length():
    made = timeline()
    made.scrub(0.1)
    assert made.position == pytest.approx(1.0)
    made.scrub(0.6)
    assert made.position == pytest.approx(2.5)
    made.clock = "epoch"
    made.scrub(0.5)
    assert made.position == pytest.approx(1.5)
    made.clock = "arc length"
    made.scrub(3 / 8)
    assert made.position == pytest.approx(1.0)


@given(st.floats(0, 1))
def test_scrubbing_and_reading_are_inverse(share):
    made = timeline()
    made.scrub(share)
    assert made.fraction == pytest.approx(share, abs=1e-9)


@given(st.lists(st.floats(0, 0.2), max_size=60))
def test_many_small_times_are_one_large_time(times):
    made, whole = timeline(playing=True, loop=False), timeline(playing=True, loop=False)
    for seconds in times:
        made.advance(seconds)
    whole.advance(sum(times))
    assert made.position == pytest.approx(whole.position, abs=1e-6)


def test_a_replay_takes_its_duration_and_speed_divides_it():
    made = timeline(playing=True, speed=2.0, loop=False)
    made.advance(made.duration / 4)
    assert made.fraction == pytest.approx(0.5)
    made.advance(made.duration)
    assert made.position == 3
    made.advance(0.1)
    assert not made.playing


def test_a_loop_shows_its_end_before_it_starts_again():
    made = timeline(playing=True, position=3.0)
    assert not made.advance(0.6)
    assert made.advance(0.6)
    assert made.position == 0
    assert made.playing


def test_steps_go_to_whole_snapshots_and_pause():
    made = timeline(playing=True, position=1.4)
    made.step(1)
    assert (made.position, made.playing) == (2, False)
    made.position = 1.4
    made.step(-1)
    assert made.position == 1
    made.step(-10)
    assert made.position == 0
    made.step(10)
    assert made.position == 3


def test_playing_at_the_end_starts_over():
    made = timeline(position=3.0)
    made.toggle()
    assert (made.position, made.playing) == (0, True)


def test_speeds_stay_in_their_list():
    made = timeline()
    for _ in range(20):
        made.faster(1)
    assert made.speed == SPEEDS[-1]
    for _ in range(20):
        made.faster(-1)
    assert made.speed == SPEEDS[0]


def test_an_unknown_epoch_is_no_clock_and_changing_the_clock_keeps_the_moment():
    made = Timeline.of(np.arange(4), np.full(4, np.nan), np.zeros((4, 2)))
    assert list(made.clocks) == ["step"]
    made = timeline(position=1.25)
    made.next_clock()
    assert (made.clock, made.position) == ("epoch", 1.25)


@pytest.mark.parametrize("count", [0, 1])
def test_a_path_without_motion_does_not_move(count):
    made = Timeline.of(np.arange(count), np.zeros(count), np.zeros((count, 2)))
    made.toggle()
    assert not made.advance(1.0)
    assert made.fraction == 0
    made.step(5)
    made.scrub(0.7)
    assert made.position == 0
