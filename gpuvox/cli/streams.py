"""Output for terminals and files that take ASCII only: letters that they lack are spelled, and no command fails."""

from __future__ import annotations

import codecs
import sys

PLAIN = {
    "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "·": "*", "→": "->", "≤": "<=", "≥": ">=", "±": "+-", "≈": "~",
    "‘": "'", "’": "'", "“": '"', "”": '"', "µ": "u", "μ": "u", "²": "^2", "³": "^3", "°": " degrees", "\u00a0": " ",
}  # fmt: skip
"""Signs that our own messages use. What comes from elsewhere, such as names of files, is escaped as Python does it."""


def spell_out() -> None:
    """From now on, what stdout and stderr cannot encode is spelled out."""
    codecs.register_error("gpuvox.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        # Closed streams are None; a stream of a notebook or of a test may be anything.
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
