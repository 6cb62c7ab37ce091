"""What a run's state becomes when something happens (pure; time comes with the message)."""

from __future__ import annotations

from typing import Any

import msgspec

from memdash import wire
from memdash.batching import BatchSplit
from memdash.errors import ExitCode, PlanError
from memdash.supervisor.events import (
    CommandAccepted,
    CommandApplied,
    CommandFailed,
    ForecastMade,
    LinkChanged,
    NotHeardOf,
    RankExited,
    RankStarted,
    StopDecided,
    WallBudgetSpent,
)
from memdash.supervisor.verdict import judge
from memdash.wire import RunState, RunStatus

WITHOUT_SESSION = "this program has not made a memdash.Session"
SMOOTHING = 0.1  # weight of the newest step in the smoothed step time: about the last twenty steps


def advance(state: RunState, event: object) -> RunState:
    """The state after `event`: a wire message of a rank or one of the events above."""
    step = _TRANSITIONS.get(type(event))
    return step(state, event) if step else state


def is_final(state: RunState) -> bool:
    """Whether the run is over."""
    return state.status in wire.FINAL_STATUSES


def refusal(state: RunState, command: wire.Command) -> str:
    """Why a command cannot be taken now, in words for a person; empty when it can."""
    name = type(command).__name__
    if isinstance(command, wire.Pause) and command.depth == "release":
        name = "Release"
    if is_final(state):
        return f"the run is over: {state.status}"
    if isinstance(command, wire.Stop):
        again = state.status == "stopping" and command.save != "none"
        return "already stopping; a stop that saves nothing ends it by force" if again else ""
    if not state.linked:
        if reason := state.capabilities.get(name):
            return reason
        return (
            "the training process is not connected yet" if state.step == 0 else "the training process does not answer"
        )
    if reason := state.capabilities.get(name, f"this script does not offer {name}"):
        return reason
    if isinstance(command, wire.Pause) and state.status in ("pausing", "paused"):
        return f"already {state.status}"
    if isinstance(command, wire.Resume) and state.status not in ("pausing", "paused"):
        return "the run is not paused"
    if isinstance(command, wire.SetBatchSplit):
        try:
            BatchSplit(state.global_batch, command.micro_batch, state.world_size)
        except PlanError as error:
            return str(error)
    return ""


def outcome_exit_code(state: RunState) -> ExitCode:
    """What `memdash run --headless` exits with when the run has ended like this."""
    if state.status == "killed" and state.oom_killed:
        return ExitCode.HOST_OOM
    if state.status == "stopped" and state.out_of_time:
        return ExitCode.OUT_OF_TIME
    if state.status == "failed" and state.exit_code == ExitCode.USAGE and not state.own_command:
        return ExitCode.USAGE
    return {
        "finished": ExitCode.OK,
        "stopped": ExitCode.STOPPED,
        "failed": ExitCode.FAILED,
        "oom": ExitCode.OUT_OF_MEMORY,
        "killed": ExitCode.KILLED,
        "lost": ExitCode.LOST,
    }.get(state.status, ExitCode.ERROR)


# ---- transitions -----------------------------------------------------------------------------------------------------


def _set(state: RunState, **changes: Any) -> RunState:
    return msgspec.structs.replace(state, **changes)


def _rank_started(state: RunState, event: RankStarted) -> RunState:
    return _set(
        state,
        status="starting",
        phase="loading",
        attempt=event.attempt,
        num_restarts=state.num_restarts + int(event.by_policy),
        started_s=event.time_s,
        past_s=state.past_s + wire.attempt_s(state, event.time_s),
        ended_s=None,
        exit_code=None,
        oom_killed=False,
        worker_killed=False,
        out_of_time=False,
        stop_cause="",
        pid=event.pid,
        paused_s=0.0,
        paused_since_s=None,
        capabilities={},
        micro_batch=0,
        grad_accum_steps=0,
        last_words="",
        status_reason="",
    )


