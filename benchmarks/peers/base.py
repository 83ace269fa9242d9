"""The interface between suites and contestants: one `Peer` for each contestant."""

import abc
from typing import ClassVar, NamedTuple

import numpy as np

from benchmarks.tasks import Task
from benchmarks.translation import Translation
from benchmarks.workload import Weights, Workload
from seqjax._machine import installed

__all__ = ["Gradients", "Peer", "Prepared", "Stepper", "Trainer", "Writer"]


class Gradients(NamedTuple):
    """The derivatives of the loss, in the layout that `benchmarks.workload` defines."""

    xs: np.ndarray
    weights: Weights


class Prepared(abc.ABC):
    """A contestant that is ready to run one workload.

    Attributes:
      different: the reason why its equations differ from those of the reference; None if they do
          not.
      setting: the setting that the contestant chose for this workload, if there was a choice.
    """

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def forward(self) -> None:
        """Compute the outputs in inference mode, and wait for them. This is timed."""

    @abc.abstractmethod
    def gradient(self) -> None:
        """Compute the loss and its gradients with respect to weights and inputs, and wait for them.

        This is timed.
        """

    @abc.abstractmethod
    def outputs(self) -> np.ndarray:
        """Return the outputs, `[B, T, O]`."""

    @abc.abstractmethod
    def gradients(self) -> Gradients:
        """Return the gradients in the layout that `benchmarks.workload` defines."""

    def temp_bytes(self, what: str) -> int | None:
        """Return the temporary memory of the program for "forward" or "gradient", if known."""
        del what
        return None


class Stepper(abc.ABC):
    """A contestant that is ready to run one sequence step by step with a carried state."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def step(self) -> None:
        """Run a step from the last step's state, always on the same input; wait for the output."""

    @abc.abstractmethod
    def outputs(self) -> np.ndarray:
        """Return the outputs `[B, T, O]` of single steps through the workload's inputs."""


class Trainer(abc.ABC):
    """A contestant that is ready to train a model."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def step(self) -> None:
        """Run one training step: loss, gradient, clipping, update; wait until all is done."""

    @abc.abstractmethod
    def loss(self) -> float:
        """Return the loss of the last step's batch, before that step's update."""


class Writer(abc.ABC):
    """A contestant that is ready to decode sentences with an encoder-decoder."""

    different: str | None = None
    setting: str | None = None

    @abc.abstractmethod
    def write(self) -> None:
        """Encode the batch and decode a sentence for each row; wait until all is done."""

    @abc.abstractmethod
    def tokens(self) -> np.ndarray:
        """Return the best output for each sentence of the last batch, `[B, L]`, padded with END."""


class Peer(abc.ABC):
    """A contestant.

    If a contestant cannot do something, the method returns a string with the reason.
    """

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = ()
    has_resets: ClassVar[bool] = False
    """True if the contestant can set the state to zero in the middle of a sequence."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the contestant's libraries."""
        return installed(self.distributions)

    def threads(self) -> dict[str, int]:
        """Return the numbers of threads that the contestant's libraries use, except XLA."""
        return {}

    @abc.abstractmethod
    def prepare(self, workload: Workload) -> Prepared | str:
        """Build the network and compile what can be compiled, or return the reason why not."""

    def stepper(self, workload: Workload) -> Stepper | str:
        """Prepare single steps of one cell, or return the reason why not."""
        del workload
        return "no streaming contestant"

    def trainer(self, task: Task) -> Trainer | str:
        """Prepare training steps, or return the reason why not."""
        del task
        return "no training contestant"

    def translator(self, task: Translation) -> Trainer | str:
        """Prepare training steps of an encoder-decoder, or return the reason why not."""
        del task
        return "no encoder-decoder"

    def writer(self, task: Translation, width: int) -> Writer | str:
        """Prepare decoding, greedy for width 1 or by beam search, or return the reason why not."""
        del task, width
        return "the contestant cannot decode"
