"""One more attempt of a run that has ended: from which checkpoint, with which config, and whether anything is left."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from memdash import wire
from memdash.checkpoints import choose
from memdash.config import RunConfig, config_value
from memdash.config_file import override_config, parse_config
from memdash.environment import training_environment
from memdash.errors import UsageError
from memdash.store.run_directory import RunDirectory, find_run
from memdash.supervisor.launch import dismiss_supervisor, is_supervised
from memdash.supervisor.ranks import RankProcess
from memdash.units import parse_bytes, parse_duration

INVARIANT = ("run", "task", "model", "data", "train.global_batch")
"""What a run cannot change between two attempts: its position in the data would mean other examples."""
STOPPING_WAIT_S = 30.0
"""`memdash stop` returns when the checkpoint is saved; the process is gone some seconds later."""


def go_on(args: argparse.Namespace, *, dry: bool = False) -> tuple[RunDirectory, Sequence[str]]:
    """The run that is meant, and what its training process is told; nothing when nothing is left to train.

    Raises UsageError, CheckpointIncomplete.
    """
    directory = find_run(args.resume or args.warm_start)
    state = _wait_while_stopping(directory)
    _check_that_it_is_over(directory, state)
    config, changed = _config(directory, args.overrides)
    if directory.record().own_command:
        again = _once_more(directory, state, args)
        if again and changed and not dry:
            _replace(directory, config, state)
        return directory, again
    asked = args.checkpoint if "/" not in args.checkpoint else str(Path(args.checkpoint).expanduser().absolute())
    if asked == "latest" and _is_trained(config, state, state.step if state else 0):
        _say_so(directory, state)
        return directory, ()
    chosen, _ = choose(directory.checkpoints, asked, ("full",) if args.resume else ("light", "full"))
    if _is_trained(config, state, chosen.step):
        _say_so(directory, state)
        return directory, ()
    if changed and not dry:
        _replace(directory, config, state)
    # What was asked for, not what was chosen: the training process passes over the same ones and tells the journal.
    return directory, ("--resume" if args.resume else "--warm-start", asked)


def _once_more(directory: RunDirectory, state: wire.RunState | None, args: argparse.Namespace) -> Sequence[str]:
    """Not empty where a program of the user's is to be started again. Raises UsageError."""
    if args.warm_start or args.checkpoint != "latest":
        option = "--warm-start" if args.warm_start else "--checkpoint"
        why = f"{option} is for memdash's own runner; {directory.run_id} runs a program of yours, which loads what it saved"
        raise UsageError(
            why, hint=f"memdash run --resume {directory.run_id} starts it again, with MEMDASH_ATTEMPT raised"
        )
    if state is not None and state.status == "finished":
        print(f"{directory.run_id} is finished: its program has ended by itself. To run it again, start a new run.")
        return ()
    return ("--resume", "latest")


def _replace(directory: RunDirectory, config: RunConfig, state: wire.RunState | None) -> None:
    """The next attempt's config in the place of the last one's."""
    directory.replace_config(as_json(config), state.attempt if state else 0)
    directory.replace_record(msgspec.structs.replace(directory.record(), **limits(config)))


def still_open(directory: RunDirectory) -> UsageError:
    """The error of a run that something still holds."""
    hint = f"close it, or wait some seconds; a paused run goes on with: memdash resume {directory.run_id}"
    return UsageError(f"{directory.run_id} is open: it is running, or a dashboard shows it", hint=hint)


def limits(config: RunConfig) -> dict[str, Any]:
    """What the supervisor, and not the training process, heeds of a config."""
    wall, host_budget = config.budget.wall, config.memory.host_budget
    return {
        "restarts": config.on_failure.restart,
        "wall_s": parse_duration(wall) if wall else 0.0,
        "host_budget_bytes": parse_bytes(host_budget) if host_budget else 0,
        "exact_peaks": config.memory.exact_peaks,
        "guard": config.guard,
        "env": training_environment(config),
    }


def as_json(config: RunConfig) -> bytes:
    """As it lies in the run's directory."""
    return msgspec.json.format(msgspec.json.encode(config))


def _wait_while_stopping(directory: RunDirectory) -> wire.RunState | None:
    """The state of a run; of one that was asked to stop, once it has."""
    deadline = time.monotonic() + STOPPING_WAIT_S
    state = directory.state()
    while state is not None and state.status == "stopping" and time.monotonic() < deadline:
        time.sleep(0.1)
        state = directory.state()
    return state


def _check_that_it_is_over(directory: RunDirectory, state: wire.RunState | None) -> None:
    """Raises UsageError when it is not, or when its supervisor does not leave."""
    if state is not None and state.status in wire.FINAL_STATUSES:
        if is_supervised(directory):
            dismiss_supervisor(directory)  # it only shows how the run has ended
    elif state is not None and state.pid and RankProcess.adopt(state.pid, directory.run_id):
        raise still_open(directory)  # its supervisor is gone, but it trains: `memdash attach` brings one back
    if is_supervised(directory):
        raise still_open(directory)


def _config(directory: RunDirectory, overrides: Sequence[str]) -> tuple[RunConfig, bool]:
    """The config of the next attempt, and whether it is another one. Raises UsageError."""
    base = Path(directory.record().cwd)
    try:
        table = msgspec.json.decode((directory.path / "config.json").read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{directory.path / 'config.json'}: cannot be read: {error}") from None
    before = parse_config(table, base=base)
    after = override_config(before, overrides, base)
    for key in INVARIANT:
        if config_value(before, key) != config_value(after, key):
            raise UsageError(f"--set: `{key}` cannot change within a run", hint="start a new run instead")
    return after, after != before


def _is_trained(config: RunConfig, state: wire.RunState | None, step: int) -> bool:
    """Whether a run that has finished has no step left after this one."""
    if state is None or state.status != "finished":
        return False
    by_epochs = math.ceil(config.train.epochs * state.steps_per_epoch) or state.total_steps
    return step >= (config.train.max_steps or by_epochs)


def _say_so(directory: RunDirectory, state: wire.RunState | None) -> None:
    steps = state.total_steps if state else 0
    print(f"{directory.run_id} is finished: all {steps} steps are trained, and nothing is left to do.")
    print(f"To train it further: memdash run --resume {directory.run_id} --set train.max_steps={2 * steps}")
