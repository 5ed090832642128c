"""Text from others: its accents in one form, and control characters and bidirectional formatting escaped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

MOST_LISTED = 12
"""Participants that a message lists by name."""
# Control characters except tab and line feed; marks of writing direction and other invisible characters; separators
# of lines on which terminals and browsers disagree; surrogates, which cannot be encoded.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Marks that change the direction of the text after them; not those that only act as a letter of a direction."""


def several(n: int, noun: str) -> str:
    """A number with its noun: 1 volume, 2 volumes."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(names: Sequence[str], most: int = MOST_LISTED) -> str:
    """Names with commas, the first few of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def composed(text: str) -> str:
    """The text with composed accents (Unicode NFC), in which text that looks alike is compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def escaped(text: str) -> str:
    """The text with hidden characters in Python's notation, such as ``\\x1b[31m``.

    Parameters
    ----------
    text : str
        Line breaks and tabs are kept.
    """
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


def format_count(number: int) -> str:
    """A count formatted like C's %g, of any size."""
    return f"{number:g}" if number < 10**300 else f"{Decimal(number):.5e}"
