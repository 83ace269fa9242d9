"""Plots of training and of what a recurrent network does; needs the extra `seqjax[viz]`.

Each function returns a new `matplotlib.figure.Figure` and touches no global state, so it works in
scripts, notebooks and threads alike: `figure.savefig("curve.png")`. Colours are safe for
colour-blind readers (Okabe, Ito 2008, Color universal design), and lines differ in style too. In
heat maps NaN and inf are grey. `seqjax.traces` computes what most of them draw.
"""

from seqjax.viz._gradients import eigenvalues, gradient_flow, saliency
from seqjax.viz._states import attention, gates, hidden_states
from seqjax.viz._training import confusion, learning_curve

__all__ = [
    "attention",
    "confusion",
    "eigenvalues",
    "gates",
    "gradient_flow",
    "hidden_states",
    "learning_curve",
    "saliency",
]
