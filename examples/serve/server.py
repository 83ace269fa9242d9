"""Waitress, which receives and sends without a thread for each client, with a clean end.

One thread reads and writes all connections; a request goes to a worker thread when all of it has
come. What is added here: errors of the protocol in JSON, a bound on the time in which a request has
to come, answers that arrive although the client is still sending, and an end that loses nothing.
"""

import logging
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

__all__ = ["Server"]

logger = logging.getLogger("examples.serve")

QUIET = 0.5  # seconds for which a connection must have been idle before it is closed at the end
LINGER = 2.0  # seconds for which a client that is still sending may read why it was refused


class _Timeout(BadRequest):  # type: ignore[misc]
    code, reason = 408, "Request Timeout"


class _JsonErrorTask(ErrorTask):  # type: ignore[misc]
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


class _Task(WSGITask):  # type: ignore[misc]
    """A request to the application."""

    def build_response_header(self) -> bytes:
        if self.channel.server.stopping and len(self.channel.requests) == 1:
            self.request.headers["CONNECTION"] = "close"
        head: bytes = super().build_response_header()
        return head


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection."""

    task_class = _Task
    error_task_class = _JsonErrorTask
    last_activity: float = 0.0
    refused = False
    lingers_until = 0.0

    def readable(self) -> bool:
        return bool(self.lingers_until or super().readable())

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
        return not (self.requests or self.request or self.total_outbufs_len)


class Server(TcpWSGIServer):  # type: ignore[misc]
    """Serves an application until it is told to stop.

    Args:
      application: WSGI.
      grace: seconds in which all that was accepted is answered, once it is told to stop.
      on_stop: called when it is told to.
      **options: of waitress, such as `host`, `port` and `threads`.
    """

    channel_class = _Channel

    def __init__(
        self,
        application: Any,
        *,
        grace: float = 10.0,
        on_stop: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        self.grace, self.on_stop, self.stopping = grace, on_stop, False
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queue is no news
        defaults: dict[str, Any] = {"cleanup_interval": 1, "asyncore_use_poll": True, "ident": None}
        super().__init__(application, map={}, adj=Adjustments(**defaults | options))

    def stop(self) -> None:
        """Makes `run` end; a signal's handler or any thread may call it."""
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
            self.maintenance(time.time())
            for channel in list(self.active_channels.values()):
                if channel.at_rest and channel.last_activity < time.time() - QUIET:
                    channel.handle_close()
        left = sum(not channel.at_rest for channel in self.active_channels.values())
        if left:
            logger.warning("stopped with %d requests unanswered after %g s", left, self.grace)
        self.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)
        return not left

    def maintenance(self, now: float) -> None:
        """Ends connections on which a request, or nothing, has been coming for too long."""
        for channel in list(self.active_channels.values()):
            if channel.lingers_until:
                if channel.lingers_until < now:
                    channel.handle_close()
                continue
            late = channel.last_activity < now - self.adj.channel_timeout
            with channel.requests_lock:
                if late and channel.request is not None and not channel.requests:
                    channel.request.error = _Timeout("")
                    channel.requests.append(channel.request)
                    channel.request = None
                    self.add_task(channel)
        super().maintenance(now)

    def _turn(self, timeout: float) -> None:
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)

    def _accept_the_last(self) -> None:
        """Takes the connections that the system has accepted already, then listens no more."""
        before = -1
        while before != len(self.active_channels):
            before = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)
