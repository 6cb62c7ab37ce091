"""Makes docs/dashboard.svg and docs/forecast.svg from real runs of two examples: `python docs/make_picture.py`, three minutes."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from memdash import wire
from memdash.client import Client, new_command_id
from memdash.tui.app import Dashboard

DOCS = Path(__file__).parent
SIZE, FORECAST_SIZE = (120, 38), (100, 24)
FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def start(example: str) -> str:
    """The id of a run that goes on by itself."""
    argv = [sys.executable, "-m", "memdash", "run", str(DOCS.parent / "examples" / example), "--detach"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


async def leak(run_id: str) -> None:
    """Wait until the forecast warns, take the picture, stop."""
    client = await Client.connect(run_id)
    async for message in client.messages():
        if (
            isinstance(message, wire.RunState)
            and message.forecast
            and message.forecast.level in ("warning", "critical")
        ):
            break
    app = Dashboard(lambda: Client.connect(run_id))
    async with app.run_test(size=FORECAST_SIZE) as pilot:
        await reach_step(client, app.board.state.step + 40 if app.board.state else 0)
        await pilot.pause()
        (DOCS / "forecast.svg").write_text(without_web_fonts(app.export_screenshot(title=f"memdash attach {run_id}")))
    await ask(run_id, wire.Stop(command_id=new_command_id(), save="none"))
    await client.close()


async def demo(run_id: str) -> None:
    """Let it train, press keys as a person would, take the picture, stop."""
    client = await Client.connect(run_id)
    await reach_step(client, 150)
    await ask(run_id, wire.SetBatchSplit(command_id=new_command_id(), micro_batch=8))
    await reach_step(client, 300)
    await ask(run_id, wire.SaveCheckpoint(command_id=new_command_id(), kind="light"))
    await reach_step(client, 420)
    app = Dashboard(lambda: Client.connect(run_id))
    async with app.run_test(size=SIZE) as pilot:
        await reach_step(client, 460)
        await pilot.pause()
        (DOCS / "dashboard.svg").write_text(without_web_fonts(app.export_screenshot(title=f"memdash attach {run_id}")))
    await ask(run_id, wire.Stop(command_id=new_command_id(), save="none"))
    await client.close()


async def reach_step(client: Client, step: int) -> None:
    """Follow the run until it is there."""
    async for message in client.messages():
        if isinstance(message, wire.RunState) and message.step >= step:
            return


async def ask(run_id: str, command: wire.Command) -> None:
    """As a verb does."""
    client = await Client.connect(run_id, follow=False)
    await client.request(command, timeout_s=60)
    await client.close()


def without_web_fonts(svg: str) -> str:
    """A picture that loads nothing from anywhere."""
    svg = re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", FONT).replace("<!-- Generated with Rich https://www.textualize.io -->", "")


if __name__ == "__main__":
    asyncio.run(demo(start("demo.toml")))
    asyncio.run(leak(start("leak.toml")))
