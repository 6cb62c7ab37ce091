"""`memdash report` on a run that has just ended."""

from __future__ import annotations

import csv
import io
import json
import re

import msgspec

from memdash import wire
from memdash.commands import main
from memdash.errors import ExitCode
from memdash.store.moments import Moment, MomentWriter
from memdash.store.recorder import Recorder
from tests.conftest import wait_until


def test_report(start_run, capsys):
    run = start_run()
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("sss")
    wait_until(lambda: (state := run.directory.state()) and state.step == 3, "step 3")
    run.order("O")
    run.wait_for_end()
    assert main(["report"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith("fake ran out of memory at step 3 of 1000")
    assert "device of rank 0 (simulated): peak 84.0 MiB of 128 MiB (66%) at step 1, headroom then 44.0 MiB" in out
    assert "micro-batch   16: peak 84.0 MiB" in out
    assert "the largest micro-batch with a tenth of the device to spare is 16" in out
    assert "oom: one example does not fit" in out
    assert re.search(r"alerts that would have come in the last \S+: none", out)

    assert main(["report", "fake", "--json"]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert report["state"]["status"] == "oom"
    assert report["memory"][0]["peak_by_micro_batch"] == {"16": 84 << 20}

    assert main(["report", "--csv"]) == ExitCode.OK
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2", "3"]
    assert rows[0]["grad_norm"] == ""


def test_report_says_when_an_alert_would_have_come(start_run, capsys):
    run = start_run()
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("s")
    run.order("O")
    run.wait_for_end()
    record_a_leak(run.directory)
    assert main(["report"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert re.search(r"alerts that would have come in the last 1m\d\ds:$", out, re.MULTILINE)
    assert re.search(r"#1 +warning, \S+ before the end: host memory full in", out)


def record_a_leak(directory) -> None:
    """Host samples as those of a run that had gone on for two minutes."""
    state = directory.state()
    (directory.samples / "host.rec").unlink()
    recorder = Recorder(directory)
    began_s = state.started_s
    for number in range(1, 240):
        used = (200 + number) << 20
        host = wire.HostMemory(
            kind="exact", process_bytes=used, num_processes=1, working_set_bytes=used, peak_working_set_bytes=used,
            capacity_bytes=1 << 29, capacity_source="memory.max",
        )  # fmt: skip
        recorder.host(wire.HostSample(time_s=began_s + number / 2, host=host), 0)
    recorder.close()
    directory.states.unlink()
    directory.write_state(msgspec.structs.replace(state, ended_s=began_s + 120))
    running = msgspec.structs.replace(
        state, status="running", phase="training", ended_s=None, total_steps=10**9, steps_per_epoch=0
    )
    moments = MomentWriter(directory.states)
    moments.append(Moment(began_s, running))
    moments.close()
