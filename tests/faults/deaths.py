"""Faults that end a process: the supervisor, the training process, a verb; and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.faults.storm import Evidence, Fault, Storm, running
from tests.faults.training import START_S
from tests.faults.waiting import Stuck, pause, until

LONGEST_ALONE_S = 5.0
ADOPTED = r"link: a new supervisor has adopted pid|state: finished"  # or there was none left to adopt
RESTARTED = r"state: attempt \d+ started"


def supervisor(storm: Storm) -> Evidence:
    """kill -9; after a while somebody attaches, or several do at once, and only one of them starts a new one."""
    training = storm.training
    training.kill_supervisor()
    pause(storm.chance.uniform(0, LONGEST_ALONE_S))
    crowd = [
        storm.place.start_memdash("attach", training.run_id, "--headless") for _ in range(storm.chance.choice([1, 3]))
    ]
    try:
        until(training.is_served, "a new supervisor", START_S)
        for viewer in crowd:
            if viewer.poll() is not None:
                raise Stuck(f"`memdash attach` exited with {viewer.returncode}")
    finally:
        for viewer in crowd:
            viewer.kill()
            viewer.wait()
    return {ADOPTED: 1}


def terminated_supervisor(storm: Storm) -> Evidence:
    """SIGTERM, as a machine that shuts down sends it: a full checkpoint, the end, and then `memdash run --resume`."""
    training = storm.training
    pid = training.trainer()
    training.kill(training.supervisor(), signal.SIGTERM)
    until(lambda: not running(pid), "the training process to end", START_S)
    return {r"state: SIGTERM: saving a full checkpoint": 1, r"state: stopped": 1, RESTARTED: 1}


def frozen_supervisor(storm: Storm) -> Evidence:
    """SIGSTOP for a while: the training process does not wait for it."""
    training = storm.training
    pid = training.supervisor()
    training.kill(pid, signal.SIGSTOP)
    try:
        training.wait_for_progress()
        pause(storm.chance.uniform(0, LONGEST_ALONE_S))
    finally:
        training.kill(pid, signal.SIGCONT)
    return {}


def both(storm: Storm) -> Evidence:
    """The supervisor first, then the training process while nobody watches."""
    _wait_for_checkpoint(storm)
    training = storm.training
    with training.without_supervisor():
        pid = training.trainer()
        training.kill(pid, storm.chance.choice([signal.SIGKILL, signal.SIGTERM]))
        until(lambda: not running(pid), "the training process to be gone", START_S)
    return {r"state: (lost|stopped|killed|finished)": 1, RESTARTED: 1}


def torn_journal(storm: Storm) -> Evidence:
    """Half a line at the journal's end, as a power cut leaves it; the run can be read all the same."""
    training = storm.training
    with training.without_supervisor():
        with open(training.directory.journal, "r+b") as file:
            line = file.read().splitlines(keepends=True)[-1]
            file.write(line[: storm.chance.randrange(1, len(line))])
        _read(storm)
    return {ADOPTED: 1}


def torn_samples(storm: Storm) -> Evidence:
    """Part of a row at the end of each record file."""
    training = storm.training
    with training.without_supervisor():
        for path in training.directory.samples.iterdir():
            with open(path, "ab") as file:
                file.write(storm.chance.randbytes(storm.chance.randrange(1, 48)))
        _read(storm)
    return {ADOPTED: 1}


def stale_files(storm: Storm) -> Evidence:
    """A dead socket, a file or a dangling link in the socket's place; a lock that names a process of somebody else."""
    training = storm.training
    with training.without_supervisor():
        if (what := storm.chance.choice(["socket", "file", "link"])) != "socket":
            training.socket.unlink(missing_ok=True)
            training.socket.write_text("") if what == "file" else training.socket.symlink_to("nowhere")
        training.directory.lock.write_text(storm.chance.choice([f"{os.getpid()}\n", "99999999\n", "no number"]))
        (training.directory.path / ".state.json.tmp-99999999").write_text("{")
    return {ADOPTED: 1}


