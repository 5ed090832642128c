"""``gpuvox groups``: comparisons of groups, with and without covariates."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, names, pair
from gpuvox.cli.talk import say, warn

EPILOG = """\
Writes OUT.tsv (analysis of covariance of each variable: adjusted means, F, p, corrected p, Cohen's d, checks of
assumptions), OUT_demographics.tsv (groups described and compared without covariates) and OUT.json (what was done).
Variables are columns of numbers: of the table, of gpuvox rois (thalamus.iron, left_caudate.volume) and of gpuvox
clusters (NAME.1). Example:
  gpuvox groups --table participants.tsv --group group --order MS,HC --rois rois.tsv --covariates age,sex \\
    --family 'volume=*.volume' --family 'iron=*.iron' --demographics age,sex,edss --out groups
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `groups.Command`."""
    parser = Parser(
        prog="gpuvox groups",
        description=f"Comparisons of groups (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of the participants")
    add("--group", metavar="COLUMN", help="group of each participant")
    add("--order", type=names, metavar="A,B", default=(), help="groups to compare; differences are A - B")
    add("--rois", metavar="FILE", default="", help="what gpuvox rois wrote")
    add("--clusters", metavar="NAME=FILE", action="append", type=pair, help="what gpuvox clusters wrote")
    add("--covariates", type=names, metavar="A,B", default=(), help="columns of the table to adjust for")
    add(
        "--variables",
        type=names,
        metavar="PATTERNS",
        default=(),
        help="what to compare (all of rois and clusters)",
    )
    add("--family", dest="families", metavar="NAME=PATTERNS", action="append", type=pair,
        help="variables whose p are corrected together (all); may be repeated")  # fmt: skip
    add(
        "--correction", choices=("fdr_bh", "bonferroni", "none"), default="fdr_bh", help="within a family (fdr_bh)"
    )
    add("--subset", metavar="EXPRESSION", default="", help='participants, such as "age <= 50"')
    add("--log", type=names, metavar="PATTERNS", default=(), help="log-transform; auto: those that are skewed")
    add("--demographics", type=names, metavar="A,B", default=(), help="columns to describe by group")
    add("--test", dest="tests", metavar="COLUMN=TEST", action="append", type=pair,
        help="student, welch, mannwhitney, anova, welch_anova, kruskal, fisher or chi2")  # fmt: skip
    add("--out", metavar="OUT", help="root of what is written")
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
    from gpuvox import locks
    from gpuvox.study.groups import Command, execute

    with locks.output(options["out"], warn):
        execute(Command(**options), say)
    return 0
