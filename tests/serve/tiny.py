"""Tiny models with random weights, and a server of them: what is served is not what is tested.

As a program it is a real server process: `python -m tests.serve.tiny PORT SECONDS`, where each call
of a model takes so many seconds more.
"""

import contextlib
import http.client
import json
import logging
import re
import string
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

import examples.serve as serving
from examples import sentiment
from examples.serve.__main__ import Config, leave, serve
from examples.serve.app import create_app
from examples.serve.server import Server
from seqjax import data, seq2seq

LIMITS = serving.Limits(body_bytes=4096, words=4, word_letters=16, text_letters=400, text_words=32)
LETTERS = data.Vocabulary(string.ascii_lowercase)
PHONEMES = data.Vocabulary(["AH", "B", "D", "EH", "K"])
WORDS = data.Vocabulary(["a", "bad", "film", "good", "is", "not", "the", "this", "?", "."])


def words_of(text: str) -> list[str]:
    return re.findall(r"[\w-]+|[?.!]", text.lower())


def shaken(model: Any, seed: int) -> Any:
    """The model with random weights everywhere, its biases too."""
    rng = np.random.default_rng(seed)
    parts: Any = nnx.split(model, nnx.Param, ...)
    graph, params, rest = parts
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    found = nnx.merge(graph, params, rest)
    found.eval()
    return found


def pronouncer(seed: int = 0) -> serving.Pronouncer:
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(LETTERS),
        target_vocabulary=len(PHONEMES),
        embed_size=4,
        hidden_size=4,
        rngs=nnx.Rngs(0),
    )
    return serving.Pronouncer(shaken(model, seed), LETTERS, PHONEMES, beam_width=2)


def reviewer(seed: int = 0) -> serving.Reviewer:
    sizes = sentiment.sizes(sentiment.Config(embed_size=4, hidden_size=4), len(WORDS))
    model = sentiment.Reader(**sizes, rngs=nnx.Rngs(0))
    return serving.Reviewer(shaken(model, seed), WORDS, words_of)


def slow(run: Any, seconds: float) -> Any:
    """A function of rows that takes so much longer."""

    def later(shape: Any, items: Any) -> Any:
        time.sleep(seconds)
        return run(shape, items)

    return later


@contextlib.contextmanager
def running(
    service: serving.Service,
    *,
    limits: serving.Limits = LIMITS,
    limiter: serving.RateLimiter | None = None,
    trusted_proxy: str | None = None,
    **options: Any,
) -> Any:
    """A server in a thread of its own; gives its port."""
    limiter = limiter or serving.RateLimiter(0, 1)
    app = create_app(service, limits, limiter, trusted_proxy)
    defaults: dict[str, Any] = {
        "host": "127.0.0.1", "port": 0, "threads": 16, "grace": 5.0,
        "max_request_body_size": limits.body_bytes + 1,
    }  # fmt: skip
    server = Server(app, **defaults | options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def compilations() -> Any:
    """The names of what JAX traces or compiles meanwhile, in any thread."""
    found: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def ask(
    port: int, path: str, body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, content and headers of an answer; bodies that are not bytes are sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    if body is not None and not isinstance(body, bytes):
        headers = {"Content-Type": "application/json"} | headers
        body = json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = connection.getresponse()
        content: Any = response.read()
        if response.headers.get_content_type() == "application/json":
            content = json.loads(content)
        return response.status, content, dict(response.headers)
    finally:
        connection.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    service = serving.Service(pronouncer(), reviewer(), LIMITS)
    config = Config(port=int(sys.argv[1]), rate=0, limits=LIMITS, grace=float(sys.argv[3]))
    warm = service.warm_up

    def warm_up() -> None:
        warm()
        for batcher in service.batchers.values():
            batcher.run = slow(batcher.run, float(sys.argv[2]))

    service.warm_up = warm_up  # type: ignore[method-assign]
    leave(serve(config, lambda: service))
