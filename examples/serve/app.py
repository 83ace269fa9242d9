"""The application: pages, JSON endpoints, errors and headers."""

import json
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any

try:
    from flask import Flask, Response, request
    from werkzeug.exceptions import HTTPException
except ImportError as error:
    raise ImportError('examples.serve needs Flask: pip install "seqjax[serve]"') from error

from examples.serve import validation
from examples.serve.limits import Limits, RateLimiter
from examples.serve.service import Service
from examples.serve.validation import ApiError

__all__ = ["HEADERS", "create_app", "error_body"]

logger = logging.getLogger("examples.serve")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every response: the page runs its own script, sends to its own server, and nothing else."""


def create_app(service: Service, limits: Limits, limiter: RateLimiter) -> Flask:
    """The application over two models.

    Args:
      service: the models.
      limits: on what comes in.
      limiter: on how often it comes, by client address.

    Returns:
      A WSGI application; `draining` in its config tells load balancers to go elsewhere.
    """
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=limits.body_bytes, draining=False)

    def read(field: str) -> Any:
        """The field of a request's body, if its client may send it now."""
        wait = limiter.take(request.remote_addr or "")
        if wait:
            message = f"expected at most {limiter.rate:g} requests a second, got more"
            raise ApiError(429, message, retry_after=math.ceil(wait))
        if request.mimetype != "application/json":
            got = repr(request.mimetype[:60]) if request.mimetype else "none"
            raise ApiError(415, f"Content-Type: expected application/json, got {got}")
        return validation.read_json(request.get_data(), field)

    @app.get("/")
    def page() -> Response:
        return app.send_static_file("index.html")

    @app.get("/health")
    def health() -> Response:
        ready = all(service.ready.values()) and not app.config["draining"]
        found = {"live": True, "ready": ready, "models": service.ready}
        return _json(found) if ready else _json(found, 503, {"Retry-After": "1"})

    @app.post("/api/pronounce")
    def pronounce() -> Response:
        words = validation.words_of(read("words"), service.pronouncer.alphabet, limits)
        return _json(
            {
                "words": [
                    {
                        "word": word,
                        "phonemes": said.phonemes,
                        "score": round(said.score, 4),
                        "probability": round(math.exp(said.score), 4),
                        "finished": said.finished,
                        "attention": said.attention.astype(float).round(4).tolist(),
                    }
                    for word, said in zip(words, service.pronounce(words), strict=True)
                ]
            }
        )

    @app.post("/api/sentiment")
    def sentiment() -> Response:
        words = validation.text_of(read("text"), service.reviewer.words_of, limits)
        course = [round(probability, 4) for probability in service.sentiment(words)]
        known = service.reviewer.vocabulary.encode(words) != service.reviewer.vocabulary.unknown
        steps = zip(words, course, known.tolist(), strict=True)
        return _json(
            {
                "probability": course[-1],
                "words": [{"word": w, "probability": p, "known": k} for w, p, k in steps],
            }
        )

    for kind, handler in _HANDLERS.items():
        app.register_error_handler(kind, handler)

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    return app


def error_body(status: int, message: str, **more: Any) -> bytes:
    """The JSON of an error.

    Args:
      status: of HTTP.
      message: what is wrong.
      **more: such as `field`; those that are None are left out.

    Example:
      >>> json.loads(error_body(404, "path: expected /, got /x", field=None))
      {'error': {'status': 404, 'message': 'path: expected /, got /x'}}
    """
    more = {name: value for name, value in more.items() if value is not None}
    error = {"status": status, "message": message, **more}
    return json.dumps({"error": error}, separators=(",", ":")).encode() + b"\n"


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    if not isinstance(content, bytes):
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        content = text.encode() + b"\n"
    response = Response(content, status, headers, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _api_error(error: ApiError) -> Response:
    retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _json(error_body(error.status, error.message, field=error.field), error.status, retry)


def _http_error(error: HTTPException) -> Any:
    """What Flask itself says no to."""
    response = error.get_response()
    status, path = response.status_code, repr(request.path[:80])
    if status < 400:
        return response
    limit = request.max_content_length or 0
    methods = ", ".join(sorted(response.headers.get("Allow", "").split(", ")))
    messages = {
        404: f"path: expected one of this server, got {path}",
        405: f"method: expected {methods} for {path}, got {request.method}",
        413: f"body: expected at most {limit:,} bytes, got {request.content_length or 0:,}",
    }
    allow = {"Allow": methods} if methods else {}
    return _json(error_body(status, messages.get(status, error.name)), status, allow)


def _unexpected(error: Exception) -> Response:
    """The log has the traceback, the client the id by which to find it there."""
    name = secrets.token_hex(6)
    logger.error("error %s at %s %r", name, request.method, request.path, exc_info=error)
    message = "an error that is ours, not yours; the log has it under this id"
    return _json(error_body(500, message, id=name), 500)


_HANDLERS: dict[type[Exception], Callable[[Any], Any]] = {
    ApiError: _api_error,
    HTTPException: _http_error,
    Exception: _unexpected,
}
