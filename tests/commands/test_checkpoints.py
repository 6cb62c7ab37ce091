"""`memdash checkpoints` as a shell sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.checkpoints import MANIFEST
from memdash.errors import ExitCode
from memdash.locations import runs_dir
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from tests.test_checkpoints import damage, save


@pytest.fixture
def directory() -> RunDirectory:
    record = RunRecord(run_id="r1", name="r1", created_s=0.0, argv=[], cwd="/")
    return create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())


def call(*words: str) -> tuple[int, list[str], str]:
    argv = [sys.executable, "-m", "memdash", "checkpoints", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_they_are_listed_and_verified(directory: RunDirectory) -> None:
    assert call("r1") == (ExitCode.OK, ["r1 has no checkpoints"], "")
    for step, kind in ((10, "full"), (20, "full"), (20, "light")):
        save(directory.checkpoints, step, kind)
    code, lines, _ = call()
    assert code == ExitCode.OK
    assert [line.split()[:2] for line in lines] == [
        ["step-00000020-full", "full"],
        ["step-00000020-light", "light"],
        ["step-00000010-full", "full"],
    ]
    code, lines, _ = call("r1", "--verify")
    assert code == ExitCode.OK
    assert all(line.endswith("schedule      verified") for line in lines)


def test_damage_is_five_to_the_shell(directory: RunDirectory) -> None:
    for step in (10, 20, 30):
        save(directory.checkpoints, step)
    damage(directory.checkpoints / "step-00000020-full" / "model.safetensors")
    assert call("r1")[0] == ExitCode.OK  # the sizes fit
    code, lines, _ = call("r1", "--verify")
    assert code == ExitCode.STORE
    assert [("DAMAGED" in line, "verified" in line) for line in lines] == [(False, True), (True, False), (False, True)]
    assert "step-00000020-full: model.safetensors is damaged" in lines[1]

    (directory.checkpoints / "step-00000030-full" / MANIFEST).unlink()
    code, lines, _ = call("r1", "--json")
    assert code == ExitCode.STORE
    rows = [json.loads(line) for line in lines]
    assert [(row.get("step"), bool(row["problem"])) for row in rows] == [(20, False), (10, False), (None, True)]
    assert rows[2]["path"].endswith("step-00000030-full")


def test_one_is_exported(directory: RunDirectory, tmp_path: Path) -> None:
    for step in (10, 20):
        save(directory.checkpoints, step)
    damage(directory.checkpoints / "step-00000020-full" / "model.safetensors")
    code, lines, _ = call("r1", "--export", str(tmp_path / "out"))
    assert code == ExitCode.OK
    assert "step-00000020-full: model.safetensors is damaged; passed over for the one before" in lines[0]
    assert lines[1].endswith("of step-00000010-full")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "tokenizer"}
    code, _, error = call("r1", "--export", str(tmp_path / "out"), "--checkpoint", "step-00000010-full")
    assert code == ExitCode.USAGE
    assert "cannot export" in error
    code, _, error = call("r1", "--export", str(tmp_path / "other"), "--checkpoint", "step-00000099-full")
    assert code == ExitCode.USAGE
    assert "no such checkpoint" in error


def test_nothing_to_export_is_five_too(directory: RunDirectory, tmp_path: Path) -> None:
    code, _, error = call("r1", "--export", str(tmp_path / "out"))
    assert code == ExitCode.STORE
    assert "no complete light or full checkpoint" in error
