"""What the runner's tests share: one torch thread, no network, a trainer made by hand, a training process."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported
torch = pytest.importorskip("torch")

from memdash.agent.session import Session  # noqa: E402
from memdash.batching import BatchSplit  # noqa: E402
from memdash.config import RunConfig, TrainSection  # noqa: E402
from memdash.config_file import parse_config  # noqa: E402
from runner.device import CpuDevice, Device  # noqa: E402
from runner.growth import Growth  # noqa: E402
from runner.in_backward import InBackward  # noqa: E402
from runner.optimizer import make_optimizer  # noqa: E402
from runner.precision import Name, Precision  # noqa: E402
from runner.randomness import seed_everything  # noqa: E402
from runner.simulated import NativeLimiter, SimulatedDevice, cache_dir  # noqa: E402
from runner.step import GroupStep  # noqa: E402
from runner.training_state import Progress, TrainingState  # noqa: E402
from tests.runner.toy_task import ToyTask  # noqa: E402

HERE = Path(__file__).parent
PROCESS_TIMEOUT_S = 50.0
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, no idle threads that spin."""
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def quick_gc() -> Iterator[None]:
    """Every recovery collects garbage: what is there already is left out, or a storm of them takes minutes."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def simulated() -> Iterator[Callable[[int], SimulatedDevice]]:
    """Starts a simulated device; torch's own allocator is back after the test."""
    started: list[SimulatedDevice] = []

    def start(capacity_bytes: int = 1 << 30) -> SimulatedDevice:
        device = SimulatedDevice(capacity_bytes)
        note = device.start()
        assert not note, note
        started.append(device)
        return device

    yield start
    for device in started:
        device.stop()


@pytest.fixture
def native(simulated: Callable[[int], SimulatedDevice]) -> Callable[[int], tuple[SimulatedDevice, NativeLimiter]]:
    """A simulated device and its C++ allocator."""

    def start(capacity_bytes: int = 1 << 30) -> tuple[SimulatedDevice, NativeLimiter]:
        device = simulated(capacity_bytes)
        assert isinstance(device.limiter, NativeLimiter)
        return device, device.limiter

    return start


class RecordingSession(Session):
    """A session without a supervisor that keeps what would have been reported."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.read_memory)
        self.ooms: list[dict[str, Any]] = []
        self.notices: list[str] = []
        self.changes: list[tuple[int, int, str]] = []

    def split_changed(self, before: int, after: int, cause: str) -> None:
        self.changes.append((before, after, cause))

    def report_oom(self, **report: Any) -> None:
        self.ooms.append(report)

    def notice(self, text: str, *, level: str = "info") -> None:
        self.notices.append(text)


class Trainer:
    """A toy model with its optimizer and step, without the loop around it."""

    def __init__(
        self,
        task: ToyTask,
        group: int,
        micro_batch: int,
        device: Device | None = None,
        precision: Name = "fp32",
        grow_after: int = 0,
        train: TrainSection = TrainSection(learning_rate=0.01),  # noqa: B008 - frozen
    ) -> None:
        self.task, self.device = task, device or CpuDevice()
        seed_everything(0)
        with self.device.host():
            model = task.build_model()
        self.device.place(model)
        optimizer = make_optimizer(model, train)
        in_backward = InBackward.of(optimizer, train, self.device.host)
        precision_of = Precision(precision, self.device)
        self.state = TrainingState(model, optimizer, Progress(), self.device, precision_of, in_backward)
        self.session = RecordingSession(self.device)
        growth = Growth.start(group, micro_batch, grow_after)
        self.step = GroupStep(self.state, task, BatchSplit(group, micro_batch), self.session, growth)

    def train(self, indices: range, epoch: int = 0) -> float:
        """One step; its loss."""
        return self.step.train(list(indices), epoch, 0.01, 1.0).loss

    def everything(self) -> dict[str, Any]:
        """Copies of all that a step may change."""
        tensors = {**dict(self.state.model.named_parameters()), **dict(self.state.model.named_buffers())}
        tensors |= self.state._optimizer_tensors()
        return {name: t.detach().clone() for name, t in tensors.items()} | {"rng": torch.get_rng_state()}


def assert_bitwise(left: dict[str, Any], right: dict[str, Any]) -> None:
    """The same names, the same bits."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def largest_difference(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Over all parameters."""
    names = [name for name in left if not name.startswith(("optimizer.", "rng", "calls"))]
    return max(float((left[name] - right[name]).abs().max()) for name in names)


@pytest.fixture
def toy_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run directory whose config trains the toy task."""

    def make(name: str = "run", *, options: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Path:
        shutil.copy(HERE / "toy_task.py", tmp_path / "toy_task.py")
        table: dict[str, Any] = {
            "task": {"name": "toy_task:toy", "options": options or {}},
            "train": {"global_batch": 4, "threads": 1, "learning_rate": 0.01},
            "device": {"kind": "cpu"},
        }
        for section, keys in sections.items():
            table.setdefault(section, {}).update(keys)
        return write_run(tmp_path / name, parse_config(table, base=tmp_path))

    return make


def write_run(run_dir: Path, config: RunConfig) -> Path:
    """A run directory as the supervisor would make it."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_bytes(msgspec.json.encode(config))
    return run_dir


def command_line(run_dir: Path, *more: str, base: Path | None = None) -> list[str]:
    """What the supervisor starts."""
    python = [sys.executable, "-P", "-m", "runner"]
    return [*python, "--run-dir", str(run_dir), "--base-dir", str(base or run_dir.parent), *more]


def run_to_end(run_dir: Path, *more: str, base: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own."""
    return subprocess.run(
        command_line(run_dir, *more, base=base),
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(cache_dir().parent)},
    )
