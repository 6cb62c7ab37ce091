"""Presets are whole configs that are valid, say what they are for, and differ where they say they do; --quick is a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from memdash.commands import main
from memdash.config import RunConfig
from memdash.config_file import load_config
from memdash.errors import ExitCode
from memdash.presets import LEVELS, PRESETS, TIERS, compose, explain


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


@pytest.mark.parametrize("preset", ["", *PRESETS])
def test_a_preset_goes_with_each_tier_and_level(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for tier in ("", *TIERS):
        for level in ("", *LEVELS):
            named = {"--preset": preset, "--tier": tier, "--level": level}
            options = [word for option, name in named.items() if name for word in (option, name)]
            assert main(["init", str(path), "--force", *options]) == ExitCode.OK
            config = load_config(path)
            for key, (wanted, _) in (TIERS[tier].keys if tier else {}).items():
                assert key == "model.config" or value(config, key) == wanted
            allowed = LEVELS[level].keys["train.micro_batch"][0] if level in ("optimized", "ultra-low") else 16
            assert 1 <= config.micro_batch <= allowed


def test_what_a_tier_and_a_level_change_is_said_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    main(["init", str(path), "--preset", "laptop-10gb", "--tier", "lite", "--level", "optimized"])
    said = capsys.readouterr().out
    assert "tier lite: minutes" in said
    assert "    data.subset_ratio = 0.1    a tenth of the examples" in said
    assert "    train.micro_batch = 2    set lower by the preset than this level's 4" in said
    assert all(f"# {line}" in path.read_text() for line in said.splitlines()[:-1])
    config = load_config(path)
    for line in explain(compose("laptop-10gb", "lite", "optimized"), "lite", "optimized"):
        if line.startswith("    ") and "model.config" not in line:
            key, _, rest = line.strip().partition(" = ")
            assert rest.startswith(f"{value(config, key)}    ")


def test_all_there_are_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--list"]) == ExitCode.OK
    said = capsys.readouterr().out
    names = [f"--preset {name}: " for name in PRESETS]
    names += [f"--tier {name}: " for name in TIERS] + [f"--level {name}: " for name in LEVELS]
    assert all(name in said for name in names)
    assert said.count("\n    ") == sum(
        len(option.keys) for kind in (PRESETS, TIERS, LEVELS) for option in kind.values()
    )


def test_quick_is_a_small_run_that_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[checkpoint]\nevery_steps = 2\nkeep_best = "loss"\n')
    assert main(["run", str(path), "--quick", "--dry-run", "--set", "train.max_steps=7"]) == ExitCode.OK
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (told["data.subset_ratio"], told["train.max_steps"], told["checkpoint.at_end"]) == ("0.1", "7", "'none'")
    assert not {"checkpoint.every_steps", "checkpoint.keep_best"} & told.keys()
    assert main(["run", "--resume", "x", "--quick"]) == ExitCode.USAGE
    assert "--quick starts a new run" in capsys.readouterr().err
