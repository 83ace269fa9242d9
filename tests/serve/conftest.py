"""The scripts find `shipped` beside them, as the folder of a script that is run is on the path."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))


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
