"""``gpuvox models``: hierarchical regression, correlation and sample size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, count, number, pair, positive, some_names
from gpuvox.cli.console import say, warn
from gpuvox.errors import UsageError
from gpuvox.reporter import Reporter

CORRECTIONS = ("fdr_bh", "bonferroni", "none")
REGRESSION = """\
COLUMNS are separated by commas; * and ? match several. They are columns of the table and, with --rois and --clusters,
variables such as thalamus.iron, left.caudate.volume or NAME.1 (eigenvariate of cluster 1). Text becomes indicator
columns of 0 and 1. Writes OUT.tsv (R2, its change, F and P of each block), OUT_coefficients.tsv, OUT_data.tsv (the data
analysed) and OUT.json.

example:
  gpuvox models regression --table participants.tsv --rois rois.tsv --subset "group == 'MS'" --outcome edss \\
    --block volumes=brain_volume,lesion_load --log lesion_load --each 'thalamus*.iron' \\
    --adjust age,sex --reference "group == 'HC'" --bootstrap 5000 --out edss
"""
CORRELATION = """\
COLUMNS are as for gpuvox models regression. Writes OUT.tsv and OUT.json.

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
    kinds = parser.add_subparsers(dest="kind", metavar="regression|correlation|samplesize", parser_class=Parser)
    _regression(_subcommand(kinds, "regression", "hierarchical linear regression in blocks", REGRESSION))
    _correlation(
        _subcommand(kinds, "correlation", "correlations, with covariates partial correlations", CORRELATION)
    )
    _sample_size(_subcommand(kinds, "samplesize", "number of participants that a study needs", SAMPLE_SIZE))
    return parser


def _subcommand(kinds: Any, name: str, text: str, epilog: str) -> Parser:
    parser: Parser = kinds.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]} (gpuvox {__version__}).", epilog=epilog,
    )  # fmt: skip
    add = parser.add_argument
    add("--table", metavar="FILE", default="", help="table of participants")
    add("--rois", metavar="FILE", default="", help="table written by gpuvox rois")
    add(
        "--clusters",
        metavar="NAME=FILE",
        action="append",
        type=pair,
        help="OUT_subjects.tsv written by gpuvox clusters; may be repeated",
    )
    add(
        "--subset",
        metavar="CONDITION",
        default="",
        help="include only these participants, for example \"phenotype == 'RRMS'\"",
    )
    add("--log", metavar="COLUMNS", type=some_names, default=(), help="variables to log-transform")
    add("--out", metavar="OUT", default="", help="root of the output names")
    return parser


def _resampling(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--bootstrap",
        type=count,
        metavar="N",
        default=0,
        help="bootstrap resamples for percentile and BCa intervals (0, none)",
    )
    add("--seed", type=count, metavar="N", default=0, help="seed of the bootstrap (0)")
    add("--correction", choices=CORRECTIONS, default="fdr_bh", help="correction for multiple testing (fdr_bh)")


def _regression(parser: Parser) -> None:
    add = parser.add_argument
    add("--outcome", metavar="COLUMN", default="", help="the dependent variable")
    add(
        "--block", dest="blocks", metavar="NAME=COLUMNS", action="append", type=_block,
        help="predictors entered together; repeat for further blocks, in order of entry",
    )  # fmt: skip
    add(
        "--each",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="fit one model for each of these, as its last block",
    )
    add(
        "--adjust",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="covariates for which predictors are adjusted",
    )
    add(
        "--reference", metavar="CONDITION", default="",
        help="condition for the participants in whom the adjustment is estimated (those analysed; also for "
        "predictors not measured in the reference group)",
    )  # fmt: skip
    add(
        "--adjusted", metavar="COLUMNS", type=some_names, default=(),
        help="predictors to adjust (numeric ones with more than two values)",
    )  # fmt: skip
    _resampling(parser)


