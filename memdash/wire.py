"""Every message that crosses a process boundary, and its bytes. No I/O.

Newline-delimited JSON, one frame a line, at most MAX_FRAME_BYTES. Telemetry are nouns and go up (rank -> supervisor ->
dashboards); commands are imperatives and go down. A command carries a `command_id`; every rank answers it
with exactly one Ack, and the supervisor answers whoever asked with one CommandResult.

Times are Unix seconds unless named otherwise; bytes are ints.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from memdash.errors import MalformedMessage

PROTOCOL_VERSION = 2
MAX_FRAME_BYTES = 1 << 20

MemoryKind = Literal["exact", "estimated", "simulated", "unavailable"]
"""How a figure came to be; `simulated` is shown wherever the figure shows."""

CheckpointKind = Literal["light", "full"]
"""Weights only, or everything that an exact resume needs."""

Asked = Literal["command", "signal", "guard", "stop"]
"""Why a checkpoint is asked for: a person wants it, a signal such as a scheduler's, the guard, a run that is stopped."""

PauseDepth = Literal["hold", "release"]
"""`hold` keeps all memory; `release` moves model and optimizer state to the host, so that others can use the device."""

RunStatus = Literal[
    "starting", "running", "pausing", "paused", "stopping", "finished", "stopped", "failed", "oom", "killed", "lost"
]
"""`starting` until training is reported, or a program of the user's was not heard of for some seconds; the last six are final."""

FINAL_STATUSES: frozenset[str] = frozenset({"finished", "stopped", "failed", "oom", "killed", "lost"})

Level = Literal["info", "good", "warning", "error"]


Risk = Literal["ok", "watch", "warning", "critical"]
"""How a forecast is to be taken."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message."""


