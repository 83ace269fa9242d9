"""seqjax: recurrent networks for JAX.

Write a recurrent cell once, as pure functions; get the best known way to run it and to
differentiate it, everywhere JAX runs.
"""

from seqjax import (
    attention,
    cells,
    checks,
    crf,
    ctc,
    data,
    decoding,
    export,
    interop,
    kernels,
    losses,
    metrics,
    nn,
    seq2seq,
    sequences,
    sharding,
    streaming,
    testing,
    traces,
    training,
    types,
    viz,
)
from seqjax._summary import Summary, summary
from seqjax._unroll import explain, unroll
from seqjax.cells import CELLS
from seqjax.kernels import Execution
from seqjax.types import Unrolled

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "Execution",
    "Summary",
    "Unrolled",
    "attention",
    "cells",
    "checks",
    "crf",
    "ctc",
    "data",
    "decoding",
    "explain",
    "export",
    "interop",
    "kernels",
    "losses",
    "metrics",
    "nn",
    "seq2seq",
    "sequences",
    "sharding",
    "streaming",
    "summary",
    "testing",
    "traces",
    "training",
    "types",
    "unroll",
    "viz",
]
