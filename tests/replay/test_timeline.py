"""At any time a recording says what a dashboard would have known then."""

from __future__ import annotations

import random

import msgspec
import pytest

from benchmarks._long_run import make_run
from memdash import wire
from memdash.buckets import BucketSeries
from memdash.errors import StoreError
from memdash.replay.timeline import DETAIL_S, Timeline
from memdash.store.journal import Journal
from memdash.store.recorder import Recorder
from memdash.store.samples import SampleReader
from memdash.supervisor import telemetry as telemetry_module
from memdash.supervisor.events import ForecastMade
from memdash.supervisor.history import History
from memdash.supervisor.telemetry import STATE_SAVE_S, Telemetry
from memdash.tui.board import Board
from tests.replay.conftest import SECONDS, T0, Clock, new_run

SMOOTHED = ("smoothed_loss", "step_time_s", "examples_per_s", "items_per_s", "eta_s")
EVENTS_AT = (1.0, 9.0, 40.0, 60.0, 70.0, 90.0)


@pytest.fixture
def timeline(recorded):
    timeline = Timeline(recorded.directory)
    yield timeline
    timeline.close()


def board_of(*messages: wire.FromSupervisor) -> Board:
    board = Board()
    for message in messages:
        board.take(message)
    return board


def whole(board: Board, start_s: float = T0, seconds: float = SECONDS) -> dict[str, object]:
    """Every series that a live dashboard has, too, in columns of four seconds."""
    columns = {}
    for name in sorted(set(board.series.names()) - {"step", "micro_batch", "learning_rate"}):
        series = board.series[name]._whole
        columns[name] = series.columns(
            start_s - start_s % 4, start_s - start_s % 4 + seconds + 4, int(seconds) // 4 + 1
        )
    return columns


def test_the_state_is_what_it_was(recorded, timeline):
    for time_s, live in recorded.states[2:]:
        if any(0 <= time_s - T0 - at_s < STATE_SAVE_S for at_s in EVENTS_AT):
            continue  # what is not a change of status is recorded every few seconds
        played = timeline.state(time_s)
        for name in SMOOTHED:
            assert getattr(played, name) == pytest.approx(getattr(live, name), rel=0.02), (name, time_s)
        same = dict.fromkeys(SMOOTHED)
        assert msgspec.structs.replace(played, **same) == msgspec.structs.replace(live, **same), time_s - T0


@pytest.mark.parametrize(
    ("at_s", "status"),
    [(0.5, "starting"), (8.9, "starting"), (9.1, "running"), (60.1, "paused"), (69.9, "paused"), (70.1, "running")],
)
def test_a_change_of_status_is_told_to_the_moment(timeline, at_s, status):
    assert timeline.state(T0 + at_s).status == status


def test_the_end(timeline, recorded):
    assert timeline.state(timeline.end_s) == recorded.states[-1][1]
    assert timeline.state(timeline.end_s).status == "finished"
    assert timeline.end_s == pytest.approx(T0 + SECONDS)


@pytest.mark.parametrize("step_s", [0.1, 0.7, 3.0, 17.0, 40.0])
def test_playing_there_and_seeking_there_come_to_the_same(timeline, step_s):
    played = board_of(*timeline.everything(T0 + 3))
    time_s = T0 + 3
    while time_s < timeline.end_s:
        after_s, time_s = time_s, min(timeline.end_s, time_s + step_s)
        for message in timeline.between(after_s, time_s):
            played.take(message)
    sought = board_of(*timeline.everything(timeline.end_s))
    assert (played.state, played.host, played.devices) == (sought.state, sought.host, sought.devices)
    assert played.journal == sought.journal
    assert whole(played) == whole(sought)
    assert played.output.lines == sought.output.lines == ["epoch 1", "epoch 2", "the last line", ""]


@pytest.mark.parametrize("at_s", [0.0, 12.3, 65.0, 119.0])
def test_nothing_of_what_came_later(timeline, at_s):
    board = board_of(*timeline.everything(T0 + at_s))
    assert all(entry.time_s <= T0 + at_s for entry in board.journal)
    spans = [board.series[name]._whole.span_s for name in board.series.names()]
    assert all(span[1] <= T0 + at_s + 0.25 for span in spans if span)
    printed = [line for when_s, line in ((30, "epoch 1"), (80, "epoch 2")) if at_s >= when_s]
    assert board.output.lines == [*printed, ""]


