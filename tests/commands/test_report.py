"""`memdash report` on a run that has just ended."""

from __future__ import annotations

import csv
import io
import json

from memdash.commands import main
from memdash.errors import ExitCode
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

    assert main(["report", "fake", "--json"]) == ExitCode.OK
    report = json.loads(capsys.readouterr().out)
    assert report["state"]["status"] == "oom"
    assert report["memory"][0]["peak_by_micro_batch"] == {"16": 84 << 20}

    assert main(["report", "--csv"]) == ExitCode.OK
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2", "3"]
    assert rows[0]["grad_norm"] == ""
