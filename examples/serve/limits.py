"""Limits on the contents of requests, on their rate, and on connections."""

import collections
import contextlib
import dataclasses
import ipaddress
import re
import threading
import time
from collections.abc import Callable

__all__ = ["Limits", "RateLimiter", "allowed_connections", "client_address", "parsed_address"]

FILES = 100  # open files of the process besides connections: libraries, checkpoints, its log


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on requests. If a request exceeds a limit, the error message names the limit."""

    body_bytes: int = 64 * 1024
    """Maximum size of the body of a request."""
    words: int = 16
    """Maximum number of words to pronounce in a request."""
    word_letters: int = 32
    """Maximum number of letters of a word."""
    text_letters: int = 2000
    """Maximum number of characters of a text."""
    text_words: int = 128
    """Maximum number of words of a text; each word needs one row of a batch."""
    queued_rows: int = 1024
    """Maximum number of rows that wait for a model; further requests are answered with 503."""
    answer_seconds: float = 10.0
    """Seconds that a request may wait for a model before it is answered with 503."""


class RateLimiter:
    """A token bucket for each client address.

    A client may send `burst` requests at once, and `rate` requests per second after that.

    Only the most recent addresses are stored, so memory is bounded. An IPv6 client has at least
    2^64 addresses, so the addresses of a network share one bucket.

    Args:
      rate: tokens per second; a rate of 0 means no limit.
      burst: tokens in a full bucket.
      addresses: number of buckets that are stored.
      clock: a function that returns monotonic seconds.

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
        """Take a token from the bucket of an address, if the bucket has one.

        Args:
          address: the address of the client, as text.

        Returns:
          0.0 if a token was taken, otherwise the seconds until the bucket has a token.
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
    """Return the address of the client: the peer, or the address that a trusted proxy names.

    Args:
      peer: address of the other end of the connection.
      forwarded: the header X-Forwarded-For, whose last entry the proxy has added.
      trusted_proxy: address of the proxy, or None.

    Returns:
      The address without a port. If the last entry of the header is not an address, the peer's
      address is returned.

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
    elif entry.count(":") == 1:  # an IPv6 address has several colons
        entry = entry.partition(":")[0]
    found = parsed_address(entry)
    return peer if found is None else str(found)


def allowed_connections(wanted: int) -> int:
    """Return the number of connections that this process may have.

    Each connection is an open file. The function raises the limit of the process on open files as
    far as necessary and permitted.

    Args:
      wanted: the desired number of connections.

    Returns:
      `wanted`, or fewer.
    """
    try:
        import resource  # Windows has no such limit
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed, infinite = wanted + FILES, resource.RLIM_INFINITY
    if soft == infinite or soft >= needed:
        return wanted
    raised = needed if hard == infinite else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # some systems permit less than they report
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return max(0, min(wanted, soft - FILES))


def parsed_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address; return None if the address is invalid.

    The zone of an IPv6 address, which follows "%", is ignored.

    Args:
      address: an IPv4 or IPv6 address as text. An IPv4 address in IPv6 notation becomes an IPv4
        address.
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
