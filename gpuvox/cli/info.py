"""``gpuvox info``: what is installed, and whether a GPU can be used."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import say


def build_parser() -> Parser:
    """The parser."""
    return Parser(
        prog="gpuvox info",
        description="Show versions, devices and memory, and test whether the CUDA kernels compile and give correct "
        f"results (gpuvox {__version__}). If they do not, the output says what is missing. The exit status is 1 if "
        "there is a GPU that does not work.",
    )


def run(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 if there is a GPU that does not work."""
    build_parser().parse_args(argv)
    from gpuvox.info import report

    good = True
    for line, is_good in report():
        say(line)
        good &= is_good
    return 0 if good else 1
