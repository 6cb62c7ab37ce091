"""`logs` copies bytes and follows to the end; `doctor` finds what is there and never fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from memdash.commands import doctor as doctor_verb
from memdash.commands import main
from memdash.errors import ExitCode
from tests.host.capture import PID, plant


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


def test_doctor_says_what_tells_of_oom_kills(capsys):
    assert main(["doctor"]) == ExitCode.OK
    lines = [line for line in capsys.readouterr().out.splitlines() if "OOM kills" in line]
    assert len(lines) == 1
    assert "/proc/vmstat counts the machine's" in lines[0]


def test_doctor_for_scripts(capsys, monkeypatch):
    monkeypatch.setenv("MEMDASH_RUNTIME_DIR", "/proc/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["doctor", "--json"]) == ExitCode.OK
    found = {row["what"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["sockets"]["verdict"] == "missing"
    assert found["C++ compiler"]["verdict"] == "missing"
    assert found["memdash"]["verdict"] == "ok"


def host_findings(root: Path) -> dict[str, str]:
    return {what: text.replace(str(root), "") for what, _, text in doctor_verb._host(root)}


def test_doctor_sees_the_limit_of_a_container(tmp_path):
    plant("docker-v2", tmp_path)
    shutil.copy(tmp_path / "proc" / PID / "cgroup", tmp_path / "proc/self/cgroup")
    (tmp_path / "sys/fs/cgroup/memory.oom.group").write_text("1\n")
    found = host_findings(tmp_path)
    assert found["effective limit"] == "256 MiB, headroom 201 MiB  (/sys/fs/cgroup/memory.max)"
    assert found["memory.oom.group"] == "one OOM kills everything in /sys/fs/cgroup, the supervisor too"
    assert "process memory" not in found


def test_doctor_without_proc_says_who_tells(tmp_path):
    found = host_findings(tmp_path)
    assert found["process memory"].startswith("no /proc: psutil tells")
    assert found["effective limit"].endswith("(psutil.virtual_memory().total)")
    assert found["cgroup"].startswith("no memory cgroup is visible")
    assert found["pressure stall"].startswith("no PSI")


def doctor(library: object, scenario: str, **environment: str) -> list[dict[str, str]]:
    """What it says of GPUs, in a process that finds this driver."""
    command = [sys.executable, "-m", "memdash", "doctor", "--json"]
    told = {**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_STANDIN": scenario, **environment}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=120, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = [row["what"] for row in rows]
    return rows[names.index("encoding") + 1 : names.index("C++ compiler")]


def test_doctor_names_gpus_and_who_is_on_them(drivers):
    rows = doctor(drivers["new"], f"gpus=2 lost=0 procs=1/1/{2 << 30}", CUDA_VISIBLE_DEVICES="1,0")
    assert [row["what"] for row in rows] == ["visible devices", "GPU 1", "", "GPU 0"]
    assert [row["verdict"] for row in rows] == ["note", "ok", "note", "missing"]
    text = "Stand-in A100, 37.5 GiB free of 40.0 GiB, 83% busy, 62°C, 312 W, cuda:0, GPU-1"
    assert rows[1]["text"].startswith(text)
    assert rows[2]["text"].endswith(" 1 2.00 GiB")
    assert rows[3]["text"] == "the driver has lost this GPU (GPU is lost)"


def test_doctor_without_a_driver_or_with_one_that_hangs_says_one_line(drivers, tmp_path):
    assert doctor(tmp_path, "") == [{"what": "NVML", "verdict": "missing", "text": "no NVIDIA driver"}]
    (row,) = doctor(drivers["new"], "hang_ms=600000")
    assert row["text"] == "the NVIDIA driver has not answered for more than 5 s"
