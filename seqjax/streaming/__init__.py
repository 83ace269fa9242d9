"""Many streams through one compiled step, each with its own state."""

from seqjax.streaming._session import Session

__all__ = ["Session"]