def test_a_forecast_is_shown_as_long_as_it_was_true(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(telemetry_module, "time", clock)
    directory = new_run("warned")
    recorder = Recorder(directory)
    telemetry = Telemetry(wire.RunState(run_id="warned", name="x"), recorder, History())
    for beat in range(60):
        clock.now_s = T0 + beat
        level = "critical" if 10 <= beat < 20 else "ok"
        forecast = wire.Forecast(time_s=clock.now_s, level=level, headline=f"full in {60 - beat} s")
        telemetry.advance(ForecastMade(forecast))
        telemetry.tick(clock.now_s)
    recorder.close()
    timeline = Timeline(directory)
    for beat in (12, 15, 19):
        then = timeline.state(T0 + beat + 0.5).forecast
        assert then.level == "critical"
        assert beat - 5 <= then.time_s - T0 <= beat
    later = timeline.state(T0 + 27).forecast
    assert later is None or later.level == "ok"
    assert timeline.state(T0 + 59).forecast is None
    timeline.close()


def test_marks_are_the_warnings_and_errors(timeline):
    assert [(mark.time_s - T0, mark.level) for mark in timeline.marks] == [(40.0, "warning")]


@pytest.mark.parametrize("at_s", [100.0, 1500.0, 6000.0, 7199.9])
def test_a_long_run_from_its_buckets_and_rows(at_s):
    directory = make_run("long", ranks=2, hours=2)
    timeline = Timeline(directory)
    time_s = timeline.start_s + at_s
    expected = History()
    for path in directory.samples.glob("*.rec"):
        reader = SampleReader(path)
        expected.load(path.stem, reader.columns(0, reader.up_to(time_s)))
        reader.close()
    messages = [message for message in timeline.everything(time_s) if isinstance(message, wire.SeriesHistory)]
    assert merged(messages) == merged(list(expected.messages()))
    fine = [message for message in messages if message.bucket_s == 0.25 and message.series == "device.1.peak"]
    assert sum(len(message.buckets) for message in fine) >= min(at_s, DETAIL_S) * 2 * 0.9
    assert len(messages) < 200
    timeline.close()


def merged(messages: list[wire.SeriesHistory]) -> dict[str, object]:
    """All in buckets as wide as those of two hours."""
    series: dict[str, BucketSeries] = {}
    for message in messages:
        there = series.setdefault(message.series, BucketSeries(bucket_s=4.0))
        there.merge(message.bucket_s, message.buckets, message.minimum, message.maximum, message.last)
    return {name: each.items() for name, each in series.items()}


def test_a_run_of_before_states_were_recorded():
    directory = make_run("old", ranks=1, hours=0.5)
    timeline = Timeline(directory)
    early, late = timeline.state(timeline.start_s + 60), timeline.state(timeline.end_s)
    assert (early.status, early.step, early.total_steps) == ("running", 121, 3600)
    assert early.memory.peak_allocated_bytes > early.memory.allocated_bytes > 0
    assert early.num_checkpoints == 0
    assert timeline.state(timeline.start_s + 700).num_checkpoints == 2
    assert early.first_loss == timeline.state(timeline.start_s + 900).first_loss
    assert late == directory.state()
    timeline.close()


def test_when_the_next_thing_was_recorded(timeline):
    rng = random.Random(1)
    for _ in range(20):
        at_s = T0 + rng.random() * (SECONDS - 2)
        assert at_s < timeline.next_s(at_s) <= at_s + 0.5
    assert timeline.next_s(timeline.end_s) == timeline.end_s


def test_who_looked_at_it_later_is_not_part_of_it(recorded):
    journal = Journal(recorded.directory.journal)
    entry = wire.JournalEntry(
        seq=99, time_s=T0 + 1e6, attempt=0, step=0, level="warning", kind="link", text="connection dropped"
    )
    journal.append(entry)
    journal.close()
    timeline = Timeline(recorded.directory)
    assert timeline.end_s == pytest.approx(T0 + SECONDS)
    assert entry not in timeline.everything(T0 + 2e6)
    assert all(mark.time_s < T0 + SECONDS for mark in timeline.marks)
    timeline.close()


def test_a_live_run_up_to_what_was_recorded(recorded):
    recorded.directory.write_state(recorded.states[150][1])
    timeline = Timeline(recorded.directory)
    board = board_of(*timeline.everything(timeline.end_s))
    assert board.output.lines == ["epoch 1", "epoch 2", ""]  # the line after it may have come later
    timeline.close()


def test_nothing_to_play():
    with pytest.raises(StoreError, match="nothing of empty is recorded yet"):
        Timeline(new_run("empty"))
