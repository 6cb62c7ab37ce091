"""What a config puts into the environment of its training process: settings that are read only when a process starts."""

from __future__ import annotations

from memdash.config import RunConfig

# Set by hand, the threshold also stays where it is: left alone, glibc raises it up to 32 MiB with every block that is
# freed, and smaller tensors then go back to a heap that shrinks only from its top.
MMAP_THRESHOLD_BYTES = 128 * 1024


def training_environment(config: RunConfig) -> dict[str, str]:
    """Variables beside those that the supervisor inherits."""
    if config.memory.malloc == "return":
        return {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES)}
    return {}
