"""Runs and sockets of a benchmark's own, gone when it is over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def home() -> Iterator[Path]:
    """A new home for runs; the path is short, because a socket's may have 107 bytes."""
    before = dict(os.environ)
    path = Path(tempfile.mkdtemp(prefix="md-", dir="/tmp"))
    os.environ.update(MEMDASH_RUNS_DIR=str(path / "runs"), MEMDASH_RUNTIME_DIR=str(path))
    try:
        yield path
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(path, ignore_errors=True)
