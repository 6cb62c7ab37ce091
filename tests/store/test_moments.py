"""The state at any time, from lines of which the last may be torn."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.store.moments import Moment, Moments, MomentWriter


def state(step: int) -> wire.RunState:
    return wire.RunState(run_id="x", name="x", step=step, metrics={"loss": 1.5})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "states.jsonl"
    write(path, 1, 2, 3)
    return path


def write(path, *numbers):
    writer = MomentWriter(path)
    for number in numbers:
        writer.append(Moment(10.0 * number, state(number)))
    writer.close()


def step_at(path, time_s):
    moments = Moments(path)
    moment = moments.at(time_s)
    moments.close()
    return moment and moment.state.step


def test_the_last_one_up_to_a_time(path):
    assert [step_at(path, time_s) for time_s in (9.9, 10.0, 19.0, 25.0, 99.0)] == [None, 1, 1, 2, 3]
    moments = Moments(path)
    assert moments.at(10.0) == Moment(10.0, state(1))
    moments.close()


def test_no_file(tmp_path):
    assert Moments(tmp_path / "states.jsonl").at(1.0) is None


def test_a_torn_line_is_left_out_and_then_cut_off(path):
    path.write_bytes(path.read_bytes()[:-5])
    assert step_at(path, 99.0) == 2
    write(path, 4)
    assert step_at(path, 99.0) == 4
    assert step_at(path, 35.0) == 2


def test_a_damaged_line_costs_only_itself(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00 garbage\n" + lines[2])
    assert [step_at(path, time_s) for time_s in (10.0, 20.0, 30.0)] == [1, 1, 3]
