"""Writes down what this machine tells a process about its memory limits: a fixture for tests/host/trees, standard library only.

`python tests/host/capture.py "Docker 28.1, cgroup v2" > mine.json`, from inside the job or container whose limits were
misread. Container ids, uuids and the host's name are replaced; read the file before you send it to us.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
from pathlib import Path

TREES = Path(__file__).parent / "trees"
PID = "7"
"""Whose figures they are, in the fixture."""
PROC_LINES = {
    "meminfo": r"MemTotal|MemFree|MemAvailable|SwapTotal|SwapFree",
    "vmstat": r"oom_kill ",
    "pressure/memory": r"",
}
CGROUP_FILES = (
    *("memory.max", "memory.high", "memory.current", "memory.peak", "memory.swap.max", "memory.swap.current"),
    *("memory.stat", "memory.events", "memory.events.local", "memory.oom.group", "memory.pressure"),
    *("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.memsw.limit_in_bytes"),
    *("memory.memsw.usage_in_bytes", "memory.oom_control", "memory.failcnt", "memory.memsw.failcnt"),
)
STAT_LINES = r"(total_)?((in)?active_file|anon|file|cache|rss|shmem|kernel) |hierarchical_"
SECRETS = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|(?=\d*[a-f])[0-9a-f]{12,}")


def main() -> None:
    """Print the capture of this process as JSON, under the title that the command line gives."""
    json.dump(capture(" ".join(sys.argv[1:])), sys.stdout, indent=1)
    print()


def capture(about: str) -> dict[str, object]:
    """Everything that memdash would read, by its path; and in which directory the kernel really keeps this process."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    files = {"proc/self/cgroup": Path("/proc/self/cgroup").read_text(), "proc/self/mountinfo": "\n".join(mounts) + "\n"}
    for name, pattern in PROC_LINES.items():
        with contextlib.suppress(OSError):
            files[f"proc/{name}"] = _matching(Path("/proc", name).read_text(), pattern)
    home = None
    for mount in sorted(
        mounts, key=lambda mount: " - cgroup2 " not in mount
    ):  # v1 has the memory where both are mounted
        left, _, kind = mount.partition(" - ")
        top = Path(left.split(" ")[4])
        if (kind.startswith("cgroup2 ") or "memory" in kind.split(" ")[-1].split(",")) and (found := _home(top)):
            home = found
            for directory in [found, *found.parents][: len(found.relative_to(top).parts) + 1]:
                files |= _memory_files(directory)
    tree = {
        "about": about,
        "kernel": re.match(r"[\d.]*\d", os.uname().release)[0],
        "home": str(home) if home else None,
        "files": files,
    }
    text = json.dumps(tree)
    for number, secret in enumerate(dict.fromkeys(SECRETS.findall(text)), 1):
        text = text.replace(secret, f"{number:012x}")
    text = text.replace(socket.gethostname(), "thishost") if len(socket.gethostname()) > 3 else text
    return dict(json.loads(text.replace("proc/self/cgroup", f"proc/{PID}/cgroup")))


def plant(name: str, root: Path, trees: Path = TREES) -> dict[str, object]:
    """Lay a tree of tests/host/trees out below `root`; what was written down of it."""
    tree = dict(json.loads((trees / f"{name}.json").read_text()))
    for path, text in tree["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return tree


def _home(top: Path) -> Path | None:
    """The directory below a mount point whose list of processes has us in it."""
    for path, _, names in os.walk(top):
        if "cgroup.procs" in names:
            with contextlib.suppress(OSError):
                if str(os.getpid()) in Path(path, "cgroup.procs").read_text().split():
                    return Path(path)
    return None


def _memory_files(directory: Path) -> dict[str, str]:
    found = {}
    for name in CGROUP_FILES:
        with contextlib.suppress(OSError):
            text = (directory / name).read_text()
            found[str(directory / name).lstrip("/")] = _matching(text, STAT_LINES) if name == "memory.stat" else text
    return found


def _matching(text: str, pattern: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if re.match(pattern, line))


if __name__ == "__main__":
    main()
