"""After an update that is torn there is no whole state in the process; the last one on disk is loaded in its place."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from memdash.agent.session import Session
from memdash.checkpoints import Checkpoint, complete, verify
from memdash.errors import MemdashError
from runner.oom import OutOfMemoryStop
from runner.say import say
from runner.training_state import TrainingState, read_training

MAX_ROLLBACKS = 10  # a run that is torn more often trains the same steps for ever


class Rollback:
    """Goes back to this run's last full checkpoint; the position in the data goes back with it."""

    def __init__(self, state: TrainingState, session: Session, folder: Path, fingerprint: dict[str, Any]) -> None:
        self._state = state
        self._session = session
        self._folder = folder
        self._fingerprint = fingerprint
        self._torn_at = -1
        self._left = MAX_ROLLBACKS

    def go_back(self, stop: OutOfMemoryStop) -> None:
        """Load it, generators and all. Raises `stop` when there is none, or when going back did not help before.

        What was trained after the checkpoint is trained again from its weights, so that in what comes out of the run
        every example still counts once an epoch.
        """
        step = self._state.progress.step
        if stop.state_is_whole or step <= self._torn_at or not self._left:
            raise stop
        found = self._newest()
        if found is None:
            raise stop
        self._torn_at = step
        self._left -= 1
        try:
            self._state.load_all(found.path)
        except (MemdashError, OSError) as error:
            self._session.notice(f"{found.path.name} cannot be loaded: {error}", level="error")
            raise stop from error
        gc.collect()
        self._state.device.empty_cache()
        self._session.step = self._state.progress.step
        text = (
            f"out of memory in the middle of the update of step {step + 1}: went back to {found.path.name}; what came "
        )
        text += "after it is trained again from there, so that every example still counts once"
        self._session.notice(text, level="warning")
        say(text)

    def _newest(self) -> Checkpoint | None:
        """Of this very training, verified, and not of its future: a run may have been resumed from an older one."""
        for checkpoint in complete(self._folder):
            if checkpoint.kind == "full" and checkpoint.step <= self._state.progress.step:
                try:
                    verify(checkpoint.path)
                    if read_training(checkpoint.path)["fingerprint"] == self._fingerprint:
                        return checkpoint
                except (MemdashError, KeyError) as error:
                    self._session.notice(f"{error}; passed over for the one before", level="warning")
        return None