def _link_changed(state: RunState, event: LinkChanged) -> RunState:
    if event.capabilities is None:
        return _set(state, linked=event.linked)
    return _set(state, linked=event.linked, capabilities=event.capabilities)


def _not_heard_of(state: RunState, event: NotHeardOf) -> RunState:
    names = [command.__name__ for command in wire.COMMANDS if command is not wire.Stop]
    return _set(
        state,
        status="running" if state.status == "starting" else state.status,
        phase="training",
        capabilities={wire.Stop.__name__: "", **dict.fromkeys([*names, "Release"], WITHOUT_SESSION)},
    )


def _training_started(state: RunState, message: wire.TrainingStarted) -> RunState:
    split = BatchSplit(message.global_batch, message.micro_batch, state.world_size)
    return _set(
        state,
        status="running" if state.status == "starting" else state.status,
        start_step=message.start_step,
        step=max(state.step, message.start_step),
        total_steps=message.total_steps,
        steps_per_epoch=message.steps_per_epoch,
        num_examples=message.num_examples,
        global_batch=message.global_batch,
        micro_batch=state.micro_batch or message.micro_batch,
        grad_accum_steps=state.grad_accum_steps or split.grad_accum_steps,
        num_parameters=message.num_parameters,
        num_trainable_parameters=message.num_trainable_parameters,
        model=message.model,
        task=message.task,
        device=message.device,
        item_name=message.item_name,
    )


def _step_reported(state: RunState, report: wire.StepReport) -> RunState:
    before_s = state.step_time_s
    step_time_s = report.step_time_s if before_s is None else before_s + SMOOTHING * (report.step_time_s - before_s)
    smoothed = report.loss if state.smoothed_loss is None else state.smoothed_loss
    if smoothed is not None and report.loss is not None:
        smoothed += SMOOTHING * (report.loss - smoothed)
    items = report.num_items or state.global_batch
    return _set(
        state,
        step=report.step,
        epoch=report.epoch,
        examples_seen=report.examples_seen,
        micro_batch=report.micro_batch,
        grad_accum_steps=report.grad_accum_steps,
        loss=report.loss,
        first_loss=report.loss if state.first_loss is None else state.first_loss,
        smoothed_loss=smoothed,
        learning_rate=report.learning_rate,
        step_time_s=step_time_s,
        examples_per_s=state.global_batch / step_time_s if step_time_s > 0 else None,
        items_per_s=items / step_time_s if step_time_s > 0 else None,
        # a loop that goes on past what it said, or said nothing, does not say when it ends
        eta_s=(state.total_steps - report.step) * step_time_s if report.step <= state.total_steps else None,
        memory=report.memory if report.memory is not None else state.memory,
        status="running" if state.status == "starting" else state.status,
    )


def _memory_sampled(state: RunState, sample: wire.MemorySample) -> RunState:
    return _set(state, memory=wire.with_step_peak(sample.memory, state.memory))


def _phase_changed(state: RunState, message: wire.PhaseChanged) -> RunState:
    status: RunStatus = state.status
    since_s, paused_s = state.paused_since_s, state.paused_s
    if message.phase == "paused":
        if status in ("starting", "running", "pausing"):
            status = "paused"
        since_s = message.time_s if since_s is None else since_s
    elif message.phase in ("training", "ending") and since_s is not None:
        status = "running" if status == "paused" else status
        paused_s, since_s = paused_s + message.time_s - since_s, None
    return _set(state, phase=message.phase, status=status, paused_s=paused_s, paused_since_s=since_s)


def _evaluated(state: RunState, report: wire.EvaluationReport) -> RunState:
    return _set(state, metrics=report.metrics)


def _oom_reported(state: RunState, report: wire.OomReport) -> RunState:
    # its figures are those of the step that failed and is being undone: no ground for an alarm
    state = _set(state, num_ooms=state.num_ooms + 1)
    if report.next_micro_batch is None:
        return state
    state = _set(state, num_recoveries=state.num_recoveries + 1)
    return state if report.where == "evaluation" else _resplit(state, report.next_micro_batch)


