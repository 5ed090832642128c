"""The options of ``gpuvox randomise``, in FSL's grammar."""

from __future__ import annotations

import argparse
import re
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import (
    Parser,
    at_least_one,
    connectivity,
    count,
    integer,
    not_negative,
    positive,
    tfce_step,
)
from gpuvox.cli.foreign import remedy
from gpuvox.cli.options import add_device, add_flag, add_plan, add_quiet, add_scratch, add_text, add_threads
from gpuvox.errors import UsageError

EPILOG = """\
Options are written as --option value or --option=value. Image names may be given without extension, and FSLOUTPUTTYPE
selects the file type of the outputs. Corrected and uncorrected p-value maps contain 1-p, as in FSL.
<root>_randomise.json records how the maps were made.

examples:
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -T
  gpuvox randomise -i maps -o out -m mask -1 -T                            (one-sample test)
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -f design.fts -T -x -n 10000 --seed 1
"""

TLS = {
    "--tls-ca-file": "trusted certificates, if the scheduler encrypts its connections (tls://)",
    "--tls-cert": "certificate of this command, signed by one of these",
    "--tls-key": "its private key, if the certificate file does not contain it",
}


def _columns(text: str) -> tuple[int, ...]:
    return tuple(integer(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(match[1]), int(match[2])


def build_parser() -> Parser:
    """The parser; its destinations are the names that `randomise.describe_run` reads."""
    parser = Parser(
        prog="gpuvox randomise",
        usage="gpuvox randomise -i <data> -o <root> [-m <mask>] -d <design.mat> -t <design.con> [options]\n"
        "       gpuvox randomise -i <data> -o <root> [-m <mask>] -1 [options]",
        description=f"Permutation tests on the general linear model (gpuvox {__version__}).",
        epilog=EPILOG,
        add_help=False,
    )
    _add_files(parser.add_argument_group("input and output"))
    inference = parser.add_argument_group("inference (at least one of -x -T --T2 -c -C -F -S)")
    add_statistics(inference)
    add_flag(inference, "--fonly", "run F tests only")
    _add_model(parser.add_argument_group("model and permutations"))
    _add_outputs(parser.add_argument_group("further outputs and information"))
    _add_own(parser.add_argument_group("beyond FSL"))
    add_workers(parser.add_argument_group("runs on Dask workers"))
    _add_hidden(parser)
    parser.once = {"vxl", "vxf"}
    return parser


def _add_files(group: Any) -> None:
    add_text(
        group, "-i", "IMAGE", "4D image with one volume per participant; or 3D images: TABLE:COLUMN, a .txt list, or a "
        "quoted pattern", dest="data",
    )  # fmt: skip
    add_text(group, "-o", "ROOT", "output root, with which all file names begin", dest="root")
    add_text(group, "-m", "IMAGE", "mask (every voxel that varies across participants)", dest="mask")
    add_text(group, "-d", "FILE", "design matrix (VEST file, CSV or TSV)", dest="design")
    add_text(group, "-t", "FILE", "t contrasts", dest="contrasts")
    add_text(group, "-f", "FILE", "F tests: each row marks with 1 the t contrasts to combine", dest="f_tests")
    add_text(group, "-e", "FILE", "exchangeability blocks, one number per row of the design", dest="blocks")
    add_text(group, "--effective_design", "FILE", "design matrix that determines which rows are exchangeable")
    group.add_argument("--vxl", type=_columns, default=(), metavar="1,2", help="columns of voxelwise EVs, from 1")
    group.add_argument(
        "--vxf", type=_names, default=(), metavar="A,B", help="4D images of the voxelwise EVs, in the same order"
    )


def add_statistics(group: Any) -> None:
    """Add the statistics of which p-values are computed, and their parameters."""
    add_flag(group, "-x", "voxelwise test", dest="voxel")
    add_flag(group, "-T", "threshold-free cluster enhancement (TFCE)", dest="tfce")
    add_flag(group, "--T2", "TFCE for skeletonised data (TBSS): H=2, E=1, C=26", dest="tfce_2d")
    group.add_argument(
        "-c", dest="extent", type=positive, metavar="T", help="cluster extent, with this threshold for t"
    )
    group.add_argument(
        "-C", dest="mass", type=positive, metavar="T", help="cluster mass, with this threshold for t"
    )
    group.add_argument(
        "-F", dest="f_extent", type=positive, metavar="F", help="cluster extent, with this threshold for F"
    )
    group.add_argument(
        "-S", dest="f_mass", type=positive, metavar="F", help="cluster mass, with this threshold for F"
    )
    group.add_argument("--tfce_H", type=not_negative, metavar="H", help="TFCE: exponent of height (2)")
    group.add_argument("--tfce_E", type=not_negative, metavar="E", help="TFCE: exponent of extent (0.5)")
    group.add_argument("--tfce_C", type=connectivity, metavar="C", help="TFCE: connectivity, 6, 18 or 26 (6)")
    group.add_argument(
        "--tfce_D", type=tfce_step, metavar="D",
        help="TFCE: step (observed maximum / 100), or robust: not dominated by outlying voxels",
    )  # fmt: skip
    add_flag(group, "--two-sided", "test both directions of t at once: p of the size of t, whatever its sign")
    add_flag(group, "--twopass", "also normalise clusters and TFCE by a first pass (t only)")
    group.add_argument("-v", dest="variance", type=not_negative, default=0.0, metavar="MM",
                       help="variance smoothing with a Gaussian of this standard deviation (t only)")  # fmt: skip


def add_permutations(group: Any) -> None:
    """Add number and seed of the permutations, and what they do with the nuisance."""
    group.add_argument("-n", dest="number", type=count, default=5000, metavar="N",
                       help="number of permutations, counting the unpermuted one; 0 for all (5000)")  # fmt: skip
    add_flag(group, "--ise", "flip signs in place of permuting: errors are independent and symmetric")
    add_flag(group, "--ee", "with --ise (or -1): permute rows, too; errors are exchangeable and symmetric")
    add_flag(group, "--cmcp", "draw permutations with repeats (conditional Monte Carlo)")
    add_flag(group, "--cmcx", "treat all rows as different, even those with equal regressors")
    add_flag(group, "--detectNull", "do not permute rows that the contrast does not involve")
    group.add_argument("-U", dest="nuisance", type=integer, choices=(0, 1, 2, 3), default=1, metavar="MODE",
                       help="nuisance: 0 Kennedy, 1 Freedman-Lane, 2 ignored, 3 ter Braak (1)")  # fmt: skip
    group.add_argument("--tail", choices=("pareto", "gamma"), help="approximate small p-values of voxels and TFCE, "
                       "from few permutations (-n 500)")  # fmt: skip
    group.add_argument("--seed", type=count, metavar="N", help="seed of the random numbers (drawn, and recorded)")


def _add_model(group: Any) -> None:
    add_permutations(group)
    add_flag(group, "-1", "one-sample test by sign flipping", dest="one_sample")
    add_flag(group, "-D", "demean data and design", dest="demean")
    add_flag(group, "--permuteBlocks", "permute blocks as wholes rather than within blocks")
    group.add_argument("--skipTo", type=at_least_one, default=0, metavar="N",
                       help="run test number N alone, counting F before t tests")  # fmt: skip
    add_flag(group, "--norcmask", "without -m: keep voxels that are constant")


def add_further_outputs(group: Any) -> None:
    """Add what is written besides the statistics and their corrected p-values."""
    add_flag(group, "-R", "also write the TFCE and cluster maps themselves", dest="raw")
    add_flag(group, "--uncorrp", "also write uncorrected p-values")
    add_flag(group, "-P", "also write the permutations", dest="permutation_files")
    add_flag(group, "-N", "also write the null distributions of the maximum", dest="nulls")
    add_flag(group, "--glm_output", "also write parameter estimates, contrasts and variances")


def _add_outputs(group: Any) -> None:
    add_further_outputs(group)
    add_flag(group, "--permout", "also write the maps of every permutation")
    add_flag(group, "--film", "use FILM's file names")
    add_flag(group, "-q", "print the number of possible permutations and exit", dest="count")
    add_flag(
        group,
        "-Q",
        "print number of permutations, tests, root and job size for a scheduler, and exit",
        dest="schedule",
    )
    add_quiet(group, "print only errors and warnings")
    group.add_argument("-h", "--help", action="store_true", help="show this help and exit")


def _add_own(group: Any) -> None:
    add_text(
        group,
        "--permutations",
        "ROOT",
        "use the permutations in ROOT_perm_tstat1.txt and so on, or in PALM's ROOT_c1_permidx.csv, in place of -n",
    )
    add_text(group, "--checkpoint", "FILE", "save progress to FILE (long runs: ROOT_checkpoint.tally)")
    add_computing(group)
    add_flag(group, "--version", "show the version and exit")


def add_computing(group: Any) -> None:
    """Add where and how a run is computed; none of it changes a result but ``--tfce-exact``."""
    add_flag(group, "--tfce-exact", "TFCE with its integral in closed form, without steps")
    add_device(group)
    add_threads(group)
    add_flag(group, "--resume", "resume from the checkpoint")
    group.add_argument("--shard", type=_shard, metavar="I/N",
                       help="run part I of N of the permutations, and write files for gpuvox merge")  # fmt: skip
    add_scratch(group)
    add_plan(group, "show what would be run, with estimates of time and memory")


def add_workers(group: Any) -> None:
    """Add the Dask workers that run the permutations."""
    group.add_argument("--workers", type=at_least_one, default=0, metavar="N",
                       help="run on N Dask workers, started on this machine")  # fmt: skip
    add_text(group, "--scheduler", "ADDRESS", "run on the workers of the Dask scheduler at ADDRESS")
    add_text(group, "--scheduler-file", "FILE", "the same, with the address in the file that the scheduler wrote")
    for name, text in TLS.items():
        add_text(group, name, "FILE", text)


def _add_hidden(parser: argparse.ArgumentParser) -> None:
    add_flag(parser, "--debug", argparse.SUPPRESS)
    add_flag(parser, "-V", argparse.SUPPRESS, dest="verbose")
    add_flag(parser, "--multi", argparse.SUPPRESS)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments.

    Raises
    ------
    UsageError
        An option is unknown (the closest one is named), or its value is wrong.
    """
    parser = build_parser()
    # Because there is an option -1, argparse would take a value such as -5 for an option.
    with_value = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    glued: list[str] = []
    for token in argv:
        if _is_number(token) and glued and glued[-1] in with_value:
            glued[-1] += ("=" if glued[-1].startswith("--") else "") + token
        else:
            _check_token(token, with_value, parser)
            glued.append(token)
    options, rest = parser.parse_known_args(glued)
    if rest:
        raise _expanded(rest) or parser.unknown(rest[0])
    return options


def _expanded(rest: list[str]) -> UsageError | None:
    """The error if the shell has expanded a pattern to many images; None otherwise."""
    images = [name for name in rest if name.endswith((".nii.gz", ".nii", ".hdr", ".img"))]
    if not images or images[0] != rest[0]:
        return None
    return UsageError(
        f"{rest[0]} is one image too many: -i and -m take one name each. Several files can be given as a pattern in "
        "quotation marks, such as -i 'maps/*.nii.gz', as a .txt list, or as a column of a table"
    )


def _is_number(token: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", token, re.IGNORECASE))


def _check_token(token: str, with_value: set[str], parser: Parser) -> None:
    """Refuse an unknown option that argparse would read as a short option and its value: -twotail as -t wotail."""
    name = token.split("=")[0]
    if not token.startswith("-") or len(token) < 2 or name in parser.names or _is_number(token):
        return
    message = remedy(name)
    if not message and f"-{name}" in parser.names:
        message = f"unknown option {name}; it has two dashes here: -{name}"
    short, value = token[:2], token[2:]
    if not message and short in with_value and not (_is_number(value) or value.startswith("=")):
        message = f"unknown option {name}; if {value!r} is the value of {short}, put a blank between them"
    if message:
        raise UsageError(message, option=name)
