"""One answer per command, whatever ranks do; the clock is the test's."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.report import too_large
from memdash.store.journal import read_journal
from memdash.store.recorder import Recorder
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.control import ACK_TIMEOUT_S, SAVE_TIMEOUT_S, Control
from memdash.supervisor.history import History
from memdash.supervisor.telemetry import Telemetry

MIB = 1 << 20
AT_OOM = wire.DeviceMemory(device="x", kind="simulated", capacity_bytes=8 * MIB, allocated_bytes=7 * MIB)


class Desk:
    """A Control over two ranks that do nothing by themselves."""

    def __init__(self, directory: RunDirectory) -> None:
        state = wire.RunState(
            run_id="r",
            name="r",
            status="running",
            linked=True,
            global_batch=16,
            micro_batch=8,
            grad_accum_steps=1,
            world_size=2,
            step=3,
            capabilities={command.__name__: "" for command in wire.COMMANDS},
        )
        self.telemetry = Telemetry(state, Recorder(directory), History())
        self.directory = directory
        self.reached = {0, 1}
        self.sent: list[wire.Command] = []
        self.answers: list[wire.CommandResult] = []
        self.terminated = 0
        self.control = Control(self.telemetry, self._send, self._terminate)

    def _send(self, command: wire.Command) -> set[int]:
        self.sent.append(command)
        return set(self.reached)

    def _terminate(self) -> None:
        self.terminated += 1

    def submit(self, command: wire.Command, now_s: float = 0.0) -> None:
        self.control.submit(command, self.answers.append, now_s, "test")

    def ack(self, command_id: str, rank: int, **fields: object) -> None:
        self.control.acked(wire.Ack(command_id=command_id, rank=rank, applied_at_step=4, **fields))


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "samples").mkdir()
    return Desk(RunDirectory(tmp_path))


def test_answered_once_all_ranks_have_acked(desk):
    desk.submit(wire.SetBatchSplit(command_id="a", micro_batch=2))
    desk.ack("a", 0, result="2 x 4")
    assert desk.answers == []
    desk.ack("a", 1, result="2 x 4")
    assert [(a.ok, a.applied_at_step, a.text) for a in desk.answers] == [(True, 4, "2 x 4")]
    assert (desk.telemetry.state.micro_batch, desk.telemetry.state.grad_accum_steps) == (2, 4)


def test_one_rank_that_fails_fails_the_command(desk):
    desk.submit(wire.Pause(command_id="a"))
    assert desk.telemetry.state.status == "pausing"
    desk.ack("a", 0, result="paused")
    desk.ack("a", 1, error="no")
    assert [(a.ok, a.text) for a in desk.answers] == [(False, "no")]
    assert desk.telemetry.state.status == "running"


def oom(**changes: object) -> wire.OomReport:
    fields = {"rank": 0, "time_s": 1.0, "step": 3, "where": "evaluation", "micro_batch": 8, "next_micro_batch": 4}
    return wire.OomReport(**fields | {"message": "no"} | changes)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (oom(), "out of memory in evaluation; trying again: micro-batch 8 -> 4"),
        (oom(where="forward/backward"), "out of memory in step 4, forward/backward; trying again: micro-batch 8 -> 4"),
        (oom(requested_bytes=2 * MIB), "out of memory in evaluation, asked for 2.00 MiB; trying again"),
        (
            oom(requested_bytes=2 * MIB, memory=AT_OOM),
            "out of memory in evaluation, asked for 2.00 MiB with 7.00 MiB allocated of 8.00 MiB (simulated); trying",
        ),
        (
            oom(requested_bytes=2 * MIB, memory=AT_OOM, next_micro_batch=None),
            "out of memory in evaluation at micro-batch 8, asked for 2.00 MiB with 7.00 MiB allocated of 8.00 MiB",
        ),
    ],
)
def test_the_journal_says_what_an_oom_asked_for_and_what_was_taken(desk, report, text):
    desk.telemetry.receive(report)
    (entry,) = read_journal(desk.directory.journal)
    assert entry.text.startswith(text)
    assert too_large([entry]) == {8}  # the report reads it from these words


@pytest.mark.parametrize(
    ("command", "limit_s"),
    [
        (wire.Pause(command_id="a"), ACK_TIMEOUT_S),
        (wire.SaveCheckpoint(command_id="a", kind="full"), SAVE_TIMEOUT_S),
        (wire.Stop(command_id="a"), SAVE_TIMEOUT_S),
    ],
)
def test_deadlines(desk, command, limit_s):
    desk.submit(command, now_s=1000.0)
    desk.ack("a", 1)
    desk.control.tick(1000.0 + limit_s - 0.1)
    assert desk.answers == []
    desk.control.tick(1000.0 + limit_s)
    assert [(a.ok, a.text) for a in desk.answers] == [(False, "no answer from rank 0 in time")]
    desk.ack("a", 0)  # too late: journaled, not answered again
    assert len(desk.answers) == 1


def test_a_lost_rank_answers_for_its_commands_only(desk):
    desk.submit(wire.Pause(command_id="a"))
    desk.ack("a", 0)
    desk.control.rank_lost(0, "gone")
    assert desk.answers == []
    desk.control.rank_lost(1, "gone")
    assert [(a.ok, a.text) for a in desk.answers] == [(False, "gone")]


def test_an_id_in_use_is_refused(desk):
    desk.submit(wire.EmptyCache(command_id="a"))
    desk.submit(wire.SaveCheckpoint(command_id="a", kind="light"))
    assert [(a.ok, a.text) for a in desk.answers] == [(False, "this command_id is in use")]
    assert len(desk.sent) == 1


def test_stop_without_a_connection_goes_by_signal(desk):
    desk.reached = set()
    desk.submit(wire.Stop(command_id="a"))
    assert desk.terminated == 1
    assert desk.answers[0].ok


def test_a_second_stop_that_saves_nothing_goes_by_signal(desk):
    desk.submit(wire.Stop(command_id="a", save="full"))
    desk.submit(wire.Stop(command_id="b", save="full"))
    assert desk.answers[0].text.startswith("already stopping")
    desk.submit(wire.Stop(command_id="c", save="none"))
    assert desk.terminated == 1
    assert [command.command_id for command in desk.sent] == ["a"]


@pytest.mark.parametrize(
    ("said", "ok", "text"), [("stopped", True, "stopped"), ("", False, "it hung up"), ("failed", False, "it hung up")]
)
def test_a_stop_that_somebody_else_was_faster_with_is_done(desk, said, ok, text):
    desk.submit(wire.Stop(command_id="a"))
    if said:
        desk.telemetry.advance(wire.Goodbye(rank=0, time_s=1.0, step=4, outcome=said))
    desk.control.rank_lost(0, "it hung up")
    assert [(a.ok, a.text) for a in desk.answers] == [(ok, text)]
