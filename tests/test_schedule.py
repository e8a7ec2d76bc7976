"""Schedules against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landscape_hooks.errors import LandscapeError
from landscape_hooks.recording.schedule import NEVER, AtSteps, Every, LogSpaced, Thinning, When, make_schedule


def taken(schedule, length, first=0):
    """The steps of a training of `length` steps that a schedule takes, as a recorder drives it."""
    schedule.admit(first)
    steps, due = [first], schedule.next(first)
    for step in range(first + 1, first + length + 1):
        if step == due:
            if schedule.admit(step):
                steps.append(step)
            due = schedule.next(step)
    return steps


def test_every_takes_the_multiples():
    assert taken(Every(3), 10) == [0, 3, 6, 9]
    assert taken(Every(3), 7, first=5) == [5, 6, 9, 12]


def test_listed_steps_are_taken_once_and_then_none():
    assert taken(AtSteps([7, 2, 2, 5]), 20) == [0, 2, 5, 7]
    assert AtSteps([3]).next(3) == NEVER


def test_a_function_is_asked_at_every_step():
    assert taken(When(lambda step: step in (1, 8)), 10) == [0, 1, 8]


@pytest.mark.parametrize("per_decade", [1, 5, 20])
def test_log_spaced_is_geometric(per_decade):
    steps = np.array(taken(LogSpaced(per_decade), 10_000)[1:])
    expected = np.unique(np.round(10 ** (np.arange(0, 4 * per_decade + 1) / per_decade)).astype(int))
    np.testing.assert_array_equal(steps, expected)


@given(keep=st.integers(3, 40), length=st.integers(0, 700), first=st.integers(0, 50))
def test_thinning_is_even_bounded_and_starts_with_the_first(keep, length, first):
    schedule = Thinning(keep)
    taken(schedule, length, first)
    steps = schedule.steps
    assert steps == list(range(first, first + length + 1, schedule.stride))
    assert len(steps) <= keep - 1
    if length >= keep:
        assert len(steps) >= (keep - 1) // 2


@given(keep=st.integers(3, 12), length=st.integers(1, 200), at=st.integers(0, 200))
def test_thinning_restored_in_the_middle_ends_the_same(keep, length, at):
    whole = Thinning(keep)
    taken(whole, length)
    killed = Thinning(keep)
    taken(killed, length)
    resumed = Thinning(keep)
    at = min(at, length)
    resumed.restore([s for s in killed.steps if s <= at], killed.stride)
    due = resumed.next(at)
    for step in range(at + 1, length + 1):
        if step == due:
            resumed.admit(step)
            due = resumed.next(step)
    assert resumed.steps == whole.steps


def test_what_makes_a_schedule():
    assert isinstance(make_schedule(), Thinning)
    assert make_schedule(keep=7).limit == 7
    assert make_schedule(every=4).next(0) == 4
    assert make_schedule([1, 2]).next(1) == 2
    assert make_schedule(5).next(5) == 10
    assert isinstance(make_schedule(lambda step: True), When)
    own = LogSpaced(3)
    assert make_schedule(own) is own


@pytest.mark.parametrize(
    "arguments",
    [{"every": 0}, {"every": 2.5}, {"keep": 2}, {"every": 2, "schedule": [1]}, {"schedule": []}, {"schedule": "often"}],
)
def test_what_makes_none_is_refused(arguments):
    with pytest.raises(LandscapeError):
        make_schedule(**arguments)
