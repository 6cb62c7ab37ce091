"""The verbs as a shell sees them: what they print and how they exit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from memdash.commands import VERBS, main
from memdash.errors import ExitCode
from tests.conftest import wait_until


def test_every_verb_has_a_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert (VERBS[verb].__doc__ or "").strip().splitlines()[0] in capsys.readouterr().out


def test_the_help_lists_the_verbs_and_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "supervise" not in text
    for verb in VERBS.keys() - {"supervise"}:
        assert f" {verb} " in text
    assert "10 stopped, 11 failed, 12 out of memory, 13 killed" in text


@pytest.mark.parametrize("argv", [["fly"], ["batch", "x"], ["run", "x.toml", "--detach", "--headless"]])
def test_wrong_use_is_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == ExitCode.USAGE
    assert "usage: memdash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["run", "none.toml"], ExitCode.USAGE, "memdash: none.toml: no such file"),
        (["attach"], ExitCode.USAGE, "there are no runs"),
        (["attach", "x"], ExitCode.USAGE, "there is no run 'x'"),
        (["pause", "x"], ExitCode.USAGE, "there is no run 'x'"),
    ],
)
def test_mistakes_are_one_line_on_stderr(argv, code, message, capsys):
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_no_verb_at_all_says_where_to_begin(capsys):
    assert main([]) == ExitCode.USAGE
    assert "Begin with: memdash init" in capsys.readouterr().out


def test_a_wrong_config_starts_nothing(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text("[train]\nmicro_bach = 3\n")
    assert main(["run", str(path), "--headless"]) == ExitCode.USAGE
    assert "did you mean `micro_batch`?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_init_writes_a_config_once(tmp_path, capsys):
    path = tmp_path / "new.toml"
    assert main(["init", str(path)]) == ExitCode.OK
    assert f"memdash run {path}" in capsys.readouterr().out
    assert main(["init", str(path)]) == ExitCode.USAGE
    assert main(["init", str(path), "--force"]) == ExitCode.OK
    assert main(["init", str(tmp_path / "no" / "dir.toml")]) == ExitCode.USAGE


def test_schema_is_json(capsys):
    assert main(["schema"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["title"] == "memdash run config"


def test_controlling_a_run_by_verbs(start_run, capsys):
    run = start_run()
    run.order("ss")
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("s")
    assert main(["pause", run.run_id]) == ExitCode.OK
    assert "paused at step" in capsys.readouterr().out
    assert main(["pause", "fa"]) == ExitCode.COMMAND
    assert "already paused" in capsys.readouterr().err
    assert main(["batch", run.run_id, "--micro-batch", "4"]) == ExitCode.OK
    assert "4 x 4 = 16" in capsys.readouterr().out
    assert main(["batch", "--micro-batch", "99", "--json"]) == ExitCode.COMMAND
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main(["checkpoint", "--full"]) == ExitCode.OK
    assert "full checkpoint" in capsys.readouterr().out
    assert main(["empty-cache"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["memory-snapshot"]) == ExitCode.COMMAND
    assert "this one has no GPU" in capsys.readouterr().err
    assert main(["resume"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["ls"]) == ExitCode.OK
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:3] == ["fake", "running", "3/1000"]
    assert line.split()[-1].endswith("s")  # what it took so far
    assert main(["stop", "--save", "light"]) == ExitCode.OK
    run.wait_for_end()
    capsys.readouterr()
    assert main(["ls", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["status"] == "stopped"
    wait_until(lambda: main(["pause", "fake"]) == ExitCode.LINK, "the supervisor to leave")


def test_ls_says_why_a_run_ended_badly(start_run, capsys):
    run = start_run()
    run.order("ssk")
    run.wait_for_end()
    assert main(["ls"]) == ExitCode.OK
    line = capsys.readouterr().out.splitlines()[1]
    assert line.endswith("  killed by SIGKILL, and the kernel counted no OOM kill: a person or a batch system did it")


@pytest.mark.parametrize(
    ("orders", "code", "verdict"),
    [
        ("sse", ExitCode.OK, "fake finished; step 2 of 1000"),
        ("ssx", ExitCode.FAILED, "fake failed: ZeroDivisionError: as the test asked"),
        ("sO", ExitCode.OUT_OF_MEMORY, "fake oom: one example does not fit"),
        ("sk", ExitCode.KILLED, "fake killed: killed by SIGKILL"),
    ],
)
def test_headless_follows_to_the_end_and_exits_with_the_outcome(start_run, capfd, orders, code, verdict):
    run = start_run()
    run.order(orders)
    assert main(["attach", "--headless"]) == code
    assert verdict in capfd.readouterr().out


def test_without_a_terminal_it_prints_lines_and_says_so(start_run):
    run = start_run()
    run.order("sse")
    done = subprocess.run(
        [sys.executable, "-m", "memdash", "attach"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == ExitCode.OK
    assert "no terminal here: printing lines" in done.stderr
    assert "[step" in done.stdout


def test_a_reader_that_leaves_is_no_error(start_run):
    run = start_run()
    run.order("sse")
    run.wait_for_end()
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m memdash schema | head -1"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_a_dry_run_says_what_would_be_started_and_starts_nothing(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text('[run]\nname = "x"\n[train]\nmicro_batch = 4\n')
    assert main(["run", str(path), "--dry-run", "--set", "train.epochs=2"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "split      4 x 4 = 16" in out
    assert "-m runner --run-dir" in out
    changed = dict(line.split() for line in out.splitlines() if line.startswith(("run.", "train.")))
    assert changed == {"run.name": "'x'", "train.micro_batch": "4", "train.epochs": "2.0"}
    assert not (tmp_path / "runs").exists()


def test_without_a_name_the_live_run_is_meant(start_run, capsys):
    live = start_run(run_id="live")
    over = start_run(run_id="over")
    for run in (live, over):
        wait_until(lambda run=run: "training fake" in " ".join(run.journal()), "the rank")
    assert main(["pause"]) == ExitCode.USAGE
    assert "2 runs are live: name one of" in capsys.readouterr().err
    over.order("e")
    over.wait_for_end()
    assert main(["pause"]) == ExitCode.OK
    assert "live: paused at step 0" in capsys.readouterr().out
    live.order("e")
    assert main(["stop", "--save", "none"]) == ExitCode.OK
    live.wait_for_end()
    assert main(["pause"]) == ExitCode.LINK
    assert "no run is live" in capsys.readouterr().err


def test_a_run_that_cannot_be_read_says_so(start_run, capsys):
    run = start_run()
    run.order("e")
    run.wait_for_end()
    (run.directory.path / "run.json").write_text("garbage")
    assert main(["attach", "fake", "--headless"]) == ExitCode.STORE
    assert "run.json is damaged" in capsys.readouterr().err


def test_sigterm_to_a_headless_run_stops_it_well(tmp_path):
    """As a scheduler does; the trainer here is no runner, so it is stopped by a signal of its own."""
    import os
    import signal

    from memdash.store.run_directory import list_runs

    path = tmp_path / "run.toml"
    path.write_text("[train]\nmax_steps = 100000\n[data]\nmax_examples = 64\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "memdash", "run", str(path), "--headless"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "training process started" in line:
            break
    os.kill(process.pid, signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert "SIGTERM: stopping the run after a full checkpoint" in rest
    assert process.returncode == ExitCode.STOPPED
    assert list_runs()[0].state().status == "stopped"


def test_rm_deletes_runs_that_are_over_and_no_other(start_run, capsys):
    live, over = start_run(run_id="live"), start_run(run_id="over")
    over.order("e")
    over.wait_for_end()
    assert main(["rm", "over", "live"]) == ExitCode.USAGE
    assert "live is live" in capsys.readouterr().err
    assert over.directory.path.exists()
    assert main(["rm", "over"]) == ExitCode.OK
    assert "over: deleted" in capsys.readouterr().out
    assert not over.directory.path.exists()
    assert live.directory.path.exists()
