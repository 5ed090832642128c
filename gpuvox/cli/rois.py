"""``gpuvox rois``: tables of regions of interest."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, count, pair
from gpuvox.cli.console import terminal
from gpuvox.errors import UsageError

EPILOG = """\
IMAGE is a column of the table (paths relative to the table) or a file: a 4D image with one volume per participant in
the order of the table; labels and lesions may also be one 3D image for everyone. Writes one row for each participant,
structure, side and map: number of voxels, mean, median, SD, volume (mL; with Jacobians, their sum), normalised volume,
and for maps named iron and myelin the mass (mg, mL; with --head-size that of the normalised volume) and mass_raw (that
of the volume itself).

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
    add = parser.add_argument
    add("--table", metavar="FILE", help="table of participants, with a column participant_id (required)")
    add("--labels", metavar="IMAGE", help="label image, or images (required)")
    add(
        "--names",
        metavar="FILE",
        default="",
        help="table with index and name of the labels, or a FreeSurfer look-up table",
    )
    add(
        "--map",
        dest="maps",
        metavar="NAME=IMAGE",
        action="append",
        type=pair,
        help="a map and its images (required; may be repeated)",
    )
    add(
        "--merge",
        dest="merged",
        metavar="NAME=PATTERN",
        action="append",
        type=pair,
        help="combine the structures that fit PATTERN into one more; may be repeated",
    )
    add(
        "--jacobian",
        metavar="IMAGE",
        default="",
        help="Jacobian determinants of the template-to-subject transformation",
    )
    add("--lesions", metavar="IMAGE", default="", help="lesion masks, excluded from mean, median and SD")
    add(
        "--head-size",
        metavar="COLUMN",
        default="",
        help="column with the factor that normalises volumes and masses",
    )
    add(
        "--erosion",
        type=count,
        metavar="N",
        default=0,
        help="number of layers of border voxels excluded from mean, median and SD (0)",
    )
    add("--out", metavar="FILE", help="table to write (required)")
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    for name in ("table", "labels", "maps", "out"):
        if not options[name]:
            raise UsageError(f"--{name.removesuffix('s') if name == 'maps' else name} is missing")
    for name in ("maps", "merged"):
        pairs = options[name] or []
        if len(dict(pairs)) < len(pairs):
            raise UsageError(f"a name is given twice: {', '.join(key for key, _ in pairs)}")
        options[name] = dict(pairs)
    from gpuvox.study.measures.rois import Command, execute

    with terminal(bar=not options.pop("quiet"), unit="subjects") as reporter:
        execute(Command(**options), reporter)
    return 0
