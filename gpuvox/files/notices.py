"""Warnings about files."""

from __future__ import annotations

import warnings

from gpuvox.errors import InputWarning


def notice(sentence: str) -> None:
    """Issue an `InputWarning` about a file, in one sentence."""
    warnings.warn(" ".join(sentence.splitlines()), InputWarning, stacklevel=3)
