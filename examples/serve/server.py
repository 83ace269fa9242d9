"""Waitress, which receives and sends without a thread for each client, with a clean end.

One thread reads and writes all connections; a request goes to a worker thread when all of it has
come, and the next of its connection is not looked at before the answer has gone. What is added:
errors of the protocol in JSON, bounds on the time in which a request has to come and an answer to
be taken, answers that arrive although the client is still sending, an end that loses nothing.
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

QUIET = 0.5  # seconds for which a connection must have been idle before it is closed at the end
LINGER = 2.0  # seconds for which a client that is still sending may read why it was refused
PAUSE = 1.0  # seconds until the next attempt when the system gives no connection, of want of files


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
        self.unread = bytearray()  # what came after a request that is not answered yet
        super().__init__(*args, **options)

    def parser_class(self, adj: Adjustments) -> Parser:
        return Parser(adj, self.unread)

    def readable(self) -> bool:
        return bool(self.lingers_until or (not self.unread and super().readable()))

    def writable(self) -> bool:
        return bool(not self.lingers_until and super().writable())

    def handle_read(self) -> None:
        if self.lingers_until:
            self.recv(self.adj.recv_bytes)  # closes when there is no more
            return
        request, began = self.request, self.last_activity
        super().handle_read()
        if request is not None and self.request is request:
            self.last_activity = began  # drips do not prolong the time that a request has

    def go_on(self) -> None:
        """Takes up the next request if the answer to the one before has gone.

        So a client that sends many and reads no answer costs one answer, not all of them.
        """
        if self.close_when_flushed or self.will_close or self.lingers_until:
            self.unread.clear()
        while self.unread and super().readable():
            data = bytes(self.unread)
            self.unread.clear()
            self.received(data)

    def write_soon(self, data: Any) -> int:
        self.last_activity = time.time()  # from now on the client has time to take it
        return int(super().write_soon(data))

    def give_up(self) -> None:
        """Closes it with a reset: the system need not keep what the client does not take."""
        self.refused = False
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handle_close()

    def handle_close(self) -> None:
        if self.refused and self.connected and not self.lingers_until:
            # To close now would send a reset, which may overtake the answer.
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
        """Nothing has come that is not answered."""
        return not (self.requests or self.request or self.unread or self.total_outbufs_len)


class Server(TcpWSGIServer):
    """Serves an application until it is told to stop.

    Args:
      application: WSGI.
      grace: seconds in which all that was accepted is answered, once it is told to stop.
      on_stop: called when it is told to.
      **options: of waitress, such as `host`, `port` and `threads`.
    """

    channel_class = _Channel
    # Not while waitress goes over the connections: it would ask about one that is closed by then,
    # and take the answer for that of a new one, to which the system gives the same number.
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
            "clear_untrusted_proxy_headers": False,  # the application knows whom to believe
            "outbuf_overflow": 2**24,  # an answer stays in memory: a file could not be opened
        }
        super().__init__(application, map={}, adj=Adjustments(**defaults | options))

    def stop(self) -> None:
        """Makes `run` end; a signal's handler or any thread may call it."""
        if not self.stopping:  # afterwards there may be nobody left to wake up
            self.stopping = True
            self.pull_trigger()

    def run(self) -> bool:
        """Serves until `stop`, then answers what was accepted.

        Returns:
          Whether all of it was answered in time.
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
        """Whether to ask for new connections."""
        return bool(super().readable() and time.monotonic() >= self._paused_until)

    def accept(self) -> Any:
        """The next connection, or None; a system that gives none is not asked at once again."""
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
        """Ends connections on which a request, or nothing, has been coming for too long.

        And those whose client has taken nothing of an answer for as long.
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
        """Takes the connections that the system has accepted already, then listens no more."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)
