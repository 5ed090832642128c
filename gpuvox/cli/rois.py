"""``gpuvox rois``: tables of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, count
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_pairs, add_quiet, add_table, add_text, require, unique

EPILOG = """\
IMAGE is a column of the table (paths relative to the table) or a file: a 4D image, whose volumes join the table by
participant if a JSON file or table beside it names them, and otherwise are in the order of the table; labels and
lesions may also be a single 3D image for everyone. The table that is written has one row for each participant,
structure, side and map: number of voxels, mean, median, SD, volume (mL; with Jacobians, their sum), normalised volume
and, for maps named iron and myelin, the mass (mg, mL; with --head-size that of the normalised volume) and mass_raw
(that of the volume itself). With both, qsm_share and r1_share are what a contrast owes to iron
rather than to myelin, |a Fe| / (|a Fe| + |b My|) of the means; qsm_variance_share and r1_variance_share are those of
the variance over the voxels, a2 Var(Fe) / (a2 Var(Fe) + b2 Var(My)).

example:
  gpuvox rois --table participants.tsv --labels template/labels --names template/labels.tsv --map iron=maps/iron \\
    --map myelin=maps/myelin --jacobian jacobian --merge 'thalamus=thalamus_*' --out rois.tsv
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `rois.Command`."""
    parser = Parser(
        prog="gpuvox rois",
        description=f"Measure volume, mean, median and SD of maps in regions of interest (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_table(parser, "table of participants, with a column participant_id (required)")
    add_text(parser, "--labels", "IMAGE", "label image, or images (required)")
    add_text(parser, "--names", "FILE", "table with index and name of the labels, or a FreeSurfer look-up table")
    add_pairs(parser, "--map", "NAME=IMAGE", "a map and its images; without any, volumes alone", dest="maps")
    add_pairs(
        parser, "--merge", "NAME=PATTERN", "combine the structures that match PATTERN into an additional one",
        dest="merged",
    )  # fmt: skip
    add_text(parser, "--jacobian", "IMAGE", "Jacobian determinants of the template-to-subject transformation")
    add_text(parser, "--lesions", "IMAGE", "lesion masks, excluded from mean, median and SD")
    add_text(parser, "--head-size", "COLUMN", "column with the factor that normalises volumes and masses")
    parser.add_argument(
        "--erosion", type=count, metavar="N", default=0,
        help="number of layers of border voxels excluded from mean, median and SD (0)",
    )  # fmt: skip
    add_text(
        parser, "--model", "FILE", "TOML file of the tissue model, from which shares of iron are computed (Stüber et "
        "al. 2014)",
    )  # fmt: skip
    add_text(parser, "--visit", "COLUMN", "column with the visit, if the table has a row for each visit")
    add_text(parser, "--out", "FILE", "table to write (required)")
    add_quiet(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--labels", "--out")
    options["maps"] = unique(options["maps"], "--map")
    options["merged"] = unique(options["merged"], "--merge")
    from gpuvox.study.measures.rois import Command, execute

    with terminal(bar=not options.pop("quiet"), unit="subjects") as reporter:
        execute(Command(**options), reporter)
    return 0
