"""memdash replay where it cannot play says why, and what to do instead."""

from __future__ import annotations

import pytest

from memdash.commands import main
from memdash.errors import ExitCode
from tests.replay.conftest import new_run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "needs a terminal on standard input and standard error\n         what happened, in lines: memdash report"),
        (["--from", "soon"], "'soon' is not a duration"),
        (["nobody"], "there is no run 'nobody'"),
    ],
)
def test_mistakes(argv, message, capsys):
    new_run("old")
    assert main(["replay", *argv]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in out + err


def test_nothing_recorded(monkeypatch, capsys):
    new_run("empty")
    monkeypatch.setattr("memdash.tui.terminal.check_terminal", lambda hint: None)
    assert main(["replay", "empty"]) == ExitCode.STORE
    assert "nothing of empty is recorded yet" in capsys.readouterr().err
