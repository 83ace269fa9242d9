"""The service behind the application: both models with their batchers."""

import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from examples.serve.batching import Batcher, Full
from examples.serve.limits import Limits
from examples.serve.models import Pronounced, Pronouncer, Reviewer, padded_length
from examples.serve.validation import ApiError

__all__ = ["Service"]


class Service:
    """A service that runs both models. Any number of threads may call it.

    Args:
      pronouncer: the model that converts words to phonemes.
      reviewer: the model that converts texts to probabilities.
      limits: limits on the number of waiting rows, and on their waiting time.
      wait: seconds for which a batch waits for more rows.
    """

    def __init__(
        self, pronouncer: Pronouncer, reviewer: Reviewer, limits: Limits, wait: float = 0.003
    ) -> None:
        self.pronouncer, self.reviewer, self.limits = pronouncer, reviewer, limits
        options: dict[str, Any] = {"wait": wait, "capacity": limits.queued_rows}
        self.batchers = {
            "pronounce": Batcher(pronouncer.run, sizes=pronouncer.sizes, **options),
            "sentiment": Batcher(reviewer.run, sizes=reviewer.sizes, **options),
        }
        self.ready = dict.fromkeys(self.batchers, False)

    def warm_up(self) -> None:
        """Compile all programs that requests may need."""
        letter, word = min(self.pronouncer.alphabet), self.reviewer.vocabulary.encode(["?"])
        for length in _lengths(8, self.limits.word_letters):
            self.batchers["pronounce"].warm_up(length, letter * length)
        self.ready["pronounce"] = True
        for length in _lengths(16, self.limits.text_words):
            self.batchers["sentiment"].warm_up(length, word.repeat(length))
        self.ready["sentiment"] = True

    def pronounce(self, words: Sequence[str]) -> list[Pronounced]:
        """Return the pronunciation of each word.

        Args:
          words: the result of `validation.words_of`.

        Raises:
          ApiError: the model is not ready, or cannot answer in time.
        """
        return self._run("pronounce", [(padded_length(len(word)), [word]) for word in words])

    def sentiment(self, words: Sequence[str]) -> list[float]:
        """Return the probability that a text is positive, for each of its prefixes.

        Args:
          words: the result of `validation.text_of`.

        Raises:
          ApiError: the model is not ready, or cannot answer in time.
        """
        ids = self.reviewer.vocabulary.encode(words)
        prefixes = [ids[: end + 1] for end in range(len(ids))]
        return self._run("sentiment", [(padded_length(len(ids), 16), prefixes)])

    def close(self) -> None:
        """Answer the queued rows, and end the threads."""
        for batcher in self.batchers.values():
            batcher.close()

    def _run(self, name: str, groups: Sequence[tuple[Hashable, Sequence[Any]]]) -> list[Any]:
        if not self.ready[name]:
            raise ApiError(503, f"the model {name} is not ready yet", retry_after=5)
        deadline = time.monotonic() + self.limits.answer_seconds
        futures: list[Future[list[Any]]] = []
        try:
            for shape, items in groups:
                futures.append(self.batchers[name].submit(shape, items))
            found = [future.result(max(0.0, deadline - time.monotonic())) for future in futures]
            return [result for results in found for result in results]
        except Full:
            message = f"the model {name} has more to do than it can answer in time"
        except TimeoutError:
            message = f"the model {name} gave no answer in {self.limits.answer_seconds:g} seconds"
        finally:
            for future in futures:
                future.cancel()  # no effect for those that are done or running
        raise ApiError(503, message, retry_after=1)


def _lengths(least: int, longest: int) -> Iterator[int]:
    """Yield the padded lengths of all rows, from `least` to that of the longest row."""
    length = least
    while length < longest:
        yield length
        length *= 2
    yield length
