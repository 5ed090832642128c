"""Signals that end a run: it leaves as by an exception, wherever the signal arrives.

Python drops an exception that a handler raises within ``__del__`` or a callback of the garbage collector. Loops that
run for long ask `check`, which raises it again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_came: list[int] = []


@contextmanager
def heeded_signals() -> Iterator[None]:
    """Leave at Ctrl-C, at a scheduler's SIGTERM, and where the terminal is gone; not at what ``nohup`` ignores."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _came.clear()


def check() -> None:
    """Leave if a signal came that has not ended what runs."""
    if _came:
        _raise(_came[-1])


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    _came.append(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
