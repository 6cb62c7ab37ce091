"""Who ended an attempt, in one sentence, for each way to go."""

from __future__ import annotations

import signal
from dataclasses import replace

import msgspec
import pytest

from memdash import wire
from memdash.host.oom_kill import LevelEvidence, LoggedKill, OomEvidence
from memdash.supervisor.events import RankExited
from memdash.supervisor.verdict import judge

PID, CHILD, WORKER = 70, 71, 72
HOST = wire.HostMemory(
    kind="exact",
    process_bytes=1,
    num_processes=1,
    working_set_bytes=1,
    peak_working_set_bytes=1,
    capacity_bytes=2,
    capacity_source="x",
    shm_bytes=10 << 20,
    shm_capacity_bytes=64 << 20,
)
RUNNING = wire.RunState(run_id="r", name="r", status="running", pid=PID, host=HOST)
OWN = wire.RunState(run_id="r", name="r", status="running", pid=PID, own_command=True)
OWN_STOPPING = wire.RunState(run_id="r", name="r", status="stopping", pid=PID, own_command=True)
STOPPING = wire.RunState(run_id="r", name="r", status="stopping", pid=PID)
OUT_OF_TIME = wire.RunState(run_id="r", name="r", pid=PID, out_of_time=True)


def said(outcome: str, reason: str = "") -> wire.RunState:
    return wire.RunState(run_id="r", name="r", pid=PID, last_words=outcome, status_reason=reason, host=HOST)


def end(code: int | None, **more: object) -> RankExited:
    return RankExited(time_s=1.0, exit_code=code, **more)


def printed(error: str) -> str:
    return f"step 1\nTraceback (most recent call last):\n  File\n{error}\n"


LEVEL = LevelEvidence("/job", 1 << 30, "/sys/job/memory.max", kills=1, limit_hits=1)
COUNTED = OomEvidence((LEVEL,), 1)
QUIET = OomEvidence((replace(LEVEL, kills=0, limit_hits=0),), 0)


def logged(pid: int) -> OomEvidence:
    return replace(COUNTED, log=(LoggedKill(pid, "python", 5, f"Killed process {pid}", True, "/job"),))


AT_LIMIT = "cgroup /job reached its limit of 1.00 GiB (/sys/job/memory.max)"
OOM = f"the kernel's OOM killer ended the training process: {AT_LIMIT}"
BY_SOMEBODY = "killed by SIGKILL, and the kernel counted no OOM kill: a person or a batch system did it"
WORKER_GONE = f"RuntimeError: DataLoader worker (pid(s) {WORKER}) exited unexpectedly"
WORKER_TAKEN = (
    f"the kernel's OOM killer took a DataLoader worker (pid {WORKER}): {AT_LIMIT}; "
    "fewer workers or a smaller prefetch_factor need less"
)
NO_SHM = "RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"
SHM_FULL = (
    "/dev/shm was full (63.0 MiB of 64.0 MiB were seen in use), in which DataLoader workers hand batches over: "
    "give it more (docker run --shm-size=8g, or --ipc=host) or set num_workers=0"
)
HANDED_ON = (
    "RuntimeError: Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    f"  File\n{NO_SHM}"
)
UNSEEN = "it ended between 12:00:00 and 12:05:00, when no supervisor lived"
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
MIB = 1 << 20

