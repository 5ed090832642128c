"""``gpuvox groups``: comparisons of groups, with and without covariates."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, names
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
    require,
    unique,
)  # fmt: skip

EPILOG = """\
The command writes OUT.tsv (analysis of covariance of each variable: adjusted means, F, p, corrected p, Cohen's d,
checks of assumptions), OUT_demographics.tsv (groups described and compared without covariates) and OUT.json (a record
of the analysis). Variables are numeric columns of the table, of gpuvox rois (such as thalamus.iron,
left.caudate.volume) and of gpuvox clusters (such as NAME.1).

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
    add_table(parser)
    add_groups(
        parser,
        "column with the group of each participant (required)",
        "groups to compare; differences are A minus B",
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
        "welch_anova, kruskal, fisher or chi2", dest="tests",
    )  # fmt: skip
    add_root(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--group", "--out")
    for option, name in (("--clusters", "clusters"), ("--family", "families"), ("--test", "tests")):
        options[name] = unique(options[name], option)
    options["families"] = {name: names(patterns) for name, patterns in options["families"].items()}
    from gpuvox.files import locks
    from gpuvox.study.statistics.groups import Command, execute

    with terminal(bar=False) as reporter, locks.output(options["out"], reporter.warn):
        execute(Command(**options), reporter)
    return 0
