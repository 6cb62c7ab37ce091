"""Keys of a recording: where they go and how fast, and the line that shows it (pure)."""

from __future__ import annotations

from memdash import wire

SMALL_S, LARGE_S, LARGE_PART = 10.0, 60.0, 0.01
AT_MARK_S = 0.05
AGAIN_S = 0.7  # who goes back twice within this means the mark before, though it has played on since


def step_s(playback: wire.Playback, *, large: bool) -> float:
    """Ten seconds; or a minute, of a long recording one per cent."""
    return max(LARGE_S, LARGE_PART * (playback.end_s - playback.start_s)) if large else SMALL_S


def within(playback: wire.Playback, time_s: float) -> float:
    """The nearest time that there is."""
    return min(playback.end_s, max(playback.start_s, time_s))


def next_mark(playback: wire.Playback, direction: int) -> wire.Mark | None:
    """The nearest warning or error after (1) or before (-1) now."""
    near_s = AT_MARK_S + (AGAIN_S * playback.speed if playback.playing and direction < 0 else 0.0)
    ahead = [mark for mark in playback.marks if direction * (mark.time_s - playback.time_s) > near_s]
    return min(ahead, key=lambda mark: abs(mark.time_s - playback.time_s), default=None)


def next_speed(playback: wire.Playback, direction: int) -> float:
    """The next faster (1) or slower (-1) speed; the same at either end."""
    beyond = [speed for speed in wire.PLAYBACK_SPEEDS if direction * (speed - playback.speed) > 0]
    return min(beyond, key=lambda speed: abs(speed - playback.speed), default=playback.speed)


def cells(playback: wire.Playback, width: int) -> tuple[int, dict[int, wire.Level]]:
    """In a bar of so many cells: where we are, and the worst mark of each cell that has one."""
    marks: dict[int, wire.Level] = {}
    for mark in playback.marks:
        cell = _cell(playback, mark.time_s, width)
        if marks.get(cell) != "error":
            marks[cell] = mark.level
    return _cell(playback, playback.time_s, width), marks


def time_at(playback: wire.Playback, cell: int, width: int) -> float:
    """The time that a cell of the bar stands for."""
    return playback.start_s + (playback.end_s - playback.start_s) * cell / max(1, width - 1)


def _cell(playback: wire.Playback, time_s: float, width: int) -> int:
    part = (time_s - playback.start_s) / max(1e-9, playback.end_s - playback.start_s)
    return min(width - 1, max(0, round(part * (width - 1))))
