"""How long processes wait for memory: shares from running totals, and the kernel's alarm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memdash.host.pressure import Pressure, PressureTrigger, Stalled, pressure_file

PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"


def test_shares_come_from_the_totals(tmp_path):
    file = tmp_path / "memory.pressure"
    pressure = Pressure(file)
    file.write_text(PSI.format(some=1_000_000, full=0))
    assert pressure.read(10.0) is None
    file.write_text(PSI.format(some=1_500_000, full=250_000))
    assert pressure.read(11.0) == Stalled(0.5, 0.25)
    file.unlink()
    assert pressure.read(12.0) is None


@pytest.mark.parametrize("path", ["nowhere", "regular"])
def test_what_is_no_file_of_the_kernels_takes_no_trigger(path, tmp_path):
    (tmp_path / "regular").write_text(PSI.format(some=0, full=0))
    with pytest.raises(OSError, match=r"No such file|Operation not permitted"):
        PressureTrigger(tmp_path / path)


def test_the_kernel_takes_the_trigger():
    path = pressure_file([])
    if not path.exists() or not os.access(path, os.W_OK):
        pytest.skip("no PSI here, or none that we may write to")
    try:
        trigger = PressureTrigger(Path(path))
    except OSError as error:
        pytest.skip(f"this kernel takes no trigger: {error}")
    assert trigger.fileno() >= 0
    assert trigger.fired() in (True, False)  # whether others on this machine wait for memory is not ours to say
    trigger.close()
