"""What to train, resolved: the config of a run, where its files are, and what it resumes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from memdash.config import RunConfig, resolve_path
from memdash.config_file import parse_config
from memdash.errors import UsageError


@dataclass(frozen=True)
class Spec:
    """One launch of a run."""

    config: RunConfig
    run_dir: Path
    base_dir: Path
    """The directory of the user's config file: relative paths and a task of one's own start there."""
    resume: str = ""
    """A full checkpoint to go on from exactly: its directory, its name, `latest`, or nothing."""
    warm_start: str = ""
    """One whose weights to go on from."""
    micro_batch: int = 0
    """What this launch is to use whatever the config and the checkpoint say; nothing larger is tried later."""
    only_looks: bool = False
    """Nothing is trained: what would be loaded into memory is measured instead."""

    @property
    def checkpoints_dir(self) -> Path:
        """Where this run saves."""
        return self.run_dir / "checkpoints"

    @property
    def snapshots_dir(self) -> Path:
        """Where torch's memory snapshots go."""
        return self.run_dir / "memory-snapshots"

    def path(self, text: str) -> Path:
        """A path of the config."""
        return resolve_path(text, self.base_dir)

    def pretrained(self, text: str) -> str:
        """A local directory as a path, anything else as a hub name."""
        path = self.path(text)
        if path.is_dir():
            return str(path.resolve())
        if text.startswith(("package:", "/", ".", "~")):
            raise UsageError(f"{text}: there is no such directory")
        return text


def read_spec(run_dir: Path, base_dir: Path, resume: str = "", warm_start: str = "", micro_batch: int = 0) -> Spec:
    """The spec of a launch, validated again. Raises UsageError, ConfigError."""
    path = run_dir / "config.json"
    try:
        table = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    config = parse_config(table, base=base_dir)
    return Spec(config, run_dir.absolute(), base_dir.absolute(), resume, warm_start, micro_batch)
