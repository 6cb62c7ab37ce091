"""What chaos.py concludes from the log of a training, also from logs that must not be."""

from __future__ import annotations

import pytest

from tests.faults.ledger import Update, last_step, lineage, read_updates


def update(step: int, examples: str, epoch: int = 0, attempt: int = 0) -> Update:
    """Each word is a slice, each digit an example."""
    slices = tuple(tuple(map(int, word)) for word in examples.split())
    return Update(step, epoch, slices, attempt, time_s=float(step))


def test_a_log_that_is_being_written(tmp_path):
    """Half a line is none yet, or never will be one."""
    path = tmp_path / "ledger.jsonl"
    assert (read_updates(path), last_step(path)) == ([], 0)
    lines = [
        b'\n{"step": %d, "epoch": 0, "slices": [[0, 1]], "attempt": 0, "time_s": 1.5}\n' % n for n in range(1, 301)
    ]
    for end in range(1, len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:end])
        assert [found.step for found in read_updates(path)] == [1]
        assert last_step(path) == 1
    path.write_bytes(lines[0] + lines[1][:40] + b"".join(lines[1:]))
    assert [found.step for found in read_updates(path)] == list(range(1, 301))
    assert last_step(path) == 300


CALM = [update(1, "01 23"), update(2, "4"), update(3, "30 41", epoch=1)]


def test_a_calm_training():
    done = lineage(CALM)
    assert (done.updates, done.num_redone, done.faults) == (CALM, 0, [])
    assert done.wrong_examples(5) == []
    assert done.num_examples == 9
    assert done.micro_batches() == {1, 2}


def test_what_a_kill_undid_does_not_count():
    again = [update(2, "4", attempt=1), update(3, "30 41", epoch=1, attempt=1)]
    done = lineage([*CALM, *again])
    assert (len(done.updates), done.num_redone, done.faults) == (3, 2, [])
    assert done.updates[1:] == again
    assert done.wrong_examples(5) == []


@pytest.mark.parametrize(
    ("updates", "fault"),
    [
        ([CALM[0], CALM[2]], "step 3 follows step 1"),
        ([CALM[0], update(2, "4", attempt=1), CALM[2]], "attempt 0 trained step 3 after attempt 1 had begun"),
    ],
    ids=["a step is missing", "two at once"],
)
def test_what_cannot_be(updates, fault):
    assert lineage(updates).faults == [fault]


@pytest.mark.parametrize(
    ("updates", "wrong"),
    [
        ([CALM[0], update(2, "3"), CALM[2]], "epoch 0: 1 not once, 1 missing"),
        ([CALM[0], CALM[2]], "epoch 0: 0 not once, 1 missing"),
        ([*CALM[:2], update(3, "30 33", epoch=1)], "epoch 1: 1 not once, 0 missing"),
    ],
    ids=["twice", "never", "twice in the last"],
)
def test_examples_that_were_not_trained_once(updates, wrong):
    assert lineage(updates).wrong_examples(5) == [wrong]
