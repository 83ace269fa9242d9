"""Inspection of recurrent networks: gates, gradients over time, saliency, eigenvalues.

The functions take a cell, a layer, or a model that contains layers of seqjax. `seqjax.viz` plots
their results. `gates` and `gradient_norms` run models in evaluation mode. At masked steps, gates,
gradients and saliency are zero.
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
