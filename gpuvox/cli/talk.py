"""What commands say on the terminal."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def silent(text: str) -> None:
    """Nothing, for ``--quiet``."""
    del text


def warn(text: str) -> None:
    """A warning on stderr."""
    sys.stderr.write(f"Warning: {text}\n")
