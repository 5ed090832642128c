"""``gpuvox models``: hierarchical regression, correlation and sample size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, count, number, pair, positive, some_names
from gpuvox.cli.console import say, terminal
from gpuvox.cli.options import (
    add_correction,
    add_flag,
    add_list,
    add_measurements,
    add_root,
    add_subset,
    add_table,
    add_text,
    require,
    unique,
)  # fmt: skip
from gpuvox.errors import UsageError

REGRESSION = """\
COLUMNS are separated by commas; * and ? match several. They are columns of the table and, with --rois and --clusters,
variables such as thalamus.iron, left.caudate.volume or NAME.1 (eigenvariate of cluster 1). Text becomes indicator
columns of 0 and 1. The command writes OUT.tsv (R2, its change, F and p of each block), OUT_coefficients.tsv,
OUT_data.tsv (the data analysed), OUT_diagnostics.tsv (residuals and influence) and OUT.json. a:b in a block is an
interaction.

example:
  gpuvox models regression --table participants.tsv --rois rois.tsv --subset "group == 'MS'" --outcome edss \\
    --block volumes=brain_volume,lesion_load --log lesion_load --each 'thalamus*.iron' \\
    --adjust age,sex --reference "group == 'HC'" --bootstrap 5000 --out edss
"""
CORRELATION = """\
COLUMNS are as for gpuvox models regression. The command writes OUT.tsv and OUT.json.

example:
  gpuvox models correlation --table participants.tsv --clusters iron=iron_up_subjects.tsv --x 'iron.*' \\
    --y edss,disease_duration --given age,sex --method spearman --out correlations
"""
SAMPLE_SIZE = """\
The sample size is that for a correlation (--r), for a standardised difference (--d), or for the differences between two
groups in a table (COLUMNS are as for gpuvox models regression; with --out, OUT.tsv and OUT.json are written).

examples:
  gpuvox models samplesize --r 0.28
  gpuvox models samplesize --d 0.5 --r2 0.3
  gpuvox models samplesize --table participants.tsv --rois rois.tsv --group group --order MS,HC \\
    --variables 'thalamus.*' --covariates age,sex --reduction 0.3 --out trial
"""


MIXED = """\
The table has one row for each visit of each participant; --time is a column with the years since the baseline. For each
outcome a linear mixed model with random intercept and slope gives the change per year of each group, its percentage of
the baseline, and the difference of two groups. With --trial, the years of the visits of a trial, OUT_trial.tsv has the
number of participants that it needs. The command writes OUT.tsv and OUT.json.

example:
  gpuvox models mixed --table visits.tsv --time years --outcome '*.volume' --group group --order MS,HC \\
    --covariates age,sex --trial 0,0.5,1,2 --reduction 0.5 --out change
