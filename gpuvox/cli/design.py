"""``gpuvox design``: design and contrasts of a comparison of groups, from the table of participants."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names, pair
from gpuvox.cli.console import terminal
from gpuvox.errors import UsageError

EPILOG = """\
Writes OUT.mat, OUT.con and, with F tests, OUT.fts for gpuvox randomise; OUT_design.json with the names of their rows
and columns; OUT_participants.tsv, the participants in the order of the rows; and OUT.txt, which lists the EVs, the
contrasts and the command that tests them. --select makes the 4D image of these participants, from a column of the table
(paths relative to the table) or from a 4D image in the order of the table.

examples:
  gpuvox design --table participants.tsv --group group --order MS,HC --covariates age,sex --out ms_hc
  gpuvox design --table participants.tsv --subset "group == 'MS'" --effect edss --covariates age,sex \\
    --select maps/iron=ms_iron --out ms_edss
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `designs.Command`."""
    parser = Parser(
        prog="gpuvox design",
        description="Make design and contrast files for gpuvox randomise from a table of participants "
        f"(gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of participants, with a column participant_id (required)")
    add(
        "--group",
        metavar="COLUMN",
        default="",
        help="column of the groups to compare; without --group and --effect, a one-sample design",
    )
    add("--order", metavar="A,B", type=names, default=(), help="order of the groups (alphabetical)")
    add("--covariates", metavar="A,B", type=names, default=(), help="columns to adjust for")
    add("--interaction", dest="interactions", metavar="A,B", type=names, default=(),
        help="covariates with a slope of its own in each group; the slopes are compared")  # fmt: skip
    add("--effect", dest="effects", metavar="A,B", type=names, default=(),
        help="covariates whose effect is tested")  # fmt: skip
    add(
        "--subset",
        metavar="EXPRESSION",
        default="",
        help='include only these participants, for example "age <= 50"',
    )
    add("--select", dest="images", metavar="IMAGE=OUT", type=pair, action="append", default=[],
        help="also write the images of these participants to the 4D image OUT; may be repeated")  # fmt: skip
    add("--out", metavar="OUT", help="root of the output names (required)")
    add("--quiet", action="store_true", help="print only errors and warnings")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    if options["order"] and not options["group"]:
        raise UsageError("--order is the order of the groups, and needs --group")
    targets = [out for _, out in options["images"]]
    if len(set(targets)) < len(targets):
        raise UsageError("--select is given the same output twice")
    options["images"] = tuple(options["images"])
    from gpuvox.files import locks
    from gpuvox.study.designs.cross_sectional import Command, execute

    shown = not options.pop("quiet")
    with (
        terminal(lines=shown, bar=shown, unit="images") as reporter,
        locks.output(options["out"], reporter.warn),
    ):
        execute(Command(**options), reporter)
    return 0
