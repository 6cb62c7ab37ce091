"""What is said when the dashboard itself breaks: one line, and a file for whoever mends it."""

from __future__ import annotations

import traceback

from memdash.errors import MemdashError
from memdash.locations import cache_dir


def crash_report(run_id: str, error: BaseException) -> MemdashError:
    """Write the traceback to a file; the error to raise says what broke, where the file is, and that the run goes on."""
    cause = error.__cause__ if type(error).__name__ == "WorkerFailed" and error.__cause__ else error
    what = " ".join(f"{type(cause).__name__}: {cause}".split())
    path = cache_dir() / f"dashboard-{run_id}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        where = f"the traceback is in {path}"
    except OSError as refused:
        where = f"the traceback could not be written: {refused}"
    return MemdashError(
        f"the dashboard broke down ({what}); {where}",
        hint=f"the run is untouched; come back with: memdash attach {run_id}, or add --headless for plain lines",
    )
