"""How an attempt ended, and who ended it: from what the rank said, how it exited and what the kernel tells (pure)."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from memdash.errors import ExitCode
from memdash.host.oom_kill import OomKill, find_kill
from memdash.supervisor.events import RankExited
from memdash.supervisor.symptoms import python_error, symptom
from memdash.units import format_bytes
from memdash.wire import RunState, RunStatus

SHM_FULL = 0.95
SHM_REMEDY = "give it more (docker run --shm-size=8g, or --ipc=host) or set num_workers=0"
ASKED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS, signal.SIGSYS)


@dataclass(frozen=True)
class Verdict:
    """The outcome of an attempt, in one word and in one sentence."""

    status: RunStatus
    reason: str
    kill: OomKill | None = None
    """The OOM killer's doing."""
    worker_killed: bool = False
    """Whether it took a DataLoader worker, and the training process ended for want of it."""

    @property
    def log_line(self) -> str:
        """What the kernel's log says; empty when nothing."""
        return self.kill.line if self.kill else ""


def judge(state: RunState, event: RankExited) -> Verdict:
    """The end of the attempt that `state` describes."""
    code, said = event.exit_code, state.last_words
    ours = None if state.own_command else code  # what a number means is agreed upon with the runner alone
    obeyed = state.own_command and state.status == "stopping" and code == 0 and not said
    failed_since = state.own_command and bool(code)  # a script goes on after its training
    if (said == "finished" and not failed_since) or (code == 0 and not said and not obeyed):
        return Verdict("finished", state.status_reason)
    if ours == ExitCode.USAGE:
        return Verdict("failed", state.status_reason or "the config asks for what cannot be done")
    if said == "stopped" or ours == ExitCode.STOPPED or obeyed:
        asked = state.stop_cause or state.status_reason or "stopped on request"
        return Verdict("stopped", "the wall budget is used up" if state.out_of_time else asked)
    if said == "oom" or ours == ExitCode.OUT_OF_MEMORY:
        return Verdict("oom", state.status_reason or "out of device memory")
    error = _one_line(state.status_reason) or python_error(event.output)
    number = _signal(code, told=bool(said or error))
    return (
        _oom_killed(state, event, number)
        or _by_error(state, event, error)
        or _by_signal(state, event, number)
        or _unseen(event, said, error)
        or Verdict("failed", error or f"exit code {code}")
    )


def _one_line(reason: str) -> str:
    """The heart of what the script said: the worker's own error where a DataLoader hands one on."""
    return python_error(reason) or reason.strip().partition("\n")[0]


def _signal(code: int | None, *, told: bool) -> int | None:
    """The signal that ended it, also where a shell in between says 128 + its number; None for none."""
    if code is None or told and code > 0:
        return None
    return -code if code < 0 else code - 128 if code > 128 and code - 128 in list(signal.Signals) else None


def _oom_killed(state: RunState, event: RankExited, number: int | None) -> Verdict | None:
    """An end by SIGKILL, or one that nobody saw, that the kernel owns up to."""
    unseen = event.exit_code is None and not state.last_words
    if number != signal.SIGKILL and not unseen:
        return None
    direct = event.exit_code is None or event.exit_code < 0  # else a launcher was told of a child's end
    kill = find_kill(event.oom, (state.pid,) if direct and state.pid else event.pids)
    if kill is None:
        return None
    who = "the kernel's OOM killer ended the training process"
    if not kill.certain or (unseen and not kill.line):
        who = "it was probably the kernel's OOM killer that ended the training process"
    return Verdict("killed", f"{who}: {kill.where}", kill)


def _by_error(state: RunState, event: RankExited, error: str) -> Verdict | None:
    """What its last error points to."""
    found = symptom(f"{state.status_reason}\n{error}", event.output)
    killed = event.exit_code is not None and event.exit_code < 0
    if found.kind == "shared memory":
        text = f"{_shm(state, event)}, in which DataLoader workers hand batches over: {SHM_REMEDY}"
        return Verdict("killed" if killed else "failed", text)
    if found.kind == "worker" and (kill := find_kill(event.oom, found.pids)):
        pids = ", ".join(map(str, found.pids))
        text = f"the kernel's OOM killer took a DataLoader worker (pid {pids}): {kill.where}"
        remedy = "fewer workers or a smaller prefetch_factor need less"
        return Verdict("killed", f"{text}; {remedy}", kill, worker_killed=True)
    if killed or found.kind not in ("device memory", "host memory"):
        return None
    return Verdict("oom", f"{found.kind} ran out: {error}")


def _by_signal(state: RunState, event: RankExited, number: int | None) -> Verdict | None:
    if number is None:
        return None
    name = signal_name(number)
    if state.status == "stopping":
        why = f": {state.stop_cause}" if state.stop_cause else " after a stop request"
        why = ": the wall budget is used up" if state.out_of_time else why
        return Verdict("stopped", f"ended by {name}{why}")
    if number == signal.SIGBUS and _shm_is_full(state, event):
        return Verdict("killed", f"killed by {name}, probably because {_shm(state, event)}: {SHM_REMEDY}")
    if number == signal.SIGKILL:
        return Verdict("killed", f"killed by {name}, {_not_the_kernel(event)}")
    if number in CRASHES:
        return Verdict("killed", f"killed by {name}: a crash in native code")
    if number == signal.SIGXCPU:
        return Verdict("killed", f"killed by {name}: the CPU time that `ulimit -t` allows is used up")
    asked = ": a person or a batch system sent it, and the script does not catch it" if number in ASKED_BY else ""
    return Verdict("killed", f"killed by {name}{asked}")


def _not_the_kernel(event: RankExited) -> str:
    """Why a SIGKILL was not the OOM killer's."""
    by_somebody = "a person or a batch system did it"
    if event.oom.log_is_complete and event.oom.log:
        other = event.oom.log[-1]
        return f"and the kernel's OOM killer took pid {other.pid} ({other.name}), not this process: {by_somebody}"
    if event.oom.machine_kills is not None or any(level.kills is not None for level in event.oom.levels):
        return f"and the kernel counted no OOM kill: {by_somebody}"
    return "by whom cannot be told: the kernel's counts of OOM kills cannot be read here"


def _unseen(event: RankExited, said: str, error: str) -> Verdict | None:
    if event.exit_code is not None or said == "failed":
        return None
    printed = f"; the last error it printed: {error}" if error else ""
    return Verdict("lost", (event.unseen or "it ended without a word, and nobody was its parent") + printed)


def _shm(state: RunState, event: RankExited) -> str:
    size = state.host.shm_capacity_bytes if state.host else None
    if size is None:
        return "/dev/shm was full"
    return f"/dev/shm was full ({format_bytes(event.shm_peak_bytes)} of {format_bytes(size)} were seen in use)"


def _shm_is_full(state: RunState, event: RankExited) -> bool:
    size = state.host.shm_capacity_bytes if state.host else None
    return bool(size) and event.shm_peak_bytes >= SHM_FULL * (size or 0)


def signal_name(number: int) -> str:
    """9 -> `SIGKILL`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
