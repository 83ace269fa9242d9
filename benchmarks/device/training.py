"""Time whole training steps of seqjax and PyTorch, with TF32 on a GPU."""

import dataclasses

import jax

from benchmarks import peers
from benchmarks.device import pytorch
from benchmarks.device.rows import SUITE
from benchmarks.device.worker import Reporter
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites import train_step
from benchmarks.tasks import Task, language_model
from benchmarks.translation import Translation, translation

__all__ = ["run"]


def run(reporter: Reporter, task: str, tiny: bool) -> None:
    """Measure the training step of a task.

    Args:
      reporter: sends progress and rows to the parent process.
      task: "translation" or "language_model".
      tiny: whether to use small sizes, as in a short trial run.
    """
    on_gpu = jax.default_backend() == "gpu"
    precision = "tf32" if on_gpu else "float32"
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if on_gpu else "highest")
    chosen = {"seqjax": peers.load("seqjax")}
    if pytorch.obstacle() is None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = on_gpu
        torch.backends.cudnn.allow_tf32 = on_gpu
        chosen["pytorch"] = peers.load("pytorch")

    def ours(row: Row) -> Row:
        return dataclasses.replace(row, suite=SUITE, precision=precision)

    model = made(task, tiny)
    rows = train_step.rows_of(model, chosen)
    wanted = {name: peer for name, peer in chosen.items() if reporter.wanted(ours(rows[name]))}
    settings = Settings(peers=wanted, repeats=3 if tiny else 15, budget=8.0)
    for row in train_step.measure(model, settings, lambda row: reporter.doing(ours(row))):
        reporter.row(ours(row))


def made(task: str, tiny: bool) -> Task | Translation:
    """Return the model to train, with its weights and a batch of data."""
    if task == "language_model":
        return language_model(*((2, 4, 20, 8) if tiny else (20, 35)))
    sizes = (2, 4, 8, 8, 20) if tiny else (64, 20, 128, 256, 4000)
    return translation("translation", *sizes)
