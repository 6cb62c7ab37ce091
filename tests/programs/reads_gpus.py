"""Reads GPUs when told to: a JSON line in, a JSON line out. The driver's library is found when a process starts, so tests need one.

In: {"environment": {...}, "tree": [pids]}. Out: {"reason": why there is none, "gpus": [...]}.
"""

from __future__ import annotations

import json
import sys

import msgspec

from memdash.host.nvml import Nvml


def main() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        nvml = Nvml(order["environment"])
        reason = nvml.start()
        nvml.list_processes(set(order["tree"]))
        answer = {"reason": reason, "gpus": nvml.read()}
        print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main()
