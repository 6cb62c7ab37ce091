"""A pause that gives the device away: everything moves to the host and comes back, bit for bit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from memdash import wire
from memdash.agent.session import Session
from memdash.checkpoints import verify
from memdash.errors import MemdashError
from memdash.units import MIB, format_bytes
from runner.release import Release, available_host_bytes
from runner.simulated import NativeLimiter, SimulatedDevice
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.test_loop import prepared
from tests.runner.test_training_state import save
from tests.runner.toy_task import ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
GROUPS = [range(0, 8), range(8, 16), range(16, 20)]


def trainer(device: SimulatedDevice) -> Trainer:
    task = ToyTask(dropout=0.3, batch_norm=True, width=512, dtype="float32")
    return Trainer(task, 8, 4, device, precision="fp16")


def plenty() -> int:
    return 1 << 40


def everything(paused: Trainer) -> dict[str, Any]:
    """Copied to where the device does not count it."""
    with paused.device.host():
        return paused.everything()


def trained(device: SimulatedDevice, groups: list[range]) -> dict[str, Any]:
    calm = trainer(device)
    for indices in groups:
        calm.train(indices)
    return everything(calm)


def test_released_and_taken_back_it_trains_as_if_never_paused(native: Native) -> None:
    device, _ = native(1 << 30)
    expected = trained(device, GROUPS)
    base = device.read_memory().allocated_bytes or 0
    paused = trainer(device)
    release = Release(paused.state, plenty)
    for indices in GROUPS:
        paused.train(indices)
        assert (device.read_memory().allocated_bytes or 0) - base > 3 * MIB
        assert release.release().startswith("gave back ")
        assert (device.read_memory().allocated_bytes or 0) - base < 4096  # the library keeps a few scalars
        assert release.restore().startswith("took 3.06 MiB of simulated again")
    assert_bitwise(everything(paused), expected)


def test_ties_strides_and_shared_storages_survive(native: Native) -> None:
    device, _ = native(1 << 30)
    paused = trainer(device)
    model = paused.state.model
    with torch.no_grad():
        model.mix.weight.data = model.mix.weight.data.t().contiguous().t()
        model.register_buffer("window", model.norm.running_mean[2:5])
    release = Release(paused.state, plenty)
    for move in (release.release, release.restore):
        move()
        assert model.head.weight is model.embed.weight
        assert model.mix.weight.stride() == (1, 512)
        model.norm.running_mean[3] = 7.0
        assert model.window[1] == 7.0
        model.norm.running_mean[3] = 0.0


def test_the_words_say_what_was_given(native: Native) -> None:
    device, limiter = native(1 << 30)
    paused = trainer(device)
    limiter.empty_cache()
    before = device.read_memory().reserved_bytes or 0
    text = Release(paused.state, plenty).release()
    after = device.read_memory().reserved_bytes or 0
    assert before - after >= 2 * MIB
    assert text == f"gave back {format_bytes(before - after)} of simulated; {format_bytes(after)} stay"


def test_a_host_too_small_refuses_and_changes_nothing(native: Native) -> None:
    device, _ = native(1 << 30)
    paused = trainer(device)
    before = device.read_memory().allocated_bytes
    with pytest.raises(MemdashError, match=r"host memory cannot take the model: it needs .* 1.00 MiB are there"):
        Release(paused.state, lambda: MIB).release()
    assert device.read_memory().allocated_bytes == before
    paused.train(GROUPS[0])


def test_a_device_taken_by_others_keeps_it_paused(native: Native) -> None:
    device, limiter = native(1 << 30)
    expected = trained(device, GROUPS[:1])
    paused = trainer(device)
    release = Release(paused.state, plenty)
    release.release()
    allocated = device.read_memory().allocated_bytes or 0
    limiter.start(allocated + MIB)
    with pytest.raises(MemdashError, match=r"simulated has no room: the model needs 3.06 MiB, 1.00 MiB are free"):
        release.restore()
    assert device.read_memory().allocated_bytes == allocated
    limiter.start(1 << 30)
    release.restore()
    paused.train(GROUPS[0])
    assert_bitwise(everything(paused), expected)


def test_it_saves_and_resplits_while_released(native: Native, tmp_path: Path) -> None:
    device, _ = native(1 << 30)
    paused = trainer(device)
    paused.train(GROUPS[0])
    release = Release(paused.state, plenty)
    release.release()
    allocated = device.read_memory().allocated_bytes
    path = save(paused, tmp_path, "full")
    assert device.read_memory().peak_allocated_bytes == allocated
    paused.step.ask(2)
    release.restore()
    paused.train(GROUPS[1])
    other = trainer(device)
    other.state.load_all(path)
    other.step.ask(2)
    other.train(GROUPS[1])
    assert_bitwise(other.everything(), paused.everything())


def test_what_the_host_has_left(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_host_bytes(meminfo, cgroup) is None
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:       50 kB\n")
    assert available_host_bytes(meminfo, cgroup) == 50 * 1024
    (cgroup / "memory").mkdir(parents=True)
    for name, text in {"max": "max", "current": "10240"}.items():
        (cgroup / f"memory.{name}").write_text(text + "\n")
    assert available_host_bytes(meminfo, cgroup) == 50 * 1024
    (cgroup / "memory.max").write_text("20480\n")
    assert available_host_bytes(meminfo, cgroup) == 10240
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 4096\n")
    assert available_host_bytes(meminfo, cgroup) == 10240 + 4096
    (cgroup / "memory/memory.limit_in_bytes").write_text("8192\n")
    (cgroup / "memory/memory.usage_in_bytes").write_text("8192\n")
    (cgroup / "memory/memory.stat").write_text("cache 1\ntotal_inactive_file 100\n")
    assert available_host_bytes(meminfo, cgroup) == 100
    assert (available_host_bytes() or 0) > 0


class Commanded(Session):
    """Obeys what is queued for the nth time that it looks, as if it had come over the wire."""

    def __init__(self, queued: dict[int, list[wire.Command]]) -> None:
        super().__init__()
        self.queued = queued
        self.looked = -1
        self.acks: list[wire.Ack] = []
        self.allocated: list[int] = []

    def obey(self) -> bool:
        self.looked += 1
        for command in self.queued.get(self.looked, []):
            self._control._commands.put(command)
        return super().obey()

    def send(self, message: wire.Message, *, sample: bool = False) -> None:
        if isinstance(message, wire.Ack):
            self.acks.append(message)
            self.allocated.append(self.read_memory().allocated_bytes or 0)


@pytest.fixture
def swept() -> Iterator[None]:
    """A loop and its session refer to each other: without this their tensors would count in tests to come."""
    yield
    gc.collect()


def finished(run_dir: Path, session: Session) -> dict[str, torch.Tensor]:
    """Trained to the end; what the last checkpoint holds."""
    loop = prepared(run_dir, session)
    assert isinstance(loop._state.device, SimulatedDevice)
    try:
        assert loop.run() == "finished"
    finally:
        loop._state.device.stop()
    folder = max((run_dir / "checkpoints").glob("step-*-full"))
    return load_file(folder / "model.safetensors") | load_file(folder / "state.safetensors")


def test_a_run_obeys_while_it_is_released(toy_run: Callable[..., Path], swept: None) -> None:
    """Over the loop and the agent: pause, save, ask for another split, resume; then as if it had asked at once."""
    sections: dict[str, Any] = {
        "train": {"max_steps": 4, "precision": "bf16"},
        "options": {"dropout": 0.3, "width": 256, "dtype": "float32"},
        "device": {"kind": "simulated", "capacity": "64MiB"},
        "checkpoint": {"at_end": "full"},
    }
    ask = wire.SetBatchSplit(command_id="c", micro_batch=2)
    calm = finished(toy_run("calm", **sections), Commanded({2: [ask]}))
    commands = [
        wire.Pause(command_id="a", depth="release"),
        wire.SaveCheckpoint(command_id="b", kind="full"),
        ask,
        wire.Resume(command_id="d"),
    ]
    session = Commanded({2: commands})
    run_dir = toy_run("paused", **sections)
    paused = finished(run_dir, session)
    assert_bitwise(paused, calm)
    assert [(ack.command_id, ack.error) for ack in session.acks] == [(name, "") for name in "abcd"]
    assert session.acks[0].result.startswith("paused at step 2; gave back ")
    assert session.acks[2].result == "2 x 2 = 4"
    assert max(session.allocated[:3]) < 10_000 < session.allocated[3]
    saved = verify(run_dir / session.acks[1].result.split(" at ")[1])
    assert (saved.step, saved.kind) == (2, "full")


def test_it_also_frees_what_is_counted_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    device = SimulatedDevice(64 * MIB)
    device.start()
    try:
        paused = trainer(device)
        paused.train(GROUPS[0])
        held = device.read_memory().allocated_bytes or 0
        release = Release(paused.state, plenty)
        assert release.release().startswith("gave back 3.0")
        assert (device.read_memory().allocated_bytes or 0) < 4096
        release.restore()
        assert abs((device.read_memory().allocated_bytes or 0) - held) < 4096
        paused.train(GROUPS[1])
    finally:
        device.stop()


def test_a_pause_anywhere_leaves_no_trace(toy_run: Callable[..., Path], swept: None) -> None:
    """Before the first step, after each, between the batches of an evaluation; dropout and BatchNorm on."""
    sections: dict[str, Any] = {
        "train": {"max_steps": 3, "precision": "fp16", "eval_every": 2, "micro_batch": 2},
        "options": {"dropout": 0.3, "batch_norm": True, "dtype": "float32"},
        "device": {"kind": "simulated", "capacity": "64MiB"},
        "checkpoint": {"at_end": "full"},
    }
    session = Commanded({})
    calm = finished(toy_run("calm", **sections), session)
    assert session.looked + 1 == 1 + 3 + 2 * 3  # at the start, after 3 steps, in 2 evaluations of 3 batches
    for depth in get_args(wire.PauseDepth):
        for place in range(session.looked + 1):
            commands = [wire.Pause(command_id="a", depth=depth), wire.Resume(command_id="b")]
            paused = Commanded({place: commands})
            assert_bitwise(finished(toy_run(f"{depth}-{place}", **sections), paused), calm)
            assert [(ack.command_id, ack.error) for ack in paused.acks] == [("a", ""), ("b", "")]
