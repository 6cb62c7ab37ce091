"""How long a finished run of 12 hours takes to open, against the limit of one second, and how large its record is.

Wall time, which other work on the machine makes longer, and the supervisor's CPU time, which it does not.
A real supervisor on a real socket; the last figure is a person's: `memdash attach` typed, until its plots are drawn.
"""

from __future__ import annotations

import asyncio
import collections
import os
import pty
import random
import select
import signal
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import psutil
import pyte

from benchmarks._home import home
from benchmarks._long_run import make_run
from benchmarks._table import Row, main, row
from memdash import wire
from memdash.client import Client
from memdash.replay.timeline import Timeline
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleReader, read_header
from memdash.supervisor.keeping import KEEP_ROWS, Keeper
from memdash.supervisor.launch import dismiss_supervisor, launch_supervisor

HOURS = 12.0
LIMIT_S = 1.0
BEAT_S = 0.1
SEEKS = 20
TIMEOUT_S = 60.0
SIZE = (120, 40)


def measure(quick: bool) -> list[Row]:
    """1 rank and 8 ranks at two steps a second; the best of a few tries, for the machine is not ours alone."""
    tries = 2 if quick else 5
    with home():
        return [line for ranks in (1, 8) for line in _rows(ranks, tries)]


def _rows(ranks: int, tries: int) -> list[Row]:
    name = f"{ranks} rank{'s' * (ranks > 1)}"
    run = make_run(f"long-{ranks}", ranks=ranks, hours=HOURS)
    record, as_json = _size(run, "*.rec"), _size_as_json(run)
    first, _ = _opened_s(run)
    opened, opened_cpu = map(min, zip(*(_opened_s(run) for _ in range(tries)), strict=True))
    shown, shown_cpu = map(min, zip(*(_shown_s(run) for _ in range(tries)), strict=True))
    kept, stall = _size(run, "*.history"), _longest_stall_s(run)
    behind = min(_killed_and_opened_s(run) for _ in range(tries))
    replayed = _replayed_s(run)
    limit = (LIMIT_S, "the limit", "ours", "<=", LIMIT_S)
    return [
        row(f"{name}, {HOURS:g} h at 2 Hz: record, MB", record / 1e6, as_json / 1e6, "JSON lines", "ratio", "<=", 0.6),
        row(f"{name}: history kept beside it, MB", kept / 1e6, record / 1e6, "the record", "ratio", "<=", 0.1),
        row(f"{name}: supervisor started, all history received, s", opened, *limit),
        row(f"{name}: the same, CPU-seconds of the supervisor", opened_cpu, *limit),
        row(f"{name}: the same, {KEEP_ROWS - 1:,} rows a source not kept, s", behind, *limit),
        row(f"{name}: the same, nothing kept, s", first, *limit),
        row(f"{name}: `memdash attach` typed, plots drawn, s", shown, *limit),
        row(f"{name}: the same, CPU-seconds of the dashboard", shown_cpu, *limit),
        row(f"{name}: `memdash replay`, record opened, s", replayed[0], *limit),
        row(f"{name}: `memdash replay`, longest of {SEEKS} seeks, s", replayed[1], *limit),
        row(f"{name}: longest wait of a beat for keeping, ms", stall * 1e3, BEAT_S * 1e3, "a beat", "ratio", "<=", 0.2),
    ]  # fmt: skip


def _size(run: RunDirectory, pattern: str) -> int:
    return sum(path.stat().st_size for path in run.samples.glob(pattern))


def _size_as_json(run: RunDirectory) -> float:
    """What the rows would take as lines of JSON, from every hundredth."""
    import json

    total = 0.0
    for path in run.samples.glob("*.rec"):
        reader = SampleReader(path)
        rows = [row for at in range(0, len(reader), 100) for row in reader.rows(at, at + 1)]
        total += sum(len(json.dumps(row)) + 1 for row in rows) / len(rows) * len(reader)
        reader.close()
    return total


