"""What must hold once the storm is over, each as a line with yes or no; and the table of faults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memdash.checkpoints import Checkpoint, verify
from memdash.store.recorder import recorded_ranks
from tests.faults.ledger import Lineage, lineage, read_updates
from tests.faults.place import Place
from tests.faults.storm import Outcome, Storm
from tests.faults.training import MICRO_BATCH, NUM_EXAMPLES, Training
from tests.faults.waiting import Stuck, until

TOLERANCE = 1e-8  # of weights in double precision: 4e-11 is what rounding alone came to in 5000 updates
LEAVE_S = 60.0  # a supervisor shows a finished run for ten seconds, and a rank is given 35 to end
WEIGHTS, STATE = "model.safetensors", "state.safetensors"


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    holds: bool
    found: str


def check_training(training: Training, reference: Training, storm: Storm, *, bitwise: bool) -> list[Check]:
    """Compare a stormy training with the calm one."""
    done = lineage(read_updates(training.ledger))
    name = training.name
    return [
        _finished(training),
        _same_weights(training, reference, bitwise=bitwise),
        _examples(name, done, training.steps or 0),
        _splits(name, done, bitwise=bitwise),
        Check(f"{name}: every fault survived", *_count(outcome.survived for outcome in storm.outcomes)),
        _journaled(name, storm),
        _recorded(training, done, storm),
        _half_written(training),
        _no_traceback(training),
    ]


def facts(training: Training, storm: Storm) -> str:
    """What is worth knowing and need not hold."""
    done = lineage(read_updates(training.ledger))
    state = training.state()
    parts = [
        f"{training.name}: {len(done.updates)} steps, {done.num_redone} more were undone by kills and trained again",
        f"{state.attempt + 1 if state else 0} attempts, {training.num_resumes} by `run --resume`",
        f"supervisor at most {storm.supervisor_peak_bytes >> 20} MiB",
    ]
    return "; ".join(parts)


def check_leftovers(place: Place) -> list[Check]:
    """Once nobody watches any more: no process, no socket."""
    try:
        until(lambda: not place.processes(), "the supervisors to leave", LEAVE_S)
    except Stuck:
        pass  # told below
    left = place.processes()
    sockets = place.socket_files()
    return [
        Check("no orphan process", not left, f"{len(left)} {' | '.join(left.values())[:300]}".strip()),
        Check("no leaked socket", not sockets, f"{len(sockets)} {' '.join(sockets)}".strip()),
    ]


def final_checkpoint(training: Training) -> Checkpoint:
    """The newest full one, every hash checked. Raises CheckpointIncomplete, IndexError."""
    return verify(training.full_checkpoints()[0].path)


def _finished(training: Training) -> Check:
    state = training.state()
    found = f"{state.status} at step {state.step} of {training.steps}" if state else "no state"
    return Check(
        f"{training.name}: finished", bool(state and (state.status, state.step) == ("finished", training.steps)), found
    )


def _same_weights(training: Training, reference: Training, *, bitwise: bool) -> Check:
    ours, theirs = final_checkpoint(training), final_checkpoint(reference)
    difference = largest_difference(ours.path / WEIGHTS, theirs.path / WEIGHTS)
    same_bits = all((ours.path / name).read_bytes() == (theirs.path / name).read_bytes() for name in (WEIGHTS, STATE))
    at = f"at step {ours.step} and {theirs.step}, " if ours.step != theirs.step else ""
    found = f"{at}bitwise {'yes' if same_bits else 'no'}, max abs difference {difference:.3g}"
    if bitwise:
        return Check(f"{training.name}: weights, moments and generators bitwise the same", same_bits, found)
    return Check(f"{training.name}: weights the same to {TOLERANCE:g}", not at and difference <= TOLERANCE, found)


def largest_difference(left: Path, right: Path) -> float:
    """Over all tensors of two files."""
    from safetensors.numpy import load_file

    ours, theirs = load_file(left), load_file(right)
    assert ours.keys() == theirs.keys()
    return max(float(abs(tensor - theirs[name]).max()) for name, tensor in ours.items())


def _examples(name: str, done: Lineage, steps: int) -> Check:
    wrong = [*done.faults, *done.wrong_examples(NUM_EXAMPLES)]
    if len(done.updates) != steps:
        wrong.append(f"{len(done.updates)} steps instead of {steps}")
    found = "; ".join(wrong[:3]) or f"{done.num_examples} examples in {done.updates[-1].epoch + 1} epochs"
    return Check(f"{name}: every example once an epoch", not wrong, found)


def _splits(name: str, done: Lineage, *, bitwise: bool) -> Check:
    sizes = done.micro_batches()
    text = f"micro-batches {', '.join(map(str, sorted(sizes)))}"
    if bitwise:
        return Check(f"{name}: the split never changed", sizes == {MICRO_BATCH}, text)
    return Check(f"{name}: the split did change", len(sizes) > 1, text)


def _journaled(name: str, storm: Storm) -> Check:
    told = [outcome.journaled for outcome in storm.outcomes if outcome.evidence]
    return Check(f"{name}: every fault that touches the run is in the journal", *_count(told))


def _count(values: Iterable[bool]) -> tuple[bool, str]:
    each = list(values)
    return all(each), f"{sum(each)} of {len(each)}"


def _recorded(training: Training, done: Lineage, storm: Storm) -> Check:
    """Steps that were trained while the disk was full, or before nobody was left to tell them, may be missing."""
    rows = {row["step"] for _, row in recorded_ranks(training.directory) if row["loss"] is not None}
    spans = [(o.began_s - 1, o.ended_s + 1) for o in storm.outcomes if o.loses_samples]
    missing = [update for update in done.updates if update.step not in rows]
    unexplained = [u.step for u in missing if not any(began <= u.time_s <= ended for began, ended in spans)]
    found = f"{len(done.updates) - len(missing)} of {len(done.updates)}"
    if missing:
        found += f", {len(missing) - len(unexplained)} lost with the disk full or all processes killed"
    if unexplained:
        found += f", {len(unexplained)} lost for no reason, the first is step {unexplained[0]}"
    return Check(f"{training.name}: every step is in the record", not unexplained, found)


def _half_written(training: Training) -> Check:
    """Ours all begin with a dot; what a fault planted does not count."""
    names = [path.name for path in training.directory.path.rglob(".*") if not path.name.endswith("-99999999")]
    return Check(f"{training.name}: no half-written file", not names, f"{len(names)} {' '.join(names)}".strip())


def _no_traceback(training: Training) -> Check:
    """Neither process ever met an error that it did not expect."""
    logs = (training.directory.supervisor_log, training.directory.output)
    found = [path.name for path in logs if b"Traceback" in path.read_bytes()]
    found += [entry.text for entry in training.journal() if "a fault in the supervisor" in entry.text]
    return Check(f"{training.name}: no traceback", not found, "; ".join(found) or "none")


# ---- the table -------------------------------------------------------------------------------------------------------


def fault_rows(outcomes: list[Outcome], skipped: dict[str, str]) -> list[dict[str, Any]]:
    """One row a kind, in the order in which they came first."""
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        these = [outcome for outcome in outcomes if outcome.kind == kind]
        told = [outcome.journaled for outcome in these if outcome.evidence]
        rows.append(
            {
                "fault": kind,
                "injected": len(these),
                "survived": sum(outcome.survived for outcome in these),
                "in the journal": f"{sum(told)} of {len(told)}" if told else "-",
                "note": " | ".join(outcome.note.strip() for outcome in these if outcome.note),
            }
        )
    rows += [
        {"fault": kind, "injected": 0, "survived": 0, "in the journal": "-", "note": f"skipped: {why}"}
        for kind, why in skipped.items()
    ]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns."""
    head = list(rows[0]) if rows else []
    lines = [head, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_json(rows: list[dict[str, Any]], checks: list[Check], notes: list[str], **more: object) -> dict[str, Any]:
    """Everything that is printed."""
    passed = all(check.holds for check in checks)
    return {**more, "passed": passed, "faults": rows, "checks": [asdict(check) for check in checks], "notes": notes}
