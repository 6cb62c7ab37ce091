"""A dashboard that is killed, frozen or never reads costs the run nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

from memdash import wire
from memdash.client import Client
from memdash.locations import socket_path
from memdash.store.recorder import recorded_ranks
from tests.conftest import wait_until

VIEWER = """
import asyncio, sys
from memdash.client import Client
async def main():
    client = await Client.connect(sys.argv[1])
    print("connected", flush=True)
    async for message in client.messages():
        pass
asyncio.run(main())
"""


def start_viewer(run_id: str) -> subprocess.Popen[str]:
    viewer = subprocess.Popen([sys.executable, "-c", VIEWER, run_id], stdout=subprocess.PIPE, text=True)
    assert viewer.stdout is not None
    assert viewer.stdout.readline() == "connected\n"
    viewer.stdout.close()
    return viewer


async def test_killed_and_frozen_viewers_cost_no_step(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    killed, frozen = start_viewer(run.run_id), start_viewer(run.run_id)
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        run.order("s" * 500)
        state = await watcher.state(lambda state: state.step == 500, "step 500")
        assert state.dropped_samples == 0
    finally:
        frozen.kill()
        killed.wait()
        frozen.wait()


async def test_a_reader_that_never_reads_is_dropped_before_memory_grows(start_run, watch):
    run = start_run("--flood-mib", "4")
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(str(socket_path(run.run_id)))
    hello = wire.Hello(role="viewer", protocol_version=wire.PROTOCOL_VERSION, run_id=run.run_id, pid=os.getpid())
    deaf.sendall(wire.encode(hello))
    before = rss_bytes(run.supervisor_pid())
    for round_ in range(1, 6):
        run.order("f" + "s" * 1000)
        await watcher.state(lambda state, n=round_: state.step >= n * 1000, f"step {round_ * 1000}")
    assert rss_bytes(run.supervisor_pid()) - before < 40 << 20
    deaf.close()


async def test_fifty_viewers_at_once(start_run, watch):
    run = start_run()
    watchers = [await watch(run) for _ in range(50)]
    await watchers[0].state(lambda state: state.linked, "the rank's connection")
    run.order("s" * 20)
    states = [await watcher.state(lambda state: state.step == 20, "step 20") for watcher in watchers]
    assert {state.dropped_samples for state in states} == {0}


async def test_a_flood_of_output_blocks_nobody_and_stays_bounded(start_run, watch):
    """1 GiB to stdout and stderr; each step, one a MiB, is reported and recorded all the same."""
    mib = 1024
    run = start_run("--flood-mib", str(mib), "--total-steps", "2000")
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    before = rss_bytes(run.supervisor_pid())
    run.order("f")
    state = await watcher.state(lambda state: state.step == mib, "the step after the flood")
    assert state.dropped_samples == 0
    assert [row["step"] for _, row in recorded_ranks(run.directory)] == list(range(1, mib + 1))
    log = run.directory.output
    wait_until(lambda: log.stat().st_size <= 33 << 20, "the log to be cut")
    assert log.with_name("output.log.1").stat().st_size <= 16 << 20
    assert rss_bytes(run.supervisor_pid()) - before < 40 << 20
    skipped = [m.skipped_bytes for m in watcher.seen if isinstance(m, wire.OutputChunk)]
    if not any(skipped):
        chunk = await watcher.until(lambda m: isinstance(m, wire.OutputChunk) and m.skipped_bytes > 0, "skipped bytes")
        skipped = [chunk.skipped_bytes]
    assert sum(skipped) > 1 << 20


async def test_leaving_does_not_end_the_run(start_run):
    run = start_run()
    client = await Client.connect(run.run_id)
    await client.close()
    run.order("sse")
    assert run.wait_for_end().step == 2


def rss_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
