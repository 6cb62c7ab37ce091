"""A disk budget: what goes first, what never goes, what is said, and that it is kept at every moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash.checkpoints import Checkpoint, complete, verify
from memdash.config import CheckpointSection
from memdash.errors import ExitCode, StoreError, UsageError
from runner.checkpoint import CheckpointStore
from runner.disk_budget import (
    DiskBudget,
    directory_bytes,
    expected_bytes,
    fewest,
    in_words,
    may_go,
    never_removed,
    schedule_bytes,
)
from runner.loop import Loop
from tests.runner.conftest import run_to_end
from tests.runner.test_loop import Meddling, prepared

Make = Callable[..., Path]
MIB = 1 << 20
WIDE = {"width": 128}


def made(name: str, reason: str = "schedule", size: int = 10) -> Checkpoint:
    """`f3` is a full one of step 3, `l2` a light one of step 2; `1.f3` one of attempt 1."""
    attempt, _, rest = name.rpartition(".")
    kind = {"f": "full", "l": "light"}[rest[0]]
    return Checkpoint(Path(name), int(rest[1:]), kind, int(attempt or 0), reason, size, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "step", "best", "bad", "never"),
    [
        ([], 1, "", "", ""),
        ([made("f3"), made("f2"), made("f1")], 3, "", "", "f3"),
        (
            [made("f3"), made("f2"), made("f1")],
            3,
            "",
            "f3",
            "f3 f2",
        ),  # the newest is damaged: the one before stays, too
        ([made("f3"), made("f2"), made("f1")], 3, "", "f3 f2 f1", "f3 f2 f1"),
        ([made("f3"), made("f2", "command"), made("f1")], 3, "", "", "f3 f2"),
        ([made("l4", "best"), made("f3"), made("l2", "best"), made("f1")], 4, "l2", "", "f3 l2"),
        ([made("l4", "end"), made("l2", "best")], 4, "", "", "l4"),  # there is no full one
        ([made("f9"), made("f4"), made("f2")], 3, "", "", "f9 f2"),  # resumed from an older one
        ([made("1.f4"), made("f9"), made("f2")], 4, "", "", "1.f4"),
    ],
)
def test_what_is_never_removed(found: list[Checkpoint], step: int, best: str, bad: str, never: str) -> None:
    kept = never_removed(found, step, Path(best) if best else None, lambda c: c.path.name not in bad.split())
    assert kept == {Path(name) for name in never.split()}


def test_what_goes_first() -> None:
    newest_first = [
        made("f9"),
        made("f8", "stop"),
        made("l7", "best"),
        made("f6"),
        made("f5", "signal"),
        made("l4", "end"),
        made("f3", "command"),
        made("f2"),
    ]
    never = never_removed(newest_first, 9, Path("l7"), lambda _checkpoint: True)
    assert [found.path.name for found in may_go(newest_first, never)] == ["f2", "f6", "f5", "f8", "l4"]


@pytest.mark.parametrize(
    ("sizes", "over", "count"), [([], 1, 0), ([5, 5], 5, 1), ([5, 5], 6, 2), ([5, 5], 10, 2), ([5, 5], 11, 0)]
)
def test_as_few_as_will_do_or_none(sizes: list[int], over: int, count: int) -> None:
    candidates = [made(f"f{n}", size=size) for n, size in enumerate(sizes)]
    assert fewest(candidates, over) == candidates[:count]


CHECKPOINTS = st.builds(
    made,
    st.from_regex(r"[0-3]\.[fl][1-9]", fullmatch=True),
    st.sampled_from(["schedule", "stop", "signal", "command", "best", "end"]),
    st.integers(1, 99),
)


@given(st.lists(CHECKPOINTS, max_size=12, unique_by=lambda c: c.path), st.integers(0, 9), st.integers(1, 600))
def test_whatever_lies_there_a_good_one_stays(found: list[Checkpoint], step: int, over: int) -> None:
    found.sort(key=lambda checkpoint: (checkpoint.attempt, checkpoint.step), reverse=True)
    bad = {checkpoint.path for checkpoint in found if checkpoint.size_bytes % 3 == 0}
    never = never_removed(found, step, None, lambda checkpoint: checkpoint.path not in bad)
    doomed = fewest(may_go(found, never), over)
    left = [checkpoint for checkpoint in found if checkpoint not in doomed]
    assert not doomed or sum(checkpoint.size_bytes for checkpoint in doomed) >= over
    assert all(checkpoint.reason != "command" for checkpoint in doomed)

    def newest_good(among: list[Checkpoint], kinds: str) -> Checkpoint | None:
        return next((c for c in among if c.path not in bad and c.kind in kinds), None)

    assert newest_good(left, "full") == newest_good(found, "full")
    if not any(checkpoint.kind == "full" for checkpoint in found):
        assert newest_good(left, "light") == newest_good(found, "light")


@pytest.mark.parametrize(
    ("keys", "most_mib", "words"),
    [
        ({"every_steps": 200}, 864, "checkpoints of 288 MiB every 200 steps, keep_last 2: at most 864 MiB"),
        ({"every_minutes": 2.5, "keep_last": 1}, 576, " 288 MiB every 2.5 minutes, keep_last 1: at most 576 MiB"),
        ({"every_steps": 5, "every_epoch": True, "at_end": "none"}, 864, "every 5 steps and every epoch"),
        ({"every_steps": 5, "keep_best": "loss"}, 960, "every 5 steps"),
        ({"keep_best": "loss"}, 192, "no full checkpoints by schedule; one that is asked for takes 288 MiB"),
        ({"at_end": "full"}, 288, "no full checkpoints by schedule"),
        ({"at_end": "none"}, 0, "no full checkpoints by schedule"),
    ],
)
def test_what_the_schedule_comes_to(keys: dict[str, Any], most_mib: int, words: str) -> None:
    config = CheckpointSection(**keys)
    assert schedule_bytes(config, 288 * MIB, 96 * MIB) == most_mib * MIB
    assert words in in_words(config, 288 * MIB, most_mib * MIB)


def test_what_a_checkpoint_will_take() -> None:
    assert expected_bytes(1000, []) == 1050
    assert expected_bytes(1000, [made("f2", size=4000), made("f1", size=9000)]) == 4000  # a tokenizer lies beside it
    assert expected_bytes(1000, [made("f2", size=900)]) == 1050


# ---- on disk ----


class Watched(Meddling):
    """Looks at the directory after every step."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(self.look)
        self.run_dir, self.most_bytes = run_dir, 0

    def look(self) -> bool:
        self.most_bytes = max(self.most_bytes, directory_bytes(self.run_dir))
        return True


