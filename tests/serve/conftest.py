"""The service that several files test."""

import pytest


@pytest.fixture(scope="module")
def service():
    """Tiny models of random weights, ready to answer."""
    pytest.importorskip("flask")
    pytest.importorskip("waitress")
    pytest.importorskip("tyro")
    from examples.serve import Service
    from tests.serve import tiny

    made = Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS)
    made.warm_up()
    yield made
    made.close()
