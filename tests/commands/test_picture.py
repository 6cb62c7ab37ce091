"""`memdash report --png` and `--svg`: a page of a real run, or one line that says why not."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

from memdash import wire
from memdash.commands import main
from memdash.commands._picture import draw
from memdash.errors import ExitCode
from memdash.timeline import Curve, Launch, Mark, Timeline
from memdash.units import GIB
from tests.conftest import wait_until

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn_run(start_run):
    run = start_run(restarts=1)
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("sss")
    wait_until(lambda: (state := run.directory.state()) and state.step == 3, "step 3")
    assert main(["checkpoint", "--full"]) == ExitCode.OK
    run.order("oO")  # out of memory: a second attempt, with half the micro-batch
    wait_until(lambda: "attempt 1 started" in " ".join(run.journal()), "the second attempt")
    wait_until(lambda: (state := run.directory.state()) and state.attempt == 1 and state.linked, "its rank")
    run.order("sse")
    run.wait_for_end()
    return run


@pytest.fixture
def small_run(start_run):
    run = start_run()
    run.order("se")
    run.wait_for_end()
    return run


def words(svg: str) -> list[str]:
    """Text is drawn as outlines; what it says stands in a comment beside it."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_a_page_shows_the_whole_run(drawn_run, tmp_path: Path, capsys) -> None:
    target = tmp_path / "run.svg"
    capsys.readouterr()
    assert main(["report", "fake", "--svg", str(target)]) == ExitCode.OK
    assert capsys.readouterr().out == f"{target}\n"
    said = words(target.read_text())
    for text in (
        "fake",
        "device memory (SIMULATED)",
        "limit 128 MiB",
        "128M",
        "peak of each step",
        "host memory",
        "loss",
        "micro-batch",
        "full checkpoint",
        "out of memory",
    ):
        assert text in said, said
    assert [text for text in said if text.startswith("fake finished at step")]
    assert "simulated device" in " ".join(said)
    before = target.read_bytes()
    assert main(["report", "--svg", str(target)]) == ExitCode.OK
    assert target.read_bytes() == before  # the same run gives the same file


def test_every_attempt_is_told_as_far_as_there_is_room(tmp_path: Path) -> None:
    launches = [
        Launch(0, 0.0, 3600.0, at_s=0.0, first_step=1, last_step=1200, outcome="killed"),
        Launch(1, 9000.0, 9030.0, at_s=3600.0, first_step=1201, last_step=1202, outcome="oom"),
        Launch(2, 9100.0, 12_700.0, at_s=3630.0, first_step=1203, last_step=2400),
    ]
    curve = Curve([0.0, 7000.0], *([2.0 * GIB, 4.0 * GIB] for _ in range(3)))
    curves = {"host.working_set": curve, "device.peak": curve, "loss": curve}
    timeline = Timeline(launches, curves, {"host": 64.0 * GIB}, [Mark(5.0, "light")])
    state = wire.RunState(run_id="r-1", name="r", status="running", attempt=2, device="cuda:0")
    draw(tmp_path / "r.svg", "svg", state, "r-1 is running", timeline)
    said = words((tmp_path / "r.svg").read_text())
    assert "attempt 0 killed: steps 1-1,200, 1h00m" in said
    assert "attempt 2 goes on: steps 1,203-2,400, 1h00m" in said
    assert not [text for text in said if text.startswith("attempt 1")]
    assert "limit 64.0 GiB, far above" in said
    assert "light checkpoint" in said
    assert "micro-batch" not in said
    assert not [text for text in said if "simulated" in text.lower()]


def test_the_same_as_png(small_run, tmp_path: Path) -> None:
    target = tmp_path / "run.png"
    assert main(["report", "--png", str(target)]) == ExitCode.OK
    head = target.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", head[16:]) == (1800, 1275)


@pytest.mark.parametrize("target", ["no/such/directory.png", ""])
def test_a_file_that_cannot_be_written(small_run, tmp_path: Path, capsys, target: str) -> None:
    assert main(["report", "--png", str(tmp_path / target)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert "Traceback" not in error


def test_without_matplotlib_it_says_what_to_install(small_run, tmp_path: Path, capsys, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", "--png", str(tmp_path / "run.png")]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "a picture needs matplotlib" in error
    assert "pip install 'memdash[export]'" in error


def test_a_run_that_has_recorded_nothing(start_run, tmp_path: Path, capsys) -> None:
    run = start_run(argv=["/bin/false"])
    run.wait_for_end()
    for path in run.directory.samples.iterdir():
        path.unlink()
    assert main(["report", "--svg", str(tmp_path / "run.svg")]) == ExitCode.USAGE
    assert "has recorded nothing yet" in capsys.readouterr().err