def full_bytes(toy_run: Make) -> int:
    """Of the wide toy, as it lies on disk."""
    run_dir = toy_run("measure", options=WIDE, train={"max_steps": 1}, checkpoint={"at_end": "full"})
    prepared(run_dir, Meddling()).run()
    return directory_bytes(run_dir / "checkpoints")


def start(run_dir: Path, session: Meddling | None = None, resume: str = "") -> tuple[Loop, Meddling]:
    session = session or Meddling()
    return prepared(run_dir, session, resume), session


def names(run_dir: Path) -> list[str]:
    return [f"{found.path.name}:{found.reason}" for found in reversed(complete(run_dir / "checkpoints"))]


def test_the_schedule_keeps_fewer_than_it_would_and_the_budget_is_never_passed(
    toy_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = full_bytes(toy_run)
    budget = int(3.2 * one)  # keep_last = 5 would take six of them
    checkpoint = {"every_steps": 2, "keep_last": 5, "at_end": "none"}
    run_dir = toy_run(options=WIDE, train={"max_steps": 20}, checkpoint=checkpoint, budget={"disk": f"{budget}"})
    good_before_each_removal: list[int] = []
    real = CheckpointStore.remove

    def remove(self: CheckpointStore, doomed: Any) -> Any:
        if doomed:
            left = [found for found in complete(self.folder) if found not in doomed]
            good_before_each_removal.append(sum(verify(found.path).kind == "full" for found in left))
        return real(self, doomed)

    monkeypatch.setattr(CheckpointStore, "remove", remove)
    loop, session = start(run_dir, Watched(run_dir))
    assert loop.run() == "finished"
    assert isinstance(session, Watched)
    assert 2 * one < session.most_bytes <= budget
    assert len(good_before_each_removal) == 8 - 1
    assert min(good_before_each_removal) >= 1
    assert [name.partition("-full")[0] for name in names(run_dir)] == [f"step-{n:08d}" for n in (16, 18, 20)]
    said = [note for note in session.notices if "disk budget" in note]
    assert "every 2 steps, keep_last 5: at most" in said[0]
    assert "more than all of it, so older ones will be removed sooner" in said[0]
    first = "has no room for a full checkpoint: step-00000002-full (schedule) made way, 428 KiB"
    assert said[1] == f"the disk budget of {budget} {first}"
    assert len(said) == 1 + 7


def test_what_was_asked_for_by_hand_stays_and_the_refusal_says_what_is_needed(toy_run: Make) -> None:
    budget = int(4.3 * full_bytes(toy_run))
    checkpoint = {"every_steps": 2, "at_end": "none"}
    run_dir = toy_run(options=WIDE, train={"max_steps": 6}, checkpoint=checkpoint, budget={"disk": f"{budget}"})
    loop, session = start(run_dir)
    for _ in range(3):
        loop.saving.save("full", "command")
    loop.saving.save("full", "signal")
    before = names(run_dir)
    assert len(before) == 4
    assert loop.run() == "finished"
    assert names(run_dir) == before  # the newest full one is the signal's: it cannot go before there is another
    failed = [note for note in session.notices if "checkpoint not saved" in note]
    assert len(failed) == 1
    for words in ("training goes on", "has no room for a full checkpoint: it needs", "3 that were asked for by hand"):
        assert words in failed[0]
    with pytest.raises(StoreError, match=r"raise budget\.disk, or delete some in .*checkpoints"):
        loop.saving.save("full", "command")


def test_the_best_stays_and_other_light_ones_go(toy_run: Make) -> None:
    """The full one is what must stay; a light one is a third of it."""
    one = full_bytes(toy_run)
    run_dir = toy_run(
        options=WIDE, train={"max_steps": 2}, checkpoint={"keep_best": "loss", "at_end": "none"}, budget={"disk": "9MB"}
    )
    loop, _ = start(run_dir)
    loop._evaluation.metrics = {"loss": 1.0}
    loop.saving.after_evaluation()
    loop._state.progress.step = 1
    loop.saving.save("light", "end")
    loop._state.progress.step = 2
    loop.saving.save("full", "schedule")
    used = directory_bytes(run_dir)
    loop.saving._disk._limit_bytes = used + one - (20 << 10)  # type: ignore[union-attr]
    loop._state.progress.step = 3
    loop.saving.save("full", "schedule")
    assert names(run_dir) == ["step-00000000-light:best", "step-00000002-full:schedule", "step-00000003-full:schedule"]


def test_a_damaged_newest_one_pushes_out_no_good_one(toy_run: Make) -> None:
    one = full_bytes(toy_run)
    run_dir = toy_run(options=WIDE, train={"max_steps": 2}, checkpoint={"at_end": "none"}, budget={"disk": "9MB"})
    loop, _ = start(run_dir)
    for step in (1, 2):
        loop._state.progress.step = step
        loop.saving.save("full", "stop")
    weights = run_dir / "checkpoints" / "step-00000002-full" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    again, _ = start(run_dir, resume="step-00000001-full")
    again.saving._disk._limit_bytes = directory_bytes(run_dir) + one // 2  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="has no room for a full checkpoint"):
        again.saving.save("full", "stop")
    assert len(names(run_dir)) == 2


def test_a_checkpoint_that_turns_out_larger_is_not_committed(toy_run: Make) -> None:
    """A task may write whatever it likes beside the tensors: only then its size is known."""
    one = full_bytes(toy_run)
    budget = int(2.5 * one)
    run_dir = toy_run(options=WIDE, train={"max_steps": 1}, checkpoint={"at_end": "none"}, budget={"disk": f"{budget}"})
    loop, _ = start(run_dir)
    loop.saving.save("full", "stop")
    loop._step._task.save_files = lambda _model, folder: (folder / "big").write_bytes(bytes(one))  # type: ignore[method-assign]
    loop._state.progress.step = 1
    with pytest.raises(StoreError, match=r"it needs 8\d\d KiB besides the 4\d\d KiB in use"):
        loop.saving.save("full", "stop")
    assert names(run_dir) == ["step-00000000-full:stop"]
    assert not [name for name in os.listdir(run_dir / "checkpoints") if name.startswith(".")]


def test_too_small_for_two_is_an_error_before_the_first_step(toy_run: Make) -> None:
    need_bytes = start(toy_run("measure", options=WIDE))[0]._state.need_bytes("full")
    run_dir = toy_run(options=WIDE, budget={"disk": f"{int(2.05 * need_bytes)}"})
    with pytest.raises(
        UsageError, match=r"too small: a full checkpoint takes .* before the old one is removed"
    ) as error:
        start(run_dir)
    assert "it takes at least" in error.value.hint
    done = run_to_end(run_dir)
    assert done.returncode == ExitCode.USAGE
    assert f"memdash: budget.disk = '{int(2.05 * need_bytes)}' is too small" in done.stderr
    start(toy_run("enough", options=WIDE, budget={"disk": f"{int(2.2 * need_bytes)}"}))


def test_a_removal_that_fails_is_said_and_the_save_refused(toy_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = full_bytes(toy_run)
    run_dir = toy_run(options=WIDE, train={"max_steps": 2}, checkpoint={"at_end": "none"}, budget={"disk": "9MB"})
    loop, session = start(run_dir)
    for step in (1, 2):
        loop._state.progress.step = step
        loop.saving.save("full", "schedule")
    disk = loop.saving._disk
    assert isinstance(disk, DiskBudget)
    disk._limit_bytes = directory_bytes(run_dir) + one // 2

    def fails(*_: object, **__: object) -> None:
        raise PermissionError(13, "not permitted")

    with monkeypatch.context() as broken:
        broken.setattr("runner.checkpoint.shutil.rmtree", fails)
        with pytest.raises(StoreError, match="has no room"):
            loop.saving.save("full", "schedule")
    assert any("cannot remove the old checkpoint step-00000001-full" in note for note in session.notices)
