"""Training of Flax NNX models: a pure step, optimisers, evaluation and a training loop.

`fit` runs the whole loop. To write your own loop, use the parts of `fit`: `init_state`,
`make_train_step`, `make_eval_step` and `evaluate`.
"""

from seqjax.training._average import averaged, averaging
from seqjax.training._checkpoints import Checkpoint, Checkpoints
from seqjax.training._evaluation import EvalStep, MetricFn, evaluate, make_eval_step
from seqjax.training._fit import BatchSource, FitResult, Record, fit
from seqjax.training._logs import JsonLines, Log, TensorBoard
from seqjax.training._memory import keep_freed_memory
from seqjax.training._models import load_model, save_model
from seqjax.training._monitor import Monitor
from seqjax.training._optimizer import optimizer
from seqjax.training._state import TrainState, init_state, state_to_model
from seqjax.training._step import LossFn, TrainStep, make_train_step

__all__ = [
    "BatchSource",
    "Checkpoint",
    "Checkpoints",
    "EvalStep",
    "FitResult",
    "JsonLines",
    "Log",
    "LossFn",
    "MetricFn",
    "Monitor",
    "Record",
    "TensorBoard",
    "TrainState",
    "TrainStep",
    "averaged",
    "averaging",
    "evaluate",
    "fit",
    "init_state",
    "keep_freed_memory",
    "load_model",
    "make_eval_step",
    "make_train_step",
    "optimizer",
    "save_model",
    "state_to_model",
]