class Message(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """A frame of its own; its class name travels as `type`."""


# ---- values ----------------------------------------------------------------------------------------------------------


class DeviceMemory(Value, frozen=True, kw_only=True):
    """The allocator of one rank's device, named as in torch.cuda.memory_stats(); None where it has no such figure."""

    device: str
    """`cuda:0`, `simulated`, `cpu`."""
    kind: MemoryKind
    capacity_bytes: int | None = None
    """The lowest ceiling that applies to this process on this device."""
    total_bytes: int | None = None
    """Of the whole device."""
    free_bytes: int | None = None
    """Of the whole device: neither this process nor another has it."""
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    active_bytes: int | None = None
    inactive_split_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    """Maximum since the step began."""
    peak_reserved_bytes: int | None = None
    num_alloc_retries: int = 0
    num_ooms: int = 0
    joins_fragments: bool = False
    """Whether gaps between tensors are as good as free memory: expandable_segments, or a device that only counts."""
    reason: str = ""
    """Why figures are unavailable, in words for a person."""


class HostMemory(Value, frozen=True, kw_only=True):
    """CPU RAM as the supervisor reads it from outside the training process."""

    kind: MemoryKind
    process_bytes: int
    """Resident set of the training process and its children, pages that they share counted once."""
    peak_process_bytes: int = 0
    """Maximum since the sample before, by the kernel's high-water marks."""
    main_process_bytes: int = 0
    """Resident set of the training process alone; 0 = unknown."""
    num_processes: int
    swap_bytes: int = 0
    """What of them is swapped out."""
    working_set_bytes: int
    """What counts against `capacity_bytes`: usage less the page cache that can be given back."""
    peak_working_set_bytes: int
    """Maximum since the sample before."""
    capacity_bytes: int
    capacity_source: str
    """The file or call that names the capacity, such as `/sys/fs/cgroup/x/memory.max`."""
    reclaimable_bytes: int = 0
    """Page cache on top of the working set, which the kernel drops before it refuses anything."""
    throttle_bytes: int | None = None
    """memory.high: from there on the kernel slows the processes down."""
    num_throttled: int = 0
    """How often it has done so in this attempt."""
    stalled_some: float | None = None
    """Share of the time since the sample before in which some process waited for memory (PSI)."""
    stalled_full: float | None = None
    """Share in which all of them did."""
    num_stall_alarms: int = 0
    """How often in this attempt the kernel has told at once that some waited 150 ms of two seconds (a PSI trigger)."""
    shm_bytes: int | None = None
    """Used of /dev/shm, where DataLoader workers hand batches over; part of the working set."""
    shm_capacity_bytes: int | None = None


class GpuProcess(Value, frozen=True, kw_only=True):
    """One process on a GPU, as the driver lists it."""

    pid: int
    """As the driver numbers it: inside a container, often the host's number."""
    name: str = ""
    """Empty when the process has vanished or cannot be seen from here."""
    used_bytes: int | None = None
    ours: bool | None = None
    """Whether it is of this run; None where the driver's numbers cannot be matched to ours."""


class GpuReading(Value, frozen=True, kw_only=True):
    """One GPU or MIG instance as NVML sees it, for all who use it; None where the driver has no such figure."""

    index: int
    """NVML's number of the GPU, as nvidia-smi shows it."""
    instance: int | None = None
    """Number of the MIG instance on it; None for a whole GPU."""
    cuda_index: int | None = None
    """N where the training process says `cuda:N`; None where that cannot be told for sure."""
    uuid: str = ""
    name: str = ""
    kind: MemoryKind
    """`exact`, or `unavailable` when not even the memory could be read."""
    total_bytes: int | None = None
    used_bytes: int | None = None
    """By processes; where `reserved_bytes` is None, what the driver keeps for itself is in here."""
    free_bytes: int | None = None
    reserved_bytes: int | None = None
    """What driver and firmware keep for themselves."""
    own_bytes: int | None = None
    """Of this run's processes, CUDA context and libraries included."""
    others_bytes: int | None = None
    """Of everybody else's processes."""
    utilization_percent: int | None = None
    """Share of the last sampling period (0.2 to 1 s) in which any kernel ran."""
    temperature_c: int | None = None
    """Of the whole card, for a MIG instance too."""
    power_w: float | None = None
    """Of the whole card, for a MIG instance too."""
    processes: list[GpuProcess] = []
    """The largest ones."""
    num_processes: int | None = None
    """All of them, listed or not."""
    reason: str = ""
    """Why figures are missing, in words for a person."""


class Outlook(Value, frozen=True, kw_only=True):
    """One thing that memory is heading for; times are seconds from the moment of the forecast, ends of 80 % intervals."""

    where: Literal["host", "device", "time", "disk"]
    kind: Literal["trend", "lookahead", "segment", "budget"]
    level: Risk
    text: str
    """In words, with the figures."""
    evidence: str = ""
    """What it rests on."""
    in_low_s: float | None = None
    in_s: float | None = None
    in_high_s: float | None = None
    """None where there is no end to it."""
    step: int | None = None
    """At which it would happen."""
    capacity_bytes: int | None = None
    now_bytes: int | None = None
    """Trend: floor and spike together, now; from here it rises by `bytes_per_s`."""
    bytes_per_s_low: float | None = None
    bytes_per_s: float | None = None
    bytes_per_s_high: float | None = None
    need_low_bytes: int | None = None
    need_bytes: int | None = None
    """Look-ahead: the peak that the step will have."""
    need_high_bytes: int | None = None
    example: int | None = None
    """Index of its longest example."""
    longest: int | None = None
    fitting_micro_batch: int | None = None
    """The largest micro-batch at which the step fits; None when there is none."""
    rank: int = 0


class Forecast(Value, frozen=True, kw_only=True):
    """Where memory is heading: the most urgent first."""

    time_s: float
    level: Risk
    headline: str = ""
    """Empty when all is well."""
    outlooks: list[Outlook] = []
    grounds: list[str] = []
    """What the other questions found: why there is nothing to warn of."""


def device_headroom_bytes(memory: DeviceMemory | None) -> int | None:
    """Capacity less the peak of the last step and less fragments: the next step needs that peak again.

    Memory that is reserved and in one piece counts as headroom, because the allocator can reuse it or give it back.
    """
    if memory is None or memory.capacity_bytes is None or memory.allocated_bytes is None:
        return None
    peak_bytes = max(memory.allocated_bytes, memory.peak_allocated_bytes or 0)
    return memory.capacity_bytes - peak_bytes - fragment_bytes(memory)


def fragment_bytes(memory: DeviceMemory) -> int:
    """Gaps beside live tensors that no large tensor fits into, as far as the peak of the last step left them empty.

    None where the allocator joins them. What the step put into them is in its peak: what was reserved then and not
    allocated bounds what can have been a gap.
    """
    if memory.joins_fragments or memory.reserved_bytes is None or memory.allocated_bytes is None:
        return 0
    unused = memory.reserved_bytes - memory.allocated_bytes
    if memory.peak_reserved_bytes is not None and memory.peak_allocated_bytes is not None:
        unused = memory.peak_reserved_bytes - memory.peak_allocated_bytes
    return max(0, min(memory.inactive_split_bytes or 0, unused))


def with_step_peak(memory: DeviceMemory, before: DeviceMemory | None) -> DeviceMemory:
    """A reading between two steps with the last step's peaks: that is what the next step will need again."""
    if before is None or before.peak_allocated_bytes is None or memory.peak_allocated_bytes is None:
        return memory
    return msgspec.structs.replace(
        memory,
        peak_allocated_bytes=max(before.peak_allocated_bytes, memory.peak_allocated_bytes),
        peak_reserved_bytes=max(before.peak_reserved_bytes or 0, memory.peak_reserved_bytes or 0) or None,
    )


def host_headroom_bytes(memory: HostMemory | None) -> int | None:
    """Capacity less the peak working set since the last sample; page cache that can be reclaimed counts as headroom."""
    if memory is None:
        return None
    return memory.capacity_bytes - max(memory.working_set_bytes, memory.peak_working_set_bytes)


LAST_WORDS = "last-words-{rank}.jsonl"
"""A file in the run's directory: the frames that a rank would open its next connection with, written when it ends."""

# ---- telemetry: up ---------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """The first frame of a rank or a dashboard; the supervisor answers Welcome or Refused."""

    role: Literal["rank", "viewer"]
    protocol_version: int
    run_id: str
    pid: int
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    attempt: int = 0
    capabilities: dict[str, str] = {}
    """Command name -> "" when this script can do it, else the reason why not. A command not named cannot be done."""
    follow: bool = True
    """Viewers: whether to send history and telemetry, or only answers to commands."""
    samples_fd: int | None = None
    """Ranks: the descriptor, in the sender's process, of a memdash.ring that its samples are written to."""


class Welcome(Message, frozen=True, kw_only=True):
    """The supervisor's answer to a Hello it accepts."""

    protocol_version: int
    run_id: str
    attempt: int
    pid: int
    heard_s: float = 0.0
    """Ranks: time of the newest message that a supervisor of this run has heard; what came after it is sent again."""
    reads_ring: bool = False
    """Ranks: whether samples are read from the ring that Hello names; else they are to be sent."""


class Refused(Message, frozen=True, kw_only=True):
    """The supervisor's answer to a Hello it does not accept; the connection closes after it."""

    reason: str
    hint: str = ""


class TrainingStarted(Message, frozen=True, kw_only=True):
    """What this attempt is going to do; sent once, before the first step."""

    rank: int
    time_s: float
    start_step: int
    total_steps: int
    steps_per_epoch: int
    num_examples: int
    global_batch: int
    micro_batch: int
    num_parameters: int = 0
    num_trainable_parameters: int = 0
    model: str = ""
    task: str = ""
    device: str = ""
    item_name: str = "examples"
    """What the loss is averaged over: `tokens` or `examples`."""


class StepReport(Message, frozen=True, kw_only=True):
    """One optimizer step, sent at its boundary."""

    rank: int
    seq: int
    """Counts this rank's samples (StepReport and MemorySample); a gap means that some were dropped."""
    time_s: float
    step: int
    """Optimizer steps done, counted from 1 over all attempts."""
    epoch: int
    examples_seen: int
    """Committed examples of this run over all ranks and epochs."""
    micro_batch: int
    grad_accum_steps: int
    step_time_s: float
    """Seconds of the step itself, pauses left out."""
    loss: float | None
    """Mean per item over the whole global batch."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    num_items: int = 0
    longest: int = 0
    """The longest example of the group (tokens or timesteps), 0 when unknown."""
    memory: DeviceMemory | None = None


class MemorySample(Message, frozen=True, kw_only=True):
    """Device memory between step reports: while paused, saving or evaluating, and after the cache was emptied."""

    rank: int
    seq: int
    time_s: float
    step: int
    memory: DeviceMemory


class PhaseChanged(Message, frozen=True, kw_only=True):
    """What the training process is busy with, when it is not an ordinary step."""

    rank: int
    time_s: float
    step: int
    phase: Literal["loading", "training", "evaluating", "saving", "paused", "ending"]


class EvaluationReport(Message, frozen=True, kw_only=True):
    """Metrics on the validation examples."""

    rank: int
    time_s: float
    step: int
    num_examples: int
    metrics: dict[str, float]


class SplitChanged(Message, frozen=True, kw_only=True):
    """The training process has changed its micro-batch by itself, other than in answer to an OOM or a command."""

    rank: int
    time_s: float
    step: int
    before: int
    after: int
    cause: str
    """In words: `200 steps without an OOM`."""


class ComingGroups(Message, frozen=True, kw_only=True):
    """Which steps to come have a longest example that is longer than that of every step before them.

    The lists have the same length; whatever length is the largest that fits, the first step over it is in them.
    """

    rank: int
    time_s: float
    through_step: int
    """The last step that was looked at."""
    steps: list[int]
    longest: list[int]
    examples: list[int]
    """Index of the longest example of each."""


class OomReport(Message, frozen=True, kw_only=True):
    """A device out-of-memory error: where it hit, what was asked for, and what was done about it."""

    rank: int
    time_s: float
    step: int
    """Steps done; it hit in the one after."""
    where: str
    """`forward/backward`, `optimizer step` or `evaluation`."""
    micro_batch: int
    next_micro_batch: int | None
    """The split that is tried next; None when the run cannot go on."""
    message: str
    requested_bytes: int | None = None
    memory: DeviceMemory | None = None
    """The allocator when it refused, before anything was freed; None where nobody saw it."""


class CheckpointSaved(Message, frozen=True, kw_only=True):
    """A complete checkpoint lies at `path`: its manifest is written and the rename is done."""

    rank: int
    time_s: float
    step: int
    kind: CheckpointKind
    path: str
    size_bytes: int
    duration_s: float
    reason: str = ""
    """Who wanted it: one of Asked, `schedule`, `best`, `end`, `out of memory`; empty when the script does not say."""


class Notice(Message, frozen=True, kw_only=True):
    """Something a person should read in the journal."""

    rank: int
    time_s: float
    step: int
    level: Level
    text: str


class Ack(Message, frozen=True, kw_only=True):
    """A rank's one answer to a command."""

    command_id: str
    rank: int
    applied_at_step: int
    error: str = ""
    """Why it was not done; empty when it was."""
    result: str = ""
    """What it did, in words: `8 x 2 = 16`, the path of a checkpoint, bytes given back."""


class Goodbye(Message, frozen=True, kw_only=True):
    """The rank's last words."""

    rank: int
    time_s: float
    step: int
    outcome: Literal["finished", "stopped", "failed", "oom"]
    reason: str = ""


# ---- commands: down --------------------------------------------------------------------------------------------------


class Pause(Message, frozen=True, kw_only=True):
    """Hold at the next step boundary."""

    command_id: str
    depth: PauseDepth = "hold"


class Resume(Message, frozen=True, kw_only=True):
    """Go on after a Pause."""

    command_id: str


class SetBatchSplit(Message, frozen=True, kw_only=True):
    """Cut the same global batch into micro-batches of another size from the next step on."""

    command_id: str
    micro_batch: int


class CapStep(Message, frozen=True, kw_only=True):
    """Train one step to come with a micro-batch of at most so many examples; the steps after it are as before."""

    command_id: str
    step: int
    micro_batch: int


class SaveCheckpoint(Message, frozen=True, kw_only=True):
    """Save at the next step boundary."""

    command_id: str
    kind: CheckpointKind
    reason: Asked = "command"


class EmptyCache(Message, frozen=True, kw_only=True):
    """Give memory that is reserved but unused back to the device."""

    command_id: str


class DumpMemorySnapshot(Message, frozen=True, kw_only=True):
    """Write torch's own record of the device's memory into the run's directory."""

    command_id: str


class Stop(Message, frozen=True, kw_only=True):
    """End the run at the next step boundary, after saving what `save` says."""

    command_id: str
    save: Literal["none", "light", "full"] = "full"


Command = Pause | Resume | SetBatchSplit | CapStep | SaveCheckpoint | EmptyCache | DumpMemorySnapshot | Stop
COMMANDS: tuple[type[Message], ...] = (
    Pause,
    Resume,
    SetBatchSplit,
    CapStep,
    SaveCheckpoint,
    EmptyCache,
    DumpMemorySnapshot,
    Stop,
)


class Seek(Message, frozen=True, kw_only=True):
    """Go to another time of a recording."""

    command_id: str
    time_s: float


class SetSpeed(Message, frozen=True, kw_only=True):
    """Play a recording at another speed, or hold it."""

    command_id: str
    speed: float
    """Recorded seconds that pass in one second."""
    playing: bool = True


PLAYBACK_SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
PlaybackCommand = Seek | SetSpeed
"""What only `memdash replay` obeys; a supervisor refuses it."""

# ---- supervisor to dashboards ----------------------------------------------------------------------------------------


class RunState(Message, frozen=True, kw_only=True):
    """All there is to say about a run now; a dashboard draws its figures from this alone."""

    run_id: str
    name: str
    status: RunStatus = "starting"
    status_reason: str = ""
    phase: str = "loading"
    attempt: int = 0
    created_s: float = 0.0
    """When the run was created."""
    started_s: float | None = None
    """When this attempt's training process was started."""
    ended_s: float | None = None
    paused_s: float = 0.0
    """Seconds spent paused in this attempt, up to the last resume."""
    paused_since_s: float | None = None
    """When the pause that goes on now began."""
    past_s: float = 0.0
    """Seconds that the attempts before this one took, pauses left out."""
    pid: int | None = None
    own_command: bool = False
    """Whether a program of the user's is run, whose exit codes mean what it likes, and not memdash's runner."""
    model: str = ""
    task: str = ""
    device: str = ""
    num_parameters: int = 0
    num_trainable_parameters: int = 0
    num_examples: int = 0
    item_name: str = "examples"
    step: int = 0
    start_step: int = 0
    total_steps: int = 0
    epoch: int = 0
    steps_per_epoch: int = 0
    examples_seen: int = 0
    world_size: int = 1
    global_batch: int = 0
    micro_batch: int = 0
    grad_accum_steps: int = 0
    loss: float | None = None
    first_loss: float | None = None
    smoothed_loss: float | None = None
    """Over about the last twenty steps."""
    learning_rate: float | None = None
    step_time_s: float | None = None
    """Smoothed seconds per step."""
    examples_per_s: float | None = None
    items_per_s: float | None = None
    eta_s: float | None = None
    """Seconds of training left at the smoothed pace, pauses left out."""
    metrics: dict[str, float] = {}
    """The last evaluation."""
    memory: DeviceMemory | None = None
    host: HostMemory | None = None
    forecast: Forecast | None = None
    """Made about once a second."""
    gpus: list[GpuReading] = []
    gpus_reason: str = ""
    """Why there is none, in words for a person."""
    num_ooms: int = 0
    """Device out-of-memory errors reported in this run, recovered or not."""
    num_recoveries: int = 0
    """Those after which the same examples were trained all the same."""
    num_growths: int = 0
    """How often the micro-batch went up again."""
    num_restarts: int = 0
    """Attempts that the supervisor has launched by itself after a failure."""
    num_checkpoints: int = 0
    last_checkpoint: str = ""
    longest_save_s: float | None = None
    """What the slowest full checkpoint of this run took."""
    dropped_samples: int = 0
    """Samples that the training process dropped rather than wait."""
    capabilities: dict[str, str] = {}
    linked: bool = False
    """Whether the training process is connected to the supervisor."""
    heard_s: dict[int, float] = {}
    """Time of the newest message of each rank that this state takes account of; on disk only."""
    sampled_s: dict[int, float] = {}
    """Likewise of the newest sample."""
    last_words: str = ""
    """The outcome that the training process named in its Goodbye; empty when it never said one."""
    exit_code: int | None = None
    """Of the training process; negative for a signal."""
    out_of_time: bool = False
    """Whether this attempt's wall budget is used up."""
    stop_cause: str = ""
    """Why the supervisor itself decided to stop this attempt; empty when it did not."""
    oom_killed: bool = False
    """Whether the kernel's OOM killer ended it, or a DataLoader worker of it."""
    worker_killed: bool = False
    """Whether it was a DataLoader worker."""
    run_dir: str = ""


def outside_only(state: RunState) -> str:
    """Why a program of the user's is only watched from outside, in words for a person; empty where it has a Session."""
    return "" if state.linked or not state.own_command else state.capabilities.get(Pause.__name__, "")


def attempt_s(state: RunState, now_s: float) -> float:
    """Seconds that this attempt has taken up to now, or took up to its end, pauses left out."""
    if state.started_s is None:
        return 0.0
    until_s = now_s if state.ended_s is None else state.ended_s
    pause_s = 0.0 if state.paused_since_s is None else until_s - state.paused_since_s
    return max(0.0, until_s - state.started_s - state.paused_s - pause_s)


class HostSample(Message, frozen=True, kw_only=True):
    """CPU RAM, sampled by the supervisor."""

    time_s: float
    host: HostMemory


class GpuSample(Message, frozen=True, kw_only=True):
    """The GPUs that this run may use, read by the supervisor; at most two a second."""

    time_s: float
    gpus: list[GpuReading]
    """In the order in which CUDA numbers them, as far as that is known."""
    reason: str = ""
    """Why there is none."""


class JournalEntry(Message, frozen=True, kw_only=True):
    """One line of the run's journal: commands, acks, state changes, alerts, recoveries."""

    seq: int
    time_s: float
    attempt: int
    step: int
    level: Level
    kind: str
    """`command`, `ack`, `state`, `checkpoint`, `oom`, `memory`, `notice`, `link`."""
    text: str


class OutputChunk(Message, frozen=True, kw_only=True):
    """What the training process printed, in order; invalid UTF-8 is replaced."""

    text: str
    skipped_bytes: int = 0
    """Bytes left out just before this text because they came faster than anyone could read."""


class SeriesHistory(Message, frozen=True, kw_only=True):
    """One recorded series for a dashboard that has just attached: min, max and last of each time bucket.

    A long series comes in several messages; the arrays of one message have the same length.
    """

    series: str
    """`host.working_set`, `host.process`, `device.0.allocated`, `device.0.reserved`, `device.0.peak`, `loss`, ..."""
    bucket_s: float
    """Width of a bucket in seconds; bucket `i` covers `[i * bucket_s, (i + 1) * bucket_s)` of Unix time."""
    buckets: list[int]
    minimum: list[float]
    maximum: list[float]
    last: list[float]


class Mark(Value, frozen=True, kw_only=True):
    """A moment of a recording that is worth a look."""

    time_s: float
    level: Level


class Playback(Message, frozen=True, kw_only=True):
    """Where in a recording the dashboard is; whoever gets this watches no live run."""

    time_s: float
    start_s: float
    end_s: float
    speed: float
    """Recorded seconds that pass in one second."""
    playing: bool
    marks: list[Mark] = []
    anew: bool = False
    """Whether what was told before is void; all that was so far at `time_s` follows."""


class Backfilled(Message, frozen=True, kw_only=True):
    """All history has been sent; what follows is live."""

    dropped: int = 0


class PlannedSplit(Value, frozen=True, kw_only=True):
    """What one micro-batch was estimated to need, with what is taken before the first tensor."""

    micro_batch: int
    worst_bytes: int
    """Of the slice that needs most in the whole run."""
    usual_bytes: int
    """At the median length."""
    verdict: Literal["fits", "tight", "oom", "unknown"]
    step: int = 0
    """The first that will not fit; 0 = each does."""
    example: int = 0
    length: int = 0


class RunPlan(Message, frozen=True, kw_only=True):
    """What `memdash run` estimated before the start, from tensors without memory; sent once to each dashboard."""

    made_s: float
    headline: str
    micro_batch: int
    """That of the config."""
    capacity_bytes: int | None
    source: str
    """Where the capacity comes from."""
    splits: list[PlannedSplit]
    on_host: bool = False
    """Whether the tensors are host memory, too, and no device's."""
    host_bytes: int | None = None
    """Of the training process: libraries, data, and the tensors where they are host memory."""
    advice: list[str] = []
    """What could be changed, in words for a person."""


class CommandResult(Message, frozen=True, kw_only=True):
    """The one answer to a command, once every rank has acked or the deadline has passed."""

    command_id: str
    command: str
    ok: bool
    applied_at_step: int | None = None
    text: str
    """What was done, or why not."""


Telemetry = (
    Hello
    | TrainingStarted
    | StepReport
    | MemorySample
    | PhaseChanged
    | EvaluationReport
    | OomReport
    | SplitChanged
    | ComingGroups
    | CheckpointSaved
    | Notice
    | Ack
    | Goodbye
)
"""What a rank may send."""

FromSupervisor = (
    Welcome
    | Refused
    | RunState
    | HostSample
    | GpuSample
    | StepReport
    | MemorySample
    | EvaluationReport
    | OomReport
    | CheckpointSaved
    | JournalEntry
    | OutputChunk
    | SeriesHistory
    | RunPlan
    | Backfilled
    | CommandResult
    | Playback
)
"""What a dashboard may receive."""

FromViewer = Hello | Command | PlaybackCommand
"""What a dashboard may send."""

ToRank = Welcome | Refused | Command
"""What a rank may receive."""

_encoder = msgspec.json.Encoder()
from_rank: msgspec.json.Decoder[Telemetry] = msgspec.json.Decoder(Telemetry)
from_viewer: msgspec.json.Decoder[FromViewer] = msgspec.json.Decoder(FromViewer)
from_supervisor: msgspec.json.Decoder[FromSupervisor] = msgspec.json.Decoder(FromSupervisor)
to_rank: msgspec.json.Decoder[ToRank] = msgspec.json.Decoder(ToRank)
hello: msgspec.json.Decoder[Hello] = msgspec.json.Decoder(Hello)


def encode(message: Message) -> bytes:
    """One frame with its newline. Raises MalformedMessage when it would be over the limit."""
    frame = _encoder.encode(message) + b"\n"
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"a {type(message).__name__} of {len(frame)} bytes is over {MAX_FRAME_BYTES}")
    return frame


T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], frame: bytes) -> T:
    """One message from a frame without its newline. Raises MalformedMessage."""
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"not a message of ours: {error}") from None


class FrameBuffer:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The complete frames in what came so far, without newlines. Raises MalformedMessage when one is too long."""
        self._tail += data
        *frames, rest = self._tail.split(b"\n")
        if len(rest) > MAX_FRAME_BYTES or any(len(frame) > MAX_FRAME_BYTES for frame in frames):
            raise MalformedMessage(f"a frame of more than {MAX_FRAME_BYTES} bytes")
        self._tail = bytearray(rest)
        return [bytes(frame) for frame in frames if frame]
