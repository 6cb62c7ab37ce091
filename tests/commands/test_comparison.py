"""A sweep's table, and what its exit code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from memdash.commands import main
from memdash.commands._comparison import Row, lines
from memdash.commands.sweep import exit_code
from memdash.errors import ExitCode


def finished(name: str = "a") -> Row:
    return Row(
        name, "finished", run_id=f"{name}-1", parameters=1200, trainable=200, peak_bytes=3 << 20, peak_of="simulated"
    )


def failed(code: ExitCode) -> Row:
    return Row("b", "failed", "a bug", run_id="b-1", exit_code=code)


SKIPPED = Row("c", "skipped", "WILL OOM at step 3", peak_bytes=9 << 30, peak_of="planned")
MISTAKE = Row("d", "mistake", "d.toml:2: unknown key", exit_code=ExitCode.USAGE)
INTERRUPTED = Row("e", "goes on", run_id="e-1", exit_code=ExitCode.INTERRUPTED)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([finished()], 0),
        ([finished(), SKIPPED], 0),
        ([SKIPPED], ExitCode.OUT_OF_MEMORY),
        ([finished(), MISTAKE], ExitCode.USAGE),
        ([SKIPPED, MISTAKE], ExitCode.USAGE),
        ([failed(ExitCode.OUT_OF_MEMORY), MISTAKE, failed(ExitCode.FAILED), finished()], ExitCode.OUT_OF_MEMORY),
        ([failed(ExitCode.FAILED), INTERRUPTED, Row("f", "not run")], ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_is_that_of_the_first_that_did_not_finish(rows: list[Row], code: int) -> None:
    assert exit_code(rows) == code


def test_the_table_has_a_line_a_config_and_says_why() -> None:
    rows = [finished(), failed(ExitCode.FAILED), SKIPPED]
    rows[0].metrics = {"accuracy": 0.5, "macro_f1": 0.25}
    rows[0].steps, rows[0].total_steps, rows[0].step_time_s = 10, 10, 0.125
    head, *table = lines(rows)
    assert head.split() == "config parameters trainable peak memory s/step steps accuracy macro_f1 outcome".split()
    assert table[0].split() == "a 1,200 200 3.00 MiB (simulated) 0.125 10/10 0.5000 0.2500 finished".split()
    assert table[2].split() == "c 9.00 GiB (planned) skipped".split()
    assert table[3:] == ["", "b failed: a bug", "c skipped: WILL OOM at step 3"]


def test_mistakes_alone_start_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("[train]\nepochs = 0\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.toml").write_text("oops")
    paths = [str(tmp_path / "a.toml"), str(tmp_path / "b/a.toml")]
    assert main(["sweep", *paths]) == ExitCode.USAGE
    said = capsys.readouterr().out
    assert "train.epochs" in said
    assert "not valid TOML" in said
    assert f"{paths[1]} mistake: " in said  # two of one name are called by their paths
    assert main(["sweep", *paths, "--csv", str(tmp_path / "none/x.csv")]) == ExitCode.USAGE
    assert "there is no such directory" in capsys.readouterr().err
