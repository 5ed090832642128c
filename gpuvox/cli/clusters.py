"""``gpuvox clusters``: clusters of a corrected map, and a value of each for every subject."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, UsageError, at_least_one, integer, names, positive
from gpuvox.cli.talk import say, warn

EPILOG = """\
Writes OUT.tsv (size, p, peak and centre of gravity in mm, share of the regions of an atlas), OUT.nii.gz (numbers of the
clusters, by decreasing size) and, with --data and --table, OUT_subjects.tsv: mean and first eigenvariate of every
subject, and with --covariates and --reference their z, adjusted with coefficients of the reference group alone.
  gpuvox clusters --corrected iron_tfce_corrp_tstat1 --statistic iron_tstat1 --extent 100 --out iron_up \\
    --data maps/iron --table participants.tsv --covariates age,sex --reference "group == 'HC'"
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `clusters.Command`."""
    parser = Parser(
        prog="gpuvox clusters",
        description=f"Clusters of a corrected map (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--corrected", metavar="IMAGE", help="1-p, corrected")
    add("--scale", choices=("1-p", "p"), default="", help="what it holds (1-p, refused where it is exactly 1)")
    add("--statistic", metavar="IMAGE", default="", help="the statistic, for peaks")
    add("--p", type=positive, metavar="P", default=0.05, help="level of corrected p (0.05)")
    add("--extent", type=at_least_one, metavar="N", default=1, help="smallest number of voxels (1)")
    add("--connectivity", type=integer, choices=(6, 18, 26), default=26, help="neighbours of a voxel (26)")
    add("--mask", metavar="IMAGE", default="", help="voxels that are looked at")
    add("--atlas", metavar="IMAGE", default="", help="label image of regions")
    add("--names", metavar="FILE", default="", help="index and name of its labels")
    add("--data", metavar="IMAGE", default="", help="4D data of the subjects")
    add("--table", metavar="FILE", default="", help="table of the subjects, in their order")
    add("--covariates", metavar="A,B", default="", help="columns to adjust for")
    add("--reference", metavar="EXPRESSION", default="", help="subjects in whom the adjustment is estimated")
    add("--out", metavar="OUT", help="root of what is written")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("corrected", "out"):
        if not options[name]:
            raise UsageError(f"--{name} is missing")
    options["covariates"] = names(options["covariates"])
    from gpuvox import locks
    from gpuvox.study.clusters import Command, execute

    with locks.output(options["out"], warn):
        execute(Command(**options), say, warn)
    return 0
