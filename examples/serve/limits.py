"""How much one request may ask for, and how often one client may ask."""

import collections
import dataclasses
import ipaddress
import threading
import time
from collections.abc import Callable

__all__ = ["Limits", "RateLimiter"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what comes in; each is named in the error of a request that is beyond it."""

    body_bytes: int = 64 * 1024
    """Of a request's body."""
    words: int = 16
    """Words to pronounce in a request."""
    word_letters: int = 32
    """Letters of a word."""
    text_letters: int = 2000
    """Characters of a text."""
    text_words: int = 128
    """Words of a text; each of them is a row of a batch."""
    queued_rows: int = 1024
    """Rows that wait for a model: beyond them requests are turned away at once, with 503."""
    answer_seconds: float = 10.0
    """How long a request may wait for a model before it is turned away, with 503."""


class RateLimiter:
    """A token bucket for each client address: `burst` requests at once, `rate` a second after that.

    Only the addresses seen last are remembered, so memory is bounded. An IPv6 client has at least
    2^64 addresses: they share the bucket of their network.

    Args:
      rate: tokens a second; 0 for no limit.
      burst: tokens that a full bucket holds.
      addresses: how many buckets are kept.
      clock: seconds, monotonic.

    Example:
      >>> now = [0.0]
      >>> limiter = RateLimiter(2.0, 1, clock=lambda: now[0])
      >>> limiter.take("192.0.2.1"), limiter.take("192.0.2.1"), limiter.take("192.0.2.2")
      (0.0, 0.5, 0.0)
      >>> now[0] = 0.5
      >>> limiter.take("192.0.2.1")
      0.0
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate, self.burst, self.addresses, self.clock = rate, burst, addresses, clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str) -> float:
        """Takes a token if there is one.

        Args:
          address: the client's, as text.

        Returns:
          0.0 if it was taken, else the seconds until there will be one.
        """
        if not self.rate:
            return 0.0
        key, now = _network(address), self.clock()
        with self._lock:
            tokens, then = self._buckets.pop(key, (float(self.burst), now))
            tokens = min(self.burst, tokens + (now - then) * self.rate)
            wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
            self._buckets[key] = (tokens if wait else tokens - 1, now)
            if len(self._buckets) > self.addresses:
                self._buckets.popitem(last=False)
        return wait


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
