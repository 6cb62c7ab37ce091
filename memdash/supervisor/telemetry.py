"""UP: what ranks and the host report becomes state, record, history and a broadcast, in that order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from math import nan
from typing import Any

import msgspec

from memdash import wire
from memdash.causes import Cause, Causes
from memdash.ring import Sample
from memdash.store.last_words import LastWords
from memdash.store.recorder import RANK_COLUMNS, Recorder, rank_row
from memdash.supervisor.events import ForecastMade
from memdash.supervisor.fanout import Fanout
from memdash.supervisor.history import History
from memdash.supervisor.record_trouble import RecordTrouble
from memdash.supervisor.run_state import advance
from memdash.units import format_bytes, format_duration

STATE_INTERVAL_S = 0.25  # most broadcasts of the whole state a second: 4
STATE_SAVE_S = 5.0  # how old state.json may be while nothing important happens
MOMENT_S = 1.0  # a script that evaluates after every step must not make its states larger than its samples
SAMPLES = (wire.StepReport, wire.MemorySample, wire.HostSample, wire.GpuSample, ForecastMade)
ANNOUNCED = ("starting", "pausing", "paused", "stopping")  # another entry has said it


class Telemetry:
    """The one place where a run's state changes."""

    def __init__(self, state: wire.RunState, recorder: Recorder, history: History, journal_seq: int = 0) -> None:
        self.state = state
        self.fanout = Fanout()
        self.history = history
        self._recorder = recorder
        self._journal_seq = journal_seq
        self._next_seq: dict[int, int] = {}
        self._heard_s, self._sampled_s = dict(state.heard_s), dict(state.sampled_s)
        self._journaled = False
        """Whether the journal tells of a rank's message that the saved state knows nothing of."""
        self._unsent = self._unsaved = False
        self._untold = False
        """Whether the state was changed by what no record of samples tells."""
        self._sent_s = self._saved_s = self._told_s = 0.0
        self._told_status = ""
        self._trouble = RecordTrouble()
        self._causes = Causes()
        self.listeners: list[Callable[[wire.Message], None]] = []
        """Called with every sample, checkpoint, and what is said of groups to come, after the state has changed."""

    def receive(self, message: wire.Telemetry) -> None:
        """One message of a rank."""
        if isinstance(message, wire.Hello | wire.Ack):
            return
        if handler := self._HANDLERS.get(type(message)):
            handler(self, message)
        self._heard_s[message.rank] = message.time_s
        self._journaled |= not isinstance(message, wire.StepReport | wire.MemorySample | wire.PhaseChanged)

    def sampled(self, rank: int, samples: Sequence[Sample], read_to: int) -> None:
        """What a rank has written into its ring after row `read_to`, oldest first."""
        self._next_seq.setdefault(rank, read_to + 1)
        self._samples(rank, samples)

    def heard_s(self, rank: int) -> float:
        """Time of the newest message of a rank, by this supervisor or the ones before; 0 before the first."""
        return self._heard_s.get(rank, 0.0)

    def sampled_s(self, rank: int) -> float:
        """Likewise of the newest sample."""
        return self._sampled_s.get(rank, 0.0)

    def take_in(self, words: LastWords) -> None:
        """What a rank has left on disk, as far as it was not heard."""
        heard_s = self.heard_s(words.hello.rank)
        for message in words.messages:
            if isinstance(message, wire.StepReport | wire.MemorySample):
                if message.time_s > self.sampled_s(message.rank):
                    self._sample(message)
            elif not isinstance(message, wire.Hello | wire.Ack) and message.time_s > heard_s:
                self.receive(message)

    def catch_up(self, steps: Iterable[wire.StepReport]) -> None:
        """Steps that are recorded, but came after the state was saved."""
        for step in steps:
            self.advance(step)
            self._sampled_s[step.rank] = step.time_s

    def advance(self, event: object) -> None:
        """Change the state; a new status is journaled, saved and shown at once."""
        before, self.state = self.state, advance(self.state, event)
        if self.state is not before:
            self._unsent = self._unsaved = True
            told = isinstance(event, SAMPLES) and _risk(self.state) == _risk(before) and not _alarms(event)
            self._untold |= not told or self.state.status != before.status
        if self.state.attempt != before.attempt:
            self._causes = Causes()
            self._sampled_s.clear()
            self._heard_s.clear()  # nothing of the new one has been heard, whatever the clock says
        if self.state.status != before.status:
            if self.state.status not in ANNOUNCED:
                self.journal(_status_level(self.state.status), "state", _status_text(self.state))
            self.flush_state()

    def journal(self, level: wire.Level, kind: str, text: str) -> None:
        """Write and show one journal entry."""
        self._journal_seq += 1
        entry = wire.JournalEntry(
            seq=self._journal_seq,
            time_s=time.time(),
            attempt=self.state.attempt,
            step=self.state.step,
            level=level,
            kind=kind,
            text=text,
        )
        self._recorder.journal(entry)
        self.fanout.send(entry)

    def host(self, sample: wire.HostSample) -> None:
        """A reading of CPU RAM."""
        self.advance(sample)
        self._recorder.host(sample, self.state.attempt)
        self.history.host(sample.time_s, msgspec.structs.asdict(sample.host))
        self.fanout.send(sample, sample=True)
        self._name(self._causes.host(sample, self.state.phase))
        self._hand_on(sample)

    def gpus(self, sample: wire.GpuSample) -> None:
        """A reading of the GPUs."""
        self.advance(sample)
        self._recorder.gpus(sample, self.state.attempt)
        self.fanout.send(sample, sample=True)
        self._name(self._causes.gpus(sample))

    def output(self, text: str, skipped_bytes: int) -> None:
        """What the training process printed."""
        self.fanout.send(wire.OutputChunk(text=text, skipped_bytes=skipped_bytes), sample=True)

    def tick(self, now_s: float) -> None:
        """Show and save a changed state, but not too often; say when the disk does not take the record."""
        if self._unsent and now_s - self._sent_s >= STATE_INTERVAL_S:
            self._unsent, self._sent_s = False, now_s
            self.fanout.send(self.state, sample=True)
        if self._journaled or (self._unsaved and now_s - self._saved_s >= STATE_SAVE_S):
            self._save(now_s)
        if trouble := self._trouble.look(self._recorder, now_s):
            level, text = trouble
            self.journal(level, "store", text)

    def flush_state(self) -> None:
        """Show and save the state now."""
        self._unsent, self._sent_s = False, time.time()
        self._save(self._sent_s)
        self.fanout.send(self.state)

    def _save(self, now_s: float) -> None:
        self._unsaved = self._journaled = False
        self._saved_s = now_s
        self._recorder.state(msgspec.structs.replace(self.state, heard_s=self._heard_s, sampled_s=self._sampled_s))
        if self._untold and (self.state.status != self._told_status or now_s - self._told_s >= MOMENT_S):
            self._untold, self._told_s, self._told_status = False, now_s, self.state.status
            self._recorder.moment(now_s, self.state)

    def _name(self, causes: list[Cause]) -> None:
        for cause in causes:
            self.journal(cause.level, "memory", cause.text)

    # ---- one short function per message kind ----

    def _training_started(self, message: wire.TrainingStarted) -> None:
        first = self.state.total_steps == 0
        self.advance(message)
        if first:
            text = f"training {message.model or message.task or 'started'}: {message.total_steps} steps"
            self.journal("info", "state", f"{text} of {message.global_batch} examples on {message.device or 'cpu'}")

    def _sample(self, message: wire.StepReport | wire.MemorySample) -> None:
        self._samples(message.rank, [message])

    def _samples(self, rank: int, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._count_gap(rank, sample.seq)
            self.advance(sample)
        self._sampled_s[rank] = samples[-1].time_s
        # the supervisor before may have recorded some and died
        new = [sample for sample in samples if not self._recorder.has(sample)]
        rows = [rank_row(sample, self.state.attempt) for sample in new]
        if not rows:
            return
        self._recorder.rank(rank, rows)
        figures = zip(*rows, strict=True)
        columns = {
            name: [nan if figure is None else figure for figure in column]
            for name, column in zip(RANK_COLUMNS, figures, strict=True)
        }
        self.history.load(f"rank-{rank}", columns)
        for sample in new:
            self.fanout.send(sample, sample=True)
            if isinstance(sample, wire.StepReport):
                self._name(self._causes.step(sample))
            self._hand_on(sample)

    def _coming(self, message: wire.ComingGroups) -> None:
        self._recorder.coming(message)
        self._hand_on(message)

    def _hand_on(self, message: wire.Message) -> None:
        for listen in self.listeners:
            listen(message)

    def _phase_changed(self, message: wire.PhaseChanged) -> None:
        self.advance(message)

    def _evaluated(self, message: wire.EvaluationReport) -> None:
        self.advance(message)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in message.metrics.items())
        self.journal("info", "evaluation", f"{message.num_examples} validation examples: {figures}")
        self.fanout.send(message)

    def _oom(self, message: wire.OomReport) -> None:
        self.advance(message)
        asked = f", asked for {format_bytes(message.requested_bytes)}" if message.requested_bytes else ""
        if asked and message.memory is not None:
            memory = message.memory
            asked += f" with {format_bytes(memory.allocated_bytes)} allocated of {format_bytes(memory.capacity_bytes)}"
            asked += " (simulated)" if memory.kind == "simulated" else ""
        of_step = message.where != "evaluation"
        where = f"step {message.step + 1:,}, {message.where}" if of_step else message.where
        if message.next_micro_batch is None:
            self.journal("error", "oom", f"out of memory in {where} at micro-batch {message.micro_batch}{asked}")
        else:
            change = f"micro-batch {message.micro_batch} -> {message.next_micro_batch}"
            self.journal("warning", "oom", f"out of memory in {where}{asked}; trying again: {change}")
        self.fanout.send(message)

    def _split_changed(self, message: wire.SplitChanged) -> None:
        self.advance(message)
        self.journal("info", "split", f"micro-batch {message.before} -> {message.after}: {message.cause}")

    def _checkpoint_saved(self, message: wire.CheckpointSaved) -> None:
        self.advance(message)
        size, took = format_bytes(message.size_bytes), format_duration(message.duration_s)
        path = message.path.removeprefix(f"{self.state.run_dir}/")
        cause = f" ({message.reason})" if message.reason else ""
        self.journal("good", "checkpoint", f"{message.kind} checkpoint of {size} in {took}{cause}: {path}")
        self.fanout.send(message)
        self._hand_on(message)

    def _notice(self, message: wire.Notice) -> None:
        self.journal(message.level, "notice", message.text)

    def _goodbye(self, message: wire.Goodbye) -> None:
        self.advance(message)

    def _count_gap(self, rank: int, seq: int) -> None:
        expected = self._next_seq.get(rank, seq)
        if seq > expected:
            dropped = self.state.dropped_samples + seq - expected
            self.state = msgspec.structs.replace(self.state, dropped_samples=dropped)
        self._next_seq[rank] = seq + 1

    _HANDLERS: dict[type, Any] = {
        wire.TrainingStarted: _training_started,
        wire.StepReport: _sample,
        wire.MemorySample: _sample,
        wire.PhaseChanged: _phase_changed,
        wire.EvaluationReport: _evaluated,
        wire.OomReport: _oom,
        wire.SplitChanged: _split_changed,
        wire.ComingGroups: _coming,
        wire.CheckpointSaved: _checkpoint_saved,
        wire.Notice: _notice,
        wire.Goodbye: _goodbye,
    }


def _risk(state: wire.RunState) -> wire.Risk:
    return state.forecast.level if state.forecast else "ok"


def _alarms(event: object) -> bool:
    """Whether it is a forecast that somebody should act on: its words are true only for a while."""
    return isinstance(event, ForecastMade) and event.forecast.level in ("warning", "critical")


def _status_level(status: wire.RunStatus) -> wire.Level:
    if status == "finished":
        return "good"
    return "error" if status in ("failed", "oom", "killed", "lost") else "info"


def _status_text(state: wire.RunState) -> str:
    return f"{state.status}: {state.status_reason}" if state.status_reason else state.status
