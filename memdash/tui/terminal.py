"""Whether this terminal can show a dashboard, and what to do when it goes away. Linux; the UI is written to stderr."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from memdash.errors import ExitCode, UsageError

_HINT = "add --headless for plain lines"
_GRACE_S = 2.0  # to leave the alternate screen, if the terminal still takes it


def check_terminal(hint: str = _HINT) -> None:
    """Raises UsageError, with what to do instead, where a dashboard would spin, print garbage, or never see a key."""
    if not (os.isatty(0) and os.isatty(2)):
        raise UsageError("the dashboard needs a terminal on standard input and standard error", hint=hint)
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError(f"the terminal is TERM={os.environ.get('TERM', '')!r}, which cannot place text", hint=hint)
    encoding = (getattr(sys.__stderr__, "encoding", None) or "ascii").lower().replace("-", "")
    if encoding not in ("utf8", "utf_8"):
        raise UsageError(
            f"the terminal's encoding is {encoding}, and the plots need UTF-8",
            hint=f"set LANG=C.UTF-8, or {hint}",
        )


@contextlib.contextmanager
def measured_on_stderr() -> Iterator[None]:
    """With standard output in a file or a pipe, Textual asks it for the terminal's size half of the time."""
    before = sys.__stdout__
    if not os.isatty(1):
        sys.__stdout__ = sys.__stderr__  # type: ignore[misc]
    try:
        yield
    finally:
        sys.__stdout__ = before  # type: ignore[misc]


def on_hangup(leave: Callable[[], None]) -> None:
    """Call `leave` when the terminal hangs up or somebody terminates us. Called on the dashboard's loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    threading.Thread(target=_watch_terminal, args=(loop, leave), name="hangup", daemon=True).start()


def _watch_terminal(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
    """Under nohup no signal comes, and Textual's input thread would spin for ever on the dead terminal."""
    poll = select.poll()
    poll.register(2, 0)
    while not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(5000)):
        pass
    try:
        loop.call_soon_threadsafe(leave)
    except RuntimeError:  # the loop is closed: we are leaving already
        return
    time.sleep(_GRACE_S)
    os._exit(ExitCode.OK)
