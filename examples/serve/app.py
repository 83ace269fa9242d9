"""The application: pages, JSON endpoints, errors and headers."""

import json
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    from flask import Flask, Response, abort, request
    from werkzeug.exceptions import HTTPException
    from werkzeug.routing import WebsocketMismatch
except ImportError as error:
    raise ImportError('examples.serve needs Flask: pip install "seqjax[serve]"') from error

from examples.serve import validation
from examples.serve.limits import Limits, RateLimiter, client_address
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
"""Headers of every response: the page runs only its own script and sends only to its server."""

_KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


def create_app(
    service: Service | None,
    limits: Limits,
    limiter: RateLimiter,
    trusted_proxy: str | None = None,
) -> Flask:
    """Return the Flask application that serves two models.

    Args:
      service: the models. If `service` is None, the models are read later and assigned to
        `config["service"]`.
      limits: limits on the contents of requests.
      limiter: limit on the rate of requests, by client address.
      trusted_proxy: address of the proxy whose X-Forwarded-For is used.

    Returns:
      A WSGI application. If `config["draining"]` is True, /health reports that the server is not
      ready.
    """
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # there are no redirects
    app.config.update(MAX_CONTENT_LENGTH=limits.body_bytes, draining=False, service=service)
    # The files of the page are in memory, since the number of open files is limited.
    files = {path.name: path.read_bytes() for path in Path(__file__).with_name("static").iterdir()}

    def models() -> Service:
        found: Service | None = app.config["service"]
        if found is None:
            raise ApiError(503, "the models are not read yet", retry_after=5)
        return found

    def read(field: str) -> Any:
        """Check the rate and the headers of a request, and return the field of its body."""
        forwarded = request.headers.get("X-Forwarded-For")
        wait = limiter.take(client_address(request.remote_addr or "", forwarded, trusted_proxy))
        if wait:
            message = f"expected at most {limiter.rate:g} requests a second, got more"
            raise ApiError(429, message, retry_after=math.ceil(wait))
        if request.mimetype != "application/json":
            got = repr(request.mimetype[:60]) if request.mimetype else "none"
            raise ApiError(415, f"Content-Type: expected application/json, got {got}")
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(415, f"Content-Encoding: expected none, got {encoding[:60]!r}")
        return validation.read_json(request.get_data(), field)

    @app.get("/")
    def page() -> Response:
        return static("index.html")

    @app.get("/static/<name>")
    def static(name: str) -> Response:
        if name not in files:
            abort(404)
        response = Response(files[name], mimetype=_KINDS[Path(name).suffix])
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(request)
        return response

    @app.get("/health")
    def health() -> Response:
        service: Service | None = app.config["service"]
        states = service.ready if service else {"pronounce": False, "sentiment": False}
        ready = all(states.values()) and not app.config["draining"]
        found = {"live": True, "ready": ready, "models": states}
        return _json(found) if ready else _json(found, 503, {"Retry-After": "1"})

    @app.post("/api/pronounce")
    def pronounce() -> Response:
        words, service = read("words"), models()
        words = validation.words_of(words, service.pronouncer.alphabet, limits)
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
        text, service = read("text"), models()
        words = validation.text_of(text, service.reviewer.words_of, limits)
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
    """Return the JSON of an error.

    Args:
      status: the HTTP status code.
      message: a description of the error.
      **more: further entries, such as `field`. Entries that are None are left out.

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
    """Return the answer for an error that Flask itself raises."""
    response = error.get_response()
    status, path = response.status_code, repr(request.path[:80])
    limit = request.max_content_length or 0
    methods = ", ".join(sorted(response.headers.get("Allow", "").split(", ")))
    messages = {
        404: f"path: expected one of this server, got {path}",
        405: f"method: expected {methods} for {path}, got {request.method}",
        413: f"body: expected at most {limit:,} bytes, got {request.content_length or 0:,}",
    }
    if isinstance(error, WebsocketMismatch):
        messages[status] = "Upgrade: expected none, got 'websocket'"
    allow = {"Allow": methods} if methods else {}
    return _json(error_body(status, messages.get(status, error.name)), status, allow)


def _unexpected(error: Exception) -> Response:
    """Log the traceback under a new id, and return a response that contains this id."""
    name = secrets.token_hex(6)
    logger.error("error %s at %s %r", name, request.method, request.path, exc_info=error)
    message = "an error in the server; its log has the details under this id"
    return _json(error_body(500, message, id=name), 500)


_HANDLERS: dict[type[Exception], Callable[[Any], Any]] = {
    ApiError: _api_error,
    HTTPException: _http_error,
    Exception: _unexpected,
}
