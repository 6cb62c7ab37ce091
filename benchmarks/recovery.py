"""What an out-of-memory error at mid-run costs: ours, transformers' auto_find_batch_size, accelerate's decorator.

All three train the same model on the same examples in the same order on the same simulated device, which raises a real
torch.OutOfMemoryError. Its capacity fits 14 of the long examples and not 16: the peers' first retry (0.9 x 16) fits, so
that they start over once and no more.
"""

from __future__ import annotations

import sys
import tempfile

from benchmarks._table import Row, main, not_measured, row

import torch  # isort: skip  # after _table has set its environment
from torch import nn

from benchmarks._training import (
    GROUP,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    QUICK,
    UNLIMITED,
    WORKLOAD,
    Ledger,
    Outcome,
    Side,
    Workload,
    is_installed,
    largest_difference,
    outcome,
)
from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import TrainSection
from runner.optimizer import Plan, make_optimizer
from runner.simulated import SimulatedDevice
from runner.step import GroupStep
from runner.training_state import Progress, TrainingState

PEER_BATCH = GROUP * 9 // 10  # what both peers try after GROUP
TRAIN = TrainSection(global_batch=GROUP, learning_rate=LEARNING_RATE, weight_decay=0.0, max_grad_norm=MAX_GRAD_NORM)
TRANSFORMERS, ACCELERATE = "transformers auto_find_batch_size", "accelerate find_executable_batch_size"
FLOAT_NOISE = 1e-8


def _our_step(
    workload: Workload, ledger: Ledger, device: SimulatedDevice, micro_batch: int
) -> tuple[TrainingState, GroupStep]:
    model = ledger.model(workload)
    state = TrainingState(model, make_optimizer(model, TRAIN), Progress(), device)
    model.train()
    return state, GroupStep(state, workload, BatchSplit(GROUP, micro_batch), Session(device.read_memory))


def train_ours(workload: Workload, ledger: Ledger, device: SimulatedDevice) -> nn.Module:
    """The runner's step; the loop around it does what runner/loop.py does."""
    state, step = _our_step(workload, ledger, device, GROUP)
    plan = Plan(workload.num_examples, GROUP, TRAIN)
    for number in range(plan.total_steps):
        indices = range(number * GROUP, (number + 1) * GROUP)
        step.train(indices, 0, plan.learning_rate(number), MAX_GRAD_NORM)
    return state.model


def train_transformers(workload: Workload, ledger: Ledger, device: SimulatedDevice) -> nn.Module:
    """`Trainer(auto_find_batch_size=True)`, otherwise as its documentation has it."""
    from transformers import Trainer, TrainingArguments

    model = ledger.model(workload)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, auto_find_batch_size=True, per_device_train_batch_size=GROUP, num_train_epochs=1,
            learning_rate=LEARNING_RATE, weight_decay=0.0, max_grad_norm=MAX_GRAD_NORM, lr_scheduler_type="linear",
            train_sampling_strategy="sequential", use_cpu=True, remove_unused_columns=False, report_to="none",
            disable_tqdm=True, save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, data_collator=workload.batch, train_dataset=workload.examples).train()  # type: ignore[arg-type]
    return model


def train_accelerate(workload: Workload, ledger: Ledger, device: SimulatedDevice) -> nn.Module:
    """`find_executable_batch_size` around a training function, as accelerate's guide to it has it."""
    from accelerate import Accelerator
    from accelerate.utils import find_executable_batch_size
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True)

    @find_executable_batch_size(starting_batch_size=GROUP)
    def train(batch_size: int) -> nn.Module:
        accelerator.free_memory()
        model: nn.Module = ledger.model(workload)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        loader = DataLoader(workload.examples, batch_size, collate_fn=workload.batch)  # type: ignore[arg-type]
        steps = len(loader)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
        model.train()
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return model

    return train()


