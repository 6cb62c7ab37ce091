"""A terminal dashboard and supervisor for training runs on machines that run out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memdash.agent.session import Session as Session

__all__ = ["Session", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`memdash.Session` for training scripts, loaded when it is asked for."""
    if name == "Session":
        from memdash.agent.session import Session

        return Session
    raise AttributeError(f"module 'memdash' has no attribute {name!r}")