def _split_changed(state: RunState, message: wire.SplitChanged) -> RunState:
    grown = int(message.after > message.before)
    return _resplit(_set(state, num_growths=state.num_growths + grown), message.after)


def _resplit(state: RunState, micro_batch: int) -> RunState:
    if not state.global_batch:
        return state
    split = BatchSplit(state.global_batch, micro_batch, state.world_size)
    return _set(state, micro_batch=split.micro_batch, grad_accum_steps=split.grad_accum_steps)


def _checkpoint_saved(state: RunState, message: wire.CheckpointSaved) -> RunState:
    state = _set(state, num_checkpoints=state.num_checkpoints + 1, last_checkpoint=message.path)
    return (
        _set(state, longest_save_s=max(state.longest_save_s or 0.0, message.duration_s))
        if message.kind == "full"
        else state
    )


def _command_accepted(state: RunState, event: CommandAccepted) -> RunState:
    if isinstance(event.command, wire.Pause):
        return _set(state, status="pausing")
    if isinstance(event.command, wire.Resume) and state.status == "pausing":
        return _set(state, status="running")
    if isinstance(event.command, wire.Stop):
        return _set(state, status="stopping")
    return state


def _command_applied(state: RunState, event: CommandApplied) -> RunState:
    command = event.command
    return _resplit(state, command.micro_batch) if isinstance(command, wire.SetBatchSplit) else state


def _host_sampled(state: RunState, sample: wire.HostSample) -> RunState:
    return _set(state, host=sample.host)


def _gpus_sampled(state: RunState, sample: wire.GpuSample) -> RunState:
    return _set(state, gpus=sample.gpus, gpus_reason=sample.reason)


def _command_failed(state: RunState, event: CommandFailed) -> RunState:
    """What a failed Pause or Stop had announced is taken back."""
    if state.status in ("pausing", "stopping") and isinstance(event.command, wire.Pause | wire.Stop):
        return _set(state, status="paused" if state.phase == "paused" else "running")
    return state


def _goodbye(state: RunState, message: wire.Goodbye) -> RunState:
    return _set(state, phase="ending", status_reason=message.reason, last_words=message.outcome)


def _stop_decided(state: RunState, event: StopDecided) -> RunState:
    return _set(state, stop_cause=event.why)


def _forecast_made(state: RunState, event: ForecastMade) -> RunState:
    return _set(state, forecast=event.forecast)


def _out_of_time(state: RunState, event: WallBudgetSpent) -> RunState:
    return _set(state, out_of_time=True)


def _rank_exited(state: RunState, event: RankExited) -> RunState:
    verdict = judge(state, event)
    return _set(
        state,
        status=verdict.status,
        status_reason=verdict.reason,
        ended_s=event.time_s,
        exit_code=event.exit_code,
        oom_killed=verdict.kill is not None,
        worker_killed=verdict.worker_killed,
        linked=False,
        eta_s=None,
        phase="ended",
    )


_TRANSITIONS: dict[type, Any] = {
    RankStarted: _rank_started,
    RankExited: _rank_exited,
    WallBudgetSpent: _out_of_time,
    ForecastMade: _forecast_made,
    StopDecided: _stop_decided,
    NotHeardOf: _not_heard_of,
    LinkChanged: _link_changed,
    CommandAccepted: _command_accepted,
    CommandApplied: _command_applied,
    CommandFailed: _command_failed,
    wire.HostSample: _host_sampled,
    wire.GpuSample: _gpus_sampled,
    wire.TrainingStarted: _training_started,
    wire.StepReport: _step_reported,
    wire.MemorySample: _memory_sampled,
    wire.PhaseChanged: _phase_changed,
    wire.EvaluationReport: _evaluated,
    wire.OomReport: _oom_reported,
    wire.SplitChanged: _split_changed,
    wire.CheckpointSaved: _checkpoint_saved,
    wire.Goodbye: _goodbye,
}
