"""``gpuvox phantom``: a synthetic cohort with known ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, count, number
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_flag, add_quiet
from gpuvox.errors import UsageError


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox phantom",
        description="Make a synthetic study of iron and myelin in multiple sclerosis, of 91 patients and 55 controls "
        f"(gpuvox {__version__}). Writes participants.tsv, QSM, R1 (3 T) and Jacobians of each participant, labels and "
        "masks, a design, and the true effects (in the folder truth, which no command reads).",
    )
    parser.add_argument("out", nargs="?", help="folder to make, or an empty one")
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="seed of the random numbers (0)")
    parser.add_argument(
        "--scale", choices=("full", "small", "tiny"), default="full",
        help="size of the images: voxels of 1, 3 or 4 mm (full)",
    )  # fmt: skip
    add_flag(parser, "--null", "make the groups the same")
    parser.add_argument(
        "--offset", type=number, default=0.0, metavar="PPB",
        help="SD of an offset of each participant's susceptibility, as reconstructions leave it open (0)",
    )  # fmt: skip
    add_quiet(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = build_parser().parse_args(argv)
    if not options.out:
        raise UsageError("the folder to write is missing: gpuvox phantom OUT")
    from gpuvox.study.phantom import write

    with terminal(bar=not options.quiet, unit="subjects") as reporter:
        write(options.out, options.seed, options.scale, options.null, reporter.progress, options.offset)
    return 0
