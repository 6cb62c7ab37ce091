"""Real children: started with a higher OOM score, asked to end, made to end, adopted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from memdash.errors import MemdashError
from memdash.host.exit_status import process_start
from memdash.supervisor import ranks
from memdash.supervisor.ranks import RankProcess, end_orphans
from tests.conftest import wait_until

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


def start(code: str, output: int, **env: str) -> RankProcess:
    return RankProcess.start([sys.executable, "-c", code], {**os.environ, **env}, "/", output)


def test_exit_code_and_output(output):
    rank = start("import sys; print('hello'); sys.exit(7)", output)
    wait_until(rank.ended, "the child's end")
    assert rank.exit_code == 7
    assert os.pread(output, 100, 0) == b"hello\n"


def test_the_kernel_would_take_the_trainer_first(output):
    rank = start("input()", output)
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    theirs = int(Path(f"/proc/{rank.pid}/oom_score_adj").read_text())
    assert theirs == ranks.OOM_SCORE_ADJ > ours
    wait_until(rank.ended, "the child's end")  # its stdin is empty


def test_a_stubborn_child_is_killed_when_its_time_is_up(output, monkeypatch):
    rank = start(STUBBORN, output)
    wait_until(lambda: os.pread(output, 10, 0) == b"up\n", "the child")
    clock_s = 100.0
    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=lambda: clock_s))
    rank.terminate()
    assert not rank.kill_when_due()
    assert not rank.ended()
    clock_s += ranks.KILL_WAIT_S - 1
    rank.terminate()  # to be asked again gives it no more time
    assert not rank.kill_when_due()
    clock_s += 1
    assert rank.kill_when_due()
    wait_until(rank.ended, "the child's end")
    assert rank.exit_code == -9


def test_what_a_child_leaves_behind_is_ended(output):
    code = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); print(p.pid, flush=True)"
    )
    rank = start(code, output)
    wait_until(rank.ended, "the child's end")
    wait_until(lambda: b"up" in os.pread(output, 100, 0), "the grandchild")
    grandchild = int(os.pread(output, 100, 0).split()[0])
    rank.clean_up()
    wait_until(lambda: not ranks._alive(grandchild), "the grandchild's end")


def test_adoption_asks_whose_process_it_is(output):
    rank = start("import signal; signal.pause()", output, MEMDASH_RUN_ID="mine")
    wait_until(lambda: b"MEMDASH_RUN_ID" in Path(f"/proc/{rank.pid}/environ").read_bytes(), "its environment")
    assert RankProcess.adopt(rank.pid, "other") is None
    assert RankProcess.adopt(2**22 + 1, "mine") is None
    adopted = RankProcess.adopt(rank.pid, "mine")
    assert adopted is not None
    assert not adopted.ended()
    adopted.terminate()
    wait_until(adopted.ended, "its end")
    assert adopted.exit_code == -15  # not yet reaped, and so /proc tells it
    assert rank.ended()
    adopted.clean_up()


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(int(sys.stdin.readline()))"], stdin=0)
print(child.pid, flush=True)
child.wait()
print("reaped", flush=True)
sys.stdin.readline()
"""


def test_the_exit_code_of_somebody_elses_child():
    env = {**os.environ, "MEMDASH_RUN_ID": "mine"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        pid = int(parent.stdout.readline())
        wait_until(lambda: b"MEMDASH_RUN_ID" in Path(f"/proc/{pid}/environ").read_bytes(), "its environment")
        adopted = RankProcess.adopt(pid, "mine")
        assert adopted is not None
        parent.stdin.write(b"7\n")
        parent.stdin.flush()
        wait_until(adopted.ended, "its end")
        assert parent.stdout.readline() == b"reaped\n"
        code = adopted.exit_code
        parent.communicate(b"\n")
    adopted.clean_up()
    told = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)
    assert code == (7 if told else None)


def test_a_pid_that_was_given_to_another_process(output):
    rank = start("import signal; signal.pause()", output, MEMDASH_RUN_ID="mine")
    wait_until(lambda: b"MEMDASH_RUN_ID" in Path(f"/proc/{rank.pid}/environ").read_bytes(), "its environment")
    started = process_start(rank.pid)
    assert started is not None
    assert RankProcess.adopt(rank.pid, "mine", started - 1) is None
    adopted = RankProcess.adopt(rank.pid, "mine", started)
    assert adopted is not None
    adopted.clean_up()
    wait_until(rank.ended, "its end")


def test_what_a_process_that_is_gone_has_left_behind(output):
    code = (
        "import os, signal, sys\n"
        "if os.fork() == 0:\n"
        "    print(os.getpid(), flush=True)\n"
        "    signal.pause()\n"
        "os.execv(sys.executable, [sys.executable, '-c', ''])\n"
    )
    rank = start(code, output, MEMDASH_RUN_ID="mine")
    wait_until(rank.ended, "the leader's end")
    wait_until(lambda: os.pread(output, 100, 0).endswith(b"\n"), "the orphan")
    assert end_orphans(rank.pid, "other") == 0
    assert end_orphans(rank.pid, "mine") == 1
    wait_until(lambda: not ranks._alive(int(os.pread(output, 100, 0))), "the orphan's end")


def test_what_cannot_be_started_says_so(output):
    with pytest.raises(MemdashError, match="/no/such/program cannot be started"):
        RankProcess.start(["/no/such/program"], {}, "/", output)
