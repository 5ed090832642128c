"""``gpuvox models``: hierarchical regression, correlation and sample size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, count, number, pair, positive, some_names
from gpuvox.cli.talk import say, warn

CORRECTIONS = ("fdr_bh", "bonferroni", "none")
REGRESSION = """\
COLUMNS are columns of the table, and with --rois and --clusters also such as thalamus.iron, left_caudate.volume, NAME.1
(eigenvariate of cluster 1): separated by commas, * and ? stand for several. Text becomes columns of 0 and 1. Writes
OUT.tsv (R2, its change, F and P of each block), OUT_coefficients.tsv, OUT_data.tsv (what was analysed) and OUT.json.
  gpuvox models regression --table participants.tsv --rois rois.tsv --subset "group == 'MS'" --outcome edss \\
    --block volumes=brain_volume,lesion_load --log lesion_load --each 'thalamus*.iron' \\
    --adjust age,sex --reference "group == 'HC'" --bootstrap 5000 --out edss
"""
CORRELATION = """\
COLUMNS as for gpuvox models regression. Writes OUT.tsv and OUT.json.
  gpuvox models correlation --table participants.tsv --clusters iron=iron_up_subjects.tsv --x 'iron.*' \\
    --y edss,disease_duration --given age,sex --method spearman --out correlations
"""
SAMPLE_SIZE = """\
For a correlation, for a difference in SD, or for the differences of two groups in a table (COLUMNS as for gpuvox models
regression; with --out, OUT.tsv and OUT.json are written):
  gpuvox models samplesize --r 0.28
  gpuvox models samplesize --d 0.5 --r2 0.3
  gpuvox models samplesize --table participants.tsv --rois rois.tsv --group group --order MS,HC \\
    --variables 'thalamus.*' --covariates age,sex --reduction 0.3 --out trial
"""


def _block(text: str) -> tuple[str, tuple[str, ...]]:
    name, columns = pair(text)
    return name, some_names(columns)


def build_parser() -> Parser:
    """The parser; its destinations are the fields of the commands of `gpuvox.study.clinical`."""
    parser = Parser(
        prog="gpuvox models",
        description=f"Clinical models (gpuvox {__version__}).",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="regression|correlation|samplesize", parser_class=Parser)
    _regression(_subcommand(kinds, "regression", "hierarchical linear regression in blocks", REGRESSION))
    _correlation(_subcommand(kinds, "correlation", "(partial) correlations", CORRELATION))
    _sample_size(_subcommand(kinds, "samplesize", "participants that a study needs", SAMPLE_SIZE))
    return parser


def _subcommand(kinds: Any, name: str, text: str, epilog: str) -> Parser:
    parser: Parser = kinds.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]} (gpuvox {__version__}).", epilog=epilog,
    )  # fmt: skip
    add = parser.add_argument
    add("--table", metavar="FILE", default="", help="table of the participants")
    add("--rois", metavar="FILE", default="", help="table that gpuvox rois wrote")
    add("--clusters", metavar="NAME=FILE", action="append", type=pair, help="OUT_subjects.tsv of gpuvox clusters")
    add("--subset", metavar="CONDITION", default="", help="who is analysed, such as \"phenotype == 'RRMS'\"")
    add("--log", metavar="COLUMNS", type=some_names, default=(), help="natural logarithm of these")
    add("--out", metavar="OUT", default="", help="root of what is written")
    return parser


def _resampling(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--bootstrap", type=count, metavar="N", default=0, help="resamples, percentile and BCa intervals (0: none)"
    )
    add("--seed", type=count, metavar="N", default=0, help="seed of the resamples (0)")
    add("--correction", choices=CORRECTIONS, default="fdr_bh", help="of P for multiple testing (fdr_bh)")


def _regression(parser: Parser) -> None:
    add = parser.add_argument
    add("--outcome", metavar="COLUMN", default="", help="the dependent variable")
    add(
        "--block", dest="blocks", metavar="NAME=COLUMNS", action="append", type=_block,
        help="predictors that are entered together; repeated, in this order",
    )  # fmt: skip
    add(
        "--each",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="a model for each of these, as its last block",
    )
    add(
        "--adjust",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="covariates that predictors are adjusted for",
    )
    add(
        "--reference", metavar="CONDITION", default="",
        help="in whom the adjustment is estimated (those analysed; also for predictors not measured in it)",
    )  # fmt: skip
    add(
        "--adjusted", metavar="COLUMNS", type=some_names, default=(),
        help="predictors that are adjusted (those that are numbers of more than two kinds)",
    )  # fmt: skip
    _resampling(parser)


def _correlation(parser: Parser) -> None:
    add = parser.add_argument
    add("--x", metavar="COLUMNS", type=some_names, default=(), help="variables")
    add(
        "--y",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="variables that each of them is correlated with",
    )
    add("--given", metavar="COLUMNS", type=some_names, default=(), help="covariates")
    add("--method", choices=("pearson", "spearman"), default="pearson", help="kind of correlation (pearson)")
    _resampling(parser)


def _sample_size(parser: Parser) -> None:
    add = parser.add_argument
    add("--r", type=number, metavar="R", help="a correlation")
    add("--d", type=number, metavar="D", help="a difference of two groups, in SD")
    add("--r2", type=number, metavar="R2", help="with --d: variance within groups that a covariate explains")
    add("--group", metavar="COLUMN", default="", help="column with the groups")
    add("--order", metavar="A,B", type=some_names, default=(), help="two groups: the difference is A less B")
    add(
        "--variables",
        metavar="COLUMNS",
        type=some_names,
        default=(),
        help="variables whose difference is looked at",
    )
    add("--covariates", metavar="COLUMNS", type=some_names, default=(), help="covariates of an ANCOVA")
    add("--reduction", type=positive, metavar="F", default=1.0, help="effect: share of the difference (1)")
    add("--power", type=number, metavar="P", default=0.8, help="power (0.8)")
    add("--alpha", type=number, metavar="P", default=0.05, help="two-sided level (0.05)")


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
        raise UsageError("which model is missing: regression, correlation or samplesize; see gpuvox models --help")
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
    from gpuvox import locks
    from gpuvox.study import clinical

    kinds: dict[str, Any] = {
        "regression": clinical.Regression,
        "correlation": clinical.Correlations,
        "samplesize": clinical.SampleSizes,
    }
    with locks.output(out, warn) if out else nullcontext():
        clinical.execute(kinds[kind](**options), out, say)
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
        raise UsageError("a sample size is for --r, or for --d with or without --r2, or for a table")
    for name in ("table", "rois", "clusters", "subset", "log", "group", "order", "variables", "covariates"):
        if options[name]:
            raise UsageError(f"--{name} is for a sample size from a table; it does not go with --r or --d")
    if out:
        raise UsageError("--out is for sample sizes from a table; those for --r and --d are printed")
    from gpuvox.study.models import sample_size_correlation, sample_size_groups

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
