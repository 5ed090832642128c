"""``gpuvox design``: design and contrasts of a comparison of groups, from the table of participants."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
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
    check_order,
    require,
)  # fmt: skip
from gpuvox.errors import UsageError

EPILOG = """\
The command writes OUT.mat, OUT.con and, with F tests, OUT.fts for gpuvox randomise; OUT_design.json with the names of
their rows and columns; OUT_participants.tsv, the participants in the order of the rows; and OUT.txt, which lists the
EVs, the contrasts and the command that tests them. With --select it also writes a 4D image of these participants, taken
from a column of the table (paths relative to the table) or from a 4D image, whose volumes join the table by participant
if a JSON file or table beside it names them, and otherwise are in the order of the table.

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
    add_table(parser, "table of participants, with a column participant_id (required)")
    add_groups(parser, "column of the groups to compare; without --group and --effect, a one-sample design")
    add_covariates(parser)
    add_list(
        parser, "--interaction", "A,B", "covariates with a slope of their own in each group; the slopes are compared",
        dest="interactions",
    )  # fmt: skip
    add_list(parser, "--effect", "A,B", "covariates whose effect is tested", dest="effects")
    add_subset(parser)
    add_pairs(
        parser,
        "--select",
        "IMAGE=OUT",
        "also write the images of these participants to the 4D image OUT",
        dest="images",
    )
    add_root(parser)
    add_quiet(parser, "print only errors and warnings")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--out")
    check_order(options)
    outputs = [out for _, out in options["images"]]
    if len(set(outputs)) < len(outputs):
        raise UsageError("--select is given the same output twice", option="--select")
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
