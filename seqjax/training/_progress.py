"""A display of a training run's progress: a live bar on a terminal, and otherwise plain lines."""

import datetime
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import rich.console
import rich.progress

__all__ = ["Progress"]

# Seconds between two reads of numbers from the device. Each read waits for the device, so more
# frequent reads would cost time. A log needs fewer lines than a terminal.
_LIVE_SECONDS = 0.5
_PLAIN_SECONDS = 30.0


class Progress:
    """A display of epoch, step, loss, gradient norm, steps and tokens per second, and time left.

    On a terminal, a bar is updated, and a line is printed after each epoch. In a pipe or file, only
    lines are printed: one after each epoch, and one every 30 seconds during an epoch. If there are
    more than 20 epochs, a line is printed after only about 20 of them.

    Example:
      >>> import io
      >>> console = rich.console.Console(file=io.StringIO())
      >>> with Progress(2, console=console) as progress:
      ...     progress.begin_epoch(3)
      ...     for _ in range(3):
      ...         due = progress.advance()
      ...     progress.end_epoch({"epoch": 1, "step": 3, "loss": 0.123456})
      >>> print(console.file.getvalue())
      epoch 1/2  step 3  loss 0.1235...
    """

    def __init__(
        self,
        epochs: int | None,
        *,
        steps: int | None = None,
        enabled: bool = True,
        console: rich.console.Console | None = None,
    ) -> None:
        """Create the display. Nothing is shown yet.

        Args:
          epochs: the number of epochs of the run; None if it is not known.
          steps: the number of steps of the run; None if it is not known.
          enabled: if False, nothing is ever shown.
          console: the console to write to; the default is standard error.
        """
        self._console = console or rich.console.Console(stderr=True)
        self._enabled = enabled
        self._live = enabled and self._console.is_terminal
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=None),  # the rest of the line after the text
            expand=True,
            console=self._console,
            auto_refresh=False,  # no thread: the bar is drawn when there are new numbers
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("compiling", total=None)
        self._epochs = epochs
        self._epoch = 0
        self._epoch_start = 0
        self._step = 0
        self._first = 1  # the first step of this process
        self._total = steps  # the steps of the whole run, if known
        self._tokens = 0
        self._shown_at = time.monotonic()
        # Speeds are measured from this mark until the clock stops: (step, tokens, time).
        self._mark = (0, 0, self._shown_at)
        self._stopped_at: float | None = None

    def __enter__(self) -> Self:
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar, even after an error."""
        self._bar.stop()

    def resume(self, epochs: int, steps: int) -> None:
        """Set the number of epochs and steps that an earlier process has done."""
        self._epoch, self._step, self._first = epochs, steps, steps + 1

    def begin_epoch(self, steps: int | None = None, done: int = 0) -> None:
        """Start the next epoch.

        Args:
          steps: the number of steps of the epoch. If `steps` is None, the number is not known, and
            the time left is estimated from the earlier epochs.
          done: the number of steps of this epoch that an earlier process has done.
        """
        self._epoch += 1
        self._epoch_start = self._step - done
        self._mark, self._stopped_at = (self._step, self._tokens, time.monotonic()), None
        if steps is not None and self._epochs is not None:
            self._expect(self._epoch_start + steps * (self._epochs - self._epoch + 1))

    def advance(self, tokens: int = 0) -> bool:
        """Count a step of `tokens` tokens. Return whether it is time to `show` new numbers."""
        self._step += 1
        self._tokens += tokens
        now = time.monotonic()
        if self._step == self._first:  # the first step is not measured: it includes compilation
            self._mark = (self._step, self._tokens, now)
        interval = _LIVE_SECONDS if self._live else _PLAIN_SECONDS
        return self._enabled and now - self._shown_at >= interval

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show the numbers of the latest step."""
        self._shown_at = time.monotonic()
        line = self._line({"epoch": self._epoch, "step": self._step, **metrics})
        if self._live:
            self._bar.update(self._task, completed=self._step, description=line, refresh=True)
        else:
            self._print(line)

    def stop_clock(self) -> None:
        """Stop measuring the speed. Call this method when the steps of an epoch are done."""
        self._stopped_at = time.monotonic()

    def end_epoch(self, record: Mapping[str, float]) -> None:
        """Print the line of a finished epoch. A long run prints only about 20 such lines."""
        steps = self._step - self._epoch_start
        if self._epochs is None:
            self._print(self._line(record))
            return
        self._expect(self._step + steps * (self._epochs - self._epoch))
        every = -(-self._epochs // 20)
        if self._epoch in (1, self._epochs) or self._epoch % every == 0:
            self._print(self._line(record))

    @staticmethod
    def tokens(batch: Any) -> int:
        """Return the number of real time steps of a batch, or 0 if it is not known on the host.

        Args:
          batch: a dict with lengths, such as `seqjax.data.batches` makes, or a dict with a mask.
        """
        if not isinstance(batch, Mapping):
            return 0
        counts = [batch[name] for name in batch if name == "lengths" or name.endswith("_lengths")]
        counts = counts or [batch[name] for name in ("mask",) if name in batch]
        return sum(int(count.sum()) for count in counts if isinstance(count, np.ndarray))

    def _expect(self, total: int) -> None:
        self._total = total
        self._bar.update(self._task, total=total, completed=self._step)

    def _line(self, numbers: Mapping[str, float]) -> str:
        texts = [f"epoch {numbers['epoch']}" + (f"/{self._epochs}" if self._epochs else "")]
        for name, value in numbers.items():
            if name != "epoch" and (value or name != "skipped"):
                texts.append(f"{name} {value if isinstance(value, int) else format(value, '.4g')}")
        step, tokens, since = self._mark
        seconds = (self._stopped_at or time.monotonic()) - since
        if self._step > step and seconds > 0:
            speed = (self._step - step) / seconds
            texts.append(f"{speed:{'.0f' if speed >= 10 else '.2g'}} steps/s")
            if self._tokens > tokens:
                texts.append(f"{(self._tokens - tokens) / seconds:,.0f} tokens/s")
            if self._total is not None and self._total > self._step:
                left = datetime.timedelta(seconds=round((self._total - self._step) / speed))
                texts.append(f"{left} left")
        return "  ".join(texts)

    def _print(self, line: str) -> None:
        if self._enabled:
            # No wrapping and no styles, so that a line of a log stays one line.
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
