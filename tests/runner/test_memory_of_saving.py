"""Saving a model takes far less memory than the model, on the host and on the device: memory is what runs out here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.units import MIB, format_bytes
from runner.simulated import cache_dir
from tests.programs import saves_big_model


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "simulated"])
def test_a_save_needs_far_less_than_the_model(tmp_path: Path, device: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", saves_big_model.__name__, str(tmp_path), device],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XDG_CACHE_HOME": str(cache_dir().parent)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    model_bytes, ways = found["model_bytes"], found["ways"]
    print({name: {key: format_bytes(value) for key, value in way.items()} for name, way in ways.items()})
    assert model_bytes > 90 * MIB
    assert ways["light"]["size_bytes"] > model_bytes
    assert 0.49 * model_bytes < ways["light bf16"]["size_bytes"] < 0.51 * model_bytes
    assert ways["full"]["size_bytes"] > 3 * model_bytes
    for name, way in ways.items():
        assert way["host_bytes"] < model_bytes // 3, name
        assert way["device_bytes"] == 0, name
