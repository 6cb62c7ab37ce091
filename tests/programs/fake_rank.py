"""A training process without torch: one step for every byte that comes through a FIFO, over the real agent.

Bytes: `s` a step, `k` kill -9 itself, `x` raise, `o` report an OOM and go on, `O` run out of memory and end,
`f` flood stdout and stderr with a step after each MiB, `g` grow until somebody ends that, `e` end well, `q` end without
a word. The end of the FIFO is waited out: the test may close and open it again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from memdash import wire
from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.wire import DeviceMemory

MIB = 1 << 20


def main() -> int:
    """Train when told to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fifo", required=True)
    parser.add_argument("--total-steps", type=int, default=1000)
    parser.add_argument("--global-batch", type=int, default=16)
    parser.add_argument("--flood-mib", type=int, default=8)
    parser.add_argument("--no-batch", action="store_true", help="offer no SetBatchSplit")
    parser.add_argument("--device", default="simulated")
    parser.add_argument("--failing-save", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--heed-sigterm", action="store_true", help="stop after a checkpoint, as our runner does")
    parser.add_argument("--mute", action="store_true", help="never say Hello")
    parser.add_argument("--resume", help="as the supervisor says for one more attempt")
    parser.add_argument("--micro-batch", type=int, help="likewise")
    args = parser.parse_args()
    if args.resume:
        print("resuming from", args.resume, flush=True)
    if args.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = FakeRank(args)
    if args.heed_sigterm:
        signal.signal(signal.SIGTERM, lambda *_: rank.session.request_stop())
    if not args.mute:
        rank.start()
    return rank.obey_fifo(args.fifo)


class FakeRank:
    """Steps, split and checkpoints of nothing."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.session = Session(read_memory=self.memory)
        first = args.micro_batch or self.session.asked_micro_batch or args.global_batch
        self.split = BatchSplit(args.global_batch, first)
        if not args.no_batch:
            self.session.on(wire.SetBatchSplit, self.set_split)
        self.session.on(wire.SaveCheckpoint, self.save)
        self.session.on(wire.EmptyCache, lambda command: "gave back 0 B")
        self.session.decline(wire.DumpMemorySnapshot, "memory snapshots are made on a GPU, and this one has no GPU")

    def start(self) -> None:
        """Connect."""
        self.session.start(
            total_steps=self.args.total_steps,
            global_batch=self.split.global_batch,
            micro_batch=self.split.micro_batch,
            model="fake",
            device=self.args.device,
        )

    def memory(self) -> DeviceMemory:
        """Peak in proportion to the micro-batch."""
        peak = (20 + 4 * self.split.micro_batch) * MIB
        return DeviceMemory(
            device="simulated",
            kind="simulated",
            capacity_bytes=128 * MIB,
            allocated_bytes=20 * MIB,
            reserved_bytes=peak,
            active_bytes=20 * MIB,
            peak_allocated_bytes=peak,
            peak_reserved_bytes=peak,
        )

    def set_split(self, command: wire.SetBatchSplit) -> str:
        """Obey."""
        self.split = self.split.with_micro_batch(command.micro_batch)
        return str(self.split)

    def save(self, command: wire.SaveCheckpoint) -> str:
        """Report a checkpoint."""
        if self.args.failing_save:
            raise OSError(28, "No space left on device")
        self.session.checkpoint_saved(command.kind, f"/nowhere/step-{self.session.step}", 1 * MIB, 0.01)
        return f"{command.kind} checkpoint of 1.00 MiB"

    def step(self) -> bool:
        """One step of nothing."""
        return self.session.end_step(
            loss=5.0 / (1 + self.session.step),
            step_time_s=0.01,
            examples_seen=(self.session.step + 1) * self.split.global_batch,
            micro_batch=self.split.micro_batch,
            grad_accum_steps=self.split.grad_accum_steps,
            num_items=100,
        )

    def obey_fifo(self, path: str) -> int:
        """What the test says, byte by byte; commands of the supervisor are obeyed while waiting, too."""
        fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        while True:
            try:
                order = os.read(fifo, 1)
            except BlockingIOError:
                if not self.session.obey():
                    return self.stopped()
                time.sleep(0.002)
                continue
            code = self.obey(order)
            if code is not None:
                return code

    def obey(self, order: bytes) -> int | None:
        """One order; an exit code when it ends the process."""
        session = self.session
        if order == b"s" and not self.step():
            return self.stopped()
        if order == b"k":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == b"x":
            raise ZeroDivisionError("as the test asked")
        if order == b"o":
            session.report_oom(
                where="forward/backward", micro_batch=16, next_micro_batch=8, message="CUDA out of memory"
            )
        if order == b"O":
            session.finish("oom", "one example does not fit")
            return 12
        if order == b"f" and not self.flood():
            return self.stopped()
        if order == b"q":
            return 3
        if order == b"g":
            grow()
        if order == b"e":
            session.finish()
            return 0
        return None

    def flood(self) -> bool:
        """So many MiB, to stdout and stderr in turn, and a step after each."""
        piece = ("x" * 1023 + "\n") * 1024
        for number in range(self.args.flood_mib):
            stream = (sys.stdout, sys.stderr)[number % 2]
            stream.write(piece)
            stream.flush()
            if not self.step():
                return False
        return True

    def stopped(self) -> int:
        """A Stop has come."""
        self.session.finish("stopped", "stopped on request")
        return 10


def grow() -> None:
    """Take memory for ever, a little at a time."""
    blocks = []
    while True:
        blocks.append(bytearray(b"x") * MIB)


def command(fifo: Path, *options: str) -> list[str]:
    """The argv of a fake rank."""
    return [sys.executable, __file__, "--fifo", str(fifo), *options]


if __name__ == "__main__":
    sys.exit(main())
