"""The standard streams: closed ones are replaced, and text that a terminal cannot encode is spelled out."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

PLAIN = {
    "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "·": "*", "→": "->", "≤": "<=", "≥": ">=", "±": "+-", "≈": "~",
    "‘": "'", "’": "'", "“": '"', "”": '"', "µ": "u", "μ": "u", "²": "^2", "³": "^3", "°": " degrees", "\u00a0": " ",
}  # fmt: skip
"""Substitutes for characters of our own messages. Other text, such as file names, is escaped as Python does it."""


def attach() -> None:
    """Open the null device in place of closed streams (cron's), lest a file that is opened later takes their number."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, mode) < number:
                pass  # os.open returns the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


def detach() -> None:
    """Discard what is still to be printed to a pipe that nobody reads; Python would report it when it exits."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def spell_out() -> None:
    """Make stdout and stderr spell out what they cannot encode, rather than fail."""
    codecs.register_error("gpuvox.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        # In a notebook or a test, a stream may be any object.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gpuvox.spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    spelled = "".join(
        PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters
    )
    return spelled, error.end
