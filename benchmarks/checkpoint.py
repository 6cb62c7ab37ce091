"""What a checkpoint costs the training process, and whether it survives a kill: ours, torch.save, safetensors.

Each way saves the same model and AdamW state in a child process of its own, whose memory is read from outside.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._table import Row, main, not_measured, row

OURS, PEERS = "ours", ("torch.save", "safetensors save_file")
KINDS = ("light", "full")
HALF = "light-fp16"  # as _saving.py names it
MIB = 1 << 20
FIELD_LIGHT_SHARE = 0.25  # what trainers that report it say: weights alone are 75 % smaller than everything


class Child:
    """A process that saves when it is told to."""

    def __init__(self, what: str, method: str, size: str, folder: str, *more: str) -> None:
        command = [sys.executable, "-m", "benchmarks._saving", what, method, size, folder, *more]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[1])
        self._proc = Path(f"/proc/{self._process.pid}")

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises RuntimeError when it has died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the saving process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def restart_peak(self) -> int | None:
        """Resident bytes now, from which the peak counts; None where the kernel does not let us."""
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError:
            return None
        return self._status("VmRSS")

    def peak(self) -> int | None:
        """The largest resident set since."""
        return self._status("VmHWM")

    def _status(self, field: str) -> int | None:
        with contextlib.suppress(OSError):
            for line in (self._proc / "status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024
        return None

    def close(self) -> None:
        """Wait for its end, or end it."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _child(what: str, method: str, size: str, *more: str) -> Iterator[Child]:
    with tempfile.TemporaryDirectory(prefix="memdash-bench-") as folder:
        child = Child(what, method, size, folder, *more)
        try:
            yield child
        finally:
            child.close()


Costs = dict[str, dict[str, Any]]
"""By kind; of one save: extra_bytes (None when unknown), stall_s, cpu_s, durable_s, size_bytes, state_bytes."""


def save_costs(method: str, size: str, device: str) -> Costs:
    """Of every kind that this way has."""
    kinds = (*KINDS, HALF) if method == OURS else KINDS
    costs = {}
    with _child("stall", method, size, device, *kinds) as child:
        for kind in kinds:
            cost = child.hear()
            before = child.restart_peak()
            child.tell()
            cost |= child.hear()
            peak = child.peak()
            child.tell()
            cost["extra_bytes"] = None if before is None or peak is None else max(0, peak - before)
            costs[kind] = cost
    return costs


def kills(method: str, size: str, trials: int) -> dict[str, Any]:
    """How many full saves were killed half-way, and after how many of those a checkpoint could be loaded."""
    with _child("kill", method, size, str(trials)) as child:
        child.hear()
        child.tell()
        return child.hear()


def measure(quick: bool) -> list[Row]:
    """All ways, one after the other."""
    size, kill_size, trials = ("small", "tiny", 6) if quick else ("base", "small", 20)
    costs, rows = _compare(size, "cpu")
    if _has_cuda():
        rows += _compare(size, "cuda")[1]
    else:
        # There the difference is largest: whoever copies the whole state to the host first needs room for all of it.
        why = not_measured("no CUDA device")
        rows += [Row("cuda: all of the above", why, "-", peer, None, "-", None) for peer in PEERS]
    full = costs["full"]["size_bytes"]
    rows += [_share_row(name, costs[kind]["size_bytes"] / full) for name, kind in (("fp32", "light"), ("fp16", HALF))]
    survivals = {method: kills(method, kill_size, trials) for method in (OURS, *PEERS)}
    return rows + [_kill_row(peer, survivals) for peer in PEERS]


def _compare(size: str, device: str) -> tuple[Costs, list[Row]]:
    """Our costs, and the rows of all."""
    ours, *peers = (save_costs(method, size, device) for method in (OURS, *PEERS))
    pairs = [(kind, name, peer) for kind in KINDS for name, peer in zip(PEERS, peers, strict=True)]
    return ours, [
        line for kind, name, peer in pairs for line in _cost_rows(f"{device}, {kind}", name, ours[kind], peer[kind])
    ]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _cost_rows(what: str, peer: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    extra = [
        not_measured("no clear_refs") if cost["extra_bytes"] is None else cost["extra_bytes"] / MIB
        for cost in (ours, theirs)
    ]
    # What one needs for a save must not grow with the model: a twentieth of it, or 16 MiB for the small ones.
    bound = round(max(16.0, 0.05 * ours["state_bytes"] / MIB))
    sizes = [cost["size_bytes"] / MIB for cost in (ours, theirs)]
    return [
        row(f"{what}: extra peak memory, MiB", extra[0], extra[1], peer, "ours", "<=", bound),
        row(f"{what}: CPU-seconds", ours["cpu_s"], theirs["cpu_s"], peer, "ratio", "<=", 2),
        row(f"{what}: stall, s", ours["stall_s"], theirs["stall_s"], peer, "ratio", "<=", 2),
        row(f"{what}: stall until durable, s", ours["durable_s"], theirs["durable_s"], peer, "ratio", "<=", 1.25),
        row(f"{what}: on disk, MiB", sizes[0], sizes[1], peer, "ratio", "<=", 1.01),
    ]


def _share_row(name: str, share: float) -> Row:
    return row(
        f"light in {name} / full, size", share, FIELD_LIGHT_SHARE, "field figure", "ours", "<=", FIELD_LIGHT_SHARE
    )


def _kill_row(peer: str, survivals: dict[str, dict[str, Any]]) -> Row:
    figure = "kill -9 half-way: share with one left to load"
    shares = [
        survivals[method]["survived"] / survivals[method]["killed"]
        if survivals[method]["killed"]
        else not_measured("every save was done before its kill")
        for method in (OURS, peer)
    ]
    return row(figure, shares[0], shares[1], peer, "ours", "==", 1)


if __name__ == "__main__":
    sys.exit(main("checkpoint", __doc__ or "", measure))
