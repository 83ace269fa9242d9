"""Serve the models that examples/pronounce.py and examples/sentiment.py have trained."""

import dataclasses
import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import tyro

from examples import script
from examples.serve import app, models
from examples.serve.limits import Limits, RateLimiter, allowed_connections, parsed_address
from examples.serve.server import Server
from examples.serve.service import Service

__all__ = ["Config", "leave", "main", "serve"]

logger = logging.getLogger("examples.serve")

SWITCH = 5e-5  # seconds for which a thread keeps the interpreter while another waits for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the server; /health says when the server is ready."""

    pronounce: Path = Path("out/pronounce")
    """Folder that examples/pronounce.py has written."""
    sentiment: Path = Path("out/sentiment")
    """Folder that examples/sentiment.py has written."""
    host: str = "127.0.0.1"
    """Address on which the server listens; 0.0.0.0 is all addresses of this machine."""
    port: int = 8000
    """Port on which the server listens; 0 takes a free port, which is printed."""
    threads: int = 32
    """Maximum number of requests that are processed or wait for a model. Further requests wait for
    a thread."""
    connections: int = 1000
    """Maximum number of connections. Further connections wait in the system's queue. If this queue
    is full, the system refuses them."""
    request_seconds: int = 20
    """Time limit in seconds for a request to arrive, for a client to read a part of its answer, and
    for an idle connection."""
    grace: float = 10.0
    """Time limit in seconds for answering the accepted requests after SIGTERM or SIGINT."""
    batch_wait: float = 0.003
    """Seconds for which a batch waits for more rows."""
    rate: float = 10.0
    """Requests per second that a client address may send; 0 for no limit."""
    burst: int = 40
    """Requests that a client address may send at once before the rate is limited."""
    trusted_proxy: str | None = None
    """Address of a reverse proxy, whose header X-Forwarded-For names the client."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    """Limits on one request."""

    def check(self) -> None:
        """Raise SystemExit if an option is out of range."""
        for group, prefix in ((self, "--"), (self.limits, "--limits.")):
            for field in dataclasses.fields(group):
                value = getattr(group, field.name)
                least = 0 if field.name in ("port", "rate", "batch_wait", "grace") else 1
                if isinstance(value, int | float) and not least <= value < math.inf:
                    flag = prefix + field.name.replace("_", "-")
                    raise SystemExit(f"{flag}: expected at least {least}, got {value}")
        if self.port > 65535:
            raise SystemExit(f"--port: expected 0 to 65535, got {self.port}")
        if self.trusted_proxy is not None and parsed_address(self.trusted_proxy) is None:
            raise SystemExit(
                f"--trusted-proxy: expected an IP address, got {self.trusted_proxy[:60]!r}"
            )


def serve(config: Config, load: Callable[[], Service]) -> int:
    """Serve two models until a signal arrives.

    The port is bound first, so that an error is reported at once. Until the models are read and
    compiled, requests for predictions are answered with 503.

    Args:
      config: the options.
      load: a function that reads the models without compiling them.

    Returns:
      The exit status of the process.

    Raises:
      SystemExit: the server cannot listen on its port.
    """
    # The sending thread releases the interpreter at each system call. With the default interval, it
    # would wait up to 5 ms for each answer to get the interpreter back from a thread that computes.
    sys.setswitchinterval(SWITCH)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: leave(0))  # the server is not running yet
    connections = allowed_connections(config.connections)
    if not connections:
        raise SystemExit("--connections: the system permits no more open files")
    if connections < config.connections:
        message = "--connections: %d instead of %d, since the system permits no more open files"
        logger.warning(message, connections, config.connections)
    limiter = RateLimiter(config.rate, config.burst)
    application = app.create_app(None, config.limits, limiter, config.trusted_proxy)
    server = _bound(
        config,
        application,
        threads=config.threads,
        connection_limit=connections + 2,  # open files that the server needs itself
        channel_timeout=config.request_seconds,
        max_request_body_size=config.limits.body_bytes + 1,  # the first number that is too large
        max_request_header_size=16 * 1024,
        grace=config.grace,
        on_stop=lambda: application.config.update(draining=True),
    )
    failed: list[BaseException] = []

    def warm_up() -> None:
        try:
            service = load()
            application.config["service"] = service
            service.warm_up()
            logger.info("ready")
        except SystemExit as error:  # not an error of the server: the exception names the option
            logger.error("%s", error)
            failed.append(error)
        except Exception as error:
            logger.exception("the models cannot be warmed up")
            failed.append(error)
        if failed:
            server.stop()

    def on_signal(number: int, _: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)  # the second signal ends the process at once
        server.stop()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, on_signal)
    host = f"[{server.effective_host}]" if ":" in server.effective_host else server.effective_host
    logger.info("listening at http://%s:%s", host, server.effective_port)
    warming = threading.Thread(target=warm_up, name="warm-up", daemon=True)
    warming.start()
    server.run()
    logger.info("stopped")
    return 1 if failed else 0


def main(config: Config) -> int:
    """Read the models and serve them; return the exit status of the process."""
    config.check()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns about what it was asked to do

    def load() -> Service:
        with script.blaming("pronounce"):
            pronouncer = models.load_pronouncer(config.pronounce)
        with script.blaming("sentiment"):
            reviewer = models.load_reviewer(config.sentiment)
        return Service(pronouncer, reviewer, config.limits, config.batch_wait)

    return serve(config, load)


def leave(status: int) -> NoReturn:
    """End the process at once: a running compilation cannot be stopped in another way."""
    logging.shutdown()
    os._exit(status)


def _bound(config: Config, application: Any, **options: Any) -> Server:
    """Return a server that listens; errors name the host or the port, whichever is the cause."""
    with script.blaming("host"):
        socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    try:
        return Server(application, host=config.host, port=config.port, **options)
    except OSError as error:
        blamed = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
        with script.blaming(blamed):
            raise


if __name__ == "__main__":
    leave(main(tyro.cli(Config, prog="python -m examples.serve", description=__doc__)))