"""


def _years(text: str) -> tuple[float, ...]:
    return tuple(number(part) for part in text.split(","))


def _block(text: str) -> tuple[str, tuple[str, ...]]:
    name, columns = pair(text)
    return name, some_names(columns)


def build_parser() -> Parser:
    """The parser; its destinations are the fields of the commands of `gpuvox.study.statistics.clinical`."""
    parser = Parser(
        prog="gpuvox models",
        description=f"Fit clinical models (gpuvox {__version__}).",
        epilog="gpuvox models MODEL --help shows the options of each.",
    )
    kinds = parser.add_subparsers(
        dest="kind", metavar="regression|correlation|mixed|samplesize", parser_class=Parser
    )
    _add_regression(_subcommand(kinds, "regression", "hierarchical linear regression in blocks", REGRESSION))
    _add_correlation(
        _subcommand(kinds, "correlation", "correlations, with covariates partial correlations", CORRELATION)
    )
    _add_mixed(_subcommand(kinds, "mixed", "change per year by linear mixed models", MIXED))
    _add_sample_size(_subcommand(kinds, "samplesize", "number of participants that a study needs", SAMPLE_SIZE))
    return parser


def _subcommand(kinds: Any, name: str, text: str, epilog: str) -> Parser:
    parser: Parser = kinds.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]} (gpuvox {__version__}).", epilog=epilog,
    )  # fmt: skip
    add_table(parser, "table of participants")
    add_measurements(parser)
    add_subset(parser)
    _add_columns(parser, "--log", "variables to log-transform")
    _add_columns(parser, "--sqrt", "variables whose square root is analysed")
    _add_columns(parser, "--rank", "variables whose rank is analysed")
    add_root(parser, "root of the output names")
    return parser


def _add_columns(parser: Parser, option: str, text: str, metavar: str = "COLUMNS") -> None:
    add_list(parser, option, metavar, text, kind=some_names)


def _add_resampling(parser: Parser) -> None:
    parser.add_argument(
        "--bootstrap", type=count, metavar="N", default=0,
        help="bootstrap resamples for percentile and BCa intervals (0, none)",
    )  # fmt: skip
    _add_columns(parser, "--strata", "resample within the categories of these variables, and their combinations")
    parser.add_argument("--seed", type=count, metavar="N", default=0, help="seed of the bootstrap (0)")
    add_correction(parser, "correction for multiple testing (fdr_bh)")


def _add_regression(parser: Parser) -> None:
    _add_columns(parser, "--outcome", "the dependent variable; several are a family of models")
    parser.add_argument(
        "--model", choices=("linear", "logistic"), default="linear",
        help="linear, or logistic for an outcome with two values (linear)",
    )  # fmt: skip
    add_text(
        parser,
        "--event",
        "VALUE",
        "value of the outcome whose odds a logistic model describes (the second in order)",
    )
    parser.add_argument(
        "--errors", choices=("ols", "hc3"), default="ols",
        help="standard errors of constant variance (ols), or robust to any (hc3)",
    )  # fmt: skip
    parser.add_argument(
        "--block", dest="blocks", metavar="NAME=COLUMNS", action="append", default=[], type=_block,
        help="predictors entered together; repeat for further blocks, in order of entry",
    )  # fmt: skip
    _add_columns(
        parser, "--each", "fit one model for each of these, as its last block; or, if {each} occurs in --outcome or "
        "--block, with each of these words in its place",
    )  # fmt: skip
    _add_adjustment(parser, "predictors")
    _add_columns(parser, "--ladder", "tabulate the ladder of powers of these variables")
    _add_resampling(parser)


def _add_adjustment(parser: Parser, what: str) -> None:
    _add_columns(parser, "--adjust", f"covariates for which {what} are adjusted")
    add_text(
        parser, "--reference", "CONDITION", "condition for the participants in whom the adjustment is estimated (those "
        f"analysed; also for {what} not measured in the reference group)",
    )  # fmt: skip
    _add_columns(parser, "--adjusted", f"{what} to adjust (numeric ones with more than two values)")


def _add_correlation(parser: Parser) -> None:
    _add_columns(parser, "--x", "variables on one side")
    _add_columns(parser, "--y", "variables with which each of these is correlated")
    add_flag(parser, "--paired", "the first of --x with the first of --y, and so on, not each with each")
    _add_columns(parser, "--given", "covariates to control for")
    _add_adjustment(parser, "variables")
    parser.add_argument(
        "--method", choices=("pearson", "spearman"), default="pearson", help="kind of correlation (pearson)"
    )
    _add_resampling(parser)


def _add_power(parser: Parser) -> None:
    parser.add_argument("--power", type=number, metavar="P", default=0.8, help="power (0.8)")
    parser.add_argument(
        "--alpha", type=number, metavar="P", default=0.05, help="two-sided significance level (0.05)"
    )


def _add_mixed(parser: Parser) -> None:
    add = parser.add_argument
    _add_columns(parser, "--outcome", "dependent variables, a model for each")
    add_text(parser, "--time", "COLUMN", "column with the time of each visit, in years; 0 is the baseline")
    add_text(parser, "--group", "COLUMN", "column with the groups")
    _add_columns(parser, "--order", "one group, or two; the difference is A minus B", "A,B")
    _add_columns(parser, "--covariates", "covariates")
    add_text(parser, "--visit", "COLUMN", "column of the visits, by which the table of --rois is joined")
    add("--random", choices=("slope", "intercept"), default="slope",
        help="random intercept and slope (slope), or intercept alone")  # fmt: skip
    add_correction(parser, "correction over the outcomes (fdr_bh)")
    add("--trial", dest="visits", metavar="YEARS", type=_years, default=(),
        help="years of the visits of a trial, such as 0,1,2")  # fmt: skip
    add("--reduction", type=positive, metavar="F", default=1.0,
        help="effect of the treatment, as a share of the change (1)")  # fmt: skip
    _add_power(parser)


def _add_sample_size(parser: Parser) -> None:
    add = parser.add_argument
    add("--r", type=number, metavar="R", help="a correlation")
    add(
        "--method", choices=("regression", "fisher"),
        help="with --r: by the t test of a regression's slope (regression), or by Fisher's z",
    )  # fmt: skip
    add("--d", type=number, metavar="D", help="a difference between two groups, in SD")
    add(
        "--r2", type=number, metavar="R2",
        help="with --d: share of the variance within groups that a covariate explains",
    )  # fmt: skip
    add_text(parser, "--group", "COLUMN", "column with the groups")
    _add_columns(parser, "--order", "the two groups; the difference is A minus B", "A,B")
    _add_columns(parser, "--variables", "variables whose differences are considered")
    _add_columns(parser, "--covariates", "covariates of an analysis of covariance")
    add(
        "--reduction", type=positive, metavar="F", default=1.0,
        help="effect to detect, as a share of the difference (1)",
    )  # fmt: skip
    _add_power(parser)


NEEDED = {
    "regression": ("--table", "--outcome", "--out"),
    "correlation": ("--table", "--x", "--y", "--out"),
    "mixed": ("--table", "--outcome", "--time", "--out"),
    "samplesize": ("--table", "--group", "--order", "--variables"),
}
FROM_A_TABLE = (
    "table",
    "rois",
    "clusters",
    "subset",
    "log",
    "sqrt",
    "rank",
    "group",
    "order",
    "variables",
    "covariates",
)
"""Destinations of the options of ``samplesize`` that describe differences in a table."""


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    kind = options.pop("kind")
    if not kind:
        raise UsageError(
            "the model is missing: regression, correlation, mixed or samplesize; see gpuvox models --help"
        )
    if kind == "samplesize":
        effect = {name: options.pop(name) for name in ("r", "d", "r2")}
        method = options.pop("method")
        if method and effect["r"] is None:
            raise UsageError("--method is for the sample size of a correlation (--r)", option="--method")
        if any(value is not None for value in effect.values()):
            return _print_size(effect, method or "regression", options)
    _require(options, kind)
    options["clusters"] = unique(options["clusters"], "--clusters")
    if kind == "regression":
        options["blocks"] = unique(options["blocks"], "--block")
    from gpuvox.files import locks
    from gpuvox.study.statistics import clinical

    kinds: dict[str, Any] = {
        "regression": clinical.Regression,
        "correlation": clinical.Correlations,
        "mixed": clinical.Mixed,
        "samplesize": clinical.SampleSizes,
    }
    out = options.pop("out")
    with terminal(bar=False) as reporter, locks.output(out, reporter.warn) if out else nullcontext():
        clinical.execute(kinds[kind](**options), out, reporter)
    return 0


def _require(options: Mapping[str, Any], kind: str) -> None:
    try:
        require(options, *NEEDED[kind])
    except UsageError as error:
        if kind != "samplesize":
            raise
        raise UsageError(f"{error.message}, or --r or --d", option=error.option) from None


METHODS = {"regression": "t test of the slope", "fisher": "Fisher's z"}


def _print_size(effect: Mapping[str, float | None], method: str, options: Mapping[str, Any]) -> int:
    """Print the sample size for a given correlation or difference."""
    r, d, r2 = effect["r"], effect["d"], effect["r2"]
    if (r is None) == (d is None) or (r is not None and r2 is not None):
        raise UsageError(
            "a sample size is for --r, or for --d with or without --r2, or for a table: give one of them"
        )
    for name in FROM_A_TABLE:
        if options[name]:
            raise UsageError(
                f"--{name} is for a sample size from a table; it cannot be used with --r or --d",
                option=f"--{name}",
            )
    if options["out"]:
        raise UsageError(
            "--out is for sample sizes from a table; those for --r and --d are printed", option="--out"
        )
    from gpuvox.study.statistics.power import sample_size_correlation, sample_size_groups

    power, alpha = options["power"], options["alpha"]
    level = f"power {power:g}, two-sided {alpha:g}"
    lines: list[str] = []
    if r is not None:
        n = sample_size_correlation(r, power, alpha, method)
        lines = [f"{n} participants for a correlation of {r:g}, {METHODS[method]} ({level})"]
    elif d is not None:
        lines = [
            f"{sample_size_groups(d, power, alpha)} participants in each group for {d:g} SD, t test ({level})"
        ]
        if r2 is not None:
            n = sample_size_groups(d, power, alpha, r2, n_covariates=1)
            lines.append(f"{n} participants in each group, ANCOVA with a covariate of R2 {r2:g} within groups")
    say("\n".join(lines))
    return 0
