"""Where micro-batches come from: collated when they are wanted, or ahead of that by worker processes.

Workers are torch's DataLoader, fed with what the sampler is going to ask for. Collating is a function of its arguments,
so what they make is what this process would have made; where the training turned another way meanwhile (a changed split,
a rollback), what is ready no longer matches what is asked for, is dropped, and they start over from there.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset

from memdash.config import DataSection
from memdash.errors import MemdashError
from runner.slicing import Request, make
from runner.tasks.protocol import Batch, Task

PR_SET_PDEATHSIG = 1
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


Following = Callable[[], Iterator[Request]]


class Loading(Protocol):
    """Makes micro-batches."""

    def group(self, requests: Sequence[Request], following: Following) -> list[Batch]:
        """Those that are asked for; `following` says what is likely to be asked for after them."""

    def close(self) -> None:
        """Nothing more is wanted."""


def open_loading(task: Task, data: DataSection) -> Loading:
    """As `data.num_workers` says. Call it before this process has a thread or a started device: workers are forked from it."""
    return Workers(task, data.num_workers, data.prefetch) if data.num_workers else InTurn(task)


class InTurn:
    """Collates in this process, when asked."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def group(self, requests: Sequence[Request], following: Following) -> list[Batch]:
        """One after the other."""
        return [make(self._task, "train", request) for request in requests]

    def close(self) -> None:
        """Nothing is open."""


class Workers:
    """Forked, so that they share the data with this process; at most `prefetch` micro-batches of each are ready.

    A spawned worker would import torch again and hold its own copy of the data, and a task of one's own would have to be
    picklable. Forking is safe only from a process of one thread: so it is done before the socket's is started, and before
    the device is started, whose limit a simulated one would hand down.
    """

    def __init__(self, task: Task, num_workers: int, prefetch: int) -> None:
        self._asked = _Asked()
        loader = DataLoader(
            _Examples(task),
            batch_size=None,
            sampler=self._asked,
            num_workers=num_workers,
            prefetch_factor=prefetch,
            collate_fn=_as_it_is,
            worker_init_fn=_become_worker,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # the global one decides what is trained
        )
        others = set(multiprocessing.active_children())
        gc.freeze()  # a worker that collects garbage would write to, and so copy, all that it shares
        self._ready: Iterator[Batch | MemdashError | None] | None = iter(loader)
        gc.unfreeze()
        self._processes = set(multiprocessing.active_children()) - others
        atexit.register(self.close)  # before multiprocessing's own, which waits for workers that ignore its SIGTERM

    def group(self, requests: Sequence[Request], following: Following) -> list[Batch]:
        """From what is ready, as far as it is that. Raises what the task raised; RuntimeError when a worker died."""
        batches = []
        for place, request in enumerate(requests):
            if request not in self._asked.waiting:
                self._asked.coming = chain(requests[place:], following())
            batches.append(self._take(request))
        return batches

    def close(self) -> None:
        """End the workers."""
        ready, self._ready = self._ready, None
        end = getattr(ready, "_shutdown_workers", None)  # it is called when the iterator is gone, too; but a traceback
        if end is not None:  # may hold on to it until Python ends, where nobody waits for workers in the right order
            end()
        for process in self._processes:
            if process.is_alive():
                process.kill()
        self._processes.clear()
        atexit.unregister(self.close)

    def _take(self, request: Request) -> Batch:
        """The next that is this one; those before it are not wanted any more."""
        assert self._ready is not None, "closed"
        while True:
            made, what = self._next(self._ready), self._asked.waiting.popleft()
            if what == request:
                break
        if isinstance(made, MemdashError):
            raise made
        # Out of the shared memory, which is small in a container, and of a file descriptor for each tensor.
        return {name: tensor.clone() for name, tensor in cast("Batch", made).items()}

    def _next(self, ready: Iterator[Batch | MemdashError | None]) -> Batch | MemdashError | None:
        """What is ready next. A worker that dies with a batch on its way breaks the pipe before torch has seen its end."""
        try:
            return next(ready)
        except (OSError, EOFError) as error:
            gone = [str(process.pid) for process in self._processes if not process.is_alive()]
            if not gone:
                raise
            raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(gone)}) exited unexpectedly") from error


class _Asked(torch.utils.data.Sampler["Request | None"]):
    """What the workers are given, in order: what is coming, or nothing to do where that is not known. Never ends."""

    def __init__(self) -> None:
        self.coming: Iterator[Request] = iter(())
        self.waiting: deque[Request | None] = deque()
        """Given to a worker, and not yet taken."""

    def __iter__(self) -> Iterator[Request | None]:
        return self

    def __next__(self) -> Request | None:
        request = next(self.coming, None)
        self.waiting.append(request)
        return request


class _Examples(Dataset["Batch | MemdashError | None"]):
    """Runs in a worker."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getitem__(self, request: Request | None) -> Batch | MemdashError | None:
        if request is None:
            return None
        try:
            return make(self._task, "train", request)
        except MemdashError as error:  # as a value: DataLoader would wrap it in a traceback
            return error


def _become_worker(_number: int) -> None:
    """Signals are the training process's matter; when that dies, so does this one."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent.pid:  # it died before this could be told
        os._exit(1)


def _as_it_is(made: Any) -> Any:
    return made
