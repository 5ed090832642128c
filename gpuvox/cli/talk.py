"""What commands say on the terminal: all of it leaves here, with control characters of names and tables shown."""

from __future__ import annotations

import sys

from gpuvox.plain import escaped


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(escaped(text) + "\n")
    sys.stdout.flush()


def silent(text: str) -> None:
    """Nothing, for ``--quiet``."""
    del text


def warn(text: str) -> None:
    """A warning on stderr."""
    complain(f"Warning: {text}")


def complain(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(escaped(text) + "\n")
