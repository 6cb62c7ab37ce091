"""What a scheduler sends, to whichever process: saved, stopped, never corrupt."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memdash.checkpoints import complete, verify
from memdash.errors import ExitCode
from memdash.store.journal import read_journal
from memdash.store.run_directory import RunDirectory, list_runs
from tests.conftest import wait_until

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "examples" / "slurm.sh"
REAL_S = 50.0  # importing torch on a busy machine
TASK = """
import time
from toy_task import toy as real

def toy(options, config):
    task = real(options, config)
    collate = task.collate
    def slowly(*arguments):
        time.sleep(0.005)  # the pace of a small model, not of a toy
        return collate(*arguments)
    task.collate = slowly
    return task
"""
CONFIG = """
[run]
name = "signalled"
[task]
name = "slow_toy:toy"
[train]
global_batch = 4
max_steps = 1000000
threads = 1
[device]
kind = "cpu"
[checkpoint]
at_end = "none"
"""


def write_job(folder: Path) -> None:
    """`job.toml` and the task that it names."""
    shutil.copy(HERE.parent / "runner" / "toy_task.py", folder)
    (folder / "slow_toy.py").write_text(TASK)
    (folder / "job.toml").write_text(CONFIG)


class Job:
    """`memdash run --headless` as a scheduler starts it, with the two processes that it starts."""

    def __init__(self, tmp_path: Path) -> None:
        write_job(tmp_path)
        self.printed = tmp_path / "printed"
        argv = [sys.executable, "-m", "memdash", "run", str(tmp_path / "job.toml"), "--headless"]
        with open(self.printed, "wb") as printed:
            self.verb = subprocess.Popen(argv, stdout=printed, stderr=subprocess.STDOUT)
        wait_until(lambda: list_runs() and self.run.state() and self.run.state().pid, "the run", REAL_S)
        wait_until(self.recorded, "its first step", REAL_S)

    @property
    def run(self) -> RunDirectory:
        """The only one."""
        return list_runs()[0]

    def recorded(self) -> int:
        """Bytes of what the supervisor has been told of the steps so far."""
        path = self.run.samples / "rank-0.rec"
        return path.stat().st_size if path.exists() else 0

    def printed_step(self) -> str:
        """As the trainer says it, also while its supervisor is stopped."""
        return [line for line in self.run.output.read_text().splitlines() if line.startswith("step ")][-1]

    def pid(self, who: str) -> int:
        """Of `verb`, `supervisor` or `trainer`."""
        if who == "supervisor":
            return int(self.run.lock.read_text())
        return self.verb.pid if who == "verb" else self.run.state().pid

    def send(self, number: signal.Signals, *whom: str) -> None:
        """To each of them."""
        for who in whom:
            os.kill(self.pid(who), number)

    def saved(self) -> list[str]:
        """Why each full checkpoint was saved, oldest first; each is whole."""
        return [verify(found.path).reason for found in reversed(complete(self.run.checkpoints))]

    def goes_on(self) -> None:
        """Fails when there are no further steps."""
        before = self.recorded()
        wait_until(lambda: self.recorded() > before, "further steps")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for who in ("verb", "supervisor", "trainer"):
        try:
            os.kill(job.pid(who), signal.SIGKILL)
        except ProcessLookupError:
            pass
    job.verb.wait()


EVERYBODY = ("verb", "supervisor", "trainer")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_every_signal_to_every_process(job: Job) -> None:
    pytest.importorskip("torch")
    for count, who in enumerate(EVERYBODY, start=1):
        job.send(signal.SIGUSR1, who)
        wait_until(lambda n=count: job.saved() == ["signal"] * n, f"a checkpoint for the {who}'s SIGUSR1")
        job.goes_on()

    job.send(signal.SIGUSR1, *EVERYBODY)  # `#SBATCH --signal=USR1` without B: reaches every process of a job step
    wait_until(lambda: len(job.saved()) > 3, "a checkpoint")
    job.goes_on()
    steps = [found.step for found in complete(job.run.checkpoints)]
    assert len(set(steps)) == len(steps) <= 6  # none was saved twice

    job.send(signal.SIGHUP, "supervisor", "trainer")
    job.send(signal.SIGCONT, *EVERYBODY)
    job.goes_on()
    job.send(signal.SIGSTOP, "supervisor")
    before = job.printed_step()
    wait_until(lambda: job.printed_step() != before, "steps without a supervisor")
    job.send(signal.SIGCONT, "supervisor")

    count = len(steps)
    for _ in range(2):  # the second one is sent while the first one's checkpoint is being saved, or not even begun
        job.send(signal.SIGCONT, *EVERYBODY)  # as scancel does
        job.send(signal.SIGTERM, *EVERYBODY)
    assert job.verb.wait(REAL_S) == ExitCode.STOPPED, job.printed.read_text()
    assert job.saved()[count:] == ["stop"]
    state = job.run.state()
    assert state is not None
    assert (state.status, state.exit_code, state.dropped_samples) == ("stopped", ExitCode.STOPPED, 0)
    assert complete(job.run.checkpoints)[0].step == state.step
    errors = [entry.text for entry in read_journal(job.run.journal) if entry.level == "error"]
    assert errors == []
    assert "SIGUSR1: saving a full checkpoint; the run goes on" in job.printed.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_supervisor_stops_the_run(start_run, watch, number):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    os.kill(run.supervisor_pid(), signal.SIGHUP)
    os.kill(run.supervisor_pid(), signal.SIGUSR1)
    state = await watcher.state(lambda state: state.num_checkpoints == 1, "a checkpoint")
    assert state.status == "running"
    for _ in range(3):
        os.kill(run.supervisor_pid(), number)
    state = run.wait_for_end()
    assert (state.status, state.num_checkpoints) == ("stopped", 2)
    assert f"command: stop after a full checkpoint ({number.name})" in run.journal()


def test_a_signal_before_the_verb_is_connected_or_while_there_is_no_supervisor(start_run):
    """The verb keeps what was asked of it until a supervisor has answered."""
    run = start_run("--heed-sigterm")
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    code = f"""
from memdash.commands._signals import Signals
from memdash.commands._watch import watch_headless
from memdash.store.run_directory import find_run
signals = Signals()
print("heeded", flush=True)
import sys
sys.stdin.readline()
sys.exit(watch_headless(find_run({run.run_id!r}), signals=signals))
"""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as verb:
        assert verb.stdin
        assert verb.stdout
        assert verb.stdout.readline() == "heeded\n"
        verb.send_signal(signal.SIGUSR1)
        verb.stdin.write("go on\n")
        verb.stdin.flush()
        run.wait_for_journal("full checkpoint of 1.00 MiB")
        os.kill(run.supervisor_pid(), signal.SIGKILL)
        verb.send_signal(signal.SIGTERM)
        assert verb.stdout.read().count("SIGTERM: stopping the run") == 1
    assert verb.returncode == ExitCode.STOPPED
    assert run.wait_for_end().status == "stopped"


class Cluster:
    """What SLURM would do with examples/slurm.sh; it has no SLURM."""

    def __init__(self, tmp_path: Path) -> None:
        write_job(tmp_path)
        self.folder = tmp_path
        self.requeued = tmp_path / "requeued"
        (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {self.requeued}\n')
        (tmp_path / "memdash").write_text(f'#!/bin/sh\nexec {sys.executable} -m memdash "$@"\n')
        for name in ("scontrol", "memdash"):
            (tmp_path / name).chmod(0o755)

    def start(self, wall: str) -> subprocess.Popen[str]:
        """The job's script in a session of its own, as on a node."""
        script = SCRIPT.read_text().replace("budget.wall=7h50m", f"budget.wall={wall}")
        (self.folder / "script.sh").write_text(script)
        environment = {**os.environ, "SLURM_JOB_ID": "77", "PATH": f"{self.folder}:{os.environ['PATH']}"}
        argv = ["bash", str(self.folder / "script.sh"), str(self.folder / "job.toml")]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_slurm_script(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cluster = Cluster(tmp_path)
    with cluster.start("7h50m") as job:
        assert job.stdout
        for line in job.stdout:
            if "| loss " in line:
                break
        job.send_signal(signal.SIGUSR1)
        for line in job.stdout:
            if "(signal)" in line:
                break
        job.send_signal(signal.SIGTERM)
        job.stdout.read()
    assert job.returncode == ExitCode.STOPPED
    assert not cluster.requeued.exists()
    run = list_runs()[0]
    assert run.run_id.startswith("job-77-")
    assert [found.reason for found in complete(run.checkpoints)] == ["stop", "signal"]

    with cluster.start("5s") as job:  # requeued, and its time is soon over
        assert job.stdout
        printed = job.stdout.read()
    assert job.returncode == ExitCode.OUT_OF_TIME, printed
    assert cluster.requeued.read_text() == "requeue 77\n"
    assert list_runs() == [run]
    assert "resumed from step-" in printed
    state = run.state()
    assert state is not None
    assert (state.attempt, state.status_reason) == (1, "the wall budget is used up")
    assert state.past_s > 0
