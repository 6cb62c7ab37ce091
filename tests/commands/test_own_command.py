"""A program of one's own on the command line: how it is named, what it becomes, and what does not go with it."""

from __future__ import annotations

import tomllib

import pytest

from memdash.commands import main
from memdash.commands._own_command import from_command_line, run_name
from memdash.config_file import load_config, parse_config
from memdash.errors import ConfigError, ExitCode


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python train.py --lr 3e-4", "train"),
        ("python -u src/fit.py data.py", "fit"),
        ("python -m mine.train --m x", "mine.train"),
        ("./fit", "fit"),
        ("bash go.sh", "go"),
        ("/usr/bin/env true", "env"),
        ("/", "run"),
    ],
)
def test_the_name_of_a_run(command, name):
    assert run_name(command.split()) == name


def test_what_is_recorded_is_a_config_that_starts_the_same(tmp_path):
    command = ["sh", "-c", 'echo "$1" \\ \t\n é 🜚 \x7f', "", "--", "--set", "'x'"]
    config, toml = from_command_line(command, ["budget.wall=2h", "on_failure.restart=2"])
    assert config.run.command == command
    assert parse_config(tomllib.loads(toml), base=tmp_path) == config
    path = tmp_path / "again.toml"
    path.write_text(toml, encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("command", [["no-such-program"], ["sh", "a\0b"], ["sh", "\udcff"], [""]])
def test_what_cannot_be_started(command):
    with pytest.raises(ConfigError, match=r"`run.command` = "):
        from_command_line(command, [])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run"], "there is nothing to run"),
        (["run", "--"], "there is no command after --"),
        (["run", "x.toml", "--", "sh"], "x.toml and a command after --: only one of them can be run"),
        (["run", "--resume", "x", "--", "sh"], "x and a command after --"),
        (["run", "--quick", "--", "sh"], "--quick is for memdash's own runner"),
        (["run", "--checkpoint", "x", "--", "sh"], "--checkpoint is for memdash's own runner"),
        (["run", "train.py"], "run it: memdash run -- python train.py"),
        (
            ["run", "--set", "train.micro_batch=3", "--", "sh"],
            "--set: `train.micro_batch` = 3: only memdash's own runner",
        ),
        (["run", "--", "no-such-program"], "there is no program no-such-program on the PATH"),
    ],
)
def test_one_clear_line(argv, said, capsys, home):
    assert main(argv) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_a_plan_is_for_the_runner(tmp_path, capsys):
    path = tmp_path / "own.toml"
    path.write_text('[run]\ncommand = ["sh"]\n')
    assert main(["plan", str(path)]) == ExitCode.USAGE
    assert "only what memdash's own runner trains can be planned" in capsys.readouterr().err


def test_what_would_be_started(capsys, home):
    assert main(["run", "--dry-run", "--", "sh", "-c", "echo  x"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "starts     sh -c 'echo  x'" in said
    assert "split" not in said
    assert not (home / "runs").exists()
