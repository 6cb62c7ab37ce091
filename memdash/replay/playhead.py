"""Where in a recording we are, and how fast we go (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from memdash.wire import PLAYBACK_SPEEDS

LONGEST_LOOK_S = 1.0  # a process that was stopped meanwhile goes on where it was
GAP_S = 10.0  # nothing was recorded for so long: nobody wants to watch that
BEFORE_S = 1.0  # what comes after a gap
WHOLE_S = 120.0  # about as long as a whole recording takes unless somebody says otherwise


@dataclass(frozen=True)
class Playhead:
    """A time between start and end, in Unix seconds."""

    start_s: float
    end_s: float
    time_s: float
    speed: float = 1.0
    """Recorded seconds that pass in one second."""
    playing: bool = True

    def after(self, elapsed_s: float, next_s: Callable[[float], float]) -> Playhead:
        """After real seconds; `next_s` says when after a time something was recorded. Gaps are left out."""
        if not self.playing:
            return self
        time_s = self.time_s + min(elapsed_s, LONGEST_LOOK_S) * self.speed
        if time_s < self.end_s:
            coming_s = next_s(time_s)
            if coming_s - time_s > GAP_S:
                time_s = coming_s - BEFORE_S
        time_s = min(time_s, self.end_s)
        return replace(self, time_s=time_s, playing=time_s < self.end_s)

    def sought(self, time_s: float) -> Playhead:
        """At another time, within the recording."""
        return replace(self, time_s=min(self.end_s, max(self.start_s, time_s)))

    def at_speed(self, speed: float, *, playing: bool) -> Playhead:
        """At another speed, or held; who plays on at the end begins anew."""
        speed = min(PLAYBACK_SPEEDS[-1], max(PLAYBACK_SPEEDS[0], speed))
        time_s = self.start_s if playing and self.time_s >= self.end_s else self.time_s
        return replace(self, time_s=time_s, speed=speed, playing=playing)


def speed_for(duration_s: float) -> float:
    """The slowest speed at which all of it is over in about two minutes."""
    return next((speed for speed in PLAYBACK_SPEEDS if duration_s / speed <= WHOLE_S), PLAYBACK_SPEEDS[-1])
