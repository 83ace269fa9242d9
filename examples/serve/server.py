"""Waitress with bounds on slow clients and a clean shutdown.

One thread reads from and writes to all connections. When a request has arrived completely, a worker
thread answers it. The next request of the same connection is processed only after this answer was
sent. This module adds the following to Waitress:

- Protocol errors are answered in JSON.
- A request must arrive, and its answer must be read, within a time limit.
- A client that is still sending can already receive an answer.
- A shutdown loses no request.
"""

import logging
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

try:
    from waitress import wasyncore
    from waitress.adjustments import Adjustments
    from waitress.channel import HTTPChannel
    from waitress.server import TcpWSGIServer
    from waitress.task import ErrorTask, WSGITask
    from waitress.utilities import BadRequest
except ImportError as error:
    raise ImportError('examples.serve needs waitress: pip install "seqjax[serve]"') from error

from examples.serve.app import HEADERS, error_body
from examples.serve.protocol import Parser

__all__ = ["Server"]

logger = logging.getLogger("examples.serve")

QUIET = 0.5  # seconds for which a connection must have been idle before it is closed at shutdown
LINGER = 2.0  # seconds in which a client that is still sending can read why it was refused
PAUSE = 1.0  # seconds until the next attempt if the system has no more files


class _Timeout(BadRequest):
    code, reason = 408, "Request Timeout"


class _JsonErrorTask(ErrorTask):
    """The answer to a request that does not reach the application."""

    def execute(self) -> None:
        error, adj, size = self.request.error, self.channel.adj, self.request.content_length
        messages = {
            408: f"request: expected all of it in {adj.channel_timeout} seconds, got a part",
            413: f"body: expected at most {adj.max_request_body_size - 1:,} bytes, got "
            + (f"{size:,}" if size else "more"),
            431: f"headers: expected at most {adj.max_request_header_size:,} bytes, got more",
        }
        body = error_body(error.code, messages.get(error.code, f"request: {error.body}"))
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), *HEADERS.items()]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.refused = True
        self.write(body)


class _Task(WSGITask):
    """A request to the application."""

    def build_response_header(self) -> bytes:
        if self.channel.server.stopping and not self.channel.unread:
            self.request.headers["CONNECTION"] = "close"
        head: bytes = super().build_response_header()
        return head


class _Channel(HTTPChannel):
    """A connection."""

    task_class = _Task
    error_task_class = _JsonErrorTask
    last_activity: float = 0.0
    refused = False
    lingers_until = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        self.unread = bytearray()  # bytes after a request that is not answered yet
        super().__init__(*args, **options)

    def parser_class(self, adj: Adjustments) -> Parser:
        return Parser(adj, self.unread)

    def readable(self) -> bool:
        return bool(self.lingers_until or (not self.unread and super().readable()))

    def writable(self) -> bool:
        return bool(not self.lingers_until and super().writable())

    def handle_read(self) -> None:
        if self.lingers_until:
            self.recv(self.adj.recv_bytes)  # closes the connection after the last byte
            return
        request, began = self.request, self.last_activity
        super().handle_read()
        if request is not None and self.request is request:
            self.last_activity = began  # single bytes do not prolong the time limit of a request

    def go_on(self) -> None:
        """Process the next request if the previous answer was sent.

        A client that sends many requests and reads no answer therefore costs the memory of only one
        answer.
        """
        if self.close_when_flushed or self.will_close or self.lingers_until:
            self.unread.clear()
        while self.unread and super().readable():
            data = bytes(self.unread)
            self.unread.clear()
            self.received(data)

    def write_soon(self, data: Any) -> int:
        self.last_activity = time.time()  # the time limit for reading the answer starts now
        return int(super().write_soon(data))

    def give_up(self) -> None:
        """Reset the connection, so that the system need not store data that nobody reads."""
        self.refused = False
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handle_close()

    def handle_close(self) -> None:
        if self.refused and self.connected and not self.lingers_until:
            # Closing now would send a reset, which may overtake the answer.
            self.lingers_until = time.time() + LINGER
            self.will_close = False
            try:
                self.socket.shutdown(1)
            except OSError:
                super().handle_close()
            return
        super().handle_close()

    @property
    def at_rest(self) -> bool:
        """Return whether all requests of the connection are answered and all answers are sent."""
        return not (self.requests or self.request or self.unread or self.total_outbufs_len)


