"""What a rank leaves on disk when it ends, for a supervisor that did not live to hear it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from memdash import wire

MAX_BYTES = 8 << 20


def leave(directory: str, rank: int, frames: Sequence[bytes]) -> None:
    """Write frames as one file, whole or not at all; the oldest but the first stay out when they are too many.

    A full disk costs all but the first and the last.
    """
    for chosen in (_newest(frames), [frames[0], frames[-1]]):
        with contextlib.suppress(OSError):
            _replace(os.path.join(directory, wire.LAST_WORDS.format(rank=rank)), b"".join(chosen))
            return


def on_exit(failed: Callable[[str], None], left: Callable[[], None]) -> None:
    """Call `failed` with an uncaught error after Python has printed it, `left` when the process ends by itself.

    A forked child, such as a DataLoader worker, calls neither.
    """
    pid, printed = os.getpid(), sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        printed(kind, error, trace)
        if os.getpid() == pid and issubclass(kind, Exception):  # Ctrl-C ends it by a signal, which says enough
            failed(f"{kind.__name__}: {error}")

    def ending() -> None:
        if os.getpid() == pid:
            left()

    sys.excepthook = hook
    atexit.register(ending)


def _newest(frames: Sequence[bytes]) -> list[bytes]:
    kept, size = [], len(frames[0])
    for frame in reversed(frames[1:]):
        size += len(frame)
        if size > MAX_BYTES:
            break
        kept.append(frame)
    return [frames[0], *reversed(kept)]


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "wb", opener=_private) as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
