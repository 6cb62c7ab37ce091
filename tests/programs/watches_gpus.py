"""Watches GPUs as the supervisor does, and prints a JSON line for each look that is new; ends when stdin does.

NAME=SECONDS arguments set the constants of memdash.host.gpu_watch. Each line has the longest time that a beat of 2 ms has taken.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from memdash.host import gpu_watch


def main() -> None:
    """Until stdin ends."""
    for argument in sys.argv[1:]:
        name, seconds = argument.split("=")
        setattr(gpu_watch, name, float(seconds))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    watch = gpu_watch.GpuWatch(os.environ)
    watch.root_pid = os.getpid()
    watch.start()
    shown, longest_s, beat_s = None, 0.0, time.monotonic()
    while not over.is_set():
        look = watch.latest()
        longest_s, beat_s = max(longest_s, time.monotonic() - beat_s), time.monotonic()
        if look != shown:
            shown = look
            line = {"kinds": [gpu.kind for gpu in look.gpus], "reasons": [gpu.reason for gpu in look.gpus]}
            print(json.dumps({**line, "reason": look.reason, "final": look.final, "longest_s": longest_s}), flush=True)
        time.sleep(0.002)
    watch.close()


if __name__ == "__main__":
    main()
