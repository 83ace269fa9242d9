"""Inspection of recurrent networks: gates, gradients, saliency, and the dynamics of the state.

`fixed_points`, `lyapunov_exponents` and `eigenvalues` describe the dynamics. The functions take a
cell, a layer, or a model that contains layers of seqjax. `seqjax.viz` plots their results. `gates`,
`gradient_norms`, `fixed_points` and `lyapunov_exponents` run layers in evaluation mode. At masked
steps, gates, gradients and saliency are zero.
"""

from seqjax.traces._eigenvalues import eigenvalues
from seqjax.traces._fixed_points import FixedPoints, cell_fixed_points, fixed_points
from seqjax.traces._gates import cell_gates, gates
from seqjax.traces._gradients import cell_gradient_norms, gradient_norms, saliency
from seqjax.traces._lyapunov import cell_lyapunov_exponents, lyapunov_exponents

__all__ = [
    "FixedPoints",
    "cell_fixed_points",
    "cell_gates",
    "cell_gradient_norms",
    "cell_lyapunov_exponents",
    "eigenvalues",
    "fixed_points",
    "gates",
    "gradient_norms",
    "lyapunov_exponents",
    "saliency",
]
