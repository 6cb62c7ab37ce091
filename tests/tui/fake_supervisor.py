"""A supervisor that only pretends: speaks the real bytes on the real socket, and obeys every command at once.

MEMDASH_RUNTIME_DIR=/tmp/x python -m tests.tui.fake_supervisor RUN_ID [--hz 10] [--hang-up-after S] [--finish-after S]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time

import msgspec

from memdash import wire
from memdash.locations import socket_path
from memdash.units import GIB, MIB
from tests.tui import scenes


class FakeSupervisor:
    """One made-up run for any number of dashboards."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.started_s = time.time()
        created_s = self.started_s - options.age
        self.state = scenes.state(run_id=options.run_id, created_s=created_s, status="running", step=0)
        self.micro_batch = 8
        self.journal: list[wire.JournalEntry] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.chance = random.Random(1)

    def tell(self, message: wire.Message, *writers: asyncio.StreamWriter) -> None:
        """One message, to everyone unless somebody is named."""
        for writer in writers or tuple(self.writers):
            writer.write(wire.encode(message))

    def note(self, text: str, level: wire.Level = "info") -> None:
        """A journal entry for everyone."""
        entry = wire.JournalEntry(
            seq=len(self.journal),
            time_s=time.time(),
            attempt=0,
            step=self.state.step,
            level=level,
            kind="ack",
            text=text,
        )
        self.journal.append(entry)
        self.tell(entry)

    def change(self, **changes: object) -> None:
        """Another state, for everyone."""
        self.state = msgspec.structs.replace(self.state, **changes)
        self.tell(self.state)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One dashboard."""
        wire.decode(wire.hello, (await reader.readline()).rstrip(b"\n"))
        welcome = wire.Welcome(protocol_version=wire.PROTOCOL_VERSION, run_id=self.state.run_id, attempt=0, pid=1)
        for message in (welcome, self.state, *self.journal, *self.history(), wire.Backfilled()):
            self.tell(message, writer)
        self.writers.append(writer)
        while line := await reader.readline():
            self.obey(wire.decode(wire.from_viewer, line.rstrip(b"\n")), writer)
        self.writers.remove(writer)
        writer.close()

    def history(self) -> list[wire.SeriesHistory]:
        """What would have been recorded before this program was started."""
        first, last = int(self.state.created_s / 4), int(self.started_s / 4)
        if first == last:
            return []
        shapes = {
            "host.working_set": (2.4 * GIB, 2.6 * GIB),
            "host.process": (1.2 * GIB, 1.3 * GIB),
            "device.0.allocated": (150 * MIB, 150 * MIB),
            "device.0.reserved": (420 * MIB, 420 * MIB),
            "device.0.peak": (286 * MIB, 320 * MIB),
            "loss": (8.0, 9.0),
            "step_time_s": (0.27, 0.31),
        }
        count = last - first
        return [
            wire.SeriesHistory(
                series=name,
                bucket_s=4.0,
                buckets=list(range(first, last)),
                minimum=[low] * count,
                maximum=[high] * count,
                last=[low] * count,
            )
            for name, (low, high) in shapes.items()
        ]

    def obey(self, command: wire.FromViewer, writer: asyncio.StreamWriter) -> None:
        """Do it, and answer."""
        name = type(command).__name__
        text = "done"
        if isinstance(command, wire.Pause):
            self.change(status="paused", phase="paused")
        elif isinstance(command, wire.Resume):
            self.change(status="running", phase="training")
        elif isinstance(command, wire.SetBatchSplit):
            self.micro_batch = command.micro_batch
            self.change(micro_batch=command.micro_batch, grad_accum_steps=-(-16 // command.micro_batch))
            text = f"{command.micro_batch} x {self.state.grad_accum_steps} = 16"
        elif isinstance(command, wire.Stop):
            self.change(status="stopped", ended_s=time.time(), status_reason="asked for by a dashboard")
        self.note(f"{name}: {text}", "good")
        assert not isinstance(command, wire.Hello)
        answer = wire.CommandResult(
            command_id=command.command_id, command=name, ok=True, applied_at_step=self.state.step, text=text
        )
        self.tell(answer, writer)

    def tick(self) -> None:
        """One step and one host sample."""
        now = time.time()
        self.tell(
            wire.HostSample(
                time_s=now, host=scenes.host(2.4 + 0.2 * self.chance.random(), 1.2 + self.chance.random() / 10)
            )
        )
        if self.state.status != "running":
            return
        number = self.state.step + 1
        memory = scenes.device(150, 150 + self.micro_batch * 17 + 30 * self.chance.random(), 420)
        loss = 4 + 5 / (1 + number / 60) + self.chance.gauss(0, 0.15)
        report = scenes.step(
            now - scenes.T0, number, memory, loss=loss, micro_batch=self.micro_batch, step_time_s=1 / self.options.hz
        )
        self.tell(report)
        if number % 10 == 0:
            self.tell(wire.OutputChunk(text=f"\repoch 0: {number % 300:4}/300 loss {loss:.3f}"))
        if number % 5 == 0:
            self.change(step=number, loss=loss, eta_s=(1200 - number) / self.options.hz)
        else:
            self.state = msgspec.structs.replace(self.state, step=number)

    async def run(self) -> None:
        """Until it is killed."""
        path = socket_path(self.options.run_id)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self.serve, path)
        self.note("run created", "info")
        async with server:
            while True:
                await asyncio.sleep(1 / self.options.hz)
                self.tick()
                age_s = time.time() - self.started_s
                if self.options.hang_up_after and age_s > self.options.hang_up_after:
                    return
                if self.options.finish_after and age_s > self.options.finish_after and self.state.ended_s is None:
                    self.change(status="finished", ended_s=time.time(), exit_code=0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    parser.add_argument("--hz", type=float, default=4.0)
    parser.add_argument("--hang-up-after", type=float, default=0.0)
    parser.add_argument("--age", type=float, default=0.0, help="seconds of history to have")
    parser.add_argument("--finish-after", type=float, default=0.0)
    asyncio.run(FakeSupervisor(parser.parse_args()).run())


if __name__ == "__main__":
    main()
