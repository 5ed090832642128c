"""Text of others, made harmless: what steers a terminal or turns round the text after it is shown, not obeyed."""

from __future__ import annotations

import re
from decimal import Decimal

# Control characters but tab and line feed; marks of writing direction and what else has no width and hides; separators
# of lines that terminals and browsers do not agree on; halves of characters, which cannot be written out.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Marks that turn round the text after them; those that only stand for a letter of a direction are none."""


def several(n: int, noun: str) -> str:
    """A number with its noun: 1 volume, 2 volumes."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def escaped(text: str) -> str:
    """The text with its hidden characters as Python writes them, as in ``\\x1b[31m``.

    Parameters
    ----------
    text : str
        Lines and tabs stay.
    """
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)


def in_short(number: int) -> str:
    """A count as C's %g prints it, however large."""
    return f"{number:g}" if number < 10**300 else f"{Decimal(number):.5e}"
