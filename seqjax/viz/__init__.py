"""Plots of training and forecasts, and of states, gates, gradients and dynamics of networks.

The plots need the extra `seqjax[viz]`. Each function returns a new `matplotlib.figure.Figure` and
changes no global state, so the functions work in scripts, notebooks and threads. Save a figure with
`figure.savefig("curve.png")`. The colours can be distinguished by colour-blind readers (Okabe, Ito
2008, Color universal design), and lines also differ in style. NaN and inf are grey in heat maps.
`seqjax.traces` computes the data of most plots.
"""

from seqjax.viz._dynamics import fixed_points, lyapunov_exponents
from seqjax.viz._forecasts import fan_chart
from seqjax.viz._gradients import eigenvalues, gradient_flow, saliency
from seqjax.viz._states import attention, gates, hidden_states
from seqjax.viz._training import confusion, learning_curve

__all__ = [
    "attention",
    "confusion",
    "eigenvalues",
    "fan_chart",
    "fixed_points",
    "gates",
    "gradient_flow",
    "hidden_states",
    "learning_curve",
    "lyapunov_exponents",
    "saliency",
]
