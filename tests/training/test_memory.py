"""Memory that a process keeps: a program's temporary arrays cost page faults once only."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from seqjax import training

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from seqjax import training

if sys.argv[1] == "keep":
    assert training.keep_freed_memory() is True

@jax.jit
def run(x):  # the product in between takes 96 MB
    return (x @ jnp.ones((8, 8000))) @ jnp.ones((8000, 8))

x = jnp.zeros((3000, 8))
counts = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(counts))  # until the heap has room for everything, calls ask for more
"""


def faults(argument):
    """Page faults of a call, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_later_calls_have_no_page_faults():
    assert faults("keep") < 100 < 10_000 < faults("leave")


def test_elsewhere_it_says_no(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert training.keep_freed_memory() is False
