"""Commands at a step boundary: one Ack each, a pause that listens, a stop that saves first."""

from __future__ import annotations

import threading

import pytest

from memdash import wire
from memdash.agent.memory import no_device
from memdash.agent.session import Session
from memdash.ring import RingReader, RingWriter
from tests.conftest import wait_until


class Loop:
    """A session whose messages stay here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[wire.Message] = []
        self.session = Session(read_memory=no_device("none"))
        self.session._ring = ring = RingWriter()
        self.samples = RingReader(ring.memory, 0)
        monkeypatch.setattr(self.session, "send", self.sent.append)
        self.session.on(wire.SaveCheckpoint, self.save)
        self.session.step = 7
        self.saved: list[str] = []
        self.reasons: list[str] = []
        self.save_fails = False

    def save(self, command: wire.SaveCheckpoint) -> str:
        if self.save_fails:
            raise OSError("disk full")
        self.saved.append(command.kind)
        self.reasons.append(command.reason)
        return f"{command.kind} saved"

    def put(self, *commands: wire.Command) -> None:
        for command in commands:
            self.session._control._commands.put(command)

    def acks(self) -> list[tuple[str, str, str]]:
        return [(m.command_id, m.result, m.error) for m in self.sent if isinstance(m, wire.Ack)]


@pytest.fixture
def loop(monkeypatch):
    return Loop(monkeypatch)


def test_nothing_to_obey(loop):
    assert loop.session.obey()
    assert loop.sent == []


def test_a_pause_obeys_until_resume(loop):
    loop.put(
        wire.Pause(command_id="1"),
        wire.SaveCheckpoint(command_id="2", kind="light"),
        wire.Pause(command_id="3"),
        wire.Resume(command_id="4"),
        wire.Resume(command_id="5"),
    )
    assert loop.session.obey()
    assert loop.acks() == [
        ("1", "paused at step 7", ""),
        ("2", "light saved", ""),
        ("3", "already paused at step 7", ""),
        ("4", "resumed after step 7", ""),
        ("5", "was not paused", ""),
    ]
    phases = [message.phase for message in loop.sent if isinstance(message, wire.PhaseChanged)]
    assert phases == ["paused", "loading"]


def test_a_pause_waits_for_a_command(loop):
    loop.put(wire.Pause(command_id="1"))
    thread = threading.Thread(target=loop.session.obey)
    thread.start()
    loop.put(wire.Resume(command_id="2"))
    thread.join(20)
    assert not thread.is_alive()
    assert loop.session.paused_s > 0


def test_a_pause_shows_its_memory_now_and_then(loop, monkeypatch):
    from memdash.agent import control

    monkeypatch.setattr(control, "HEARTBEAT_S", 0.01)
    loop.put(wire.Pause(command_id="1"))
    thread = threading.Thread(target=loop.session.obey)
    thread.start()
    wait_until(lambda: len(loop.samples.take()) >= 3, "the third reading")
    assert {type(sample) for sample in loop.samples.take()} == {wire.MemorySample}
    loop.put(wire.Resume(command_id="2"))
    thread.join(20)


@pytest.mark.parametrize(("save", "saved"), [("none", []), ("light", ["light"]), ("full", ["full"])])
def test_stop(loop, save, saved):
    loop.put(wire.Stop(command_id="1", save=save))
    assert not loop.session.obey()
    assert loop.saved == saved
    assert set(loop.reasons) <= {"stop"}
    assert loop.acks()[0][1].startswith("stopped after step 7")


def test_a_stop_that_cannot_save_does_not_stop(loop):
    loop.save_fails = True
    loop.put(wire.Stop(command_id="1", save="full"))
    assert loop.session.obey()
    assert loop.acks() == [("1", "", "not stopped, because the full checkpoint could not be saved: disk full")]


def test_stop_in_a_pause(loop):
    loop.put(wire.Pause(command_id="1"), wire.Stop(command_id="2", save="light"))
    assert not loop.session.obey()
    assert loop.saved == ["light"]


def test_what_is_not_offered_is_refused(loop):
    loop.session.decline(wire.DumpMemorySnapshot, "there is no GPU")
    loop.put(wire.EmptyCache(command_id="1"), wire.DumpMemorySnapshot(command_id="2"))
    assert loop.session.obey()
    assert loop.acks() == [("1", "", "this script does not offer EmptyCache"), ("2", "", "there is no GPU")]
    assert loop.session._control.capabilities() == {
        "Pause": "",
        "Resume": "",
        "SetBatchSplit": "this script does not offer SetBatchSplit",
        "SaveCheckpoint": "",
        "CapStep": "this script does not offer CapStep",
        "EmptyCache": "this script does not offer EmptyCache",
        "DumpMemorySnapshot": "there is no GPU",
        "Stop": "",
        "Release": "this script does not offer Release",
    }


def test_a_releasing_pause_gives_memory_back_and_takes_it_again(loop):
    done = []
    loop.session.on_release(lambda: done.append("out") or "gave 5 GiB", lambda: done.append("in") or "took 5 GiB")
    loop.put(wire.Pause(command_id="1", depth="release"), wire.Resume(command_id="2"))
    assert loop.session.obey()
    assert done == ["out", "in"]
    assert loop.acks() == [("1", "paused at step 7; gave 5 GiB", ""), ("2", "resumed after step 7", "")]


def test_a_run_that_cannot_release_goes_on(loop):
    loop.put(wire.Pause(command_id="1", depth="release"))
    assert loop.session.obey()
    assert loop.acks() == [("1", "", "not paused: this script does not offer Release")]


def test_a_run_whose_memory_was_taken_stays_paused(loop):
    tries = iter([RuntimeError("CUDA out of memory"), "took 5 GiB"])

    def restore() -> str:
        outcome = next(tries)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loop.session.on_release(lambda: "gave 5 GiB", restore)
    loop.put(wire.Pause(command_id="1", depth="release"), wire.Resume(command_id="2"), wire.Resume(command_id="3"))
    assert loop.session.obey()
    assert loop.acks()[1:] == [
        ("2", "", "still paused, and goes on by itself once there is room: CUDA out of memory"),
        ("3", "resumed after step 7", ""),
    ]


def test_a_stop_by_signal_has_nobody_to_answer(loop):
    loop.session.request_stop("full")
    assert not loop.session.obey()
    assert loop.saved == ["full"]
    assert loop.acks() == []


def test_a_checkpoint_by_signal_has_nobody_to_answer_and_stops_nothing(loop):
    loop.session.request_checkpoint()
    assert loop.session.obey()
    assert (loop.saved, loop.reasons) == (["full"], ["signal"])
    assert loop.acks() == []


def test_what_comes_beside_a_stop_is_answered(loop):
    loop.session.request_stop("full")
    loop.put(wire.Stop(command_id="1"), wire.SaveCheckpoint(command_id="2", kind="light"), wire.Stop(command_id="3"))
    assert not loop.session.obey()
    assert loop.saved == ["full"]
    assert loop.acks() == [
        ("1", "stopped after step 7", ""),
        ("2", "", "the run was stopped"),
        ("3", "stopped after step 7", ""),
    ]


def test_outside_memdash_a_session_does_nothing():
    session = Session()
    session.start(total_steps=2, global_batch=4, micro_batch=4)
    assert session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
    session.finish()
    assert session.step == 1


def crowded(loop, tries_in_vain: int) -> list[str]:
    """A device that others hold for so many tries; what was done."""
    done: list[str] = []

    def restore() -> str:
        done.append("try")
        if len(done) <= tries_in_vain:
            raise RuntimeError("CUDA out of memory")
        return "took 5 GiB"

    loop.session.on_release(lambda: "gave 5 GiB", restore)
    return done


def test_a_resume_waits_for_the_memory_to_be_there(loop, monkeypatch):
    from memdash.agent import control

    monkeypatch.setattr(control, "HEARTBEAT_S", 0.01)
    done = crowded(loop, tries_in_vain=3)
    loop.put(wire.Pause(command_id="1", depth="release"), wire.Resume(command_id="2"))
    assert loop.session.obey()  # nobody asks again
    assert done == ["try"] * 4
    assert any(isinstance(m, wire.Notice) and m.text == "took 5 GiB" for m in loop.sent)


def test_a_pause_while_it_waits_keeps_it_paused(loop, monkeypatch):
    from memdash.agent import control

    monkeypatch.setattr(control, "HEARTBEAT_S", 0.01)
    done = crowded(loop, tries_in_vain=1)
    loop.put(wire.Pause(command_id="1", depth="release"), wire.Resume(command_id="2"), wire.Pause(command_id="3"))
    thread = threading.Thread(target=loop.session.obey)
    thread.start()
    wait_until(lambda: len(loop.samples.take()) >= 5, "some heartbeats")
    assert done == ["try"]
    loop.put(wire.Resume(command_id="4"))
    thread.join(20)
    assert not thread.is_alive()
    assert done == ["try"] * 2


@pytest.mark.parametrize("command", [None, wire.Stop(command_id="1", save="none")])
def test_a_loop_that_ends_says_whether_it_was_stopped(loop, command):
    loop.put(*([command] if command else []))
    assert loop.session.obey() == (command is None)
    loop.session.finish()
    assert loop.sent[-1].outcome == ("stopped" if command else "finished")
