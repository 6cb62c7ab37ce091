"""The verdict of a plan before `memdash run` starts anything: one line, and a question only where it will not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memdash import wire
from memdash.commands._plan_page import advice, page
from memdash.commands._planning import TIMEOUT_S, as_message, ask, configured, target
from memdash.errors import MemdashError

if TYPE_CHECKING:
    from memdash.config import RunConfig

WAIT_S = 10.0  # a start must not be held up for long; what a plan would have said, the run itself says in time
CLEAR_LINE = "\r\x1b[K"  # ECMA-48: erase in line


class Before(NamedTuple):
    """What is known before the start."""

    goes_on: bool
    """Whether somebody, where there is one to ask, wants it started."""
    message: wire.RunPlan | None
    """For the run's directory; None where no plan was made."""


def before_start(config: RunConfig, path: Path, *, asks: bool) -> Before:
    """Plan for a few seconds, and say what comes of it; without a plan the run is started all the same."""
    if sys.stderr.isatty() and not config.run.command:
        print(f"memdash: planning, {WAIT_S:.0f} s at most ...", end="\r", file=sys.stderr, flush=True)
    try:
        plan = plan_of(config, path, WAIT_S)
    except MemdashError as error:
        _say(f"no plan: {error}; starting without")  # what is wrong with the config, the run will say
        return Before(goes_on=True, message=None)
    message = as_message(plan, list(advice(plan)))
    _say(message.headline)
    if configured(plan)["verdict"] != "oom" or not asks:
        return Before(goes_on=True, message=message)
    return Before(goes_on=_asked(plan), message=message)


def plan_of(config: RunConfig, path: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """A plan for this machine, without other configs beside it. Raises MemdashError, UsageError."""
    source, options = target(config)
    plan = ask(config, path.parent.resolve(), [*options, "--variants", "no"], timeout_s)
    simulated = ", simulated" if config.device.kind == "simulated" else ""
    plan["room"]["source"] = (source or plan["room"]["source"]) + simulated
    plan["config"] = str(path)
    return plan


def _asked(plan: dict[str, Any]) -> bool:
    """Whether to start it all the same."""
    while True:
        try:
            answer = input("start anyway? [y/N, p = the plan] ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            answer = ""
        if answer == "p":
            print("\n".join(page(plan, simulated=False)))
            continue
        if answer not in ("y", "yes"):
            _say("nothing was started")
        return answer in ("y", "yes")


def _say(text: str) -> None:
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{clear}memdash: {text}", file=sys.stderr, flush=True)
