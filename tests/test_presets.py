"""Presets are whole configs that are valid, say what they are for, and differ where they say they do; --quick is a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from memdash.commands import main
from memdash.config import RunConfig
from memdash.config_file import load_config
from memdash.errors import ExitCode
from memdash.presets import PRESETS


def value(config: RunConfig, key: str) -> object:
    table, _, name = key.partition(".")
    return getattr(getattr(config, table), name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_printed_as_a_valid_config(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "-", "--preset", name]) == ExitCode.OK
    path = tmp_path / "printed.toml"
    path.write_text(capsys.readouterr().out)
    config = load_config(path)
    for key, wanted in PRESETS[name].keys.items():
        assert value(config, key) == wanted != value(RunConfig(), key)
    assert f"# Memory, time and disk are set for {PRESETS[name].about}.\n" in path.read_text()


def test_a_preset_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "-", "--preset", "kaggle-t5"])
    assert "kaggle-t4" in capsys.readouterr().err


def test_quick_is_a_small_run_that_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[checkpoint]\nevery_steps = 2\nkeep_best = "loss"\n')
    assert main(["run", str(path), "--quick", "--dry-run", "--set", "train.max_steps=7"]) == ExitCode.OK
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (told["data.subset_ratio"], told["train.max_steps"], told["checkpoint.at_end"]) == ("0.1", "7", "'none'")
    assert not {"checkpoint.every_steps", "checkpoint.keep_best"} & told.keys()
    assert main(["run", "--resume", "x", "--quick"]) == ExitCode.USAGE
    assert "--quick starts a new run" in capsys.readouterr().err
