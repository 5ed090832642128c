"""``gpuvox groups``: comparisons of groups, with and without covariates."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names, number, pair
from gpuvox.cli.console import terminal
from gpuvox.cli.options import (
    add_correction,
    add_covariates,
    add_groups,
    add_list,
    add_measurements,
    add_pairs,
    add_root,
    add_subset,
    add_table,
    check_order,
    require,
    unique,
)  # fmt: skip
from gpuvox.plain import composed

EPILOG = """\
The command writes OUT.tsv (analysis of covariance of each variable: adjusted means, F, p, corrected p, Cohen's d and
partial eta squared with confidence intervals, checks of assumptions; of one group alone mean, SD, range, median and
interquartile range), OUT_pairs.tsv (every pair of three groups or more), OUT_demographics.tsv (groups described and
compared without covariates) and OUT.json (a record of the analysis). Variables are numeric columns of the table, of
gpuvox rois (such as thalamus.iron, left.caudate.volume) and of gpuvox clusters (such as NAME.1).

example:
  gpuvox groups --table participants.tsv --group group --order MS,HC --rois rois.tsv --covariates age,sex \\
    --family 'volume=*.volume' --family 'iron=*.iron' --demographics age,sex,edss --out groups
"""


METHODS = ("tukey", "bonferroni", "holm", "sidak", "none")


def _also(text: str) -> tuple[str, tuple[str, tuple[str, ...]]]:
    """``NAME=COLUMN:A,B``, or ``NAME=COLUMN`` for all groups of a column."""
    name, what = pair(composed(text))
    column, _, order = what.partition(":")
    return name, (column, names(order) if order else ())


def _test(text: str) -> tuple[str, str]:
    """``COLUMN=TEST``."""
    return pair(composed(text))


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `groups.Command`."""
    parser = Parser(
        prog="gpuvox groups",
        description=f"Describe groups, and compare them by analysis of covariance (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_table(parser)
    add_groups(
        parser,
        "column with the group of each participant (without it, everybody is described as one group)",
        "groups to compare; differences are A minus B; one group alone is described",
    )
    add_measurements(parser)
    add_covariates(parser, "columns of the table to adjust for")
    add_list(parser, "--variables", "PATTERNS", "variables to compare (all those of --rois and --clusters)")
    add_pairs(
        parser, "--family", "NAME=PATTERNS", "variables corrected together for multiple testing (all)",
        dest="families",
    )  # fmt: skip
    add_correction(parser, "correction within each family (fdr_bh)")
    add_subset(parser)
    add_list(parser, "--log", "PATTERNS", "variables to log-transform; auto for those that are skewed")
    add_list(parser, "--demographics", "A,B", "columns to describe and compare by group")
    add_pairs(
        parser, "--test", "COLUMN=TEST", "test for a column of --demographics: student, welch, mannwhitney, anova, "
        "welch_anova, kruskal, fisher or chi2", kind=_test, dest="tests",
    )  # fmt: skip
    add_pairs(
        parser, "--also", "NAME=COLUMN:A,B", "compare these groups too in the table of --demographics", kind=_also,
        dest="comparisons",
    )  # fmt: skip
    parser.add_argument(
        "--posthoc", choices=METHODS, default="tukey",
        help="how p of pairs is adjusted, with three groups or more (tukey)",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=number, metavar="VALUE",
        help="compare the mean of one group with this value, by a t test of one sample (no test)",
    )  # fmt: skip
    add_root(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--out")
    check_order(options)
    repeated = {"--clusters": "clusters", "--family": "families", "--test": "tests", "--also": "comparisons"}
    for option, name in repeated.items():
        options[name] = unique(options[name], option)
    options["families"] = {name: names(patterns) for name, patterns in options["families"].items()}
    from gpuvox.files import locks
    from gpuvox.study.statistics.demographics import Comparison
    from gpuvox.study.statistics.groups import Command, execute

    options["comparisons"] = {name: Comparison(*each) for name, each in options["comparisons"].items()}

    with terminal(bar=False) as reporter, locks.output(options["out"], reporter.warn):
        execute(Command(**options), reporter)
    return 0
