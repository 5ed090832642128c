"""One progress bar on stderr, with the time left; a line a minute where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpuvox.cli.talk import complain
from gpuvox.plain import escaped


class Progress:
    """Receives ``(test, done, total)``; see `analysis.Progress`. What is being read is counted in volumes."""

    def __init__(self, interval: float = 60.0, unit: str = "permutations") -> None:
        self.interval, self.unit = interval, unit
        self.bar: Any = None
        self.test, self.first = "", 0
        self.start = self.last = time.monotonic()

    def __call__(self, test: str, done: int, total: int) -> None:
        """Show how far the test is."""
        if test != self.test or done < getattr(self.bar, "n", 0):
            self._begin(test, done, total)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done == total:
                self.close()
        elif time.monotonic() - self.last >= self.interval:
            self.last = time.monotonic()
            left = (self.last - self.start) * (total - done) / max(done - self.first, 1)
            complain(f"{test}: {done} of {total} {self._unit(test)}, about {left:.0f} s left")

    def _begin(self, test: str, done: int, total: int) -> None:
        self.close()
        # A run that goes on from a checkpoint has done most of it before.
        self.test, self.first, self.start, self.last = test, done, time.monotonic(), time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=done,
                desc=escaped(test),
                unit=f" {self._unit(test)}",
                file=sys.stderr,
                leave=False,
            )

    def _unit(self, test: str) -> str:
        return "volumes" if test.startswith("reading ") else self.unit

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextmanager
def shown(quiet: bool, unit: str = "permutations") -> Iterator[Progress | None]:
    """A progress bar, taken away at the end; None for ``--quiet``."""
    progress = None if quiet else Progress(unit=unit)
    try:
        yield progress
    finally:
        if progress is not None:
            progress.close()
