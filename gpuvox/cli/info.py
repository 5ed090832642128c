"""``gpuvox info``: what is installed, and whether a GPU can be used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.console import say

USAGE = """usage: gpuvox info [--help] [--version]

Shows versions, devices and memory, and tests whether the CUDA kernels compile and give the right answer; if not, says
what is missing. The exit status is 1 if there is a GPU that does not work.
"""


def run(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 if there is a GPU that does not work."""
    if argv and argv[0] == "--version":
        say(f"gpuvox {__version__}")
        return 0
    if argv:
        asked = argv[0] in ("-h", "--help")
        (sys.stdout if asked else sys.stderr).write(USAGE)
        return 0 if asked else 2
    from gpuvox.info import report

    good = True
    for line, is_good in report():
        say(line)
        good &= is_good
    return 0 if good else 1
