"""Nothing that chaos.py waits for is waited for without end, and what goes on meanwhile goes on."""

from __future__ import annotations

import time

import pytest

from tests.faults.waiting import Overdue, Stuck, at_most, meanwhile, until


def test_what_does_not_come_is_named():
    with pytest.raises(Stuck, match="waited 0 s for the end of the world"):
        until(lambda: False, "the end of the world", 0.05)


def test_the_whole_is_bounded_too():
    with pytest.raises(Overdue, match="it was waiting for a new supervisor"), at_most(0.1):
        until(lambda: False, "a new supervisor", 20)


def test_what_goes_on_meanwhile_goes_on_also_when_it_waits_itself():
    calls = []

    def going_on() -> None:
        calls.append(1)
        until(lambda: True, "itself", 1)

    with meanwhile(going_on):
        until(lambda: len(calls) >= 3, "three looks", 20)
    count = len(calls)
    end_s = time.monotonic() + 0.1
    until(lambda: time.monotonic() > end_s, "time to pass", 20)
    assert len(calls) == count