def trainer(storm: Storm) -> Evidence:
    """kill -9, now and then in mid-save: policy starts another attempt from the last full checkpoint."""
    _wait_for_checkpoint(storm)
    pid = storm.training.trainer()
    if storm.chance.random() < 0.5:
        storm.training.wait_for_save()
    storm.training.kill(pid)
    until(lambda: not running(pid), "the training process to be gone", START_S)
    return {r"killed by SIGKILL": 1, RESTARTED: 1}


def trainer_twice(storm: Storm) -> Evidence:
    """kill -9 again while the next attempt is loading, before it has trained a step: that one is not restarted."""
    training = storm.training
    first = training.trainer()
    trainer(storm)
    until(lambda: training.trainer() not in (None, first), "the next attempt", START_S)
    training.kill(training.trainer())
    return {r"killed by SIGKILL": 2, RESTARTED: 2}


def terminated(storm: Storm) -> Evidence:
    """SIGTERM, as a scheduler sends it: a full checkpoint, the end, and then `memdash run --resume`."""
    training = storm.training
    pid = training.trainer()
    training.kill(pid, signal.SIGTERM)
    until(lambda: not running(pid), "the training process to end", START_S)
    if storm.chance.random() < 0.4:  # whoever resumes it loses the terminal at once
        verb = storm.place.start_memdash("run", "--resume", training.run_id, "--detach")
        pause(storm.chance.uniform(0.05, 1.0))
        verb.kill()
        verb.wait()
    return {r"checkpoint: full checkpoint": 1, r"state: stopped": 1, RESTARTED: 1}


VERBS = (("pause",), ("checkpoint", "--full"), ("checkpoint",), ("empty-cache",), ("pause", "--release"))


def verb(storm: Storm) -> Evidence:
    """kill -9 of a verb after its command has left it, before it has read the answer."""
    training = storm.training
    name, *words = storm.chance.choice(VERBS)
    mark = training.last_entry()
    process = storm.place.start_memdash(name, training.run_id, *words)

    def sent() -> bool:
        return any(entry.kind == "command" and entry.seq > mark for entry in training.journal())

    try:
        until(lambda: sent() or process.poll() is not None, f"{name} in the journal", START_S)
    finally:
        process.kill()
        process.wait()
    return {r"command: .*\(a shell\)": 1}


def early_verb(storm: Storm) -> Evidence:
    """kill -9 of a verb at any moment of its life: its command may have been sent or not."""
    name, *words = storm.chance.choice((*VERBS, ("attach", "--headless"), ("report",), ("logs",)))
    process = storm.place.start_memdash(name, storm.training.run_id, *words)
    try:
        process.wait(timeout=storm.chance.uniform(0.02, 0.6))
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
    return {}


def _read(storm: Storm) -> None:
    """Those who only read a run can do so at any time. Raises Stuck."""
    for words in (("report", "--json"), ("logs",), ("checkpoints",)):
        done = storm.place.memdash(words[0], storm.training.run_id, *words[1:])
        if done.returncode:
            raise Stuck(f"`memdash {words[0]}` exited with {done.returncode}: {done.stderr[-300:]}")


def _wait_for_checkpoint(storm: Storm) -> None:
    """Without one there is nothing to go on from but the beginning."""
    until(storm.training.full_checkpoints, "the first full checkpoint", START_S)


FAULTS = [
    Fault("supervisor: kill -9, then attach", supervisor, "supervisor", weight=2),
    Fault("supervisor: SIGTERM, then --resume", terminated_supervisor, "attempt"),
    Fault("supervisor: frozen, then thawed", frozen_supervisor, "nothing"),
    Fault("supervisor and trainer killed", both, "attempt", loses_samples=True),
    Fault("record: half a journal line", torn_journal, "supervisor"),
    Fault("record: half a row of samples", torn_samples, "supervisor"),
    Fault("stale socket and lock", stale_files, "supervisor"),
    Fault("trainer: kill -9", trainer, "attempt", weight=2),
    Fault("trainer: kill -9 twice", trainer_twice, "attempt"),
    Fault("trainer: SIGTERM, then --resume", terminated, "attempt"),
    Fault("verb: kill -9 in mid-command", verb, "nothing"),
    Fault("verb: kill -9 at any moment", early_verb, "nothing"),
]
