"""The ring: what is written is read, once, in order, whoever dies; what is not read in time is counted."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
import sys

import pytest

from memdash import ring, wire
from memdash.errors import MalformedMessage
from memdash.ring import ROWS, RingReader, RingWriter

NO_DEVICE = wire.DeviceMemory(device="cpu", kind="unavailable", reason="this script named no device")
FULL = wire.DeviceMemory(
    device="cuda:1",
    kind="exact",
    capacity_bytes=(1 << 40) + 1,
    total_bytes=16 << 30,
    free_bytes=0,
    allocated_bytes=3,
    reserved_bytes=5,
    active_bytes=4,
    inactive_split_bytes=1,
    peak_allocated_bytes=7,
    peak_reserved_bytes=8,
    num_alloc_retries=9,
    num_ooms=10,
    joins_fragments=True,
)
SPARSE = wire.DeviceMemory(device="mps", kind="exact", capacity_bytes=9, allocated_bytes=3, reserved_bytes=5)


def write(writer: RingWriter, number: int, memory: wire.DeviceMemory = NO_DEVICE, loss: float | None = 1.5) -> None:
    writer.step(100.0 + number, number, 2, 16 * number, 4, 3, 0.25, loss, None, 0.5, 1000, 128, memory)


def pair() -> tuple[RingWriter, RingReader]:
    writer = RingWriter()
    return writer, RingReader(writer.memory, 3)


@pytest.mark.parametrize("memory", [NO_DEVICE, FULL, SPARSE], ids=["none", "full", "sparse"])
def test_a_step_comes_back_as_it_was(memory):
    writer, reader = pair()
    write(writer, 1, memory)
    assert reader.take() == [
        wire.StepReport(
            rank=3,
            seq=1,
            time_s=101.0,
            step=1,
            epoch=2,
            examples_seen=16,
            micro_batch=4,
            grad_accum_steps=3,
            step_time_s=0.25,
            loss=1.5,
            learning_rate=None,
            grad_norm=0.5,
            num_items=1000,
            longest=128,
            memory=memory,
        )
    ]


def test_a_reading_between_steps_and_another_device():
    writer, reader = pair()
    write(writer, 1, NO_DEVICE)
    writer.reading(5.0, 1, FULL)
    write(writer, 2, SPARSE)
    samples = reader.take()
    assert [sample.memory for sample in samples] == [NO_DEVICE, FULL, SPARSE]
    assert samples[1] == wire.MemorySample(rank=3, seq=2, time_s=5.0, step=1, memory=FULL)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_a_loss_that_is_no_number_is_none(loss):
    writer, reader = pair()
    write(writer, 1, loss=loss)
    assert reader.take()[0].loss is None


def test_what_is_not_done_is_read_again():
    writer, reader = pair()
    for number in range(1, 6):
        write(writer, number)
    assert [sample.seq for sample in reader.take()] == [1, 2, 3, 4, 5]
    reader.done(3)
    another = RingReader(writer.memory, 3)  # after a kill -9 of the one before
    assert (another.read_to, [sample.seq for sample in another.take()]) == (3, [4, 5])
    another.done(5)
    assert another.take() == []


def test_rows_that_nobody_read_in_time_are_missing_at_the_beginning():
    writer, reader = pair()
    for number in range(1, ROWS + 101):
        write(writer, number)
    seqs = [sample.seq for sample in reader.take()]
    assert seqs == list(range(102, ROWS + 101))  # the one that the next step writes over is left out, too


def test_ever_new_words_do_not_grow_the_ring():
    writer, reader = pair()
    for number in range(100):
        write(writer, number, wire.DeviceMemory(device="cpu", kind="unavailable", reason=f"{number} " + "é" * 1000))
    samples = reader.take()
    assert len(samples) == 100
    assert samples[0].memory.reason.startswith("0 ")
    assert samples[-1].memory.reason.startswith("99 ")


def test_it_outlives_the_process_that_wrote_it():
    """A kill -9 in the middle of training loses no row."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.test_ring import RingWriter, write, FULL\n"
        "writer = RingWriter(); print(writer.descriptor, flush=True); sys.stdin.readline()\n"
        "for number in range(1, 4): write(writer, number, FULL)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, os.getcwd()], stdin=-1, stdout=-1, text=True)
    assert child.stdin
    assert child.stdout
    with child:
        reader = RingReader.of(child.pid, int(child.stdout.readline()), 0)
        child.stdin.write("\n")
        child.stdin.flush()
        child.wait(20)
    assert [sample.step for sample in reader.take()] == [1, 2, 3]
    reader.close()


def test_what_is_no_ring_is_refused():
    with pytest.raises(MalformedMessage, match="not a ring"):
        RingReader(mmap.mmap(-1, 4096), 0)
    with pytest.raises(MalformedMessage, match="not a ring"):
        RingReader(mmap.mmap(-1, len(RingWriter().memory)), 0)
    read, write_end = os.pipe()
    try:
        with pytest.raises((MalformedMessage, OSError)):
            RingReader.of(os.getpid(), read, 0)
    finally:
        os.close(read)
        os.close(write_end)


def test_memory_that_its_owner_could_take_away_is_not_looked_into():
    """Reading a page that is gone ends the reader by SIGBUS."""
    writer = RingWriter()
    assert writer.descriptor is not None
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(writer.descriptor, 0)
    loose = os.memfd_create("loose")
    try:
        os.write(loose, writer.memory[:])
        with pytest.raises(MalformedMessage, match="not a ring"):
            RingReader.of(os.getpid(), loose, 0)
    finally:
        os.close(loose)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (ring._WRITTEN_AT, b"\0" * 8),  # fewer written than read
        (ring._PLACES_AT + 4, b"!!"),
        (ring._PLACES_AT + 4, b'[["cpu", "guessed", "", false]]'),
        (ring._ROWS_AT + 8, b"\xff" * 8),  # a time that is no number
        (ring._ROWS_AT + 16, b"\xff" * 8),  # likewise a step
    ],
)
def test_nonsense_in_it_is_no_sample(at, data):
    writer, reader = pair()
    write(writer, 1)
    if at == ring._WRITTEN_AT:
        reader.done(1)
    writer.memory[at : at + len(data)] = data
    if b"guessed" in data:
        writer.memory[ring._PLACES_AT : ring._PLACES_AT + 4] = len(data).to_bytes(4, sys.byteorder)
    with pytest.raises(MalformedMessage, match="ring"):
        reader.take()