VERDICTS = {
    "a command's exit codes are its own: 2": (OWN, end(2), "failed", "exit code 2"),
    "likewise 10": (OWN, end(10), "failed", "exit code 10"),
    "likewise 12": (OWN, end(12), "failed", "exit code 12"),
    "a script that fails after its training": (
        msgspec.structs.replace(OWN, last_words="finished"),
        end(1, output=printed("KeyError: 'x'")),
        "failed",
        "KeyError: 'x'",
    ),
    "a script whose training was its end": (
        msgspec.structs.replace(OWN, last_words="finished"),
        end(0),
        "finished",
        "",
    ),
    "a command ends well": (OWN, end(0), "finished", ""),
    "a command that heeds SIGTERM": (OWN_STOPPING, end(0), "stopped", "stopped on request"),
    "a command that does not": (OWN_STOPPING, end(-9), "stopped", "ended by SIGKILL after a stop request"),
    "a command that the guard stopped": (
        msgspec.structs.replace(OWN_STOPPING, stop_cause="by the guard"),
        end(-15),
        "stopped",
        "ended by SIGTERM: by the guard",
    ),
    # it said so itself
    "finished": (said("finished"), end(0), "finished", ""),
    "finished, and nobody was its parent": (said("finished"), end(None), "finished", ""),
    "stopped": (said("stopped", "stopped on request"), end(10), "stopped", "stopped on request"),
    "no time left": (OUT_OF_TIME, end(10), "stopped", "the wall budget is used up"),
    "a wrong config": (said("failed", "no such file"), end(2), "failed", "no such file"),
    "an error that it told": (said("failed", "KeyError: 1"), end(1), "failed", "KeyError: 1"),
    "an error that it told to no supervisor": (said("failed", "KeyError: 1"), end(None), "failed", "KeyError: 1"),
    "device memory, by the runner": (
        said("oom", "one example does not fit"),
        end(12),
        "oom",
        "one example does not fit",
    ),
    # what it printed
    "a traceback": (RUNNING, end(1, output=printed("KeyError: 2")), "failed", "KeyError: 2"),
    "an exit code": (RUNNING, end(3), "failed", "exit code 3"),
    "a long error": (said("failed", "ValueError: a\nb\nc"), end(1), "failed", "ValueError: a"),
    "device memory, by a script": (RUNNING, end(1, output=printed(CUDA)), "oom", f"device memory ran out: {CUDA}"),
    "device memory, by a script's agent": (said("failed", CUDA), end(None), "oom", f"device memory ran out: {CUDA}"),
    "host memory, refused": (RUNNING, end(1, output=printed("MemoryError")), "oom", "host memory ran out: MemoryError"),
    # the kernel
    "the OOM killer, counted": (RUNNING, end(-9, oom=COUNTED), "killed", OOM),
    "the OOM killer, logged": (RUNNING, end(-9, oom=logged(PID)), "killed", OOM),
    "the OOM killer while it was stopping": (STOPPING, end(-9, oom=COUNTED), "killed", OOM),
    "the OOM killer took its child": (RUNNING, end(137, pids=(PID, CHILD), oom=logged(CHILD)), "killed", OOM),
    "the machine's count alone": (
        RUNNING,
        end(-9, oom=OomEvidence((), 1, 24 << 30)),
        "killed",
        (
            "it was probably the kernel's OOM killer that ended the training process: "
            "the machine ran out of memory (24.0 GiB in all)"
        ),
    ),
    "unseen, and logged": (RUNNING, end(None, oom=logged(PID), unseen=UNSEEN), "killed", OOM),
    "unseen, and counted": (
        RUNNING,
        end(None, oom=COUNTED, unseen=UNSEEN),
        "killed",
        f"it was probably the kernel's OOM killer that ended the training process: {AT_LIMIT}",
    ),
    # somebody
    "SIGKILL": (RUNNING, end(-9, oom=QUIET), "killed", BY_SOMEBODY),
    "SIGKILL of a shell's child": (RUNNING, end(137, oom=QUIET), "killed", BY_SOMEBODY),
    "SIGKILL while a sibling was taken": (
        RUNNING,
        end(-9, oom=logged(99)),
        "killed",
        (
            "killed by SIGKILL, and the kernel's OOM killer took pid 99 (python), not this process: "
            "a person or a batch system did it"
        ),
    ),
    "SIGKILL where nothing can be read": (
        RUNNING,
        end(-9),
        "killed",
        "killed by SIGKILL, by whom cannot be told: the kernel's counts of OOM kills cannot be read here",
    ),
    "SIGKILL after a stop request": (STOPPING, end(-9, oom=QUIET), "stopped", "ended by SIGKILL after a stop request"),
    "SIGTERM": (
        RUNNING,
        end(-15),
        "killed",
        "killed by SIGTERM: a person or a batch system sent it, and the script does not catch it",
    ),
    "SIGTERM after a stop request": (STOPPING, end(-15), "stopped", "ended by SIGTERM after a stop request"),
    "SIGSEGV": (RUNNING, end(-11, oom=COUNTED), "killed", "killed by SIGSEGV: a crash in native code"),
    "SIGXCPU": (
        RUNNING,
        end(-signal.SIGXCPU),
        "killed",
        "killed by SIGXCPU: the CPU time that `ulimit -t` allows is used up",
    ),
    "an unheard-of signal": (RUNNING, end(-40), "killed", "killed by signal 40"),
    "exit code 137 after a traceback": (RUNNING, end(137, output=printed("KeyError: 3")), "failed", "KeyError: 3"),
    # its workers
    "a worker, counted": (RUNNING, end(1, output=printed(WORKER_GONE), oom=COUNTED), "killed", WORKER_TAKEN),
    "a worker, logged": (said("failed", WORKER_GONE), end(1, oom=logged(WORKER)), "killed", WORKER_TAKEN),
    "a worker that the log does not name": (said("failed", WORKER_GONE), end(1, oom=logged(99)), "failed", WORKER_GONE),
    "a worker, and no OOM kill": (RUNNING, end(1, output=printed(WORKER_GONE), oom=QUIET), "failed", WORKER_GONE),
    # shared memory
    "shared memory": (RUNNING, end(1, output=printed(NO_SHM), shm_peak_bytes=63 * MIB), "failed", SHM_FULL),
    "shared memory, handed on": (said("failed", HANDED_ON), end(1, shm_peak_bytes=63 * MIB), "failed", SHM_FULL),
    "SIGBUS and full": (
        RUNNING,
        end(-7, shm_peak_bytes=63 * MIB),
        "killed",
        (
            "killed by SIGBUS, probably because /dev/shm was full (63.0 MiB of 64.0 MiB were seen in use): "
            "give it more (docker run --shm-size=8g, or --ipc=host) or set num_workers=0"
        ),
    ),
    "SIGBUS and not full": (RUNNING, end(-7, shm_peak_bytes=MIB), "killed", "killed by SIGBUS: a crash in native code"),
    # nobody knows
    "unseen": (RUNNING, end(None, unseen=UNSEEN), "lost", UNSEEN),
    "unseen, after an error": (
        RUNNING,
        end(None, unseen=UNSEEN, output=printed("KeyError: 4")),
        "lost",
        f"{UNSEEN}; the last error it printed: KeyError: 4",
    ),
}


@pytest.mark.parametrize(("state", "event", "status", "reason"), VERDICTS.values(), ids=VERDICTS.keys())
def test_the_verdict(state, event, status, reason):
    verdict = judge(state, event)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert (verdict.kill is not None) == (AT_LIMIT in reason or "ran out of memory (" in reason)
    assert verdict.worker_killed == (reason == WORKER_TAKEN)


def test_the_kernels_own_words_are_kept():
    assert judge(RUNNING, end(-9, oom=logged(PID))).log_line == f"Killed process {PID}"
    assert judge(RUNNING, end(-9, oom=COUNTED)).log_line == ""
