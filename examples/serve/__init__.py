"""A web application that serves two trained models: pronunciation and sentiment.

    python -m examples.serve --pronounce out/pronounce --sentiment out/sentiment --port 8000

To serve a model of your own, replace `models` and the endpoints of `app` and `validation`, and copy
the other files. `models` reads the folder of a training run. `batching` combines the inputs of
concurrent requests into batches of a few shapes, so that few programs must be compiled. `service`
connects models and batchers. `app` has the HTTP endpoints and JSON, `protocol` checks requests
strictly, and `server` handles connections, slow clients and the shutdown. docs/serving.md describes
how to use and deploy the application.

Only `app`, `protocol` and `server` need Flask and waitress, so they are imported by their own
names; the models can be used without a web server.
"""

from examples.serve.batching import Batcher
from examples.serve.limits import Limits, RateLimiter
from examples.serve.models import Pronouncer, Reviewer, load_pronouncer, load_reviewer
from examples.serve.service import Service

__all__ = [
    "Batcher",
    "Limits",
    "Pronouncer",
    "RateLimiter",
    "Reviewer",
    "Service",
    "load_pronouncer",
    "load_reviewer",
]
