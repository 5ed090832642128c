"""Standard streams that are closed, as cron and some schedulers leave them, or that nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import sys


def attach() -> None:
    """Put the null device in place of streams that are closed, lest a file that is opened later takes their number."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, mode) < number:
                pass  # the lowest number that is free is taken
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


def detach() -> None:
    """Let nothing more be said where nobody reads; Python would complain of it at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
