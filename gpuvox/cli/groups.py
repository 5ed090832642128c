"""``gpuvox groups``: comparisons of groups, with and without covariates."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names, pair
from gpuvox.cli.console import say, warn
from gpuvox.errors import UsageError
from gpuvox.reporter import Reporter

EPILOG = """\
Writes OUT.tsv (analysis of covariance of each variable: adjusted means, F, p, corrected p, Cohen's d, checks of
assumptions), OUT_demographics.tsv (groups described and compared without covariates) and OUT.json (a record of what was
done). Variables are numeric columns of the table, of gpuvox rois (such as thalamus.iron, left.caudate.volume) and of
gpuvox clusters (such as NAME.1).

example:
  gpuvox groups --table participants.tsv --group group --order MS,HC --rois rois.tsv --covariates age,sex \\
    --family 'volume=*.volume' --family 'iron=*.iron' --demographics age,sex,edss --out groups
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `groups.Command`."""
    parser = Parser(
        prog="gpuvox groups",
        description=f"Describe groups, and compare them by analysis of covariance (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of participants (required)")
    add("--group", metavar="COLUMN", help="column with the group of each participant (required)")
    add("--order", type=names, metavar="A,B", default=(), help="groups to compare; differences are A minus B")
    add("--rois", metavar="FILE", default="", help="table written by gpuvox rois")
    add(
        "--clusters",
        metavar="NAME=FILE",
        action="append",
        type=pair,
        help="OUT_subjects.tsv written by gpuvox clusters; may be repeated",
    )
    add("--covariates", type=names, metavar="A,B", default=(), help="columns of the table to adjust for")
    add(
        "--variables",
        type=names,
        metavar="PATTERNS",
        default=(),
        help="variables to compare (all those of --rois and --clusters)",
    )
    add("--family", dest="families", metavar="NAME=PATTERNS", action="append", type=pair,
        help="variables corrected together for multiple testing (all); may be repeated")  # fmt: skip
    add(
        "--correction",
        choices=("fdr_bh", "bonferroni", "none"),
        default="fdr_bh",
        help="correction within each family (fdr_bh)",
    )
    add(
        "--subset",
        metavar="EXPRESSION",
        default="",
        help='include only these participants, for example "age <= 50"',
    )
    add(
        "--log",
        type=names,
        metavar="PATTERNS",
        default=(),
        help="variables to log-transform; auto for those that are skewed",
    )
    add("--demographics", type=names, metavar="A,B", default=(), help="columns to describe and compare by group")
    add("--test", dest="tests", metavar="COLUMN=TEST", action="append", type=pair,
        help="test for a column of --demographics: student, welch, mannwhitney, anova, welch_anova, kruskal, "
        "fisher or chi2")  # fmt: skip
    add("--out", metavar="OUT", help="root of the output names (required)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "group", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    for name in ("clusters", "families", "tests"):
        pairs = options[name] or []
        if len(dict(pairs)) < len(pairs):
            raise UsageError(f"a name is given twice: {', '.join(key for key, _ in pairs)}")
        options[name] = dict(pairs)
    options["families"] = {name: names(patterns) for name, patterns in options["families"].items()}
    from gpuvox.files import locks
    from gpuvox.study.statistics.groups import Command, execute

    with locks.output(options["out"], warn):
        execute(Command(**options), Reporter(say, warn))
    return 0