def _correlation(parser: Parser) -> None:
    add = parser.add_argument
    add("--x", metavar="COLUMNS", type=some_names, default=(), help="variables on one side")
    add(
        "--y",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="variables with which each of these is correlated",
    )
    add("--given", metavar="COLUMNS", type=some_names, default=(), help="covariates to control for")
    add("--method", choices=("pearson", "spearman"), default="pearson", help="kind of correlation (pearson)")
    _resampling(parser)


def _sample_size(parser: Parser) -> None:
    add = parser.add_argument
    add("--r", type=number, metavar="R", help="a correlation")
    add("--d", type=number, metavar="D", help="a difference between two groups, in SD")
    add(
        "--r2",
        type=number,
        metavar="R2",
        help="with --d: share of the variance within groups that a covariate explains",
    )
    add("--group", metavar="COLUMN", default="", help="column with the groups")
    add("--order", metavar="A,B", type=some_names, default=(), help="the two groups; the difference is A minus B")
    add(
        "--variables",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="variables whose differences are considered",
    )
    add(
        "--covariates",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="covariates of an analysis of covariance",
    )
    add(
        "--reduction",
        type=positive,
        metavar="F",
        default=1.0,
        help="effect to detect, as a share of the difference (1)",
    )
    add("--power", type=number, metavar="P", default=0.8, help="power (0.8)")
    add("--alpha", type=number, metavar="P", default=0.05, help="two-sided significance level (0.05)")


NEEDED = {
    "regression": ("table", "outcome", "out"),
    "correlation": ("table", "x", "y", "out"),
    "samplesize": ("table", "group", "order", "variables"),
}


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    kind, out = options.pop("kind"), options.pop("out", "")
    if not kind:
        raise UsageError("the model is missing: regression, correlation or samplesize; see gpuvox models --help")
    if kind == "samplesize":
        given = {name: options.pop(name) for name in ("r", "d", "r2")}
        if any(value is not None for value in given.values()):
            return _say_size(given, options, out)
    for name in NEEDED[kind]:
        if not (out if name == "out" else options[name]):
            extra = ", or --r or --d" if kind == "samplesize" else ""
            raise UsageError(f"--{name} is missing{extra}")
    for name in ("clusters", *(["blocks"] if kind == "regression" else [])):
        options[name] = _unique(options[name] or [], name.removesuffix("s") if name == "blocks" else name)
    from gpuvox.files import locks
    from gpuvox.study.statistics import clinical

    kinds: dict[str, Any] = {
        "regression": clinical.Regression,
        "correlation": clinical.Correlations,
        "samplesize": clinical.SampleSizes,
    }
    with locks.output(out, warn) if out else nullcontext():
        clinical.execute(kinds[kind](**options), out, Reporter(say, warn))
    return 0


def _unique(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--{option} {name} is given twice")
    return dict(pairs)


def _say_size(given: dict[str, float | None], options: dict[str, Any], out: str) -> int:
    """Sample size for a correlation or a difference that is given."""
    r, d, r2 = given["r"], given["d"], given["r2"]
    if (r is None) == (d is None) or (r is not None and r2 is not None):
        raise UsageError(
            "a sample size is for --r, or for --d with or without --r2, or for a table: give one of them"
        )
    for name in ("table", "rois", "clusters", "subset", "log", "group", "order", "variables", "covariates"):
        if options[name]:
            raise UsageError(f"--{name} is for a sample size from a table; it does not go with --r or --d")
    if out:
        raise UsageError("--out is for sample sizes from a table; those for --r and --d are printed")
    from gpuvox.study.statistics.least_squares import sample_size_correlation, sample_size_groups

    power, alpha = options["power"], options["alpha"]
    level = f"power {power:g}, two-sided {alpha:g}"
    if r is not None:
        say(f"{sample_size_correlation(r, power, alpha)} participants for a correlation of {r:g} ({level})")
    elif d is not None:
        say(f"{sample_size_groups(d, power, alpha)} participants in each group for {d:g} SD, t test ({level})")
        if r2 is not None:
            n = sample_size_groups(d, power, alpha, r2, n_covariates=1)
            say(f"{n} participants in each group, ANCOVA with a covariate of R2 {r2:g} within groups")
    return 0
