"""``gpuvox report``: the report of a study, one HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal

EPILOG = """\
STUDY.json is the file study.json that gpuvox study writes; the paths in it are relative to its folder. If you ran the
study yourself, and it was not moved or edited since, the report may read every file of the study. For any other study,
it reads no file outside the folder of STUDY.json, unless --within names a larger folder (for instance because a mask is
beside the results). The report is a single file that needs neither a network nor other files. It contains tables, maps
in an orthogonal viewer, figures, and methods with citations.

example:
  gpuvox report results/study.json
  gpuvox report received/results/study.json --within received --out report.html
"""


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox report",
        description=f"Write the report of a study as one HTML file (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument("study", metavar="STUDY.json", help="record of the study, written by gpuvox study")
    parser.add_argument(
        "--out", metavar="FILE", default=None, help="report to write (report.html beside STUDY.json)"
    )
    parser.add_argument(
        "--within", metavar="DIR", default=None,
        help="folder that must contain all files of the study, links resolved (the folder of STUDY.json; not needed "
        "for your own study)",
    )  # fmt: skip
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = build_parser().parse_args(argv)
    from gpuvox.study.report import execute

    with terminal(bar=False) as reporter:
        execute(options.study, options.out, reporter, options.within)
    return 0
