"""What a dashboard knows about its run; every widget draws from this alone (pure)."""

from __future__ import annotations

from memdash import wire
from memdash.tui.actions import Pending
from memdash.tui.danger import Danger, danger, headroom_fraction, warning
from memdash.tui.output_text import OutputText
from memdash.tui.series import SeriesStore

MAX_JOURNAL = 1000


class Board:
    """The newest of everything; `take` is the only way in for what the supervisor says."""

    def __init__(self) -> None:
        self.state: wire.RunState | None = None
        self.host: wire.HostMemory | None = None
        self.devices: dict[int, wire.DeviceMemory] = {}
        self.series = SeriesStore()
        self._journal: dict[int, wire.JournalEntry] = {}
        self.journal_version = 0
        self.output = OutputText()
        self.peaks: dict[int, int] = {}
        """Highest peak recorded for each micro-batch since we came."""
        self.last_checkpoint: wire.CheckpointSaved | None = None
        self.playback: wire.Playback | None = None
        """Where in a recording we are; None for a live run."""
        self.plan: wire.RunPlan | None = None
        """What was estimated before the start."""
        self.pending: dict[str, Pending] = {}
        self.dangers = {"host": Danger.NONE, "device": Danger.NONE}
        self._recovering: dict[int, bool] = {}
        """Ranks whose newest peak is that of a split which has been given up; whether the step after it has come."""
        self._reported = 0
        """Recoveries that were reported before the state counted them."""

    def start_over(self) -> None:
        """Forget all but the state: a supervisor sends the whole history to whoever connects."""
        fresh = Board()
        self.series, self._journal, self.output = fresh.series, fresh._journal, fresh.output
        self.journal_version += 1

    def fresh(self) -> Board:
        """One that knows nothing, and that no widget takes for this one."""
        board = Board()
        board.journal_version = self.journal_version + 1
        return board

    def take(self, message: wire.FromSupervisor) -> None:
        """Take in one message."""
        self.series.take(message)
        match message:
            case wire.RunState():
                self._take_state(message)
            case wire.HostSample(host=host):
                self.host = host
            case wire.StepReport() | wire.MemorySample():
                self._take_device(message)
            case wire.OomReport(next_micro_batch=int()):
                self._reported += 1
                self._recovered(message.rank)
            case wire.CheckpointSaved():
                self.last_checkpoint = message
            case wire.JournalEntry():
                self._take_entry(message)
            case wire.OutputChunk():
                self.output.feed(message.text, message.skipped_bytes)
            case wire.RunPlan():
                self.plan = message
            case wire.Playback():
                self.playback = message
            case wire.CommandResult(command_id=command_id):
                self.pending.pop(command_id, None)

    @property
    def journal(self) -> list[wire.JournalEntry]:
        """Every entry once, oldest first."""
        return [self._journal[seq] for seq in sorted(self._journal)]

    def device(self) -> wire.DeviceMemory | None:
        """The memory of the tightest rank."""
        newest = self.devices.get(self.series.tightest_rank())
        return newest or (self.state.memory if self.state else None)

    def gpu(self) -> wire.GpuReading | None:
        """What the driver says of that rank's device; None where the two cannot be matched."""
        memory = self.device()
        gpus = self.state.gpus if self.state and memory else []
        return next((gpu for gpu in gpus if memory and memory.device == f"cuda:{gpu.cuda_index}"), None)

    def headroom(self, where: str) -> tuple[int | None, int | None]:
        """Headroom and capacity in bytes, of `host` or `device`."""
        if where == "host":
            return wire.host_headroom_bytes(self.host), self.host.capacity_bytes if self.host else None
        memory = self.device()
        return wire.device_headroom_bytes(memory), memory.capacity_bytes if memory else None

    def is_over(self) -> bool:
        """Whether the run has a final status."""
        return self.state is not None and self.state.status in wire.FINAL_STATUSES

    def now_s(self, clock_s: float) -> float:
        """The time up to which the run is shown: it stops when the run ends, and a recording has its own."""
        if self.playback is not None:
            return self.playback.time_s
        ended_s = self.state.ended_s if self.state and self.is_over() else None
        return clock_s if ended_s is None else ended_s

    def alarms(self) -> list[tuple[str, Danger, str]]:
        """The danger levels that were entered from below since the last call."""
        entered = []
        for where, before in self.dangers.items():
            if self.is_over():
                self.dangers[where] = Danger.NONE
                continue
            if where == "device" and self.series.tightest_rank() in self._recovering:
                continue
            headroom_bytes, capacity_bytes = self.headroom(where)
            level = danger(before, headroom_fraction(headroom_bytes, capacity_bytes))
            self.dangers[where] = level
            if level > before and headroom_bytes is not None and capacity_bytes:
                entered.append((where, level, warning(where, headroom_bytes, capacity_bytes, self.state)))
        return entered

    def _take_state(self, state: wire.RunState) -> None:
        if self.state is not None and state.attempt != self.state.attempt:
            self.devices.clear()
            self._recovering.clear()
        elif self.state is not None:
            risen = state.num_recoveries - self.state.num_recoveries
            if risen > self._reported:
                self._recovered(0)
            self._reported = max(0, self._reported - max(0, risen))
        self.state = state

    def _take_entry(self, entry: wire.JournalEntry) -> None:
        """A live entry can overtake the history, and then comes again with it."""
        self._journal[entry.seq] = entry
        if len(self._journal) > MAX_JOURNAL:
            del self._journal[min(self._journal)]
        self.journal_version += 1

    def _recovered(self, rank: int) -> None:
        """What was too large has been cut already: the peak that it left behind is nothing to warn of."""
        for each in {rank, *self.devices}:
            self._recovering.setdefault(each, False)

    def _take_device(self, report: wire.StepReport | wire.MemorySample) -> None:
        if report.memory is None:
            return
        if isinstance(report, wire.MemorySample):
            self.devices[report.rank] = wire.with_step_peak(report.memory, self.devices.get(report.rank))
            return
        self.devices[report.rank] = report.memory
        if self._recovering.pop(report.rank, True) is False:  # the step that was tried again
            self._recovering[report.rank] = True
            return
        peak = report.memory.peak_allocated_bytes
        if peak is not None:
            self.peaks[report.micro_batch] = max(peak, self.peaks.get(report.micro_batch, 0))
