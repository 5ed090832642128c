"""Warnings about files."""

from __future__ import annotations

import warnings

from gpuvox.errors import InputWarning


def notice(said: str) -> None:
    """Warn of something about a file (`InputWarning`)."""
    warnings.warn(" ".join(said.splitlines()), InputWarning, stacklevel=3)
