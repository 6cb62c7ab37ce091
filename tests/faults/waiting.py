"""Bounded waiting: everything that is waited for has a name and a deadline, and the whole has one too."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

POLL_S = 0.02
CLEAN_UP_S = 60.0

_waited_for: list[str] = []
_meanwhile: list[Callable[[], None]] = []


class Stuck(Exception):
    """Something did not come in time."""


class Overdue(BaseException):
    """All the time is used up; not an Exception, so that nothing on the way takes it for a fault of the run."""


def until(predicate: Callable[[], object], what: str, timeout_s: float) -> None:
    """Return as soon as `predicate()` is true; raise Stuck, naming `what`, when it is not in time."""
    deadline_s = time.monotonic() + timeout_s
    with waiting_for(what):
        while not predicate():
            if time.monotonic() > deadline_s:
                raise Stuck(f"waited {timeout_s:.0f} s for {what}")
            _go_on_meanwhile()
            time.sleep(POLL_S)


def pause(seconds: float) -> None:
    """Let time pass; what goes on in the background goes on."""
    end_s = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end_s, "time to pass", seconds + 60)


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """What the last words are about when the whole is overdue meanwhile."""
    _waited_for.append(what)
    try:
        yield
    finally:
        _waited_for.pop()


@contextlib.contextmanager
def meanwhile(task: Callable[[], None]) -> Iterator[None]:
    """`task` is called at every look while something is waited for; what it waits for itself it must not wait for here."""

    _meanwhile.append(task)
    try:
        yield
    finally:
        _meanwhile.remove(task)


def _go_on_meanwhile() -> None:
    """Each task once; not again from within, when one of them waits itself."""
    tasks, _meanwhile[:] = list(_meanwhile), []
    try:
        for task in tasks:
            task()
    finally:
        _meanwhile[:] = tasks


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Overdue in the main thread when time is up; when even cleaning up takes too long, end the process."""

    def overdue(*_: object) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(4))
        signal.alarm(round(CLEAN_UP_S))
        raise Overdue(f"not done after {seconds:.0f} s; it was waiting for {' > '.join(_waited_for) or 'nothing'}")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
