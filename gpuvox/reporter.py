"""Where a run reports to: lines, warnings and progress.

The command line reports to the terminal (`gpuvox.cli.console`), Python to `warnings`, and tests to lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Reporter"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done (for instance the name of a test), the number of units done, and their total."""


def _ignore_text(text: str) -> None:
    del text


def _ignore_progress(task: str, done: int, total: int) -> None:
    del task, done, total


@dataclass(frozen=True)
class Reporter:
    """Receives what a run has to report.

    Attributes
    ----------
    say : callable
        Receives a line of ordinary output.
    warn : callable
        Receives a warning, one sentence.
    progress : callable
        Receives the progress of a task; see `Progress`. Ignored by default.
    """

    say: Callable[[str], None]
    warn: Callable[[str], None]
    progress: Progress = _ignore_progress

    @classmethod
    def silent(cls) -> Reporter:
        """A reporter that ignores everything."""
        return cls(_ignore_text, _ignore_text)
