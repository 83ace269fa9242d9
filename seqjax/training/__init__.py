"""Training Flax NNX models: a pure step, the optimiser, and a plain loop around them.

`fit` runs the whole loop; `init_state`, `make_train_step`, `make_eval_step` and `evaluate` are the
pieces it is made of, for those who write their own. `ScriptOptions` is what scripts share.
"""

from seqjax.training.average import averaged, averaging
from seqjax.training.checkpoints import Checkpoint, Checkpoints
from seqjax.training.evaluation import evaluate, make_eval_step
from seqjax.training.fit import FitResult, fit
from seqjax.training.logs import JsonLines, TensorBoard
from seqjax.training.monitor import Monitor
from seqjax.training.optimizer import optimizer
from seqjax.training.script import ScriptOptions, blaming, count_parameters, measure
from seqjax.training.state import TrainState, init_state, state_to_model
from seqjax.training.step import make_train_step

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "FitResult",
    "JsonLines",
    "Monitor",
    "ScriptOptions",
    "TensorBoard",
    "TrainState",
    "averaged",
    "averaging",
    "blaming",
    "count_parameters",
    "evaluate",
    "fit",
    "init_state",
    "make_eval_step",
    "make_train_step",
    "measure",
    "optimizer",
    "state_to_model",
]
