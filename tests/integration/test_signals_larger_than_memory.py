"""7,200 signals of 105 x 5,500, 16.6 GB, under 2 GiB of host memory; and what is said of it when they are loaded instead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memdash.config_file import load_config
from memdash.errors import ExitCode
from memdash.supervisor.run_state import outcome_exit_code

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "signal-to-text.toml"
BUDGET = 2 << 30
FULL_SHAPE = ["--examples", "8", "--of", "7200"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The command of a training process on the full shape, most of it holes, with some keys set otherwise."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run([sys.executable, ROOT / "examples" / "signals.py", tmp_path, *FULL_SHAPE], check=True, timeout=60)

    def train(*overrides: str) -> list[str]:
        files = [f"data.source={tmp_path}/signals.npy", f"data.targets={tmp_path}/texts.txt", "task.options={}"]
        short = ["train.max_steps=4", "train.global_batch=4", "train.micro_batch=4", "data.validation_fraction=0"]
        config = load_config(EXAMPLE, [*files, *short, *overrides])
        (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
        return [sys.executable, "-P", "-m", "runner", "--run-dir", str(tmp_path), "--base-dir", str(tmp_path)]

    return train


def test_a_memory_map_is_trained_on_under_a_real_limit(memory_cgroup: Any, start_run: Any, train: Any) -> None:
    cgroup = memory_cgroup(BUDGET)
    run = start_run(argv=train("data.num_workers=1"), inside=cgroup.inside)
    state = run.wait_for_end(100)
    assert (state.status, state.step, state.num_examples) == ("finished", 4, 7200), state.status_reason
    assert state.host is not None
    assert state.host.capacity_source.startswith(str(cgroup.level.path))
    assert cgroup.level.limit_hits() == 0


def test_loading_it_all_is_ended_by_the_kernel(memory_cgroup: Any, start_run: Any, train: Any) -> None:
    cgroup = memory_cgroup(800 << 20)  # sooner than 2 GiB
    run = start_run(argv=train("data.memory_map=false", "memory.host_budget="), inside=cgroup.inside)
    state = run.wait_for_end(100)
    assert (state.status, state.oom_killed) == ("killed", True), state.status_reason
    assert f"cgroup {cgroup.level.name} reached its limit of 800 MiB" in state.status_reason
    assert outcome_exit_code(state) == ExitCode.HOST_OOM


def test_loading_it_all_is_refused_by_an_rlimit(start_run: Any, train: Any) -> None:
    limited = ["sh", "-c", f'ulimit -d {BUDGET >> 10}; exec "$@"', "sh"]
    state = start_run(argv=[*limited, *train("data.memory_map=false", "memory.host_budget=")]).wait_for_end(60)
    assert state.status_reason.startswith("host memory ran out: MemoryError: Unable to allocate 15.5 GiB"), state
    assert outcome_exit_code(state) == ExitCode.OUT_OF_MEMORY
