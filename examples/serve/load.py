"""Send many requests at once to a running server, and count the answers.

    python -m examples.serve --rate 0 --port 8000
    python -m examples.serve.load --port 8000 --requests 2000 --connections 64

The server must run with `--rate 0`, since all requests come from one address.
"""

import collections
import dataclasses
import http.client
import itertools
import json
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import tyro

__all__ = ["Answer", "Config", "main", "send"]

WORDS = ("rhythm", "pronunciation", "cat", "bahdanau", "though", "characteristically")
TEXTS = (
    "Not a bad film, but nothing I would watch again.",
    "What begins as a dull and predictable story becomes a moving and wonderful film.",
    "Great.",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the load test, which sends half of the requests to each of the two models."""

    host: str = "127.0.0.1"
    """Host of the server."""
    port: int = 8000
    """Port of the server."""
    requests: int = 2000
    """Total number of requests."""
    connections: int = 64
    """Number of connections; each sends a request after the previous one is answered."""


class Answer(NamedTuple):
    """The answer to a request; status 0 means that no answer arrived."""

    path: str
    body: dict[str, Any]
    status: int
    seconds: float
    content: Any


def send(host: str, port: int, asked: list[tuple[str, Any]], connections: int) -> list[Answer]:
    """Send requests over `connections` connections that stay open.

    Args:
      host: host of the server.
      port: port of the server.
      asked: path and body of each request.
      connections: number of connections.

    Returns:
      An answer for each request, in the order of the requests.
    """
    answers: list[Answer | None] = [None] * len(asked)
    numbers = itertools.count()

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while (number := next(numbers)) < len(asked):
            path, body = asked[number]
            start = time.perf_counter()
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", path, json.dumps(body), headers)
                response = connection.getresponse()
                status, content = response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                status, content = 0, repr(error)
            answers[number] = Answer(path, body, status, time.perf_counter() - start, content)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer is not None]


def main(config: Config) -> list[Answer]:
    """Send requests, and print throughput and latencies."""
    asked: list[tuple[str, Any]] = [
        ("/api/sentiment", {"text": TEXTS[number // 2 % len(TEXTS)]})
        if number % 2
        else ("/api/pronounce", {"words": [WORDS[number // 2 % len(WORDS)]]})
        for number in range(config.requests)
    ]
    start = time.perf_counter()
    answers = send(config.host, config.port, asked, config.connections)
    seconds = time.perf_counter() - start
    counts = collections.Counter(answer.status for answer in answers)
    print(f"{len(answers):,} answers in {seconds:.1f} s: {len(answers) / seconds:,.0f} per second")
    print("by status: " + ", ".join(f"{status}: {n:,}" for status, n in sorted(counts.items())))
    for path in ("/api/pronounce", "/api/sentiment"):
        times = [1000 * answer.seconds for answer in answers if answer.path == path]
        if times:
            median, late, last = np.quantile(times, [0.5, 0.99, 1.0])
            print(f"{path}: median {median:.0f} ms, 99 % in {late:.0f} ms, all in {last:.0f} ms")
    return answers


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.serve.load", description=__doc__))
