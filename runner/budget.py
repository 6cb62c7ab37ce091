"""The simulated device where no compiler is: a dispatch mode that counts the storages of every operation's results.

Slower than the C++ allocator (1.6 times the CPU time a step) and blind to memory that lives only inside one operation.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memdash.units import format_bytes

if TYPE_CHECKING:
    from runner.simulated import Stats


class PythonBudget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live bytes of the tensors that operations return; over the capacity the operation's result is refused."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = self._allocated = self._peak = self._num_ooms = 0
        self._host_depth = 0
        self._live: dict[int, Any] = {}
        self._refusal: tuple[int, Stats] | None = None

    def start(self, capacity_bytes: int) -> None:
        """Begin to count."""
        self._capacity = capacity_bytes
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End it."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def read(self) -> Stats:
        """Figures now; also restarts the peaks and forgets what was refused."""
        stats = self._stats()
        self._peak = self._allocated
        self._refusal = None
        return stats

    def take_refusal(self) -> tuple[int, Stats] | None:
        """The last refusal since the last reading, once."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def empty_cache(self) -> int:
        """There is no cache."""
        return 0

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        """Not counted."""
        self._host_depth += 1
        try:
            yield
        finally:
            self._host_depth -= 1

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, then count what it made."""
        result = operation(*args, **(kwargs or {}))
        if not self._host_depth:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._live or not size:
            return
        if self._allocated + size > self._capacity:
            self._num_ooms += 1
            self._refusal = (size, self._stats())
            raise torch.OutOfMemoryError(
                f"Simulated device out of memory. Tried to allocate {format_bytes(size)} ({size} bytes). "
                f"The simulated device has a total capacity of {format_bytes(self._capacity)} of which "
                f"{format_bytes(self._capacity - self._allocated)} is free."
            )
        self._allocated += size
        self._peak = max(self._peak, self._allocated)
        self._live[key] = weakref.ref(storage, lambda _dead: self._forget(key, size))

    def _stats(self) -> Stats:
        """Nothing is held in reserve."""
        from runner.simulated import Stats

        now, peak = self._allocated, self._peak
        return Stats(self._capacity, now, now, 0, peak, peak, 0, self._num_ooms)

    def _forget(self, key: int, size: int) -> None:
        self._allocated -= size
        del self._live[key]
