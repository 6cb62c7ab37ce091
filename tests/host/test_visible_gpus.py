"""CUDA_VISIBLE_DEVICES in all its spellings, on machines of one kind of GPU, of two, and cut up by MIG."""

from __future__ import annotations

import pytest

from memdash.host.visible_gpus import Gpu, visible_gpus

ALIKE = [Gpu(0, "GPU-aa10", "H100"), Gpu(1, "GPU-aa20", "H100"), Gpu(2, "GPU-bb30", "H100")]
UNLIKE = [Gpu(0, "GPU-aa10", "T4"), Gpu(1, "GPU-aa20", "H100")]
MIG = [
    Gpu(0, "MIG-c1", "A100 MIG 3g.20gb", 0, whole_uuid="GPU-aa10", mig_ids=(1, 0)),
    Gpu(0, "MIG-c2", "A100 MIG 1g.5gb", 1, whole_uuid="GPU-aa10", mig_ids=(2, 0)),
]
BY_BUS = "PCI_BUS_ID"

CASES = {
    "not set": (ALIKE, None, None, [0, 1, 2], True),
    "one GPU": (ALIKE[:1], None, None, [0], True),
    "no GPU": ([], None, None, [], True),
    "empty": (ALIKE, "", None, [], True),
    "blank": (ALIKE, "  ", None, [], True),
    "as SLURM says none": (ALIKE, "NoDevFiles", None, [], True),
    "minus one": (ALIKE, "-1", None, [], True),
    "an order of its own": (ALIKE, "2,0", None, [2, 0], True),
    "blanks between": (ALIKE, " 2 , 0", None, [2, 0], True),
    "up to the first that is not there": (ALIKE, "1,7,0", None, [1], True),
    "up to minus one": (ALIKE, "0,2,-1,1", None, [0, 2], True),
    "twice": (ALIKE, "0,0", None, [], True),
    "a number with a tail": (ALIKE, "1x", None, [1], True),
    "a trailing comma": (ALIKE, "1,", None, [1], True),
    "a UUID": (ALIKE, "GPU-aa20", None, [1], True),
    "a prefix": (ALIKE, "GPU-b,GPU-aa1", None, [2, 0], True),
    "a prefix of two": (ALIKE, "GPU-aa", None, [], True),
    "a UUID that is not here": (ALIKE, "GPU-ff", None, [], True),
    "the same GPU by UUID and number": (ALIKE, "GPU-aa10,0", None, [], True),
    "unlike GPUs": (UNLIKE, None, None, [0, 1], False),
    "unlike GPUs by number: it could be either": (UNLIKE, "0", None, [0, 1], False),
    "unlike GPUs by bus": (UNLIKE, "1", BY_BUS, [1], True),
    "unlike GPUs by UUID": (UNLIKE, "GPU-aa20", None, [1], True),
    "one that has lost its name": ([*ALIKE[:1], Gpu(1)], None, None, [0, 1], True),
    "MIG, not set": (MIG, None, None, ["MIG-c1", "MIG-c2"], False),
    "MIG with one instance": (MIG[:1], None, None, ["MIG-c1"], True),
    "MIG by UUID": (MIG, "MIG-c2", None, ["MIG-c2"], True),
    "MIG by a prefix of two": (MIG, "MIG-c", None, [], True),
    "MIG by GPU and numbers": (MIG, "MIG-GPU-aa10/2/0", None, ["MIG-c2"], True),
    "MIG by numbers that are not there": (MIG, "MIG-GPU-aa10/3/0", None, [], True),
    "MIG by the GPU's UUID": (MIG, "GPU-aa10", None, ["MIG-c1", "MIG-c2"], False),
    "MIG by number": (MIG, "0", None, ["MIG-c1", "MIG-c2"], False),
}


@pytest.mark.parametrize(("gpus", "setting", "order", "expected", "numbered"), CASES.values(), ids=CASES.keys())
def test_visible_gpus(gpus, setting, order, expected, numbered):
    seen = visible_gpus(gpus, setting, order)
    assert [gpu.uuid if gpu.instance is not None else gpu.index for gpu in seen.gpus] == expected
    assert seen.numbered is numbered
    if not expected or not numbered:
        assert seen.reason  # what is missing, or not sure, is always said why


def test_what_was_left_out_is_named():
    assert "`7`" in visible_gpus(ALIKE, "1,7,0").reason
    assert "names a GPU twice" in visible_gpus(ALIKE, "1,1").reason
    assert "MIG instance" in visible_gpus(MIG, None).reason
    assert "CUDA_DEVICE_ORDER" in visible_gpus(UNLIKE, "0").reason
