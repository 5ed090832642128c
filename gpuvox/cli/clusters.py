"""``gpuvox clusters``: clusters of a corrected map, and a value of each for every subject."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, at_least_one, integer, names, positive
from gpuvox.cli.console import say, warn
from gpuvox.errors import UsageError
from gpuvox.reporter import Reporter

EPILOG = """\
Writes OUT.tsv (size, p, peak and centre of gravity in mm, shares of atlas regions), OUT.nii.gz (clusters numbered by
decreasing size) and, with --data and --table, OUT_subjects.tsv: mean and first eigenvariate of each participant in each
cluster, and with --covariates and --reference their z-scores, adjusted with coefficients estimated in the reference
group alone.

example:
  gpuvox clusters --corrected iron_tfce_corrp_tstat1 --statistic iron_tstat1 --extent 100 --out iron_up \\
    --data maps/iron --table participants.tsv --covariates age,sex --reference "group == 'HC'"
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `clusters.Command`."""
    parser = Parser(
        prog="gpuvox clusters",
        description="List the clusters of a corrected map, and extract a value of each for every participant "
        f"(gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--corrected", metavar="IMAGE", help="corrected p-value map, as 1-p (required)")
    add("--scale", choices=("1-p", "p"), default="", help="what it holds (1-p, refused where it is exactly 1)")
    add("--statistic", metavar="IMAGE", default="", help="map of the statistic, to find the peaks")
    add("--p", type=positive, metavar="P", default=0.05, help="significance level (0.05)")
    add("--extent", type=at_least_one, metavar="N", default=1, help="smallest cluster to list, in voxels (1)")
    add(
        "--connectivity",
        type=integer,
        choices=(6, 18, 26),
        default=26,
        help="number of neighbours of a voxel (26)",
    )
    add("--mask", metavar="IMAGE", default="", help="mask of the voxels to consider")
    add("--atlas", metavar="IMAGE", default="", help="label image of an atlas")
    add("--names", metavar="FILE", default="", help="table with index and name of its labels")
    add("--data", metavar="IMAGE", default="", help="4D image with one volume per participant")
    add("--table", metavar="FILE", default="", help="table of participants, in the order of the volumes")
    add("--covariates", metavar="A,B", default="", help="columns to adjust for")
    add(
        "--reference",
        metavar="EXPRESSION",
        default="",
        help="condition for the participants in whom the adjustment is estimated",
    )
    add("--out", metavar="OUT", help="root of the output names (required)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("corrected", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    options["covariates"] = names(options["covariates"])
    from gpuvox.files import locks
    from gpuvox.study.measures.clusters import Command, execute

    with locks.output(options["out"], warn):
        execute(Command(**options), Reporter(say, warn))
    return 0
