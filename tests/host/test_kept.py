"""Kernel files that are kept open: one thread's are not another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memdash.host import kept

THREADS, ROUNDS = 4, 60


def test_threads_never_read_each_others_files():
    """More files than are kept, so that one thread closes all the time what another would read."""
    names = [str(path) for path in sorted(Path("/proc/sys/kernel").rglob("*")) if _is_steady(path)]
    names = names[: kept.MOST + 20]
    assert len(names) > kept.MOST
    expected = {name: kept.read(name) for name in names}

    def look(turn: int) -> list[str]:
        return [
            name
            for round_ in range(ROUNDS)
            for name in names[(turn + round_) % 7 :: 1 + turn % 3]
            if kept.read(name) != expected[name]
        ]

    with ThreadPoolExecutor(THREADS) as pool:
        assert [wrong for wrongs in pool.map(look, range(2 * THREADS)) for wrong in wrongs] == []


def _is_steady(path: Path) -> bool:
    """A file that is readable, and the same when read again, whatever the machine does."""
    if not path.is_file() or path.name == "ns_last_pid":
        return False
    try:
        return kept.read(path) == kept.read(path)
    except OSError:
        return False
