"""``gpuvox ironmyelin``: iron and myelin maps from QSM and R1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, not_negative, number, pair, positive
from gpuvox.cli.console import terminal
from gpuvox.cli.options import (
    add_device,
    add_flag,
    add_pairs,
    add_quiet,
    add_table,
    add_text,
    command_line,
    unique,
)  # fmt: skip
from gpuvox.errors import UsageError

EPILOG = """\
The table is a TSV or CSV file with the columns participant_id, qsm, r1, csf and, for content maps, jacobian
(determinants of the template-to-subject transformation); paths are relative to the table. 4D images with one volume per
participant may be given instead (--csf may be a single volume for all). With --visit, the table has a row for each
visit, and the reference of the cohort is the mean over participants of each one's mean. A model may have other
contrasts, whose columns have their names. The command writes iron, myelin and, with Jacobians, ironmass and myelinmass
(4D, in the order of the table) with JSON sidecars, and csf_reference.tsv.

example:
  gpuvox ironmyelin --table participants.tsv --out maps --from-field 3
"""


def _noise(text: str) -> tuple[str, float]:
    """``qsm=0.004``."""
    name, sd = pair(text)
    return name, positive(sd)


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `ironmyelin.Command`."""
    parser = Parser(
        prog="gpuvox ironmyelin",
        description=f"Compute iron and myelin maps of a cohort from QSM and R1 (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_table(parser, "table of participants and their images")
    for kind, text in (("qsm", "QSM"), ("r1", "R1 or T1"), ("csf", "masks of CSF"), ("jacobian", "Jacobians")):
        add_text(parser, f"--{kind}", "IMAGE", f"4D image of {text}, instead of a table")
    add_text(parser, "--visit", "COLUMN", "column of the visits, if the table has a row for each visit")
    add_text(parser, "--out", "DIR", "folder for the maps (required)")
    add_text(parser, "--mask", "IMAGE", "write and smooth only within this mask")
    _add_model(parser)
    add_device(parser)
    add_quiet(parser)
    return parser


def _add_model(parser: Parser) -> None:
    add = parser.add_argument
    add_text(parser, "--model", "FILE", "TOML file that describes the tissue model (Stüber et al. 2014)")
    add_flag(parser, "--uncertainty", "write standard deviations, too: of noise and of errors of the coefficients")
    add_pairs(parser, "--noise", "CONTRAST=SD", "noise of a voxel, for --uncertainty (the model's)", kind=_noise)
    add(
        "--coefficient-error", type=positive, metavar="SHARE", default=0.0,
        help="standard error of each coefficient, as a share of it, for --uncertainty (the model's)",
    )  # fmt: skip
    add(
        "--from-field",
        type=positive,
        metavar="T",
        help="field strength of the R1 maps in tesla (from the sidecars)",
    )
    add("--to-field", type=positive, metavar="T", help="field strength of the model in tesla (7)")
    add(
        "--field-method", choices=("curve", "power"), default="curve",
        help="how R1 is converted between field strengths (curve)",
    )  # fmt: skip
    add("--exponent", type=number, metavar="B", help="exponent for --field-method power (0.376, gray matter)")
    add(
        "--reference", choices=("cohort", "subject", "none"), default="cohort",
        help="mean of CSF that is subtracted: of the cohort, of each participant (subject), or none (cohort)",
    )  # fmt: skip
    add(
        "--fwhm", type=not_negative, metavar="MM", default=0.0,
        help="full width at half maximum of Gaussian smoothing (0)",
    )  # fmt: skip
    add("--qsm-units", choices=("ppm", "ppb"), default="", help="units of QSM (from the sidecars, else ppm)")
    add(
        "--r1-units", choices=("1/s", "1/ms", "ms", "s"), default="",
        help="units of R1, or of T1: ms, s (from the sidecars, else 1/s)",
    )  # fmt: skip


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    _check(options)
    from gpuvox.ironmyelin import Command, execute

    quiet = options.pop("quiet")
    options["noise"] = unique(options["noise"], "--noise")
    settings = {name: value for name, value in options.items() if value is not None}
    line = command_line("ironmyelin", *argv)
    with terminal(bar=not quiet, unit="subjects") as reporter:
        execute(Command(**settings, line=line), reporter)
    return 0


def _check(options: Mapping[str, Any]) -> None:
    """Options that are missing, or that exclude each other."""
    if not options["out"]:
        raise UsageError("--out is missing: the folder for the maps", option="--out")
    images = [f"--{kind}" for kind in ("qsm", "r1", "csf", "jacobian") if options[kind]]
    if options["table"] and images:
        raise UsageError(f"--table and {images[0]} exclude each other", option=images[0])
    if options["visit"] and not options["table"]:
        raise UsageError("--visit is a column of --table", option="--visit")
    if options["exponent"] is not None and options["field_method"] != "power":
        raise UsageError("--exponent needs --field-method power", option="--exponent")
    if not options["table"] and not (options["qsm"] and options["r1"]):
        raise UsageError("--table is missing (or --qsm and --r1)", option="--table")
