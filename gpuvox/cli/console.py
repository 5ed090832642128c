"""The terminal: everything that commands print passes through here, with control characters made visible."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpuvox.plain import escaped
from gpuvox.reporter import Reporter


def say(text: str) -> None:
    """Print a line on stdout, at once."""
    sys.stdout.write(escaped(text) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print_error(f"Warning: {text}")


def print_error(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(escaped(text) + "\n")


class ProgressBar:
    """A progress bar on stderr with the time left; a line a minute where stderr is not a terminal.

    Parameters
    ----------
    interval : float
        Seconds between two lines.
    unit : str
        What is counted, in the plural. While data are being read, volumes are counted.
    """

    def __init__(self, interval: float = 60.0, unit: str = "permutations") -> None:
        self.interval, self.unit = interval, unit
        self.bar: Any = None
        self.task, self.first = "", 0
        self.start = self.last = time.monotonic()

    def __call__(self, task: str, done: int, total: int) -> None:
        """Show how far a task is; see `reporter.Progress`."""
        if task != self.task or done < getattr(self.bar, "n", 0):
            self._begin(task, done, total)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done == total:
                self.close()
        elif time.monotonic() - self.last >= self.interval:
            self.last = time.monotonic()
            seconds = (self.last - self.start) * (total - done) / max(done - self.first, 1)
            print_error(f"{task}: {done} of {total} {self._unit(task)}, about {seconds:.0f} s left")

    def _begin(self, task: str, done: int, total: int) -> None:
        self.close()
        # A run that resumes from a checkpoint begins above 0.
        self.task, self.first, self.start, self.last = task, done, time.monotonic(), time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=done,
                desc=escaped(task),
                unit=f" {self._unit(task)}",
                file=sys.stderr,
                leave=False,
            )

    def _unit(self, task: str) -> str:
        return "volumes" if task.startswith("reading ") else self.unit

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextmanager
def terminal(*, lines: bool = True, bar: bool = True, unit: str = "permutations") -> Iterator[Reporter]:
    """The reporter of a command; its progress bar is removed at the end.

    Parameters
    ----------
    lines : bool
        Whether ordinary lines are printed. Warnings always are.
    bar : bool
        Whether progress is shown.
    unit : str
        What the progress bar counts.
    """
    silent = Reporter.silent()
    progress = ProgressBar(unit=unit)
    try:
        yield Reporter(say if lines else silent.say, warn, progress if bar else silent.progress)
    finally:
        progress.close()
