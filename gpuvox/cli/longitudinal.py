"""``gpuvox longitudinal``: change scores and repeated measures for randomise, from a table of visits."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names, pair
from gpuvox.cli.console import terminal
from gpuvox.errors import UsageError

DESIGNS = ("change", "visit", "interaction", "between")
EPILOG = """\
The table has one row for each visit of each participant. IMAGE is a column of it (paths relative to the table) or a 4D
image with one volume per row. The designs, all that are possible unless --designs selects some:
  change       change from baseline to follow-up, compared between groups or with zero              OUT_change
  visit        effect of visit; visits are permuted within participants                             OUT_visit
  interaction  group by visit; participants are permuted with all their visits                      OUT_interaction
  between      groups over all visits; participants are permuted with all their visits              OUT_between
Each is written as .mat and .con, with .fts and .grp where needed. OUT_NAME_change and OUT_NAME_visits are the images,
OUT_change.tsv and OUT_visits.tsv list their volumes, and OUT.txt gives the commands that run the tests.

example:
  gpuvox longitudinal --table visits.tsv --visit session --group group --order MS,HC --covariates age,sex \\
    --years time --map iron=iron --out long
"""


def designs(text: str) -> tuple[str, ...]:
    """Some of the designs."""
    for name in names(text):
        if name not in DESIGNS:
            raise argparse.ArgumentTypeError(f"there is no design {name!r}; there are {', '.join(DESIGNS)}")
    return names(text)


def named_map(text: str) -> tuple[str, str]:
    """NAME=IMAGE; the name becomes a part of names of files."""
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
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of visits (required)")
    add(
        "--subject",
        metavar="COLUMN",
        default="participant_id",
        help="column that identifies the participant (participant_id)",
    )
    add("--visit", metavar="COLUMN", help="column that identifies the visit (required)")
    add(
        "--visits",
        metavar="A,B,C",
        type=names,
        default=(),
        help="visits to include, in temporal order (sorted by number)",
    )
    add("--baseline", metavar="VISIT", default="", help="visit from which change is measured (the first)")
    add("--follow-up", metavar="VISIT", default="", help="visit up to which change is measured (the last)")
    add("--group", metavar="COLUMN", default="", help="column of the groups to compare")
    add("--order", metavar="A,B", type=names, default=(), help="order of the groups (alphabetical)")
    add(
        "--covariates",
        metavar="A,B",
        type=names,
        default=(),
        help="columns to adjust for, with their values at the first visit",
    )
    add(
        "--years", metavar="COLUMN", default="", help="time of each visit in years; change is then change per year"
    )
    add(
        "--subset",
        metavar="EXPRESSION",
        default="",
        help="include only these participants, judged at their first visit",
    )
    add("--map", dest="maps", metavar="NAME=IMAGE", type=named_map, action="append", default=[],
        help="a map and its images; may be repeated")  # fmt: skip
    add(
        "--designs",
        metavar="A,B",
        type=designs,
        default=(),
        help=f"which of {', '.join(DESIGNS)} to make (all that are possible)",
    )
    add(
        "--incomplete",
        choices=("refuse", "drop", "keep"),
        default="refuse",
        help="what to do with participants who lack a visit (refuse)",
    )
    add("--out", metavar="OUT", help="root of the output names (required)")
    add("--quiet", action="store_true", help="print only errors and warnings")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "visit", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    if options["order"] and not options["group"]:
        raise UsageError("--order is the order of the groups, and needs --group")
    maps = dict(options["maps"])
    if len(maps) < len(options["maps"]):
        raise UsageError("--map gives the same name twice")
    options["maps"] = maps
    from gpuvox.files import locks
    from gpuvox.study.designs.longitudinal import Command, execute

    shown = not options.pop("quiet")
    with (
        terminal(lines=shown, bar=shown, unit="images") as reporter,
        locks.output(options["out"], reporter.warn),
    ):
        execute(Command(**options), reporter)
    return 0
