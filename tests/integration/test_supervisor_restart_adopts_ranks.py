"""kill -9 of the supervisor: the rank trains on or ends, and a new supervisor takes it over and knows what happened."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest

from memdash import wire
from memdash.errors import ExitCode
from memdash.host.exit_status import stat_fields
from memdash.locations import socket_path
from memdash.store.process_record import read_process, write_process
from memdash.store.recorder import recorded_ranks
from memdash.supervisor.launch import launch_supervisor, listening
from memdash.supervisor.run_state import outcome_exit_code
from tests.conftest import wait_until
from tests.supervised import SupervisedRun


async def connected(run: SupervisedRun, watch) -> int:
    """Wait for the rank's connection; its pid."""
    state = await (await watch(run)).state(lambda state: state.linked, "the rank's connection")
    return state.pid


def kill_supervisor(run: SupervisedRun) -> None:
    os.kill(run.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to be gone")


def wait_for_death(pid: int) -> None:
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/fd"), "the rank to be gone")


def recorded(run: SupervisedRun) -> list[int]:
    return [int(row["step"]) for _, row in recorded_ranks(run.directory) if row["loss"] is not None]


async def test_adoption(start_run, watch):
    run = start_run()
    before = await watch(run)
    await before.state(lambda state: state.linked, "the rank's connection")
    run.order("sss")
    await before.state(lambda state: state.step == 3, "step 3")
    kill_supervisor(run)
    run.order("ssss")  # nobody listens; the samples wait in the rank's outbox
    launch_supervisor(run.directory)
    after = await watch(run)
    state = await after.state(lambda state: state.step == 7, "the steps of the time without a supervisor")
    assert state.linked
    assert state.dropped_samples == 0
    assert any("adopted" in line for line in run.journal())
    assert any("is gone without a word; nobody watched for" in line for line in run.journal())
    run.order("se")
    state = run.wait_for_end()
    assert (state.status, state.step) == ("finished", 8)
    assert recorded(run) == list(range(1, 9))


async def test_what_a_frozen_supervisor_never_read_is_said_again(start_run, watch):
    run = start_run()
    await connected(run, watch)
    run.order("ss")
    run.wait_for_journal("training fake")
    wait_until(lambda: recorded(run) == [1, 2], "two steps in the record")
    os.kill(run.supervisor_pid(), signal.SIGSTOP)
    run.order("s" * 200)  # into the socket of a process that will never read it
    wait_until(lambda: _read_all(run), "the rank to have done them")
    kill_supervisor(run)
    launch_supervisor(run.directory)
    run.order("e")
    state = run.wait_for_end()
    assert (state.status, state.step, state.dropped_samples) == ("finished", 202, 0)
    assert recorded(run) == list(range(1, 203))


async def test_what_did_not_fit_into_the_socket_of_a_frozen_supervisor_is_read_from_the_last_words(start_run, watch):
    run = start_run("--total-steps", "3000")
    rank = await connected(run, watch)
    os.kill(run.supervisor_pid(), signal.SIGSTOP)
    run.order("s" * 3000 + "e")
    wait_until(lambda: _is_zombie(rank), "the rank's end")
    assert list(run.directory.path.glob("last-words*"))
    os.kill(run.supervisor_pid(), signal.SIGCONT)
    state = run.wait_for_end()
    assert (state.status, state.step, state.dropped_samples) == ("finished", 3000, 0)
    assert recorded(run) == list(range(1, 3001))


def _is_zombie(pid: int) -> bool:
    """Whether it has ended, and its parent is not there to take note."""
    return stat_fields(pid)[:1] == ["Z"]


def _read_all(run: SupervisedRun) -> bool:
    """Whether the rank has taken every order."""
    import fcntl
    import struct
    import termios

    fifo = os.open(run.fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return struct.unpack("i", fcntl.ioctl(fifo, termios.FIONREAD, b"\0" * 4))[0] == 0
    finally:
        os.close(fifo)


@pytest.mark.parametrize(
    ("orders", "status", "reason", "step", "code"),
    [
        ("ssse", "finished", "", 6, ExitCode.OK),
        ("sx", "failed", "ZeroDivisionError: as the test asked", 4, ExitCode.FAILED),
        ("soO", "oom", "one example does not fit", 4, ExitCode.OUT_OF_MEMORY),
    ],
)
async def test_an_end_that_nobody_saw_is_told_from_the_last_words(start_run, watch, orders, status, reason, step, code):
    run = start_run()
    rank = await connected(run, watch)
    run.order("sss")
    wait_until(lambda: recorded(run) == [1, 2, 3], "three steps in the record")
    kill_supervisor(run)
    run.order(orders)
    wait_for_death(rank)
    launch_supervisor(run.directory)
    state = run.wait_for_end()
    assert (state.status, state.status_reason, state.step) == (status, reason, step)
    assert outcome_exit_code(state) == code
    assert recorded(run) == list(range(1, step + 1))
    wait_until(lambda: not list(run.directory.path.glob("last-words*")), "the last words to be put away")


async def test_a_rank_that_was_killed_unseen_is_lost(start_run, watch):
    run = start_run()
    rank = await connected(run, watch)
    run.order("sss")
    wait_until(lambda: recorded(run) == [1, 2, 3], "three steps in the record")
    kill_supervisor(run)
    os.kill(rank, signal.SIGKILL)
    wait_for_death(rank)
    launch_supervisor(run.directory)
    again = await watch(run)
    lost = await again.state(lambda state: state.status in wire.FINAL_STATUSES, "the end")
    assert (lost.status, lost.step) == ("lost", 3)  # the saved state was older than the record
    assert lost.status_reason.startswith("it ended between ")
    assert lost.status_reason.endswith(", when no supervisor lived")


async def test_a_rank_that_ended_unseen_and_without_a_word(start_run, watch):
    run = start_run()
    rank = await connected(run, watch)
    kill_supervisor(run)
    run.order("ssq")
    wait_for_death(rank)
    launch_supervisor(run.directory)
    state = run.wait_for_end()
    assert (state.status, state.step) == ("lost", 2)
    assert state.status_reason.startswith("it ended by itself at ")
    assert state.status_reason.endswith(", when no supervisor lived, and did not say how")


async def test_an_adopted_rank_that_is_killed_is_killed(start_run, watch):
    run = start_run()
    rank = await connected(run, watch)
    kill_supervisor(run)
    launch_supervisor(run.directory)
    run.wait_for_journal("adopted")
    os.kill(rank, signal.SIGKILL)
    state = run.wait_for_end()
    told = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)
    assert (state.status, state.exit_code) == (("killed", -9) if told else ("lost", None))


async def test_after_a_restart_of_the_machine_nothing_is_taken_for_ours(start_run, watch):
    run = start_run()
    rank = await connected(run, watch)
    kill_supervisor(run)

    record = read_process(run.directory, 0)
    assert record is not None
    write_process(run.directory, msgspec.structs.replace(record, boot_id="another"))
    launch_supervisor(run.directory)
    state = run.wait_for_end()
    os.kill(rank, signal.SIGKILL)
    assert state.status == "lost"
    assert state.status_reason.startswith("the machine was restarted while it ran; it was last seen at ")
