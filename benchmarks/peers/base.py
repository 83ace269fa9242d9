"""The interface between suites and contestants: one `Peer` a contestant."""

import abc
from typing import ClassVar, NamedTuple

import numpy as np

from benchmarks.machine import version
from benchmarks.tasks import Task
from benchmarks.translation import Translation
from benchmarks.workload import Weights, Workload

__all__ = ["Gradients", "Peer", "Prepared", "Stepper", "Trainer", "Writer"]


class Gradients(NamedTuple):
    """The derivatives of the loss in the common layout."""

    xs: np.ndarray
    weights: Weights


class Prepared(abc.ABC):
    """A contestant ready to do one workload.

    Attributes:
      different: why its mathematics is not the reference's; None if it is.
      setting: what it chose for this workload, where there was a choice.
    """

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def forward(self) -> None:
        """Computes the outputs in inference mode, and waits for them. This is timed."""

    @abc.abstractmethod
    def gradient(self) -> None:
        """Computes the loss and its gradient by weights and inputs; waits. This is timed."""

    @abc.abstractmethod
    def outputs(self) -> np.ndarray:
        """The outputs, `[B, T, O]`."""

    @abc.abstractmethod
    def gradients(self) -> Gradients:
        """The gradients in the common layout."""

    def temp_bytes(self, what: str) -> int | None:
        """The temporaries of the compiled program for "forward" or "gradient", where known."""
        del what
        return None


class Stepper(abc.ABC):
    """A contestant ready to run one sequence step by step with a carried state."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def step(self) -> None:
        """One step on the same input, from the state the last step left; waits for the output."""

    @abc.abstractmethod
    def outputs(self) -> np.ndarray:
        """The outputs `[B, T, O]` of stepping through the workload's inputs from the beginning."""


class Trainer(abc.ABC):
    """A contestant ready to train a model."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def step(self) -> None:
        """One training step: loss, gradient, clipping, update; waits until all is done."""

    @abc.abstractmethod
    def loss(self) -> float:
        """The loss of the last step's batch, before that step's update."""


class Writer(abc.ABC):
    """A contestant ready to write sentences with an encoder-decoder."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def write(self) -> None:
        """Encodes the batch and writes a sentence for each; waits until all is done."""

    @abc.abstractmethod
    def tokens(self) -> np.ndarray:
        """The best of each sentence written last, `[B, L]`; the end token from its end on."""


class Peer(abc.ABC):
    """A contestant. Where it can not do something it says why, in place of an object."""

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = ()

    def versions(self) -> dict[str, str]:
        """The versions of its libraries."""
        return {name: known for name in self.distributions if (known := version(name))}

    def threads(self) -> dict[str, int]:
        """Threads of its libraries beside XLA's."""
        return {}

    @abc.abstractmethod
    def prepare(self, workload: Workload) -> Prepared | str:
        """Builds the network and compiles what can be compiled; or a reason."""

    def stepper(self, workload: Workload) -> Stepper | str:
        """Prepares single steps of one cell; or a reason."""
        del workload
        return "no streaming contestant"

    def trainer(self, task: Task) -> Trainer | str:
        """Prepares training steps; or a reason."""
        del task
        return "no training contestant"

    def translator(self, task: Translation) -> Trainer | str:
        """Prepares training steps of an encoder-decoder; or a reason."""
        del task
        return "no encoder-decoder"

    def writer(self, task: Translation, width: int) -> Writer | str:
        """Prepares decoding, greedy for width 1 and else by beam search; or a reason."""
        del task, width
        return "no decoding"
