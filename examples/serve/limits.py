"""How much one request may ask for, how often one client may ask, and how many may come at once."""

import collections
import contextlib
import dataclasses
import ipaddress
import re
import threading
import time
from collections.abc import Callable

__all__ = ["Limits", "RateLimiter", "allowed_connections", "client_address", "parsed_address"]

FILES = 100  # that the process opens beside connections: libraries, checkpoints, its log


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


def client_address(peer: str, forwarded: str | None, trusted_proxy: str | None) -> str:
    """Who sends a request: the peer, or whom it names if it is the proxy that is trusted.

    Args:
      peer: address of the other end of the connection.
      forwarded: X-Forwarded-For; its last entry is what the proxy has added itself.
      trusted_proxy: its address.

    Returns:
      An address without port; the peer's if the entry is none.

    Example:
      >>> client_address("10.0.0.1", "203.0.113.9, 192.0.2.1:4711", "10.0.0.1")
      '192.0.2.1'
      >>> client_address("10.0.0.2", "192.0.2.1", "10.0.0.1")
      '10.0.0.2'
    """
    trusted = trusted_proxy is not None and parsed_address(peer) == parsed_address(trusted_proxy)
    if not trusted or forwarded is None:
        return peer
    entry = forwarded.rpartition(",")[2].strip().strip('"')
    bracketed = re.fullmatch(r"\[(.*)\](?::\d+)?", entry)
    if bracketed:
        entry = bracketed.group(1)
    elif entry.count(":") == 1:  # of an IPv6 address there are more
        entry = entry.partition(":")[0]
    found = parsed_address(entry)
    return peer if found is None else str(found)


def allowed_connections(wanted: int) -> int:
    """How many connections this process may have, which are open files to the system.

    It raises the limit of the process as far as that is allowed.

    Args:
      wanted: how many there should be.

    Returns:
      As many, or fewer.
    """
    try:
        import resource  # there is none on Windows
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed, infinite = wanted + FILES, resource.RLIM_INFINITY
    if soft == infinite or soft >= needed:
        return wanted
    raised = needed if hard == infinite else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return max(0, min(wanted, soft - FILES))


def parsed_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as such, IPv4 within IPv6 as IPv4 and without a zone; None if it is none.

    Args:
      address: as text.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _network(address: str) -> str:
    parsed = parsed_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)
