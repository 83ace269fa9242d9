"""Trained models as files that run where this library is not installed.

`export_layer`, `export_step`, `export_decoding` and `export_function` make StableHLO programs for
several platforms and for batches and sequences of any size; `save` and `load` keep them in one
file. `export_onnx` writes recurrent layers as ONNX's own operators.
"""

from seqjax.export._artifact import Artifact, load, save
from seqjax.export._functions import PLATFORMS, export_function
from seqjax.export._onnx_graph import export_onnx
from seqjax.export._programs import export_decoding, export_layer, export_step

__all__ = [
    "PLATFORMS",
    "Artifact",
    "export_decoding",
    "export_function",
    "export_layer",
    "export_onnx",
    "export_step",
    "load",
    "save",
]
