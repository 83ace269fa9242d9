"""Weights from and to other libraries: each module has `load`, which gives a layer, and `dump`.

`pytorch` (also safetensors), `keras`, `linen` and `nnx` of Flax, `haiku`, `equinox`, and `cudnn`,
whose weights are one array. None of these libraries is needed to load or dump arrays.
"""

from seqjax.interop import cudnn, equinox, haiku, keras, linen, nnx, pytorch

__all__ = ["cudnn", "equinox", "haiku", "keras", "linen", "nnx", "pytorch"]