class Server(TcpWSGIServer):
    """A server for an application, which runs until it is told to stop.

    Args:
      application: a WSGI application.
      grace: seconds in which accepted requests are answered after the stop.
      on_stop: a function that is called at the stop.
      **options: options of waitress, such as `host`, `port` and `threads`.
    """

    channel_class = _Channel
    # Waitress must not clean up while it iterates over the connections: it would poll a closed
    # connection, and mistake the result for that of a new connection with the same file number.
    next_channel_cleanup = math.inf

    def __init__(
        self,
        application: Any,
        *,
        grace: float = 10.0,
        on_stop: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        self.grace, self.on_stop, self.stopping = grace, on_stop, False
        self._paused_until, self._accepts, self._maintained = 0.0, True, 0.0
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is no news
        defaults: dict[str, Any] = {
            "asyncore_use_poll": True,
            "ident": None,
            "clear_untrusted_proxy_headers": False,  # the application checks the header itself
            "outbuf_overflow": 2**24,  # answers stay in memory: a file could not be opened
        }
        super().__init__(application, map={}, adj=Adjustments(**defaults | options))

    def stop(self) -> None:
        """Make `run` end. A signal handler or any thread may call this method."""
        if not self.stopping:  # the loop may have ended already
            self.stopping = True
            self.pull_trigger()

    def run(self) -> bool:
        """Serve until `stop`, then answer the accepted requests.

        Returns:
          Whether all accepted requests were answered in time.
        """
        while not self.stopping:
            self._turn(1.0)
        if self.on_stop is not None:
            self.on_stop()
        self._accept_the_last()
        end = time.monotonic() + self.grace
        while self.active_channels and time.monotonic() < end:
            self._turn(0.05)
            for channel in list(self.active_channels.values()):
                if channel.at_rest and channel.last_activity < time.time() - QUIET:
                    channel.handle_close()
        left = sum(not channel.at_rest for channel in self.active_channels.values())
        if left:
            logger.warning("stopped with %d requests unanswered after %g s", left, self.grace)
        self.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)
        return not left

    def readable(self) -> bool:
        """Return whether the server accepts new connections now."""
        return bool(super().readable() and time.monotonic() >= self._paused_until)

    def accept(self) -> Any:
        """Return the next connection, or None; after a failure, the server pauses for `PAUSE`."""
        try:
            found = super().accept()
        except OSError as error:
            if self._accepts:
                logger.error("no connections can be accepted for now: %s", error)
            self._paused_until, self._accepts = time.monotonic() + PAUSE, False
            return None
        self._accepts = self._accepts or found is not None
        return found

    def maintenance(self, now: float) -> None:
        """End connections that are idle for too long, or whose request takes too long to arrive.

        Also end connections whose client has read nothing of an answer for too long.
        """
        for channel in list(self.active_channels.values()):
            if channel.lingers_until:
                if channel.lingers_until < now:
                    channel.handle_close()
                continue
            late = channel.last_activity < now - self.adj.channel_timeout
            if late and channel.total_outbufs_len and not channel.requests:
                channel.give_up()
                continue
            with channel.requests_lock:
                if late and channel.request is not None and not channel.requests:
                    channel.request.error = _Timeout("")
                    channel.requests.append(channel.request)
                    channel.request = None
                    self.add_task(channel)
        super().maintenance(now)

    def _turn(self, timeout: float) -> None:
        if (now := time.time()) >= self._maintained + timeout:
            self._maintained = now
            self.maintenance(now)
        for channel in list(self.active_channels.values()):
            channel.go_on()
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)

    def _accept_the_last(self) -> None:
        """Accept the connections that wait in the system's queue, then stop listening."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)
