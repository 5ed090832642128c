"""``gpuvox longitudinal``: change scores and repeated measures for randomise, from a table of visits."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, names, pair
from gpuvox.cli.talk import say, silent, warn

DESIGNS = ("change", "visit", "interaction", "between")
EPILOG = """\
The table has a row for each visit of each subject. IMAGE is a column of it (a path for each visit, relative to it) or
a 4D image with a volume for each row. Designs (all that can be made; --designs says which):
  change       change from baseline to follow-up, compared between groups, or against none     OUT_change
  visit        effect of the visit, exchanged within subjects                                  OUT_visit
  interaction  groups in their change, subjects exchanged with all their visits                OUT_interaction
  between      groups over all visits, subjects exchanged with all their visits                OUT_between
each with .mat, .con, .fts, .grp as needed; OUT_NAME_change and OUT_NAME_visits, the images; OUT_change.tsv and
OUT_visits.tsv, their rows; OUT.txt, the commands that test them. Example:
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
        raise argparse.ArgumentTypeError(f"{name!r} cannot be a part of the name of a file")
    return name, image


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `longitudinal.Command`."""
    parser = Parser(
        prog="gpuvox longitudinal",
        description=f"Change scores and repeated measures for randomise (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of the visits")
    add("--subject", metavar="COLUMN", default="participant_id", help="who (participant_id)")
    add("--visit", metavar="COLUMN", help="which visit")
    add(
        "--visits",
        metavar="A,B,C",
        type=names,
        default=(),
        help="the visits that count, in order (by their number)",
    )
    add("--baseline", metavar="VISIT", default="", help="where change starts (the first visit)")
    add("--follow-up", metavar="VISIT", default="", help="where change ends (the last visit)")
    add("--group", metavar="COLUMN", default="", help="groups to compare")
    add("--order", metavar="A,B", type=names, default=(), help="their order (alphabetical)")
    add("--covariates", metavar="A,B", type=names, default=(), help="columns to adjust for, as at the first visit")
    add("--years", metavar="COLUMN", default="", help="time of a visit in years: change becomes change per year")
    add(
        "--subset",
        metavar="EXPRESSION",
        default="",
        help="subjects that count, by what is true at the first visit",
    )
    add("--map", dest="maps", metavar="NAME=IMAGE", type=named_map, action="append", default=[],
        help="a map; may be repeated")  # fmt: skip
    add("--designs", metavar="A,B", type=designs, default=(), help=f"some of {', '.join(DESIGNS)}")
    add(
        "--incomplete",
        choices=("refuse", "drop", "keep"),
        default="refuse",
        help="subjects who lack a visit (refuse)",
    )
    add("--out", metavar="OUT", help="root of what is written")
    add("--quiet", action="store_true", help="print nothing")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "visit", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    if options["order"] and not options["group"]:
        raise UsageError("--order is that of the groups; --group is missing")
    maps = dict(options["maps"])
    if len(maps) < len(options["maps"]):
        raise UsageError("--map gives a name twice")
    options["maps"] = maps
    from gpuvox import locks
    from gpuvox.cli.progress import shown
    from gpuvox.study.longitudinal import Command, execute

    quiet = options.pop("quiet")
    with locks.output(options["out"], warn), shown(quiet, "images") as progress:
        execute(Command(**options), silent if quiet else say, progress, warn)
    return 0