def fitting_capacity(workload: Workload) -> int:
    """Bytes that fit PEER_BATCH long examples and not GROUP, measured; the training libraries are warm after it."""
    peaks = []
    long = [index for index, length in enumerate(workload.train_lengths) if length == workload.long]

    for count in (PEER_BATCH, GROUP):

        def one_step(workload: Workload, ledger: Ledger, device: SimulatedDevice, count: int = count) -> nn.Module:
            state, step = _our_step(workload, ledger, device, GROUP)
            device.read_memory()  # restarts the peaks
            step.train(long[:count], 0, LEARNING_RATE, MAX_GRAD_NORM)
            peaks.append(device.limiter.read().peak_allocated)
            return state.model

        outcome(one_step, workload, UNLIMITED)
    fits, too_large = peaks
    return fits + (too_large - fits) * 4 // 5  # the peers hold a little more after an OOM than before it


def measure(quick: bool) -> list[Row]:
    """Each side twice: undisturbed, and on the device that is too small for one group."""
    torch.set_num_threads(1)
    workload = QUICK if quick else WORKLOAD
    capacity = fitting_capacity(workload)
    ours = _both(train_ours, workload, capacity)
    rows = []
    for name, side in ((TRANSFORMERS, train_transformers), (ACCELERATE, train_accelerate)):
        if not is_installed("accelerate"):
            rows.append(Row(f"an OOM at mid-run, {name}", "-", not_measured("no accelerate"), name, None, "-", None))
            continue
        rows += _compare(workload, ours, _both(side, workload, capacity), name)
    return rows


def _both(side: Side, workload: Workload, capacity: int) -> tuple[Outcome, Outcome]:
    return outcome(side, workload, UNLIMITED), outcome(side, workload, capacity)


def _compare(workload: Workload, ours: tuple[Outcome, Outcome], peer: tuple[Outcome, Outcome], name: str) -> list[Row]:
    our_calm, our_run = ours
    calm, run = peer
    mine, theirs = our_run.ledger, run.ledger
    return [
        row("out-of-memory errors met", len(mine.ooms_at), len(theirs.ooms_at), name, "ours", ">=", 1),
        row("optimizer steps redone", mine.steps_redone(), theirs.steps_redone(), name, "ours", "==", 0),
        row("examples trained again, all work", *_again(mine, theirs, final=False), name, "ours", "==", 0),
        row("examples the final model saw twice", *_again(mine, theirs, final=True), name, "ours", "==", 0),
        row("examples never trained", _never(mine, workload), _never(theirs, workload), name, "ours", "==", 0),
        row("batch of a step after the OOM", mine.batch_after_oom(), theirs.batch_after_oom(), name, "ours", "==", GROUP),
        row(
            "parameters off the undisturbed run, max",
            largest_difference(our_run, our_calm), largest_difference(run, calm), name, "ours", "<=", FLOAT_NOISE,
        ),
        row(
            "final loss off the undisturbed run",
            abs(our_run.loss - our_calm.loss), abs(run.loss - calm.loss), name, "ours", "<=", FLOAT_NOISE,
        ),
        row("CPU-seconds lost", our_run.cpu_s - our_calm.cpu_s, run.cpu_s - calm.cpu_s, name, "ratio", "<=", 0.5),
        row("undisturbed: CPU-seconds", our_calm.cpu_s, calm.cpu_s, name, "ratio", "<=", 1.1),
        row("undisturbed: parameters apart, max", largest_difference(our_calm, calm), 0, name, "ours", "<=", FLOAT_NOISE),
    ]  # fmt: skip


def _again(mine: Ledger, theirs: Ledger, *, final: bool) -> tuple[int, int]:
    ours, peers = (side.times_trained(in_final_model=final) for side in (mine, theirs))
    return sum(ours.values()) - len(ours), sum(peers.values()) - len(peers)


def _never(ledger: Ledger, workload: Workload) -> int:
    return workload.num_examples - len(ledger.times_trained(in_final_model=True))


if __name__ == "__main__":
    sys.exit(main("recovery", __doc__ or "", measure))
