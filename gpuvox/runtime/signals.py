"""Signals that end a run: each becomes an exception, wherever it arrives.

Python drops an exception that a handler raises inside ``__del__``, a callback of the garbage collector or of ctypes.
Long-running loops therefore call `check`, which raises it again. If a run fails after such a signal, the signal
ended it: numba's compiler calls back at the end of its long silence, and fails if that call was broken off.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gpuvox.errors import InputError

_came: list[int] = []


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise at Ctrl-C, at SIGTERM, and when the terminal is gone, but not for signals that are ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _leave)
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise  # may be what became of saving the run, which the user needs to know
    except Exception:
        check()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _came.clear()


def check() -> None:
    """Raise if a signal has arrived that did not end the run."""
    if _came:
        _raise(_came[-1])


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    _came.append(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
