"""``gpuvox longitudinal``: change scores and repeated measures for randomise, from a table of visits."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names, pair
from gpuvox.cli.console import terminal
from gpuvox.cli.options import (
    add_covariates,
    add_groups,
    add_list,
    add_pairs,
    add_quiet,
    add_root,
    add_subset,
    add_table,
    add_text,
    check_order,
    require,
    unique,
)  # fmt: skip

DESIGNS = ("change", "visit", "interaction", "between")
EPILOG = """\
The table has one row for each visit of each participant. IMAGE is a column of it (paths relative to the table) or a 4D
image, whose volumes join the table by participant and visit if a JSON file or table beside it names them, and
otherwise are in the order of the rows. These designs are made, if they are possible, unless --designs selects some:
  change       change from baseline to follow-up, compared between groups or with zero              OUT_change
  visit        effect of visit; visits are permuted within participants                             OUT_visit
  interaction  group by visit; participants are permuted with all their visits                      OUT_interaction
  between      groups over all visits; participants are permuted with all their visits              OUT_between
Each is written as .mat and .con, with .fts and .grp if needed. OUT_NAME_change (with --years
OUT_NAME_change_per_year) and OUT_NAME_visits are the images, OUT_change.tsv and OUT_visits.tsv list their volumes, and
OUT.txt contains the commands that run the tests.

example:
  gpuvox longitudinal --table visits.tsv --visit session --group group --order MS,HC --covariates age,sex \\
    --years time --map iron=iron --out long
"""


def designs(text: str) -> tuple[str, ...]:
    """``A,B``: names of designs."""
    for name in names(text):
        if name not in DESIGNS:
            raise argparse.ArgumentTypeError(f"there is no design {name!r}; there are {', '.join(DESIGNS)}")
    return names(text)


def named_map(text: str) -> tuple[str, str]:
    """``NAME=IMAGE``; the name becomes part of file names."""
    name, image = pair(text)
    if not re.fullmatch(r"[\w.+-]+", name):
        raise argparse.ArgumentTypeError(
            f"{name!r} cannot be part of a file name; use letters, digits and . _ + -"
        )
    return name, image


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `longitudinal.Command`."""
    parser = Parser(
        prog="gpuvox longitudinal",
        description=f"Make designs of change scores and repeated measures for gpuvox randomise (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_table(parser, "table of visits (required)")
    _add_visits(parser)
    add_groups(parser, "column of the groups to compare")
    add_covariates(parser, "columns to adjust for, with their values at the first visit")
    add_subset(parser, "include only these participants, judged at their first visit")
    add_pairs(parser, "--map", "NAME=IMAGE", "a map and its images", kind=named_map, dest="maps")
    add_list(
        parser, "--designs", "A,B", f"which of {', '.join(DESIGNS)} to make (all that are possible)", kind=designs
    )
    add_root(parser)
    add_quiet(parser, "print only errors and warnings")
    return parser


def _add_visits(parser: Parser) -> None:
    add_text(
        parser, "--subject", "COLUMN", "column that identifies the participant (participant_id)",
        default="participant_id",
    )  # fmt: skip
    add_text(parser, "--visit", "COLUMN", "column that identifies the visit (required)")
    add_list(parser, "--visits", "A,B,C", "visits to include, in temporal order (sorted by number)")
    add_text(parser, "--baseline", "VISIT", "visit from which change is measured (the first)")
    add_text(parser, "--follow-up", "VISIT", "visit up to which change is measured (the last)")
    add_text(
        parser, "--years", "COLUMN", "time of each visit in years; change is then per year, in images and columns"
    )
    parser.add_argument(
        "--incomplete", choices=("refuse", "drop", "keep"), default="refuse",
        help="what to do with participants who lack a visit (refuse)",
    )  # fmt: skip


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--visit", "--out")
    check_order(options)
    options["maps"] = unique(options["maps"], "--map")
    from gpuvox.files import locks
    from gpuvox.study.designs.longitudinal import Command, execute

    shown = not options.pop("quiet")
    with (
        terminal(lines=shown, bar=shown, unit="images") as reporter,
        locks.output(options["out"], reporter.warn),
    ):
        execute(Command(**options), reporter)
    return 0
