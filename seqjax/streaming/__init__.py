"""Streaming: many streams, each with its own state, share one compiled step."""

from seqjax.streaming._session import Session

__all__ = ["Session"]
