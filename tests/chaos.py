"""Trains under random faults, and proves in the end that none of them mattered.

`python tests/chaos.py --minutes 5 --seed 1` from the repository's root, or `python -m tests.chaos`. Three trainings of
one config and seed: a calm one; one under faults that leave the split alone, whose weights must be bitwise those of the
calm one; and one under out-of-memory errors and changes of the split besides, whose weights must be the same to rounding.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
if not __package__:
    sys.path[0] = str(ROOT)  # not tests/, which holds packages with the names of ours

from memdash.errors import ExitCode, MemdashError  # noqa: E402
from tests.faults import deaths, pressure, viewers  # noqa: E402
from tests.faults.place import Place, new_place  # noqa: E402
from tests.faults.storm import Deck, Fault, Outcome, Storm  # noqa: E402
from tests.faults.training import MAX_STEPS, SAVE_EVERY, START_S, Training  # noqa: E402
from tests.faults.verdict import (  # noqa: E402
    Check,
    as_json,
    check_leftovers,
    check_training,
    facts,
    fault_rows,
    table,
)
from tests.faults.waiting import Overdue, Stuck, at_most, until  # noqa: E402

CALM_SHARE, STORM_SHARE = 0.2, 0.35  # of a round's time; the rest is for what kills undo, and to come to the end
LEAST_STEPS = 7 * SAVE_EVERY  # however slow the machine and short the chaos
CALM_SLACK_S = 180.0
SLACK_S = 420.0
SLACK_SHARE = 3.0  # a machine that others use may be so much slower than when the calm training was timed
ROUND_MINUTES = 5  # a longer chaos strikes more trainings of the same length
CALM_AT_END = 1 / 4  # of the steps: whoever is frozen shall not miss the end
FAULTS = [*viewers.FAULTS, *deaths.FAULTS, *pressure.FAULTS]


class Chaos:
    """The three trainings, and what was found."""

    def __init__(self, place: Place, minutes: float, seed: int, say: Callable[[str], None]) -> None:
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self.storms: list[Storm] = []
        self.skipped: dict[str, str] = {}
        self._place, self._seed, self._say = place, seed, say
        self._rounds = max(1, round(minutes / ROUND_MINUTES))
        self._time_s = 60 * minutes / self._rounds
        for fault in FAULTS:
            if why := place.lacks(fault.needs):
                self.skipped[fault.kind] = why

    @property
    def outcomes(self) -> list[Outcome]:
        """Of every fault so far."""
        return [outcome for storm in self.storms for outcome in storm.outcomes]

    def run(self) -> None:
        """Train, strike, compare. Raises Stuck, MemdashError."""
        calm = self._calm()
        unchanging = [fault for fault in FAULTS if not fault.resplits]
        for number in range(1, self._rounds + 1):
            tail = f"-{number}" if self._rounds > 1 else ""
            self._round(f"same-split{tail}", calm, unchanging, bitwise=True)
            self._round(f"any-split{tail}", calm, FAULTS, bitwise=False)
        self.checks += check_leftovers(self._place)

    def _calm(self) -> Training:
        """As many steps as the machine trains in its share of the time; the others train as many."""
        training = Training(self._place, "calm")
        until(training.step, "the first step", START_S)
        end_s = time.monotonic() + CALM_SHARE * self._time_s

        def enough() -> bool:
            step = training.step()
            return step > MAX_STEPS or step >= LEAST_STEPS and time.monotonic() > end_s

        until(enough, "the calm training", CALM_SHARE * self._time_s + CALM_SLACK_S)
        if training.verb("stop") != ExitCode.OK:
            raise Stuck("the calm training did not stop")
        until(lambda: training.status() == "stopped", "the end of the calm training", START_S)
        training.steps = training.full_checkpoints()[0].step
        self._say(f"calm: {training.steps} steps")
        return training

    def _round(self, name: str, calm: Training, faults: list[Fault], *, bitwise: bool) -> None:
        chance = random.Random(f"{self._seed} {name}")
        training = Training(self._place, name, calm.steps)
        storm = Storm(training, chance, lambda text: self._say(f"{name}: {text}"))
        self.storms.append(storm)
        until(lambda: training.step() or training.is_finished(), "the first step", START_S)
        steps = training.steps or 0
        possible = [fault for fault in faults if fault.kind not in self.skipped]
        deck = Deck(possible, chance, first=[] if bitwise else [pressure.CERTAIN_RESPLIT])
        storm.rage(deck, time.monotonic() + STORM_SHARE * self._time_s, round(steps * (1 - CALM_AT_END)))
        self._say(f"{name}: over after {len(storm.outcomes)} faults, at step {training.step()} of {steps}")
        while not training.is_finished():
            training.mend()
        self.checks += check_training(training, calm, storm, bitwise=bitwise)
        self.notes.append(facts(training, storm))
        if self._rounds > 1 and training.remove() != ExitCode.OK:
            raise Stuck(f"`memdash rm {training.run_id}` failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything holds."""
    parser = argparse.ArgumentParser(prog="tests/chaos.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long; at least a half")
    parser.add_argument("--seed", type=int, default=0, help="which faults come when")
    parser.add_argument("--keep", action="store_true", help="leave runs and logs where they are, and say where")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to stderr")
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    out = sys.stderr if options.json else sys.stdout

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_s:7.1f} s  {text}", file=out, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with at_most(SLACK_S + SLACK_SHARE * 60 * options.minutes), new_place(keep=options.keep) as place:
        chaos = Chaos(place, options.minutes, options.seed, say)
        try:
            chaos.run()
            everything = Check("it came to its end", True, f"{time.monotonic() - began_s:.0f} s")
        except (Stuck, MemdashError, Overdue) as trouble:
            everything = Check("it came to its end", False, f"{trouble}")
        except Exception as error:  # what was found until then is told all the same
            traceback.print_exc()
            everything = Check("it came to its end", False, f"{type(error).__name__}: {error}")
        chaos.checks.append(everything)
        if options.keep:
            say(f"kept: {place.root}")
        return _report(chaos, options)


def _report(chaos: Chaos, options: argparse.Namespace) -> int:
    rows = fault_rows(chaos.outcomes, chaos.skipped)
    result = as_json(rows, chaos.checks, chaos.notes, minutes=options.minutes, seed=options.seed)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"\nchaos of {options.minutes:g} minutes, seed {options.seed}: {len(chaos.outcomes)} faults\n")
        print(table(rows))
        print()
        for check in chaos.checks:
            print(f"{'yes' if check.holds else 'NO ':<4} {check.what}: {check.found}")
        for note in chaos.notes:
            print(f"     {note}")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
