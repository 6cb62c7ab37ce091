"""A run's record, read at any time: what a dashboard would have known then. No clock; memory does not grow with the run."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

import msgspec

from memdash import wire
from memdash.errors import StoreError
from memdash.replay.rows import host_sample, rank_sample, with_figures
from memdash.store.journal import read_journal
from memdash.store.moments import Moments
from memdash.store.printed import Printed
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleReader
from memdash.supervisor.history import History
from memdash.supervisor.keeping import Keeper
from memdash.supervisor.run_state import advance, is_final

DETAIL_S, DETAIL_ROWS = 600.0, 4096  # before a time: read row by row, where a long history has wide buckets
FOLDED_ROWS = {"rank-0": 64, "host": 1}  # what came before them is forgotten, by smoothed figures too
NEWEST_ROWS = 8
FORECAST_S = 30.0  # an older one says what was to come soon, of a time that is over
SINGLY = 32  # more rows than this at once are told as a history
JOURNAL_TAIL = 500
OUTPUT_TAIL_BYTES = 64 << 10
LATE_S = 5.0  # what is journaled so soon after the end belongs to the run; what comes later, to those who looked at it
ALWAYS_TRUE = (
    *("run_id", "name", "created_s", "started_s", "run_dir", "model", "task", "device", "num_parameters"),
    *("num_trainable_parameters", "num_examples", "item_name", "total_steps", "steps_per_epoch", "world_size"),
    *("global_batch", "capabilities"),
)

Sample = wire.StepReport | wire.MemorySample | wire.HostSample


class Timeline:
    """One run, live or over, up to what was recorded when this was made."""

    def __init__(self, directory: RunDirectory) -> None:
        """Raises StoreError when there is nothing to play."""
        record = directory.record()
        self._last = directory.state() or wire.RunState(run_id=record.run_id, name=record.name)
        self._history = Keeper(directory).history
        self._readers = {path.stem: SampleReader(path) for path in sorted(directory.samples.glob("*.rec"))}
        self._drawn = {source: reader for source, reader in self._readers.items() if History.draws(source)}
        self._moments = Moments(directory.states)
        self._printed = Printed(directory)
        self._plan = None
        with contextlib.suppress(StoreError):  # a damaged one is no reason to play nothing
            self._plan = directory.plan()
        self.start_s = record.created_s
        over_s = self._last.ended_s if is_final(self._last) else None
        until_s = math.inf if over_s is None else over_s + LATE_S
        self._journal = [entry for entry in read_journal(directory.journal) if entry.time_s <= until_s]
        times = [*(entry.time_s for entry in self._journal), *self._moments.times]
        times += [reader.time_s(len(reader) - 1) for reader in self._readers.values() if len(reader)]
        self.end_s = max((time_s for time_s in times if time_s <= until_s), default=self.start_s)
        if self.end_s <= self.start_s:
            self.close()
            raise StoreError(f"nothing of {directory.run_id} is recorded yet", hint="watch it: memdash attach")

    @property
    def marks(self) -> list[wire.Mark]:
        """Warnings and errors of the journal."""
        loud = (entry for entry in self._journal if entry.level in ("warning", "error"))
        return [wire.Mark(time_s=entry.time_s, level=entry.level) for entry in loud]

    def everything(self, time_s: float) -> Iterator[wire.FromSupervisor]:
        """What a dashboard is told that comes at this time."""
        state = self.state(time_s)
        yield state
        if self._plan:
            yield self._plan
        for source in self._drawn:
            yield from self._newest(source, time_s, state)
        yield from self._series(time_s)
        stop = self._entries_up_to(time_s)
        yield from self._journal[max(0, stop - JOURNAL_TAIL) : stop]
        yield from self._output(0, self._printed_by(time_s))
        yield wire.Backfilled()

    def between(self, after_s: float, until_s: float) -> Iterator[wire.FromSupervisor]:
        """What it is told that was there all the time; many rows at once as a history, which loses no spike."""
        state = self.state(until_s)
        for source, reader in self._drawn.items():
            start, stop = reader.up_to(after_s), reader.up_to(until_s)
            if stop - start > SINGLY:
                history = History()
                history.load(source, reader.columns(start, stop))
                yield from history.messages()
                yield from self._newest(source, until_s, state)
            else:
                yield from self._samples(source, start, stop, state)
        yield from self._journal[self._entries_up_to(after_s) : self._entries_up_to(until_s)]
        yield from self._output(self._printed_by(after_s), self._printed_by(until_s))
        yield state

    def next_s(self, after_s: float) -> float:
        """When the next thing was recorded; the end when there is none."""
        coming = [(reader, reader.up_to(after_s)) for reader in self._readers.values()]
        times = [reader.time_s(number) for reader, number in coming if number < len(reader)]
        number = self._entries_up_to(after_s)
        times += [entry.time_s for entry in self._journal[number : number + 1]]
        return min([self.end_s, *times])

    def state(self, time_s: float) -> wire.RunState:
        """The last state that was recorded whole, and the samples after it."""
        moment = self._moments.at(time_s)
        state, since_s = (moment.state, moment.time_s) if moment else (self._untold(time_s), -math.inf)
        if is_final(state):
            return state
        for source, folded in FOLDED_ROWS.items():
            if reader := self._readers.get(source):
                start, stop = reader.up_to(since_s), reader.up_to(time_s)
                if stop - start > folded:
                    start = stop - folded
                    state = self._forgotten(state) if source == "rank-0" else state
                for sample in self._samples(source, start, stop, state):
                    state = advance(state, sample)
        gpus = [self._gpu(place, gpu, time_s) for place, gpu in enumerate(state.gpus)]
        forecast = state.forecast if state.forecast and time_s - state.forecast.time_s <= FORECAST_S else None
        return msgspec.structs.replace(state, gpus=gpus, forecast=forecast)

    def close(self) -> None:
        """Close every file."""
        for reader in self._readers.values():
            reader.close()
        self._moments.close()
        self._printed.close()

    # ---- one thing each ----

    def _untold(self, time_s: float) -> wire.RunState:
        """Before the first state that was recorded: what is true all along, and what the journal counts."""
        last = self._last
        if is_final(last) and last.ended_s is not None and time_s >= last.ended_s:
            return last
        kinds = Counter(entry.kind for entry in self._journal[: self._entries_up_to(time_s)])
        return wire.RunState(
            **{name: getattr(last, name) for name in ALWAYS_TRUE},
            phase="training",
            num_ooms=kinds["oom"],
            num_checkpoints=kinds["checkpoint"],
        )

    def _forgotten(self, state: wire.RunState) -> wire.RunState:
        """Without what is smoothed over the last rows, which are about to be folded in."""
        first = self._readers["rank-0"].rows(0, NEWEST_ROWS)
        first_loss = next((row["loss"] for row in first if row["loss"] is not None), None)
        return msgspec.structs.replace(
            state,
            smoothed_loss=None,
            step_time_s=None,
            first_loss=first_loss if state.first_loss is None else state.first_loss,
        )

    def _newest(self, source: str, time_s: float, state: wire.RunState) -> Iterator[Sample]:
        """The last sample up to a time; of a rank the last step before it, too, because the peak is a step's."""
        stop = self._readers[source].up_to(time_s)
        samples = list(self._samples(source, max(0, stop - NEWEST_ROWS), stop, state))
        yield from [sample for sample in samples[:-1] if isinstance(sample, wire.StepReport)][-1:]
        yield from samples[-1:]

    def _series(self, time_s: float) -> Iterator[wire.SeriesHistory]:
        """The buckets of the whole run as far as they are over, and the last minutes from their rows."""
        from_s = max(self.start_s, time_s - DETAIL_S)
        for reader in self._drawn.values():
            if (number := reader.up_to(time_s) - DETAIL_ROWS) > 0:
                from_s = max(from_s, reader.time_s(number))
        width_s = self._history.widest_s() or 1.0
        cut_s = from_s // width_s * width_s  # no bucket lies on both sides of it
        yield from self._history.messages(cut_s)
        detail = History()
        for source, reader in self._drawn.items():
            start, stop = reader.up_to(math.nextafter(cut_s, -math.inf)), reader.up_to(time_s)
            detail.load(source, reader.columns(start, stop))
        yield from detail.messages()

    def _samples(self, source: str, start: int, stop: int, state: wire.RunState) -> Iterator[Sample]:
        """Rows as the messages that they were."""
        host, memory = state.host or self._last.host, state.memory or self._last.memory
        for number, row in enumerate(self._readers[source].rows(start, stop), start):
            if source == "host" and host:
                yield host_sample(row, host)
            elif source.startswith("rank-"):
                sample = rank_sample(int(source.removeprefix("rank-")), number, row, memory)
                if sample is not None:
                    yield sample

    def _gpu(self, place: int, like: wire.GpuReading, time_s: float) -> wire.GpuReading:
        reader = self._readers.get(f"gpu-{place}")
        number = reader.up_to(time_s) if reader else 0
        rows = reader.rows(number - 1, number) if reader and number else iter(())
        return next((with_figures(like, row) for row in rows), like)

    def _printed_by(self, time_s: float) -> int:
        over = time_s >= self.end_s and is_final(self._last)
        return self._printed.total if over else self._printed.up_to(time_s)

    def _output(self, start: int, stop: int) -> Iterator[wire.OutputChunk]:
        """What was printed from one byte up to another, or the end of it when it is long."""
        skipped = max(0, stop - start - OUTPUT_TAIL_BYTES)
        if text := self._printed.text(start + skipped, stop):
            yield wire.OutputChunk(text=text, skipped_bytes=skipped if start else 0)

    def _entries_up_to(self, time_s: float) -> int:
        return bisect_right(self._journal, time_s, key=lambda entry: entry.time_s)
