"""`python -P -m runner --run-dir DIR --base-dir DIR [--resume | --warm-start CHECKPOINT]`: one training process.

Started by the supervisor, which gives MEMDASH_SOCKET, MEMDASH_RUN_ID and MEMDASH_ATTEMPT in the environment; without
them it trains all the same. SIGTERM and SIGINT stop it after a full checkpoint, SIGUSR1 saves one and lets it go on.
Its exit code is the outcome of the run: see memdash.errors.ExitCode.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from memdash.agent.session import Session
from memdash.errors import ExitCode, MemdashError, UsageError
from runner.say import print_without_fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the exit code. Says goodbye to the supervisor whatever happens."""
    parser = argparse.ArgumentParser(prog="python -m runner", description="Train one run.")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds config.json; checkpoints are saved in it")
    parser.add_argument("--base-dir", type=Path, required=True, help="what relative paths in the config start from")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", default="", metavar="CHECKPOINT", help="go on exactly from a full one: a path, a name, or `latest`"
    )
    start.add_argument("--warm-start", default="", metavar="CHECKPOINT", help="go on from the weights of any one")
    parser.add_argument("--micro-batch", type=int, default=0, help="instead of the config's or the checkpoint's")
    options = parser.parse_args(arguments)
    print_without_fail()
    session = Session()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: session.request_stop(save="full"))
    signal.signal(signal.SIGUSR1, lambda *_: session.request_checkpoint("full"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is gone ends no run
    try:
        return _train(options, session)
    except MemdashError as error:
        return _explain(error, session)
    except Exception as error:
        traceback.print_exc()
        session.finish("failed", f"{type(error).__name__}: {error}")
        return ExitCode.FAILED


def _train(options: argparse.Namespace, session: Session) -> int:
    # Importing torch and transformers takes seconds: by now a signal already means "stop at the next boundary".
    from runner.launch import prepare
    from runner.spec import read_spec

    spec = read_spec(options.run_dir, options.base_dir, options.resume, options.warm_start, options.micro_batch)
    loop = prepare(spec, session)
    outcome = loop.run()
    session.finish(outcome, "stopped on request" if outcome == "stopped" else loop.why_early)
    return ExitCode.STOPPED if outcome == "stopped" else ExitCode.OK


def _explain(error: MemdashError, session: Session) -> int:
    """One line for a mistake that is not a bug."""
    from runner.oom import OutOfMemoryStop

    text = f"{error}" + (f" ({error.hint})" if error.hint else "")
    sys.stderr.write(f"memdash: {text}\n")
    if isinstance(error, OutOfMemoryStop):
        session.finish("oom", text)
        return ExitCode.OUT_OF_MEMORY
    session.finish("failed", text)
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
