"""Progress of a run from Python: bars in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpuvox.errors import SettingError
from gpuvox.reporter import Progress, Reporter


class Bars:
    """A bar for each task, one after the other; see `reporter.Progress`."""

    def __init__(self) -> None:
        self.task, self.bar = "", None

    def __call__(self, task: str, done: int, total: int) -> None:
        """Show how far a task is."""
        from tqdm.auto import tqdm

        bar: Any = self.bar
        if bar is None or task != self.task or done < bar.n:
            self.close()
            unit = " images" if task.startswith("reading ") else " permutations"
            self.task, self.bar = task, tqdm(total=total, initial=done, desc=task, unit=unit)
            return
        bar.update(done - bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextmanager
def open_progress(choice: Any) -> Iterator[Progress]:
    """The function to which progress is reported.

    Parameters
    ----------
    choice : bool or callable
        True for bars; a function is called with task, done and total.

    Raises
    ------
    SettingError
        Anything else.
    """
    if callable(choice):
        yield choice
        return
    if choice not in (True, False, None):
        raise SettingError(
            f"progress is {choice!r}; True, False or a function of task, done and total is expected"
        )
    if not choice:
        yield Reporter.silent().progress
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()
