"""`logs` copies bytes and follows to the end; `doctor` finds what is there and never fails."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from memdash.commands import main
from memdash.errors import ExitCode


def test_logs(start_run, capfdbinary):
    run = start_run("--flood-mib", "1")
    run.order("fe")
    run.wait_for_end()
    assert main(["logs"]) == ExitCode.OK
    assert capfdbinary.readouterr().out == run.directory.output.read_bytes()


def test_logs_of_a_run_that_was_too_long_begin_with_the_older_part(start_run, capfdbinary):
    run = start_run()
    run.order("e")
    run.wait_for_end()
    run.directory.output.with_name("output.log.1").write_bytes(b"older\n")
    run.directory.output.write_bytes(b"newer\n")
    main(["logs", "fake"])
    assert capfdbinary.readouterr().out == b"older\nnewer\n"


def test_logs_follow_until_the_run_is_over(start_run):
    run = start_run("--flood-mib", "1")
    follower = subprocess.Popen([sys.executable, "-m", "memdash", "logs", "-f"], stdout=subprocess.PIPE)
    assert follower.stdout is not None
    run.order("f")
    assert follower.stdout.read(1 << 20) == (b"x" * 1023 + b"\n") * 1024
    run.order("fe")
    rest, _ = follower.communicate(timeout=60)
    assert len(rest) == 1 << 20
    assert follower.returncode == ExitCode.OK


def test_doctor_names_limits_and_their_files(capsys):
    assert main(["doctor"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "effective limit" in out
    assert "(/proc/meminfo: MemTotal)" in out
    assert "torch" in out.splitlines()[-1]


def test_doctor_for_scripts(capsys, monkeypatch):
    monkeypatch.setenv("MEMDASH_RUNTIME_DIR", "/proc/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["doctor", "--json"]) == ExitCode.OK
    found = {row["what"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["sockets"]["verdict"] == "missing"
    assert found["C++ compiler"]["verdict"] == "missing"
    assert found["memdash"]["verdict"] == "ok"


@pytest.mark.parametrize("limit", [300 << 20])
def test_doctor_sees_the_limit_of_a_container(tmp_path, monkeypatch, capsys, limit):
    from memdash.host import capacity

    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text(str(limit))
    (group / "memory.current").write_text(str(limit // 3))
    (group / "memory.stat").write_text("inactive_file 0\n")
    (group / "memory.oom.group").write_text("1\n")
    monkeypatch.setattr(capacity, "cgroup_levels", lambda pid, root=None: [capacity.CgroupLevel(group, 2)])
    main(["doctor"])
    out = capsys.readouterr().out
    assert "effective limit    300 MiB, headroom 200 MiB" in out
    assert "one OOM kills everything" in out