def _opened_s(run: RunDirectory) -> tuple[float, float]:
    """From the start of its supervisor's process, and what that has used of a CPU by then, both in seconds."""
    begun_s = time.monotonic()
    launch_supervisor(run)
    asyncio.run(_receive_all(run))
    took_s = time.monotonic() - begun_s
    used_s = sum(psutil.Process(int(run.lock.read_text())).cpu_times()[:2])
    if not dismiss_supervisor(run):
        raise RuntimeError(f"the supervisor of {run.run_id} does not leave")
    return took_s, used_s


async def _receive_all(run: RunDirectory) -> None:
    client = await Client.connect(run.run_id)
    async with asyncio.timeout(TIMEOUT_S):
        while not isinstance(await client.receive(), wire.Backfilled):
            pass
    await client.close()


def _killed_and_opened_s(run: RunDirectory) -> float:
    """As a supervisor that was killed at the worst moment leaves it."""
    whole = {path: path.read_bytes() for path in run.samples.glob("*.rec")}
    for path, data in whole.items():
        path.with_suffix(".history").unlink(missing_ok=True)
        path.write_bytes(data[: len(data) - (KEEP_ROWS - 1) * _row_bytes(path)])
    Keeper(run).finish()
    for path, data in whole.items():
        path.write_bytes(data)
    return _opened_s(run)[0]


def _row_bytes(path: Path) -> int:
    _, names = read_header(path)
    return 8 * len(names)


def _replayed_s(run: RunDirectory) -> tuple[float, float]:
    """Opening the record, and the longest of some seeks all over it."""
    chance, longest_s, begun_s = random.Random(1), 0.0, time.monotonic()
    timeline = Timeline(run)
    opened_s = time.monotonic() - begun_s
    for _ in range(SEEKS):
        to_s = timeline.start_s + chance.random() * (timeline.end_s - timeline.start_s)
        begun_s = time.monotonic()
        collections.deque(timeline.everything(to_s), maxlen=0)
        longest_s = max(longest_s, time.monotonic() - begun_s)
    timeline.close()
    return opened_s, longest_s


def _longest_stall_s(run: RunDirectory) -> float:
    keeper, longest_s = Keeper(run), 0.0
    for source in list(keeper.history.rows):
        keeper.history.rows[source] += KEEP_ROWS
        begun_s = time.monotonic()
        keeper.tick()
        longest_s = max(longest_s, time.monotonic() - begun_s)
    return longest_s


def _shown_s(run: RunDirectory) -> tuple[float, float]:
    """From the start of the program, on a terminal of its own, and what it has used of a CPU, both in seconds."""
    screen = pyte.Screen(*SIZE)
    stream = pyte.ByteStream(screen)
    begun_s = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", LANG="C.UTF-8")
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", "memdash", "attach", run.run_id])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
    while not _is_drawn(screen):
        if time.monotonic() - begun_s > TIMEOUT_S or not select.select([terminal], [], [], TIMEOUT_S)[0]:
            raise RuntimeError("the plots were never drawn:\n" + "\n".join(screen.display))
        data = os.read(terminal, 1 << 16)
        for unknown in (b"\x1b[>1u", b"\x1b[<u", b"\x1b[?2026$p", b"\x1b[?2048$p"):
            data = data.replace(unknown, b"")
        stream.feed(data)
    took_s = time.monotonic() - begun_s
    os.kill(pid, signal.SIGKILL)
    _, _, used = os.wait4(pid, 0)
    os.close(terminal)
    dismiss_supervisor(run)
    return took_s, used.ru_utime + used.ru_stime


def _is_drawn(screen: pyte.Screen) -> bool:
    """Whether every part of four plots that reach from one end of 12 hours to the other has braille in it."""
    halves = [line[start : start + SIZE[0] // 2] for line in screen.display for start in (0, SIZE[0] // 2)]
    drawn = sum(sum("\u2800" < char <= "\u28ff" for char in half) > SIZE[0] // 4 for half in halves)
    return drawn >= 4 and "finished" in screen.display[0]


if __name__ == "__main__":
    sys.exit(main("attach", __doc__ or "", measure))
