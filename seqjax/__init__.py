"""seqjax: recurrent networks for JAX.

Write a recurrent cell once, as pure functions; get the best known way to run it and to
differentiate it, everywhere JAX runs.
"""

from seqjax import (
    attention,
    cells,
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
    viz,
)
from seqjax.cells import CELLS
from seqjax.kernels import Execution
from seqjax.summary import summary
from seqjax.types import Unrolled
from seqjax.unroll import explain, unroll

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "Execution",
    "Unrolled",
    "attention",
    "cells",
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
    "unroll",
    "viz",
]
