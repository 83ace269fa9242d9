"""Export of trained models to files that run without this library.

`export_layer`, `export_step`, `export_decoding` and `export_function` make StableHLO programs for
several platforms, and for batches and sequences of any size. `save` writes a program to a file, and
`load` reads it. `export_onnx` writes recurrent layers as ONNX graphs.
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
