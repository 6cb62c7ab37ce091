"""Where runs, sockets and logs live (XDG directories, overridable by MEMDASH_* variables)."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from memdash.errors import LinkError, UsageError

MAX_SOCKET_PATH_BYTES = 107  # sun_path is 108 bytes with its NUL
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def runs_dir() -> Path:
    """Where every run has a directory (or a link to one): $MEMDASH_RUNS_DIR or $XDG_STATE_HOME/memdash/runs."""
    override = os.environ.get("MEMDASH_RUNS_DIR")
    if override:
        return Path(override).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "memdash" / "runs"


def cache_dir() -> Path:
    """What can be made again: compiled helpers, tokenizers."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memdash"


def sockets_dir() -> Path:
    """The directory of the supervisors' sockets; short, private, made when missing. Raises LinkError."""
    override = os.environ.get("MEMDASH_RUNTIME_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if override:
        path = Path(override)
    elif runtime and os.access(runtime, os.W_OK):
        path = Path(runtime) / "memdash"
    else:
        path = Path("/tmp") / f"memdash-{os.getuid()}"
    return _private(path)


def socket_path(run_id: str) -> Path:
    """The unix socket of one run's supervisor. Raises LinkError when the path is too long for a socket."""
    path = sockets_dir() / f"{run_id}.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise LinkError(
            f"the socket path {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes",
            hint="set MEMDASH_RUNTIME_DIR to a shorter directory",
        )
    return path


def check_run_id(run_id: str) -> str:
    """The id itself when it is one path component of harmless characters. Raises UsageError."""
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{run_id!r} is not a run id", hint="letters, digits, '.', '_' and '-', at most 64, not starting with a dot"
        )
    return run_id


def _private(path: Path) -> Path:
    """A directory that only this user can enter, made or checked."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise LinkError(f"{path} is not a directory of yours", hint="remove it or set MEMDASH_RUNTIME_DIR")
    if stat.S_IMODE(info.st_mode) & 0o077:
        os.chmod(path, 0o700)
    return path
