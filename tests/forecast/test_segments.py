"""An allocator that asks for one segment after another, because nothing fits into the gaps that it has."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.forecast.segments import Segments

MIB = 1 << 20


def reading(gaps: float, *, capacity: float = 95, joins: bool = False) -> wire.DeviceMemory:
    """10 MiB of tensors, of which a step needs 4 more, and gaps beside them."""
    return wire.DeviceMemory(
        device="cuda:0",
        kind="exact",
        capacity_bytes=int(capacity * MIB),
        allocated_bytes=10 * MIB,
        peak_allocated_bytes=14 * MIB,
        reserved_bytes=int((20 + gaps) * MIB),
        peak_reserved_bytes=int((20 + gaps) * MIB),
        inactive_split_bytes=int(gaps * MIB),
        joins_fragments=joins,
    )


STAIRS = [0, 16, 16, 32, 32, 48, 48, 64]
CASES = {
    "there is room for one more": (STAIRS[:-1], {}, None),
    "there is none beside what a step needs": (STAIRS, {}, 17),
    "there is on a larger device": (STAIRS, {"capacity": 96}, None),
    "fragments are joined": (STAIRS, {"joins": True}, None),
    "small segments": ([0, 60, 61, 62, 63, 64], {"capacity": 78}, None),
    "most was given back": ([0, 16, 32, 48, 20, 64], {}, None),
    "two are no stairs": ([40, 40, 56, 72], {}, None),
    "few of it are gaps": ([0, 4, 8, 12], {"capacity": 30}, 4),
    "hardly any of it are gaps": ([0, 3, 6, 9], {"capacity": 26}, None),
}


@pytest.mark.parametrize(("gaps", "options", "room"), CASES.values(), ids=CASES)
def test_the_next_one_fits_or_not(gaps, options, room):
    segments = Segments()
    for time_s, each in enumerate(gaps):
        segments.add(float(time_s), reading(each, **options))
    found = segments.misfit(reading(gaps[-1], **options), float(len(gaps)))
    assert (found.room_bytes / MIB if found else None) == room


def test_it_is_due_after_as_long_as_the_ones_before_and_not_for_ever():
    segments = Segments()
    for time_s, each in enumerate(STAIRS):
        segments.add(float(time_s), reading(each))
    assert [segments.misfit(reading(64), 7 + wait).in_s for wait in (0.0, 1.5, 4.0)] == [2.0, 0.5, 0.0]
    assert segments.misfit(reading(64), 7 + 4.1) is None
