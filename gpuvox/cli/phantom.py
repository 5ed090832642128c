"""``gpuvox phantom``: a synthetic cohort whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, count


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox phantom",
        description="A synthetic study of iron and myelin in multiple sclerosis: 91 patients, 55 controls "
        f"(gpuvox {__version__}). Writes participants.tsv, QSM, R1 (3 T) and Jacobians of each subject, labels and "
        "masks, a design, and the truth (in the folder truth, which no command reads).",
    )
    parser.add_argument("out", nargs="?", help="a new folder")
    parser.add_argument("--seed", type=count, default=0, help="seed (0)")
    parser.add_argument(
        "--scale", choices=("full", "small", "tiny"), default="full", help="voxels of 1, 3 or 4 mm"
    )
    parser.add_argument("--null", action="store_true", help="no difference between the groups")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = build_parser().parse_args(argv)
    if not options.out:
        raise UsageError("the folder to write is missing: gpuvox phantom OUT")
    from gpuvox.cli.progress import shown
    from gpuvox.study.phantom import write

    with shown(options.quiet, "subjects") as progress:
        write(options.out, options.seed, options.scale, options.null, progress)
    return 0
