"""Recurrent networks for JAX.

Each recurrent cell is written once, as pure functions. On each platform of JAX, the package chooses
the fastest known way to run the cell and to differentiate it.
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
    forecasting,
    interop,
    kernels,
    losses,
    metrics,
    nn,
    online,
    seq2seq,
    sequences,
    sharding,
    streaming,
    testing,
    traces,
    training,
    transducer,
    types,
    viz,
)
from seqjax._summary import Summary, summary
from seqjax._unroll import explain, unroll
from seqjax.cells import CELLS
from seqjax.kernels import Execution
from seqjax.types import Unrolled

__version__ = "0.2.0"

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
    "forecasting",
    "interop",
    "kernels",
    "losses",
    "metrics",
    "nn",
    "online",
    "seq2seq",
    "sequences",
    "sharding",
    "streaming",
    "summary",
    "testing",
    "traces",
    "training",
    "transducer",
    "types",
    "unroll",
    "viz",
]
