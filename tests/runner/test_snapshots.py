"""Torch's memory snapshots: complete or absent, few, and only where torch makes them; torch's functions are stand-ins."""

from __future__ import annotations

import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memdash import wire
from memdash.config import DeviceSection
from memdash.errors import MemdashError
from runner.device import CpuDevice, CudaDevice, Device, open_device
from runner.snapshots import KEEP, Snapshots
from tests.runner.conftest import RecordingSession

GIB = 1 << 30


class Cuda:
    """What torch.cuda is asked for, kept and answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Any]] = []
        properties = types.SimpleNamespace(total_memory=24 * GIB)
        answers: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "get_device_properties": lambda index: properties,
            "set_device": lambda index: None,
            "init": lambda: None,
            "set_per_process_memory_fraction": lambda part, index: self.calls.append(("cap", part)),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", self._observe, raising=False)
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", self._record)
        monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", self._dump)
        self.trouble: OSError | None = None

    def _observe(self, observer: object) -> None:
        self.calls.append(("observe", observer))

    def _record(self, **options: object) -> None:
        self.calls.append(("record", options))

    def _dump(self, filename: str) -> None:
        Path(filename).write_text("half a pickle")
        if self.trouble:
            raise self.trouble
        Path(filename).write_text("a whole pickle")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_a_device_observes_ooms_and_records_a_history_only_when_it_is_wanted(cuda: Cuda) -> None:
    open_device(DeviceSection(kind="cuda", capacity="12GiB")).start()
    assert [name for name, _ in cuda.calls] == ["cap", "observe"]
    assert cuda.calls[0] == ("cap", 0.5)
    cuda.calls.clear()
    open_device(DeviceSection(), record_history=True).start()
    assert cuda.calls[1:] == [("record", {"max_entries": 100_000})]


def test_a_snapshot_lies_where_the_answer_says(cuda: Cuda, tmp_path: Path) -> None:
    folder = tmp_path / "memory-snapshots"
    text = Snapshots(folder, CudaDevice(), has_history=True).dump(12)
    assert text.startswith(f"{folder / 'step-12.pickle'} (14 B): open it at pytorch.org/memory_viz")
    assert "record_history" not in text
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"step-12.pickle": "a whole pickle"}
    again = Snapshots(folder, CudaDevice(), has_history=False).dump(12)
    assert again.endswith("[memory] record_history = true would show who allocated what")


def test_the_newest_few_are_kept_and_no_other_file_is_touched(cuda: Cuda, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, CudaDevice(), has_history=True)
    (tmp_path / "mine.pickle").write_text("a person's")
    (tmp_path / ".step-0.partial").write_text("of a process that was killed")
    for step in range(KEEP + 3):
        snapshots.dump(step)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["mine.pickle", *(f"step-{step}.pickle" for step in range(3, KEEP + 3))]


def test_one_that_fails_leaves_nothing_and_takes_nothing(cuda: Cuda, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, CudaDevice(), has_history=True)
    snapshots.dump(1)
    cuda.trouble = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        snapshots.dump(1)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("step-1.pickle", "a whole pickle")]


def test_a_disk_that_is_nearly_full_is_not_filled(cuda: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=GIB // 2))
    with pytest.raises(MemdashError, match=r"1\.00 GiB should be free, 512 MiB are"):
        Snapshots(tmp_path, CudaDevice(), has_history=True).dump(1)
    assert list(tmp_path.iterdir()) == []


def offered(device: Device, folder: Path, *, has_history: bool = False) -> tuple[RecordingSession, str]:
    """A session, and why it would refuse."""
    session = RecordingSession(CpuDevice())
    Snapshots(folder, device, has_history=has_history).offer(session)
    return session, session._control.capabilities()["DumpMemorySnapshot"]


def test_it_is_offered_where_torch_can(cuda: Cuda, tmp_path: Path) -> None:
    session, reason = offered(CudaDevice(), tmp_path)
    assert reason == ""
    session.step = 7
    sent: list[wire.Message] = []
    session.send = lambda message, sample=False: sent.append(message)  # type: ignore[method-assign,misc]
    session._control._commands.put(wire.DumpMemorySnapshot(command_id="1"))
    assert session.obey()
    (ack,) = sent
    assert isinstance(ack, wire.Ack)
    assert (ack.error, ack.result.split(" ")[0]) == ("", str(tmp_path / "step-7.pickle"))


def test_elsewhere_people_are_told_why_not(tmp_path: Path, simulated: Callable[[int], Device]) -> None:
    assert offered(CpuDevice(), tmp_path)[1] == "torch makes memory snapshots of CUDA devices only, not of the CPU"
    session, reason = offered(simulated(1 << 30), tmp_path, has_history=True)
    assert reason == "torch makes memory snapshots of CUDA devices only, not of the simulated device"
    assert session.notices == [f"memory.record_history has no effect: {reason}"]
