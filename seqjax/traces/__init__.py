"""Views into a recurrent network: gates, gradients over time, saliency, eigenvalues.

Plain JAX, for any cell, layer or model with our layers in it; `seqjax.viz` draws what comes out.
Models run in evaluation mode. Steps that are masked have zeros.
"""

from seqjax.traces._eigenvalues import eigenvalues
from seqjax.traces._gates import cell_gates, gates
from seqjax.traces._gradients import cell_gradient_norms, gradient_norms, saliency

__all__ = [
    "cell_gates",
    "cell_gradient_norms",
    "eigenvalues",
    "gates",
    "gradient_norms",
    "saliency",
]
