"""A web application that serves two trained models: pronunciation and sentiment.

    python -m examples.serve --pronounce out/pronounce --sentiment out/sentiment --port 8000

`models` reads what a training run left in its folder, `batching` joins concurrent requests into
compiled calls of few shapes, `service` ties both together, `app` speaks HTTP and JSON, `server`
receives slowly, answers fast and ends cleanly, `protocol` reads requests strictly.
docs/serving.md tells how to use and deploy it.
"""

from examples.serve.app import create_app
from examples.serve.batching import Batcher
from examples.serve.limits import Limits, RateLimiter
from examples.serve.models import Pronouncer, Reviewer, load_pronouncer, load_reviewer
from examples.serve.server import Server
from examples.serve.service import Service

__all__ = [
    "Batcher",
    "Limits",
    "Pronouncer",
    "RateLimiter",
    "Reviewer",
    "Server",
    "Service",
    "create_app",
    "load_pronouncer",
    "load_reviewer",
]
