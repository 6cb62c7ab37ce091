"""Injects faults into a training, one after the other, and watches that each is survived and told in the journal."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.faults.training import START_S, Training
from tests.faults.waiting import Stuck, meanwhile, pause, until

Cost = Literal["nothing", "supervisor", "attempt"]
"""What a fault may cost: not a step, the supervisor, or what was trained since the last full checkpoint."""
Evidence = dict[str, int]
"""Pattern -> how many entries of the journal (`kind: text`) it must fit."""

JOURNAL_S = 20.0
LONGEST_GAP_S = 1.5
LEAST_FAULTS = 5  # however slow the machine
OUTCOMES = (None, 0, 10, 13, 15)  # of a viewer: it watches on, or the run ended while it watched


@dataclass(frozen=True)
class Fault:
    """One kind."""

    kind: str
    inject: Callable[[Storm], Evidence]
    cost: Cost
    weight: int = 1
    resplits: bool = False
    """Whether the micro-batch may change by it."""
    needs: Literal["nothing", "disk", "compiler"] = "nothing"
    """A small file system of its own, or the C++ compiler that makes an exact simulated device."""
    loses_samples: bool = False
    """Whether the record may lack steps that were trained meanwhile."""


@dataclass
class Outcome:
    """One injection."""

    kind: str
    training: str
    loses_samples: bool = False
    began_s: float = 0.0
    ended_s: float = 0.0
    survived: bool = False
    evidence: Evidence = field(default_factory=dict)
    journaled: bool = True
    """Whether all evidence was found; true when there is nothing to tell."""
    note: str = ""


class Deck:
    """Deals every kind, then every kind again, each time in another order."""

    def __init__(self, faults: list[Fault], chance: random.Random, first: Sequence[Fault] = ()) -> None:
        self._faults, self._chance = faults, chance
        self._left = list(first)

    def draw(self) -> Fault:
        """The next one."""
        if not self._left:
            self._left = [fault for fault in self._faults for _ in range(fault.weight)]
            self._chance.shuffle(self._left)
        return self._left.pop()


class Storm:
    """What a fault gets: the training it strikes, chance, and a way to let something go on in the background."""

    def __init__(self, training: Training, chance: random.Random, say: Callable[[str], None]) -> None:
        self.training = training
        self.place = training.place
        self.chance = chance
        self.say = say
        self.outcomes: list[Outcome] = []
        self.supervisor_peak_bytes = 0
        self._background: list[tuple[Outcome, Iterator[None]]] = []
        self._num_viewers = 0

    def rage(self, deck: Deck, end_s: float, last_step: int) -> None:
        """Until time is up or the training is nearly over; then all goes back to normal. Raises Stuck."""
        with meanwhile(self._advance):
            try:
                while self.training.step() < last_step and not self._is_enough(end_s):
                    self._strike(deck.draw())
                    pause(self.chance.uniform(0.1, LONGEST_GAP_S))
                until(lambda: not self._background, "what goes on in the background to end", 120)
            finally:
                for _, going in self._background:
                    close = getattr(going, "close", None)
                    if close:
                        close()
        self.training.mend()

    def _is_enough(self, end_s: float) -> bool:
        return time.monotonic() >= end_s and len(self.outcomes) >= LEAST_FAULTS

    def _strike(self, fault: Fault) -> None:
        training = self.training
        outcome = Outcome(fault.kind, training.name, fault.loses_samples, began_s=time.time())
        self.outcomes.append(outcome)
        self.say(f"{fault.kind} (step {training.step()})")
        self._measure_supervisor()
        mark = training.last_entry()
        before = training.trainer(), training.supervisor()
        try:
            outcome.evidence = fault.inject(self)
            training.mend()
            after = training.trainer(), training.supervisor()
            outcome.note = "" if training.is_finished() else _lost(fault.cost, before, after)
            outcome.survived = not outcome.note
        except Stuck as stuck:
            outcome.note = str(stuck)
            training.mend()
        outcome.ended_s = time.time()
        with contextlib.suppress(Stuck):
            until(lambda: not self._missing(outcome, mark), f"{list(outcome.evidence)} in the journal", JOURNAL_S)
        if missing := self._missing(outcome, mark):
            outcome.journaled = False
            outcome.note += f" not in the journal: {', '.join(missing)}"
        if outcome.note:
            self.say(f"  !! {outcome.note}")

    def _missing(self, outcome: Outcome, mark: int) -> list[str]:
        if not outcome.evidence:
            return []
        texts = [f"{entry.kind}: {entry.text}" for entry in self.training.journal() if entry.seq > mark]
        return [p for p, times in outcome.evidence.items() if sum(bool(re.search(p, t)) for t in texts) < times]

    def _measure_supervisor(self) -> None:
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.training.supervisor()}/status").read_text()
            peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
            self.supervisor_peak_bytes = max(self.supervisor_peak_bytes, peak)

    # ---- for faults ----

    def viewer(self) -> tuple[subprocess.Popen[bytes], Path]:
        """A viewer without a terminal that has caught up, and the file it prints to."""
        self._num_viewers += 1
        output = self.place.notes / f"viewer-{self.training.run_id}-{self._num_viewers}.log"
        viewer = self.place.start_memdash("attach", self.training.run_id, "--headless", output=output)
        try:
            until(lambda: output.read_bytes().count(b"\n") > 2 or viewer.poll() is not None, "a viewer", START_S)
            if viewer.poll() not in OUTCOMES:
                raise Stuck(f"a viewer exited with {viewer.returncode}: {output.read_text()[-300:]}")
        except Stuck:
            end(viewer)
            raise
        return viewer, output

    def in_background(self, going: Iterator[None]) -> None:
        """Goes on while other faults strike; a Stuck that it raises counts against the fault that began it."""
        self._background.append((self.outcomes[-1], going))

    def for_a_while(self, least_s: float, most_s: float) -> Iterator[None]:
        """Time passes for something in the background."""
        end_s = time.monotonic() + self.chance.uniform(least_s, most_s)
        while time.monotonic() < end_s:
            yield

    def _advance(self) -> None:
        for outcome, going in list(self._background):
            try:
                next(going)
                continue
            except StopIteration:
                pass
            except Stuck as stuck:
                outcome.survived = False
                outcome.note += f" {stuck}"
                self.say(f"  !! {outcome.kind}: {stuck}")
            self._background.remove((outcome, going))


def end(viewer: subprocess.Popen[bytes]) -> None:
    """kill -9, also one that is frozen."""
    viewer.kill()
    viewer.wait(timeout=20)


def running(pid: int | None) -> bool:
    """Whether there is such a process."""
    return pid is not None and os.path.exists(f"/proc/{pid}/exe")


def _lost(cost: Cost, before: tuple[int | None, int | None], after: tuple[int | None, int | None]) -> str:
    """What a fault cost beyond what it may; empty when nothing."""
    lost = []
    if cost != "attempt" and before[0] != after[0]:
        lost.append("it cost the training process")
    if cost == "nothing" and before[1] != after[1]:
        lost.append("it cost the supervisor")
    return ", ".join(lost)
