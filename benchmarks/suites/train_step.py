"""Suite `train_step`: whole training steps of models, compiled if the library can compile them.

Before timing, each contestant must reach the same losses in a few training steps from the same
weights. These losses depend on the embedding, the recurrent network, the readout, gradient clipping
and Adam, so the comparison checks all of them.
"""

import dataclasses
import gc
from collections.abc import Callable, Iterable, Sequence

import jax

from benchmarks import agreement, timing
from benchmarks.peers import Peer, Trainer
from benchmarks.peers.ours import Seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import failure
from benchmarks.tasks import Task, imdb, language_model
from benchmarks.translation import Translation, translation

__all__ = ["TASKS", "measure", "rows_of", "run"]

STEPS = 4
"""Number of training steps over which contestants compare their losses."""

TASKS: dict[str, Callable[[bool], Sequence[Task | Translation]]] = {
    "imdb": lambda short: [imdb()],
    "language_model": lambda short: [
        language_model(steps=t) for t in ((35,) if short else (20, 35))
    ],
    "seq2seq": lambda short: [
        translation("pronunciation", 256, 10, 64, 128, vocabulary=45),
        *([] if short else [translation("translation", 64, 20, 128, 256, vocabulary=4000)]),
    ],
}
"""A dict from a model's name to a function that returns the model's tasks.

The argument of the function is True for a short run. Add a model here.
"""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure the training steps of all models; return the rows."""
    rows = []
    for tasks in TASKS.values():
        for task in tasks(settings.short):
            say(f"{task.name}, {task.shape[1]} steps")
            rows += measure(task, settings)
            gc.collect()
    return rows


def losses(trainer: Trainer) -> list[float]:
    """Run the first `STEPS` training steps and return their losses."""
    found = []
    for _ in range(STEPS):
        trainer.step()
        found.append(trainer.loss())
    return found


def _trainer(peer: Peer, task: Task | Translation) -> Trainer | str:
    return peer.translator(task) if isinstance(task, Translation) else peer.trainer(task)


def _enter(
    peer: Peer, task: Task | Translation, expected: Iterable[float]
) -> tuple[Trainer, float | str] | str:
    """Return a trainer and the largest relative error of its losses, or why it cannot be timed.

    If the trainer does not use the same equations as the reference, a sentence about the difference
    takes the place of the error.
    """
    try:
        trainer = _trainer(peer, task)
        if isinstance(trainer, str):
            return trainer
        if trainer.different is not None:
            return trainer, f"different mathematics: {trainer.different}"
        pairs = zip(losses(trainer), expected, strict=True)
        worst = max(abs(found - loss) / abs(loss) for found, loss in pairs)
        limit = 10 * agreement.tolerance(jax.default_backend())
        if not worst <= limit:
            raise agreement.Disagreement(f"losses differ by {worst:.1e}")
        return trainer, worst
    except Exception as error:
        return failure(error)


def rows_of(task: Task | Translation, names: Iterable[str]) -> dict[str, Row]:
    """Return a row of the results for each contestant, still without times."""
    return {
        name: Row(
            suite="train_step",
            cell=task.cell,
            variant=task.name,
            shape=task.shape,
            what="step",
            contestant=name,
        )
        for name in names
    }


def measure(
    task: Task | Translation,
    settings: Settings,
    doing: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Measure the training step of one task for all contestants; return the rows.

    Args:
      task: the model and a batch.
      settings: the contestants, and how often they are timed.
      doing: a function that is called with a contestant's row before the contestant runs.
    """
    rows = rows_of(task, settings.peers)

    def entered(name: str, peer: Peer) -> tuple[Trainer, float | str] | str:
        doing(rows[name])
        return _enter(peer, task, expected)

    reference = _trainer(Seqjax(implementation="scan", remat="none"), task)
    assert isinstance(reference, Trainer)
    expected = losses(reference)
    found = {name: entered(name, peer) for name, peer in settings.peers.items()}
    calls = {name: each[0].step for name, each in found.items() if not isinstance(each, str)}
    seconds = timing.interleaved(
        calls,
        repeats=settings.repeats,
        budget=settings.budget,
        announce=lambda name: doing(rows[name]),
    )
    return [
        dataclasses.replace(
            rows[name],
            samples_ms=tuple(1e3 * s for s in seconds.get(name, ())),
            agreement=None if isinstance(each, str) else each[1],
            setting=None if isinstance(each, str) else each[0].setting,
            reason=each if isinstance(each, str) else None,
        )
        for name, each in found.items()
    ]
