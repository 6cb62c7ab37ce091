"""Every error a user can meet, and the exit code of each branch.

MemdashError                       1   something went wrong that is ours to explain
├ UsageError                       2   what was typed or configured cannot be done
│ ├ ConfigError                        a key or value in the config file
│ └ PlanError                          a split that does not keep the global batch
├ LinkError                        3   no connection to a supervisor
│ ├ SupervisorNotRunning
│ ├ SupervisorAlreadyRunning
│ └ LinkLost
├ WireError                        3   the other side says what we do not understand
│ ├ VersionMismatch
│ └ MalformedMessage
├ CommandError                     4   a command did not take effect
│ ├ CommandRefused
│ └ CommandTimedOut
└ StoreError                       5   what is on disk cannot be used
  ├ RecordCorrupt
  └ CheckpointIncomplete

The outcome of a *run* has exit codes of its own, from 10 up: see ExitCode.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees; stable, documented in the README."""

    OK = 0
    """The command did what it said; for `memdash run --headless`: the run finished."""
    ERROR = 1
    """An error inside memdash."""
    USAGE = 2
    """A wrong option, config key or value; nothing was started."""
    LINK = 3
    """The supervisor could not be reached or speaks another protocol version."""
    COMMAND = 4
    """A command was refused or not acknowledged in time."""
    STORE = 5
    """A run directory or checkpoint cannot be read."""
    STOPPED = 10
    """The run was stopped on request."""
    FAILED = 11
    """The training process ended with an error of its own (a Python traceback, a nonzero exit)."""
    OUT_OF_MEMORY = 12
    """The training process ran out of the device's memory, or the host refused it some, and it could not recover."""
    KILLED = 13
    """A signal killed the training process."""
    HOST_OOM = 14
    """The kernel's OOM killer killed the training process, or a DataLoader worker of it."""
    LOST = 15
    """The training process is gone and nobody saw how it ended."""
    OUT_OF_TIME = 16
    """The run was stopped, after a full checkpoint, because its wall budget was used up; `--resume` continues it."""
    INTERRUPTED = 130
    """Ctrl-C in a foreground command; a run that it watched goes on."""


class MemdashError(Exception):
    """What happened; `hint` says what to do next."""

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MemdashError):
    """What was typed or configured cannot be done."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A key or value in a config file is wrong; the message names file, key and value."""


class PlanError(UsageError):
    """A batch split does not keep the global batch."""


class LinkError(MemdashError):
    """There is no connection to a supervisor."""

    exit_code = ExitCode.LINK


class SupervisorNotRunning(LinkError):
    """No supervisor answers for this run."""


class SupervisorAlreadyRunning(LinkError):
    """Another supervisor holds this run."""


class LinkLost(LinkError):
    """The connection broke."""


class WireError(MemdashError):
    """The other side says what we do not understand."""

    exit_code = ExitCode.LINK


class VersionMismatch(WireError):
    """Two memdash versions speak different protocols."""


class MalformedMessage(WireError):
    """A frame that is too long, truncated, or not one of ours."""


class CommandError(MemdashError):
    """A command did not take effect."""

    exit_code = ExitCode.COMMAND


class CommandRefused(CommandError):
    """The run's state, or the training script, does not allow the command."""


class CommandTimedOut(CommandError):
    """Not every rank acknowledged the command in time."""


class StoreError(MemdashError):
    """What is on disk cannot be used."""

    exit_code = ExitCode.STORE


class RecordCorrupt(StoreError):
    """A run's record is damaged beyond the repair of a torn tail."""


class CheckpointIncomplete(StoreError):
    """A checkpoint lacks its manifest, a file, or the right hash."""
