"""``gpuvox design``: design and contrasts of a comparison of groups, from the table of participants."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, names, pair
from gpuvox.cli.talk import say, silent, warn

EPILOG = """\
Writes OUT.mat and OUT.con (OUT.fts with F tests) for randomise, OUT_design.json with the names of their rows and
columns, OUT_participants.tsv with the participants in their order, and OUT.txt, which lists EVs and contrasts and the
command that tests them. --select makes the 4D image of these participants from a column of the table (a path for each,
relative to it) or from a 4D image in the table's order.
  gpuvox design --table participants.tsv --group group --order MS,HC --covariates age,sex --out ms_hc
  gpuvox design --table participants.tsv --subset "group == 'MS'" --effect edss --covariates age,sex \\
    --select maps/iron=ms_iron --out ms_edss
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `designs.Command`."""
    parser = Parser(
        prog="gpuvox design",
        description=f"Design and contrasts for randomise, from a table of participants (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of the participants, with a column participant_id")
    add("--group", metavar="COLUMN", default="", help="groups to compare; without groups and effects, one sample")
    add("--order", metavar="A,B", type=names, default=(), help="their order (alphabetical)")
    add("--covariates", metavar="A,B", type=names, default=(), help="columns to adjust for")
    add("--interaction", dest="interactions", metavar="A,B", type=names, default=(),
        help="covariates with a slope in each group, which are compared")  # fmt: skip
    add("--effect", dest="effects", metavar="A,B", type=names, default=(),
        help="covariates whose own effect is tested")  # fmt: skip
    add("--subset", metavar="EXPRESSION", default="", help='participants that count, as in "age <= 50"')
    add("--select", dest="images", metavar="IMAGE=OUT", type=pair, action="append", default=[],
        help="write the images of these participants as a 4D image; may be repeated")  # fmt: skip
    add("--out", metavar="OUT", help="root of what is written")
    add("--quiet", action="store_true", help="print nothing")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    if options["order"] and not options["group"]:
        raise UsageError("--order is that of the groups; --group is missing")
    targets = [out for _, out in options["images"]]
    if len(set(targets)) < len(targets):
        raise UsageError("--select writes two images to one place")
    options["images"] = tuple(options["images"])
    from gpuvox import locks
    from gpuvox.cli.progress import shown
    from gpuvox.study.designs import Command, execute

    quiet = options.pop("quiet")
    with locks.output(options["out"], warn), shown(quiet, "images") as progress:
        execute(Command(**options), silent if quiet else say, progress, warn)
    return 0
