"""Conversion of weights from and to other libraries. There is one module for each library.

In each module, `load` converts weights of the other library to a layer of seqjax, and `dump`
converts the weights of a layer of seqjax to the form of the other library. The modules are
`pytorch` (also for safetensors), `keras`, `linen` and `nnx` (both of Flax), `haiku`, `equinox` and
`cudnn`, and, for the layers of single papers, `minimal_lru`, `recurrentgemma`, `s5`, `sru` and
`xlstm`. The other library need not be installed to load or dump arrays.
"""

from seqjax.interop import (
    cudnn,
    equinox,
    haiku,
    keras,
    linen,
    minimal_lru,
    nnx,
    pytorch,
    recurrentgemma,
    s5,
    sru,
    xlstm,
)

__all__ = [
    "cudnn",
    "equinox",
    "haiku",
    "keras",
    "linen",
    "minimal_lru",
    "nnx",
    "pytorch",
    "recurrentgemma",
    "s5",
    "sru",
    "xlstm",
]
