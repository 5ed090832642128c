"""``gpuvox clusters``: clusters of a corrected map, and a value of each for every subject."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal
from gpuvox.cli.options import (
    add_atlas,
    add_clusters,
    add_covariates,
    add_peaks,
    add_root,
    add_table,
    add_text,
    require,
)

EPILOG = """\
The command writes OUT.tsv (size, p, peak and centre of gravity in mm, overlap with atlas regions; with --subpeaks a row
for each further peak of a cluster) and OUT.nii.gz (clusters numbered by decreasing size). With --data and --table it
also writes OUT_subjects.tsv: mean and first eigenvariate of each participant in each cluster and, with --covariates and
--reference, their z-scores, adjusted with coefficients that are estimated in the reference group alone.

example:
  gpuvox clusters --corrected iron_tfce_corrp_tstat1 --statistic iron_tstat1 --extent 100 --out iron_up \\
    --data maps/iron --table participants.tsv --covariates age,sex --reference "group == 'HC'"
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `clusters.Command`."""
    parser = Parser(
        prog="gpuvox clusters",
        description="List the clusters of a corrected map, and extract their values for every participant "
        f"(gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_text(parser, "--corrected", "IMAGE", "corrected p-value map, as 1-p (required)")
    parser.add_argument(
        "--scale",
        choices=("1-p", "p"),
        default="",
        help="content of the map (1-p; required if a value is exactly 1)",
    )
    add_text(parser, "--statistic", "IMAGE", "map of the statistic, which determines the peaks")
    add_clusters(parser)
    add_text(parser, "--mask", "IMAGE", "mask of the voxels to consider")
    add_atlas(parser)
    add_peaks(parser, 0)
    add_text(parser, "--data", "IMAGE", "4D image with one volume per participant")
    add_table(parser, "table of participants, in the order of the volumes unless these are named")
    add_covariates(parser)
    add_text(
        parser, "--reference", "CONDITION", "condition for the participants in whom the adjustment is estimated"
    )
    add_root(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--corrected", "--out")
    from gpuvox.files import locks
    from gpuvox.study.measures.clusters import Command, execute

    with terminal(bar=False) as reporter, locks.output(options["out"], reporter.warn):
        execute(Command(**options), reporter)
    return 0
