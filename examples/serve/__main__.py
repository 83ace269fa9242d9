"""Serves the models that examples/pronounce.py and examples/sentiment.py have trained."""

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

SWITCH = 5e-5  # seconds that a thread keeps the interpreter while another waits for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the server; /health says when it is ready."""

    pronounce: Path = Path("out/pronounce")
    """Folder that examples/pronounce.py has left."""
    sentiment: Path = Path("out/sentiment")
    """Folder that examples/sentiment.py has left."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is all of this machine's."""
    port: int = 8000
    """Port to listen at; 0 takes a free one, which is printed."""
    threads: int = 32
    """Requests that are in work or wait for a model; further ones wait before that."""
    connections: int = 1000
    """Connections at once; further ones wait until the system turns them away."""
    request_seconds: int = 20
    """How long a request may take to come, a client may take no byte of an answer, and an idle
    connection stays open."""
    grace: float = 10.0
    """Seconds in which all that was accepted is answered after SIGTERM or SIGINT."""
    batch_wait: float = 0.003
    """Seconds for which a batch waits for more rows."""
    rate: float = 10.0
    """Requests a second that a client address may send; 0 for no limit."""
    burst: int = 40
    """Requests that it may send at once before that holds."""
    trusted_proxy: str | None = None
    """Address of a proxy in front, whose X-Forwarded-For says who the client is."""
    limits: Limits = dataclasses.field(default_factory=Limits)
    """On what one request may ask for."""

    def check(self) -> None:
        """Raises SystemExit if an option makes no sense."""
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
    """Serves two models until a signal comes.

    The port is bound first, so that it is known at once if that cannot be; until the models are
    read and compiled, requests for them are answered with 503.

    Args:
      config: the options.
      load: reads the models, and does not warm them up.

    Returns:
      What the process should exit with.

    Raises:
      SystemExit: it cannot listen where it should.
    """
    # The thread that sends and receives lets go of the interpreter at each call of the system, and
    # would wait up to 5 ms, the default, to have it back while others compute: once an answer.
    sys.setswitchinterval(SWITCH)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: leave(0))  # there is nothing to end yet
    connections = allowed_connections(config.connections)
    if not connections:
        raise SystemExit("--connections: expected more open files than the system allows")
    if connections < config.connections:
        message = "--connections: %d instead of %d, as the system allows no more open files"
        logger.warning(message, connections, config.connections)
    limiter = RateLimiter(config.rate, config.burst)
    application = app.create_app(None, config.limits, limiter, config.trusted_proxy)
    server = _bound(
        config,
        application,
        threads=config.threads,
        connection_limit=connections + 2,  # with what it needs itself
        channel_timeout=config.request_seconds,
        max_request_body_size=config.limits.body_bytes + 1,  # the first that is too much
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
        except SystemExit as error:  # it is not our mistake, and says whose it is
            logger.error("%s", error)
            failed.append(error)
        except Exception as error:
            logger.exception("the models cannot be warmed up")
            failed.append(error)
        if failed:
            server.stop()

    def on_signal(number: int, _: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)  # the second one ends at once
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
    """Reads the models and serves them; returns what the process should exit with."""
    config.check()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of what it was asked to do

    def load() -> Service:
        with script.blaming("pronounce"):
            pronouncer = models.load_pronouncer(config.pronounce)
        with script.blaming("sentiment"):
            reviewer = models.load_reviewer(config.sentiment)
        return Service(pronouncer, reviewer, config.limits, config.batch_wait)

    return serve(config, load)


def leave(status: int) -> NoReturn:
    """Ends the process, whatever still runs in it: a compilation cannot be stopped otherwise."""
    logging.shutdown()
    os._exit(status)


def _bound(config: Config, application: Any, **options: Any) -> Server:
    """A server that listens; errors name the host or the port, whichever is to blame."""
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
